"""A model's params with the classifier that a run trains."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from gptjax import model, sharding, tree


def known_labels(config: model.Config, name: str) -> tuple[str, ...] | None:
    """The labels of the classifier of that name; None where there is none."""
    found = [each.labels for each in config.classifiers if each.name == name]
    return found[0] if found else None


def with_classifiers(
    config: model.Config, labels: Mapping[str, tuple[str, ...]], pad_token_id: int
) -> model.Config:
    """The same trunk with the classifiers of these names alone.

    Args:
      labels: of each that the model has not.
      pad_token_id: of those that have none.
    """
    own = {each.name: each for each in config.classifiers}
    wanted = (
        own.get(name) or model.Classifier(name=name, labels=each)
        for name, each in labels.items()
    )
    trunk = dataclasses.replace(config, classifiers=tuple(wanted))
    return trunk.with_padding(pad_token_id)


def alone(
    config: model.Config, params: Any, name: str | None
) -> tuple[model.Config, Any]:
    """A model with the classifier of that name alone, or none; the arrays are shared.

    That is what a Hugging Face model can be.
    """
    own = tuple(each for each in config.classifiers if each.name == name)
    config = dataclasses.replace(config, classifiers=own)
    flat = tree.flatten(params)
    wanted = tree.flatten(model.shapes(config))
    return config, tree.unflatten({path: flat[path] for path in wanted})


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
        if each.name not in [own.name for own in found.classifiers]
    ]
    for each in missing:
        path = f"classifiers/{each.name}/weight"
        make = jax.jit(
            lambda key, name=each.name: model.init_classifier(key, wanted, name),
            out_shardings={"weight": tree.flatten(places)[path]},
        )
        flat[path] = make(jax.random.key(seed))["weight"]
    return tree.unflatten({path: flat[path] for path in tree.flatten(shapes)})
