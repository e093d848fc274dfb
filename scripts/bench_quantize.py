"""A pruned model of 8 and 4 bits: its bytes, and its perplexity as it is read back.

    python scripts/bench_quantize.py [--out FILE]

The packaged model learns Shakespeare and is pruned to 80 % in two rounds. Then its
kernels are rounded, to the nearest code and by GPTQ on the training text, all else is
stored as float16, and each folder is loaded and measured on the validation text.

So is a model that was pruned while it was trained on the grid; and of the dense model,
pruning to half and rounding in one pass of SparseGPT beside one after the other.
"""

import pathlib
import tempfile
from typing import Any

import benching
import jax.numpy as jnp

import gptjax
from gptjax import assets, convert

WAYS = {
    "8 bits, nearest": {"bits": 8},
    "4 bits, nearest": {"bits": 4, "group": 64},
    "4 bits, GPTQ": {"bits": 4, "group": 64, "gptq": True},
}
FOUR = {"bits": 4, "group": 64}


def main() -> None:
    """Prunes twice, rounds, reads back."""
    parser = benching.parser(__doc__)
    parser.add_argument("--steps", type=int, default=48, help="of a round")
    given = parser.parse_args()
    if given.quick:
        given.steps = 4
    how = {"sequences": 8 if given.quick else 128}
    text = str(assets.text("shakespeare.train"))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = gptjax.prune(None, **settings(folder / "pruned", given))
        found["float32"] = _measured(run.folder / "export")
        _save_float16(run.folder / "export", folder / "float16")
        found["float16"] = _measured(folder / "float16")
        for way, options in WAYS.items():
            options = dict(options)
            if options.pop("gptq", False):
                options |= {"calibration_text": text, **how}
            made = gptjax.quantize(run.folder, **options)
            found[way] = _saved(made, folder / way)
        trained = gptjax.prune(
            None, **settings(folder / "trained", given), quantization=FOUR
        )
        made = gptjax.quantize(trained.folder, **FOUR)
        found["4 bits, trained so"] = _saved(made, folder / "trained so")

        dense = run.folder / "rounds" / "00"
        found["dense"] = _measured(dense)
        read = {"calibration_text": text, **how}
        one = gptjax.quantize(dense, **FOUR, **read, sparsity=0.5)
        found["half pruned, 4 bits: one pass"] = _saved(one, folder / "one")
        halved = gptjax.prune(
            None,
            **settings(folder / "halved", given)
            | {
                "model": str(dense),
                "training.steps": 0,
                "optimizer.warmup_steps": 0,
                "calibration.sequences": how["sequences"],
                "calibration.order": "first",
                "pruning.schedule": "one-shot",
                "pruning.criterion": "sparsegpt",
                "pruning.scope": "layer",
                "pruning.sparsities": [0.5],
            },
        )
        for way, options in (("nearest", {}), ("GPTQ", read)):
            made = gptjax.quantize(halved.folder, **FOUR, **options)
            key = f"half pruned, 4 bits: then {way}"
            found[key] = _saved(made, folder / key)
    for way, figures in found.items():
        print(
            f"{way}: {figures['bytes']:,} bytes, perplexity {figures['perplexity']:.3f}"
        )
    print(f"measured by: {found['float32']['protocol']}")
    benching.conclude(
        given.out,
        {"benchmark": "quantize", "steps": given.steps, "models": found},
        ratios={
            f"{what} {way} / float32": benching.ratio(
                [figures[what]], [found["float32"][what]]
            )
            for way, figures in found.items()
            if "bits" in way and "half" not in way
            for what in ("bytes", "perplexity")
        },
    )


def settings(out: pathlib.Path, given: Any) -> dict[str, Any]:
    """Of a run that prunes the packaged model to 80 % in two rounds."""
    return {
        "model": "packaged",
        "out": str(out),
        "data.train": str(assets.text("shakespeare.train")),
        "data.valid": str(assets.text("shakespeare.valid")),
        "data.sequence_tokens": 256,
        "training.steps": given.steps,
        "training.batch_sequences": 8,
        "training.dropout": False,
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": min(4, given.steps - 1),
        "optimizer.options.b2": 0.95,
        "evaluation.context_tokens": 256,
        "evaluation.limit_tokens": 16384,
        "pruning.sparsities": [0.5, 0.8],
    }


def _save_float16(source: pathlib.Path, folder: pathlib.Path) -> None:
    config, params = convert.load(source, dtype=jnp.float16)
    convert.save(folder, config, params, like=source)


def _saved(made: Any, folder: pathlib.Path) -> dict[str, Any]:
    made.save(folder, dtype=jnp.float16)
    return _measured(folder)


def _measured(folder: pathlib.Path) -> dict[str, Any]:
    """Of a folder, as its own reader finds it."""
    model = gptjax.load(folder)
    result = model.perplexity(assets.text("shakespeare.valid"), context=256)
    files = convert.weight_files(convert.resolve(folder))
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "perplexity": result.perplexity,
        "protocol": result.protocol(),
    }


if __name__ == "__main__":
    main()
