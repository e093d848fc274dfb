"""The lm-evaluation-harness on gptjax and on its own `hf` models, side by side.

    python scripts/bench_lm_eval.py [--out FILE] [--batch N]

The packaged model, float32, in one process: the log-likelihoods of the choices of
configs/lm_eval's passages, that of a text, and what is written after the passages.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import benching
from lm_eval.api import instance
from lm_eval.models import huggingface

from gptjax import assets
from gptjax.harness import adapter

EXAMPLES = pathlib.Path(__file__).parents[1] / "configs" / "lm_eval"
TEXT = "austen.test"
NEW_TOKENS = 32


def main() -> None:
    """Both answer the same requests in turn; what they answer is compared, too."""
    parser = benching.parser(__doc__)
    parser.add_argument("--batch", type=int, default=32, help="requests at once")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.quick:
        given.rounds = 2
    device = benching.torch_device()
    theirs = huggingface.HFLM(
        str(assets.checkpoint()),
        device=device,
        dtype="float32",
        batch_size=given.batch,
    )
    ours = adapter.Adapter("packaged", batch_size=given.batch)
    figures, ratios = {}, {}
    for kind, requests in _requests(quick=given.quick).items():
        threads = benching.set_best_threads(_answering(theirs, kind, requests))
        found = benching.results_in_turn(
            {
                "gptjax": _answering(ours, kind, requests),
                "hf": _answering(theirs, kind, requests),
            },
            rounds=given.rounds,
        )
        seconds = {name: [each for each, _ in runs] for name, runs in found.items()}
        own, other = (found[name][0][1] for name in ("gptjax", "hf"))
        figures[kind] = {
            "requests": len(requests),
            "threads": threads,
            "seconds": {name: benching.spread(each) for name, each in seconds.items()},
            "apart": _apart(own, other),
        }
        print(
            f"{kind}: {len(requests)} requests, apart by {figures[kind]['apart']:.2g}"
        )
        ratios[f"{kind}: speed gptjax / hf"] = benching.ratio(
            seconds["hf"], seconds["gptjax"]
        )
    benching.conclude(
        given.out,
        {"benchmark": "lm_eval", "batch": given.batch, "kinds": figures},
        ratios=ratios,
    )


def _requests(*, quick: bool) -> dict[str, list[Any]]:
    """Those of each kind."""
    sys.path.append(str(EXAMPLES))
    import passages

    documents = passages.continuations(TEXT, count=8 if quick else 64)["test"]
    text = assets.text(TEXT).read_text(encoding="utf-8")[: 8_000 if quick else 80_000]
    way = {"until": ["\n\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    given = {
        "generate_until": [(each["passage"], way) for each in documents],
        "loglikelihood_rolling": [(text,)],
        "loglikelihood": [
            (each["passage"], f" {choice}")
            for each in documents
            for choice in each["choices"]
        ],
    }
    return {
        kind: [
            instance.Instance(kind, {}, arguments, number)
            for number, arguments in enumerate(each)
        ]
        for kind, each in given.items()
    }


def _answering(model: Any, kind: str, requests: Sequence[Any]) -> Callable[[], Any]:
    return lambda: getattr(model, kind)(requests, disable_tqdm=True)


def _apart(own: Sequence[Any], other: Sequence[Any]) -> float:
    """The largest difference of two log-likelihoods, or the share of other texts."""
    if isinstance(own[0], str):
        return sum(a != b for a, b in zip(own, other, strict=True)) / len(own)
    numbers = [
        [each[0] if isinstance(each, tuple) else each for each in answers]
        for answers in (own, other)
    ]
    return max(abs(a - b) for a, b in zip(*numbers, strict=True))


if __name__ == "__main__":
    main()
