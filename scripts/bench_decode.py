"""Greedy decoding beside stock transformers' `generate` in PyTorch.

    python scripts/bench_decode.py [--shape packaged gpt2] [--out FILE]

Both write the same number of tokens after the same prompts, in one dtype, a sequence
alone and sixteen together, and take turns in one process; the first call, with
compiling, is timed apart, and so is the time to the first token. PyTorch has one thread
or all, whichever is quicker. The packaged model must write the same tokens with both;
the other shapes have random weights.

With `--draft` every other layer of the packaged model, untrained since they were cut
out, proposes tokens: how many are accepted, and the speed with it over that without.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence

import benching
import jax
import numpy as np

from gptjax import assets, convert, generation, model

Prompts = Sequence[Sequence[int]]
Decode = Callable[[Prompts, int], list[list[int]]]


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument(
        "--shape", nargs="+", choices=benching.SHAPES, default=["packaged", "gpt2"]
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--prompt", type=int, default=64, help="its tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if given.quick:
        given.shape, given.batch, given.rounds = ["packaged"], [1, 4], 2
        given.prompt = given.new = 16
    if given.dtype == "float32":
        # GPUs have quicker ways to multiply, which PyTorch does not take unasked.
        jax.config.update("jax_default_matmul_precision", "highest")
    figures, ratios = {}, {}
    for shape in given.shape:
        rivals = {name: make(shape, given) for name, make in RIVALS.items()}
        for batch in given.batch:
            title = f"{shape}, batch {batch}"
            figures[title] = found = _measure(title, rivals, shape, batch, given)
            for what, taken in (
                ("tokens/s gptjax / torch", found.pop("seconds")),
                ("first token, speed gptjax / torch", found.pop("first_seconds")),
            ):
                ratios[f"{title}: {what}"] = benching.ratio(
                    taken["torch"], taken["gptjax"]
                )
    if given.draft:
        figures["draft"], ratios["tokens/s with a draft / without"] = _draft(given)
    settings = {key: getattr(given, key) for key in ("prompt", "new", "dtype")}
    benching.conclude(
        given.out,
        {"benchmark": "decode", **settings, "decoding": figures},
        ratios=ratios,
    )
    speeds = [own for name, own in ratios.items() if "tokens/s gptjax" in name]
    print(f"tokens/s gptjax / torch: {benching.text(speeds[-1])}")


def _measure(
    title: str,
    rivals: dict[str, Decode],
    shape: str,
    batch: int,
    given: argparse.Namespace,
) -> benching.Figures:
    prompts = _prompts(shape, batch, given.prompt)
    runs, begun = (
        {name: functools.partial(run, prompts, new) for name, run in rivals.items()}
        for new in (given.new, 1)
    )
    first = {name: benching.first_call(run) for name, run in runs.items()}
    ours, theirs = (np.array(first[name][1]) for name in RIVALS)
    same = float((ours == theirs).mean())
    if shape == "packaged" and given.dtype == "float32" and same < 1:
        raise SystemExit(f"{title}: only {same:.1%} of the tokens are PyTorch's")
    threads = benching.set_best_threads(runs["torch"])
    seconds = benching.in_turn(runs, rounds=given.rounds)
    for run in begun.values():
        run()
    first_seconds = benching.in_turn(begun, rounds=given.rounds)
    speeds = {
        name: benching.spread([batch * given.new / each for each in own])
        for name, own in seconds.items()
    }
    for name, speed in speeds.items():
        print(
            f"{title}, {name}: {benching.text(speed, digits=0)} tokens/s; first token "
            f"after {1000 * np.median(first_seconds[name]):.0f} ms; first call "
            f"{first[name][0]:.1f} s",
            flush=True,
        )
    return {
        "first_call_seconds": {name: took for name, (took, _) in first.items()},
        "tokens_per_second": speeds,
        "same_tokens": same,
        "torch_threads": threads,
        "seconds": seconds,
        "first_seconds": first_seconds,
    }


def _draft(given: argparse.Namespace) -> tuple[benching.Figures, benching.Figures]:
    """How a draft of half the layers fares, one sequence alone."""
    own, params = convert.load(assets.checkpoint(), dtype=given.dtype)
    kept = np.arange(0, own.n_layer, 2)
    blocks = jax.tree.map(lambda leaf: leaf[kept], params["blocks"])
    less = dataclasses.replace(own, n_layer=len(kept))
    engine = generation.Engine(own, params, dtype=given.dtype)
    draft = generation.Engine(less, {**params, "blocks": blocks}, dtype=given.dtype)
    drafted = engine.with_draft(draft)
    prompts = _prompts("packaged", 1, given.prompt)
    how = generation.Options(max_new_tokens=given.new, num_assistant_tokens=3)
    runs = {
        name: functools.partial(each.generate, prompts, how)
        for name, each in (("with", drafted), ("without", engine))
    }
    made = {name: run() for name, run in runs.items()}
    if made["with"].tokens != made["without"].tokens:
        raise SystemExit("the draft changed a token")
    seconds = benching.in_turn(runs, rounds=given.rounds)
    ratio = benching.ratio(seconds["without"], seconds["with"])
    acceptance = made["with"].acceptance
    print(
        f"a draft of {len(kept)} of {own.n_layer} layers: {acceptance:.0%} of its "
        f"proposals accepted, speed with it over without {benching.text(ratio)}",
        flush=True,
    )
    return {"acceptance": acceptance}, ratio


def _prompts(shape: str, batch: int, tokens: int) -> Prompts:
    """Pieces of the packaged text; for random weights random tokens will do."""
    if shape != "packaged":
        rng = np.random.default_rng(0)
        size = (batch, tokens)
        return rng.integers(0, benching.shape(shape).vocab_size, size).tolist()
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(assets.checkpoint())
    text = assets.text("austen.test").read_text(encoding="utf-8")
    ids = tokenizer(text[: 20 * batch * tokens], verbose=False)["input_ids"]
    return [ids[row * tokens : (row + 1) * tokens] for row in range(batch)]


def _gptjax(shape: str, given: argparse.Namespace) -> Decode:
    own = benching.shape(shape)
    if shape == "packaged":
        _, params = convert.load(assets.checkpoint(), dtype=given.dtype)
    else:
        params = model.init(jax.random.key(0), own)
        params = jax.tree.map(lambda leaf: leaf.astype(given.dtype), params)

    engine = generation.Engine(own, params, dtype=given.dtype)

    def decode(prompts: Prompts, new: int) -> list[list[int]]:
        how = generation.Options(max_new_tokens=new)
        return engine.generate(prompts, how).tokens

    return decode


def _torch(shape: str, given: argparse.Namespace) -> Decode:
    """The same by PyTorch and stock transformers."""
    import torch
    import transformers

    dtype = getattr(torch, given.dtype)
    if shape == "packaged":
        module = transformers.GPT2LMHeadModel.from_pretrained(
            assets.checkpoint(), dtype=dtype
        )
    else:
        own = transformers.GPT2Config.from_json_file(assets.shapes()[shape])
        module = transformers.GPT2LMHeadModel(own).to(dtype)
    device = benching.torch_device()
    module = module.to(device).eval()
    # Every sequence is to get all its tokens.
    module.generation_config.eos_token_id = None
    module.generation_config.pad_token_id = 0

    def decode(prompts: Prompts, new: int) -> list[list[int]]:
        ids = torch.tensor(prompts, device=device)
        written = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new,
        )
        return written[:, ids.shape[1] :].tolist()

    return decode


RIVALS = {"gptjax": _gptjax, "torch": _torch}


if __name__ == "__main__":
    main()
