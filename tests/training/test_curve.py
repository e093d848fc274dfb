"""Learning curves: ordinary runs of more and more texts."""

import csv
import json

import pytest

import gptjax
from gptjax import api, config, data, errors, reporting, training
from gptjax.training import curve


@pytest.fixture
def settings(labelled_settings):
    """A function (out, **overrides) -> config.Run of two sizes and two seeds."""

    def make(out, **overrides):
        return labelled_settings(
            out,
            **{
                "training.steps": 3,
                "training.batch_sequences": 8,
                "curve.sizes": [16, "all"],
                "curve.seeds": [0, 1],
                **overrides,
            },
        )

    return make


def test_every_run_is_one_of_its_own_config(settings, tmp_path):
    """The same texts validate, whatever the seed; `all` is no limit."""
    wanted = {"data.augmentation.operations": {"swap": 0.5}}
    given = settings(tmp_path, **wanted)
    found = list(curve.jobs(given, 96))
    assert [job.row["texts"] for job in found] == [16] * 4 + [96] * 4
    assert [job.row["seed"] for job in found] == [0, 1] * 4
    assert [job.settings.data.limit for job in found] == [16] * 4 + [None] * 4
    for job in found:
        is_augmented = job.settings.data.augmentation is not None
        assert is_augmented == job.row["augmented"] == ("augmented" in job.name)
        assert job.settings.seed == job.row["seed"]
        assert job.settings.data.valid == given.data.valid
        assert job.settings.curve is None
        # It would be refused if its own run could not have it.
        assert config.check(job.settings.model_dump(mode="json")) == job.settings


def test_a_smaller_sample_is_a_part_of_a_larger_one(settings, tmp_path):
    """Else a curve would show luck."""
    texts = []
    for size in (16, 32):
        run = settings(tmp_path, **{"curve": None, "data.limit": size})
        train = training.prepare(run).texts.train
        assert isinstance(train, data.Examples)
        texts.append(set(train.rows.tolist()))
    assert texts[0] < texts[1]


@pytest.mark.slow
def test_a_curve_goes_on_where_it_stopped(settings, tmp_path, stop_at, monkeypatch):
    """What is done is not done again; the table has every run."""
    stop_at(2)
    with pytest.raises(errors.Stopped):
        api.run_curve(settings(tmp_path))
    trained = []
    own = curve.run_lib.train

    def train(run):
        trained.append(run.out)
        return own(run)

    monkeypatch.setattr(curve.run_lib, "train", train)
    folder = api.run_curve(settings(tmp_path))
    assert len(trained) == 4
    api.run_curve(settings(tmp_path))
    assert len(trained) == 4
    rows = reporting.read_curve(folder)
    assert [(row["texts"], row["seed"]) for row in rows] == [
        (16, 0), (16, 1), (96, 0), (96, 1)
    ]  # fmt: skip
    with (folder / "curve.csv").open() as file:
        assert [row["texts"] for row in csv.DictReader(file)] == ["16"] * 2 + ["96"] * 2
    done = json.loads((folder / rows[-1]["run"] / "summary.json").read_text())
    assert rows[-1]["accuracy"] == done["end"]["accuracy"]


def test_the_page_has_mean_and_spread(tmp_path):
    """0.5 and 0.7 are 60 % on average, 14.14 % apart from it."""
    rows = [
        {
            "texts": texts, "augmented": augmented, "seed": seed, "run": "runs/x",
            "accuracy": 0.5 + 0.2 * seed, "f1": 0.5, "loss": 0.6, "protocol": "so",
        }
        for texts in (10, 100) for augmented in (False, True) for seed in (0, 1)
    ]  # fmt: skip
    (tmp_path / "curve.json").write_text(json.dumps({"rows": rows}))
    page = reporting.write(tmp_path).read_text()
    assert "| 10 | as they are | 2 | 60.00 ± 14.14 % | 50.00 ± 0.00 % | 0.60" in page
    assert "| 100 | augmented | 2 |" in page
    assert (tmp_path / "report" / "learning_curve.png").is_file()
    (tmp_path / "curve.json").write_text('{"rows": [{"texts": 3}]}')
    with pytest.raises(errors.UserError, match="row 0 has no augmented, seed"):
        reporting.read_curve(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"data.limit": 5}, r"data\.limit: curve\.sizes say it"),
        ({"data.valid": None}, r"data\.valid: missing; the runs of a curve"),
        ({"curve.sizes": [5, 5]}, "none of them twice"),
        ({"curve.sizes": ["most"]}, r"curve\.sizes"),
        ({"curve.sizes": [16, 97]}, r"curve\.sizes: 97 texts; train\.csv has 96"),
        ({"curve.sizes": [96, "all"]}, "96 texts are all of train"),
        ({"pruning.sparsities": [0.5]}, "curve: does not go with pruning"),
    ],
)
def test_what_is_no_curve_is_refused(settings, tmp_path, overrides, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        api.run_curve(settings(tmp_path, **overrides))


def test_a_config_without_a_curve_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="curve: missing"):
        gptjax.curve(None, model="packaged", out=str(tmp_path))


def test_a_curve_of_a_language_model_is_refused(tiny_settings, tmp_path):
    with pytest.raises(errors.UserError, match="tagging, not language"):
        tiny_settings(tmp_path, **{"curve.seeds": [0]})
