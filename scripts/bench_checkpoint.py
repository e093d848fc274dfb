"""Saving and restoring a training state beside torch.save and torch.load.

    python scripts/bench_checkpoint.py [--shape gpt2] [--out FILE]

The state is that of AdamW: parameters and two moments, all of random numbers, which no
compression makes smaller. gptjax saves in a thread: how long training is held up is
told apart from how long it takes until all is on disk. PyTorch saves a dict of the same
bytes. They take turns; both write to and read from the same disk, through the system's
page cache.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import benching
import jax
import jax.numpy as jnp
import numpy as np

from gptjax import config, masks, model, sharding
from gptjax.training import checkpoints, optimizer, state


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument("--shape", choices=benching.SHAPES, default="gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="on the disk to measure")
    given = parser.parse_args()
    if given.quick:
        given.shape, given.rounds = "packaged", 2
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        size, seconds = _measure(pathlib.Path(name), given)
    speeds = {
        what: benching.spread([size / 1e9 / each for each in own])
        for what, own in seconds.items()
    }
    for what, speed in speeds.items():
        print(
            f"{what}: {benching.text(benching.spread(seconds[what]))} s, "
            f"{benching.text(speed)} GB/s"
        )
    pairs = {
        f"{what} GB/s gptjax / torch": benching.ratio(
            seconds[f"torch, {what}"], seconds[f"gptjax, {what}"]
        )
        for what in ("restore", "training held up", "save")
    }
    benching.conclude(
        given.out,
        {
            "benchmark": "checkpoint",
            "shape": given.shape,
            "bytes": size,
            "seconds": {what: benching.spread(own) for what, own in seconds.items()},
            "gigabytes_per_second": speeds,
        },
        ratios=pairs,
    )


def _measure(
    folder: pathlib.Path, given: argparse.Namespace
) -> tuple[int, dict[str, list[float]]]:
    """The bytes of a state, and the seconds of everything that is done with it."""
    current, places = _state(benching.shape(given.shape))
    stored = jax.tree.leaves((current.params, current.opt_state))
    size = sum(leaf.nbytes for leaf in stored)
    opened = checkpoints.Checkpoints(folder / "gptjax", keep=1)
    parts = {
        "gptjax": _gptjax(opened, current, places),
        "torch": _torch(folder / "torch.pt", stored),
    }
    found = benching.results_in_turn(
        {name: lambda own=own: next(own) for name, own in parts.items()},
        rounds=given.rounds,
    )
    opened.close()
    seconds = {
        f"{name}, {what}": [taken[what] for _, taken in rounds]
        for name, rounds in found.items()
        for what in rounds[0][1]
    }
    return size, seconds


def _state(shape: model.Config) -> tuple[state.TrainState, state.TrainState]:
    """A state of random numbers, and where its arrays lie."""
    mesh = sharding.make_mesh()
    shapes = model.shapes(shape)
    settings = config.Optimizer(schedule="constant", weight_decay=0.1)
    schedule = optimizer.make_schedule(settings, steps=1)
    chain = optimizer.make_optimizer(settings, schedule, shapes)
    mask_shapes = masks.shapes(shapes, ((r".*", False),))
    places = state.shardings(mesh, shapes, mask_shapes, chain)
    params = jax.device_put(model.init(jax.random.key(0), shape), places.params)
    dense = masks.dense(params, ((r".*", False),))
    current = state.make_start(chain, places)(params, dense, 0)
    rng = np.random.default_rng(0)

    def random(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        drawn = rng.standard_normal(leaf.shape, np.float32)
        return jax.device_put(drawn, leaf.sharding)

    return jax.block_until_ready(jax.tree.map(random, current)), places


def _gptjax(
    opened: checkpoints.Checkpoints, current: state.TrainState, places: state.TrainState
) -> Iterator[dict[str, float]]:
    """Saves the state as that of one step after the other, and reads it back."""
    step = 0
    while True:
        step += 1
        numbered = state.TrainState(
            **{**vars(current), "step": jnp.asarray(step, jnp.int32)}
        )
        held, _ = benching.first_call(
            lambda now=numbered: opened.save(now, {}, valid_loss=None)
        )
        writing, _ = benching.first_call(opened.wait)
        reading, _ = benching.first_call(
            lambda at=step: jax.block_until_ready(opened.restore(at, current, places))
        )
        yield {"training held up": held, "save": held + writing, "restore": reading}


def _torch(path: pathlib.Path, stored: list[Any]) -> Iterator[dict[str, float]]:
    import torch

    # Copies: torch must not be handed memory that is JAX's.
    tensors = {str(n): torch.tensor(np.asarray(leaf)) for n, leaf in enumerate(stored)}
    while True:
        path.unlink(missing_ok=True)
        saving, _ = benching.first_call(lambda: torch.save(tensors, path))
        reading, _ = benching.first_call(lambda: torch.load(path))
        yield {"training held up": saving, "save": saving, "restore": reading}


if __name__ == "__main__":
    main()
