"""Adapters in PEFT's layout, written by hand as PEFT 0.21 writes them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from gptjax import convert, errors, model, tree

SHAPE = model.Config(vocab_size=61, n_positions=12, n_embd=16, n_layer=2, n_head=2)
MODULES = {
    "attn.c_attn": (16, 48),
    "attn.c_proj": (16, 16),
    "mlp.c_fc": (16, 64),
    "mlp.c_proj": (64, 16),
}
# What PEFT 0.21.2 stores of a LoraConfig.
STORED = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
    "auto_mapping": None, "base_model_name_or_path": "gpt2", "bias": "none",
    "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": True, "inference_mode": True,
    "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
    "lora_alpha": 6, "lora_bias": False, "lora_dropout": 0.05, "lora_ga_config": None,
    "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
    "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": 3, "rank_pattern": {}, "revision": None,
    "target_modules": ["c_attn", "c_proj", "c_fc"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None,
    "use_dora": False, "use_qalora": False, "use_rslora": False, "velora_config": None,
}  # fmt: skip


def name_of(layer, module, part):
    return f"base_model.model.transformer.h.{layer}.{module}.lora_{part}.weight"


def state(modules=tuple(MODULES), labels=0, tags=0, dtype=torch.float32):
    """The tensors of an adapter, random."""
    torch.manual_seed(0)
    found = {}
    for layer in range(SHAPE.n_layer):
        for module in modules:
            inputs, outputs = MODULES[module]
            found[name_of(layer, module, "A")] = torch.randn(3, inputs).to(dtype)
            found[name_of(layer, module, "B")] = torch.randn(outputs, 3).to(dtype)
    if labels:
        found["base_model.model.score.weight"] = torch.randn(labels, 16).to(dtype)
    if tags:
        found["base_model.model.classifier.weight"] = torch.randn(tags, 16).to(dtype)
        found["base_model.model.classifier.bias"] = torch.randn(tags).to(dtype)
    return found


def write(folder, tensors, **changes):
    folder.mkdir()
    safetensors.torch.save_file(
        tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    values = {**STORED, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ({}, torch.float32),
        ({"modules": ("attn.c_attn",), "labels": 3}, torch.float32),
        ({"modules": ("mlp.c_fc",), "tags": 4}, torch.float32),
        ({"modules": ("mlp.c_proj", "attn.c_proj")}, torch.bfloat16),
    ],
    ids=["all", "classifier", "tagger", "bfloat16"],
)
def test_reading_and_writing_changes_no_byte(tmp_path, given, dtype):
    """Names, their order, shapes and orientation are PEFT's."""
    folder = write(tmp_path / "peft", state(**given, dtype=dtype))
    found = convert.load_adapter(folder, SHAPE)
    assert found.scaling == 2
    convert.save_adapter(
        tmp_path / "ours", found.config, found.adapter, alpha=6, base="gpt2"
    )
    file = "adapter_model.safetensors"
    assert (tmp_path / "ours" / file).read_bytes() == (folder / file).read_bytes()
    values = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    targets = values.pop("target_modules")
    assert targets == sorted(given.get("modules", MODULES))
    own = {"lora_dropout": 0.0, "target_modules": targets}
    for head, task in (("labels", "SEQ_CLS"), ("tags", "TOKEN_CLS")):
        if head in given:
            own |= {"task_type": task, "modules_to_save": ["classifier", "score"]}
    assert values.items() <= {**STORED, **own}.items()
    again = convert.load_adapter(tmp_path / "ours", SHAPE)
    assert again.config == found.config


def test_the_merge_is_w_plus_b_a(tmp_path):
    """In PEFT's orientation, the Conv1D's weight being (in, out)."""
    folder = write(tmp_path / "peft", state(), use_rslora=True)
    found = convert.load_adapter(folder, SHAPE)
    assert found.scaling == pytest.approx(6 / 3**0.5)
    shapes = model.shapes(SHAPE)
    ones = tree.map_with_path(lambda path, leaf: jnp.ones(leaf.shape), shapes)
    convert.save(tmp_path / "merged", SHAPE, found.merged(ones))
    stored = safetensors.torch.load_file(tmp_path / "merged" / "model.safetensors")
    for layer in range(SHAPE.n_layer):
        for module in MODULES:
            a, b = (state()[name_of(layer, module, part)] for part in "AB")
            name = f"transformer.h.{layer}.{module}.weight"
            wanted = 1 + (found.scaling * b @ a).T
            torch.testing.assert_close(stored[name], wanted, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_the_trunk_alone_is_read(tmp_path):
    """PEFT on a bare GPT2Model leaves the prefix out."""
    tensors = {
        name.replace("transformer.", ""): tensor for name, tensor in state().items()
    }
    bare = convert.load_adapter(write(tmp_path / "bare", tensors), SHAPE)
    full = convert.load_adapter(write(tmp_path / "full", state()), SHAPE)
    for one, other in zip(
        tree.flatten(bare.adapter).values(),
        tree.flatten(full.adapter).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; gptjax merges 'LORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is True; gptjax merges LoRA without it"),
        ({"rank_pattern": {"c_fc": 4}}, "rank_pattern is {'c_fc': 4}"),
        ({"alpha_pattern": {"c_fc": 4}}, "alpha_pattern is"),
        ({"layers_to_transform": [0]}, "layers_to_transform is"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"of_tomorrow": True}, "of_tomorrow is True"),
        ({"r": 0}, "r is 0; it must be a positive integer"),
        ({"r": True}, "r is True; it must be a positive integer"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'; it must be a number"),
        ({"r": 4}, r"lora_A.weight is float32 \(3, 16\); .* floating \(4, 16\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_kind_of_adapter_is_refused_in_one_line(tmp_path, changes, wanted):
    """A field that is passed over would make another model of it."""
    folder = write(tmp_path / "peft", state(), **changes)
    with pytest.raises(errors.UserError, match=wanted) as refused:
        convert.load_adapter(folder, SHAPE)
    assert str(refused.value).startswith(str(folder))
    assert "\n" not in str(refused.value)


def without(name):
    return {key: value for key, value in state().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "wanted"),
    [
        (without(name_of(1, "mlp.c_fc", "A")), "h.1.mlp.c_fc.lora_A.weight is missing"),
        (
            {k: v for k, v in state().items() if "c_fc.lora_A" not in k},
            "h.0.mlp.c_fc.lora_A.weight is missing",
        ),
        ({"base_model.model.score.weight": torch.ones(3, 16)}, "holds no lora_A"),
        (
            {**state(), "base_model.model.transformer.wte.weight": torch.ones(61, 16)},
            "transformer.wte.weight is no tensor of a LoRA adapter",
        ),
        (
            {**state(), name_of(2, "mlp.c_fc", "A"): torch.ones(3, 16)},
            "h.2.mlp.c_fc.lora_A.weight is no tensor of",
        ),
        (
            {**state(), name_of(0, "mlp.c_fc", "A"): torch.ones(3, 8)},
            r"\(3, 8\); for this model",
        ),
        (
            {**state(), name_of(0, "mlp.c_fc", "A"): torch.ones(3, 16, dtype=int)},
            "int64",
        ),
    ],
    ids=["layer", "factor", "score", "embedding", "deeper", "shape", "dtype"],
)
def test_tensors_that_do_not_fit_are_told(tmp_path, tensors, wanted):
    folder = write(tmp_path / "peft", tensors)
    with pytest.raises(errors.UserError, match=wanted):
        convert.load_adapter(folder, SHAPE)


def test_a_classifier_of_other_labels_is_refused(tmp_path):
    folder = write(tmp_path / "peft", state(labels=3))
    labels = (model.Classifier(labels=("a", "b")),)
    shape = model.Config(**{**vars(SHAPE), "classifiers": labels})
    with pytest.raises(
        errors.UserError, match="of 3 labels of texts; wanted is one of 2"
    ):
        convert.load_adapter(folder, shape)
    assert convert.load_adapter(folder, SHAPE).config.classifiers[0].labels == (
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    )


def test_no_adapter_and_no_place_for_one_are_told(tmp_path):
    with pytest.raises(errors.UserError, match="no adapter; looked for adapter_config"):
        convert.resolve_adapter(tmp_path)
    folder = write(tmp_path / "peft", state())
    found = convert.load_adapter(folder, SHAPE)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(errors.UserError, match=r"holds no adapter_model\.safetensors"):
        convert.load_adapter(folder, SHAPE)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(errors.UserError, match=r"notes\.txt, which would be lost"):
        convert.save_adapter(folder, SHAPE, found.adapter, alpha=6, base=None)
    assert (folder / "notes.txt").read_text() == "mine"
