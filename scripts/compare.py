"""Compares methods on every host of a TPU slice, as `gptjax compare` does.

    python scripts/compare.py --distributed configs/compare_oneshot.yaml

hosts.py says which arguments join the hosts; the others are those of the command.
"""

import hosts

hosts.main("compare")
