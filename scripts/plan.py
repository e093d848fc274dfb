"""Says what a run will take of a machine, as `gptjax plan` does, without the machine.

    python scripts/plan.py configs/gpt2_xl_v5e.yaml --topology v5e:4x4

One process does; the hosts of the machine are not needed.
"""

import hosts

hosts.main("plan")
