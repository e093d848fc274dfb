"""What configs say of rotary positions twice, heard as stock transformers does."""

import json

import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, model
from gptjax.convert import hf_config
from gptjax.convert.families import rope

SIZES = {
    "vocab_size": 40,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA = {**SIZES, "model_type": "llama"}
QWEN = {**SIZES, "model_type": "qwen2"}
NEOX = {name: x for name, x in SIZES.items() if name != "num_key_value_heads"}
NEOX = {**NEOX, "model_type": "gpt_neox"}
DEFAULT = {"rope_type": "default", "rope_theta": 50.0}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def _logits(values, folder):
    """Stock transformers' of a random model of that config.json, kept with it; ours."""
    (folder / "config.json").write_text(json.dumps(values))
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager"
    ).eval()
    theirs.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values))
    tokens = np.random.default_rng(0).integers(40, size=(2, 20))
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
    own, params = convert.load(folder)
    return wanted, model.apply(own, params, tokens), own, params


@pytest.mark.parametrize(
    "values",
    [
        {**LLAMA, "rope_parameters": DEFAULT, "rope_scaling": LINEAR},
        {**LLAMA, "rope_parameters": DEFAULT, "rope_scaling": None},
        {**LLAMA, "rope_parameters": DEFAULT, "rope_theta": 7.0},
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4}, "rope_theta": 50},
        {**LLAMA, "rope_scaling": {**LINEAR, "original_max_position_embeddings": 16}},
        {**LLAMA, "rope_scaling": {**DEFAULT, "factor": 4.0}},
        {**LLAMA, "partial_rotary_factor": 0.5},
        {**LLAMA, "rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5}},
        {**QWEN, "partial_rotary_factor": 0.5, "head_dim": 32},
        {**QWEN, "rope_scaling": {**LINEAR, "partial_rotary_factor": 1.0}},
        {**NEOX, "rope_theta": 50.0, "partial_rotary_factor": 1.0},
        {**NEOX, "rotary_emb_base": 50, "rotary_pct": 0.5, "rope_theta": 7.0},
        {**NEOX, "rope_theta": 7.0, "rotary_pct": 0.5, "rotary_emb_base": 50},
        {**NEOX, "partial_rotary_factor": 1.0, "rotary_pct": 0.5},
        {**NEOX, "rotary_pct": 0.5, "rope_parameters": DEFAULT, "rotary_emb_base": 7},
        {**NEOX, "rotary_pct": 0.5, "rope_scaling": LLAMA3},
        {**NEOX, "rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}},
    ],
    ids=lambda values: " ".join(
        f"{name}={x}" for name, x in values.items() if name not in SIZES
    ),
)
def test_of_two_that_speak_of_one_thing_transformers_own_holds(values, tmp_path):
    """The other one gives a model that computes, too, but another."""
    wanted, got, _, _ = _logits(values, tmp_path)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * abs(wanted).max())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_scaling": LINEAR, "partial_rotary_factor": 0.5},
            "partial_rotary_factor is 0.5; with rope_scaling the family rotates",
        ),
        (
            {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}},
            "low_freq_factor is 4.0; it must be less than high_freq_factor, 4.0",
        ),
        (
            {"rope_parameters": {"full_attention": DEFAULT}},
            "rope_parameters of type default: full_attention is not known",
        ),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
        ({"rope_parameters": [1, 2]}, r"rope_parameters is \[1, 2\]; it must be an"),
        ({"rope_scaling": 3}, "rope_scaling is 3; it must be an object"),
        ({"rope_scaling": {"type": ["linear"]}}, r"is of type \['linear'\]"),
        ({"rope_scaling": {"type": "yarn"}}, "is of type 'yarn'; gptjax implements"),
        ({"rope_theta": "1e4"}, "rope_theta is '1e4'; it must be a positive number"),
    ],
    ids=str,
)
def test_what_is_no_rotation_is_refused_by_its_name(changes, message):
    """Transformers fails on some, warns of others, and none is what it seems to be."""
    with pytest.raises(errors.UserError, match=f"^x: .*{message}"):
        hf_config.parse({**LLAMA, **changes}, where="x")


def test_a_rotated_part_survives_the_fraction_that_says_it():
    """88 x (30 / 88) is 29.999... in float64, which transformers rounds down."""
    for width in range(2, 257):
        for dims in range(2, width + 1, 2):
            config = model.Config(
                n_embd=width, n_head=1, positions=model.Rotary(dims=dims)
            )
            assert int(width * json.loads(json.dumps(rope.share(config)))) == dims


def test_an_export_of_a_rotated_part_is_the_model_again(tmp_path):
    """Two numbers fewer that turn are another model of the same shape."""
    values = {**NEOX, "hidden_size": 176, "rotary_pct": 0.35}
    (tmp_path / "theirs").mkdir()
    wanted, _, config, params = _logits(values, tmp_path / "theirs")
    assert (config.positions.dims, config.head_width) == (30, 88)
    convert.save(tmp_path / "ours", config, params, like=tmp_path / "theirs")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    tokens = np.random.default_rng(0).integers(40, size=(2, 20))
    with torch.no_grad():
        assert np.array_equal(again.eval()(torch.tensor(tokens)).logits, wanted)
