"""A fine-tuned GPT-2 beside TF-IDF with logistic regression, on texts of your own.

    python scripts/bench_classify.py --train train.csv --valid valid.csv --test test.csv

Both learn the labels of the same texts: all of them, and a few drawn with every label's
share. The GPT-2 (the packaged one, or `--model`) trains for some passes, with the texts
as they are and augmented (words swapped, deleted, moved), and goes back to its best
step where two evaluations on the validation texts find no better. Both rivals choose by
accuracy on the validation texts: the GPT-2 its learning rate, with the first seed for
all; the regression its regularization, anew for each seed. Accuracies are of the test
texts, means over seeds, which draw the texts and the batches. Needs scikit-learn (extra
`test`).
"""

import statistics
import tempfile
from typing import Any

import benching
import numpy as np

import gptjax
from gptjax import config, convert, data

KINDS: dict[str, dict[str, float] | None] = {
    "GPT-2": None,
    "GPT-2, texts augmented": {"swap": 0.3, "deletion": 0.3, "shuffle": 0.3},
}
LEARNING_RATES = (5e-5, 1e-4, 2e-4, 5e-4)
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


def main() -> None:
    """Trains both for each number of texts and each seed."""
    parser = benching.parser(__doc__)
    for name in ("train", "valid", "test"):
        parser.add_argument(f"--{name}", required=True, help="CSV or JSONL")
    parser.add_argument("--model", default="packaged")
    parser.add_argument(
        "--texts", type=int, nargs="*", default=[200, 1000, 0], help="0: all of them"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--passes", type=float, default=8, help="over the texts, at most"
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=LEARNING_RATES,
        help="learning rates to choose from",
    )
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.passes, given.rates = 1, 0.1, given.rates[:2]
    found: dict[str, dict[str, list[float]]] = {}
    chosen: dict[str, dict[str, float]] = {}
    for count in given.texts:
        rivals = found.setdefault(str(count or "all"), {})
        limit = count or None
        for kind, how in KINDS.items():
            rate, rivals[kind] = _fine_tuned(given, limit, how)
            chosen.setdefault(str(count or "all"), {})[kind] = rate
        rivals["regression"] = [
            _regression(given, limit, seed) for seed in range(given.seeds)
        ]
    for count, rivals in found.items():
        for name, values in rivals.items():
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            rate = chosen[count].get(name)
            print(
                f"{count} texts, {name}: accuracy {_percent(values)} ± {spread:.2%}"
                + ("" if rate is None else f", learning rate {rate:g}")
            )
    benching.conclude(
        given.out,
        {"benchmark": "classify", "accuracy": found, "learning_rate": chosen},
        ratios={
            f"accuracy {kind} / regression, {count} texts": benching.ratio(
                rivals[kind], rivals["regression"]
            )
            for count, rivals in found.items()
            for kind in KINDS
        },
    )


def _percent(values: list[float]) -> str:
    return f"{statistics.mean(values):.2%}"


def _fine_tuned(
    given: Any, limit: int | None, how: dict[str, float] | None
) -> tuple[float, list[float]]:
    """The chosen learning rate, and the test accuracy with it for each seed."""
    first = {
        rate: _accuracies(given, limit, how, seed=0, rate=rate) for rate in given.rates
    }
    rate = max(first, key=lambda rate: first[rate][0])
    others = [
        _accuracies(given, limit, how, seed=seed, rate=rate)
        for seed in range(1, given.seeds)
    ]
    return rate, [test for _, test in [first[rate], *others]]


def _accuracies(
    given: Any, limit: int | None, how: dict[str, float] | None, seed: int, rate: float
) -> tuple[float, float]:
    """Validation and test accuracy of the GPT-2, trained on texts changed as said."""
    count = len(_texts(given.train)[0]) if limit is None else limit
    batch = 16
    steps = max(4, round(given.passes * count / batch))
    with tempfile.TemporaryDirectory() as folder:
        model = gptjax.train(
            None,
            **{
                "model": given.model,
                "out": folder + "/run",
                "seed": seed,
                "task.kind": "classification",
                "data.train": given.train,
                "data.valid": given.valid,
                "data.limit": limit,
                "data.sequence_tokens": 128,
                "data.augmentation": None if how is None else {"operations": how},
                "training.steps": steps,
                "training.batch_sequences": batch,
                "training.evaluate_every_steps": max(2, steps // 6),
                "training.early_stopping_evaluations": 2,
                "optimizer.learning_rate": rate,
                "optimizer.warmup_steps": steps // 10,
                "optimizer.weight_decay": 0.01,
                "evaluation.batch_sequences": 32,
            },
        ).model
        valid, test = (
            model.classify(texts, batch_sequences=32).accuracy
            for texts in (given.valid, given.test)
        )
    print(f"seed {seed}, rate {rate:g}: validation {valid:.2%}, test {test:.2%}")
    return valid, test


def _regression(given: Any, limit: int | None, seed: int) -> float:
    """The test accuracy of logistic regression on TF-IDF of words and pairs of them."""
    from sklearn import linear_model, pipeline
    from sklearn.feature_extraction import text

    texts, labels = _texts(given.train)
    if limit is not None:
        chosen = _drawn(given, limit, seed)
        texts, labels = [texts[n] for n in chosen], [labels[n] for n in chosen]
    best, accuracy = None, -1.0
    for strength in STRENGTHS:
        rival = pipeline.make_pipeline(
            text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            linear_model.LogisticRegression(C=strength, max_iter=1000),
        ).fit(texts, labels)
        reached = rival.score(*_texts(given.valid))
        if reached > accuracy:
            best, accuracy = rival, reached
    assert best is not None
    return float(best.score(*_texts(given.test)))


def _texts(path: str) -> tuple[list[str], list[str]]:
    """The texts of a file and their labels."""
    documents = list(data.read_labelled(config.Source(path=path)))
    return [d.text for d in documents], [d.label for d in documents]


def _drawn(given: Any, limit: int, seed: int) -> np.ndarray:
    """The numbers of the texts that a run with `data.limit` trains on."""
    examples = data.read_examples(
        config.Source(path=given.train),
        data.Tokenizer(convert.resolve(given.model)),
        labels=None,
        append_eos=False,
        workers=0,
        cache_dir=None,
        vocab_size=None,
        progress=False,
    )
    return data.limit(examples, limit, seed=seed).rows


if __name__ == "__main__":
    main()
