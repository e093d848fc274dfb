"""`python -m gptjax`: the `gptjax` command."""

import sys

from gptjax import cli

sys.exit(cli.main())
