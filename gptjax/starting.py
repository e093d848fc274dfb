"""Models of random weights, to be trained from nothing."""

import dataclasses
import pathlib

import jax

from gptjax import convert, model, models
from gptjax.planning import shapes


def init(
    shape: str | pathlib.Path, *, tokenizer: str | pathlib.Path, seed: int = 0
) -> models.Model:
    """A model of some architecture before any training.

    Weights are drawn as GPT-2's were, whatever the family: normal, with the config's
    `initializer_range`, on the residual path smaller by sqrt(2 L); norms begin at 1 and
    biases at 0.

    Args:
      shape: one that ships with gptjax (`gpt3-small`), a config.json or a folder with
        one.
      tokenizer: any model or tokenizer folder, or a hub name; whose special tokens and
        generation_config.json the model has.

    Raises:
      UserError: no such shape, a tokenizer with more tokens than the vocabulary.
    """
    config, folder = shapes.resolve(str(shape)), convert.resolve(tokenizer)
    # First, without weights: whether the two fit.
    made = models.with_tokenizer(config, model.shapes(config), folder)
    draw = jax.jit(model.init, static_argnums=1)
    return dataclasses.replace(made, params=draw(jax.random.key(seed), made.config))
