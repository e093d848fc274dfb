#!/usr/bin/env bash
# Sets up .venv and runs the whole job on the packaged checkpoint, offline.
#
#     bash scripts/demo.sh [--out DIR]

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

make_venv ""
exec "$root/.venv/bin/gptjax" demo "$@"
