"""A PEFT folder <-> a low-rank adapter and what it needs of a model.

https://huggingface.co/docs/peft. Written are the fields of its LoraConfig that say
something; beside them, where a classifier was trained, `classifier.json` tells its name
and labels, which PEFT leaves to whoever loads the model.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors, model, tree
from gptjax.convert import (
    adapter_tensors,
    exporting,
    families,
    folders,
    hf_config,
    names,
    safetensors_file,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CLASSIFIER = "classifier.json"
_FILES = (CONFIG, WEIGHTS, CLASSIFIER)
_TASKS = {"classifiers": "SEQ_CLS", "taggers": "TOKEN_CLS"}

# Fields of a LoraConfig that do not change what tensors mean: where they were trained,
# how they began, what modules they belong to, which their names tell again.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
# Beside None, False, 0 and what is empty, which say "not used".
_FIXED = {
    "bias": ("none",),
    # The others change the model's own weights before training begins.
    "init_lora_weights": (True, "gaussian", "orthogonal"),
}


def save_adapter(
    folder: str | pathlib.Path,
    config: model.Config,
    adapter: Any,
    *,
    alpha: float,
    base: str | None,
) -> None:
    """Writes a folder that PEFT loads on the model of `config`.

    Processes that share the arrays must all call this.

    Args:
      folder: replaced, if it holds an adapter; appears whole or not at all.
      adapter: its leaves, and the classifier's, if that was trained.
      base: what transformers loads the model by.

    Raises:
      UserError: the folder holds anything else, or cannot be written.
    """
    flat = tree.flatten(adapter)
    leaves = adapter_tensors.leaves_of(config, flat)
    reads, entries = {}, []
    for leaf in leaves:
        own = flat[leaf.path]
        for part in leaf.parts:
            for layer, name in enumerate(part.names):
                reads[name] = functools.partial(
                    exporting.pieces, own, leaf, part, layer
                )
                dtype = np.dtype(own.dtype)
                entries.append(safetensors_file.Entry(name, dtype, part.hf_shape))
    with folders.replacing(pathlib.Path(folder), source=None, ours=_FILES) as staging:
        exporting.write_file(staging / WEIGHTS, entries, reads)
        if jax.process_index() == 0:
            values = _values(config, flat, leaves, alpha=alpha, base=base)
            hf_config.write_json(staging / CONFIG, values)
            if values["modules_to_save"]:
                own = dataclasses.asdict(config.classifiers[0])
                hf_config.write_json(staging / CLASSIFIER, own)


def _values(
    config: model.Config,
    flat: Mapping[str, Any],
    leaves: list[names.Leaf],
    *,
    alpha: float,
    base: str | None,
) -> dict[str, Any]:
    """Those of adapter_config.json."""
    adapted = [leaf for leaf in leaves if leaf.is_stacked]
    heads = {leaf.path.partition("/")[0] for leaf in leaves if not leaf.is_stacked}
    # `...h.0.attn.c_attn.lora_A.weight`: by its end PEFT finds a module.
    modules = {name.split(".0.", 1)[1] for leaf in adapted for name in _firsts(leaf)}
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": families.FAMILIES[config.family].has_conv1d,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "modules_to_save": ["classifier", "score"] if heads else None,
        "peft_type": "LORA",
        "r": next(
            flat[leaf.path].shape[1]
            for leaf in adapted
            if leaf.path.endswith("/lora_a")
        ),
        "target_modules": sorted(name.partition(".lora_")[0] for name in modules),
        "task_type": _TASKS[heads.pop()] if heads else "CAUSAL_LM",
        "use_rslora": False,
    }


def _firsts(leaf: names.Leaf) -> list[str]:
    """The names of the first layer's tensors, of one of the two matrices."""
    if not leaf.path.endswith("/lora_a"):
        return []
    return [part.names[0] for part in leaf.parts]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a PEFT folder holds.

    Attributes:
      config: of the model with it: with its classifier, where it has one.
      adapter: its leaves, in the dtypes of the file.
      scaling: what the product of its matrices is multiplied by.
    """

    config: model.Config
    adapter: Any
    scaling: float

    def merged(self, params: Any) -> Any:
        """The model's params with the adapter merged in, for `config`."""
        adapted = model.adapt(params, self.adapter, scaling=self.scaling)
        flat = tree.flatten(model.merged(adapted))
        # A classifier has no head for tokens.
        shapes = tree.flatten(model.shapes(self.config))
        return tree.unflatten({path: jnp.asarray(flat[path]) for path in shapes})


def load_adapter(folder: str | pathlib.Path, config: model.Config) -> Loaded:
    """The LoRA adapter in a PEFT folder, for a model of `config`.

    Its dropout is left out: that is of training.

    Raises:
      UserError: no such folder; an adapter of another kind than plain LoRA of kernels
        in the blocks; tensors that are unknown, missing or of a wrong shape.
    """
    folder = pathlib.Path(folder)
    values = hf_config.read_json(folder / CONFIG)
    rank, alpha = _check_values(values, folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise errors.UserError(f"{folder}: holds no {WEIGHTS}, which gptjax reads")
    found = {
        _canonical(name, config): tensor
        for name, tensor in safetensors_file.read(folder / WEIGHTS).items()
    }
    head = None
    family = families.FAMILIES[config.family]
    for per_token, kind in ((False, "classifiers"), (True, "taggers")):
        tensor = adapter_tensors.PREFIX + family.name_of(f"{kind}/label/weight")
        # Some families' taggers go by the other's name, and have a bias.
        biased = tensor.removesuffix("weight") + "bias" in found
        if tensor in found and biased == per_token:
            shape = found[tensor].array.shape
            head = _classifier(folder, config, shape, per_token=per_token)
            config = dataclasses.replace(config, classifiers=(head,))
    shapes = tree.flatten(model.shapes(config))
    kernels = {
        path: leaf
        for path, leaf in shapes.items()
        if any(tree.covers(rule, path) for rule, _ in model.KERNELS)
    }
    wanted = model.adapter_shapes(kernels, rank)
    if head is not None:
        wanted |= {p: x for p, x in shapes.items() if p.startswith(f"{head.path}/")}
    leaves = adapter_tensors.leaves_of(config, wanted)
    unknown = sorted(found.keys() - {name for leaf in leaves for name in leaf.names})
    if unknown:
        raise errors.UserError(
            f"{folder / WEIGHTS}: {unknown[0]} is no tensor of a LoRA adapter of the "
            f"kernels of {family.title}'s blocks"
        )
    # A and B, if there is any of the two in any layer.
    present = {
        adapter_tensors.module_of(leaf)
        for leaf in leaves
        if found.keys() & set(leaf.names)
    }
    leaves = adapter_tensors.apart(leaves, found, rank)
    if not any(
        leaf.is_stacked and adapter_tensors.module_of(leaf) in present
        for leaf in leaves
    ):
        raise errors.UserError(f"{folder / WEIGHTS}: holds no lora_A of any kernel")
    read = {
        leaf.path: adapter_tensors.read(leaf, found, folder / WEIGHTS)
        for leaf in leaves
        if adapter_tensors.module_of(leaf) in present
    }
    scaling = alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)
    return Loaded(config, tree.unflatten(read), scaling)


def _check_values(values: Mapping[str, Any], path: pathlib.Path) -> tuple[int, float]:
    """Rank and alpha of an adapter_config.json; an error unless it is plain LoRA."""
    if values.get("peft_type") != "LORA":
        raise errors.UserError(
            f"{path}: peft_type is {values.get('peft_type')!r}; gptjax merges 'LORA'"
        )
    for key, value in values.items():
        if key not in _HARMLESS and value and value not in _FIXED.get(key, ()):
            raise errors.UserError(
                f"{path}: {key} is {value!r}; gptjax merges LoRA without it"
            )
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise errors.UserError(f"{path}: r is {rank!r}; it must be a positive integer")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise errors.UserError(f"{path}: lora_alpha is {alpha!r}; it must be a number")
    return rank, alpha


def _canonical(name: str, config: model.Config) -> str:
    """A tensor's name as an adapter of a whole model has it, not of its trunk alone."""
    family = families.FAMILIES[config.family]
    return adapter_tensors.PREFIX + family.canonical(
        name.removeprefix(adapter_tensors.PREFIX)
    )


def _classifier(
    folder: pathlib.Path,
    config: model.Config,
    shape: tuple[int, ...],
    *,
    per_token: bool,
) -> model.Classifier:
    """The classifier that an adapter holds the weights of.

    Its name and labels are those of `classifier.json`, else of the model's own
    classifier, else what transformers calls them where nobody did.
    """
    own, path = config.classifiers, folder / CLASSIFIER
    if path.is_file():
        stored = [hf_config.read_json(path)]
        try:
            own = hf_config.own_classifiers(stored)
        except errors.UserError as error:
            raise errors.UserError(f"{path}: {error}") from error
    elif not own:
        labels = tuple(f"LABEL_{number}" for number in range(shape[0]))
        own = (model.Classifier(labels=labels, per_token=per_token),)
    if [(len(each.labels), each.per_token) for each in own] != [(shape[0], per_token)]:
        raise errors.UserError(
            f"{folder / WEIGHTS}: its classifier is of {_what(shape[0], per_token)}; "
            "wanted is one of "
            + ", ".join(_what(len(each.labels), each.per_token) for each in own)
        )
    return own[0]


def _what(labels: int, per_token: bool) -> str:
    return f"{labels} labels of {'tokens' if per_token else 'texts'}"
