"""The families of checkpoints that gptjax reads and writes, a file for each."""

from collections.abc import Mapping
from typing import Any

from gptjax import errors
from gptjax.convert.families import (
    bloom,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    llama,
    openai_gpt,
    opt,
    qwen2,
    qwen3,
)
from gptjax.convert.families.family import Family as Family
from gptjax.convert.families.family import Tensor as Tensor

FAMILIES = {
    each.FAMILY.model_type: each.FAMILY
    for each in (
        gpt2,
        openai_gpt,
        gpt_neo,
        gptj,
        gpt_neox,
        opt,
        bloom,
        llama,
        qwen2,
        qwen3,
    )
}
"""By the `model_type` of their config.json."""


def of(values: Mapping[str, Any], *, where: str) -> Family:
    """The family of a config.json's values; without a `model_type`, GPT-2.

    Args:
      where: what error messages begin with.

    Raises:
      UserError: none that gptjax knows.
    """
    name = values.get("model_type", "gpt2")
    if not isinstance(name, str) or name not in FAMILIES:
        raise errors.UserError(
            f"{where}: model_type is {name!r}; gptjax knows {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]
