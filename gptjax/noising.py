"""Models measured on noised texts, side by side."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

from gptjax import config as config_lib
from gptjax import convert, data, errors, evaluation, labelling, models
from gptjax.evaluation import bars

RATES = (0.05, 0.1, 0.2)
"""The fractions of words that noise touches, unless others are asked for."""


def robustness(
    names: Sequence[str | pathlib.Path],
    text: str | pathlib.Path | config_lib.Source,
    *,
    task: str | None = None,
    noises: Sequence[str] = data.NOISES,
    rates: Sequence[float] = RATES,
    seed: int = 0,
    seeds: int = 3,
    context: int | None = None,
    batch_sequences: int = 8,
    progress: bool = False,
) -> evaluation.Robustness:
    """What typos, swapped and dropped words in a text cost models; see `Robustness`.

    Of language models it takes bits per byte of the noised text, in windows that do
    not overlap; of classifiers accuracy and F1. The noise of a text depends on the
    seed and the text's place alone, so that all models read the same. One model is in
    memory at a time.

    Args:
      names: models as `load` takes them; the others are held against the first.
      text: a file, or any other source; for classifiers, with labels.
      task: whose classifier, where the models have several.
      noises: of `typos`, `swaps` and `drops`; see `data.noised`.
      rates: fractions of words that noise touches; 0, the clean text, is always
        measured.
      seed: the first of so many `seeds`, which follow one another.
      context: tokens in a window, or the most of a text to classify; None: the
        smallest n_positions of the models, 2048 at most.

    Raises:
      UserError: unknown noise, a rate that is none, models of several kinds, labels of
        words, and what `Model.perplexity` and `Model.classify` raise.
    """
    for given, name in ((names, "models"), (noises, "noises")):
        if isinstance(given, str):
            raise errors.UserError(f"{name}: {given!r} is one; give a list")
    names, rates = [str(name) for name in names], sorted({*rates} - {0})
    noises = tuple(dict.fromkeys(noises))
    data.check_noise(noises, rates)
    if seeds < 1 or seed < 0:
        raise errors.UserError(
            f"seed {seed}, seeds {seeds}: the first is 0 or more, of 1 or more"
        )
    is_labelled, longest = _agreed(names, task)
    if context is not None and context > longest:
        raise errors.UserError(
            f"context {context} is longer than the models' smallest n_positions "
            f"{longest}"
        )
    source = config_lib.Source.of(text)
    texts = [
        ("".join(each.text), each.label)
        for each in data.open_corpus(source, labelled=is_labelled).read()
    ]
    drawn = tuple(range(seed, seed + seeds))
    how = {
        "task": task,
        "context": evaluation.context_of(longest, context),
        "batch": batch_sequences,
    }
    cells = list(itertools.product(noises, rates, drawn))
    clean: dict[str, evaluation.Result] = {}
    noised: dict[tuple[str, str, float], list[evaluation.Result]] = {}
    for name in names:
        loaded = models.load(name)
        # Before any bar is drawn: here faults of the texts come up.
        clean[name] = _clean(loaded, source, **how)
        steps = bars.track(cells, total=len(cells)) if progress else cells
        for noise, rate, own in steps:
            changed = [
                (data.noised(each, noise, rate=rate, rng=_generator(own, place)), label)
                for place, (each, label) in enumerate(texts)
            ]
            place = f"{source.name} with {noise} at rate {rate:g}"
            found = _noised(loaded, changed, place, **how)
            noised.setdefault((name, noise, rate), []).append(found)
    return evaluation.Robustness(
        models=tuple(names),
        noises=noises,
        rates=tuple(rates),
        seeds=drawn,
        key=evaluation.LABELS if is_labelled else evaluation.LANGUAGE,
        clean={name: _figures(found) for name, found in clean.items()},
        noised={cell: tuple(map(_figures, found)) for cell, found in noised.items()},
        protocol=_protocol(clean[names[0]], noises, drawn),
    )


def _agreed(names: Sequence[str], task: str | None) -> tuple[bool, int]:
    """Whether all models are classifiers, and the smallest of their n_positions.

    Raises:
      UserError: no model, one twice, models of several kinds, classifiers of words.
    """
    if not names or len({*names}) < len(names):
        raise errors.UserError(
            f"models {', '.join(names) or 'none'}: one at least, and none twice"
        )
    folders = {name: convert.resolve(name) for name in names}
    configs = {name: convert.read_config(folder) for name, folder in folders.items()}
    for name, config in configs.items():
        if config.classifiers and (
            labelling.classifier(config, folders[name], task).per_token
        ):
            raise errors.UserError(
                f"{name}: labels words, which noise drops and swaps; language models "
                "and classifiers of whole texts are measured"
            )
        if bool(config.classifiers) != bool(configs[names[0]].classifiers):
            kinds = ("a language model", "a classifier")
            own = kinds[bool(config.classifiers)]
            raise errors.UserError(
                f"{name} is {own}, and {names[0]} is {kinds[own == kinds[0]]}; only "
                "models of one kind can be held against each other"
            )
    is_labelled = bool(configs[names[0]].classifiers)
    return is_labelled, min(each.n_positions for each in configs.values())


def _generator(seed: int, place: int) -> np.random.Generator:
    """That of one text: no model and no other text changes what it draws."""
    return np.random.default_rng([seed, place])


def _clean(
    loaded: models.Model,
    source: config_lib.Source,
    *,
    task: str | None,
    context: int,
    batch: int,
) -> evaluation.Result:
    """As `gptjax evaluate` has it."""
    if loaded.config.classifiers:
        return loaded.classify(
            source, task=task, sequence_tokens=context, batch_sequences=batch
        )
    return loaded.perplexity(source, context=context, batch_sequences=batch)


def _noised(
    loaded: models.Model,
    texts: Sequence[tuple[str, str | None]],
    name: str,
    *,
    task: str | None,
    context: int,
    batch: int,
) -> evaluation.Result:
    """The same of texts at hand, with their labels if they have some."""
    tokenizer = data.Tokenizer.of(loaded.tokenizer)
    words = [text for text, _ in texts]
    if not loaded.config.classifiers:
        tokens = data.tokenize_here(words, tokenizer)
        if len(tokens) < 2:
            raise errors.UserError(
                f"{name}: {len(tokens)} tokens are left; to predict one takes two"
            )
        return evaluation.perplexity(
            loaded.config,
            loaded.params,
            tokens.ids,
            context=context,
            stride=context,
            batch_sequences=batch,
            total_bytes=tokens.bytes,
            text=name,
        )
    classifier = loaded.classifier(task)
    examples = data.tokenize_texts(words, tokenizer, labels=classifier.labels)
    classes = [classifier.labels.index(label) for _, label in texts]
    return evaluation.classify(
        loaded.config,
        loaded.params,
        dataclasses.replace(examples, classes=np.array(classes, np.int32), name=name),
        classifier=classifier.name,
        sequence_tokens=context,
        batch_sequences=batch,
    )


def _figures(found: evaluation.Result) -> dict[str, float]:
    if isinstance(found, evaluation.Classification):
        return found.figures()
    # What stands for a token, and with it perplexity, differs from text to text.
    return {
        "bits_per_byte": found.bits_per_byte,
        "bytes_per_token": found.bytes_per_token,
    }


def _protocol(
    found: evaluation.Result, noises: Sequence[str], seeds: Sequence[int]
) -> str:
    if isinstance(found, evaluation.Classification):
        told = found.protocol()
    else:
        told = (
            f"{found.text}, {found.total_bytes:,} bytes before noise, context "
            f"{found.context}, stride {found.stride}, bits per byte of the noised "
            f"text, {found.dtype}"
        )
    last = f" to {seeds[-1]}" if len(seeds) > 1 else ""
    return (
        f"{told}; {', '.join(noises)} that touch the given fraction of words, the same "
        f"for every model, seed{'s' * bool(last)} {seeds[0]}{last}"
        + (", mean ± standard deviation over them" if last else "")
    )
