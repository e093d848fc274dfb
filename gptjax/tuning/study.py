"""The study that several processes share: which trial is whose, and what came of it.

A trial has a folder, and whoever works on it holds a lock there. A trial that is under
way by the study and whose lock is free was left by a process that is gone: the next
that asks takes it up again. So the folder must lie where locks hold between the
machines that share it, as they do on a disk or on NFS.
"""

import contextlib
import dataclasses
import fcntl
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from gptjax import config, errors, files, training
from gptjax.pruning import plan
from gptjax.tuning import spaces

NAME = "study.name"
"""Of the file in the folder that holds the study's name in its storage."""
JOURNAL = "study.journal"
"""Of the storage where a config names none."""


def library() -> Any:
    """optuna, told to be quiet.

    Raises:
      UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise errors.UserError('tune needs: pip install "gptjax[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@dataclasses.dataclass(frozen=True)
class Claimed:
    """A trial that this process works on, until `lock` is closed.

    Attributes:
      trial: optuna's.
      values: of the config's dotted keys.
      reported: the steps of which its study knows an evaluation.
    """

    trial: Any
    values: dict[str, Any]
    reported: frozenset[int]
    folder: pathlib.Path
    lock: IO[str]


class Study:
    """A search's trials, in a storage that other processes may write to as well.

    Attributes:
      own: the config's own values by dotted keys; None if they lie outside.
    """

    def __init__(self, settings: config.Run, parameters: tuple[spaces.Parameter, ...]):
        """Opens the study of a config, or makes it; to be called under `locked`.

        Raises:
          UserError: a storage that cannot be opened, or holds another search of this
            name; a grid that is too large.
        """
        assert settings.search is not None
        self._optuna = library()
        self.settings, self.parameters = settings, parameters
        self.search = settings.search
        self.folder = pathlib.Path(settings.out)
        self._storage = _open(self._optuna, self.search.storage, self.folder)
        self.optuna_study = self._made()
        own = spaces.own_values(self.parameters)
        self.own = own and self.values(own)
        self._enqueue([] if own is None else [own])

    def _made(self) -> Any:
        """The folder's study; a storage that it shares may hold those of others.

        It is called like the folder, since hyperband chooses by the name, too.
        """
        path, name = self.folder / NAME, self.folder.resolve().name
        is_ours = self.search.storage is None or path.exists()
        if path.exists():
            name = path.read_text(encoding="utf-8")
        try:
            made = self._optuna.create_study(
                study_name=name,
                storage=self._storage,
                pruner=self._make_pruner(),
                direction="minimize",
                load_if_exists=is_ours,
            )
        except self._optuna.exceptions.DuplicatedStudyError as error:
            raise errors.UserError(
                f"search.storage: {self.search.storage} holds a search called {name} "
                "of another folder; give `out` another name"
            ) from error
        files.write_text(path, name)
        return made

    def _enqueue(self, first: list[dict[str, Any]]) -> None:
        """Puts first what is to be tried whatever a sampler says.

        What has failed is tried again: its reason may be mended.
        """
        if self.search.sampler == "grid":
            every = spaces.grid(self.parameters)
            first += [each for each in every if each not in first]
            if len(first) > self.search.trials:
                raise errors.UserError(
                    f"search.trials: {self.search.trials} are fewer than the grid's "
                    f"{len(first)} combinations"
                )
        failed = self._optuna.trial.TrialState.FAIL
        known = [
            each.system_attrs.get("fixed_params", each.params)
            for each in self.trials()
            if each.state != failed
        ]
        for values in first:
            if values not in known:
                self.optuna_study.enqueue_trial(values)

    def trials(self) -> list[Any]:
        """All of them, as optuna's frozen trials, by their number."""
        return self.optuna_study.get_trials(deepcopy=False)

    def forget(self) -> None:
        """Removes the study, its trials and its config; to be called under `locked`."""
        self._optuna.delete_study(
            study_name=self.optuna_study.study_name, storage=self._storage
        )
        shutil.rmtree(self.folder / "trials", ignore_errors=True)
        own = ("config.yaml", training.environment.NAME, NAME, JOURNAL, "trials.csv")
        for name in own:
            (self.folder / name).unlink(missing_ok=True)

    def next(self) -> Claimed | None:
        """A trial to work on: one that was left, or else a new one; None: enough."""
        state = self._optuna.trial.TrialState
        with locked(self.folder):
            trials = self.trials()
            for frozen in trials:
                if frozen.state == state.RUNNING:
                    lock = claim(self.trial_folder(frozen.number))
                    if lock is not None:
                        return self._resumed(frozen.number, lock)
            begun = [t for t in trials if t.state not in (state.FAIL, state.WAITING)]
            are_waiting = any(t.state == state.WAITING for t in trials)
            if len(begun) >= self.search.trials or (
                self.search.sampler == "grid" and not are_waiting
            ):
                return None
            # Of the trial's number: a sampler that starts anew with the process would
            # draw again what it drew before.
            self.optuna_study.sampler = self._make_sampler(len(trials))
            trial = self.optuna_study.ask()
            lock = claim(self.trial_folder(trial.number))
            assert lock is not None
            return self._claimed(trial, lock)

    def _resumed(self, number: int, lock: IO[str]) -> Claimed:
        study_id = self._storage.get_study_id_from_name(self.optuna_study.study_name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(
            study_id, number
        )
        self.optuna_study.sampler = self._make_sampler(number)
        known = self._storage.get_trial(trial_id).intermediate_values
        trial = self._optuna.trial.Trial(self.optuna_study, trial_id)
        return self._claimed(trial, lock, reported=frozenset(known))

    def _claimed(
        self, trial: Any, lock: IO[str], *, reported: frozenset[int] = frozenset()
    ) -> Claimed:
        drawn = {each.key: each.suggest(trial) for each in self.parameters}
        folder = self.trial_folder(trial.number)
        return Claimed(trial, self.values(drawn), reported, folder, lock)

    def tell(self, trial: Any, value: float | None = None, *, state: str) -> None:
        """Ends a trial: `COMPLETE` with its value, `PRUNED` or `FAIL`."""
        ended = self._optuna.trial.TrialState[state]
        self.optuna_study.tell(trial, value, state=ended)

    def values(self, params: dict[str, Any]) -> dict[str, Any]:
        """The values by dotted keys that a trial's parameters stand for."""
        return {each.key: each.value(params[each.key]) for each in self.parameters}

    def trial_folder(self, number: int) -> pathlib.Path:
        """The run folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def _make_sampler(self, number: int) -> Any:
        mixed = np.random.SeedSequence([self.search.seed, number])
        seed = int(mixed.generate_state(1)[0])
        samplers = self._optuna.samplers
        if self.search.sampler != "tpe":
            return samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what optuna may still change
            return samplers.TPESampler(
                seed=seed,
                n_startup_trials=self.search.startup_trials,
                # Others' trials under way are not tried twice.
                constant_liar=True,
            )

    def _make_pruner(self) -> Any:
        pruners, search = self._optuna.pruners, self.search
        first = max(search.warmup_steps, 1)
        if pruner_of(self.settings) == "median":
            return pruners.MedianPruner(
                n_startup_trials=search.startup_trials,
                n_warmup_steps=search.warmup_steps,
            )
        if pruner_of(self.settings) == "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=first)
        if pruner_of(self.settings) == "hyperband":
            return pruners.HyperbandPruner(
                min_resource=first,
                max_resource=max(
                    plan.phases(self.settings) * self.settings.training.steps, first
                ),
            )
        return pruners.NopPruner()


def _trained_phases(settings: config.Run) -> int:
    """How many of a run's phases train, where it has steps."""
    pruning = settings.pruning
    if pruning is None:
        return 1
    if pruning.structured:
        return len(pruning.structured)
    return sum(each.start < each.end for each in plan.rounds(settings))


def pruner_of(settings: config.Run) -> str:
    """`search.pruner`, the default filled in.

    Raises:
      UserError: one that would never see an evaluation.
    """
    assert settings.search is not None
    every, steps = settings.training.evaluate_every_steps, settings.training.steps
    # The end of the last is what the trial comes to, and no evaluation on its way.
    has_rounds = bool(steps) and _trained_phases(settings) > 1
    has_some = has_rounds or 0 < every < steps
    pruner = settings.search.pruner
    if pruner is None:
        return "median" if has_some else "none"
    if pruner != "none" and not has_some:
        raise errors.UserError(
            f"search.pruner: {pruner} compares evaluations on the way, and there are "
            f"none; set training.evaluate_every_steps below training.steps {steps}"
        )
    return pruner


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from choosing a trial, writing results or clearing away."""
    with (folder / config.STUDY_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def claim(folder: pathlib.Path) -> IO[str] | None:
    """The lock of a folder, held until it is closed; None where another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".claim").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _open(optuna: Any, name: str | None, folder: pathlib.Path) -> Any:
    if name is not None and "://" in name:
        try:
            return optuna.storages.RDBStorage(name)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise errors.UserError(f"search.storage: {name}: {reason}") from error
    # Absolute: its lock is a link to it, which optuna follows from where that lies.
    path = (folder / JOURNAL if name is None else pathlib.Path(name)).resolve()
    journal = optuna.storages.journal
    lock = journal.JournalFileSymlinkLock(str(path))
    try:
        backend = journal.JournalFileBackend(str(path), lock_obj=lock)
        lock.acquire()
        try:
            _drop_half_line(path)
        finally:
            lock.release()
        return optuna.storages.JournalStorage(backend)
    except (OSError, ValueError, KeyError) as error:
        raise errors.UserError(f"search.storage: {path}: {error}") from error


def _drop_half_line(path: pathlib.Path) -> None:
    """Ends a journal with a whole line, where a machine went down in the midst of one.

    What is written next would be one with the half line, and all would be lost.
    """
    held = path.read_bytes()
    whole = held.rfind(b"\n") + 1
    if whole < len(held):
        with path.open("r+b") as file:
            file.truncate(whole)
