"""Prunes a model in rounds on every host of a TPU slice, as `gptjax prune` does.

    python scripts/prune.py --distributed configs/gpt2_prune.yaml

hosts.py says which arguments join the hosts; the others are those of the command.
"""

import hosts

hosts.main("prune")
