"""Lets a model write on every host of a TPU slice, as `gptjax generate` does.

    python scripts/generate.py --distributed runs/gpt2_prune --prompt "To be"

hosts.py says which arguments join the hosts; the others are those of the command.
"""

import hosts

hosts.main("generate")
