"""Configs: merging, typing, and errors that name the key."""

import pytest

from gptjax import config, errors

MINIMAL = ["model=gpt2", "out=runs/x"]


def load(*overrides):
    return config.load(None, [*MINIMAL, *overrides])


def test_overrides_win_over_the_file(tmp_path):
    """Merged the other way round, the command line would do nothing."""
    path = tmp_path / "c.yaml"
    path.write_text("model: a\nout: b\ntraining: {steps: 5, batch_sequences: 4}\n")
    settings = config.load(path, ["training.steps=7"])
    assert (settings.training.steps, settings.training.batch_sequences) == (7, 4)
    assert config.load(path, {"training.steps": 9}).training.steps == 9


def test_numbers_in_scientific_notation_are_numbers():
    """PyYAML alone reads 6e-4 as a string."""
    assert load("optimizer.learning_rate=6e-4").optimizer.learning_rate == 6e-4


def test_a_dumped_config_loads_as_itself(tmp_path):
    """A run folder's config.yaml must start the same run again."""
    settings = load("pruning.sparsities=[0.5,0.8]", "pruning.rewind.to=step:3")
    path = tmp_path / "c.yaml"
    path.write_text(config.dump(settings))
    assert config.load(path) == settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.lerning_rate=1",
            "optimizer.lerning_rate: unknown key; did you mean ",
        ),
        ("training.steps=-1", "training.steps: got -1; Input should be greater"),
        ("training.steps=many", "training.steps: got 'many'; Input should be a valid"),
        ("training.compute_dtype=float16", "'float32' or 'bfloat16'"),
        ("pruning.rewind.to=stepp", "pruning.rewind.to: got 'stepp'"),
        ("pruning.scope=global", "pruning: give one of sparsities"),
        ("pruning.sparsities=[0.8,0.5]", "pruning: sparsities must rise"),
        ("pruning.sparsities=[1.5]", "pruning.sparsities.0: got 1.5"),
        ("training.accumulation_steps=3", "divisible by training.accumulation_steps"),
        ("steps", "'steps' is no override; write key.sub=value"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_key(override, message):
    """A pydantic error spans many lines and names classes, not keys."""
    with pytest.raises(errors.UserError) as caught:
        load(override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rewinding_to_a_step_that_round_0_never_reaches_is_an_error():
    """Such a run would train for hours and then find no weights to rewind to."""
    with pytest.raises(errors.UserError, match="step 1000 is not before the end"):
        load("pruning.sparsities=[0.5]", "pruning.rewind.to=step:1000")


def test_a_twin_that_no_batch_tells_apart_is_an_error():
    """A barrier of 0 between a model and itself would pass for stability."""
    with pytest.raises(errors.UserError, match="twin trains on other batches"):
        load("pruning.sparsities=[0.5]", "pruning.controls=[twin]", "training.steps=0")


def test_a_fraction_per_round_compounds():
    """20 % of what is left, as in Frankle and Carbin, and not 20 % of all."""
    settings = load("pruning.fraction_per_round=0.2", "pruning.rounds=3")
    assert settings.pruning.targets() == pytest.approx((0.2, 0.36, 0.488))


def test_a_missing_file_and_broken_yaml_are_named(tmp_path):
    """Both are common slips of the hand."""
    with pytest.raises(errors.UserError, match="there is no such config file"):
        config.load(tmp_path / "none.yaml")
    path = tmp_path / "c.yaml"
    path.write_text("a: [1")
    with pytest.raises(errors.UserError, match="not a config"):
        config.load(path)


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"masks_from": "a", "schedule": "gradual"}, "gradual makes masks of its own"),
        ({"masks_from": "a", "criterion": "wanda"}, "criterion: the masks are given"),
        ({"schedule": "one-shot", "rewind.to": "none"}, "one-shot does not rewind"),
        ({"allocation": "owl", "sparsities": [0.5, 0.6]}, "owl takes one sparsity"),
        ({"schedule": "rigl", "controls": ["twin"]}, "controls: rigl has no twin"),
        ({"updates.every_steps": 5}, "updates: iterative has none"),
        ({"schedule": "set", "updates.last_step": 9}, "10 leave no exchange before"),
        ({"schedule": "one-shot", "sparsities": [0.5, 0.6]}, "takes one sparsity"),
        ({"pattern": "16x16", "scope": "row"}, "16x16 does not go with scope row"),
        ({"scope": "global", "allocation": "erk"}, "erk needs scope layer or row"),
        ({"reconstruction.epochs": 1}, "reconstruction: rewinding would undo it"),
        ({"structured": [{"what": "heads", "indices": [1]}]}, "indices name layers"),
        ({"structured": [{"what": "neurons"}]}, "give one of count, fraction"),
        (
            {"structured": [{"what": "layers", "indices": [1], "by": "loss"}]},
            "structured.0: by: indices say which layers go",
        ),
        (
            {"structured": [{"what": "layers", "count": 1}], "rewind.to": "none"},
            "rewind: structured rounds have none",
        ),
        (
            {
                "structured": [{"what": "layers", "count": 1}],
                "rewind.schedule": "continue",
            },
            "rewind: structured rounds have none",
        ),
        (
            {"schedule": "gradual", "updates.drop_fraction": 0.2},
            "updates.drop_fraction: gradual has none",
        ),
        (
            {"schedule": "rigl", "updates.initial_sparsity": 0.2},
            "updates.initial_sparsity: rigl has none",
        ),
        (
            {"schedule": "gradual", "updates.initial_sparsity": 0.6},
            "0.6 is more than the sparsity to end with, 0.5",
        ),
        ({"owl_spread": 0.1}, "owl_spread: only allocation owl has it"),
        ({"allocation": "weighted"}, "weighted and density_weights go together"),
        ({"density_weights": {0: 2}}, "weighted and density_weights go together"),
        ({"allocation": "erk", "owl_outlier": 7}, "owl_outlier: only allocation owl"),
    ],
)
def test_what_does_not_fit_together_is_refused(pruning, message):
    """A setting that is ignored in silence makes a result that nobody meant."""
    amount = (
        {} if {"masks_from", "structured"} & pruning.keys() else {"sparsities": [0.5]}
    )
    values = {f"pruning.{key}": value for key, value in {**amount, **pruning}.items()}
    with pytest.raises(errors.UserError) as caught:
        config.load(None, {"model": "m", "out": "o", **values})
    assert message in str(caught.value)


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:2", "16:32"])
def test_a_pattern_needs_no_quotes(pattern):
    """YAML reads 2:4 as 124, two minutes and four seconds."""
    settings = load(f"pruning.pattern={pattern}")
    assert settings.pruning.pattern == pattern


def test_a_criterion_ranks_as_its_paper_does_where_nothing_else_is_said():
    """Wanda over whole layers, or tiles over rows, would be other methods."""

    def ranked(**pruning):
        return config.Pruning(sparsities=(0.5,), **pruning).ranked_together

    assert ranked() == "global"
    assert ranked(criterion="wanda") == "row"
    assert ranked(criterion="sparsegpt") == "layer"
    assert ranked(criterion="wanda", pattern="4x4") == "layer"
    assert ranked(allocation="erk") == "layer"
    assert ranked(schedule="rigl") == "layer"
