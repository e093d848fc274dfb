"""A student of half the layers: with and without its teacher, and from scratch.

    python scripts/bench_student.py [--out FILE]

The packaged model learns Shakespeare and is the teacher. Students of every other layer
of it, and others of random weights, train on the same text, each as long: from the text
alone, from the teacher's scores, and from its scores and states. Prints perplexities of
the validation text, means over seeds, and their ratios.
"""

import dataclasses
import pathlib
import statistics
import tempfile
from typing import Any

import benching
import jax

import gptjax
from gptjax import assets, convert, model

KINDS = {
    "texts alone": None,
    "teacher's scores": {"weight": 0.5},
    "teacher's scores and states": {"weight": 0.5, "hidden_weight": 1.0},
}
STARTS = ("teacher's layers", "random weights")


def main() -> None:
    """Trains the teacher once for each seed, and its students."""
    parser = benching.parser(__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.quick:
        given.steps, given.seeds = 4, 1
    found: dict[str, list[float]] = {}
    protocol = ""
    with tempfile.TemporaryDirectory() as name:
        for seed in range(given.seeds):
            folder = pathlib.Path(name, str(seed))
            teacher = gptjax.train(None, **_settings(folder / "teacher", seed, given))
            protocol = teacher.summary["end"]["protocol"]
            _add(found, "teacher", teacher)
            for start in STARTS:
                source = _student(
                    folder / start, teacher.folder / "export", start, seed
                )
                for kind, how in KINDS.items():
                    settings = _settings(folder / f"{start}, {kind}", seed, given)
                    settings["model"] = str(source)
                    if how is not None:
                        settings["distillation"] = {
                            "teacher": str(teacher.folder),
                            **how,
                        }
                    _add(found, f"{start}, {kind}", gptjax.train(None, **settings))
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: perplexity {statistics.mean(values):.2f} ± {spread:.2f}")
    print(f"measured by: {protocol}")
    alone = [found[f"{start}, texts alone"] for start in STARTS]
    benching.conclude(
        given.out,
        {
            "benchmark": "student",
            "steps": given.steps,
            "protocol": protocol,
            "perplexity": found,
        },
        ratios={
            **{
                f"perplexity {name} / texts alone": benching.ratio(values, alone[place])
                for place, start in enumerate(STARTS)
                for name, values in found.items()
                if name.startswith(start) and not name.endswith("alone")
            },
            "perplexity teacher's layers / random weights": benching.ratio(*alone),
        },
    )


def _add(found: dict[str, list[float]], name: str, run: gptjax.Run) -> None:
    found.setdefault(name, []).append(run.summary["end"]["perplexity"])


def _settings(out: pathlib.Path, seed: int, given: Any) -> dict[str, Any]:
    return {
        "model": "packaged",
        "out": str(out),
        "seed": seed,
        "data.train": str(assets.text("shakespeare.train")),
        "data.valid": str(assets.text("shakespeare.valid")),
        "data.sequence_tokens": 256,
        "training.steps": given.steps,
        "training.batch_sequences": 4,
        "training.dropout": False,
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": min(4, given.steps - 1),
        "optimizer.options.b2": 0.95,
        "evaluation.context_tokens": 256,
        "evaluation.limit_tokens": 1024 if given.quick else 16384,
    }


def _student(
    folder: pathlib.Path, teacher: pathlib.Path, start: str, seed: int
) -> pathlib.Path:
    """A model of every other layer of the teacher, or as small with random weights."""
    config, params = convert.load(teacher)
    kept = range(1, config.n_layer, 2)
    config = dataclasses.replace(config, n_layer=len(kept))
    if start == STARTS[0]:
        params["blocks"] = jax.tree.map(lambda x: x[kept.start :: 2], params["blocks"])
    else:
        params = model.init(jax.random.key(seed), config)
    convert.save(folder, config, params, like=teacher)
    return folder


if __name__ == "__main__":
    main()
