"""The commands that give a checkpoint another form."""

import pathlib
from typing import Annotated, Literal

import typer

from gptjax import choices


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
