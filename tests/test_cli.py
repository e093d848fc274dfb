"""The commands as a user meets them: exit codes, one-line errors, printed figures."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from gptjax import assets, cli, config, convert, model

REFERENCE = str(assets.checkpoint())


@pytest.fixture
def run(capfd):
    """A function (*arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return call


def test_help_names_every_command(run):
    """A command that is not listed does not exist for its users."""
    code, out, _ = run("--help")
    assert code == 0
    commands = ["demo", "train", "prune", "compare", "convert", "evaluate"]
    commands += ["connect", "generate", "report", "robustness"]
    assert all(command in out for command in commands)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate"], 2, "Missing argument"),
        (["evaluat", "packaged"], 2, "No such command"),
        (["convert", "packaged", "x", "--to", "onnx"], 2, "onnx"),
        (["train", "nowhere.yaml"], 1, "nowhere.yaml: there is no such config file"),
        (
            ["train", "{yaml}", "trainin.steps=1"],
            1,
            "trainin: unknown key; did you mean",
        ),
        (["train", "{yaml}", "data.train=nowhere.txt"], 1, "nowhere.txt"),
        (["train", "{yaml}", "data.sequence_tokens=512"], 1, "n_positions 256"),
        (
            ["prune", "{yaml}", "pruning.sparsities=[0.5]", "data.valid=null"],
            1,
            "data.va",
        ),
        (
            ["generate", "./nowhere", "--prompt", "x"],
            1,
            "nowhere: there is no such folder",
        ),
        (["generate", "packaged", "--prompt", ""], 1, "prompt"),
        (["evaluate", "packaged", "--text", "nowhere.txt"], 1, "nowhere.txt"),
        (["report", "nowhere"], 1, "nowhere: no run folder"),
    ],
)
def test_a_slip_is_one_line_and_a_code(run, tmp_path, arguments, code, message):
    """A traceback tells a user nothing; a zero exit code tells a script a lie."""
    yaml = tmp_path / "c.yaml"
    texts = {
        name: str(assets.text(f"shakespeare.{name}")) for name in ("train", "valid")
    }
    settings = config.load(
        None, {"model": "packaged", "out": str(tmp_path / "run"), "data": texts}
    )
    yaml.write_text(config.dump(settings))
    got, _, err = run(*(argument.format(yaml=yaml) for argument in arguments))
    assert got == code, err
    assert message in err
    assert "Traceback" not in err
    if code == 1:
        assert err.startswith("gptjax: ")
        assert err.count("\n") == 1


def test_evaluate_prints_perplexity_and_protocol(run, tmp_path):
    """Equal to torch's on the same windows."""
    text = tmp_path / "some.txt"
    text.write_text(assets.text("shakespeare.valid").read_text()[:6000])
    code, out, _ = run("evaluate", "packaged", "--text", text, "--json")
    assert code == 0
    figures = json.loads(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(REFERENCE)
    model = transformers.GPT2LMHeadModel.from_pretrained(REFERENCE, dtype=torch.float32)
    model.eval()
    ids = tokenizer(text.read_text(), return_tensors="pt").input_ids
    total = 0.0
    with torch.no_grad():
        for window in ids.split(256, dim=1):
            loss = model(window, labels=window).loss
            total += loss.item() * (window.shape[1] - 1)
    expected = np.exp(total / figures["predicted"])
    assert figures["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert "some.txt, context 256, stride 256" in figures["protocol"]
    _, out, _ = run("evaluate", "packaged", "--text", text, "--stride", 128)
    assert "stride 128" in out
    assert "bits a byte" in out


def test_a_classifier_is_measured_and_labels(run, tmp_path, monkeypatch):
    """By the same commands as a language model, but for `predict`."""
    labels = model.Classifier(name="mood", labels=("glad", "sad"), pad_token_id=0)
    config, params = convert.load(assets.checkpoint())
    config = dataclasses.replace(config, classifiers=(labels,))
    weight = jax.random.normal(jax.random.key(0), (2, config.n_embd))
    params["classifiers"] = {"mood": {"weight": weight}}
    folder = tmp_path / "classifier"
    convert.save(folder, config, params, like=assets.checkpoint())
    texts = tmp_path / "texts.csv"
    texts.write_text("mood,review\nglad,A joy.\nsad,A bore.\nglad,Fine.\n")
    columns = ("--text", texts, "--column", "review", "--label-column", "mood")
    code, out, err = run("evaluate", folder, *columns, "--json")
    assert code == 0, err
    found = json.loads(out)
    code, out, _ = run("predict", folder, "A joy.", "A bore.", "Fine.")
    assert code == 0
    given = [line.split("\t")[0] for line in out.splitlines()]
    right = sum(a == b for a, b in zip(given, ("glad", "sad", "glad"), strict=True))
    assert found["accuracy"] == pytest.approx(right / 3)
    code, out, _ = run("evaluate", folder, *columns, "--out", tmp_path / "page")
    assert "texts.csv, 3 texts of at most 256 tokens" in out
    assert (tmp_path / "page" / "confusion.png").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("A joy.\n\nA bore.\n"))
    code, out, _ = run("predict", folder, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["label"] for each in told] == given[:2]
    assert sum(told[0]["probabilities"].values()) == pytest.approx(1)
    code, _, err = run("predict", "packaged", "x")
    assert code == 1
    assert "no classifier; the model is a language model" in err


def test_connect_walks_from_one_model_to_another(run, tmp_path):
    """The ends are what `evaluate` says of the two; to itself a model has no way."""
    text = tmp_path / "some.txt"
    text.write_text(assets.text("shakespeare.valid").read_text()[:2000])
    other = tmp_path / "other"
    config, params = convert.load(assets.checkpoint())
    params["blocks"]["mlp"]["up"]["kernel"] *= 0.8
    convert.save(other, config, params, like=assets.checkpoint())
    how = ("--text", text, "--context", 64, "--points", 3)
    code, out, err = run("connect", "packaged", other, *how, "--json")
    assert code == 0, err
    found = json.loads(out)
    for end, name in ((0, "packaged"), (-1, other)):
        _, out, _ = run("evaluate", name, *how[:4], "--json")
        assert found["losses"][end] == json.loads(out)["loss"]
    code, out, _ = run("connect", "packaged", "packaged", *how, "--out", tmp_path / "o")
    assert code == 0
    assert "Barrier: 0.0000 nats a token" in out
    assert (tmp_path / "o" / "connectivity.svg").exists()


def test_models_of_other_shapes_are_not_connected(run, tmp_path):
    """One line that names the field, not a broadcast that fails."""
    config, _ = convert.load(assets.checkpoint())
    small = dataclasses.replace(config, n_layer=1)
    params = jax.jit(model.init, static_argnums=1)(jax.random.key(0), small)
    convert.save(tmp_path / "small", small, params, like=assets.checkpoint())
    code, _, err = run("connect", "packaged", tmp_path / "small", "--text", "some.txt")
    assert code == 1
    assert "small: n_layer: 1; " in err
    assert err.count("\n") == 1


def test_generate_writes_on_from_its_prompts(run):
    """The same seed must write the same text; greedy takes none."""
    arguments = ("generate", "packaged", "--tokens", 8, "--prompt", "It was")
    first, again = run(*arguments), run(*arguments)
    assert first[0] == 0
    assert first[1].startswith("It was")
    assert first[1] == again[1]
    assert run(*arguments, "--seed", 1)[1] != first[1]
    assert run(*arguments, "--greedy")[0] == 0


@pytest.mark.parametrize("to", ["hf", "gptjax"])
def test_convert_there_and_back_changes_no_byte(run, tmp_path, to):
    """The reference checkpoint, through either layout."""
    assert run("convert", "packaged", tmp_path / "there", "--to", to)[0] == 0
    assert run("convert", tmp_path / "there", tmp_path / "back")[0] == 0
    before = safetensors.numpy.load_file(assets.checkpoint() / "model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].tobytes() == tensor.tobytes(), name


@pytest.mark.slow
def test_the_command_trains_without_torch_where_there_is_one(tiny_settings, tmp_path):
    """Its import takes seconds, in which nobody sees anything happen."""
    path = tmp_path / "run.yaml"
    path.write_text(config.dump(tiny_settings(tmp_path / "run", **{"mesh.fsdp": 1})))
    code = "from gptjax import __main__; import sys; code = __main__.main(sys.argv[1:])"
    report = "print([m for m in sys.modules if m.startswith('torch.')]); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {report}", "train", path],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
