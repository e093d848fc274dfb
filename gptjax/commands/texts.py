"""The commands that write texts to train on."""

import pathlib
from typing import Annotated

import typer

from gptjax import errors, options


def augment(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A CSV or JSONL file of labelled texts.")
    ],
    out: Annotated[
        pathlib.Path, typer.Argument(metavar="OUT", help="The CSV file to write.")
    ],
    operation: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=CHANCE",
            help="synonyms, insertion, swap, deletion, shuffle, sentences or "
            "duplication; may be given several times.",
        ),
    ],
    copies: Annotated[
        int,
        typer.Option(min=1, help="Changed texts for each text; the text itself too."),
    ] = 1,
    strength: Annotated[
        float, typer.Option(help="What fraction of words the first four change.")
    ] = 0.1,
    synonyms: Annotated[
        str | None, typer.Option(help="A file of synonyms, or `wordnet`.")
    ] = None,
    column: options.Column = "text",
    label_column: options.LabelColumn = "label",
    format: options.Format = None,
    split: options.Split = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Writes texts and changed copies of them, with their labels.

    Training changes texts on the fly where its config has `data.augmentation`.
    """
    from gptjax import augmenting
    from gptjax import config as config_lib

    texts, changed = augmenting.write(
        config_lib.Source(
            path=source,
            column=column,
            label_column=label_column,
            format=format,
            split=split,
        ),
        out,
        config_lib.augmentation(operation, strength, synonyms),
        copies=copies,
        seed=seed,
    )
    print(f"{out}: {texts:,} texts, and {changed:,} changed copies of them")


def pairs(
    out: Annotated[
        pathlib.Path, typer.Argument(metavar="OUT", help="The JSONL file to write.")
    ],
    text: Annotated[
        list[str],
        typer.Option(
            metavar="STYLE=FILE",
            help="A text and what its style is called; may be given several times.",
        ),
    ],
    count: Annotated[
        int | None, typer.Option(min=1, help="Passages of each style. [default: all]")
    ] = None,
    words: Annotated[
        int, typer.Option(min=5, help="Words in a passage, at most.")
    ] = 24,
    operation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CHANCE",
            help="What is done to the words; see `gptjax augment`. "
            "[default: deletion=0.5]",
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option(help="What fraction of words is deleted, swapped ...")
    ] = 0.2,
    synonyms: Annotated[
        str | None, typer.Option(help="A file of synonyms, or `wordnet`.")
    ] = None,
    plain: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="What fraction of passages follows the style alone."
        ),
    ] = 0.1,
    column: options.Column = "text",
    format: options.Format = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Makes prompts with answers of plain texts, to learn their styles from.

    The words of a passage, of every other one some lost, are what a user says, and the
    passage itself is the answer. `gptjax train configs/style.yaml` learns from them: to
    keep the words, first, for which a small model must see many of them all kept.
    """
    from gptjax import config as config_lib
    from gptjax import pairing

    sources = {}
    for given in text:
        style, equals, path = given.partition("=")
        if not equals or style in sources:
            raise errors.UserError(
                f"--text: {given!r}; write STYLE=FILE, each style once"
            )
        sources[style] = config_lib.Source(path=path, column=column, format=format)
    counts = pairing.write(
        sources,
        out,
        config_lib.augmentation(operation or ["deletion=0.5"], strength, synonyms),
        words=words,
        count=count,
        plain=plain,
        seed=seed,
    )
    told = ", ".join(f"{number:,} of {style}" for style, number in counts.items())
    print(f"{out}: {told}")
