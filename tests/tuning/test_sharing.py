"""Several processes at one search: none spoils what another does or has written."""

import pathlib

import pytest

from gptjax import api, errors, evaluation, reporting, training
from gptjax.tuning import pictures, search, spaces, study
from gptjax.tuning import trial as trial_lib


@pytest.fixture
def concluded(monkeypatch):
    """Runs without training, the lower the rate the better; folders of other seeds."""
    seeds = []

    def finish(settings, *, concludes, on_evaluation=training.ignore):
        folder = pathlib.Path(settings.out)
        if folder.parent.name == "confirmed":
            seeds.append(folder.name)
        for name in ("export", "wandb"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return evaluation.Perplexity(
            nll_sum=settings.optimizer.learning_rate,
            tokens=2,
            predicted=1,
            context=2,
            stride=2,
            dtype="float32",
        ).to_json()

    monkeypatch.setattr(trial_lib, "finish", finish)
    monkeypatch.setattr(pictures, "draw", lambda *given: {})
    return seeds


@pytest.fixture
def settings(search_settings, tmp_path):
    return search_settings(tmp_path / "out", **{"search.confirm_seeds": [1]})


def another(settings):
    """The study as another process has it."""
    with study.locked(pathlib.Path(settings.out)):
        return study.Study(settings, spaces.read(settings))


def test_the_last_process_alone_concludes(settings, concluded):
    """The trial that another is at may be the best, and is then to be confirmed."""
    pathlib.Path(settings.out).mkdir()
    other = another(settings)
    claimed = other.next()
    results = api.run_search(settings)
    assert [row["state"] for row in results.rows] == ["under way", "done", "done"]
    assert (results.confirmed, concluded) == (None, [])
    with claimed.lock:
        other.tell(claimed.trial, 100.0, state="COMPLETE")
    results = api.run_search(settings)
    assert results.confirmed is not None
    assert len(concluded) == 2


def test_what_is_written_is_what_the_study_says_by_then(
    settings, concluded, monkeypatch
):
    """A process that ends while another goes on must not put its own view over it."""
    confirm = search.confirming.confirm

    def confirm_late(own, results):
        other = another(settings.model_copy(update={"search": longer}))
        claimed = other.next()
        with claimed.lock:
            other.tell(claimed.trial, 0.01, state="COMPLETE")
        return confirm(own, results)

    longer = settings.search.model_copy(update={"trials": 4})
    monkeypatch.setattr(search.confirming, "confirm", confirm_late)
    results = api.run_search(settings)
    assert results.best["trial"] == 3
    assert results.confirmed is None  # that was of another best one
    assert concluded
    written = (pathlib.Path(settings.out) / "best.yaml").read_text()
    assert written.startswith("# Trial 3 of ")


def test_a_trial_that_another_process_is_at_keeps_its_weights(settings, concluded):
    """It may be exporting what was the best trial a moment ago; what is light stays."""
    settings = settings.model_copy(
        update={"search": settings.search.model_copy(update={"confirm_seeds": ()})}
    )
    api.run_search(settings)
    trials = pathlib.Path(settings.out) / "trials"
    kept = {path.parent.name for path in trials.glob("*/export")}
    assert len(kept) == 1
    assert len(list(trials.glob("*/wandb"))) == 3
    worse = next(path for path in trials.iterdir() if path.name not in kept)
    (worse / "export").mkdir()
    longer = settings.search.model_copy(update={"trials": 4})
    with study.claim(worse):
        api.run_search(settings.model_copy(update={"search": longer}))
    assert (worse / "export").exists()


def test_a_storage_holds_searches_apart(search_settings, tmp_path, concluded):
    """Trials of two configs in one study would be compared with each other."""
    shared = {"search.storage": f"sqlite:///{tmp_path / 'study.db'}"}
    first = search_settings(tmp_path / "first", **shared)
    assert len(api.run_search(first).rows) == 3
    there = tmp_path / "there" / "first"
    with pytest.raises(errors.UserError, match="holds a search called first of anoth"):
        api.run_search(search_settings(there, **shared))
    second = api.run_search(search_settings(tmp_path / "second", **shared))
    assert len(second.rows) == 3
    # A folder keeps its study by whatever name it goes.
    (tmp_path / "first").rename(there.with_name("moved"))
    moved = search_settings(there.with_name("moved"), **shared, **{"search.trials": 4})
    assert len(api.run_search(moved).rows) == 4
    assert len(list(there.with_name("moved").glob("trials/*/wandb"))) == 4
    with pytest.raises(errors.UserError, match=r"with search\.storage sqlite"):
        api.run_search(search_settings(tmp_path / "second"))


def test_a_run_in_the_folder_of_a_search_is_refused(settings, concluded):
    """Its config would take the place of the search's, which could not go on."""
    api.run_search(settings)
    alone = settings.model_copy(update={"tune": {}, "search": None})
    with pytest.raises(errors.UserError, match="holds a search of `gptjax tune`"):
        api.run_training(alone)
    with pytest.raises(errors.UserError, match="a search, of which `gptjax tune`"):
        reporting.write(settings.out)
