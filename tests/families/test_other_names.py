"""Names of tensors that checkpoints of other versions of transformers have."""

import json

import numpy as np
import pytest
import safetensors.torch
import stock
import torch

from gptjax import convert, errors, model

BUFFERS = {
    "openai-gpt": ("transformer.position_ids", "transformer.h.0.attn.bias"),
    "gpt_neox": (
        "gpt_neox.rotary_emb.inv_freq",
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
    ),
    "opt": ("model.decoder.version",),
    "llama": (
        "model.rotary_emb.inv_freq",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ),
}


def _written(family, folder, change):
    """A stock model whose tensors `change` gives other names; stock's logits."""
    theirs = stock.make(family, 3, tie_word_embeddings=False)
    theirs.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = change(safetensors.torch.load_file(path))
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    tokens = np.random.default_rng(0).integers(
        theirs.config.vocab_size, size=(2, stock.POSITIONS - 3)
    )
    with torch.no_grad():
        return tokens, theirs(torch.tensor(tokens)).logits.numpy()


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("family", BUFFERS)
def test_old_buffers_are_no_weights(family, bare, tmp_path):
    """A checkpoint of GPT-1 from before 2023 would else be refused for its masks."""
    prefix = {"gpt_neox": "gpt_neox.", "openai-gpt": "transformer."}
    prefix = prefix.get(family, "model.") if bare else ""

    def change(tensors):
        extra = {name: torch.ones(1) for name in BUFFERS[family]}
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in {**tensors, **extra}.items()
        }

    tokens, wanted = _written(family, tmp_path, change)
    got = model.apply(*convert.load(tmp_path), tokens)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * abs(wanted).max())


def test_a_buffer_of_a_layer_that_is_not_there_is_refused(tmp_path):
    """It tells of a config that is not the checkpoint's."""
    name = "transformer.h.99.attn.bias"
    _written("openai-gpt", tmp_path, lambda found: {**found, name: torch.ones(1)})
    with pytest.raises(errors.UserError, match=r"h\.99\.attn\.bias is no tensor of"):
        convert.load(tmp_path)


def test_the_head_of_gpt_neox_is_read_by_its_new_name(tmp_path):
    """What transformers 5 has in memory, other tools store as it is."""

    def change(tensors):
        tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
        return tensors

    tokens, wanted = _written("gpt_neox", tmp_path / "new", change)
    got = model.apply(*convert.load(tmp_path / "new"), tokens)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * abs(wanted).max())

    def both(tensors):
        return {**tensors, "lm_head.weight": 2 * tensors["embed_out.weight"]}

    _written("gpt_neox", tmp_path / "both", both)
    with pytest.raises(errors.UserError, match=r"embed_out\.weight is there twice"):
        convert.load(tmp_path / "both")


def test_a_model_written_in_another_family_has_none_of_its_sources_fields(tmp_path):
    """`gptjax init` of a Llama with GPT-2's tokenizer: config.json is a Llama's."""
    theirs = stock.make("llama", 0)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = convert.load(tmp_path / "theirs")
    packaged = convert.resolve("packaged")
    source = json.loads((packaged / "config.json").read_text())
    assert "summary_type" in source
    convert.save(tmp_path / "ours", config, params, like=packaged)
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert not [name for name in values if name.startswith("summary_")]
    assert values["eos_token_id"] == source["eos_token_id"]
