"""The study that processes share: no trial is anybody else's, none is left behind."""

import pytest

from gptjax import errors, files
from gptjax.tuning import spaces, study


@pytest.fixture
def opened(search_settings, tmp_path):
    """A function (**overrides) -> Study, as another process would open the same one."""

    def open_study(**overrides):
        overrides = {"search.trials": 4, **overrides}
        settings = search_settings(tmp_path / "search", **overrides)
        with study.locked(files.make_folder(tmp_path / "search")):
            return study.Study(settings, spaces.read(settings))

    return open_study


def drawn(claimed):
    return claimed.trial.number, claimed.values["optimizer.learning_rate"]


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_two_at_once_never_have_the_same_trial(opened, tmp_path, storage):
    """The folders are named by the trials: two in one would overwrite each other."""
    changed = {}
    if storage is not None:
        changed["search.storage"] = f"sqlite:///{tmp_path / 'study.db'}"
    one, other = opened(**changed), opened(**changed)
    claimed = [each.next() for each in (one, other, other, one)]
    assert [each.trial.number for each in claimed] == [0, 1, 2, 3]
    assert len({each.folder for each in claimed}) == 4
    assert one.next() is None
    assert other.next() is None


def test_a_trial_whose_process_is_gone_is_taken_up_as_it_was(opened):
    """With other values, what its folder holds would be refused."""
    one, other = opened(), opened()
    first, second = one.next(), one.next()
    second.trial.report(5.0, 2)
    second.lock.close()  # as the end of a process does
    again = other.next()
    assert drawn(again) == drawn(second)
    assert again.reported == {2}
    assert first.trial.number == 0
    assert other.next().trial.number == 2
    other.tell(again.trial, 3.0, state="COMPLETE")
    assert one.trials()[1].value == 3.0


def test_a_sampler_draws_the_same_whenever_the_process_starts(opened, tmp_path):
    """One that is seeded with the process draws its first values again and again."""
    one = opened()
    wanted = [one.next() for _ in range(4)]
    assert len({rate for _, rate in map(drawn, wanted)}) == 4
    (tmp_path / "search").rename(tmp_path / "first")
    found = [opened().next() for _ in range(4)]
    assert [drawn(each) for each in found] == [drawn(each) for each in wanted]


def test_the_configs_own_values_come_first(opened):
    """So the best is never worse than they are."""
    assert drawn(opened().next()) == (0, 0.01)


def test_half_a_line_of_a_journal_is_dropped(opened, tmp_path):
    """What is appended to it would be lost with it, and the study with that."""
    claimed = opened().next()
    with (tmp_path / "search" / "study.journal").open("a") as journal:
        journal.write('{"op_code":5,"worker')
    again = opened()
    assert [each.number for each in again.trials()] == [0]
    again.tell(claimed.trial.number, 1.0, state="COMPLETE")
    assert opened().trials()[0].value == 1.0


def test_a_grid_is_tried_whole_and_once(opened):
    rate = {"low": 0.01, "high": 0.03, "step": 0.01}
    changed = {"tune": {"optimizer.learning_rate": rate}, "search.sampler": "grid"}
    one = opened(**changed)
    claimed = [one.next(), opened(**changed).next(), one.next()]
    rates = [drawn(each)[1] for each in claimed]
    assert rates == pytest.approx([0.01, 0.02, 0.03])
    assert one.next() is None
    with pytest.raises(errors.UserError, match="fewer than the grid's 3 combinations"):
        opened(**changed, **{"search.trials": 2})


@pytest.mark.parametrize("name", ["nosql://here", "sqlite:////proc/none/study.db"])
def test_a_storage_that_cannot_be_opened_is_told(opened, name):
    with pytest.raises(errors.UserError, match=f"search.storage: {name}"):
        opened(**{"search.storage": name})


def test_without_optuna_it_says_what_to_install(opened, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(errors.UserError, match=r'pip install "gptjax\[tune\]"'):
        opened()
