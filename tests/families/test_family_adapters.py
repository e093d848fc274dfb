"""Adapters as PEFT writes them where queries, keys and values lie apart."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import stock

from gptjax import convert, errors, tree

RANK, ALPHA = 3, 6
FILE = "adapter_model.safetensors"


def _model(family, folder):
    """The config, params and tensors of a model with 30 % of each kernel 0."""
    stock.make(family, 0, **stock.regular(family)).save_pretrained(folder / "theirs")
    config, params = convert.load(folder / "theirs")

    def prune(path, leaf):
        is_small = np.abs(leaf) < np.quantile(np.abs(leaf), 0.3)
        is_kernel = path.startswith("blocks/") and path.endswith("/kernel")
        return jnp.where(is_small, 0, leaf) if is_kernel else leaf

    params = tree.map_with_path(prune, params)
    convert.save(folder / "model", config, params)
    return (
        config,
        params,
        safetensors.numpy.load_file(folder / "model" / "model.safetensors"),
    )


def _adapter(weights, modules, *, shared=False):
    """Random tensors of an adapter of the layers that end so; A is (R, in)."""
    rng = np.random.default_rng(0)
    found, firsts = {}, {}
    for name, weight in sorted(weights.items()):
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer.rpartition(".")[2] in modules:
            a = rng.normal(size=(RANK, weight.shape[1])).astype(np.float32)
            if shared:
                a = firsts.setdefault(layer.rpartition(".")[0], a)
            prefix = f"base_model.model.{layer}"
            found[f"{prefix}.lora_A.weight"] = a
            found[f"{prefix}.lora_B.weight"] = rng.normal(
                size=(weight.shape[0], RANK)
            ).astype(np.float32)
    return found


def _write(folder, tensors, modules):
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / FILE)
    values = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": [*modules],
        "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "modules",
    [
        ("q_proj", "v_proj"),
        ("q_proj",),
        ("k_proj", "down_proj"),
        ("q_proj", "k_proj", "v_proj"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neo", "opt"])
def test_each_part_is_merged_with_an_adapter_of_its_own(family, modules, tmp_path):
    """The default of PEFT, q_proj and v_proj, has two A's and none for the keys.

    gptjax has one kernel for all three: a wrong place along the rank would mix them.
    """
    config, params, before = _model(family, tmp_path)
    tensors = _adapter(before, modules)
    there = [name for name in modules if any(f".{name}." in key for key in before)]
    assert len(tensors) == 2 * config.n_layer * len(there) > 0
    folder = _write(tmp_path / "peft", tensors, modules)
    merged = convert.load_adapter(folder, config).merged(params)
    convert.save(tmp_path / "merged", config, merged)
    after = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    for name, weight in before.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        wanted = weight.astype(np.float64)
        if f"{layer}.lora_A.weight" in tensors:
            a, b = (tensors[f"{layer}.lora_{x}.weight"].astype(float) for x in "AB")
            wanted = np.where(weight == 0, 0, wanted + ALPHA / RANK * b @ a)
            np.testing.assert_array_equal(after[name] == 0, weight == 0, err_msg=name)
            assert np.abs(wanted - weight).max() > 1
            np.testing.assert_allclose(
                after[name], wanted, rtol=0, atol=2e-5, err_msg=name
            )
        else:
            np.testing.assert_array_equal(after[name], weight, err_msg=name)


def test_parts_that_share_an_a_keep_its_rank(tmp_path):
    """What gptjax writes it reads again as it was, byte for byte."""
    modules = ("q_proj", "k_proj", "v_proj")
    config, _, before = _model("llama", tmp_path)
    folder = _write(tmp_path / "peft", _adapter(before, modules, shared=True), modules)
    found = convert.load_adapter(folder, config)
    assert found.adapter["blocks"]["attn"]["qkv"]["lora_a"].shape == (3, RANK, 32)
    convert.save_adapter(
        tmp_path / "again", config, found.adapter, alpha=ALPHA, base=None
    )
    first, second = (
        safetensors.numpy.load_file(place / FILE)
        for place in (folder, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.tobytes() == second[name].tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.q_proj.lora_A",
        "model.layers.2.self_attn.v_proj.lora_B",
    ],
)
def test_a_part_without_one_of_its_matrices_is_told(name, tmp_path):
    """As zeros it would pass for an adapter of fewer layers."""
    config, _, before = _model("llama", tmp_path)
    tensors = _adapter(before, ("q_proj", "v_proj"))
    del tensors[f"base_model.model.{name}.weight"]
    folder = _write(tmp_path / "peft", tensors, ("q_proj", "v_proj"))
    with pytest.raises(errors.UserError, match=f"{name}.weight is missing"):
        convert.load_adapter(folder, config)
