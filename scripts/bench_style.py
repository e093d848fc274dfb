"""Rewriting in a style: what answers keep of a prompt's words, and how they sound.

    python scripts/bench_style.py [--out FILE]

The packaged model learns by configs/style.yaml from pairs that `gptjax pairs` makes of
Shakespeare and Austen. Then passages that it has not seen, robbed of their style, are
asked for in either style, and answered greedily. Told of the answers:

- kept: what fraction of a prompt's words they have; and, as the chance of that, what
  fraction the answer to another prompt has.
- sounds: what fraction a TF-IDF of characters with logistic regression, which learnt
  the two styles from other passages, takes for the style that was asked for. The
  passages themselves, and the prompts asked about, are told apart for comparison.

Needs scikit-learn (extra `test`).
"""

import json
import pathlib
import re
import tempfile
from typing import Any

import benching
import numpy as np
from sklearn import feature_extraction, linear_model, pipeline

import gptjax
from gptjax import assets
from gptjax.commands import texts

STYLES = ("shakespeare", "austen")
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "style.yaml"


def main() -> None:
    """Makes pairs, trains, asks for both styles."""
    parser = benching.parser(__doc__)
    parser.add_argument("--prompts", type=int, default=64, help="of each style")
    parser.add_argument("--run", help="a run by configs/style.yaml, not trained anew")
    given = parser.parse_args()
    overrides: dict[str, Any] = {}
    if given.quick:
        given.prompts = 16
        # Large steps, of which there are only two, would leave a model without words.
        overrides = {
            "training.steps": 2,
            "optimizer.warmup_steps": 1,
            "optimizer.learning_rate": 1e-6,
        }
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for split, count in (("train", 64 if given.quick else None), ("valid", 300)):
            _write_pairs(folder / f"{split}.jsonl", split, count)
            overrides[f"data.{split}"] = str(folder / f"{split}.jsonl")
        if given.run is None:
            overrides |= {"out": str(folder / "run"), "data.cache_dir": name}
            given.run = gptjax.train(CONFIG, **overrides).folder
        model = gptjax.load(given.run)
        sounds = _regression(_chats(folder / "train.jsonl"))
        asked = _chats(folder / "valid.jsonl")
    found = {
        f"{source} as {style}": _told(
            model, asked[source][: given.prompts], style, sounds
        )
        for source in STYLES
        for style in STYLES
    }
    for way, told in found.items():
        print(
            f"{way}: kept {told['kept']:.1%} (of another prompt "
            f"{told['kept by chance']:.1%}), sounds so {told['sounds so']:.1%} "
            f"(prompts {told['prompts sound so']:.1%}, "
            f"passages {told['passages sound so']:.1%})"
        )
        for prompt, answer in told["samples"]:
            print(f"    {prompt}\n        {answer!r}")
    benching.conclude(
        given.out,
        {"benchmark": "style", "prompts": given.prompts, "answers": found},
        ratios={
            f"words kept of {way} / of another prompt": benching.ratio(
                [told["kept"]], [told["kept by chance"]]
            )
            for way, told in found.items()
        },
    )


def _write_pairs(out: pathlib.Path, split: str, count: int | None) -> None:
    """As `gptjax pairs` makes them where nothing else is asked for."""
    named = [f"{style}={assets.text(f'{style}.{split}')}" for style in STYLES]
    texts.pairs(out, named, count=count)


def _chats(path: pathlib.Path) -> dict[str, list[tuple[str, str]]]:
    """The (prompt, passage) of each style."""
    found: dict[str, list[tuple[str, str]]] = {style: [] for style in STYLES}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if turns := record.get("messages"):
            found[record["style"]].append(tuple(turn["content"] for turn in turns))
    return found


def _regression(learnt: dict[str, list[tuple[str, str]]]) -> Any:
    """What tells the styles apart, by the characters of passages."""
    passages = [passage for style in STYLES for _, passage in learnt[style]]
    styles = [style for style in STYLES for _ in learnt[style]]
    found = pipeline.make_pipeline(
        feature_extraction.text.TfidfVectorizer(
            analyzer="char", ngram_range=(1, 4), lowercase=False, sublinear_tf=True
        ),
        linear_model.LogisticRegression(C=10, class_weight="balanced", max_iter=1000),
    )
    return found.fit(passages, styles)


def _told(
    model: gptjax.Model, pairs: list[tuple[str, str]], style: str, sounds: Any
) -> dict[str, Any]:
    """The figures of the answers to prompts in a style, and the first few of them."""
    prompts, passages = zip(*pairs, strict=True)
    answers = model.generate(
        prompts, style=style, chat=True, do_sample=False, max_new_tokens=96
    )
    others = answers[1:] + answers[:1]
    return {
        "kept": float(np.mean(list(map(_kept, prompts, answers)))),
        "kept by chance": float(np.mean(list(map(_kept, prompts, others)))),
        "sounds so": float(np.mean(sounds.predict(answers) == style)),
        "prompts sound so": float(np.mean(sounds.predict(prompts) == style)),
        "passages sound so": float(np.mean(sounds.predict(passages) == style)),
        "samples": list(zip(prompts[:4], answers[:4], strict=True)),
    }


def _kept(prompt: str, answer: str) -> float:
    """What fraction of a prompt's words an answer has."""
    words = _words(prompt)
    there = set(_words(answer))
    return sum(word in there for word in words) / len(words)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['\u2019]\w+)*", text.lower())


if __name__ == "__main__":
    main()
