"""What a run folder says of how far its run has come."""

import pytest

from gptjax import config, files
from gptjax.reporting import run_folder, statements


@pytest.mark.parametrize(
    ("rounds", "lacks"), [(1, "not finished"), (2, "not concluded")]
)
def test_a_run_whose_rounds_are_done_is_not_called_unfinished(
    rounds, lacks, tiny_settings, tmp_path
):
    """Trials of a search end so, all but the best: nothing goes on with them."""
    planned = {"pruning.schedule": "one-shot", "pruning.sparsities": [0.5]}
    settings = tiny_settings(tmp_path, **planned)
    files.write_text(tmp_path / "config.yaml", config.dump(settings))
    for number in range(rounds):
        path = tmp_path / "rounds" / f"{number:02d}" / "report.json"
        path.parent.mkdir(parents=True)
        files.write_json(path, {"round": number})
    run = run_folder.read(tmp_path)
    assert run.lacks == lacks
    assert statements.unfinished(run).startswith(f"{lacks.capitalize()}: {rounds} ")
    files.write_json(tmp_path / "summary.json", {"end": {}})
    assert run_folder.read(tmp_path).lacks == ""
