"""What masks cost: the masked step beside the dense one, and what rounds add to it.

    python scripts/bench_round.py [--shape gpt2] [--out FILE]

First two training steps take turns in one process: that of a run that prunes, and the
same one of a run without masks. Their memory is what the compiler states. Then a run in
rounds is taken apart: what it does between training steps (ranking, rewinding, saving,
evaluating), in seconds a round, and as a share of a round that trains as many steps as
configs/gpt2_prune.yaml says. The run itself trains only a few: the steps' seconds are
measured, their number is not waited for.
"""

import argparse
import collections
import contextlib
import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import benching
import jax

from gptjax import (
    assets,
    config,
    convert,
    data,
    model,
    pruning,
    sharding,
    training,
    tree,
)
from gptjax.convert import zipped
from gptjax.pruning import choosing, context, round_report, savings
from gptjax.training import checkpoints

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "gpt2_prune.yaml"
STEP, RANKING, EVALUATION = "training steps", "ranking", "evaluation"
END = "account at the end"
PARTS = (
    (choosing, "choose", RANKING),
    (training.Prepared, "load_params", "rewinding"),
    (checkpoints.Checkpoints, "__init__", "saving"),
    (checkpoints.Checkpoints, "save", "saving"),
    (checkpoints.Checkpoints, "wait", "saving"),
    (checkpoints.Checkpoints, "close", "saving"),
    (context.Context, "export", "saving"),
    (round_report, "write", "saving"),
    (round_report, "sizes", "counting"),
    (zipped, "weights_bytes", END),
    (training.Trainer, "evaluate", EVALUATION),
    (savings, "conclude", END),
)
"""The functions of a run by what they are done for; one inside another counts for
itself."""


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument("--shape", choices=benching.SHAPES, default="gpt2")
    parser.add_argument("--sequences", type=int, default=4, help="in a batch")
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--turns", type=int, default=7, help="of the two steps")
    parser.add_argument("--rounds", type=int, default=10, help="of the run")
    parser.add_argument("--steps", type=int, default=3, help="in each of its rounds")
    given = parser.parse_args()
    if given.quick:
        given.shape, given.turns, given.rounds, given.steps = "packaged", 2, 2, 2
        given.sequences, given.tokens = 2, 64
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = _source(folder / "model", given.shape)
        settings = _settings(given, source=source, out=folder / "run")
        step, ratios = _compare_steps(settings, given)
        run, shares = _take_apart(settings, step["seconds"]["masked"]["median"])
    ratios = shares | ratios
    main_name = "seconds masked step / dense step"
    ratios[main_name] = ratios.pop(main_name)
    benching.conclude(
        given.out,
        {
            "benchmark": "round",
            "shape": given.shape,
            "batch": [given.sequences, given.tokens],
            "dtype": given.dtype,
            "step": step,
            "run": run,
        },
        ratios=ratios,
    )


def _source(folder: pathlib.Path, shape: str) -> str:
    """A model folder of the shape, with random weights unless it is packaged."""
    if shape == "packaged":
        return shape
    own = benching.shape(shape)
    params = model.init(jax.random.key(0), own)
    convert.save(folder, own, params, like=assets.checkpoint())
    return str(folder)


def _settings(
    given: argparse.Namespace, *, source: str, out: pathlib.Path
) -> config.Run:
    return config.check(
        {
            "model": source,
            "out": str(out),
            "data": {
                "train": str(assets.text("austen.train")),
                "valid": str(assets.text("austen.test")),
                "sequence_tokens": given.tokens,
                "cache_dir": str(out.parent / "tokens"),
            },
            "training": {
                "steps": given.steps,
                "batch_sequences": given.sequences,
                "compute_dtype": given.dtype,
                "dropout": False,
                # As often in a round as by the config that the share is taken of.
                "checkpoint_every_steps": max(given.steps // 3, 1),
            },
            "evaluation": {"context_tokens": given.tokens, "limit_tokens": 4096},
            "pruning": {
                "fraction_per_round": 0.1,
                "rounds": given.rounds,
                "scope": "global",
                "rewind": {"to": "pretrained", "schedule": "restart"},
            },
        }
    )


def _compare_steps(
    settings: config.Run, given: argparse.Namespace
) -> tuple[benching.Figures, dict[str, benching.Figures]]:
    """Seconds and stated bytes of the step with masks and of that without."""
    makers = {
        "masked": functools.partial(_step, settings),
        # A run that does not prune has no masks: a scalar True for each leaf.
        "dense": functools.partial(
            _step, settings.model_copy(update={"pruning": None})
        ),
    }
    runs, memory, compiling = {}, {}, {}
    for name, make in makers.items():
        compiling[name], (runs[name], memory[name]) = benching.first_call(make)
    seconds = benching.in_turn(runs, rounds=given.turns)
    shapes = model.shapes(benching.shape(given.shape))
    params_bytes = sum(4 * leaf.size for leaf in tree.flatten(shapes).values())
    more = (memory["masked"] - memory["dense"]) / params_bytes
    figures = {
        "seconds": {name: benching.spread(own) for name, own in seconds.items()},
        "start_seconds": compiling,
        "bytes": memory,
        "parameters_bytes": params_bytes,
    }
    for name in makers:
        print(
            f"{name} step: {benching.text(figures['seconds'][name], digits=3)} s, "
            f"{memory[name] / 1e6:,.1f} MB stated by the compiler",
            flush=True,
        )
    return figures, {
        "bytes that masks add / bytes of the parameters": benching.spread([more]),
        "seconds masked step / dense step": benching.ratio(
            seconds["masked"], seconds["dense"]
        ),
    }


def _step(settings: config.Run) -> tuple[Callable[[], None], int]:
    """A function that takes one step of a run, and the bytes that it needs."""
    prepared = training.prepare(settings)
    trainer = prepared.trainer(schedule_steps=1000)
    current = trainer.start(prepared.load_params(), trainer.dense_masks(), 0)
    places = sharding.batch_sharding(trainer.mesh)
    with contextlib.closing(data.prefetch(trainer.batches(0), places)) as stream:
        batch, _ = next(iter(stream))
    key = trainer.stream_key(0)
    lowered = trainer.train_step.lower(current, batch, key)
    stated = lowered.compile().memory_analysis()

    def run():
        nonlocal current
        current, _ = jax.block_until_ready(trainer.train_step(current, batch, key))

    run()  # so that no turn compiles
    return run, stated.argument_size_in_bytes + stated.temp_size_in_bytes


class Clock:
    """The seconds of a run, each moment's for one part of one round.

    Attributes:
      round: the number of the one under way; None before the first.
      seconds: (round, part) -> seconds.
    """

    def __init__(self):
        self.round: int | None = None
        self.seconds: dict[tuple[int | None, str], float] = collections.Counter()
        self._parts, self._since = ["other"], time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside counts for `name`, or for the end of which it is part."""
        self.switch()
        self._parts.append(END if END in self._parts else name)
        try:
            yield
        finally:
            self.switch()
            self._parts.pop()

    def switch(self) -> None:
        """Counts the seconds since the last switch for the part that they were of."""
        now = time.perf_counter()
        self.seconds[self.round, self._parts[-1]] += now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """`function`, counted for a part, its arrays waited for."""

        @functools.wraps(function)
        def call(*args, **kwargs):
            if name == RANKING:
                self.switch()
                self.round = args[1].number
            with self.part(name):
                return jax.block_until_ready(function(*args, **kwargs))

        return call

    def in_round(self, number: int) -> dict[str, float]:
        """The seconds of each part of a round."""
        return {part: s for (own, part), s in self.seconds.items() if own == number}


class _TimedStep:
    """A jitted step whose calls are counted, each waited for."""

    def __init__(self, step: Any, clock: Clock):
        self._step, self._call = step, clock.timed(step, STEP)

    def __call__(self, *args):
        return self._call(*args)

    def __getattr__(self, name):
        return getattr(self._step, name)


@contextlib.contextmanager
def _watched() -> Iterator[Clock]:
    """A clock that everything in `PARTS` and every training step runs against."""
    clock = Clock()
    with contextlib.ExitStack() as restored:

        def put(owner, name, value):
            restored.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        for owner, name, part in PARTS:
            put(owner, name, clock.timed(getattr(owner, name), part))
        init = training.Trainer.__init__

        def init_timed(self, *args, **kwargs):
            init(self, *args, **kwargs)
            self.train_step = _TimedStep(self.train_step, clock)
            self.start = clock.timed(self.start, "rewinding")

        put(training.Trainer, "__init__", init_timed)
        yield clock
        clock.switch()


def _take_apart(
    settings: config.Run, step_seconds: float
) -> tuple[benching.Figures, dict[str, benching.Figures]]:
    """What a run in rounds does outside its training steps, and its share.

    Args:
      step_seconds: of a step alone. The run's own take longer: while it trains its few
        steps, the state before them is still being written.
    """
    with _watched() as clock:
        done = pruning.run(settings)
    rounds = [clock.in_round(report["round"]) for report in done.rounds[1:]]
    parts = sorted({part for own in rounds for part in own} - {STEP, END})
    seconds = {
        part: benching.spread([own.get(part, 0.0) for own in rounds]) for part in parts
    }
    outside = [
        sum(own.get(part, 0.0) for part in parts if part != EVALUATION)
        for own in rounds
    ]
    steps = config.load(CONFIG).training.steps
    training_seconds = steps * step_seconds
    for part, found in seconds.items():
        print(f"{part}: {benching.text(found, digits=3)} s a round")
    print(
        f"a training step: {step_seconds:.3f} s; {steps} of them, a round of "
        f"{CONFIG.name}, {training_seconds:,.0f} s\n"
        f"compilations of the step in {len(rounds)} rounds: {done.compilations}",
        flush=True,
    )
    figures = {
        "rounds": len(rounds),
        "compilations": done.compilations,
        "step_seconds": step_seconds,
        "seconds_of_a_round": seconds,
        "seconds_outside_steps": benching.spread(outside),
        "seconds_at_the_end": clock.in_round(len(rounds))[END],
        "extrapolated_to_steps": steps,
    }
    name = f"seconds outside steps / a round of {steps} steps"
    shares = [s / (s + training_seconds) for s in outside]
    return figures, {name: benching.spread(shares)}


if __name__ == "__main__":
    main()
