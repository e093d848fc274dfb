"""gptjax: a GPT checkpoint goes in, a smaller one that is proven to work comes out.

    model = gptjax.load("gpt2")
    run = gptjax.prune("configs/gpt2_prune.yaml")

The names below are imported when they are first used, so that `import gptjax` costs
little more than `import jax`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Comparison": "gptjax.api",
    "Model": "gptjax.models",
    "Prediction": "gptjax.labelling",
    "Run": "gptjax.api",
    "UserError": "gptjax.errors",
    "average": "gptjax.averaged",
    "compare": "gptjax.api",
    "curve": "gptjax.api",
    "init": "gptjax.starting",
    "load": "gptjax.models",
    "prune": "gptjax.api",
    "quantize": "gptjax.quantizing",
    "robustness": "gptjax.noising",
    "train": "gptjax.api",
    "tune": "gptjax.api",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'gptjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
