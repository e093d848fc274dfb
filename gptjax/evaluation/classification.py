"""How well a classifier labels texts: accuracy, precision, recall, F1, confusion."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import data, model, sharding
from gptjax.evaluation import bars


@dataclasses.dataclass(frozen=True)
class LabelScores:
    """Precision, recall and F1 of one label, or their mean over labels."""

    precision: float
    recall: float
    f1: float
    texts: int
    """How many truly have it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """What a classifier made of labelled texts, and how that was measured."""

    nll_sum: float
    """The negative log-likelihood of all true labels together, in nats."""
    confusion: tuple[tuple[int, ...], ...]
    """How many texts of each true label (rows) were given each (columns)."""
    labels: tuple[str, ...]
    longest: int
    """The most tokens that were read of a text."""
    cut: int
    """How many texts were longer."""
    dtype: str
    """Of the computation."""
    text: str
    """What the texts are called."""
    unit: str = "texts"
    """What has labels: texts, or words."""

    @property
    def texts(self) -> int:
        """How many were classified; of words, these."""
        return int(np.sum(self.confusion))

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood of a text's label, in nats."""
        return self.nll_sum / self.texts

    @property
    def accuracy(self) -> float:
        """The fraction of texts given their label."""
        return float(np.trace(np.array(self.confusion)) / self.texts)

    @property
    def per_label(self) -> dict[str, LabelScores]:
        """The scores of each label."""
        return label_scores(self.labels, self.confusion)

    @property
    def weighted(self) -> LabelScores:
        """The mean of the labels' scores, weighted by how many texts each has."""
        return weighted_scores(self.per_label)

    def figures(self) -> dict[str, float]:
        """The numbers that a run follows, the first above all."""
        return {"accuracy": self.accuracy, "f1": self.weighted.f1, "loss": self.loss}

    def protocol(self) -> str:
        """One line with everything that the numbers depend on but the model."""
        cut = f", {self.cut:,} of them cut" if self.cut else ""
        of = "" if self.unit == "texts" else " of texts"
        return (
            f"{self.text}, {self.texts:,} {self.unit}{of} of at most {self.longest} "
            f"tokens{cut}, {len(self.labels)} labels, F1 weighted by their "
            f"{self.unit}, {self.dtype}"
        )

    def to_json(self) -> dict[str, Any]:
        """Figures, protocol, labels and confusion, as reports keep them."""
        return {
            **self.figures(),
            "protocol": self.protocol(),
            "unit": self.unit,
            "labels": list(self.labels),
            "confusion": [list(row) for row in self.confusion],
        }


def label_scores(
    labels: Sequence[str], confusion: Sequence[Sequence[int]]
) -> dict[str, LabelScores]:
    """The scores of each label; 0 where there is nothing to divide by.

    Args:
      confusion: see `Classification`.
    """
    counts = np.array(confusion, np.float64)
    right, texts, given = np.diagonal(counts), counts.sum(1), counts.sum(0)
    precision, recall = right / np.maximum(given, 1), right / np.maximum(texts, 1)
    f1 = 2 * right / np.maximum(texts + given, 1)
    return {
        label: LabelScores(*map(float, scores), texts=int(count))
        for label, count, *scores in zip(
            labels, texts, precision, recall, f1, strict=True
        )
    }


def weighted_scores(scores: Mapping[str, LabelScores]) -> LabelScores:
    """The mean of the labels' scores, weighted by how many texts each has."""
    texts = [each.texts for each in scores.values()]
    means = (
        float(np.average([getattr(s, name) for s in scores.values()], weights=texts))
        for name in ("precision", "recall", "f1")
    )
    return LabelScores(*means, texts=sum(texts))


def classify(
    config: model.Config,
    params: Any,
    examples: data.Examples,
    *,
    classifier: str,
    sequence_tokens: int,
    batch_sequences: int,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> Classification:
    """How well a classifier labels texts.

    Args:
      params: of any floating dtype; on the devices of `mesh`, where one is given.
      examples: of the classifier's labels.
      sequence_tokens: the most tokens of a text; more are cut off.
      batch_sequences: texts read at once; on a mesh, rounded up to what divides over
        its `data` and `fsdp` axes.
      progress: whether to draw a progress bar on stderr.
    """
    own = config.classifier(classifier)
    logits_MN = label_logits(
        config,
        params,
        examples,
        classifier=classifier,
        sequence_tokens=sequence_tokens,
        batch_sequences=batch_sequences,
        dtype=dtype,
        mesh=mesh,
        progress=progress,
    ).astype(np.float64)
    confusion = np.zeros((len(own.labels),) * 2, np.int64)
    classes_M = examples.known(sequence_tokens)
    np.add.at(confusion, (classes_M, logits_MN.argmax(-1)), 1)
    true_M = np.take_along_axis(logits_MN, classes_M[:, None], axis=-1)[:, 0]
    return Classification(
        nll_sum=float((np.logaddexp.reduce(logits_MN, axis=-1) - true_M).sum()),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        labels=own.labels,
        longest=sequence_tokens,
        cut=int((examples.lengths > sequence_tokens).sum()),
        dtype=jnp.dtype(dtype).name,
        text=examples.name,
        unit=unit(examples),
    )


def unit(examples: data.Examples) -> str:
    """What has labels there, as reports and metrics call it."""
    return "words" if isinstance(examples, data.Tagged) else "texts"


def label_logits(
    config: model.Config,
    params: Any,
    examples: data.Examples,
    *,
    classifier: str,
    sequence_tokens: int,
    batch_sequences: int,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> np.ndarray:
    """The scores of the labels of M texts, or of their M words that are read, MN in
    float32; arguments as for `classify`.

    Texts of about the same length are read together, filled up with padding, which
    changes the scores of none.
    """
    if mesh is not None:
        batch_sequences = sharding.rounded_up(mesh, batch_sequences)
    order = np.argsort(examples.lengths, kind="stable")
    rest = -len(order) % batch_sequences
    numbers = np.append(order, np.full(rest, -1, order.dtype))
    batches = numbers.reshape(-1, batch_sequences)
    found: list[Any] = [None] * len(order)
    own = config.classifier(classifier)
    for rows in bars.track(batches, total=len(batches)) if progress else batches:
        batch = data.fill(
            examples, rows, longest=sequence_tokens, pad_id=own.pad_token_id or 0
        )
        tokens_BT = batch["tokens"]
        if mesh is not None:
            places = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
            tokens_BT = sharding.place(tokens_BT, places)
        logits = np.asarray(
            _logits(
                config, params, tokens_BT, classifier=classifier, dtype=dtype, mesh=mesh
            )
        )
        for place, row in enumerate(rows):
            if row >= 0:
                words = batch["classes"][place] >= 0 if own.per_token else None
                found[row] = logits[place][words].reshape(-1, len(own.labels))
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("config", "classifier", "dtype", "mesh"))
def _logits(config, params, tokens_BT, *, classifier, dtype, mesh):
    compute = model.Compute(dtype=dtype, mesh=mesh)
    x_BTD = model.hidden(config, params, tokens_BT, compute=compute)
    logits = model.label_logits(
        config, params, x_BTD, tokens_BT, classifier=classifier, compute=compute
    )
    if mesh is not None:
        # Whole on every host, so that each can count.
        whole = sharding.replicated(mesh)
        logits = jax.lax.with_sharding_constraint(logits, whole)
    return logits
