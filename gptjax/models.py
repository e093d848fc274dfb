"""A model with its tokenizer: loaded, used, measured, saved."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import config as config_lib
from gptjax import (
    convert,
    data,
    errors,
    evaluation,
    generation,
    labelling,
    model,
    writing,
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A GPT with its tokenizer.

    Attributes:
      config: the architecture.
      params: a nested dict of arrays.
      tokenizer: Hugging Face's.
      folder: the Hugging Face folder that it was loaded from.
    """

    config: model.Config
    params: Any
    tokenizer: Any
    folder: pathlib.Path

    def __call__(self, tokens_BT: Any) -> jax.Array:
        """The logits of the next token at every place, BTV in float32."""
        return _logits(self.config, self.params, jnp.asarray(tokens_BT))

    @functools.cached_property
    def writer(self) -> writing.Writer:
        """What writes, laid out once: a second copy of large weights."""
        engine = generation.Engine(self.config, self.params)
        return writing.Writer(engine, self.tokenizer, self.folder)

    def drafted_by(self, draft: "Model | str | None") -> writing.Writer:
        """What writes, with a smaller model that proposes; see `Engine.with_draft`.

        Raises:
          UserError: a model of another tokenizer.
        """
        if draft is None:
            return self.writer
        draft = load(draft) if isinstance(draft, str) else draft
        folders = self.folder, draft.folder
        data.check_same_tokenizer(folders, data.cache_folder(None))
        return self.writer.with_draft(draft.writer)

    def generate(
        self,
        prompts: Sequence[writing.Prompt],
        *,
        style: str | None = None,
        chat: bool = False,
        seed: int | Sequence[int] = 0,
        assistant_model: "Model | str | None" = None,
        **options: Any,
    ) -> list[str]:
        """What the model writes after each prompt, without the token that ended it.

        Args:
          prompts: texts or token ids.
          style: put before each prompt as the code that training knows it by.
          chat: prompts are what a user says, or whole chats so far, and the model
            answers, by the tokenizer's chat template.
          seed: of draws: one for each prompt, or one for all.
          assistant_model: a smaller one that proposes tokens, to no other chances.
          options: by Hugging Face's names, on top of the checkpoint's
            generation_config.json; see `generation.Options`.

        Raises:
          UserError: an option that there is not, a prompt that does not fit.
        """
        writer = self.drafted_by(assistant_model)
        how = writer.options(options)
        ids = writer.encode(data.listed(prompts), style=style, chat=chat)
        return writer.texts(ids, writer.generate(ids, how, seed), how)

    def generate_tokens(
        self,
        prompts: Sequence[writing.Prompt],
        *,
        seed: int | Sequence[int] = 0,
        assistant_model: "Model | str | None" = None,
        **options: Any,
    ) -> generation.Generated:
        """The same as ids, with their scores where `output_scores` asks."""
        writer = self.drafted_by(assistant_model)
        how = writer.options(options, keeps_scores=True)
        ids = writer.encode(data.listed(prompts), style=None, chat=False)
        return writer.generate(ids, how, seed)

    def perplexity(
        self,
        text: str | pathlib.Path | config_lib.Source,
        *,
        context: int | None = None,
        stride: int | None = None,
        batch_sequences: int = 8,
        progress: bool = False,
    ) -> evaluation.Perplexity:
        """The perplexity of a text file, or of any other source, with its protocol.

        Args:
          context: tokens in a window; None: n_positions, 2048 at most.
          stride: how far a window moves; None: by its whole length.
        """
        tokens, name = self._tokens(text, progress=progress)
        context = evaluation.context_of(self.config.n_positions, context)
        return evaluation.perplexity(
            self.config,
            self.params,
            tokens.ids,
            context=context,
            stride=stride or context,
            batch_sequences=batch_sequences,
            total_bytes=tokens.bytes,
            text=name,
            progress=progress,
        )

    def complete(
        self,
        instructions: str | pathlib.Path | config_lib.Source,
        *,
        sequence_tokens: int | None = None,
        batch_sequences: int = 8,
        progress: bool = False,
    ) -> evaluation.Completions:
        """The perplexity of the answers to prompts, and in chats, with its protocol.

        Chats are written by the tokenizer's template, or gptjax's where it has none.

        Args:
          instructions: a JSONL file; see `data.read_instructions`.
          sequence_tokens: the most tokens of an example; None: n_positions.
        """
        longest = self._longest(sequence_tokens)
        found = data.read_instructions(
            config_lib.Source.of(instructions),
            self._own_tokenizer,
            chat_template=None,
            eos_id=self.tokenizer.eos_token_id,
        )
        return evaluation.complete(
            self.config,
            self.params,
            found.cut_to(longest),
            sequence_tokens=longest,
            batch_sequences=batch_sequences,
            progress=progress,
        )

    def classifier(self, task: str | None = None) -> model.Classifier:
        """The classifier of a task, or the only one; see `labelling.classifier`."""
        return labelling.classifier(self.config, self.folder, task)

    def predict(
        self, texts: Sequence[str], *, task: str | None = None, batch_sequences: int = 8
    ) -> list[labelling.Prediction]:
        """The label of each text, by the model's classifier.

        Texts longer than the model's n_positions are cut.

        Args:
          task: whose classifier, where the model has several.

        Raises:
          UserError: the model is no classifier; an empty text.
        """
        classifier = self.classifier(task)
        if classifier.per_token:
            raise errors.UserError(f"{self.folder}: labels words; use tag")
        examples = data.tokenize_texts(
            data.listed(texts), self._own_tokenizer, labels=classifier.labels
        )
        return self._predictions(examples, classifier, batch_sequences)

    def tag(
        self,
        texts: Sequence[str | Sequence[str]],
        *,
        task: str | None = None,
        batch_sequences: int = 8,
    ) -> list[list[tuple[str, labelling.Prediction]]]:
        """The words of each text with their labels, by the model's classifier of words.

        Words that end beyond the model's n_positions are left out.

        Args:
          texts: of words between spaces, or lists of words.
          task: whose classifier, where the model has several.

        Raises:
          UserError: the model has no such classifier; an empty text.
        """
        classifier = self.classifier(task)
        if not classifier.per_token:
            raise errors.UserError(f"{self.folder}: labels texts; use predict")
        words = [
            text.split() if isinstance(text, str) else text
            for text in data.listed(texts)
        ]
        examples = data.tokenize_words(
            words, self._own_tokenizer, labels=classifier.labels
        )
        found = iter(self._predictions(examples, classifier, batch_sequences))
        read = [
            own[: examples.words_of(number, self.config.n_positions)]
            for number, own in enumerate(words)
        ]
        return [[(word, next(found)) for word in own] for own in read]

    def _predictions(
        self, examples: data.Examples, classifier: model.Classifier, batch: int
    ) -> list[labelling.Prediction]:
        return labelling.predictions(
            self.config, self.params, examples, classifier, batch_sequences=batch
        )

    def classify(
        self,
        texts: str | pathlib.Path | config_lib.Source,
        *,
        task: str | None = None,
        sequence_tokens: int | None = None,
        batch_sequences: int = 8,
        progress: bool = False,
    ) -> evaluation.Classification:
        """How well the model labels texts, or words, whose labels are known.

        Args:
          texts: a CSV or JSONL file, or any other source with labels.
          task: whose classifier, where the model has several.
          sequence_tokens: the most tokens of a text; None: n_positions.

        Raises:
          UserError: the model is no classifier; a label that it does not know, a
            missing column, an empty text.
        """
        classifier = self.classifier(task)
        longest = self._longest(sequence_tokens)
        source, tokenizer = config_lib.Source.of(texts), self._own_tokenizer
        if classifier.per_token:
            examples = data.read_tagged(source, tokenizer, labels=classifier.labels)
        else:
            examples = data.read_examples(
                source, tokenizer, labels=classifier.labels, **self._reading(progress)
            )
        return evaluation.classify(
            self.config,
            self.params,
            examples,
            classifier=classifier.name,
            sequence_tokens=longest,
            batch_sequences=batch_sequences,
            progress=progress,
        )

    def _longest(self, sequence_tokens: int | None) -> int:
        """How many tokens of an example are read at most."""
        longest = sequence_tokens or self.config.n_positions
        if longest > self.config.n_positions:
            raise errors.UserError(
                f"context {longest} is longer than the model's n_positions "
                f"{self.config.n_positions}"
            )
        return longest

    def connect(
        self,
        other: "Model",
        text: str | pathlib.Path | config_lib.Source,
        *,
        points: int = 11,
        context: int | None = None,
        stride: int | None = None,
        batch_sequences: int = 8,
        progress: bool = False,
    ) -> evaluation.Connectivity:
        """The losses of a text on the line from this model to another, its barrier.

        See `evaluation.connect`. The text is read with this model's tokenizer.

        Args:
          points: how many models on the line, both ends among them.
          context, stride: as for `perplexity`.

        Raises:
          UserError: models that do not compute alike, or read texts alike; classifiers,
            whose loss is not that of a text's tokens.
        """
        if self.config.classifiers:
            raise errors.UserError(
                f"{self.folder}: a classifier; only language models are connected"
            )
        folders = [self.folder, other.folder]
        data.check_same_tokenizer(folders, data.cache_folder(None))
        convert.check_alike(self.config, self.folder, other.config, other.folder)
        tokens, name = self._tokens(text, progress=progress)
        context = evaluation.context_of(self.config.n_positions, context)
        return evaluation.connect(
            self.config,
            self.params,
            other.params,
            tokens.ids,
            points=points,
            context=context,
            stride=stride or context,
            batch_sequences=batch_sequences,
            text=name,
        )

    @property
    def _own_tokenizer(self) -> data.Tokenizer:
        return data.Tokenizer.of(self.tokenizer)

    def _tokens(
        self, text: str | pathlib.Path | config_lib.Source, *, progress: bool
    ) -> tuple[data.Tokens, str]:
        """A text's tokens, and what it is called."""
        text = config_lib.Source.of(text)
        tokens = data.tokenize(text, self._own_tokenizer, **self._reading(progress))
        return tokens, text.name

    def _reading(self, progress: bool) -> dict[str, Any]:
        """How a source becomes tokens: the keywords of `data.tokenize`."""
        return {
            "append_eos": False,
            "workers": 0,
            "cache_dir": None,
            "vocab_size": self.config.vocab_size,
            "progress": progress,
        }

    def with_adapter(self, name: str | pathlib.Path) -> "Model":
        """The model with a LoRA adapter merged into it; a weight that is 0 stays 0.

        Args:
          name: a folder as PEFT lays it out, or a run that has trained one.

        Raises:
          UserError: there is none, or it does not fit the model.
        """
        found = convert.load_adapter(convert.resolve_adapter(name), self.config)
        return with_tokenizer(found.config, found.merged(self.params), self.folder)

    def save(self, folder: str | pathlib.Path) -> None:
        """Writes an ordinary Hugging Face folder; no codes, no `activation_bits`."""
        convert.save(pathlib.Path(folder), self.config, self.params, like=self.folder)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, tokens_BT):
    return model.apply(config, params, tokens_BT)


def load(
    name: str | pathlib.Path,
    *,
    dtype: Any = jnp.float32,
    adapter: str | pathlib.Path | None = None,
) -> Model:
    """A model from a Hugging Face folder, a run folder, a hub name, or `packaged`.

    A classifier whose config names no padding token gets the tokenizer's.

    Args:
      dtype: of the weights; None keeps the file's.
      adapter: merged into the model, see `Model.with_adapter`.
    """
    folder = convert.resolve(name)
    config, params = convert.load(folder, dtype=dtype)
    loaded = with_tokenizer(config, params, folder)
    return loaded if adapter is None else loaded.with_adapter(adapter)


def with_tokenizer(config: model.Config, params: Any, folder: pathlib.Path) -> Model:
    """Config and params with the tokenizer of a folder, checked to fit."""
    tokenizer = data.Tokenizer(folder)
    facts = tokenizer.facts(data.cache_folder(None))
    data.check_tokenizer(facts, config.vocab_size, str(folder))
    if any(each.pad_token_id is None for each in config.classifiers):
        config = config.with_padding(data.padding_id(facts, str(folder)))
    return Model(config, params, tokenizer.loaded, folder)
