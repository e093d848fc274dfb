"""A run from its config: the folder, the model, the texts, the Trainer; and `train`."""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import omegaconf
from jax.sharding import Mesh

from gptjax import config, convert, data, errors, evaluation, files, model, sharding
from gptjax.training import heads
from gptjax.training.fit import Phase, fit
from gptjax.training.trainer import Trainer

# What may differ when a run is continued: it changes where and how fast, not what.
_FREE_TO_CHANGE = (
    "out",
    "mesh",
    "data.cache_dir",
    "data.workers",
    "training.log_every_steps",
    "training.keep_checkpoints",
    "training.profile",
)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What every kind of run starts from.

    Attributes:
      folder: the run folder.
      source: the Hugging Face folder of the pretrained model.
    """

    settings: config.Run
    folder: pathlib.Path
    source: pathlib.Path
    model_config: model.Config
    mesh: Mesh
    tokenizer: data.Tokenizer
    train: data.Tokens | data.Examples
    valid: data.Tokens | data.Examples | None

    def trainer(self, *, schedule_steps: int) -> Trainer:
        """The run's Trainer, with a learning-rate schedule of that length."""
        return Trainer(
            self.settings,
            self.model_config,
            self.mesh,
            train=self.train,
            valid=self.valid,
            schedule_steps=schedule_steps,
        )

    def read(self, text: config.Source) -> data.Tokens:
        """The tokens of a further text, cut as the run's own are."""
        return data.tokenize(
            text,
            self.tokenizer,
            **_reading(self.settings, self.model_config.vocab_size),
        )

    def load_params(self, folder: pathlib.Path | None = None) -> Any:
        """The float32 params of a model folder (the source), on the mesh.

        A classifier that the folder has not is made anew, by the run's seed.
        """
        found, params = self._load(folder or self.source)
        return heads.fit(
            params, found, self.model_config, self.mesh, seed=self.settings.seed
        )

    def teach(self, trainer: Trainer, dense: pathlib.Path | None = None) -> None:
        """Gives a Trainer the teacher of the config's `distillation`, if it has one.

        Args:
          dense: the folder of the model that `dense` stands for; None: there is none
            yet, and no teacher if that is the one.

        Raises:
          UserError: a teacher that does not load or does not fit.
        """
        wanted = self.settings.distillation
        if wanted is None or trainer.is_taught:
            return
        folder, name = dense, wanted.teacher
        if name != "dense":
            folder = convert.resolve(name)
        if folder is None:
            return
        trainer.teach(name, *self._load(folder))

    def check_teacher(self, trainer: Trainer) -> None:
        """Raises a `UserError` unless the config's teacher fits, before any work."""
        wanted = self.settings.distillation
        if wanted is None:
            return
        name, found = wanted.teacher, self.model_config
        pruning = self.settings.pruning
        if pruning is not None and pruning.schedule != "iterative":
            # Round 0 does not train: the dense model is the one that came.
            found = convert.read_config(self.source)
        if name != "dense":
            folder = convert.resolve(name)
            found = convert.read_config(folder)
            cache = data.cache_folder(self.settings.data.cache_dir)
            other = data.Tokenizer(folder).facts(cache).digest
            if self.tokenizer.facts(cache).digest != other:
                raise errors.UserError(
                    f"distillation.teacher: {name}: its tokenizer is not the "
                    "student's; their scores are of other tokens"
                )
        if found.n_positions < self.settings.data.sequence_tokens:
            raise errors.UserError(
                f"distillation.teacher: {name}: n_positions {found.n_positions} are "
                f"fewer than data.sequence_tokens {self.settings.data.sequence_tokens}"
            )
        trainer.check_teacher(name, found)

    def _load(self, folder: pathlib.Path) -> tuple[model.Config, Any]:
        return convert.load(
            folder,
            dtype=jnp.float32,
            shardings=lambda shapes: sharding.param_shardings(self.mesh, shapes),
        )

    def export(self, folder: pathlib.Path, params: Any) -> None:
        """Writes params as a Hugging Face folder with the source's tokenizer."""
        convert.save(folder, self.model_config, params, like=self.source)


def prepare(settings: config.Run) -> Prepared:
    """Opens the model and the texts of a run; the cheap checks come first."""
    if settings.data.train is None:
        raise errors.UserError("data.train: missing; a run needs texts to train on")
    mesh = sharding.make_mesh(**settings.mesh.model_dump())
    source = convert.resolve(settings.model)
    model_config = convert.read_config(source)
    tokenizer = data.Tokenizer(settings.tokenizer or source)
    facts = tokenizer.facts(data.cache_folder(settings.data.cache_dir))
    data.check_tokenizer(
        facts, model_config.vocab_size, settings.tokenizer or settings.model
    )
    given = _reading(settings, model_config.vocab_size)
    train: data.Tokens | data.Examples
    valid: data.Tokens | data.Examples | None = None
    _check_head(settings, model_config)
    if settings.task.kind == "classification":
        known = heads.known_labels(model_config, settings.task.name)
        train, valid = _read_examples(settings, tokenizer, known, given)
        pad_id = data.padding_id(facts, settings.tokenizer or settings.model)
        model_config = heads.with_classifier(
            model_config, settings.task.name, train.labels, pad_id
        )
    else:
        model_config = dataclasses.replace(model_config, classifiers=())
        train = data.tokenize(settings.data.train, tokenizer, **given)
        if settings.data.valid is not None:
            valid = data.tokenize(settings.data.valid, tokenizer, **given)
    return Prepared(
        settings=settings,
        folder=pathlib.Path(settings.out),
        source=source,
        model_config=model_config,
        mesh=mesh,
        tokenizer=tokenizer,
        train=train,
        valid=valid,
    )


def _check_head(settings: config.Run, model_config: model.Config) -> None:
    """Raises a `UserError` where a run needs scores of tokens and has none."""
    is_language = settings.task.kind == "language"
    needs = is_language or settings.task.language_weight or settings.pruning is not None
    has = model_config.tie_word_embeddings or (
        is_language and not model_config.classifiers
    )
    if needs and not has:
        raise errors.UserError(
            f"{settings.model}: a classifier without tied embeddings has no scores of "
            "the next token, which language modelling, task.language_weight and "
            "pruning (its calibration and timing) read"
        )


def _reading(settings: config.Run, vocab_size: int) -> dict[str, Any]:
    """How a run's texts become tokens: the keywords of `data.tokenize`."""
    return {
        "append_eos": settings.data.append_eos,
        "workers": settings.data.workers,
        "cache_dir": settings.data.cache_dir,
        "vocab_size": vocab_size,
        "progress": jax.process_index() == 0,
    }


def _read_examples(
    settings: config.Run,
    tokenizer: data.Tokenizer,
    labels: tuple[str, ...] | None,
    given: dict[str, Any],
) -> tuple[data.Examples, data.Examples]:
    """Labelled texts to train and to validate on.

    Args:
      labels: those of the model; None: those of the training texts.
    """
    train = data.read_examples(
        settings.data.train,
        tokenizer,
        labels=labels,
        keep_texts=settings.data.augmentation is not None,
        **given,
    )
    if settings.data.valid is None:
        train, valid = data.divide(
            train, settings.data.valid_fraction, seed=settings.seed
        )
    else:
        valid = data.read_examples(
            settings.data.valid, tokenizer, labels=train.labels, **given
        )
    if settings.data.limit is not None:
        train = data.limit(train, settings.data.limit, seed=settings.seed)
    return train, valid


@contextlib.contextmanager
def run_folder(settings: config.Run) -> Iterator[pathlib.Path]:
    """The run's folder, held against other processes for as long as it is entered.

    Raises:
      UserError: another process is at work in it, or it holds a run with another
        config.
    """
    folder = pathlib.Path(settings.out)
    if jax.process_index() > 0:
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise errors.UserError(
            f"out: {folder} cannot be written: {error.strerror}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.UserError(
                f"{folder}: another process is at work in this run folder"
            ) from error
        config_path = folder / "config.yaml"
        is_new = not config_path.exists()
        _check_same_run(config_path, settings)
        try:
            yield folder
        except errors.UserError:
            # A run that never began must not hold its folder against a mended config.
            if is_new and not _has_begun(folder):
                config_path.unlink(missing_ok=True)
            raise


def _has_begun(folder: pathlib.Path) -> bool:
    """Whether a run folder holds more than its config and lock."""
    return any(path.name not in ("config.yaml", ".lock") for path in folder.iterdir())


def _check_same_run(path: pathlib.Path, settings: config.Run) -> None:
    """Writes the resolved config, or compares with the one that is there."""
    if path.exists():
        old, new = (
            _leaves(omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create(text)))
            for text in (path.read_text(encoding="utf-8"), config.dump(settings))
        )
        for key in sorted({*old, *new}):
            if any(
                key == free or key.startswith(free + ".") for free in _FREE_TO_CHANGE
            ):
                continue
            before, now = old.get(key), new.get(key)
            if before != now:
                raise errors.UserError(
                    f"{path}: this folder holds a run with {key} {before}, not {now}; "
                    "set it back to go on with that run, or choose another `out`"
                )
    files.write_text(path, config.dump(settings))


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted keys; what lies in a list is one value."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    found = {}
    for name, value in node.items():
        found |= _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    return found


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train` leaves.

    Attributes:
      folder: the run folder.
      export: the trained model as a Hugging Face folder.
      summary: what `summary.json` holds.
    """

    folder: pathlib.Path
    export: pathlib.Path
    summary: dict[str, Any]


def describe(result: evaluation.Result | None) -> dict[str, Any] | None:
    """A result with its protocol, as it stands in the JSON of a run folder."""
    return None if result is None else result.to_json()


def start_summary(prepared: Prepared, trainer: Trainer) -> dict[str, Any]:
    """What is known before any training; measured once, then read from the folder."""
    path = prepared.folder / "summary.json"
    known = path.exists()
    # Or one process could find what another has just written, and go ahead of it.
    sharding.sync("summary sought")
    if known:
        return json.loads(path.read_text(encoding="utf-8"))
    start = None
    if prepared.valid is not None:
        start = describe(trainer.evaluate(prepared.load_params()))
    summary = {
        "model": prepared.settings.model,
        "parameters": trainer.parameters(),
        "start": start,
    }
    write_summary(prepared, summary)
    return summary


def write_summary(prepared: Prepared, summary: dict[str, Any]) -> None:
    """Writes `summary.json`, and returns when every process may read it."""
    if jax.process_index() == 0:
        files.write_json(prepared.folder / "summary.json", summary)
    sharding.sync("summary")


def train(settings: config.Run) -> Trained:
    """Fine-tunes a model as its config says, or goes on where it was interrupted.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    with run_folder(settings) as folder:
        prepared = prepare(settings)
        trainer = prepared.trainer(schedule_steps=settings.training.steps)
        if settings.distillation is not None and (
            settings.distillation.teacher == "dense"
        ):
            raise errors.UserError(
                "distillation.teacher: dense is what round 0 of a pruning run ends "
                "with; to train, name a model"
            )
        prepared.check_teacher(trainer)
        summary = start_summary(prepared, trainer)
        prepared.teach(trainer)
        state, result = fit(
            trainer,
            Phase(name="train", start=0, end=settings.training.steps),
            load_params=prepared.load_params,
            weight_masks=trainer.dense_masks(),
        )
        prepared.export(folder / "export", state.params)
        summary = {**summary, "end": describe(result)}
        write_summary(prepared, summary)
        trainer.log.close()
    return Trained(folder, folder / "export", summary)
