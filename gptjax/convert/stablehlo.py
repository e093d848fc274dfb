"""Config and params -> programs that run without gptjax, with their weights beside.

`jax.export` keeps the programs: portable StableHLO for several kinds of machines, whose
batch and length are free.
"""

import functools
import importlib.util
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import assets, errors, grids, model, sharding, tree
from gptjax.convert import exporting, folders, safetensors_file

PLATFORMS = ("cpu", "tpu", "cuda")
WEIGHTS, TOKENIZER, FACTS = "model.safetensors", "tokenizer.json", "program.json"
_OURS = (
    WEIGHTS,
    TOKENIZER,
    FACTS,
    "logits.exported",
    "extend.exported",
    "run.py",
    "README.md",
    "__pycache__",  # of run.py, where another program imports it
)
_CODES, _SCALES = ".codes", ".scales"


def save(
    folder: str | pathlib.Path,
    config: model.Config,
    params: Any,
    *,
    tokenizer_json: str,
    eos_token_ids: Sequence[int],
    like: pathlib.Path | None = None,
    on_grid: grids.OnGrid | None = None,
) -> int:
    """Writes a folder of programs, weights, tokenizer, and a script that runs them.

    Weights are arguments of the programs and not constants in them: so they are in the
    file once, in their own dtypes, and kernels on a grid as codes. Heads and neurons
    that were removed are not made up for.

    Args:
      folder: replaced, if it holds such a one; appears whole or not at all.
      like: where the model came from, which must not be overwritten.
      on_grid: kernels that are stored as codes.

    Returns:
      The bytes of its weights.

    Raises:
      UserError: a classifier; a folder that cannot be replaced or written; the package
        flatbuffers is missing.
    """
    folder = pathlib.Path(folder)
    if importlib.util.find_spec("flatbuffers") is None:
        raise errors.UserError('StableHLO needs: pip install "gptjax[stablehlo]"')
    if config.classifiers:
        raise errors.UserError(
            f"{folder}: a classifier; exported programs score the next token"
        )
    flat = exporting.check(config, params)
    stored = _stored(flat, on_grid)
    facts = {
        "n_positions": config.n_positions,
        "vocab_size": config.vocab_size,
        "cache": [config.n_layer, config.kv_heads, config.head_width],
        "eos_token_ids": [*eos_token_ids],
        "platforms": [*PLATFORMS],
        "jax": jax.__version__,
    }
    with folders.replacing(folder, source=like, ours=_OURS) as staging:
        for name, exported in _programs(config, stored).items():
            (staging / f"{name}.exported").write_bytes(exported.serialize())
        entries, reads = [], {}
        for name, leaf in _arrays(stored).items():
            entries.append(
                safetensors_file.Entry(name, np.dtype(leaf.dtype), leaf.shape)
            )
            reads[name] = functools.partial(_read, flat, on_grid, name)
        exporting.write_file(staging / WEIGHTS, entries, reads)
        (staging / TOKENIZER).write_text(tokenizer_json, "utf-8", newline="\n")
        (staging / FACTS).write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
        for source in assets.exported_folder():
            text = source.read_text("utf-8").replace("VERSION", jax.__version__)
            (staging / source.name).write_text(text, "utf-8", newline="\n")
    return (folder / WEIGHTS).stat().st_size


def _coded(leaf: Any, scales: Any, grid: grids.Grid) -> model.Coded:
    return model.coded(jnp.asarray(leaf), jnp.asarray(scales), grid)


def _stored(flat: Mapping[str, Any], on_grid: grids.OnGrid | None) -> dict[str, Any]:
    """The shapes and dtypes of what is stored, by slash path; of codes a `Coded`."""
    scales = {} if on_grid is None else on_grid.scales
    return {
        path: jax.eval_shape(
            functools.partial(_coded, grid=on_grid.grid), leaf, scales[path]
        )
        if path in scales
        else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in flat.items()
    }


def _arrays(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that the file holds, by their names there."""
    found = {}
    for path, leaf in stored.items():
        if isinstance(leaf, model.Coded):
            found[path + _CODES], found[path + _SCALES] = leaf.codes, leaf.scales
        else:
            found[path] = leaf
    return found


def _params(stored: Mapping[str, Any], arrays: Mapping[str, jax.Array]) -> Any:
    """A model's params of the file's arrays."""
    return tree.unflatten(
        {
            path: model.Coded(
                arrays[path + _CODES], arrays[path + _SCALES], leaf.bits, leaf.shape
            )
            if isinstance(leaf, model.Coded)
            else arrays[path]
            for path, leaf in stored.items()
        }
    )


def _read(
    flat: Mapping[str, Any], on_grid: grids.OnGrid | None, name: str
) -> Iterable[np.ndarray]:
    """An array of the file, layer by layer where it has layers."""
    path = name.removesuffix(_CODES).removesuffix(_SCALES)
    leaf = flat[path]
    if not path.startswith("blocks/"):
        yield sharding.to_host(jnp.asarray(leaf))
        return
    for layer in range(leaf.shape[0]):
        own = leaf[layer : layer + 1]
        if path != name:
            made = _coded(own, on_grid.scales[path][layer : layer + 1], on_grid.grid)
            own = made.codes if name.endswith(_CODES) else made.scales
        yield sharding.to_host(jnp.asarray(own))


def _programs(
    config: model.Config, stored: Mapping[str, Any]
) -> dict[str, jax.export.Exported]:
    """The programs by name; see the README that is written beside them."""
    compute = model.Compute(attention="plain")
    arrays = _arrays(stored)

    def logits(arrays, tokens_BT):
        return model.apply(config, _params(stored, arrays), tokens_BT, compute=compute)

    def extend(arrays, tokens_BT, cache, start):
        trunk = _params(stored, arrays)
        laid = model.Laid(trunk, trunk.pop("blocks"))
        x_BTD, cache = model.extend(config, laid, tokens_BT, cache, start)
        return model.scores(config, laid, x_BTD[:, -1:])[:, 0], cache

    most = f"<= {config.n_positions}"
    batch, time = jax.export.symbolic_shape("b, t", constraints=(f"t {most}",))
    found = {"logits": _export(logits, arrays, _tokens(batch, time))}
    batch, time, slots = jax.export.symbolic_shape(
        "b, t, s", constraints=("t <= s", f"s {most}")
    )
    shape = (config.n_layer, batch, config.kv_heads, slots, config.head_width)
    half = jax.ShapeDtypeStruct(shape, jnp.float32)
    found["extend"] = _export(
        extend,
        arrays,
        _tokens(batch, time),
        {"keys": half, "values": half},
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    return found


def _tokens(batch: Any, time: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, time), jnp.int32)


def _export(function: Any, *arguments: Any) -> jax.export.Exported:
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
