"""The commands: each says what it does, does it, and ends with a clear exit code.

0 for success, 1 for a failure with a one-line reason on stderr, 2 for bad usage, 3 for
a plan that does not fit, 128 + the signal's number for a run that was told to stop. A
traceback only with `--debug`.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from gptjax import commands, errors, files, options

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

    if out is not None:
        files.make_folder(out)
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
def curve(
    config: options.Config,
    overrides: options.Overrides = None,
) -> None:
    """Measures how good a model becomes by how many texts it learns from.

    Of a config with a `curve` section, for classification and tagging; with and without
    its `data.augmentation`. Writes `curve.csv` and a picture. Started again after an
    interruption, the same command goes on with the run where it stopped.
    """
    from gptjax import api, reporting
    from gptjax import config as config_lib

    reporting.print_curve(api.run_curve(config_lib.load(config, overrides or ())))


@app.command()
def report(
    paths: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="RUN...", help="Run folders, or JSON of benchmarks."),
    ],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE",
            help="The HTML. [default: RUN/report/report.html; of several runs, "
            "report.html]",
        ),
    ] = None,
) -> None:
    """Writes what run folders hold as one HTML file that needs no other.

    Of one run, finished or not: its claims, curves, zeros, savings, samples, config and
    versions; in `RUN/report/` the pictures and tables are there by themselves, too. A
    comparison's or learning curve's folder gets its own page. Of several runs: their
    figures and curves side by side, and what their configs differ in.

    Of files that scripts/bench_*.py wrote, one page of all their ratios, beside the
    first of them.
    """
    from gptjax import reporting

    if all(path.suffix == ".json" for path in paths):
        written = reporting.write_benchmarks(paths)
    elif len(paths) == 1:
        written = reporting.write(paths[0])
    else:
        print(reporting.write_several(paths, out or pathlib.Path("report.html")))
        return
    html = written.with_suffix(".html")
    if out is not None:
        with files.told(out):
            files.write_text(out, html.read_text(encoding="utf-8"))
    print(out or html)


for command in (
    commands.init,
    commands.convert,
    commands.average,
    commands.merge,
    commands.quantize,
    commands.tune,
    commands.augment,
    commands.pairs,
    commands.evaluate,
    commands.robustness,
    commands.predict,
    commands.connect,
    commands.generate,
    commands.serve,
):
    app.command()(command)
# Everything after its name is the harness's.
app.command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(commands.lm_eval)


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
