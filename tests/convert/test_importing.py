"""Every format in, every broken checkpoint refused."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from gptjax import convert, errors, sharding, tree
from gptjax.convert import tensors


def assert_holds(params, config, expected):
    """The params, leaf by leaf, against torch tensors, written out by hand."""
    flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}
    d, h, k = config.n_embd, config.n_head, config.head_width

    def same(got, name):
        wanted = expected.pop(name)
        assert got.dtype == str(wanted.dtype).removeprefix("torch.")
        assert got.tobytes() == wanted.view(torch.uint8).numpy().tobytes(), name

    expected = dict(expected)
    same(flat["embed/tokens/embedding"], "transformer.wte.weight")
    same(flat["embed/positions/embedding"], "transformer.wpe.weight")
    same(flat["ln_f/scale"], "transformer.ln_f.weight")
    same(flat["ln_f/bias"], "transformer.ln_f.bias")
    for layer in range(config.n_layer):
        block = {
            path.removeprefix("blocks/"): leaf[layer]
            for path, leaf in flat.items()
            if path.startswith("blocks/")
        }
        at = f"transformer.h.{layer}."
        assert block["attn/qkv/kernel"].shape == (d, 3, h, k)
        assert block["attn/qkv/bias"].shape == (3, h, k)
        assert block["attn/out/kernel"].shape == (h, k, d)
        same(block["ln_1/scale"], at + "ln_1.weight")
        same(block["ln_1/bias"], at + "ln_1.bias")
        same(block["attn/qkv/kernel"], at + "attn.c_attn.weight")
        same(block["attn/qkv/bias"], at + "attn.c_attn.bias")
        same(block["attn/out/kernel"], at + "attn.c_proj.weight")
        same(block["attn/out/bias"], at + "attn.c_proj.bias")
        same(block["ln_2/scale"], at + "ln_2.weight")
        same(block["ln_2/bias"], at + "ln_2.bias")
        same(block["mlp/up/kernel"], at + "mlp.c_fc.weight")
        same(block["mlp/up/bias"], at + "mlp.c_fc.bias")
        same(block["mlp/down/kernel"], at + "mlp.c_proj.weight")
        same(block["mlp/down/bias"], at + "mlp.c_proj.bias")
    if "head/embedding" in flat:
        same(flat["head/embedding"], "lm_head.weight")
    assert not expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", range(5))
def test_every_format_and_dtype_arrives_byte_for_byte(
    checkpoints, tmp_path, kind, dtype
):
    """Offsets, strides and dtypes are told differently by each format."""
    oracle = checkpoints.make_model(dtype=dtype)
    expected = checkpoints.tensors_of(oracle)
    checkpoints.write(tmp_path, oracle.config, expected, checkpoints.formats[kind])
    config, params = convert.load(tmp_path)
    assert_holds(params, config, expected)


@pytest.mark.parametrize("kind", [0, 2, 4])
def test_old_checkpoints_arrive(checkpoints, tmp_path, kind):
    """No prefix, causal masks among the weights and a head stored although tied."""
    oracle = checkpoints.make_model()
    expected = checkpoints.tensors_of(oracle)
    stored = {n.removeprefix("transformer."): t for n, t in expected.items()}
    for layer in range(3):
        mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
        stored[f"h.{layer}.attn.bias"] = mask
        stored[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    stored["lm_head.weight"] = stored["wte.weight"].clone()
    checkpoints.write(tmp_path, oracle.config, stored, checkpoints.formats[kind])
    config, params = convert.load(tmp_path)
    assert_holds(params, config, expected)


def test_a_head_of_its_own_arrives(checkpoints, tmp_path):
    """Not transposed: it is the one torch Linear among Conv1Ds."""
    oracle = checkpoints.make_model(tie_word_embeddings=False)
    oracle.save_pretrained(tmp_path)
    config, params = convert.load(tmp_path)
    assert_holds(params, config, checkpoints.tensors_of(oracle))


def test_a_cast_is_torch_s_cast(checkpoints, tmp_path):
    """Training asks for float32 of a half-precision checkpoint."""
    oracle = checkpoints.make_model(dtype=torch.bfloat16)
    oracle.save_pretrained(tmp_path)
    config, params = convert.load(tmp_path, dtype=jnp.float32)
    assert_holds(params, config, checkpoints.tensors_of(oracle.float()))


def test_each_device_reads_its_own_part_once(checkpoints, tmp_path, monkeypatch):
    """Eight devices that each read the whole checkpoint would make a start-up of
    minutes out of seconds, and copies kept on several need no second reading."""
    oracle = checkpoints.make_model(n_inner=8)
    oracle.save_pretrained(tmp_path)
    expected = checkpoints.tensors_of(oracle)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    read = []
    copy_into = tensors.Tensor.copy_into

    def recorded(self, out, view):
        read.append(out.nbytes)
        copy_into(self, out, view)

    monkeypatch.setattr(tensors.Tensor, "copy_into", recorded)
    config, params = convert.load(
        tmp_path, shardings=lambda shapes: sharding.param_shardings(mesh, shapes)
    )
    assert_holds(params, config, expected)
    assert sum(read) == sum(t.nbytes for t in expected.values())
    wanted = sharding.param_shardings(mesh, params)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == wanted


def _remove(stored):
    del stored["transformer.h.1.mlp.c_fc.bias"]


def _add(stored):
    stored["transformer.h.1.mlp.gate.weight"] = torch.zeros(3)


def _add_layer(stored):
    stored["transformer.h.3.attn.bias"] = torch.ones(1, 1, 8, 8)


def _add_twice(stored):
    stored["wpe.weight"] = stored["transformer.wpe.weight"].clone()


def _reshape(stored):
    stored["transformer.h.2.ln_2.bias"] = torch.zeros(15)


def _transpose(stored):
    name = "transformer.h.2.mlp.c_fc.weight"
    stored[name] = stored[name].T.contiguous()


def _make_integers(stored):
    stored["transformer.ln_f.weight"] = torch.ones(16, dtype=torch.int64)


def _make_double(stored):
    stored["transformer.ln_f.weight"] = torch.ones(16, dtype=torch.float64)


def _mix(stored):
    stored["transformer.h.1.ln_1.bias"] = torch.ones(16, dtype=torch.float16)


def _untie(stored):
    stored["lm_head.weight"] = torch.zeros(32, 16)


@pytest.mark.parametrize("kind", [0, 2])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove, ["h.1.mlp.c_fc.bias", "missing"]),
        (_add, ["h.1.mlp.gate.weight", "no tensor of"]),
        (_add_layer, ["h.3.attn.bias", "no tensor of"]),
        (_add_twice, ["wpe.weight", "twice"]),
        (_reshape, ["h.2.ln_2.bias", "(15,)", "(16,)"]),
        (_transpose, ["h.2.mlp.c_fc.weight", "(64, 16)", "(16, 64)"]),
        (_make_integers, ["ln_f.weight", "int64"]),
        (_make_double, ["ln_f.weight", "float64"]),
        (_mix, ["h.1.ln_1.bias", "float16", "float32"]),
        (_untie, ["lm_head.weight", "tie_word_embeddings"]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    checkpoints, tmp_path, kind, damage, words
):
    """A key passed over in silence is a model that is not the one on disk."""
    oracle = checkpoints.make_model()
    stored = checkpoints.tensors_of(oracle)
    damage(stored)
    checkpoints.write(tmp_path, oracle.config, stored, checkpoints.formats[kind])
    with pytest.raises(errors.UserError) as raised:
        convert.load(tmp_path)
    message = str(raised.value)
    assert all(word in message for word in (*words, str(tmp_path))), message
    assert "\n" not in message


def test_layers_of_two_dtypes_can_be_cast_to_one(checkpoints, tmp_path):
    """The error above says so."""
    oracle = checkpoints.make_model()
    stored = checkpoints.tensors_of(oracle)
    _mix(stored)
    checkpoints.write(tmp_path, oracle.config, stored, "safetensors")
    _, params = convert.load(tmp_path, dtype=jnp.float32)
    assert np.asarray(params["blocks"]["ln_1"]["bias"][1]).tolist() == [1.0] * 16


def test_a_missing_head_says_what_to_do(checkpoints, tmp_path):
    """transformers would make up a random one and only warn."""
    oracle = checkpoints.make_model(tie_word_embeddings=False)
    stored = checkpoints.tensors_of(oracle)
    del stored["lm_head.weight"]
    checkpoints.write(tmp_path, oracle.config, stored, "safetensors")
    with pytest.raises(errors.UserError, match="needs tie_word_embeddings: true"):
        convert.load(tmp_path)


def test_a_number_too_large_for_the_dtype_is_refused(checkpoints, tmp_path):
    """It would become infinite."""
    oracle = checkpoints.make_model()
    stored = checkpoints.tensors_of(oracle)
    stored["transformer.h.1.ln_1.bias"][3] = 1e6
    checkpoints.write(tmp_path, oracle.config, stored, "safetensors")
    with pytest.raises(errors.UserError, match=r"h\.1\.ln_1\.bias .* too large"):
        convert.load(tmp_path, dtype=jnp.float16)


@pytest.mark.parametrize("kind", range(5))
def test_a_truncated_file_is_named(checkpoints, tmp_path, kind):
    """Downloads break off; at any byte."""
    oracle = checkpoints.make_model()
    stored = checkpoints.tensors_of(oracle)
    checkpoints.write(tmp_path, oracle.config, stored, checkpoints.formats[kind])
    (path, *_) = sorted([*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.bin")])
    whole = path.read_bytes()
    for size in (0, 1, 7, 100, len(whole) // 4, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(errors.UserError) as raised:
            convert.load(tmp_path)
        assert path.name in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [1, 3])
def test_shards_and_index_must_agree(checkpoints, tmp_path, kind):
    """Folders are copied by hand and lose a file, or keep one of another model."""
    oracle = checkpoints.make_model()
    stored = checkpoints.tensors_of(oracle)
    checkpoints.write(tmp_path, oracle.config, stored, checkpoints.formats[kind])
    (index,) = tmp_path.glob("*.index.json")
    values = json.loads(index.read_text())
    shards = sorted(set(values["weight_map"].values()))

    def expect(weight_map, words):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(errors.UserError, match=words):
            convert.load(tmp_path)

    name = "transformer.ln_f.weight"
    good = values["weight_map"]
    others = [shard for shard in shards if shard != good[name]]
    expect({**good, name: others[0]}, name)
    expect({k: v for k, v in good.items() if k != name}, name)
    expect({**good, "transformer.extra": shards[0]}, "transformer.extra is not in")
    expect({**good, name: "../elsewhere"}, "no weight_map of names to file names")
    expect([], "no weight_map")
    (tmp_path / shards[1]).unlink()
    expect(good, f"names the shard {shards[1]}, which is missing")


def test_a_broken_safetensors_header_is_named(checkpoints, tmp_path):
    """Each field of it is read from the file and may be anything."""
    oracle = checkpoints.make_model()
    stored = checkpoints.tensors_of(oracle)
    checkpoints.write(tmp_path, oracle.config, stored, "safetensors")
    path = tmp_path / "model.safetensors"
    entry = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    one = f'{{"a":{entry}}}'
    for header in (
        "[]",
        "{",
        '{"a":3}',
        '{"a":{"dtype":"F32"}}',
        f'{{"a":{entry},"a":{entry}}}',
        one.replace("F32", "Q4"),
        one.replace("[2]", "[3]"),
        one.replace("[2]", '"2"'),
        one.replace("[0,8]", "[-8,0]"),
        one.replace("[0,8]", "[8,16]"),
    ):
        size = len(header).to_bytes(8, "little")
        path.write_bytes(size + header.encode() + bytes(8))
        with pytest.raises(errors.UserError, match=r"model\.safetensors"):
            convert.load(tmp_path)


def test_a_git_lfs_pointer_is_told_as_such(checkpoints, tmp_path):
    """What a clone without git-lfs leaves in the place of weights."""
    oracle = checkpoints.make_model()
    checkpoints.write(tmp_path, oracle.config, {}, "safetensors")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(errors.UserError, match="Git LFS pointer"):
        convert.load(tmp_path)


def test_a_folder_without_weights_says_what_was_looked_for(checkpoints, tmp_path):
    """A folder with TensorFlow's weights alone, say."""
    checkpoints.make_model().config.save_pretrained(tmp_path)
    with pytest.raises(errors.UserError, match=r"model\.safetensors, .*pytorch_model"):
        convert.load(tmp_path)


def test_neither_torch_nor_transformers_is_needed(checkpoints, tmp_path):
    """They take seconds to import, and a TPU machine need not have them."""
    oracle = checkpoints.make_model()
    stored = checkpoints.tensors_of(oracle)
    checkpoints.write(tmp_path / "source", oracle.config, stored, "bin")
    script = (
        "import sys; from gptjax import convert; s, t = sys.argv[1:]; "
        "convert.save(t, *convert.load(s), like=s); "
        "print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, tmp_path / "source", tmp_path / "target"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n", result.stderr
    written = safetensors.torch.load_file(tmp_path / "target" / "model.safetensors")
    assert written.keys() == stored.keys()
