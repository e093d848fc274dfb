"""A training step beside the same step of stock transformers in PyTorch.

    python scripts/bench_step.py [--shape packaged gpt2] [--out FILE]

Both train a GPT-2 of one shape, with random weights, on the same batches: AdamW with
decay and clipping, one dtype, dropout as `--dropout` says. They take turns in one
process; the first step, with compiling, is timed apart. Peak memory is that of a
process of its own for each, above what its imports take. On a GPU PyTorch's model is
compiled, as nanoGPT's is.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import benching
import jax
import numpy as np

from gptjax import assets, config, convert, masks, model, sharding
from gptjax.convert import hf_config
from gptjax.training import optimizer, state, step, utilization

LEARNING_RATE, DECAY, CLIP = 1e-4, 0.1, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shape",
        nargs="+",
        choices=["packaged", *sorted(assets.shapes())],
        default=["packaged", "gpt2"],
    )
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="in each round")
    parser.add_argument("--quick", action="store_true", help="a rough idea in seconds")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--alone", choices=RIVALS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.shape, given.rounds, given.steps = ["packaged"], 2, 1
    if given.alone:
        benching.show({"peak": _peak(given.shape[0], given)})
        return
    found = {shape: _measure(shape, given) for shape in given.shape}
    benching.write(given.out, {"benchmark": "step", "shapes": found})
    speed = found[given.shape[-1]]["tokens/s gptjax / torch"]
    print(f"tokens/s gptjax / torch: {benching.text(speed)}")


def _measure(shape: str, given: argparse.Namespace) -> benching.Figures:
    """Speeds, compile times and peak memory of both, printed as they come."""
    rivals, starts = {}, {}
    for name, make in RIVALS.items():
        rivals[name] = make(_shape(shape, given), given)
        began = time.perf_counter()
        first = rivals[name]()
        starts[name] = time.perf_counter() - began
        print(f"{shape}, {name}: first step {starts[name]:.1f} s, loss {first:.4f}")

    def steps(run):
        for _ in range(given.steps):
            last = run()
        return last

    runs = {name: functools.partial(steps, run) for name, run in rivals.items()}
    seconds = benching.in_turn(runs, rounds=given.rounds)
    tokens = given.steps * given.sequences * given.tokens
    speeds = {
        name: benching.spread([tokens / each for each in own])
        for name, own in seconds.items()
    }
    del rivals, runs
    peaks = {name: _peak_of_process(shape, name, given) for name in RIVALS}
    figures = {
        "dtype": given.dtype,
        "batch": [given.sequences, given.tokens],
        "dropout": given.dropout,
        "first_step_seconds": starts,
        "tokens_per_second": speeds,
        "tokens/s gptjax / torch": benching.ratio(seconds["torch"], seconds["gptjax"]),
        "peak_bytes": peaks,
        "peak memory gptjax / torch": peaks["gptjax"] / peaks["torch"],
    }
    for name in RIVALS:
        print(
            f"{shape}, {name}: {benching.text(speeds[name], digits=0)} tokens/s, "
            f"peak {peaks[name] / 1e9:.2f} GB"
        )
    peak = utilization.peak_flops(sharding.make_mesh(), compute_dtype=given.dtype)
    if peak:
        own = _shape(shape, given)
        flops = utilization.flops_per_token(
            own, parameters=_parameters(own), sequence_tokens=given.tokens
        )
        figures["mfu"] = {
            name: speed["median"] * flops / peak for name, speed in speeds.items()
        }
        told = ", ".join(f"{name} {mfu:.1%}" for name, mfu in figures["mfu"].items())
        print(f"{shape}: MFU {told}")
    print(
        f"{shape}: tokens/s gptjax / torch "
        f"{benching.text(figures['tokens/s gptjax / torch'])}, peak memory "
        f"{figures['peak memory gptjax / torch']:.2f}",
        flush=True,
    )
    return figures


def _shape(name: str, given: argparse.Namespace) -> model.Config:
    shape = (
        convert.read_config(assets.checkpoint())
        if name == "packaged"
        else hf_config.parse(hf_config.read_json(assets.shapes()[name]), where=name)
    )
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), given.dropout)
    return dataclasses.replace(shape, **rates)


def _parameters(shape: model.Config) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model.shapes(shape)))


def _batches(shape: model.Config, given: argparse.Namespace) -> np.ndarray:
    """A few batches of tokens, that both see one after the other."""
    rng = np.random.default_rng(0)
    size = (4, given.sequences, given.tokens)
    return rng.integers(0, shape.vocab_size, size).astype(np.int32)


def _gptjax(shape: model.Config, given: argparse.Namespace) -> Callable[[], float]:
    """A function that takes one step and gives its loss."""
    mesh = sharding.make_mesh()
    params = model.init(jax.random.key(0), shape)
    params = jax.device_put(params, sharding.param_shardings(mesh, params))
    settings = config.Optimizer(
        learning_rate=LEARNING_RATE,
        schedule="constant",
        weight_decay=DECAY,
        clip_norm=CLIP,
    )
    schedule = optimizer.make_schedule(settings, steps=1)
    chain = optimizer.make_optimizer(settings, schedule, params)
    dense = masks.dense(params, config.Pruning(sparsities=(0.5,)).prunable)
    places = state.shardings(mesh, params, dense, chain)
    compute = model.Compute(dtype=given.dtype, mesh=mesh)
    train_step = step.make_step(shape, chain, schedule, places, compute)
    current = state.start(params, dense, chain, step=0, mesh=mesh)
    del params
    batches = itertools.cycle(
        {"tokens": tokens[None], "labels": tokens[None]}
        for tokens in _batches(shape, given)
    )
    key = jax.random.key(1)

    def run():
        nonlocal current
        current, metrics = train_step(current, next(batches), key)
        return float(metrics["loss"])

    return run


def _torch(shape: model.Config, given: argparse.Namespace) -> Callable[[], float]:
    """The same by PyTorch and stock transformers."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    own = transformers.GPT2Config(
        **{
            field: getattr(shape, field)
            for field in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        },
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), given.dropout),
    )
    module = transformers.GPT2LMHeadModel(own).to(device).train()
    forward = torch.compile(module) if device == "cuda" else module
    decayed = [weight for weight in module.parameters() if weight.ndim > 1]
    others = [weight for weight in module.parameters() if weight.ndim <= 1]
    adamw = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        weight_decay=DECAY,
        fused=True,
    )
    dtype = getattr(torch, given.dtype)
    batches = itertools.cycle(
        torch.tensor(tokens, dtype=torch.long, device=device)
        for tokens in _batches(shape, given)
    )

    def run():
        tokens = next(batches)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            found = forward(input_ids=tokens, labels=tokens).loss
        found.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return found.item()

    return run


RIVALS = {"gptjax": _gptjax, "torch": _torch}


def _peak(shape: str, given: argparse.Namespace) -> int:
    """The most bytes that a few steps of one rival take above its imports."""
    if given.alone == "torch":
        import torch
        import transformers

        _ = transformers.GPT2LMHeadModel
        if torch.cuda.is_available():
            _take_steps(shape, given)
            return torch.cuda.max_memory_allocated()
    before = utilization.of_process("VmRSS")
    _take_steps(shape, given)
    on_device = utilization.of_devices("peak_bytes_in_use")
    if given.alone == "gptjax" and on_device is not None:
        return on_device
    return utilization.of_process("VmHWM") - before


def _take_steps(shape: str, given: argparse.Namespace) -> None:
    run = RIVALS[given.alone](_shape(shape, given), given)
    for _ in range(3):
        run()


def _peak_of_process(shape: str, rival: str, given: argparse.Namespace) -> int:
    options = ("sequences", "tokens", "dtype", "dropout")
    command = [sys.executable, __file__, "--shape", shape, "--alone", rival]
    for name in options:
        command += [f"--{name}", str(getattr(given, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak"]


if __name__ == "__main__":
    main()
