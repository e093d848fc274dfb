"""The commands that write texts to train on."""

import pathlib
from typing import Annotated

import typer

from gptjax import options


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
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Writes texts and changed copies of them, with their labels.

    Training changes texts on the fly where its config has `data.augmentation`.
    """
    from gptjax import augmenting
    from gptjax import config as config_lib

    texts, changed = augmenting.write(
        config_lib.Source(path=source, column=column, label_column=label_column),
        out,
        config_lib.augmentation(operation, strength, synonyms),
        copies=copies,
        seed=seed,
    )
    print(f"{out}: {texts:,} texts, and {changed:,} changed copies of them")
