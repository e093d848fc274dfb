"""From YAML and overrides to a checked config, and back: OmegaConf reads and merges,
pydantic types and checks.
"""

import difflib
import pathlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import omegaconf
import pydantic
import yaml

from gptjax import assets, errors
from gptjax.config.base import Section
from gptjax.config.data import Augmentation
from gptjax.config.run import Run


def load(
    path: str | pathlib.Path | None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Run:
    """The config of a YAML file with overrides on top.

    Args:
      path: the file; None for overrides alone. `${packaged:NAME}` in it stands for
        the path of a text that ships with gptjax.
      overrides: `key.sub=value` strings, or a mapping of dotted keys to values.

    Raises:
      UserError: naming the dotted key, what it got and what it may be.
    """
    omegaconf.OmegaConf.register_resolver(
        "packaged", lambda name: str(assets.text(name)), replace=True
    )
    try:
        merged = omegaconf.OmegaConf.create({})
        if path is not None:
            merged = omegaconf.OmegaConf.load(path)
            if not isinstance(merged, omegaconf.DictConfig):
                raise errors.UserError(f"{path}: a config is a mapping of keys")
        for change in _changes(overrides):
            _promote(merged, change)
            merged = omegaconf.OmegaConf.merge(merged, change)
        values = omegaconf.OmegaConf.to_container(merged, resolve=True)
    except FileNotFoundError as error:
        raise errors.UserError(f"{path}: there is no such config file") from error
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise errors.UserError(f"{path}: not a config: {reason}") from error
    return check(values)


def _changes(
    overrides: Sequence[str] | Mapping[str, Any],
) -> Iterator[omegaconf.DictConfig]:
    """Each override as a config of its own."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            change = omegaconf.OmegaConf.create({})
            omegaconf.OmegaConf.update(change, key, value, force_add=True)
            yield change
        return
    for override in overrides:
        if "=" not in override:
            raise errors.UserError(f"{override!r} is no override; write key.sub=value")
        yield omegaconf.OmegaConf.from_dotlist([override])


def _promote(merged: omegaconf.DictConfig, change: omegaconf.DictConfig) -> None:
    """A text in `merged` that `change` gives a key to becomes the path of a mapping."""
    for key in change:
        own = merged._get_node(key)
        if not isinstance(change._get_node(key), omegaconf.DictConfig):
            continue
        if isinstance(own, omegaconf.DictConfig):
            _promote(own, change[key])
        elif own is not None and isinstance(own._value(), str):
            merged[key] = {"path": own._value()}


def check(values: Any) -> Run:
    """The `Run` of plain nested values.

    Raises:
      UserError: as `load` does.
    """
    try:
        return Run.model_validate(values)
    except pydantic.ValidationError as error:
        raise errors.UserError(
            "; ".join(_explain(problem) for problem in error.errors())
        ) from error


def dump(config: Run) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def leaves(text: str) -> dict[str, Any]:
    """The values of a resolved config's YAML by dotted keys; a list is one value."""
    read = omegaconf.OmegaConf.create(text)
    return _flatten(omegaconf.OmegaConf.to_container(read), "")


def _flatten(node: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    found = {}
    for name, value in node.items():
        found |= _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic error as `dotted.key: what is wrong`."""
    # pydantic says [key] where a name is wrong, not what stands under it.
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        fields = list(_section_at(problem["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(fields)
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing; it must be given"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if problem["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: got {problem['input']!r}; {message}"


def _section_at(location: Sequence[str | int]) -> type[Section]:
    """The section class that the keys of `location` lead to."""
    section: Any = Run
    is_name = False
    for part in location:
        # A number, or a name of the user's, only says which of several.
        if isinstance(part, int) or is_name:
            is_name = False
            continue
        annotation = section.model_fields[part].annotation
        section = next(_sections_in(annotation))
        is_name = typing.get_origin(annotation) is dict
    return section


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    """The section classes in a type, e.g. X in `tuple[X, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _sections_in(argument)


def augmentation(
    operations: Sequence[str], strength: float, synonyms: str | None
) -> Augmentation:
    """The `augmentation` section that the options of a command stand for.

    Args:
      operations: `name=chance` each.

    Raises:
      UserError: naming the option and what it may be.
    """
    chances = {}
    for given in operations:
        name, _, chance = given.partition("=")
        chances[name] = chance
    values = {"operations": chances, "strength": strength, "synonyms": synonyms}
    try:
        return Augmentation.model_validate(values)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        message = problem["msg"].removeprefix("Value error, ")
        raise errors.UserError(
            f"--{where or 'operation'}: {message}".replace("operations.", "operation ")
        ) from error
