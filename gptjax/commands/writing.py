"""The command that writes with a model."""

import sys
from typing import Annotated, Any

import typer
import yaml

from gptjax import errors, options


def generate(
    model: options.Model,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OPTION=VALUE ...]",
            help="Any other option of Hugging Face's `generate`, by its name: "
            "`num_beams=4 min_p=0.1 stop_strings=[END]`.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="What to go on from; may be given several times. [default: each line "
            "that is typed]"
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="New tokens, at most. [default: the checkpoint's, or 50]"
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Below 1 is more predictable, above 1 less. [default: the "
            "checkpoint's, or 0.8]"
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Draw from the k likeliest; 0: from all.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw from the likeliest tokens of this total probability."),
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Always the likeliest token.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    style: Annotated[
        str | None, typer.Option(help="One that the model has learnt: shakespeare.")
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Answer the prompt, by the model's chat template."),
    ] = False,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A smaller one, e.g. pruned of layers, that proposes tokens: as good "
            "a text, sooner where it is often right.",
        ),
    ] = None,
) -> None:
    """Writes on from a prompt, or answers it; without one, from every line typed.

    Text appears while it is written. The checkpoint's generation_config.json holds
    where nothing else is said, but that tokens are drawn unless `--greedy` or
    `num_beams` asks otherwise.
    """
    from gptjax import api, generation

    given = _parsed(settings or ())
    flags = {
        "max_new_tokens": tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    for name, value in flags.items():
        if value is not None:
            if name in given:
                raise errors.UserError(f"{name}: given twice; leave one out")
            given[name] = value
    if tokens is not None and "max_length" in given:
        raise errors.UserError("--tokens: goes before max_length; leave one out")
    loaded = api.load(model)
    writer = loaded.drafted_by(None if draft is None else api.load(draft))
    if greedy:
        for name in ("do_sample", *generation.DRAWING):
            if name in given:
                raise errors.UserError(f"--greedy: {name} is of drawing; leave one out")
        given["do_sample"] = False
    else:
        given = writer.drawing(given)
    how = writer.options(given)
    if prompt is None:
        _converse(writer, how, style=style, chat=chat, seed=seed)
        return
    ids = writer.encode(prompt, style=style, chat=chat)
    shown = ["" if chat else text for text in prompt]
    if len(ids) * how.num_return_sequences == 1 and how.num_beams == 1:
        _show(writer, ids, how, seed, before=shown[0])
        return
    made = writer.generate(ids, how, seed)
    written = [
        shown[number // how.num_return_sequences] + text
        for number, text in enumerate(writer.texts(ids, made, how))
    ]
    print("\n---\n".join(written))


def _parsed(settings) -> dict[str, Any]:
    """Options by their names, values read as YAML."""
    given = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        try:
            given[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", error)
            raise errors.UserError(f"{setting!r}: not YAML: {problem}") from error
        if not equals:
            raise errors.UserError(f"{setting!r} is no option; write name=value")
    return given


def _show(writer, ids, how, seed: int, *, before: str) -> str:
    """Prints what is written while it is, all of it, behind what comes before."""
    written = ""
    # What cannot be done is told alone.
    writer.engine.check(ids, how)
    print(before, end="", flush=True)
    for _, text in writer.stream(ids, how, seed):
        print(text, end="", flush=True)
        written += text
    print()
    return written


def _converse(writer, how, *, style: str | None, chat: bool, seed: int) -> None:
    """Answers line by line; a chat remembers what was said."""
    if how.num_beams > 1 or how.num_return_sequences > 1:
        raise errors.UserError(
            "num_beams, num_return_sequences: take a --prompt; typed lines are "
            "answered while they are written"
        )
    is_typed = sys.stdin.isatty()
    if is_typed:
        print("Ctrl-D ends.", file=sys.stderr)
    turns: list[dict[str, str]] = []
    for number in range(sys.maxsize):
        if is_typed:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if not line.strip():
            continue
        line = line.rstrip("\n")
        said = {"role": "user", "content": line}
        try:
            ids = writer.encode(
                [[*turns, said] if chat else line], style=style, chat=chat
            )
            answer = _show(writer, ids, how, seed + number, before="" if chat else line)
        except errors.UserError as error:
            if not is_typed:
                raise
            print(f"gptjax: {error}", file=sys.stderr)
            turns = []
            continue
        if answer.strip():
            turns += [said, {"role": "assistant", "content": answer}]
