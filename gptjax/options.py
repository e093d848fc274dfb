"""Arguments and options that several commands take."""

import pathlib
from typing import Annotated, Literal

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face folder, a run folder, a hub name, or `packaged`.",
    ),
]
Config = Annotated[
    pathlib.Path, typer.Argument(metavar="CONFIG", help="A YAML file; see configs/.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE ...]",
        help="Overrides of the config, e.g. `training.steps=100 model=gpt2`.",
    ),
]

Profile = Annotated[
    str | None,
    typer.Option(
        metavar="steps=FIRST..LAST[,phase=NAME]",
        help="Trace these steps and print their longest operations. In the first phase "
        "that trains them, or in the one named.",
    ),
]

# How a text is read with a model, and how the result is told.
Text = Annotated[
    str, typer.Option(help="A text, JSONL or CSV file, a folder, or a data set.")
]
Context = Annotated[
    int | None,
    typer.Option(
        min=2, help="Tokens in a window. [default: n_positions, 2048 at most]"
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens a window moves. [default: its whole length]"),
]
Batch = Annotated[int, typer.Option(min=1, help="Windows read at once.")]
Column = Annotated[
    str, typer.Option(help="The column that holds the text, where there are some.")
]
Format = Annotated[
    Literal["text", "jsonl", "csv", "hf", "tfds"] | None,
    typer.Option(help="Of the texts. [default: by the name's ending]"),
]
Split = Annotated[
    str | None, typer.Option(help="Of a Hugging Face or TFDS data set: which split.")
]
Task = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose classifier, where there are several."),
]
LabelColumn = Annotated[
    str, typer.Option(help="The column that holds the label, for a classifier.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
