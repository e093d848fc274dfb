"""What a run says while it trains: metrics.jsonl, trackers, and the terminal."""

import contextlib
import datetime
import json
import pathlib
import sys
import time
from typing import Any

import rich.progress

from gptjax import config, files
from gptjax.training import trackers


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events of a run folder, and its trackers.

    Only the first of several processes writes.
    """

    def __init__(self, settings: config.Run, *, is_main: bool):
        folder = pathlib.Path(settings.out)
        self._trackers = trackers.Trackers(settings, folder)
        self._sent: set[tuple[Any, ...]] = set()
        self._path = folder / "metrics.jsonl"
        self._events = folder / "tensorboard"
        self._is_main = is_main
        self._writers: dict[str, Any] = {}

    def resume(self, phase: str, step: int) -> None:
        """Forgets what was logged of `phase` after `step`, which will come again."""
        if not self._is_main or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a killed process was writing
            if record["phase"] != phase or record["step"] <= step:
                kept.append(line + "\n")
            else:
                self._sent.add(_key(**record))
        files.write_text(self._path, "".join(kept))
        self._writer(phase, purge_step=step + 1)

    def write(self, phase: str, step: int, **values: float) -> None:
        """One JSON line, and one TensorBoard scalar for each value."""
        if not self._is_main:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")
        writer = self._writer(phase)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        is_again = _key(phase, step, **values) in self._sent
        self._trackers.write(phase, step, values, is_again=is_again)

    def close(self) -> None:
        """Flushes and closes the TensorBoard files and the trackers."""
        self._trackers.close()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, phase: str, purge_step: int | None = None) -> Any:
        # Imported when it is needed, which is after the first step: it takes a while.
        import tensorboardX

        if phase not in self._writers:
            self._writers[phase] = tensorboardX.SummaryWriter(
                str(self._events / phase), purge_step=purge_step
            )
        return self._writers[phase]


def _key(phase: str, step: int, **values: float) -> tuple[Any, ...]:
    """What tells a line of the log from all others."""
    return phase, step, *sorted(values)


class Progress:
    """A bar on a terminal, a plain line every so often elsewhere."""

    def __init__(self, title: str, *, start: int, end: int, is_main: bool):
        self._title, self._start, self._end = title, start, end
        self._began = time.monotonic()
        self._is_main = is_main
        self._bar = None
        if is_main and sys.stdout.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[status]}"),
                rich.progress.TimeRemainingColumn(),
                transient=True,
            )
            self._task = self._bar.add_task(
                title, total=end - start, status="compiling"
            )

    @contextlib.contextmanager
    def shown(self):
        """Shows the bar for as long as it is entered."""
        with self._bar if self._bar is not None else contextlib.nullcontext():
            yield self

    def step(self, step: int, values: dict[str, float] | None) -> None:
        """Says that `step` is done, with its values where they were measured."""
        if not self._is_main:
            return
        if self._bar is not None:
            fields = {} if values is None else {"status": _status(values)}
            self._bar.update(self._task, completed=step - self._start, **fields)
        elif values is not None:
            done, left = step - self._start, self._end - step
            seconds = (time.monotonic() - self._began) / done * left
            remaining = datetime.timedelta(seconds=round(seconds))
            print(
                f"{self._title} step {step}/{self._end} {_status(values)} "
                f"{remaining} left",
                flush=True,
            )

    def say(self, text: str) -> None:
        """Prints a line that stays, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self._is_main:
            print(text, flush=True)


def _status(values: dict[str, float]) -> str:
    # With what it is made of, or the last one of each of several tasks.
    losses = {"loss": values["loss"]} | {
        name.removesuffix("_loss"): value
        for name, value in values.items()
        if name.endswith("_loss")
    }
    parts = [
        " ".join(f"{name} {value:.4f}" for name, value in losses.items()),
        f"lr {values['learning_rate']:.2e}",
        f"{values['tokens_per_second']:,.0f} tokens/s",
    ]
    if "sparsity" in values:
        parts.append(f"sparsity {values['sparsity']:.2%}")
    if values.get("grown"):
        parts.append(f"{values['grown']:,} exchanged")
    return " ".join(parts)
