"""Converts a checkpoint, as `gptjax convert` does.

    JAX_PLATFORMS=cpu python scripts/convert.py gpt2 gpt2-native

One host is enough for it, and the CPU: a slice's chips wait for all of its hosts.
"""

import hosts

hosts.main("convert")
