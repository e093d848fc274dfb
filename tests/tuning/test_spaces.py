"""What may be searched: told before anything runs, in the config's own words."""

import pytest

from gptjax import config, errors
from gptjax.tuning import spaces, study

RATE = {"low": 1e-4, "high": 0.1, "log": True}
ONE_SHOT = {
    "pruning.schedule": "one-shot",
    "pruning.sparsities": [0.5],
    "pruning.allocation": "weighted",
    "pruning.density_weights": {0: 1.0, 1: 1.0},
}


def read(search_settings, out, tune, **overrides):
    return spaces.read(search_settings(out, tune=tune, **overrides))


def test_a_key_may_be_dotted_or_nested_and_overridden(tmp_path):
    """YAML keeps a dotted key as one, an override on the command line nests it."""
    path = tmp_path / "tune.yaml"
    path.write_text(
        "model: packaged\nout: x\ndata: {valid: y}\n"
        "tune:\n  optimizer.learning_rate: {low: 1e-4, high: 0.1, log: true}\n"
        "  optimizer: {warmup_steps: {low: 0, high: 9}}\n"
    )
    found = config.load(path, ["tune.optimizer.learning_rate.high=0.2"]).tune
    assert found == {
        "optimizer.learning_rate": config.Space(low=1e-4, high=0.2, log=True),
        "optimizer.warmup_steps": config.Space(low=0, high=9),
    }


def test_a_range_is_of_the_numbers_that_its_key_takes(search_settings, tmp_path):
    """0 to 1 of a weight decay is not two values; 4.5 warmup steps are none."""
    found = read(
        search_settings,
        tmp_path,
        {
            "optimizer.weight_decay": {"low": 0, "high": 1},
            "optimizer.warmup_steps": {"low": 0, "high": 3},
            "optimizer.schedule": {"choices": ["linear", "cosine"]},
        },
    )
    assert [each.is_whole for each in found] == [False, True, False]
    assert spaces.own_values(found) == {
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup_steps": 0,
        "optimizer.schedule": "cosine",
    }


def test_values_reach_lists_and_sections_that_are_not_there(search_settings, tmp_path):
    settings = search_settings(tmp_path, **ONE_SHOT)
    values = {"pruning.density_weights.1": 3.0, "distillation.teacher": "packaged"}
    found = spaces.with_values(settings, values)
    assert found.pruning.density_weights == {"0": 1.0, "1": 3.0}
    assert found.distillation.teacher == "packaged"
    cut = {"pruning.structured": [{"what": "layers", "count": 1}]}
    found = spaces.with_values(
        search_settings(tmp_path, **cut), {"pruning.structured.0.by": "loss"}
    )
    assert found.pruning.structured[0].by == "loss"


@pytest.mark.parametrize(
    ("tune", "wanted"),
    [
        ({"optimizer.learning_rat": RATE}, "did you mean learning_rate"),
        ({"optimizr.learning_rate": RATE}, "did you mean optimizer"),
        ({"seed.x": RATE}, r"tune\.seed\.x: cannot be searched: is no setting"),
        ({"optimizer.schedule.x": RATE}, r"optimizer\.schedule has no x"),
        ({"model": {"choices": ["packaged", "x"]}}, "trials are compared by it"),
        ({"data.append_eos": {"choices": [True, False]}}, "trials are compared by it"),
        ({"logging.project": {"choices": ["a", "b"]}}, "is no setting"),
        (
            {"optimizer.learning_rate": {"low": -1.0, "high": 1}},
            r"tune: optimizer\.learning_rate: got -1\.0",
        ),
        (
            {"training.batch_sequences": {"low": 1.5, "high": 8}},
            r"tune: training\.batch_sequences: got 1\.5",
        ),
        (
            {"optimizer.schedule": {"choices": ["cosine", "cosin"]}},
            r"tune: optimizer\.schedule: got 'cosin'",
        ),
        ({"training.dropout": {"low": 0, "high": 1}}, "takes no numbers; give choices"),
        (
            {"training.batch_sequences": {"low": 8, "high": 16, "step": 0.5}},
            "the key takes whole numbers",
        ),
        ({"evaluation.stride_tokens": {"low": 1, "high": 4}}, "trials are compared by"),
        ({"out": {"choices": ["a", "b"]}}, "is no setting"),
        ({"optimizer.learning_rate": {"low": 1}}, "give low and high, or choices"),
        ({"optimizer.learning_rate": {"low": 1, "high": 1}}, "is not below high"),
        (
            {"optimizer.learning_rate": {"low": 0, "high": 1, "log": True}},
            "needs a low above 0",
        ),
        ({"optimizer.schedule": {"choices": ["linear"]}}, "give two or more"),
        ({"optimizer.learning_rate": {**RATE, "choices": [1, 2]}}, "give choices, or"),
        ({"optimizer.learning_rate": {**RATE, "hihg": 1}}, "did you mean high"),
        ({"optimizer.learning_rate": 3}, r"tune\.optimizer\.learning_rate: got 3"),
    ],
)
def test_what_cannot_be_searched_is_refused(search_settings, tmp_path, tune, wanted):
    """Else it would be found out by a trial, or never."""
    with pytest.raises(errors.UserError, match=wanted):
        read(search_settings, tmp_path, tune)


@pytest.mark.parametrize(
    ("tune", "overrides"),
    [
        ({"pruning.sparsities": {"choices": [[0.4], [0.5]]}}, ONE_SHOT),
        ({"pruning.rounds": {"low": 1, "high": 3}}, {
            "pruning.rounds": 2, "pruning.fraction_per_round": 0.2,
        }),
        ({"pruning.structured.0.count": {"low": 1, "high": 2}}, {
            "pruning.structured": [{"what": "neurons", "count": 1}],
        }),
    ],
)  # fmt: skip
def test_the_amount_that_is_pruned_is_not_searched(
    search_settings, tmp_path, tune, overrides
):
    """The best of them would be the one that prunes least."""
    with pytest.raises(errors.UserError, match="changes how much is pruned"):
        read(search_settings, tmp_path, tune, **overrides)


def test_the_way_to_a_sparsity_may_be_searched(search_settings, tmp_path):
    tune = {"pruning.sparsities": {"choices": [[0.5], [0.25, 0.5]]}}
    changed = {"pruning.sparsities": [0.5]}
    (found,) = read(search_settings, tmp_path, tune, **changed)
    assert spaces.own_values((found,)) == {"pruning.sparsities": "[0.5]"}
    assert found.value("[0.25, 0.5]") == [0.25, 0.5]


def test_own_values_are_found_among_choices_however_these_are_written(
    search_settings, tmp_path
):
    """YAML has whole numbers for keys and values, a checked config texts and floats."""
    choices = [{0: 2, 1: 1}, {0: 1, 1: 1}]
    tune = {"pruning.density_weights": {"choices": choices}}
    (found,) = read(search_settings, tmp_path, tune, **ONE_SHOT)
    own = found.own_drawn()
    assert own == found.labels[1]
    assert found.value(own) == choices[1]


def test_own_values_outside_a_space_are_no_trial(search_settings, tmp_path):
    """optuna would store them as if they lay inside."""
    for space in (
        {"low": 0.02, "high": 0.1},
        {"low": 0.001, "high": 0.1, "step": 0.002},
    ):
        found = read(search_settings, tmp_path, {"optimizer.learning_rate": space})
        assert spaces.own_values(found) is None


def test_a_grid_has_every_combination(search_settings, tmp_path):
    tune = {
        "optimizer.weight_decay": {"low": 0, "high": 0.3, "step": 0.1},
        "optimizer.warmup_steps": {"low": 1, "high": 2},
        "training.dropout": {"choices": [True, False]},
    }
    found = list(spaces.grid(read(search_settings, tmp_path, tune)))
    assert len(found) == 16
    rates = sorted({each["optimizer.weight_decay"] for each in found})
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    with pytest.raises(errors.UserError, match="or a range with a step"):
        list(
            spaces.grid(
                read(search_settings, tmp_path, {"optimizer.learning_rate": RATE})
            )
        )


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"tune": {}}, "search: there is nothing to search"),
        ({"data.valid": None}, "data.valid: missing; trials are compared"),
        ({"search.trials": 0}, r"search\.trials: got 0"),
        ({"search.sampler": "tpa"}, r"search\.sampler: got 'tpa'"),
        ({"search.confirm_seeds": [1, 1]}, "none of them twice"),
        ({"search.confirm_seeds": [1, 0]}, "0 is the seed of the trials"),
        ({"compare.methods": [{"name": "a", "pruning": {}}]}, "go with compare"),
    ],
)
def test_a_search_that_is_none_is_refused(search_settings, tmp_path, overrides, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        search_settings(tmp_path, **overrides)


def test_a_pruner_without_evaluations_is_refused(search_settings, tmp_path):
    """It would stop no trial, and the user would wait for it."""
    none = {"training.evaluate_every_steps": 0}
    assert study.pruner_of(search_settings(tmp_path)) == "median"
    assert study.pruner_of(search_settings(tmp_path, **none)) == "none"
    with pytest.raises(errors.UserError, match=r"search\.pruner: asha compares"):
        study.pruner_of(search_settings(tmp_path, **none, **{"search.pruner": "asha"}))
    # The one round that trains ends with the value itself.
    assert study.pruner_of(search_settings(tmp_path, **none, **ONE_SHOT)) == "none"
    iterative = {**none, "pruning.sparsities": [0.5]}
    assert study.pruner_of(search_settings(tmp_path, **iterative)) == "median"
