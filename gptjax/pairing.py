"""Prompts with answers made of plain texts, from which a model learns their styles.

A passage, robbed of its style, is the prompt, and the passage itself the answer:
Krishna et al., "Reformulating Unsupervised Style Transfer as Paraphrase Generation",
2020, arXiv:2010.05700. A paraphraser robs it there; here its words are put in lower
case, without punctuation or lines, and then `data.augmentation`'s operations drop or
move some, as in Lample et al., "Unsupervised Machine Translation Using Monolingual
Corpora Only", 2018, arXiv:1711.00043.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np

from gptjax import config, data, errors, files

_FEWEST_WORDS = 5
"""What has fewer is a heading or a name."""


def write(
    texts: Mapping[str, config.Source],
    out: pathlib.Path,
    settings: config.Augmentation,
    *,
    words: int,
    count: int | None,
    plain: float,
    seed: int,
) -> dict[str, int]:
    """Writes JSONL for `task.kind: instructions`, styles mixed.

    Each passage is an answer to its own words in a chat, or, some by chance, follows
    the style's code alone.

    Args:
      texts: the source of each style.
      settings: how words are dropped and moved.
      words: of a passage, at most, where it has several sentences.
      count: passages of each style, drawn by the seed; None: all.
      plain: what fraction follows the code alone.

    Returns:
      How many passages each style has.

    Raises:
      UserError: a style with no passage, a file that cannot be read or written, or is
        one of the texts.
    """
    change = data.Augmentation(settings)
    rng = np.random.default_rng([seed, 0])
    chosen, counts = [], {}
    for style, source in texts.items():
        data.check_style(style, "--text")
        found = list(passages(source, words))
        if not found:
            raise errors.UserError(f"{source.path}: holds no passage of a few words")
        numbers = np.sort(rng.permutation(len(found))[:count])
        chosen += [(style, found[number]) for number in numbers]
        counts[style] = len(numbers)
    lines = []
    for place in rng.permutation(len(chosen)).tolist():
        style, passage = chosen[place]
        own = np.random.default_rng([seed, 1, place])
        record = {"style": style, "prompt": "", "completion": passage}
        if own.random() >= plain:
            turns = {"user": change(bare(passage), own), "assistant": passage}
            record = {
                "style": style,
                "messages": [
                    {"role": role, "content": content}
                    for role, content in turns.items()
                ],
            }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with files.derived(out, [source.path for source in texts.values()]) as beside:
        beside.write_text("".join(lines), encoding="utf-8")
    return counts


def passages(source: config.Source, words: int) -> Iterator[str]:
    """The paragraphs of a source, long ones in parts of whole sentences.

    Args:
      words: of a part, at most, unless it is one sentence.
    """
    for document in data.open_corpus(source).read():
        text = document.text
        text = text if isinstance(text, str) else "".join(text)
        for block in re.split(r"\n\s*\n", text):
            part = ""
            # A part begins where white space follows the end of a sentence.
            for sentence in re.split(r"(?<=[.!?;])(?=\s)", block):
                if part and len((part + sentence).split()) > words:
                    yield from _long_enough(part)
                    part = ""
                part += sentence
            yield from _long_enough(part)


def _long_enough(passage: str) -> Iterator[str]:
    if len(re.findall(r"\w+", passage)) >= _FEWEST_WORDS:
        yield passage.strip()


def bare(passage: str) -> str:
    """A passage's words alone: in lower case, without punctuation, on one line."""
    words = passage.lower().replace("_", " ")
    return " ".join(re.findall(r"\w+(?:['\u2019]\w+)*", words))
