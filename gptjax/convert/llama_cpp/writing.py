"""Config, params and a tokenizer -> a GGUF file, tensor by tensor."""

import collections
import dataclasses
import functools
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gptjax import errors, files, grids, model
from gptjax.convert import compressed, exporting, folders, hf_config, names, padding
from gptjax.convert.llama_cpp import architectures, blocks, vocabulary

SUFFIX = ".gguf"
KEPT = "gptjax.files."
"""What the keys begin with under which the texts of `FILES` stand."""
FILES = (
    hf_config.FILE,
    folders.GENERATION,
    "tokenizer_config.json",
    "special_tokens_map.json",
    folders.TEMPLATE,
)
"""What a model folder holds beside weights and tokenizer.json, so that one can be made
of a GGUF file again."""

WEIGHTS = {
    "keep": None,
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "q8_0": "Q8_0",
    "q4_0": "Q4_0",
}
"""What matrices are stored as; ggml's names. Norms, biases and a table of positions are
always float32, as llama.cpp wants them."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What a file holds.

    Attributes:
      bytes: its size.
      kinds: ggml's name of a kind -> how many weights are of it.
      codes: how many weights were codes before, and are the same codes now.
      note: what llama.cpp computes otherwise, in a line; None: nothing.
    """

    bytes: int
    kinds: Mapping[str, int]
    codes: int
    note: str | None

    def text(self) -> str:
        """The same in a line."""
        kinds = ", ".join(f"{count:,} as {kind}" for kind, count in self.kinds.items())
        kept = f"; {self.codes:,} keep their codes" if self.codes else ""
        return f"{self.bytes:,} bytes; of its weights {kinds}{kept}"


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """One that is yet to be written, and what makes its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: str
    is_codes: bool
    make: Callable[[], np.ndarray]


def library() -> Any:
    """The `gguf` package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise errors.UserError('GGUF needs: pip install "gptjax[gguf]"') from error
    return gguf


def save(
    path: str | pathlib.Path,
    config: model.Config,
    params: Any,
    *,
    weights: str,
    vocabulary: vocabulary.Vocabulary,
    like: pathlib.Path | None = None,
    on_grid: grids.OnGrid | None = None,
) -> Written:
    """Writes a GGUF file, which appears whole or not at all.

    The host holds one tensor beside the params. Heads or neurons that stock models need
    are filled up with zeros as in a Hugging Face folder.

    Args:
      weights: one of `WEIGHTS`. Rows that are no multiple of 32 numbers stay float16
        where codes were asked for.
      like: the model folder whose config.json, generation_config.json and texts about
        the tokenizer are kept.
      on_grid: kernels whose codes become codes of the file, where those have as many
        bits and a scale serves whole blocks: then their scales alone are rounded, to
        float16. All others are rounded to what is nearest.

    Raises:
      UserError: a model, or a tokenizer, that llama.cpp does not run; a file that
        cannot be written; the package gguf is missing.
    """
    gguf, path = library(), pathlib.Path(path)
    if path.suffix != SUFFIX:
        raise errors.UserError(f"{path}: a GGUF file's name ends in {SUFFIX}")
    architecture = architectures.of(config, where=str(path))
    flat = exporting.check(config, params)
    dtype = exporting.widest([np.dtype(leaf.dtype) for leaf in flat.values()])
    config = padding.padded(config)
    fields = {
        **architectures.hyperparameters(config, architecture.name),
        **vocabulary.fields(config.vocab_size, where=str(path)),
        **_kept(config, dtype, like),
    }
    plan = _plan(config, flat, architecture, weights, on_grid)
    sources = [] if like is None else [str(like)]
    with files.derived(path, sources) as beside:
        writer = gguf.GGUFWriter(beside, architecture.name)
        writer.add_type("model")
        kind = WEIGHTS[weights] or blocks.kind_of(dtype)
        plain = "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"
        writer.add_file_type(gguf.LlamaFileType[plain])
        if blocks.bits_of(kind):
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in fields.items():
            _add(writer, key, value)
        for own in plan:
            writer.add_tensor_info(
                own.name,
                own.shape,
                np.dtype(np.float32),
                blocks.nbytes(own.shape, own.kind),
                raw_dtype=gguf.GGMLQuantizationType[own.kind],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        try:
            for own in plan:
                writer.write_tensor_data(own.make())
        finally:
            writer.close()
    kinds = collections.Counter()
    for own in plan:
        kinds[own.kind] += math.prod(own.shape)
    note = None
    if config.activation_function == "gelu":
        note = "llama.cpp computes gelu by its tanh form, which is off by up to 0.0005"
    return Written(
        bytes=path.stat().st_size,
        kinds=dict(kinds),
        codes=sum(math.prod(own.shape) for own in plan if own.is_codes),
        note=note,
    )


def _add(writer: Any, key: str, value: Any) -> None:
    """A field of the type that llama.cpp reads it as."""
    adds = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adds[type(value)](key, value)


def _kept(
    config: model.Config, dtype: np.dtype, like: pathlib.Path | None
) -> dict[str, str]:
    """The texts of `FILES`, under their keys."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folders.write_sidecars(folder, config, dtype=dtype, like=like)
        found = {own: folder / own for own in FILES if (folder / own).is_file()}
        return {
            KEPT + own: place.read_text(encoding="utf-8")
            for own, place in found.items()
        }


def _plan(
    config: model.Config,
    flat: Mapping[str, Any],
    architecture: architectures.Architecture,
    weights: str,
    on_grid: grids.OnGrid | None,
) -> list[_Tensor]:
    """Every tensor in the file's order."""
    plan = []
    for name, leaf, part, layer in names.in_order(
        names.leaves_by(config, architecture.rules)
    ):
        kind = _kind(name, part.hf_shape, weights, flat[leaf.path].dtype)
        heads = architecture.heads_turned(name, config)
        read = functools.partial(
            _whole,
            functools.partial(exporting.pieces, flat[leaf.path], leaf, part, layer),
            heads,
        )
        spread = None
        if on_grid is not None and leaf.path in on_grid.scales:
            spread = _spread(kind, leaf, part, layer, on_grid, heads)
        plan.append(
            _Tensor(
                name,
                part.hf_shape,
                kind,
                spread is not None,
                functools.partial(_bytes, read, spread, kind, name),
            )
        )
    factors = architectures.rope_factors(config)
    if factors is not None:
        make = functools.partial(blocks.stored, factors, "F32", "")
        name = architectures.ROPE_FACTORS
        plan.append(_Tensor(name, factors.shape, "F32", False, make))
    return plan


def _kind(name: str, shape: tuple[int, ...], weights: str, dtype: Any) -> str:
    """What a tensor is stored as."""
    if len(shape) == 1 or name.startswith("position_embd"):
        return "F32"
    kind = WEIGHTS[weights] or blocks.kind_of(dtype)
    return "F16" if blocks.bits_of(kind) and shape[-1] % blocks.BLOCK else kind


def _whole(read: Callable[[], Iterable[np.ndarray]], heads: int | None) -> np.ndarray:
    """A tensor as llama.cpp has it."""
    own = np.concatenate([*read()])
    return own if heads is None else architectures.turned(own, heads)


def _spread(
    kind: str,
    leaf: names.Leaf,
    part: names.Part,
    layer: int,
    on_grid: grids.OnGrid,
    heads: int | None,
) -> Callable[[], np.ndarray] | None:
    """What gives the scale of each weight of a tensor whose codes the file can hold as
    they are; None where it cannot."""
    bits, group = blocks.bits_of(kind), on_grid.grid.group
    if bits is None or bits < on_grid.grid.bits or (group or 0) % blocks.BLOCK:
        return None

    def every():
        scales = compressed.every_scale(on_grid.scales[leaf.path][layer], leaf)
        return _whole(lambda: [part.of_leaf(scales)], heads)

    return every


def _bytes(
    read: Callable[[], np.ndarray],
    spread: Callable[[], np.ndarray] | None,
    kind: str,
    name: str,
) -> np.ndarray:
    """The bytes of a tensor."""
    values = read()
    if spread is None:
        return blocks.stored(values, kind, name)
    scales = spread()
    codes = np.rint(values.astype(np.float32) / scales)
    firsts = scales.reshape(-1, blocks.BLOCK)[:, 0]
    return blocks.stored_codes(codes, firsts, kind, name)
