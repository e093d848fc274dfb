"""Measures the peak memory of calibrating a model shaped like GPT-2 XL.

    python scripts/bench_calibration.py --criterion sparsegpt

The weights are random. What is promised, and compared with, is 1.2 times the weights'
bytes plus the activations that enter one block; what is measured is the high-water
mark of this whole process, Python and compilation included. Says so in a line, and
then in JSON.
"""

import argparse
import json
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model, sharding, tree
from gptjax.pruning import blockwise, calibration, matrices

PROMISED = 1.2


def main() -> None:
    """Runs one criterion at 50 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--criterion", choices=("wanda", "sparsegpt"), required=True)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4, help="sequences at once")
    parser.add_argument("--folder", type=pathlib.Path, help="for finished blocks")
    given = parser.parse_args()
    config = model.Config(n_layer=given.layers, n_embd=1600, n_head=25)
    mesh = sharding.make_mesh()
    rng = np.random.default_rng(0)
    params = random_params(config, mesh, rng)
    prunable = ((r"blocks/(attn|mlp)/\w+/kernel", True), (r".*", False))
    current = calibration.PackedMasks.dense(params, prunable)
    tokens_NT = rng.integers(0, config.vocab_size, (given.sequences, given.tokens))
    weights = sum(leaf.nbytes for leaf in tree.flatten(params).values())
    activations = 4 * tokens_NT.size * config.n_embd
    loaded = status("VmHWM")

    began = time.perf_counter()
    params, masks, report = blockwise.prune(
        config,
        params,
        current,
        tokens_NT.astype(np.int32),
        mesh=mesh,
        criterion=given.criterion,
        scope="row" if given.criterion == "wanda" else "layer",
        sparsities={path: np.full(config.n_layer, 0.5) for path in current.shapes},
        batch_sequences=given.batch,
        folder=given.folder,
        progress=True,
    )
    jax.block_until_ready(params)
    seconds = time.perf_counter() - began
    limit = PROMISED * weights + activations
    found = {
        "criterion": given.criterion,
        "layers": config.n_layer,
        "sequences": list(tokens_NT.shape),
        "weights_bytes": weights,
        "activations_bytes": activations,
        "loaded_bytes": loaded,
        "estimated_bytes": report["estimated_bytes"],
        "peak_bytes": status("VmHWM"),
        "promised_bytes": round(limit),
        "peak_over_weights": round(status("VmHWM") / weights, 4),
        "is_within": status("VmHWM") <= limit,
        "seconds": round(seconds, 1),
        "pruned": pruned(masks),
    }
    print(
        f"{given.criterion}, {config.n_layer} layers: {seconds:.0f} s, peak "
        f"{found['peak_bytes'] / 1e9:.3f} GB, promised {limit / 1e9:.3f} GB, "
        f"{found['peak_over_weights']} of the weights"
    )
    print(json.dumps(found))


def random_params(config: model.Config, mesh, rng: np.random.Generator):
    """Normal weights, drawn a layer at a time into their place."""

    @jax.jit
    def zeros():
        shapes = model.shapes(config)
        made = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
        return jax.lax.with_sharding_constraint(
            made, sharding.param_shardings(mesh, shapes)
        )

    flat = tree.flatten(zeros())
    for path, leaf in flat.items():
        if path.endswith("scale"):
            flat[path] = fill(leaf, np.float32(1), slice(None))
        elif path.endswith(("kernel", "embedding")):
            layers, inputs, outputs = matrices.shape(path, leaf.shape)
            parts = range(layers) if layers > 1 else (slice(None),)
            for part in parts:
                drawn = rng.standard_normal((inputs, outputs), np.float32)
                drawn *= np.float32(config.initializer_range)
                own = leaf.shape[1:] if layers > 1 else leaf.shape
                leaf = jax.block_until_ready(fill(leaf, drawn.reshape(own), part))
            flat[path] = leaf
    return tree.unflatten(flat)


def fill(leaf, values, part):
    """`leaf` with `values` in a part of it, in its own memory."""
    return (
        _fill_all(leaf, values)
        if isinstance(part, slice)
        else _fill(leaf, values, part)
    )


@jax.jit(donate_argnums=0)
def _fill(leaf, values, layer):
    return jax.lax.dynamic_update_index_in_dim(leaf, values, layer, 0)


@jax.jit(donate_argnums=0)
def _fill_all(leaf, values):
    return leaf.at[...].set(values)


def pruned(masks: calibration.PackedMasks) -> float:
    """The fraction of prunable weights that are pruned."""
    alive = sum(int(np.bitwise_count(own).sum()) for own in masks.bits.values())
    total = sum(int(np.prod(shape)) for shape in masks.shapes.values())
    return 1 - alive / total


def status(field: str) -> int:
    """A figure of this process in bytes, as the kernel counts it."""
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1])


if __name__ == "__main__":
    main()
