"""Measures perplexity on every host of a TPU slice, as `gptjax evaluate` does.

    python scripts/evaluate.py --distributed runs/gpt2_prune --text my.txt

hosts.py says which arguments join the hosts; the others are those of the command.
"""

import hosts

hosts.main("evaluate")
