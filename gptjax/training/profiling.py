"""A trace of some training steps, and the operations that took their time."""

import dataclasses
import json
import pathlib
import shutil
import time

import jax

from gptjax import config, files
from gptjax.training import trace

_SHOWN = 12
_SOURCE_CHARACTERS = 72


class Profiler:
    """Traces the steps that a config asks for, if a phase trains them.

    The trace lies in the run folder's `profile/`, beside `operations.json`, which says
    what was traced: what stands there is not traced again, neither by a later phase
    nor by a continued run. Of several processes the first traces, its devices alone.
    """

    def __init__(
        self,
        wanted: config.Profile,
        folder: pathlib.Path,
        *,
        phase: str,
        is_main: bool,
    ):
        """Of one phase.

        Args:
          folder: the run folder.
        """
        self.folder = folder / "profile"
        self._done = self.folder / "operations.json"
        self._phase = phase
        self._wanted = wanted.model_dump()
        self._first, self._last = wanted.bounds() or (0, 0)
        self._is_wanted = (
            is_main
            and wanted.steps is not None
            and wanted.phase in (None, phase)
            and not self._is_done()
        )
        self._began: tuple[int, float] | None = None

    def is_due(self, step: int) -> bool:
        """Whether tracing begins with this step."""
        return self._is_wanted and step == self._first

    def start(self, step: int) -> None:
        """Begins; what the devices were given before should be done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        options = jax.profiler.ProfileOptions()
        # Each call of a Python function: much to write, and nothing of the devices.
        options.python_tracer_level = 0
        jax.profiler.start_trace(self.folder, profiler_options=options)
        self._began = step, time.monotonic()

    @property
    def is_tracing(self) -> bool:
        """Whether it has begun and not ended."""
        return self._began is not None

    @property
    def is_missed(self) -> bool:
        """Whether a trace of this phase is wanted, and has not been taken."""
        return self._is_wanted

    def is_last(self, step: int) -> bool:
        """Whether tracing ends with this step."""
        return step >= self._last

    def stop(self, step: int) -> str:
        """Ends after a step that is done; what to tell the user."""
        assert self._began is not None
        first, began = self._began
        seconds = time.monotonic() - began
        self.close()
        self._is_wanted = False
        (path,) = self.folder.rglob("*.xplane.pb")
        operations = trace.operations(path)
        files.write_json(
            self._done,
            {
                "wanted": self._wanted,
                "phase": self._phase,
                "steps": [first, step],
                "seconds": seconds,
                "operations": [dataclasses.asdict(each) for each in operations],
            },
        )
        view = path.with_name(path.name.replace(".xplane.pb", ".trace.json.gz"))
        return "\n".join(
            [
                f"profile of {self._phase}, steps {first} to {step}, "
                f"{seconds / (step - first + 1):.3f} s a step:",
                *_table(operations),
                f"  open {view} in https://ui.perfetto.dev, or all of it with "
                f"`pip install xprof; xprof --logdir {self.folder}`",
            ]
        )

    def close(self) -> None:
        """Ends a trace that is going on; nothing without one."""
        if self._began is not None:
            self._began = None
            jax.profiler.stop_trace()

    def _is_done(self) -> bool:
        try:
            record = json.loads(self._done.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return record["wanted"] == self._wanted


def _table(operations: list[trace.Operation]) -> list[str]:
    """The longest operations, a line each, with shares of the time of all."""
    total = sum(each.seconds for each in operations)
    lines = [f"  {'seconds':>9} {'share':>6} {'count':>7}  operation"]
    for each in operations[:_SHOWN]:
        source = each.source
        if len(source) > _SOURCE_CHARACTERS:
            source = "..." + source[-_SOURCE_CHARACTERS:]
        lines.append(
            f"  {each.seconds:9.4f} {each.seconds / total:6.1%} {each.count:7,}  "
            f"{each.name}  {source}".rstrip()
        )
    left = operations[_SHOWN:]
    if left:
        seconds = sum(each.seconds for each in left)
        count = sum(each.count for each in left)
        lines.append(
            f"  {seconds:9.4f} {seconds / total:6.1%} {count:7,}  {len(left)} others"
        )
    return lines
