"""The mean of several models, as a model."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from gptjax import choices, compression, convert, data
from gptjax import models as models_lib


def average(
    models: Sequence[str | pathlib.Path],
    weights: Sequence[float] | None = None,
    *,
    zeros: choices.Zeros = "all",
) -> models_lib.Model:
    """The mean of models' weights, with the first one's config and tokenizer.

    Arguments but `models` are those of `compression.average`.

    Args:
      models: as for `load`.

    Raises:
      UserError: models that do not compute alike or read texts alike, and what `load`
        raises.
    """
    folders = [convert.resolve(name) for name in models]
    configs = [convert.read_config(folder) for folder in folders]
    data.check_same_tokenizer(folders, data.cache_folder(None))
    for folder, other in zip(folders, configs, strict=True):
        convert.check_alike(configs[0], folders[0], other, folder)
    loads = [functools.partial(_params, folder) for folder in folders]
    params = compression.average(loads, weights, zeros=zeros)
    return models_lib.with_tokenizer(configs[0], params, folders[0])


def _params(folder: pathlib.Path) -> Any:
    return convert.load(folder)[1]
