"""GGUF files, read by the `gguf` package and computed by formulas written here."""

import gguf
import jax
import numpy as np
import pytest

import gptjax
from gptjax import assets, cli, convert, errors, formats, model, quantizing, tree
from gptjax.convert import hf_config
from gptjax.convert.llama_cpp import blocks

GPT2 = model.Config(
    vocab_size=2048, n_positions=24, n_embd=32, n_head=4, n_layer=2, n_inner=96
)
LLAMA = hf_config.parse(
    {
        "model_type": "llama",
        "vocab_size": 2048,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 24,
    },
    where="llama",
)
IDS = np.random.default_rng(0).integers(2048, size=20)


def _made(config, folder, *, zeros=0.0):
    """A random model, norms and biases too; of the kernels' weights some are 0."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        own = path.endswith("/scale") + 0.1 * rng.standard_normal(leaf.shape)
        kept = rng.random(leaf.shape) >= zeros if path.endswith("/kernel") else True
        return np.where(kept, own, 0).astype(np.float32)

    params = tree.map_with_path(draw, model.shapes(config))
    convert.save(folder, config, params, like=assets.checkpoint())
    return gptjax.load(folder)


def _read(path):
    """Fields by their keys, and tensors as float64."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        own.name: gguf.dequantize(own.data, own.tensor_type).astype(np.float64)
        for own in reader.tensors
    }
    return fields, tensors


def _attended(q_THK, k_TGK, v_TGK):
    """Causal attention of heads that share keys."""
    time, heads, width = q_THK.shape
    k_THK, v_THK = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k_TGK, v_TGK))
    scores = np.einsum("thk,shk->hts", q_THK, k_THK) / np.sqrt(width)
    scores[:, np.triu(np.ones((time, time), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shk->thk", weights, v_THK).reshape(time, -1)


def _gpt2(fields, tensors, ids):
    """What a GPT-2 of a file computes, after its paper."""

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    epsilon = fields["gpt2.attention.layer_norm_epsilon"]
    heads = fields["gpt2.attention.head_count"]
    x = tensors["token_embd.weight"][ids] + tensors["position_embd.weight"][: len(ids)]
    for layer in range(fields["gpt2.block_count"]):
        own = f"blk.{layer}"
        qkv = linear(norm(x, f"{own}.attn_norm"), f"{own}.attn_qkv")
        parts = (each.reshape(len(ids), heads, -1) for each in np.split(qkv, 3, -1))
        x = x + linear(_attended(*parts), f"{own}.attn_output")
        h = linear(norm(x, f"{own}.ffn_norm"), f"{own}.ffn_up")
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, f"{own}.ffn_down")
    return norm(x, "output_norm") @ tensors["token_embd.weight"].T


def _llama(fields, tensors, ids):
    """What a Llama of a file computes, neighbours rotated as its authors' code does."""

    def norm(x, name):
        mean = (x**2).mean(-1, keepdims=True)
        return x / np.sqrt(mean + epsilon) * tensors[f"{name}.weight"]

    def rotated(x_THK):
        pairs = x_THK[..., ::2] + 1j * x_THK[..., 1::2]
        exponents = np.arange(0, dims, 2) / dims
        angles = np.arange(len(ids))[:, None] * fields["llama.rope.freq_base"] ** (
            -exponents
        )
        pairs = pairs * np.exp(1j * angles)[:, None]
        return np.stack([pairs.real, pairs.imag], -1).reshape(x_THK.shape)

    epsilon = fields["llama.attention.layer_norm_rms_epsilon"]
    heads = fields["llama.attention.head_count"]
    groups = fields["llama.attention.head_count_kv"]
    dims = fields["llama.rope.dimension_count"]
    x = tensors["token_embd.weight"][ids]
    for layer in range(fields["llama.block_count"]):
        own = f"blk.{layer}"
        h = norm(x, f"{own}.attn_norm")
        q, k, v = (
            (h @ tensors[f"{own}.attn_{name}.weight"].T).reshape(len(ids), count, -1)
            for name, count in (("q", heads), ("k", groups), ("v", groups))
        )
        found = _attended(rotated(q), rotated(k), v)
        x = x + found @ tensors[f"{own}.attn_output.weight"].T
        h = norm(x, f"{own}.ffn_norm")
        gate = h @ tensors[f"{own}.ffn_gate.weight"].T
        up = h @ tensors[f"{own}.ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ tensors[f"{own}.ffn_down.weight"].T
    return norm(x, "output_norm") @ tensors["output.weight"].T


@pytest.mark.parametrize(
    ("config", "formula"), [(GPT2, _gpt2), (LLAMA, _llama)], ids=["gpt2", "llama"]
)
def test_the_file_alone_computes_what_the_model_does(config, formula, tmp_path):
    """All that is needed must be there, and say what the names promise."""
    own = _made(config, tmp_path / "made")
    formats.save_gguf(own, tmp_path / "made.gguf")
    wanted = np.asarray(own([IDS])[0])
    got = formula(*_read(tmp_path / "made.gguf"), IDS)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * abs(wanted).max())


@pytest.mark.parametrize(("weights", "step"), [("q8_0", 1 / 127), ("q4_0", 1 / 8)])
def test_a_pruned_weight_stays_zero_and_the_others_near(weights, step, tmp_path):
    """A code is the nearest one, and 0 has a code of its own."""
    own = _made(LLAMA, tmp_path / "made", zeros=0.5)
    written = formats.save_gguf(own, tmp_path / "made.gguf", weights=weights)
    assert written.kinds[weights.upper()] > 0.9 * sum(written.kinds.values())
    with formats.opened(tmp_path / "made.gguf") as (_, _, params):
        read = tree.flatten(params)
    for path, leaf in tree.flatten(own.params).items():
        before, after = np.asarray(leaf), np.asarray(read[path])
        if not path.endswith("/kernel"):
            continue
        assert (before == 0).mean() > 0.4
        assert not after[before == 0].any()
        assert 0 < abs(after - before).max() <= 1.01 * step * abs(before).max()


@pytest.mark.parametrize(
    ("config", "grid", "weights", "are_kept"),
    [
        (GPT2, {"bits": 8}, "q8_0", True),
        (LLAMA, {"bits": 4, "group": 32}, "q4_0", True),
        pytest.param(
            LLAMA, {"bits": 4, "group": 32}, "q8_0", True, marks=pytest.mark.slow
        ),
        pytest.param(GPT2, {"bits": 8}, "q4_0", False, marks=pytest.mark.slow),
        pytest.param(
            GPT2, {"bits": 4, "group": 16}, "q4_0", False, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_codes_stay_the_same_codes(config, grid, weights, are_kept, tmp_path):
    """Rounded again, a weight would go to another code; scales become float16."""
    _made(config, tmp_path / "made", zeros=0.5)
    made = quantizing.quantize(tmp_path / "made", **grid)
    made.save(tmp_path / "small")
    written = formats.save_gguf(
        gptjax.load(tmp_path / "small"),
        tmp_path / "small.gguf",
        weights=weights,
        on_grid=convert.load_grid(tmp_path / "small"),
    )
    assert written.codes == (made.weights if are_kept else 0)
    if not are_kept:
        return
    with formats.opened(tmp_path / "small.gguf") as (_, _, params):
        read = tree.flatten(params)
    for path, scales in made.on_grid.scales.items():
        before, after = (
            np.asarray(leaf).reshape(scales.shape[0], -1, scales.shape[-1])
            for leaf in (tree.flatten(made.model.params)[path], read[path])
        )
        every = np.repeat(scales, before.shape[1] // scales.shape[1], axis=1)
        halves = every.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(np.rint(before / every), after / halves)


def test_blocks_are_those_of_the_package():
    """Another order of halves of bytes, and every second weight is another."""
    rng = np.random.default_rng(0)
    for kind, most in (("Q8_0", 127), ("Q4_0", 7)):
        codes = rng.integers(-most, most + 1, (3, 64))
        scales = 2.0 ** rng.integers(-9, 9, 6)
        data = blocks.stored_codes(codes, scales, kind, "")
        got = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
        wanted = codes.reshape(6, 32) * scales[:, None]
        np.testing.assert_array_equal(got.reshape(6, 32), wanted)


def test_a_convert_there_and_back_changes_no_byte(tmp_path, capfd):
    """The packaged model is float16, and llama.cpp wants norms in float32."""
    file = str(tmp_path / "there.gguf")
    assert cli.main(["convert", "packaged", file, "--to", "gguf"]) == 0
    assert "as F16" in capfd.readouterr().out
    assert cli.main(["convert", file, str(tmp_path / "back")]) == 0
    one, two = (
        (folder / "model.safetensors").read_bytes()
        for folder in (assets.checkpoint(), tmp_path / "back")
    )
    assert one == two
    ids = [
        gptjax.load(name).tokenizer("Naïve  texts,\n1811").input_ids
        for name in ("packaged", tmp_path / "back")
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUX", "no GGUF file"),
        (b"GGUF\3\0\0\0", "truncated"),
        (None, "another program"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(content, message, tmp_path, capfd):
    """Weights of another program's file lie by other rules than a config.json's."""
    path = tmp_path / "theirs.gguf"
    if content is None:
        writer = gguf.GGUFWriter(path, "gpt2")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        path.write_bytes(content)
    assert cli.main(["convert", str(path), str(tmp_path / "out")]) == 1
    told = capfd.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_a_file_cannot_be_is_refused(tmp_path, capfd):
    """Before a byte is written."""
    _made(GPT2, tmp_path / "made")
    for arguments, message in (
        (("x.gguf", "--dtype", "q4_0"), "--to gguf stores it"),
        (("x.gguf", "--to", "gguf", "--dtype", "float16"), "lies in it"),
        (("x", "--to", "gguf"), "name ends in .gguf"),
        (("x.gguf",), "add --to gguf"),
    ):
        to = tmp_path / "made" / arguments[0]
        assert (
            cli.main(["convert", str(tmp_path / "made"), str(to), *arguments[1:]]) == 1
        )
        assert message in capfd.readouterr().err
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.UserError, match="a GGUF file; `gptjax convert"):
        convert.resolve(tmp_path / "a.gguf")


def test_numbers_too_large_for_float16_are_refused(tmp_path):
    """Infinite, they would make every text of the model not a number."""
    own = _made(GPT2, tmp_path / "made")
    own.params["embed"]["tokens"]["embedding"] *= jax.numpy.float32(1e6)
    with pytest.raises(errors.UserError, match=r"token_embd.weight has numbers too"):
        formats.save_gguf(own, tmp_path / "made.gguf", weights="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
