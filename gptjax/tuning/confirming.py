"""Whether the best values are better, or were lucky: both trained with other seeds."""

import dataclasses
import math
import statistics

from gptjax import config, errors, sharding
from gptjax.tuning import results as results_lib
from gptjax.tuning import study as study_lib
from gptjax.tuning import trial as trial_lib


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """What each seed gave.

    Attributes:
      best, own: of the best values and of the config's own, one each seed.
    """

    measure: str
    seeds: tuple[int, ...]
    best: tuple[float, ...]
    own: tuple[float, ...]

    def sentence(self) -> str:
        """What the seeds say, in a line."""
        pairs = zip(self.best, self.own, strict=True)
        ahead = sum(best < own for best, own in pairs)
        return (
            f"With seeds {', '.join(map(str, self.seeds))}, which the search did not "
            f"use: {self.measure} {_spread(self.best)} with the best values, "
            f"{_spread(self.own)} with the config's own; the best ones ahead in "
            f"{ahead} of {len(self.seeds)}."
        )


def confirm(study: study_lib.Study, results: results_lib.Results) -> Confirmed | None:
    """Trains with the seeds of `search.confirm_seeds`, or goes on with that.

    None where there are none, where nothing is to be confirmed, or while another
    process does it.
    """
    best, own = results.best, results.own
    if not study.search.confirm_seeds or best is None or own in (None, best):
        return None
    folder = study.folder / "confirmed"
    lock = study_lib.claim(folder)
    if lock is None:
        return None
    found: dict[str, list[float]] = {"best": [], "own": []}
    with lock:
        for seed in study.search.confirm_seeds:
            for name, row in (("best", best), ("own", own)):
                out = folder / f"trial-{row['trial']:04d}-seed-{seed}"
                sharding.say(f"confirming: {name}, seed {seed}")
                settings = trial_lib.settings_of(study, row["values"], out)
                found[name].append(_value(_seeded(settings, seed), results.measure))
                if study.search.keep_trials == "best":
                    trial_lib.clear(out)
    return Confirmed(
        results.measure,
        study.search.confirm_seeds,
        tuple(found["best"]),
        tuple(found["own"]),
    )


def _seeded(settings: config.Run, seed: int) -> config.Run:
    return settings.model_copy(update={"seed": seed})


def _value(settings: config.Run, measure: str) -> float:
    known = trial_lib.finished(settings)
    try:
        return (known or trial_lib.finish(settings, concludes=False))[measure]
    except errors.Diverged:
        return math.inf


def _spread(values: tuple[float, ...]) -> str:
    if not all(map(math.isfinite, values)):
        return "diverged"
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean
