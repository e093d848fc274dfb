"""The commands that give a checkpoint another form."""

import pathlib
from typing import Annotated, Literal

import typer

from gptjax import choices


def init(
    shape: Annotated[
        str,
        typer.Argument(
            metavar="SHAPE",
            help="One that ships with gptjax, e.g. `gpt3-small`, or a config.json.",
        ),
    ],
    destination: Annotated[
        pathlib.Path, typer.Argument(metavar="DST", help="The folder to write.")
    ],
    tokenizer: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose tokenizer it is to have.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
) -> None:
    """Makes a model of random weights, to be trained from nothing."""
    import jax

    from gptjax import starting

    made = starting.init(shape, tokenizer=tokenizer, seed=seed)
    made.save(destination)
    weights = sum(leaf.size for leaf in jax.tree.leaves(made.params))
    print(f"{destination}: {weights:,} weights, random by seed {seed}")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="What to read: any MODEL, or a .gguf file that gptjax wrote.",
        ),
    ],
    destination: Annotated[
        pathlib.Path,
        typer.Argument(metavar="DST", help="The folder to write, or the .gguf file."),
    ],
    to: Annotated[
        Literal["hf", "gptjax", "gguf", "stablehlo"],
        typer.Option(
            help="`hf`: a folder that transformers loads. `gptjax`: stacked weights "
            "that load sharded. `gguf`: a file that llama.cpp runs. `stablehlo`: "
            "programs that run without gptjax, with their weights.",
        ),
    ] = "hf",
    dtype: Annotated[
        Literal["keep", "float32", "bfloat16", "float16", "q8_0", "q4_0"],
        typer.Option(
            help="What the weights are stored as; `keep` changes no byte. `q8_0`, "
            "`q4_0`: of GGUF, codes of 8 and 4 bits in blocks of 32.",
        ),
    ] = "keep",
    max_shard_bytes: Annotated[
        int, typer.Option(min=1, help="A larger model is split into several files.")
    ] = 5_000_000_000,
) -> None:
    """Converts a checkpoint of any family, old layouts of Hugging Face's included."""
    import jax.numpy as jnp

    from gptjax import convert, errors, formats, models
    from gptjax.convert import llama_cpp

    has_codes = dtype in ("q8_0", "q4_0")
    if has_codes and to != "gguf":
        raise errors.UserError(f"--dtype {dtype}: --to gguf stores it, {to} does not")
    if destination.suffix == llama_cpp.SUFFIX and to != "gguf":
        raise errors.UserError(f"{destination}: to write a GGUF file add --to gguf")
    # A GGUF file has norms and biases in float32, whatever its matrices are.
    cast = None if dtype == "keep" or to == "gguf" else jnp.dtype(dtype)
    with formats.opened(source, dtype=cast) as (folder, config, params):
        if to in ("gguf", "stablehlo"):
            loaded = models.with_tokenizer(config, params, folder)
            on_grid = convert.load_grid(folder)
        if to == "hf":
            convert.save(
                destination,
                config,
                params,
                like=folder,
                max_shard_bytes=max_shard_bytes,
            )
            notes = [convert.padding_note(config)]
        elif to == "gptjax":
            convert.save_native(destination, config, params, like=folder)
            notes = []
        elif to == "gguf":
            written = formats.save_gguf(
                loaded, destination, weights=dtype, on_grid=on_grid
            )
            notes = [written.text(), convert.padding_note(config), written.note]
        else:
            size = formats.save_stablehlo(loaded, destination, on_grid=on_grid)
            notes = [f"{size:,} bytes of weights"]
    is_file = pathlib.Path(source).suffix == llama_cpp.SUFFIX
    print(f"{source if is_file else folder} -> {destination}")
    for note in filter(None, notes):
        print(note)


def average(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL ...", help="Of the same shapes.")
    ],
    out: Annotated[pathlib.Path, typer.Option(help="The folder to write.")],
    weights: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Of each model in turn. [default: all alike]"),
    ] = None,
    zeros: Annotated[
        choices.Zeros,
        typer.Option(
            help="A weight is 0 where it is 0 in all models, in any (the masks "
            "intersected), or in the first (its mask kept)."
        ),
    ] = "all",
) -> None:
    """Averages the weights of models: a soup of runs, or a student with its parent."""
    from gptjax import api, compression

    mixed = api.average(models, weights, zeros=zeros)
    mixed.save(out)
    print(f"{out}: {len(models)} models, {compression.zeros_text(mixed.params)}")


def merge(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Any MODEL, pruned or not.")
    ],
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER", help="A LoRA folder as PEFT has it, or a run's."
        ),
    ],
    out: Annotated[pathlib.Path, typer.Option(help="The folder to write.")],
) -> None:
    """Merges a LoRA adapter into a model; every weight that is 0 stays 0.

    PEFT's own merge would bring a pruned model's zeros back to life.
    """
    from gptjax import api, masks
    from gptjax import config as config_lib

    before = api.load(name, dtype=None)
    after = before.with_adapter(adapter)
    after.save(out)
    rules = config_lib.Pruning.model_fields["prunable"].default
    (zeros, total), (kept, _) = (
        masks.zeros(each.params, rules) for each in (before, after)
    )
    print(
        f"{out}: {zeros:,} of {total:,} weights of the blocks' kernels are 0 "
        f"({zeros / total:.1%}) before, {kept:,} ({kept / total:.1%}) after"
    )
