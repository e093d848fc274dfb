"""Runs that train an adapter: what they leave, and that they can be killed."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import gptjax
from gptjax import api, cli, convert, errors, model, planning, training, tree

KERNEL = r"blocks/(attn|mlp)/\w+/kernel"
ADAPTER = {
    "adapter.rank": 2,
    "adapter.weights": [[KERNEL, True], [".*", False]],
    "optimizer.weight_decay": 0.1,
    "training.average_decay": 0.5,
    "training.evaluate_every_steps": 2,
}


@pytest.fixture(scope="module")
def pruned(tiny_settings, tmp_path_factory):
    """The tiny model with 80 % of the weights of every kernel exactly 0; its folder."""
    folder = tmp_path_factory.mktemp("pruned")
    source = tiny_settings("never").model
    shape, params = convert.load(source)

    def prune(path, leaf):
        if not tree.covers(KERNEL, path):
            return leaf
        size = np.abs(leaf)
        return jnp.where(size < np.quantile(size, 0.8), 0, leaf)

    params = tree.map_with_path(prune, params)
    convert.save(folder / "model", shape, params, like=source)
    return str(folder / "model")


def tensors(folder, name="model.safetensors"):
    found = convert.safetensors_file.read(folder / name)
    return {name: np.array(tensor.array) for name, tensor in found.items()}


def test_sparsity_before_and_after_the_merge_is_equal_to_the_weight(
    tiny_settings, pruned, tmp_path, capsys
):
    """80 % zeros come in; weight decay, an average and eight devices revive none."""
    run = api.run_training(tiny_settings(tmp_path / "run", model=pruned, **ADAPTER))
    source = tensors(convert.resolve(pruned))
    found = tensors(run.folder / "export")
    zeros = total = 0
    for name, before in source.items():
        if before.ndim < 2 or "h." not in name:
            np.testing.assert_array_equal(found[name], before, err_msg=name)
            continue
        np.testing.assert_array_equal(found[name] == 0, before == 0, err_msg=name)
        assert not np.array_equal(found[name], before)
        zeros, total = zeros + (before == 0).sum(), total + before.size
    assert zeros / total == pytest.approx(0.8, abs=0.01)
    told = run.summary["adapter"]
    assert told["zeros_before"] == told["zeros_after"] == zeros
    assert told["prunable"] == total
    assert run.summary["end"]["loss"] < run.summary["start"]["loss"]
    report = (run.folder / "report" / "report.md").read_text()
    assert f"{zeros:,} of {total:,} weights of the blocks' kernels are 0" in report

    done = cli.main(["merge", pruned, str(run.folder), "--out", str(tmp_path / "m")])
    assert done == 0
    said = capsys.readouterr().out
    assert said.count(f"{zeros:,} ") == 2
    for name, merged in tensors(tmp_path / "m").items():
        np.testing.assert_allclose(merged, found[name], atol=1e-7, err_msg=name)
        np.testing.assert_array_equal(merged == 0, found[name] == 0)
    stock = transformers.GPT2LMHeadModel.from_pretrained(run.folder / "export").eval()
    tokens = np.arange(30).reshape(2, 15)
    expected = stock(torch.tensor(tokens)).logits
    given = gptjax.load(pruned, adapter=run.folder)(tokens)
    np.testing.assert_allclose(given, expected.detach(), atol=1e-5)


def test_only_the_adapter_has_moments(tiny_settings):
    """What an adapter is for: memory. Adam would hold the model twice more."""
    settings = tiny_settings("never", **{**ADAPTER, "training.average_decay": None})
    trainer = training.prepare(settings).trainer(schedule_steps=6)
    held = jax.eval_shape(trainer.optimizer.init, trainer.shapes)
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(held)]
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trainer.shapes))
    assert 2 * trained <= sum(sizes) <= 2 * trained + 10
    kernels = 2 * 12 * 8 * 8  # of two layers of width 8
    assert trained == 2 * 2 * (8 + 24 + 8 + 8 + 8 + 32 + 32 + 8)
    assert trainer.parameters() - trainer.frozen_parameters() == kernels


@pytest.mark.slow
def test_an_interrupted_adapter_ends_as_the_unbroken_one(
    tiny_settings, pruned, tmp_path, stop_at
):
    """The base is read again, and the teacher; only the adapter is in checkpoints."""
    changes = {
        "model": pruned,
        **ADAPTER,
        "distillation.teacher": tiny_settings("never").model,
        "optimizer.plateau_evaluations": 1,
    }
    whole = training.train(tiny_settings(tmp_path / "whole", **changes)).folder
    stop_at(3)
    settings = tiny_settings(tmp_path / "broken", **changes)
    with pytest.raises(errors.Stopped):
        training.train(settings)
    assert not (tmp_path / "broken" / "export").exists()
    broken = training.train(settings).folder
    for file in ("export/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (broken / file).read_bytes() == (whole / file).read_bytes()
    held = (broken / "adapter" / "adapter_model.safetensors").read_bytes()
    training.train(settings)  # finished, and started once more
    assert (broken / "adapter" / "adapter_model.safetensors").read_bytes() == held


@pytest.mark.slow
@pytest.mark.very_slow
def test_heads_learn_with_their_adapter(tiny_settings, tmp_path):
    """They are all that a language model has not: labels come with the adapter."""
    rows = "".join(f"{'xy'[n % 2]},{'ab'[n % 2] * 3}\n" for n in range(64))
    (tmp_path / "texts.csv").write_text("label,text\n" + rows)
    words = "".join(f"{'N V' if n % 2 else 'V N'},a{n} b\n" for n in range(64))
    (tmp_path / "tags.csv").write_text("label,text\n" + words)
    changes = {
        **ADAPTER,
        "task.kind": "classification",
        "task.name": "letter",
        "data.train": str(tmp_path / "texts.csv"),
        "data.valid": None,
        "training.steps": 12,
        "optimizer.unfreeze_every_steps": 1,
        "auxiliary.tags.task.kind": "tagging",
        "auxiliary.tags.data.train": str(tmp_path / "tags.csv"),
        "auxiliary.tags.data.sequence_tokens": 16,
    }
    run = api.run_training(tiny_settings(tmp_path / "run", **changes))
    found = tensors(run.folder / "adapter", "adapter_model.safetensors")
    assert found["base_model.model.score.weight"].shape == (2, 8)
    other = tensors(run.folder / "adapter-tags", "adapter_model.safetensors")
    assert other["base_model.model.classifier.bias"].shape == (2,)
    assert found.keys() ^ other.keys() == {
        "base_model.model.score.weight",
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }
    tagger = gptjax.load(
        tiny_settings("never").model, adapter=run.folder / "adapter-tags"
    )
    assert tagger.config.classifiers[0].labels == ("N", "V")
    merged = gptjax.load(tiny_settings("never").model, adapter=run.folder)
    assert merged.config.classifiers[0].name == "letter"
    texts = ["aaa", "bbb", "a b a"]
    assert [each.label for each in merged.predict(texts)] == [
        each.label for each in run.model.predict(texts)
    ]
    merged.save(tmp_path / "saved")
    again = gptjax.load(tmp_path / "saved", adapter=run.folder)
    assert again.config.classifiers[0].labels == ("x", "y")


def test_a_model_with_fewer_heads_gets_no_adapter(tiny_settings, tmp_path):
    """In PEFT's layout an adapter of it would fit no model that transformers has."""
    source = tiny_settings("never").model
    shape, _ = convert.load(source)
    shape = dataclasses.replace(shape, n_head=1, head_dim=4)
    params = model.init(jax.random.key(0), shape)
    convert.save_native(tmp_path / "native", shape, params, like=source)
    settings = tiny_settings(
        tmp_path / "run", model=str(tmp_path / "native"), **ADAPTER
    )
    with pytest.raises(errors.UserError, match="fewer heads or neurons than a model"):
        training.prepare(settings)


def test_a_plan_of_an_adapter_is_refused(tiny_settings):
    with pytest.raises(errors.UserError, match="adapter: only the training of all"):
        planning.plan(tiny_settings("never", **ADAPTER), "cpu:8")
