"""A pruned model in each format: bytes, and perplexity and speed by its own reader.

    python scripts/bench_formats.py [MODEL] [--out FILE]

The packaged model learns Shakespeare and is pruned to 80 % as in bench_quantize.py, or
MODEL is taken. Of its float32 folder and of its kernels rounded to 8 bits it makes
every format; each is read by a process of its own, without gptjax, which takes the
perplexity of the first validation tokens and writes on from a prompt. Speeds are those
of the readers, on one core each, in turns: they are different programs, and llama.cpp
computes with the codes themselves, where the others make float32 weights of them.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import bench_quantize
import benching
import jax.numpy as jnp
import rich.progress

import gptjax
from gptjax import assets, convert, formats

READER = pathlib.Path(__file__).with_name("read_format.py")
READERS = {
    "Hugging Face, float32": "transformers",
    "compressed-tensors, 8 bits": "compressed-tensors",
    "GGUF, Q8_0": "llama.cpp",
    "StableHLO, 8 bits": "jax.export",
}
CONTEXT = 256


def main() -> None:
    """Makes the formats, has them read, compares."""
    parser = benching.parser(__doc__)
    parser.add_argument("model", nargs="?", help="a MODEL [default: made, as above]")
    parser.add_argument("--steps", type=int, default=48, help="of a round, if made")
    parser.add_argument(
        "--rounds", type=int, default=5, help="in which speeds are taken"
    )
    given = parser.parse_args()
    if given.quick:
        given.rounds = 1
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if given.model is None and not given.quick:
            settings = bench_quantize.settings(folder / "pruned", given)
            given.model = gptjax.prune(None, **settings).folder
        places = _made(given.model or "packaged", folder)
        found, speeds = _measured(places, given)
    for own, figures in found.items():
        speed = benching.text(figures["tokens/s"], digits=0)
        print(
            f"{own}: {figures['bytes']:,} bytes, perplexity "
            f"{figures['perplexity']:.4f}, {speed} tokens/s by {READERS[own]}"
        )
    first, *others = found
    ratios = {}
    for own in others:
        for what in ("bytes", "perplexity"):
            ratios[f"{what} {own} / float32"] = benching.ratio(
                [found[own][what]], [found[first][what]]
            )
        ratios[f"tokens/s {READERS[own]} / transformers"] = benching.ratio(
            speeds[own], speeds[first]
        )
    benching.conclude(
        given.out, {"benchmark": "formats", "formats": found}, ratios=ratios
    )


def _made(source: Any, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The model in each format: where it lies, by `READERS`' names."""
    dense = gptjax.load(source)
    dense.save(folder / "float32")
    small = gptjax.quantize(source, bits=8)
    small.save(folder / "codes", dtype=jnp.float16)
    codes = gptjax.load(folder / "codes", dtype=None)
    grid = small.on_grid
    formats.save_gguf(codes, folder / "q8_0.gguf", weights="q8_0", on_grid=grid)
    formats.save_stablehlo(codes, folder / "programs", on_grid=grid)
    places = [folder / own for own in ("float32", "codes", "q8_0.gguf", "programs")]
    return dict(zip(READERS, places, strict=True))


def _bytes(place: pathlib.Path) -> int:
    """Of weights and programs; a GGUF file has its tokenizer in it."""
    if place.is_file():
        return place.stat().st_size
    files = [*convert.weight_files(place), *place.glob("*.exported")]
    return sum(file.stat().st_size for file in files)


def _measured(
    places: dict[str, pathlib.Path], given: Any
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The figures of each format, and its speed in each round."""
    text = assets.text("shakespeare.valid").read_text("utf-8")
    tokenizer = gptjax.load(places["Hugging Face, float32"]).tokenizer
    ids = tokenizer(text, verbose=False).input_ids
    limit = 1024 if given.quick else 16384
    asked = {
        "windows": [ids[at : at + CONTEXT] for at in range(0, limit, CONTEXT)],
        "prompt": ids[:16],
        "tokens": 16 if given.quick else CONTEXT - 16,
    }
    found: dict[str, Any] = {name: {"bytes": _bytes(p)} for name, p in places.items()}
    speeds: dict[str, list[float]] = {name: [] for name in places}
    for number in rich.progress.track(range(given.rounds), "rounds", transient=True):
        for name, place in places.items():
            # Perplexities do not change from round to round.
            told = _read(name, place, {**asked, "text": None if number else text})
            speeds[name].append(told.pop("tokens/s"))
            found[name] |= told
    for name, own in found.items():
        own["tokens/s"] = benching.spread(speeds[name])
        if not own.get("same_tokens", True):
            raise SystemExit(f"{name}: reads the text as other tokens")
    return found, speeds


def _read(name: str, place: pathlib.Path, asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, READER, READERS[name], place],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
