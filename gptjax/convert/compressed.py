"""Kernels on a grid as the `compressed-tensors` library stores them.

https://github.com/vllm-project/compressed-tensors. In the place of a linear layer's
`weight`, outputs x inputs, stand by the format `pack-quantized`

    weight_packed  int32, outputs x words: each output's codes + 2^(bits - 1), in order,
                   the lowest bits of a word first; the last word is filled up with 0
    weight_scale   outputs x groups
    weight_shape   int64: outputs, inputs

and where what enters a layer is rounded, too, as `model.int8` does, by `int-quantized`

    weight         int8: the codes
    weight_scale   outputs x 1

Here and there codes are symmetric and a weight is code x scale.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gptjax import errors, grids, model, tree
from gptjax.convert import families, names, safetensors_file, tensors

KEY = "quantization_config"
"""Of config.json, where the library and transformers look."""
_METHOD = "compressed-tensors"
_CODES, _PACKED = "weight", "weight_packed"
_SCALE, _SHAPE = "weight_scale", "weight_shape"
_ACTIVATIONS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
}


class Settings(NamedTuple):
    """What config.json says under `KEY`."""

    grid: grids.Grid
    activation_bits: int | None
    """As of `model.Config`."""

    @property
    def format(self) -> str:
        """The library's name of the layout."""
        return "int-quantized" if self.activation_bits else "pack-quantized"

    @property
    def parts(self) -> tuple[str, ...]:
        """What a tensor is made of."""
        packed = (_PACKED, _SCALE, _SHAPE)
        return (_CODES, _SCALE) if self.activation_bits else packed


def settings_of(config: model.Config, grid: grids.Grid) -> dict[str, Any]:
    """What config.json says of a model whose blocks' kernels are on a grid."""
    family = families.FAMILIES[config.family]
    # Linear layers outside the blocks; GPT-NeoX's head has another name in memory.
    apart = ["head/embedding", *(f"{own.path}/weight" for own in config.classifiers)]
    apart = [family.name_of(path).removesuffix(".weight") for path in apart]
    apart = sorted({"lm_head", *apart})
    weights = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": True,
        "strategy": "channel" if grid.group is None else "group",
        "group_size": grid.group,
        "dynamic": False,
    }
    module = "Conv1D" if family.has_conv1d else "Linear"
    group = {"targets": [module], "weights": weights}
    if config.activation_bits is not None:
        group["input_activations"] = dict(_ACTIVATIONS)
    return {
        KEY: {
            "quant_method": _METHOD,
            "format": Settings(grid, config.activation_bits).format,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": apart,
        }
    }


def read_settings(values: Any, *, where: str) -> Settings:
    """What stands under `KEY`.

    Raises:
      UserError: another method, or a field at a value that gptjax does not implement.
    """

    def check(own, name, wanted):
        got = own.get(name) if isinstance(own, Mapping) else own
        if got not in wanted:
            told = " or ".join(map(repr, wanted))
            raise errors.UserError(
                f"{where}: {KEY}: {name} is {got!r}; gptjax implements only {told}"
            )
        return got

    check(values, "quant_method", (_METHOD,))
    for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        check(values, name, (None, {}))
    groups = values.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise errors.UserError(f"{where}: {KEY}: config_groups is not one group")
    (group,) = groups.values()
    check(group, "output_activations", (None,))
    check(group, "format", (None, values.get("format")))
    activations = group.get("input_activations")
    for name, value in _ACTIVATIONS.items() if activations is not None else ():
        check(activations, name, (value,))
    weights = group.get("weights")
    check(weights, "type", ("int",))
    check(weights, "symmetric", (True,))
    check(weights, "dynamic", (False, None))
    check(weights, "actorder", (None, "static"))
    strategy = check(weights, "strategy", ("channel", "group"))
    bits = check(weights, "num_bits", grids.BITS)
    size = weights.get("group_size") if strategy == "group" else None
    grid = grids.Grid(bits=bits, group=size)
    settings = Settings(grid, activations and activations["num_bits"])
    check(values, "format", (settings.format,))
    if activations is not None and grid != model.int8.GRID:
        raise errors.UserError(
            f"{where}: {KEY}: input_activations of 8 bits; gptjax multiplies them by "
            "weights of 8 bits with a scale for each output, and by no others"
        )
    return settings


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (outputs, inputs) of 4 or 8 bits, as int32 words (outputs, words)."""
    outputs, inputs = codes.shape
    per_word = 32 // bits
    own = np.zeros((outputs, -(-inputs // per_word) * per_word), np.uint8)
    own[:, :inputs] = codes.astype(np.int16) + 2 ** (bits - 1)
    if bits == 4:
        own = own[:, ::2] | own[:, 1::2] << 4
    return np.ascontiguousarray(own).view("<i4")


def unpack(words: np.ndarray, bits: int, inputs: int) -> np.ndarray:
    """What `pack` packed, int8 (outputs, inputs)."""
    own = np.ascontiguousarray(words).astype("<i4").view(np.uint8)
    if bits == 4:
        own = np.stack([own & 15, own >> 4], axis=-1).reshape(len(own), -1)
    return (own[:, :inputs].astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)


def every_scale(scales: np.ndarray, leaf: names.Leaf) -> np.ndarray:
    """The scale of each weight of one layer of a leaf, in its shape.

    Args:
      scales: (groups, outputs).
    """
    inputs = math.prod(leaf.layer_shape) // scales.shape[-1]
    every = np.repeat(scales, inputs // len(scales), axis=0)
    return every.reshape(leaf.layer_shape)


def tensors_of(
    name: str,
    leaf: names.Leaf,
    part: names.Part,
    layer: int,
    read: Callable[[], Iterable[np.ndarray]],
    on_grid: grids.OnGrid,
    *,
    activation_bits: int | None,
    is_conv1d: bool,
) -> list[tuple[safetensors_file.Entry, Callable[[], Iterable[np.ndarray]]]]:
    """What a file holds in the place of a kernel's tensor, and how each is made.

    Args:
      read: gives the tensor itself, on the grid, whole.
      activation_bits: as of `model.Config`.
    """
    grid, scales = on_grid.grid, on_grid.scales[leaf.path][layer]

    def turned(tensor):
        return tensor.T if is_conv1d else tensor

    def spread():
        # Laid out as the kernel is, to go the tensor's way.
        return turned(part.of_leaf(every_scale(scales, leaf)))

    def codes():
        (values,) = read()
        found = np.rint(turned(values).astype(np.float32) / spread())
        yield found.astype(np.int8)

    def packed():
        yield from (pack(found, grid.bits) for found in codes())

    def first_scales():
        every = spread()
        yield every[:, :: grid.group or every.shape[1]]

    outputs, inputs = part.hf_shape[::-1] if is_conv1d else part.hf_shape
    made = {
        _CODES: (np.int8, (outputs, inputs), codes),
        _PACKED: (np.int32, (outputs, -(-inputs * grid.bits // 32)), packed),
        _SCALE: (np.float32, (outputs, grid.groups(inputs, name)), first_scales),
        _SHAPE: (np.int64, (2,), lambda: [np.array([outputs, inputs], np.int64)]),
    }
    module = name.removesuffix("weight")
    return [
        (safetensors_file.Entry(module + what, np.dtype(dtype), shape), make)
        for what in Settings(grid, activation_bits).parts
        for dtype, shape, make in (made[what],)
    ]


def scales_of(
    leaf: names.Leaf,
    found: Mapping[str, tensors.Tensor],
    grid: grids.Grid,
    *,
    is_conv1d: bool,
) -> np.ndarray:
    """The scales of a stacked kernel, (L, groups, outputs), as a checkpoint has them.

    Args:
      leaf: of the Hugging Face names.
      found: the checkpoint's tensors by their names there.
    """
    taken = next(n for rule, n in model.KERNELS if tree.covers(rule, leaf.path))
    inputs = math.prod(leaf.layer_shape[:taken])
    layers = np.empty(leaf.shape, np.float32)
    for part in leaf.parts:
        for layer, name in zip(layers, part.names, strict=True):
            scales = found[f"{name.removesuffix('weight')}{_SCALE}"].array
            every = np.repeat(
                scales.astype(np.float32), inputs // scales.shape[1], axis=1
            )
            layer[part.where] = part.of_tensor(every.T if is_conv1d else every)
    every = layers.reshape(len(layers), inputs, -1)
    return every[:, :: grid.group or inputs].copy()


@dataclasses.dataclass(frozen=True)
class Coded:
    """A tensor that is made of codes and scales whenever it is asked for.

    Like `tensors.Tensor`.
    """

    parts: Mapping[str, tensors.Tensor]
    settings: Settings
    name: str
    is_conv1d: bool

    @property
    def file(self) -> tensors.MappedFile:
        """Where its codes lie."""
        return self.parts[self.settings.parts[0]].file

    @property
    def array(self) -> np.ndarray:
        """What the codes stand for, of the scales' dtype, or in float32 where
        `model.int8` finds scales and codes in it again.

        Raises:
          UserError: parts that do not fit each other, or with which `model.int8` would
            compute something else.
        """
        grid = self.settings.grid
        first, scales, *shape = (self.parts[name].array for name in self.settings.parts)
        outputs, inputs = map(int, shape[0] if shape else first.shape)
        words = -(-inputs * grid.bits // 32) if shape else inputs
        wanted = (outputs, words), (outputs, grid.groups(inputs, self.name))
        if (first.shape, scales.shape) != wanted:
            raise errors.UserError(
                f"{self.file.path}: {self.name}: codes {first.shape} and scales "
                f"{scales.shape}; of {outputs} x {inputs} weights of {grid.bits} "
                f"bits there must be {wanted[0]} and {wanted[1]}"
            )
        codes = unpack(first, grid.bits, inputs) if shape else first
        dtype = scales.dtype
        if self.settings.activation_bits is not None:
            self._check_reach(codes)
            dtype = np.float32
        every = np.repeat(scales.astype(np.float32), inputs // scales.shape[1], axis=1)
        values = (codes * every).astype(dtype)
        return values.T if self.is_conv1d else values

    def _check_reach(self, codes):
        """Scales are found again, by the largest weights."""
        reach = np.abs(codes.astype(np.int16)).max(1, initial=0)
        largest = self.settings.grid.largest
        if other := set(reach.tolist()) - {0, largest}:
            raise errors.UserError(
                f"{self.file.path}: {self.name}: the codes of an output end at "
                f"{min(other)}; with activations of 8 bits gptjax multiplies only "
                f"weights whose codes end at {largest}"
            )

    def copy_into(self, out: np.ndarray, view: np.ndarray) -> None:
        """See `tensors.Tensor.copy_into`."""
        with np.errstate(over="raise"):
            out[...] = view
        self.file.release()


def decoded(
    found: Mapping[str, tensors.Tensor], settings: Settings, *, is_conv1d: bool
) -> dict[str, Any]:
    """The tensors of a checkpoint by the names that they would have without a grid.

    Raises:
      UserError: a tensor of which a part is missing.
    """
    result: dict[str, Any] = dict(found)
    modules: dict[str, dict[str, tensors.Tensor]] = {}
    for name, tensor in found.items():
        module, _, what = name.rpartition(".")
        is_code = tensor.array.dtype == np.int8
        if what in settings.parts and (what != _CODES or is_code):
            modules.setdefault(module, {})[what] = result.pop(name)
    for module, parts in modules.items():
        for what in settings.parts:
            if what not in parts:
                path = next(iter(parts.values())).file.path
                raise errors.UserError(f"{path}: {module}.{what} is missing")
        name = f"{module}.weight"
        result[name] = Coded(parts, settings, name, is_conv1d)
    return result
