"""What pruning saved, measured: step and decode time, dense against pruned."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gptjax import data, generation, masks, sharding, training
from gptjax.training import state as state_lib

REPEATS = 5
"""Timed pairs, dense and pruned in turn, after one that is not counted."""
DECODED_TOKENS = 64


def measure(
    prepared: training.Prepared,
    trainer: training.Trainer,
    params: Any,
    load_masks: Callable[[], masks.Masks],
) -> dict[str, Any]:
    """Seconds of a training step and of decoding, with and without the zeros.

    The two are timed in turn on the same compiled programs, and the medians
    reported, so that the ratio holds when the machine's speed drifts. Stock dense
    kernels multiply zeros like other numbers: no ratio below 1 is to be expected
    from them, and the report says so.

    Args:
      params: the pruned params.
      load_masks: gives their masks, newly placed each time: a step donates them.

    Returns:
      step_seconds_dense, step_seconds_pruned, decode_seconds_dense,
      decode_seconds_pruned: medians. step_ratios, decode_ratios: pruned over dense
      for each pair, which tell noise from a difference.
    """
    timed = {
        "decode": _time_decode(prepared, params),
        "step": _time_step(trainer, params, load_masks),
    }
    figures = {}
    for what, (dense, pruned) in timed.items():
        figures[f"{what}_seconds_dense"] = statistics.median(dense)
        figures[f"{what}_seconds_pruned"] = statistics.median(pruned)
        figures[f"{what}_ratios"] = [b / a for a, b in zip(dense, pruned, strict=True)]
    return figures


def samples(prepared: training.Prepared, params: Any) -> dict[str, str] | None:
    """What the source model and the pruned one write after the config's prompt.

    The same seed, temperature 0.8 and the 40 likeliest tokens for both.
    """
    protocol = prepared.settings.evaluation
    if protocol.sample_prompt is None:
        return None
    prompt = prepared.tokenizer.encode(protocol.sample_prompt)

    def write(params):
        (tokens,) = generation.generate(
            prepared.model_config,
            params,
            [prompt],
            max_new_tokens=protocol.sample_tokens,
            temperature=0.8,
            top_k=40,
            seed=prepared.settings.seed,
            mesh=prepared.mesh,
        )
        return prepared.tokenizer.decode(tokens)

    return {
        "prompt": protocol.sample_prompt,
        "before": write(prepared.load_params()),
        "after": write(params),
    }


def _time_decode(
    prepared: training.Prepared, pruned: Any
) -> tuple[list[float], list[float]]:
    prompt = np.asarray(prepared.train.ids[:8]).tolist()
    tokens = min(DECODED_TOKENS, prepared.model_config.n_positions - len(prompt))

    def decode(params):
        generation.generate(
            prepared.model_config,
            params,
            [prompt],
            max_new_tokens=tokens,
            greedy=True,
            mesh=prepared.mesh,
        )

    dense = prepared.load_params()
    return _alternate(decode, lambda: dense, lambda: pruned)


def _time_step(
    trainer: training.Trainer, params: Any, load_masks: Callable[[], masks.Masks]
) -> tuple[list[float], list[float]]:
    places = sharding.batch_sharding(trainer.mesh)
    with contextlib.closing(data.prefetch(trainer.batches(0), places)) as stream:
        batch, _ = next(iter(stream))
    key = trainer.stream_key(0)
    # One state for both, since two may not fit: the steps donate it back and forth.
    current = state_lib.start(
        params, load_masks(), trainer.optimizer, step=0, mesh=trainer.mesh
    )

    def step(masks_now):
        nonlocal current
        current = dataclasses.replace(current, masks=masks_now)
        current, metrics = trainer.train_step(current, batch, key)
        jax.block_until_ready(metrics)

    def placed(make):
        # Scalars, too: a step that is handed another kind of array compiles again.
        return lambda: jax.device_put(make(), trainer.places.masks)

    return _alternate(step, placed(trainer.dense_masks), placed(load_masks))


def _alternate(
    run: Callable[[Any], None], dense: Callable[[], Any], pruned: Callable[[], Any]
) -> tuple[list[float], list[float]]:
    """Seconds of `run` on what each of the other two gives, in turn, pair by pair."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 1):
        for make, taken in zip((dense, pruned), seconds, strict=True):
            argument = jax.block_until_ready(make())
            began = time.perf_counter()
            run(argument)
            if repeat:
                taken.append(time.perf_counter() - began)
    return seconds
