"""EleutherAI's lm-evaluation-harness on models of gptjax.

The harness of 0.4.13 and before knows no models but its own; `run` makes this one known
to it and hands over. Later ones find it by the entry point `lm_eval.models`, so that
`lm_eval --model gptjax` needs nothing of this.
"""

import importlib
import sys
from collections.abc import Sequence
from unittest import mock

from gptjax import errors

NAME = "gptjax"
"""What the harness calls models of gptjax."""


def register() -> None:
    """Makes `--model gptjax` known to the harness in this process.

    Raises:
      UserError: it is not installed.
    """
    try:
        # Its own models first: it fills no registry that holds some already.
        importlib.import_module("lm_eval.models")
        registry = importlib.import_module("lm_eval.api.registry").model_registry
    except ImportError as error:
        raise errors.UserError(
            f"lm-evaluation-harness cannot be imported ({error}): "
            'pip install "gptjax[eval]"'
        ) from error
    if NAME not in registry:
        registry.register(NAME, target="gptjax.harness.adapter:Adapter")


def run(arguments: Sequence[str]) -> None:
    """The command `lm_eval` with these arguments, and with models of gptjax.

    Raises:
      UserError: the harness is not installed, refuses what it was given, or a model of
        gptjax does.
    """
    # `python -m gptjax` leaves torch out by this, which `datasets` takes for torch.
    if "torch" in sys.modules and sys.modules["torch"] is None:
        del sys.modules["torch"]
    register()
    from lm_eval import __main__ as command

    with mock.patch.object(sys, "argv", ["lm_eval", *arguments]):
        try:
            command.cli_evaluate()
        except (ValueError, OSError) as error:
            # An unknown task, a file that is not there ...
            told = " ".join(str(error).split())
            raise errors.UserError(f"lm_eval: {told}") from error
