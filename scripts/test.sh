#!/usr/bin/env bash
# Sets up .venv and passes the tests, the style and the layering checks among them.
#
#     bash scripts/test.sh                     the default tests
#     bash scripts/test.sh -m slow             the slow ones
#     bash scripts/test.sh tests/data -x       any arguments of pytest
#     bash scripts/test.sh -n 0 --pdb          in one process; two work by default
#
# The tests compare with PyTorch 2.13.0. On Linux pip fetches it with CUDA libraries of
# several GB, which nothing here uses; a build for CPUs that pip is told of (see
# PyTorch's installation page, and pip's PIP_FIND_LINKS) or that .venv already holds
# does as well.
# EXTRAS=test,tpu installs further extras of setup.cfg.

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

make_venv "[${EXTRAS:-test}]"
cd "$root"
exec "$python" -m pytest "$@"
