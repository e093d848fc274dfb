"""Every family that llama.cpp runs: what it computes of the file that gptjax wrote."""

import jax
import numpy as np
import pytest
import stock

import gptjax
from gptjax import convert, errors, formats, model, tree
from gptjax.convert import hf_config
from gptjax.convert.llama_cpp import architectures

LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.5}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = [
    *((family, {}) for family in ("gpt_neox", "bloom", "qwen2")),
    ("gpt2", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    ("gpt_neox", {"use_parallel_residual": False, "rope_parameters": LINEAR}),
    ("bloom", {"hidden_size": 48, "n_head": 6}),
    ("llama", {"rope_parameters": LINEAR, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 8}),
    ("qwen2", {"rope_parameters": LINEAR, "tie_word_embeddings": True}),
    ("qwen3", {"rope_parameters": LINEAR, "tie_word_embeddings": True}),
]
WINDOWS = ("use_sliding_window", "sliding_window", "layer_types")
# More tokens than the tokenizer has: rows that no text reads.
VOCABULARY = 2053


def _config(family, **more):
    own = {**stock.regular(family), "vocab_size": VOCABULARY, **more}
    if not more.keys() & {*WINDOWS}:
        own = {name: value for name, value in own.items() if name not in WINDOWS}
    return hf_config.parse({"model_type": family, **own}, where=family)


def _made(family, folder, **more):
    """A random model, its biases and norms random too, with the packaged tokenizer."""
    config, rng = _config(family, **more), np.random.default_rng(0)
    params = tree.map_with_path(
        lambda path, leaf: (
            path.endswith("/scale") + 0.1 * rng.standard_normal(leaf.shape)
        ).astype(np.float32),
        model.shapes(config),
    )
    convert.save(folder, config, params, like=convert.resolve("packaged"))
    return gptjax.load(folder)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        *((family, {}) for family in ("gpt2", "llama", "qwen3")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES),
    ],
    ids=str,
)
def test_llama_cpp_computes_the_same(family, more, tmp_path, llama_server):
    """Rows in another order, a missing number of the config, another rotation."""
    own = _made(family, tmp_path / "made", **more)
    formats.save_gguf(own, tmp_path / "made.gguf")
    server = llama_server(tmp_path / "made.gguf", context=32)
    ids = np.random.default_rng(0).integers(2048, size=20)
    wanted = np.asarray(jax.nn.log_softmax(own([ids])[0], axis=-1))
    # llama.cpp looks gelu up in a table of float16; all else is float32.
    allowed = 2e-3 if "gelu" in own.config.activation_function else 1e-5
    for count in (1, 2, 20):
        got = server.log_chances(ids[:count], VOCABULARY)
        np.testing.assert_allclose(got, wanted[count - 1], rtol=0, atol=allowed)


@pytest.mark.slow
@pytest.mark.parametrize("family", architectures.ARCHITECTURES)
def test_a_file_gives_every_weight_back(family, tmp_path):
    """What llama.cpp wants in another order must come back in ours, to the byte."""
    own = _made(family, tmp_path / "made")
    formats.save_gguf(own, tmp_path / "made.gguf")
    with formats.opened(tmp_path / "made.gguf") as (folder, config, params):
        assert config == own.config
        convert.save(tmp_path / "again", config, params, like=folder)
    one, two = (
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("made", "again")
    )
    assert one == two


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("opt", {}, "does not run OPT"),
        ("gptj", {}, "does not run GPT-J"),
        ("gpt_neo", {}, "does not run GPT-Neo"),
        ("openai-gpt", {}, "does not run GPT;"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
        ("gpt_neox", {"attention_bias": False}, "qkv_bias is False"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "residual_of"),
        ("qwen2", {name: stock.regular("qwen2")[name] for name in WINDOWS}, "windows"),
        ("qwen3", {"attention_bias": True}, "qkv_bias is True"),
        ("qwen2", {"rope_parameters": LLAMA3}, "scaled as llama3"),
    ],
    ids=str,
)
def test_what_llama_cpp_computes_otherwise_is_refused(family, more, message):
    """It would load most of these, and write nonsense."""
    with pytest.raises(errors.UserError, match=message):
        architectures.of(_config(family, **more), where="made.gguf")
