"""The command that makes kernels small."""

import pathlib
from typing import Annotated, Literal

import typer

from gptjax import options


def quantize(
    model: options.Model,
    out: Annotated[pathlib.Path, typer.Option(help="The folder to write.")],
    bits: Annotated[int, typer.Option(help="Of a weight: 8, or 4.")] = 8,
    group: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many inputs share a scale. [default: all of an output's]",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Round by GPTQ, which reads this text. [default: to the nearest code]",
        ),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="How many windows of it are read.")
    ] = 128,
    context: options.Context = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Prune to this in the same pass, by SparseGPT."),
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="Or to a pattern N:M, e.g. 2:4.")
    ] = "unstructured",
    activations: Annotated[
        int | None,
        typer.Option(
            metavar="8",
            help="Multiply the kernels by activations of 8 bits, each token rounded "
            "by itself as it comes. [default: activations stay floats]",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(help="Of what is not rounded: embeddings, norms, biases."),
    ] = "float32",
    text: Annotated[
        str | None,
        typer.Option(help="Tell the perplexity of this text before and after."),
    ] = None,
    stride: options.Stride = None,
) -> None:
    """Rounds the kernels of a model's blocks to 8 or 4 bits; zeros stay exactly 0.

    What it writes has the layout of the `compressed-tensors` library, which gptjax
    reads like any model, and transformers where it is not a GPT or GPT-2, if that
    library is installed. `gptjax convert` makes an ordinary checkpoint of it.

    GPTQ goes through a model block by block; interrupted, the same command goes on
    after the last one that it finished, which it keeps in OUT.blocks until the end.
    """
    import jax.numpy as jnp

    from gptjax import api, convert, quantizing
    from gptjax.pruning import calibration as calibrating

    convert.check_replaceable(out, source=convert.resolve(model))
    keep = None if calibration is None else out.with_name(out.name + ".blocks")
    before = None
    if text is not None:
        before = api.load(model).perplexity(text, context=context, stride=stride)
    made = quantizing.quantize(
        model,
        bits=bits,
        group=group,
        calibration_text=calibration,
        sequences=sequences,
        context=context,
        sparsity=sparsity,
        pattern=pattern,
        activation_bits=activations,
        keep=keep,
        progress=True,
    )
    made.save(out, dtype=jnp.dtype(dtype))
    if keep is not None:
        calibrating.forget(keep)
    shares = "a scale an output" if group is None else f"a scale for {group} inputs"
    sizes = [
        sum(path.stat().st_size for path in convert.weight_files(folder))
        for folder in (made.model.folder, out)
    ]
    print(
        f"{out}: {made.weights:,} weights of {bits} bits, {shares}, {made.how}, "
        f"{made.seconds:.1f} s\n"
        f"zeros      {made.zeros_before / made.weights:.2%} of them before, "
        f"{made.zeros_after / made.weights:.2%} after\n"
        f"bytes      {sizes[0]:,} before, {sizes[1]:,} after: "
        f"{sizes[1] / sizes[0]:.0%}"
    )
    if before is not None:
        after = api.load(out).perplexity(text, context=context, stride=stride)
        print(
            f"perplexity {before.perplexity:.4f} before, {after.perplexity:.4f} after\n"
            f"protocol   {after.protocol()}"
        )
