"""A model's params with the classifier that a run trains."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from gptjax import model, sharding, tree


def known_labels(
    config: model.Config, name: str, *, per_token: bool
) -> tuple[str, ...] | None:
    """The labels of the classifier of that name and kind; None where there is none."""
    for each in config.classifiers:
        if (each.name, each.per_token) == (name, per_token):
            return each.labels
    return None


def with_classifiers(
    config: model.Config, wanted: Sequence[model.Classifier], pad_token_id: int
) -> model.Config:
    """The same trunk with these classifiers alone.

    Those that the model has already keep their padding token.

    Args:
      pad_token_id: of those that have none.
    """
    own = {each.path: each for each in config.classifiers}
    classifiers = tuple(own.get(each.path, each) for each in wanted)
    trunk = dataclasses.replace(config, classifiers=classifiers)
    return trunk.with_padding(pad_token_id)


def alone(
    config: model.Config, params: Any, name: str | None
) -> tuple[model.Config, Any]:
    """A model with the classifier of that name alone, or none; the arrays are shared.

    That is what a Hugging Face model can be.
    """
    config = alone_config(config, name)
    flat = tree.flatten(params)
    wanted = tree.flatten(model.shapes(config))
    return config, tree.unflatten({path: flat[path] for path in wanted})


def alone_config(config: model.Config, name: str | None) -> model.Config:
    """The config of a model with the classifier of that name alone, or none."""
    own = tuple(each for each in config.classifiers if each.name == name)
    return dataclasses.replace(config, classifiers=own)


def fit(
    params: Any, found: model.Config, wanted: model.Config, mesh: Mesh, *, seed: int
) -> Any:
    """Params as `wanted` has them, from those that `found` describes.

    What `wanted` has not is left out. A classifier that `found` has not is made anew.
    """
    flat, shapes = tree.flatten(params), model.shapes(wanted)
    places = sharding.param_shardings(mesh, shapes)
    missing = [
        each
        for each in wanted.classifiers
        if each.path not in [own.path for own in found.classifiers]
    ]
    for each in missing:
        kind, name = each.path.split("/")
        make = jax.jit(
            lambda key, name=name: model.init_classifier(key, wanted, name),
            out_shardings=places[kind][name],
        )
        made = make(jax.random.key(seed))
        flat |= {f"{each.path}/{leaf}": value for leaf, value in made.items()}
    return tree.unflatten({path: flat[path] for path in tree.flatten(shapes)})
