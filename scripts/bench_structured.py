"""What cutting layers and MLP neurons costs and saves, before any fine-tuning.

    python scripts/bench_structured.py [MODEL] [--out FILE]

Drops one, two and three layers by influence and a quarter and a half of the MLP
neurons by activation; prints a table and writes its figures as JSON. Times are taken
in turn with the dense model's, in one process; the range beside a ratio is its spread
over the turns.
"""

import dataclasses
import tempfile

import benching

from gptjax import assets, config, training
from gptjax.pruning import calibration, round_report, timing
from gptjax.pruning.structured import choosing, plan, surgery
from gptjax.reporting import page
from gptjax.training import run as run_lib

REMOVALS = {
    "1 layer": {"what": "layers", "count": 1},
    "2 layers": {"what": "layers", "count": 2},
    "3 layers": {"what": "layers", "count": 3},
    "1/4 of neurons": {"what": "neurons", "fraction": 0.25},
    "1/2 of neurons": {"what": "neurons", "fraction": 0.5},
}
TOKENS = 256


def main() -> None:
    parser = benching.parser(__doc__)
    parser.add_argument("model", nargs="?", default="packaged")
    given = parser.parse_args()
    removals = dict(list(REMOVALS.items())[:1]) if given.quick else REMOVALS
    with tempfile.TemporaryDirectory() as folder:
        prepared = training.prepare(_settings(given.model, folder))
        removed = _measure(prepared, removals)
    print(_table(removed))
    ratios = {
        f"seconds of {told}, {name} less / dense": _ratio(row, what)
        for name, row in removed.items()
        if name != "dense"
        for what, told in (("decode", "decoding"), ("step", "a step"))
    }
    figures = {"benchmark": "structured", "model": given.model, "removed": removed}
    benching.conclude(given.out, figures, ratios=ratios)


def _settings(name: str, out: str, **removal) -> config.Run:
    return config.check(
        {
            "model": name,
            "out": out,
            "data": {
                "train": str(assets.text("austen.train")),
                "valid": str(assets.text("austen.test")),
                "sequence_tokens": TOKENS,
            },
            "calibration": {"sequences": 128, "order": "first"},
            "evaluation": {"context_tokens": TOKENS, "stride_tokens": TOKENS},
            "pruning": {"structured": [removal or REMOVALS["1 layer"]]},
        }
    )


def _measure(prepared: training.Prepared, removals: dict) -> dict:
    """The figures of the dense model and of each removal, by name."""
    dense = prepared.trainer(schedule_steps=1)
    found = {"dense": _figures(prepared, prepared.load_params())}
    variants = [timing.Variant(name="dense", config=prepared.model_config)]
    for name, removal in removals.items():
        smaller, params = _cut(prepared, removal)
        found[name] = _figures(smaller, params)
        variants.append(timing.Variant(name=name, config=smaller.model_config))
    for name, times in timing.measure(dense, variants).items():
        found[name] |= times
    return found


def _cut(prepared: training.Prepared, removal: dict) -> tuple[training.Prepared, dict]:
    settings = _settings(prepared.settings.model, prepared.settings.out, **removal)
    (this,) = plan.rounds(settings, prepared.model_config)
    params = prepared.load_params()
    tokens_NT = calibration.cut(
        settings, prepared.texts.train, n_positions=prepared.model_config.n_positions
    )
    reader = choosing.Reader(tokens_NT, batch_sequences=8, mesh=prepared.mesh)
    choice = choosing.choose(this, params, reader)
    after, params, _ = surgery.cut(this.before, params, None, choice.kept)
    return dataclasses.replace(prepared, model_config=after), params


def _figures(prepared: training.Prepared, params) -> dict:
    """Shape, number of weights and perplexity."""
    trainer = prepared.trainer(schedule_steps=1)
    return {
        **round_report.shape(prepared.model_config),
        **run_lib.describe(trainer.evaluate(params)),
    }


def _table(figures: dict) -> str:
    titles = ["removed", "parameters", "perplexity", "decode", "training step"]
    rows = []
    for name, row in figures.items():
        times = [benching.text(_ratio(row, what)) for what in ("decode", "step")]
        perplexity = f"{row['perplexity']:.2f}"
        rows.append([name, f"{row['parameters']:,}", perplexity, *times])
    protocol = figures["dense"]["protocol"]
    return f"{page.Table(titles, rows).markdown()}\nperplexity: {protocol}"


def _ratio(row: dict, what: str) -> benching.Figures:
    """The spread of a time over the dense model's."""
    return benching.spread(row[f"{what}_ratios"])


if __name__ == "__main__":
    main()
