"""How long it takes to start: imports, the first training step, compiling deep models.

    python scripts/bench_start.py [--out FILE]

Imports take turns, each in a process of its own. So do first steps of the demo's shape:
`gptjax train` with nothing kept from before, neither compiled programs nor tokens; the
same with both; and a step of stock transformers in PyTorch: always from the start of
the process until the loss of the first step is known. Then the training step of GPT-2
(124M) is compiled, for 12 layers and for 48.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import benching
import jax

from gptjax import assets, config, model
from gptjax.planning import programs

IMPORTS = {
    "gptjax": "import gptjax",
    "jax": "import jax",
    "gptjax, all that a run needs": "import gptjax.api",
    "torch + transformers": "import torch, transformers; transformers.GPT2LMHeadModel",
}
# Without an import of gptjax, whose seconds are not PyTorch's.
TORCH_STEP = """
import json, math, pathlib, sys
import torch, transformers

given = json.loads(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(given["checkpoint"])
text = pathlib.Path(given["text"]).read_text(encoding="utf-8")
ids = tokenizer(text, verbose=False)["input_ids"][: math.prod(given["shape"])]
batch = torch.tensor(ids, device=given["device"]).reshape(given["shape"])
module = transformers.GPT2LMHeadModel.from_pretrained(
    given["checkpoint"], dtype=torch.float32
).to(given["device"])
adamw = torch.optim.AdamW(module.eval().parameters(), lr=given["learning_rate"])
loss = module(input_ids=batch, labels=batch).loss
loss.backward()
adamw.step()
assert math.isfinite(loss.item())
"""
LAYERS = (12, 48)


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compilations", type=int, default=3, help="of each depth")
    given = parser.parse_args()
    if given.quick:
        given.rounds = given.compilations = 1
    imports = benching.in_turn(
        {name: functools.partial(_python, code) for name, code in IMPORTS.items()},
        rounds=given.rounds,
    )
    steps = _first_steps(given.rounds)
    compiling = _compiling(given.compilations, is_quick=given.quick)
    figures = {"import": imports, "first step": steps, "compile": compiling}
    for what, rivals in figures.items():
        for name, own in rivals.items():
            print(f"{what}, {name}: {benching.text(benching.spread(own))} s")
    ratios = {
        "import seconds gptjax / jax": (imports, "gptjax", "jax"),
        "import seconds all of gptjax / torch + transformers": (
            imports,
            "gptjax, all that a run needs",
            "torch + transformers",
        ),
        "compile seconds 48 layers / 12 layers": (compiling, "48 layers", "12 layers"),
        "first step seconds gptjax cold / torch": (steps, "gptjax, cold", "torch"),
        "first step seconds gptjax warm / torch": (steps, "gptjax, warm", "torch"),
    }
    benching.conclude(
        given.out,
        {
            "benchmark": "start",
            "seconds": {
                what: {name: benching.spread(own) for name, own in rivals.items()}
                for what, rivals in figures.items()
            },
        },
        ratios={
            name: benching.ratio(found[above], found[below])
            for name, (found, above, below) in ratios.items()
        },
    )


def _python(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def _first_steps(rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of a process until its first step is done."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        runs = {
            "gptjax, cold": functools.partial(_gptjax_step, folder, is_cold=True),
            "gptjax, warm": functools.partial(_gptjax_step, folder, is_cold=False),
            "torch": _torch_step,
        }
        found = benching.results_in_turn(runs, rounds=rounds)
    return {name: [own for _, own in results] for name, results in found.items()}


def _torch_step() -> float:
    """Seconds of a process that takes PyTorch's step and ends."""
    demo = config.load(assets.demo_config())
    given = {
        "device": benching.torch_device(),
        "checkpoint": str(assets.checkpoint()),
        "text": demo.data.train.path,
        "shape": (demo.training.batch_sequences, demo.data.sequence_tokens),
        "learning_rate": demo.optimizer.learning_rate,
    }
    return benching.first_call(lambda: _python(TORCH_STEP, json.dumps(given)))[0]


def _gptjax_step(folder: pathlib.Path, *, is_cold: bool) -> float:
    """Seconds until the log of a run holds its first step; the rest is not timed."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    if is_cold:
        for kept in ("xla", "tokens"):
            shutil.rmtree(folder / kept, ignore_errors=True)
    overrides = {
        "out": folder / "run",
        "data.cache_dir": folder / "tokens",
        "data.valid": "null",
        "pruning": "null",
        "training.steps": 1,
        "training.log_every_steps": 1,
        "optimizer.warmup_steps": 0,
    }
    log = folder / "run" / "metrics.jsonl"
    command = [sys.executable, "-m", "gptjax", "train", assets.demo_config()]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, *(f"{key}={value}" for key, value in overrides.items())],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (log.exists() and log.stat().st_size) and process.poll() is None:
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        _, told = process.communicate()
    if process.returncode:
        raise SystemExit(told)
    return seconds


def _compiling(rounds: int, *, is_quick: bool) -> dict[str, list[float]]:
    """Seconds to trace and compile the training step of models of several depths."""
    width = {"n_embd": 64, "n_head": 2} if is_quick else {}
    shape = dataclasses.replace(benching.shape("gpt2"), **width)
    return benching.in_turn(
        {
            f"{layers} layers": _compile(dataclasses.replace(shape, n_layer=layers))
            for layers in LAYERS
        },
        rounds=rounds,
    )


def _compile(shape: model.Config) -> Callable[[], object]:
    settings = config.check(
        {
            "model": "gpt2",
            "out": os.devnull,
            "data": {"sequence_tokens": 256},
            "training": {"batch_sequences": 4},
        }
    )

    def run():
        jax.clear_caches()
        trainer = programs.make_trainer(settings, shape, jax.devices())
        return trainer.train_step.lower(*programs.arguments(trainer)).compile()

    return run


if __name__ == "__main__":
    main()
