"""Kernels on a grid in files; the library `compressed-tensors` is the oracle."""

import dataclasses
import json

import compressed_tensors.compressors as library
import compressed_tensors.quantization as schemes
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from gptjax import convert, errors, grids, model, quantizing, tree
from gptjax.convert import compressed, names

GRIDS = [grids.Grid(bits=8), grids.Grid(bits=4), grids.Grid(bits=4, group=8)]
DYNAMIC = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
}
GPT2 = model.Config(vocab_size=40, n_positions=24, n_embd=16, n_head=4, n_layer=2)


def on_grid(config, grid):
    """Params whose kernels, half of them 0, lie on the grid."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.where(rng.random(leaf.shape) < 0.5, leaf, 0),
        model.init(jax.random.key(0), config),
    )
    params, scales = quantizing.to_the_nearest(params, grid)
    return params, grids.OnGrid(grid, scales)


def scheme_of(folder):
    """What the library makes of a config.json."""
    values = json.loads((folder / "config.json").read_text())["quantization_config"]
    read = schemes.QuantizationConfig.model_validate(values)
    (scheme,) = read.config_groups.values()
    return scheme


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [1, 7, 8, 33, 64])
def test_words_are_the_librarys(bits, inputs):
    """Another order of bits, or of bytes, and every weight is another."""
    most = 2 ** (bits - 1)
    rng = np.random.default_rng(inputs)
    codes = rng.integers(-most, most, (5, inputs)).astype(np.int8)
    words = compressed.pack(codes, bits)
    wanted = library.pack_to_int32(torch.tensor(codes), bits)
    np.testing.assert_array_equal(words, wanted.numpy())
    np.testing.assert_array_equal(compressed.unpack(words, bits, inputs), codes)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_library_reads_the_same_weights(grid, tmp_path):
    """Layer by layer, as it decompresses a checkpoint; a GPT-2's lie outputs first."""
    params, own = on_grid(GPT2, grid)
    convert.save(tmp_path / "made", GPT2, params, on_grid=own)
    stored = safetensors.numpy.load_file(tmp_path / "made" / "model.safetensors")
    scheme = scheme_of(tmp_path / "made")
    flat, seen = tree.flatten(params), 0
    for name, leaf, part, layer in names.in_hf_order(GPT2):
        if leaf.path not in own.scales:
            continue
        module = name.removesuffix("weight")
        parts = {
            what.removeprefix(module): torch.tensor(array)
            for what, array in stored.items()
            if what.startswith(f"{module}weight")
        }
        got = library.PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
        wanted = part.of_leaf(np.asarray(flat[leaf.path][layer])).T
        np.testing.assert_array_equal(got.numpy(), wanted)
        seen += 1
    assert seen == 8


def test_scales_of_other_dtypes_give_what_the_library_gives(tmp_path):
    """Checkpoints of others have bfloat16 scales, and the values are rounded to it."""
    params, own = on_grid(GPT2, grids.Grid(bits=4, group=8))
    convert.save(tmp_path / "made", GPT2, params, on_grid=own)
    file = tmp_path / "made" / "model.safetensors"
    stored = safetensors.numpy.load_file(file)
    scale = "transformer.h.1.mlp.c_proj.weight_scale"
    for name in [name for name in stored if name.endswith("weight_scale")]:
        stored[name] = stored[name].astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(stored, file)
    _, read = convert.load(tmp_path / "made", dtype=np.float32)
    module = scale.removesuffix("weight_scale")
    parts = {
        name.removeprefix(module): torch.tensor(array)
        for name, array in stored.items()
        if name.startswith(module) and name != scale
    }
    parts["weight_scale"] = torch.tensor(stored[scale].astype(np.float32)).bfloat16()
    wanted = library.PackedQuantizationCompressor.decompress(
        parts, scheme_of(tmp_path / "made")
    )["weight"]
    got = tree.flatten(read)["blocks/mlp/down/kernel"][1]
    np.testing.assert_array_equal(got, wanted.float().numpy().T)


def test_codes_that_are_multiplied_are_found_again_whatever_their_scales(tmp_path):
    """Values rounded to bfloat16 would lie on another grid than the checkpoint's."""
    params, own = on_grid(GPT2, GRIDS[0])
    config = dataclasses.replace(GPT2, activation_bits=8)
    convert.save(tmp_path / "made", config, params, on_grid=own)
    file = tmp_path / "made" / "model.safetensors"
    stored = safetensors.numpy.load_file(file)
    for name in [name for name in stored if name.endswith("weight_scale")]:
        stored[name] = stored[name].astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(stored, file)
    _, read = convert.load(tmp_path / "made", dtype=np.float32)
    kernel = tree.flatten(read)["blocks/mlp/down/kernel"][1]
    codes = grids.codes_of(kernel, grids.scales_of(kernel, GRIDS[0]), GRIDS[0])
    wanted = stored["transformer.h.1.mlp.c_proj.weight"]
    np.testing.assert_array_equal(codes, wanted.T)
    assert abs(wanted).max() == 127


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "gptq"}, "quant_method is 'gptq'; gptjax implements only"),
        ({"format": "int-quantized"}, "format is 'int-quantized'"),
        ({"config_groups": {}}, "config_groups is not one group"),
        ({"weights": {"symmetric": False}}, "symmetric is False"),
        ({"weights": {"num_bits": 3}}, "num_bits is 3; gptjax implements only 4 or 8"),
        ({"weights": {"strategy": "tensor"}}, "strategy is 'tensor'"),
        ({"weights": {"actorder": "group"}}, "actorder is 'group'"),
        ({"activations": {"num_bits": 4}}, "num_bits is 4; gptjax implements only 8"),
        ({"activations": {**DYNAMIC, "dynamic": False}}, "dynamic is False"),
        ({"activations": DYNAMIC}, "format is 'pack-quantized'"),
    ],
    ids=str,
)
def test_other_ways_to_quantize_are_named(changes, message, tmp_path):
    """A checkpoint is never read as one that it is not."""
    params, own = on_grid(GPT2, GRIDS[0])
    convert.save(tmp_path / "made", GPT2, params, on_grid=own)
    path = tmp_path / "made" / "config.json"
    values = json.loads(path.read_text())
    settings = values["quantization_config"]
    (group,) = settings["config_groups"].values()
    group["weights"] |= changes.pop("weights", {})
    if "activations" in changes:
        group["input_activations"] = changes.pop("activations")
    settings |= changes
    path.write_text(json.dumps(values))
    with pytest.raises(errors.UserError, match=f"config.json: .*{message}"):
        convert.load(tmp_path / "made")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weight_scale", None, r"h.1.mlp.c_fc.weight_scale is missing"),
        ("weight_scale", np.ones((64, 2), np.float32), r"scales \(64, 2\); of 64 x 16"),
        ("weight_packed", np.zeros((64, 3), np.int32), r"codes \(64, 3\)"),
        ("weight_shape", np.array([64, 24]), "of 64 x 24 weights"),
    ],
)
def test_parts_that_do_not_fit_are_named(name, change, message, tmp_path):
    """File and tensor, before anything is made of them."""
    params, own = on_grid(GPT2, GRIDS[0])
    convert.save(tmp_path / "made", GPT2, params, on_grid=own)
    file = tmp_path / "made" / "model.safetensors"
    stored = safetensors.numpy.load_file(file)
    key = f"transformer.h.1.mlp.c_fc.{name}"
    if change is None:
        del stored[key]
    else:
        stored[key] = change
    safetensors.numpy.save_file(stored, file)
    with pytest.raises(errors.UserError, match=f"model.safetensors: .*{message}"):
        convert.load(tmp_path / "made")
