"""The `gptjax` command, in a process of its own."""

import sys
from collections.abc import Sequence

from gptjax import cli


def main(argv: Sequence[str] | None = None) -> int:
    """`cli.main`, without torch: for processes that do nothing else.

    transformers and tensorboardX import torch where there is one, which takes seconds
    and 200 MB that no command has a use for.
    """
    sys.modules.setdefault("torch", None)
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
