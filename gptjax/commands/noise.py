"""The command that measures models on noised texts."""

import json
import pathlib
from typing import Annotated

import typer

from gptjax import files, options


def robustness(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="As for `evaluate`; the first, e.g. the dense one, is what the others "
            "are held against.",
        ),
    ],
    text: options.Text,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="typos, swaps or drops; may be given several times. [default: all]",
        ),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            metavar="R",
            help="The fraction of words that noise touches; may be given several "
            "times. 0 is always measured. [default: 0.05 0.1 0.2]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many, one after another.")] = 3,
    context: options.Context = None,
    batch: options.Batch = 8,
    column: options.Column = "text",
    label_column: options.LabelColumn = "label",
    format: options.Format = None,
    split: options.Split = None,
    task: options.Task = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="A folder for the picture, the page and the figures."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measures what typos, swapped words and dropped words cost models.

    *Typos*: in a word one letter becomes its neighbour on the keyboard, is left out,
    doubled, or changes places with the next. *Swaps*: words change places with the
    next. *Drops*: words are left out. All models read the very same noised texts.

    Of language models it tells bits per byte of the noised text, of classifiers
    accuracy and F1.
    """
    from gptjax import config as config_lib
    from gptjax import data, noising, reporting

    if out is not None:
        files.make_folder(out)
    found = noising.robustness(
        models,
        config_lib.Source(
            path=text,
            column=column,
            label_column=label_column,
            format=format,
            split=split,
        ),
        task=task,
        noises=noise or data.NOISES,
        rates=rate or noising.RATES,
        seed=seed,
        seeds=seeds,
        context=context,
        batch_sequences=batch,
        progress=not as_json,
    )
    if as_json:
        print(json.dumps(found.figures()))
    else:
        reporting.print_robustness(found)
    if out is not None:
        page = reporting.write_robustness(out, found)
        if not as_json:
            print(page)
