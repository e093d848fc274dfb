"""A training step beside the same step of stock transformers in PyTorch.

    python scripts/bench_step.py [--shape packaged gpt2] [--out FILE]

Both train a GPT-2 of one shape, with random weights, on the same batches: AdamW with
decay and clipping, one dtype, dropout as `--dropout` says. They take turns in one
process; the first step, with compiling, is timed apart. PyTorch has one thread or all,
whichever is quicker, and on a GPU its model is compiled, as nanoGPT's is. Peak memory
is that of three steps after the first, in a process of its own for each rival, above
what its imports take.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable

import benching
import jax
import numpy as np

from gptjax import config, masks, model, sharding
from gptjax.training import optimizer, state, step, utilization

LEARNING_RATE, DECAY, CLIP = 1e-4, 0.1, 1.0
Run = Callable[[], float]


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument(
        "--shape", nargs="+", choices=benching.SHAPES, default=["packaged", "gpt2"]
    )
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="in each round")
    parser.add_argument("--alone", choices=RIVALS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.shape, given.rounds, given.steps = ["packaged"], 2, 1
    if given.dtype == "float32":
        # GPUs have quicker ways to multiply, which PyTorch does not take unasked.
        jax.config.update("jax_default_matmul_precision", "highest")
    if given.alone:
        benching.show({"peak": _peak(_shape(given.shape[0], given), given)})
        return
    if benching.torch_device() == "cpu":
        print(
            "on the CPU, since JAX finds no GPU; on one, add: --dtype bfloat16 "
            "--shape gpt2 gpt2-medium"
        )
    figures, ratios = {}, {}
    for name in given.shape:
        figures[name] = found = _measure(name, given)
        seconds, peaks = found.pop("seconds"), found["peak_bytes"]
        ratios[f"{name}: peak memory gptjax / torch"] = benching.ratio(
            [peaks["gptjax"]], [peaks["torch"]]
        )
        ratios[f"{name}: tokens/s gptjax / torch"] = benching.ratio(
            seconds["torch"], seconds["gptjax"]
        )
    ratios["tokens/s gptjax / torch"] = list(ratios.values())[-1]
    settings = {
        key: getattr(given, key) for key in ("sequences", "tokens", "dtype", "dropout")
    }
    benching.conclude(
        given.out, {"benchmark": "step", **settings, "steps": figures}, ratios=ratios
    )


def _measure(name: str, given: argparse.Namespace) -> benching.Figures:
    """Speeds, first steps and peak memory of both, printed as they come."""
    shape = _shape(name, given)
    rivals = {rival: make(shape, given) for rival, make in RIVALS.items()}
    first = {rival: benching.first_call(run) for rival, run in rivals.items()}
    threads = benching.set_best_threads(rivals["torch"])
    runs = {
        rival: functools.partial(_steps, run, given.steps)
        for rival, run in rivals.items()
    }
    seconds = benching.in_turn(runs, rounds=given.rounds)
    del rivals, runs
    tokens = given.steps * given.sequences * given.tokens
    speeds = {
        rival: benching.spread([tokens / each for each in own])
        for rival, own in seconds.items()
    }
    options = ("sequences", "tokens", "dtype", "dropout")
    arguments = [f"--{option}={getattr(given, option)}" for option in options]
    peaks = {
        rival: benching.alone(__file__, "--shape", name, "--alone", rival, *arguments)[
            "peak"
        ]
        for rival in RIVALS
    }
    peak = utilization.peak_flops(sharding.make_mesh(), compute_dtype=given.dtype)
    figures = {
        "first_step_seconds": {rival: took for rival, (took, _) in first.items()},
        "first_loss": {rival: loss for rival, (_, loss) in first.items()},
        "tokens_per_second": speeds,
        "torch_threads": threads,
        "peak_bytes": peaks,
        "seconds": seconds,
    }
    if peak:
        flops = utilization.flops_per_token(
            shape,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(model.shapes(shape))),
            sequence_tokens=given.tokens,
        )
        figures["mfu"] = {
            rival: speed["median"] * flops / peak for rival, speed in speeds.items()
        }
    for rival in RIVALS:
        mfu = f", MFU {figures['mfu'][rival]:.1%}" if peak else ""
        print(
            f"{name}, {rival}: {benching.text(speeds[rival], digits=0)} tokens/s{mfu}; "
            f"peak {peaks[rival] / 1e9:.2f} GB; first step {first[rival][0]:.1f} s, "
            f"loss {first[rival][1]:.3f}",
            flush=True,
        )
    return figures


def _steps(run: Run, steps: int) -> None:
    for _ in range(steps):
        run()


def _shape(name: str, given: argparse.Namespace) -> model.Config:
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), given.dropout)
    return dataclasses.replace(benching.shape(name), **rates)


def _batches(shape: model.Config, given: argparse.Namespace) -> np.ndarray:
    """A few batches of tokens, that both see one after the other."""
    rng = np.random.default_rng(0)
    size = (4, given.sequences, given.tokens)
    return rng.integers(0, shape.vocab_size, size).astype(np.int32)


def _gptjax(shape: model.Config, given: argparse.Namespace) -> Run:
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
    current = state.make_start(chain, places)(params, dense, 0)
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


def _torch(shape: model.Config, given: argparse.Namespace) -> Run:
    """The same by PyTorch and stock transformers."""
    import torch
    import transformers

    device = benching.torch_device()
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


def _peak(shape: model.Config, given: argparse.Namespace) -> int:
    """The most bytes that three steps of one rival take above its imports."""
    if given.alone == "torch":
        # Their memory is no part of a step's.
        import torch
        from transformers import GPT2LMHeadModel  # noqa: F401
    before = utilization.of_process("VmRSS")
    run = RIVALS[given.alone](shape, given)
    run()
    # From here on the peak is that of steps, and not of making weights or compiling.
    utilization.return_freed()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    _steps(run, 3)
    if given.alone == "torch" and benching.torch_device() == "cuda":
        return torch.cuda.max_memory_allocated()
    on_device = utilization.of_devices("peak_bytes_in_use")
    if given.alone == "gptjax" and on_device is not None:
        return on_device
    return utilization.of_process("VmHWM") - before


if __name__ == "__main__":
    main()
