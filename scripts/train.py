"""Fine-tunes a model on every host of a TPU slice, as `gptjax train` does.

    python scripts/train.py --distributed configs/gpt2_xl_v5e.yaml

hosts.py says which arguments join the hosts; the others are those of the command.
"""

import hosts

hosts.main("train")
