"""A training step with a teacher beside it, with its scores kept on disk, without one.

    python scripts/bench_teacher.py [--shape gpt2] [--out FILE]

The three steps take turns in one process, each with batches of its own stream; the
teacher has the student's shape, as the dense model of a pruning run has. Memory is the
most that a few steps take in a process of their own. Then the packaged model is the
teacher of itself with half of its weights gone: how much of the divergence is left when
only the likeliest words are kept.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import benching
import jax
import jax.numpy as jnp
import numpy as np

from gptjax import assets, config, convert, data, masks, model, sharding, training
from gptjax.pruning import selection
from gptjax.pruning.criteria import magnitude
from gptjax.training import distillation, objectives, teacher_scores, utilization

ALONE, BESIDE, KEPT = RIVALS = ("no teacher", "teacher beside", "scores kept")
_BYTES_PER_TOKEN = 3.5
"""More than the packaged tokenizer makes of this text, so that it is long enough."""


def main() -> None:
    """Times the three steps, weighs them, and measures what is not kept."""
    parser = benching.parser(__doc__)
    parser.add_argument("--shape", choices=benching.SHAPES, default="packaged")
    parser.add_argument("--sequences", type=int, default=4, help="in a batch")
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--keep", type=int, default=64, help="likeliest words")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--alone", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.sequences, given.tokens, given.rounds = 2, 64, 2
    if given.alone:
        benching.show({"peak": _peak(given)})
        return
    with tempfile.TemporaryDirectory() as name:
        given.folder = pathlib.Path(name)
        _write(given)
        figures, ratios = _compare(given)
    figures["divergence"] = _divergences(given)
    benching.conclude(
        given.out,
        {"benchmark": "teacher", "shape": given.shape, **figures},
        ratios=ratios,
    )


def _write(given: argparse.Namespace) -> None:
    """The text of eight batches, and the model if it is not packaged."""
    text = assets.text("austen.train").read_text(encoding="utf-8")
    size = int(8 * given.sequences * given.tokens * _BYTES_PER_TOKEN)
    (given.folder / "train.txt").write_text(text[:size], encoding="utf-8")
    if given.shape != "packaged":
        own = benching.shape(given.shape)
        params = model.init(jax.random.key(0), own)
        like = assets.checkpoint()
        convert.save(given.folder / "model", own, params, like=like)


def _settings(given: argparse.Namespace, rival: str) -> config.Run:
    source = "packaged" if given.shape == "packaged" else str(given.folder / "model")
    teacher = {"teacher": source, "temperature": given.temperature}
    if rival == KEPT:
        kept = str(given.folder / "teacher")
        teacher |= {"cache_top_k": given.keep, "cache_dir": kept}
    return config.check(
        {
            "model": source,
            "out": str(given.folder / "run"),
            "data": {
                "train": str(given.folder / "train.txt"),
                "sequence_tokens": given.tokens,
                "cache_dir": str(given.folder / "tokens"),
            },
            "training": {"batch_sequences": given.sequences, "dropout": False},
            "distillation": None if rival == ALONE else teacher,
        }
    )


def _step(given: argparse.Namespace, rival: str) -> Callable[[], None]:
    """A function that reads a batch and takes a step."""
    prepared = training.prepare(_settings(given, rival))
    trainer = prepared.trainer(schedule_steps=1000)
    prepared.teach(trainer)
    current = trainer.start(prepared.load_params(), trainer.dense_masks(), 0)
    places = sharding.batch_sharding(trainer.mesh)
    stream = data.prefetch(trainer.batches(0), places)
    key = trainer.stream_key(0)

    def run():
        nonlocal current
        batch, _ = next(stream)
        current, _ = jax.block_until_ready(trainer.take_step(current, batch, key))

    return run


def _compare(
    given: argparse.Namespace,
) -> tuple[benching.Figures, dict[str, benching.Figures]]:
    """Seconds and peaks of the three, and what the kept scores take."""
    reading, _ = benching.first_call(lambda: _step(given, KEPT))
    (made,) = given.folder.glob("teacher/*/scores.bin")
    prepared = training.prepare(_settings(given, KEPT))
    tokens = len(prepared.texts.train) // given.tokens * given.tokens
    per_token = made.stat().st_size / tokens
    print(
        f"read and kept: {tokens:,} tokens in {reading:.1f} s, compiling and loading "
        f"included; {per_token:.0f} bytes a token, {per_token / 1e3:.2f} GB a million",
        flush=True,
    )
    seconds = benching.in_turn(
        {rival: _step(given, rival) for rival in RIVALS}, rounds=given.rounds
    )
    names = ("shape", "sequences", "tokens", "keep", "temperature", "folder")
    arguments = [f"--{name}={getattr(given, name)}" for name in names]
    peaks = {
        rival: benching.alone(__file__, f"--alone={rival}", *arguments)["peak"]
        for rival in RIVALS
    }
    for rival in RIVALS:
        took = benching.text(benching.spread(seconds[rival]), digits=3)
        print(f"{rival}: {took} s a step, peak {peaks[rival] / 1e6:,.0f} MB")
    figures = {
        "batch": [given.sequences, given.tokens],
        "kept": given.keep,
        "bytes_per_token": per_token,
        "reading_seconds": reading,
        "seconds": {name: benching.spread(own) for name, own in seconds.items()},
        "peak_bytes": peaks,
    }
    ratios = {
        f"peak memory {name} / {ALONE}": benching.ratio([peaks[name]], [peaks[ALONE]])
        for name in (BESIDE, KEPT)
    }
    pairs = ((BESIDE, ALONE), (KEPT, ALONE), (KEPT, BESIDE))
    for above, below in pairs:
        found = benching.ratio(seconds[above], seconds[below])
        ratios[f"step seconds {above} / {below}"] = found
    return figures, ratios


def _peak(given: argparse.Namespace) -> int:
    """The most bytes that three steps take above this process's imports."""
    before = utilization.of_process("VmRSS")
    run = _step(given, given.alone)
    run()
    # From here on the peak is that of steps, and not of loading or compiling.
    utilization.return_freed()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        run()
    on_device = utilization.of_devices("peak_bytes_in_use")
    return on_device or utilization.of_process("VmHWM") - before


def _divergences(given: argparse.Namespace) -> dict[str, benching.Figures]:
    """t^2 KL of a pruned model from the whole one: all of it, and what is kept."""
    own, params = convert.load(assets.checkpoint(), dtype=jnp.float32)
    prunable = config.Pruning(sparsities=(0.5,)).prunable
    pruned = selection.select(
        magnitude.scores(params),
        masks.dense(params, prunable),
        pattern="unstructured",
        scope="global",
        sparsities=0.5,
    )
    student = masks.apply(params, pruned)
    tokenizer = data.Tokenizer(assets.checkpoint())
    text = assets.text("shakespeare.valid").read_text(encoding="utf-8")
    count = 4 if given.quick else 32
    ids = tokenizer.backend.encode(text[: count * 1024]).ids[: count * 256]
    tokens = np.array(ids, np.int32).reshape(count, 256)
    batch = {"tokens": tokens, "labels": tokens}
    found = {}
    for temperature in (1.0, 2.0):
        settings = config.Distillation(
            teacher="packaged", weight=1.0, temperature=temperature
        )
        whole = distillation.make(settings, objectives.LANGUAGE, own, own, name="it")
        values = {"all": _loss(whole, own, student, batch, params)}
        for keep in (16, 64, 256):
            kept = _kept(own, params, tokens, keep, temperature)
            objective = distillation.Recollection(temperature, 1.0)
            values[str(keep)] = _loss(objective, own, student, batch | kept)
        found[f"temperature {temperature:g}"] = values
        shares = ", ".join(
            f"{keep} words {value / values['all']:.0%}"
            for keep, value in values.items()
            if keep != "all"
        )
        print(
            f"temperature {temperature:g}: t^2 KL {values['all']:.4f} nats a token, of "
            f"which is kept with {shares}"
        )
    return found


def _kept(
    own: model.Config, params: Any, tokens: np.ndarray, keep: int, temperature: float
) -> dict[str, jax.Array]:
    @jax.jit
    def read(params, tokens):
        compute = model.Compute()
        x_BTD = model.hidden(own, params, tokens, compute=compute)
        return model.likeliest(
            own, params, x_BTD, count=keep, temperature=temperature, compute=compute
        )

    ids, log_chances = read(params, tokens)
    # As they are stored.
    log_chances = log_chances.astype(jnp.float16)
    return {teacher_scores.IDS: ids, teacher_scores.LOG_CHANCES: log_chances}


def _loss(
    objective: Any, own: model.Config, params: Any, batch: Any, frozen: Any = None
) -> float:
    @jax.jit
    def loss(params, batch, frozen):
        return objective.loss(
            own, params, batch, objective.scale(batch), compute=model.Compute(),
            dropout_key=None, frozen=frozen,
        )  # fmt: skip

    return float(loss(params, batch, frozen))


if __name__ == "__main__":
    main()
