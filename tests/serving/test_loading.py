"""What a checkpoint's generation_config.json asks of a server."""

import json
import shutil

import pytest

from gptjax import assets, errors, serving


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0: nothing would be written"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences 2"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size 2"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(tmp_path, asked, said):
    """Passed over, it would be another text than `gptjax generate` writes."""
    folder = shutil.copytree(assets.checkpoint(), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(asked))
    with pytest.raises(errors.UserError, match=rf"generation_config.json: {said}"):
        serving.load("a", str(folder), slots=1, context=16, longest_queue=1)


def test_a_folder_is_known_by_its_whole_path(tmp_path, monkeypatch):
    """Clients are told a model's name in its place: of `.`, at every sentence's end."""
    folder = shutil.copytree(assets.checkpoint(), tmp_path / "model")
    (folder / "generation_config.json").write_text('{"num_beams": 2}')
    monkeypatch.chdir(folder)
    with pytest.raises(errors.UserError) as found:
        serving.load("a", ".", slots=1, context=16, longest_queue=1)
    assert str(found.value).startswith(f"{folder}/")


def test_a_checkpoints_stop_strings_end_its_texts(models, post, monkeypatch):
    """Unless a request has its own, as with all options."""
    body = {"model": "packaged", "prompt": "It is a truth", "seed": 3, "max_tokens": 20}
    (whole,) = post("/v1/completions", body).json()["choices"]
    own, other = whole["text"][12:17], whole["text"][20:24]
    writer = models["packaged"].model.writer
    monkeypatch.setitem(writer.own, "stop_strings", [own])
    for given, stop in (({}, own), ({"stop": other}, other)):
        (made,) = post("/v1/completions", {**body, **given}).json()["choices"]
        assert made["text"] == whole["text"][: whole["text"].index(stop)]
        assert made["finish_reason"] == "stop"
