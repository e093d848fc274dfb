"""The commands that measure a model and label with it."""

import dataclasses
import json
import pathlib
import sys
from typing import Annotated

import typer

from gptjax import errors, files, options


def evaluate(
    model: options.Model,
    text: options.Text,
    context: options.Context = None,
    stride: options.Stride = None,
    batch: options.Batch = 8,
    column: options.Column = "text",
    label_column: options.LabelColumn = "label",
    format: options.Format = None,
    split: options.Split = None,
    task: options.Task = None,
    language: Annotated[
        bool,
        typer.Option(
            "--language", help="Of a classifier, too: the perplexity of its texts."
        ),
    ] = False,
    instructions: Annotated[
        bool,
        typer.Option(
            "--instructions",
            help="It is JSONL of prompts with answers, or chats.",
        ),
    ] = False,
    style: Annotated[
        str | None,
        typer.Option(help="Of instructions: the style of all that name none."),
    ] = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="Of a classifier: a folder for the page and the picture."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measures a model on a text, and says by which protocol.

    Of a language model it tells the perplexity. A stride smaller than the context
    predicts tokens from longer contexts: lower perplexity, more work, another protocol.

    Of a classifier it tells accuracy, precision, recall and F1 of each label, and what
    is taken for what; `--context` is the most tokens that are read of a text.

    With `--instructions` it tells the perplexity of answers alone, given their prompts;
    `--context` is the most tokens of a prompt with its answer.
    """
    from gptjax import api, data
    from gptjax import config as config_lib

    source = config_lib.Source(
        path=text, column=column, label_column=label_column, format=format, split=split
    )
    if (instructions or language) and (task is not None or out is not None):
        raise errors.UserError(
            "--task, --out: are of a classifier's labels, and neither --language nor "
            "--instructions measures these"
        )
    if out is not None:
        files.make_folder(out)
    loaded = api.load(model)
    if instructions:
        if stride is not None or language:
            raise errors.UserError(
                "--instructions: goes neither with --stride nor with --language"
            )
        if style is not None:
            data.check_style(style, "--style")
            source = source.model_copy(update={"style": style})
        _evaluate_instructions(loaded, source, context, batch, as_json)
        return
    if style is not None:
        raise errors.UserError("--style: is of instructions; give --instructions too")
    if task is not None or (loaded.config.classifiers and not language):
        if stride is not None:
            raise errors.UserError("--stride: a classifier reads whole texts")
        _evaluate_classifier(loaded, source, task, context, batch, out, as_json)
    elif out is not None:
        raise errors.UserError("--out: only a classifier has a page and a picture")
    else:
        _evaluate_language(loaded, source, context, stride, batch, as_json)


def _evaluate_language(loaded, source, context, stride, batch, as_json) -> None:
    result = loaded.perplexity(
        source,
        context=context,
        stride=stride,
        batch_sequences=batch,
        progress=not as_json,
    )
    figures = dataclasses.asdict(result) | {
        "perplexity": result.perplexity,
        "loss": result.loss,
        "bytes_per_token": result.bytes_per_token,
        "bits_per_byte": result.bits_per_byte,
        "protocol": result.protocol(),
    }
    if as_json:
        print(json.dumps(figures))
    else:
        print(
            f"perplexity {result.perplexity:.4f} ({result.loss:.5f} nats a token)\n"
            f"protocol   {result.protocol()}\n"
            f"text       {source.path}: {result.total_bytes:,} bytes, "
            f"{result.bytes_per_token:.3f} bytes a token, "
            f"{result.bits_per_byte:.4f} bits a byte"
        )


def _evaluate_instructions(loaded, source, context, batch, as_json) -> None:
    result = loaded.complete(
        source, sequence_tokens=context, batch_sequences=batch, progress=not as_json
    )
    if as_json:
        print(json.dumps(dataclasses.asdict(result) | result.to_json()))
    else:
        print(
            f"perplexity {result.perplexity:.4f} ({result.loss:.5f} nats a token)\n"
            f"protocol   {result.protocol()}"
        )


def _evaluate_classifier(loaded, source, task, context, batch, out, as_json) -> None:
    from gptjax import reporting

    result = loaded.classify(
        source,
        task=task,
        sequence_tokens=context,
        batch_sequences=batch,
        progress=not as_json,
    )
    if as_json:
        scores = {name: dataclasses.asdict(s) for name, s in result.per_label.items()}
        print(json.dumps({**result.to_json(), "per_label": scores}))
    else:
        reporting.print_classification(result)
    if out is not None:
        page = reporting.write_classification(out, result)
        if not as_json:
            print(page)


def predict(
    model: options.Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT ...]", help="What to label; else each line of the input."
        ),
    ] = None,
    task: options.Task = None,
    batch: options.Batch = 8,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a JSON object a text, with all chances."),
    ] = False,
) -> None:
    """Labels texts with a classifier; one line for each: label, probability, text.

    With a classifier of words, one line for each word, and an empty one after a text.
    """
    from gptjax import api

    given = texts or [line for line in sys.stdin.read().splitlines() if line.strip()]
    if not given:
        raise errors.UserError("no text to label; give some, or lines of input")
    loaded = api.load(model)
    if loaded.classifier(task).per_token:
        found = loaded.tag(given, task=task, batch_sequences=batch)
        for number, (text, words) in enumerate(zip(given, found, strict=True), 1):
            _print_words(text, words, as_json)
            if len(words) < len(text.split()):
                print(
                    f"text {number}: {len(words)} of {len(text.split())} words are "
                    f"read; the model's n_positions is {loaded.config.n_positions}",
                    file=sys.stderr,
                )
        return
    labelled = loaded.predict(given, task=task, batch_sequences=batch)
    for text, prediction in zip(given, labelled, strict=True):
        if as_json:
            print(json.dumps({"text": text, **dataclasses.asdict(prediction)}))
        else:
            print(_told(text, prediction))


def _print_words(text: str, words, as_json: bool) -> None:
    """The labels of a text's words."""
    if as_json:
        own = [{"word": word, **dataclasses.asdict(label)} for word, label in words]
        print(json.dumps({"text": text, "words": own}))
    else:
        print("\n".join(_told(word, label) for word, label in words) + "\n")


def _told(text: str, prediction) -> str:
    chance = prediction.probabilities[prediction.label]
    return f"{prediction.label}\t{chance:.4f}\t{text}"


def connect(
    first: Annotated[
        str, typer.Argument(metavar="A", help="Any MODEL, e.g. a round of a run.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="Another one of the same shapes.")
    ],
    text: options.Text,
    points: Annotated[
        int, typer.Option(min=3, help="Models on the line, A and B among them.")
    ] = 11,
    context: options.Context = None,
    stride: options.Stride = None,
    batch: options.Batch = 8,
    column: options.Column = "text",
    format: options.Format = None,
    split: options.Split = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="A folder for the picture, the page and the figures."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Walks in a straight line from one model to another, and measures the hill.

    The weights of the way are (1 - a) A + a B. Two runs from one start that saw other
    batches lie in one valley of the loss if no hill is between them: then the start is
    *stable*, which is when rewinding to it finds lottery tickets (Frankle et al.,
    arXiv:1912.05671). The barrier is the highest loss on the way above the mean of
    the two models' own.
    """
    from gptjax import api, reporting
    from gptjax import config as config_lib

    source = config_lib.Source(path=text, column=column, format=format, split=split)
    if out is not None:
        files.make_folder(out)
    found = api.load(first).connect(
        api.load(second),
        source,
        points=points,
        context=context,
        stride=stride,
        batch_sequences=batch,
        progress=not as_json,
    )
    if as_json:
        print(json.dumps(found.figures()))
    else:
        reporting.print_connectivity(found)
    if out is not None:
        page = reporting.write_connectivity(out, found)
        if not as_json:
            print(page)
