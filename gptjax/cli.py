"""The commands: each says what it does, does it, and ends with a clear exit code.

0 for success, 1 for a failure with a one-line reason on stderr, 2 for bad usage, 3 for
a plan that does not fit, 128 + the signal's number for a run that was told to stop. A
traceback only with `--debug`.
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from gptjax import errors, options

app = typer.Typer(
    name="gptjax",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Makes GPT checkpoints smaller, with proof.\n\nMODEL is a Hugging Face "
    "folder, a run folder, a hub name (`gpt2`), or `packaged` for the small GPT-2 that "
    "ships with gptjax.",
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
) -> None:
    del debug  # main takes it, wherever it stands: that is where errors arrive


@app.command()
def demo(
    out: Annotated[
        pathlib.Path, typer.Option(help="The run folder; an interrupted one goes on.")
    ] = pathlib.Path("runs/demo"),
) -> None:
    """Runs the whole job, offline: fine-tune, prune, report, export.

    Takes the packaged GPT-2, which has read Jane Austen, fine-tunes it on Shakespeare
    and prunes it in rounds with rewinding. Some minutes on two CPU cores.
    """
    from gptjax import demo

    demo.run(out)


@app.command()
def train(
    config: options.Config,
    overrides: options.Overrides = None,
    profile: options.Profile = None,
) -> None:
    """Fine-tunes a model.

    Started again after an interruption, the same command goes on where it stopped.
    """
    from gptjax import api, reporting
    from gptjax import config as config_lib

    given = [*(overrides or ()), *config_lib.profiling(profile)]
    run = api.run_training(config_lib.load(config, given))
    reporting.print_run(run.folder)


@app.command()
def prune(
    config: options.Config,
    overrides: options.Overrides = None,
    profile: options.Profile = None,
) -> None:
    """Prunes a model, and proves what that cost and saved.

    In rounds with rewinding, in one shot, during training, or by cutting whole layers,
    neurons, heads or width out of it: see `pruning` in the README.

    Started again after an interruption, the same command goes on where it stopped.
    """
    from gptjax import api, reporting
    from gptjax import config as config_lib

    given = [*(overrides or ()), *config_lib.profiling(profile)]
    run = api.run_pruning(config_lib.load(config, given))
    reporting.print_run(run.folder)


@app.command()
def plan(
    config: options.Config,
    topology: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="v5e:4x4, v5p:4x4x4, v6e:8x8,slices=2, h100x8, cpu:8 ...; without a "
            "size (v5p), the smallest that fits.",
        ),
    ],
    overrides: options.Overrides = None,
    search: Annotated[
        bool | None,
        typer.Option(
            "--search/--no-search",
            help="Try other meshes and micro-batches. [default: if it does not fit]",
        ),
    ] = None,
    compiles: Annotated[
        int, typer.Option(min=1, help="How many of them are compiled at most.")
    ] = 4,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="A folder for the plan and its picture.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Tells memory, time and cost of a run before it starts, without the machine.

    The machine's own compiler compiles the training step. Exits with 3 where the
    config does not fit as it stands.
    """
    from gptjax import config as config_lib
    from gptjax import planning

    planned = planning.plan(
        config_lib.load(config, overrides or ()),
        topology,
        searches=search,
        compiles=compiles,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if as_json:
        print(json.dumps(planned.to_json()))
    else:
        planning.print_plan(planned)
    if out is not None:
        planning.write(out, planned)
    if not planned.fits:
        raise typer.Exit(3)


@app.command()
def compare(
    config: options.Config,
    overrides: options.Overrides = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="The run folder. [default: the config's `out`]"),
    ] = None,
) -> None:
    """Puts methods and sparsities side by side, under one protocol.

    Writes `compare.csv` and pictures. Started again after an interruption, the same
    command goes on with the row where it stopped.
    """
    from gptjax import api, reporting
    from gptjax import config as config_lib

    given = [*(overrides or ()), *([f"out={out}"] if out is not None else [])]
    done = api.run_comparison(config_lib.load(config, given))
    reporting.print_comparison(done.folder)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="What to read: any MODEL.")
    ],
    destination: Annotated[
        pathlib.Path, typer.Argument(metavar="DST", help="The folder to write.")
    ],
    to: Annotated[
        Literal["hf", "gptjax"],
        typer.Option(
            help="`hf`: a folder that transformers loads. `gptjax`: stacked weights "
            "that load sharded.",
        ),
    ] = "hf",
    dtype: Annotated[
        Literal["keep", "float32", "bfloat16", "float16"],
        typer.Option(
            help="What the weights are stored as; `keep` changes no byte.",
        ),
    ] = "keep",
    max_shard_bytes: Annotated[
        int, typer.Option(min=1, help="A larger model is split into several files.")
    ] = 5_000_000_000,
) -> None:
    """Converts a checkpoint, of any layout that Hugging Face's GPT-2 ever had."""
    import jax.numpy as jnp

    from gptjax import convert

    folder = convert.resolve(source)
    config, params = convert.load(
        folder, dtype=None if dtype == "keep" else jnp.dtype(dtype)
    )
    if to == "hf":
        convert.save(
            destination, config, params, like=folder, max_shard_bytes=max_shard_bytes
        )
    else:
        convert.save_native(destination, config, params, like=folder)
    print(f"{folder} -> {destination}")
    note = convert.padding_note(config) if to == "hf" else None
    if note is not None:
        print(note)


@app.command()
def evaluate(
    model: options.Model,
    text: options.Text,
    context: options.Context = None,
    stride: options.Stride = None,
    batch: options.Batch = 8,
    column: options.Column = "text",
    as_json: options.Json = False,
) -> None:
    """Measures perplexity, and says by which protocol.

    A stride smaller than the context predicts tokens from longer contexts: lower
    perplexity, more work, another protocol.
    """
    from gptjax import api
    from gptjax import config as config_lib

    result = api.load(model).perplexity(
        config_lib.Source(path=text, column=column),
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
            f"text       {text}: {result.total_bytes:,} bytes, "
            f"{result.bytes_per_token:.3f} bytes a token, "
            f"{result.bits_per_byte:.4f} bits a byte"
        )


@app.command()
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

    found = api.load(first).connect(
        api.load(second),
        config_lib.Source(path=text, column=column),
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


@app.command()
def generate(
    model: options.Model,
    prompt: Annotated[
        list[str], typer.Option(help="What to go on from; may be given several times.")
    ],
    tokens: Annotated[int, typer.Option(min=1, help="New tokens, at most.")] = 100,
    temperature: Annotated[
        float, typer.Option(help="Below 1 is more predictable, above 1 less.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw from the k likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw from the likeliest tokens of this total probability."),
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Always the likeliest token.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Writes on from a prompt."""
    from gptjax import api

    written = api.load(model).generate(
        prompt,
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        greedy=greedy,
        seed=seed,
    )
    print("\n---\n".join(p + text for p, text in zip(prompt, written, strict=True)))


@app.command()
def report(
    paths: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="RUN", help="Run folders, or JSON of benchmarks."),
    ],
) -> None:
    """Draws the tables and pictures of a run again, from what its folder holds.

    Of files that scripts/bench_*.py wrote, one page of all their ratios, beside the
    first of them.
    """
    from gptjax import reporting

    if all(path.suffix == ".json" for path in paths):
        print(reporting.write_benchmarks(paths))
    else:
        for path in paths:
            print(reporting.write(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code.

    Args:
      argv: the arguments; None: the process's.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_debugging = "--debug" in arguments
    # A second start finds its programs compiled; a user's own folder is respected.
    cache = pathlib.Path("~/.cache/gptjax/xla").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    # The small ones too: a run has a dozen, which take half a second together.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # orbax and TFDS greet the terminal through absl; a user asked for neither.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        # Exits by itself: after help, after Ctrl-C, and with 2 for bad usage.
        app(args=[a for a in arguments if a != "--debug"], prog_name="gptjax")
    except SystemExit as ended:
        return ended.code
    except errors.Stopped as stopped:
        print(f"gptjax: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except errors.UserError as error:
        if is_debugging:
            raise
        print(f"gptjax: {error}", file=sys.stderr)
        return 1
    return 0
