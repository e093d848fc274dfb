"""What a user may call a model."""

from unittest import mock

import huggingface_hub
import huggingface_hub.errors
import pytest

from gptjax import convert, errors


def test_the_packaged_checkpoint_is_found():
    """It is what the demo starts from."""
    assert convert.read_config(convert.resolve("packaged")).n_layer == 6


def test_a_folder_is_itself_and_a_run_its_export(tmp_path):
    """Every command takes what the one before it wrote."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").touch()
    assert convert.resolve(tmp_path / "hf") == tmp_path / "hf"
    assert convert.resolve(str(tmp_path / "hf") + "/") == tmp_path / "hf"
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(errors.UserError, match="no export/ yet"):
        convert.resolve(run)
    (run / "export" / "config.json").touch()
    assert convert.resolve(run) == run / "export"
    pruned = run / "rounds" / "01"
    (pruned / "model").mkdir(parents=True)
    (pruned / "model" / "config.json").touch()
    assert convert.resolve(pruned) == pruned / "model"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./no/such", "no such folder"),
        ("/no/such", "no such folder"),
        ("a/b/c", "no such folder"),
        ("", "no model|no such"),
        ("two words", "no such folder"),
    ],
)
def test_a_path_to_nothing_is_not_asked_of_the_hub(name, words, monkeypatch):
    """A mistyped path must not wait for a network."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(errors.UserError, match=words):
        convert.resolve(name)


def test_a_file_is_no_model(tmp_path):
    """Users name the weights file."""
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(errors.UserError, match="is a file"):
        convert.resolve(tmp_path / "model.safetensors")
    with pytest.raises(errors.UserError, match=r"looked for config\.json"):
        convert.resolve(tmp_path)


def test_only_one_kind_of_weights_is_downloaded(tmp_path, monkeypatch):
    """gpt2 on the hub holds the same weights six times over."""
    asked = []

    def download(name, *, allow_patterns):
        asked.append(allow_patterns)
        (tmp_path / "config.json").touch()
        if "pytorch_model.bin" in allow_patterns:
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert convert.resolve("someone/old") == tmp_path
    assert "model.safetensors" in asked[0]
    assert "pytorch_model.bin" not in asked[0]
    assert "pytorch_model.bin" in asked[1]
    assert "model.safetensors" not in asked[1]


def test_offline_is_one_line(monkeypatch, tmp_path):
    """The commonest failure of all on a cluster."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(errors.UserError, match=r"^gptjax-no-such: no such folder here"):
        convert.resolve("gptjax-no-such")


def test_an_unknown_name_is_one_line(monkeypatch):
    """As is a private repository, which the hub says does not exist."""

    def download(name, *, allow_patterns):
        raise huggingface_hub.errors.RepositoryNotFoundError(
            "404 Client\nError", response=mock.Mock()
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(errors.UserError, match=r"neither a folder here nor [^\n]*$"):
        convert.resolve("someone/nothing")
