#!/usr/bin/env bash
# Sets up .venv and passes the tests, the style and the layering checks among them.
#
#     bash scripts/test.sh                     the default tests
#     bash scripts/test.sh -m slow             the slow ones
#     bash scripts/test.sh tests/data -x       any arguments of pytest
#
# The tests compare with PyTorch. On Linux pip fetches it with CUDA libraries of
# several GB, which nothing here uses; the smaller build for CPUs comes with
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu bash scripts/test.sh
# EXTRAS=test,tpu installs further extras of setup.cfg.

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

make_venv "[${EXTRAS:-test}]"
cd "$root"
exec "$python" -m pytest "$@"
