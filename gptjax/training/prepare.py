"""A run from its config: the model, the texts, the Trainer."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gptjax import config, convert, data, errors, model, sharding, tree
from gptjax.training import heads, step, tasks, teacher_scores, trackers
from gptjax.training.phase import OnEvaluation, ignore
from gptjax.training.trainer import Trainer


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
    texts: tasks.Texts

    def trainer(
        self, *, schedule_steps: int, on_evaluation: OnEvaluation = ignore
    ) -> Trainer:
        """The run's Trainer, with a learning-rate schedule of that length."""
        return Trainer(
            self.settings,
            self.model_config,
            self.mesh,
            texts=self.texts,
            schedule_steps=schedule_steps,
            on_evaluation=on_evaluation,
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
        if wanted.cache_top_k is None:
            trainer.teach(name, *self._load(folder))
        else:
            trainer.recall(self._scores(wanted, folder))

    def _scores(
        self, wanted: config.Distillation, teacher: pathlib.Path
    ) -> teacher_scores.Scores:
        """What is kept of a teacher's scores of the training text."""
        settings = self.settings
        training = settings.training
        text = self.texts.train
        assert isinstance(text, data.Tokens)
        assert wanted.cache_top_k is not None
        return teacher_scores.scores(
            teacher_scores.Reading(
                text=text,
                sequence_tokens=settings.data.sequence_tokens,
                respect_documents=settings.data.respect_documents,
                vocab_size=self.model_config.vocab_size,
                top_k=wanted.cache_top_k,
                temperature=wanted.temperature,
                compute=step.compute_of(training, self.mesh),
            ),
            pathlib.Path(wanted.cache_dir or self.folder / "teacher").expanduser(),
            teacher=convert.digest(teacher),
            load=lambda: self._load(teacher),
            mesh=self.mesh,
            batch_sequences=training.batch_sequences // training.accumulation_steps,
        )

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

    def export(
        self, folder: pathlib.Path, params: Any, cut: model.Config | None = None
    ) -> None:
        """Writes params as a Hugging Face folder with the run's tokenizer.

        Such a folder has one head. It gets the main task's; those of auxiliary tasks
        go with the same trunk into folders beside it, `<folder>-<task>`.

        A model that such a folder holds filled up with zeros alone goes beside it as it
        is, as the gptjax folder `native` or `native-<task>`; what transformers has no
        class for goes there and nowhere else.

        Args:
          cut: the config of params of another shape than the run began with.
        """
        shape = cut or self.model_config
        for place, name in self._with_one_head(folder):
            own = heads.alone(shape, params, name)
            if convert.is_stock(own[0]):
                convert.save(place, *own, **self.sidecars)
            if not convert.is_whole(own[0]):
                beside = folder.with_name(place.name.replace(folder.name, "native", 1))
                convert.save_native(beside, *own, **self.sidecars)

    @property
    def has_auxiliary_heads(self) -> bool:
        """Whether there are heads that the main task's Hugging Face folder lacks."""
        _, *auxiliary = self.settings.tasks().values()
        return any(alone.task.has_classifier for alone in auxiliary)

    def export_adapter(self, folder: pathlib.Path, trained: Any) -> None:
        """Writes what an adapter's training has come to, as PEFT lays it out.

        Heads are spread over folders as `export` does.
        """
        assert self.settings.adapter is not None
        flat = tree.flatten(trained)
        for place, name in self._with_one_head(folder):
            shape = heads.alone_config(self.model_config, name)
            others = tree.flatten(model.shapes(self.model_config)).keys()
            others -= tree.flatten(model.shapes(shape)).keys()
            convert.save_adapter(
                place,
                shape,
                tree.unflatten({p: x for p, x in flat.items() if p not in others}),
                alpha=self.settings.adapter.alpha,
                base=convert.stock_name(self.settings.model),
            )

    def _with_one_head(
        self, folder: pathlib.Path
    ) -> Iterator[tuple[pathlib.Path, str | None]]:
        """A folder for each head, and the head's name; None of a language model."""
        for task, alone in self.settings.tasks().items():
            name = alone.task.name if alone.task.has_classifier else None
            if task == config.MAIN:
                yield folder, name
            elif name is not None:
                yield folder.with_name(f"{folder.name}-{task}"), name

    @property
    def sidecars(self) -> dict[str, Any]:
        """What a model folder of this run is written with: keywords of `convert.save`.

        The tokenizer is the source's, unless the config gives another; so is the chat
        template, unless chats are written with one that the tokenizer lacks.
        """
        given = self.settings.tokenizer is not None
        read = [self.texts.train, *(own.train for own in self.texts.auxiliary.values())]
        chats = [each for each in read if isinstance(each, data.Instructions)]
        return {
            "like": self.source,
            "tokenizer": self.tokenizer if given else None,
            "chat_template": next((each.chat_template for each in chats), None),
        }


def prepare(settings: config.Run) -> Prepared:
    """Opens the model and the texts of a run; the cheap checks come first."""
    if settings.data.train is None:
        raise errors.UserError("data.train: missing; a run needs texts to train on")
    trackers.check(settings.logging)
    mesh = sharding.make_mesh(**settings.mesh.model_dump())
    source = convert.resolve(settings.model)
    model_config = convert.read_config(source)
    tokenizer = data.Tokenizer(settings.tokenizer or source)
    facts = tokenizer.facts(data.cache_folder(settings.data.cache_dir))
    data.check_tokenizer(
        facts, model_config.vocab_size, settings.tokenizer or settings.model
    )
    _check_head(settings, model_config)
    if model_config.activation_bits is not None:
        raise errors.UserError(
            f"{settings.model}: computes with activations of 8 bits, through which "
            "nothing learns; `gptjax convert` makes an ordinary checkpoint of it"
        )
    if settings.adapter is not None and convert.is_padded(model_config):
        raise errors.UserError(
            f"adapter: {settings.model} has fewer heads or neurons than a model of its "
            "width has in transformers, so that PEFT has no layout for it; name its "
            "export/"
        )
    classifiers, texts = [], {}
    for name, alone in settings.tasks().items():
        texts[name] = _read(alone, model_config, tokenizer)
        if alone.task.has_classifier:
            classifiers.append(
                model.Classifier(
                    name=alone.task.name,
                    labels=texts[name].train.labels,
                    per_token=alone.task.kind == "tagging",
                )
            )
    if classifiers:
        pad_id = data.padding_id(facts, settings.tokenizer or settings.model)
        model_config = heads.with_classifiers(model_config, classifiers, pad_id)
    else:
        model_config = dataclasses.replace(model_config, classifiers=())
    main = texts.pop(config.MAIN)
    return Prepared(
        settings=settings,
        folder=pathlib.Path(settings.out),
        source=source,
        model_config=model_config,
        mesh=mesh,
        tokenizer=tokenizer,
        texts=dataclasses.replace(main, auxiliary=texts),
    )


def _read(
    settings: config.Run, model_config: model.Config, tokenizer: data.Tokenizer
) -> tasks.Texts:
    """The texts of one task."""
    given = _reading(settings, model_config.vocab_size)
    if settings.task.kind == "instructions":
        return tasks.Texts(*_read_instructions(settings, tokenizer))
    if settings.task.has_classifier:
        known = heads.known_labels(
            model_config,
            settings.task.name,
            per_token=settings.task.kind == "tagging",
        )
        return tasks.Texts(*_read_examples(settings, tokenizer, known, given))
    valid = None
    train = data.tokenize(settings.data.train, tokenizer, **given)
    if settings.data.valid is not None:
        valid = data.tokenize(settings.data.valid, tokenizer, **given)
    return tasks.Texts(train, valid)


def _check_head(settings: config.Run, model_config: model.Config) -> None:
    """Raises a `UserError` where a run needs scores of tokens and has none."""
    each = [alone.task for alone in settings.tasks().values()]
    are_language = [not task.has_classifier for task in each]
    needs = (
        any(are_language)
        or any(task.language_weight for task in each)
        or settings.pruning is not None
    )
    # Of the model as it becomes, with the run's classifiers.
    stays = all(are_language) or model_config.has_free_scores
    if needs and not (stays and model_config.predicts_tokens):
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

    def read(source, labels, **more):
        if settings.task.kind == "tagging":
            return data.read_tagged(source, tokenizer, labels=labels)
        return data.read_examples(source, tokenizer, labels=labels, **more, **given)

    is_changed = settings.data.augmentation is not None
    train = read(settings.data.train, labels, keep_texts=is_changed)
    if settings.data.valid is None:
        train, valid = data.divide(
            train, settings.data.valid_fraction, seed=settings.seed
        )
    else:
        valid = read(settings.data.valid, train.labels)
    if settings.data.limit is not None:
        train = data.limit(train, settings.data.limit, seed=settings.seed)
    return train, valid


def _read_instructions(
    settings: config.Run, tokenizer: data.Tokenizer
) -> tuple[data.Instructions, data.Instructions]:
    """Instructions to train and to validate on, none longer than a sequence."""
    eos_id = tokenizer.facts(data.cache_folder(settings.data.cache_dir)).eos_id

    def read(source):
        found = data.read_instructions(
            source,
            tokenizer,
            chat_template=settings.task.chat_template,
            eos_id=eos_id,
        ).cut_to(settings.data.sequence_tokens)
        if (found.cut or found.left_out) and jax.process_index() == 0:
            print(
                f"{found.name}: of {len(found) + found.left_out:,} examples "
                f"{found.cut:,} lose their end, and {found.left_out:,} are left out, "
                "whose prompt alone is as long as data.sequence_tokens "
                f"{settings.data.sequence_tokens}",
                file=sys.stderr,
                flush=True,
            )
        return found

    train = read(settings.data.train)
    if settings.data.valid is None:
        train, valid = data.divide_instructions(
            train, settings.data.valid_fraction, seed=settings.seed
        )
    else:
        valid = read(settings.data.valid)
    if settings.data.limit is not None:
        train = data.limit_instructions(train, settings.data.limit, seed=settings.seed)
    return train, valid
