"""What is written: the bytes, the folder, and what stock transformers makes of it."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import transformers

from gptjax import convert, errors, sharding
from gptjax.convert import exporting


def same_tensors(folder, expected):
    """The safetensors files of `folder` hold exactly the torch tensors `expected`."""
    found = {}
    for path in pathlib.Path(folder).glob("*.safetensors"):
        part = safetensors.torch.load_file(path)
        assert not part.keys() & found.keys()
        found |= part
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        bits = tensor.view(torch.uint8)
        assert torch.equal(found[name].view(torch.uint8), bits), name


def on_a_mesh(shapes):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    return sharding.param_shardings(mesh, shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shardings", [None, on_a_mesh])
@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": False, "n_inner": 6}])
def test_import_and_export_change_no_byte(
    checkpoints, tmp_path, dtype, shardings, fields
):
    """Through both kinds of folder, NaNs and negative zeros among the weights."""
    oracle = checkpoints.make_model(dtype=dtype, **fields)
    expected = checkpoints.tensors_of(oracle)
    expected["transformer.h.1.ln_1.bias"][:3] = torch.tensor([-0.0, torch.nan, 1e-42])
    checkpoints.write(tmp_path / "source", oracle.config, expected, "safetensors")
    config, params = convert.load(tmp_path / "source", shardings=shardings)
    convert.save(tmp_path / "one", config, params)
    same_tensors(tmp_path / "one", expected)
    convert.save_native(tmp_path / "native", config, params)
    again, params = convert.load(tmp_path / "native", shardings=shardings)
    assert again == config
    convert.save(tmp_path / "two", config, params, max_shard_bytes=3000)
    same_tensors(tmp_path / "two", expected)


def test_the_packaged_checkpoint_comes_back_byte_for_byte(tmp_path):
    """Stock PyTorch wrote it, and its leaves are larger than what orbax is given for
    small ones."""
    source = convert.resolve("packaged")
    expected = safetensors.torch.load_file(source / "model.safetensors")
    convert.save_native(tmp_path / "native", *convert.load(source), like=source)
    native = convert.load(tmp_path / "native")
    convert.save(tmp_path / "target", *native, like=tmp_path / "native")
    same_tensors(tmp_path / "target", expected)


def test_dtypes_may_differ_from_leaf_to_leaf(checkpoints, tmp_path):
    """Some checkpoints keep norms in float32 beside half-precision matrices."""
    oracle = checkpoints.make_model(dtype=torch.float16)
    stored = checkpoints.tensors_of(oracle)
    for name in [name for name in stored if ".ln_" in name]:
        stored[name] = stored[name].float()
    checkpoints.write(tmp_path / "source", oracle.config, stored, "safetensors")
    convert.save(tmp_path / "target", *convert.load(tmp_path / "source"))
    same_tensors(tmp_path / "target", stored)
    # transformers casts all weights to this one: it must lose nothing.
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 3000])
@pytest.mark.parametrize("is_tied", [True, False])
def test_stock_transformers_loads_it_and_computes_the_same(
    checkpoints, tmp_path, max_shard_bytes, is_tied
):
    """With nothing missing, left over or made up."""
    oracle = checkpoints.make_model(tie_word_embeddings=is_tied, pad_token_id=3)
    oracle.save_pretrained(tmp_path / "source")
    config, params = convert.load(tmp_path / "source")
    convert.save(
        tmp_path / "target",
        config,
        params,
        like=tmp_path / "source",
        max_shard_bytes=max_shard_bytes,
    )
    loaded, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "target", output_loading_info=True
    )
    assert not any(info.values()), info
    tokens = torch.arange(16).reshape(2, 8)
    assert torch.equal(loaded.eval()(tokens).logits, oracle(tokens).logits)
    assert loaded.config.to_dict() == oracle.config.to_dict() | {
        "_name_or_path": str(tmp_path / "target")
    }
    assert loaded.generation_config.pad_token_id == 3


def test_shards_are_those_that_transformers_writes(checkpoints, tmp_path):
    """Names, sizes and index: other tools go by them."""
    oracle = checkpoints.make_model()
    oracle.save_pretrained(tmp_path / "source", max_shard_size=3000)
    config, params = convert.load(tmp_path / "source")
    convert.save(tmp_path / "target", config, params, max_shard_bytes=3000)
    index = "model.safetensors.index.json"
    ours = json.loads((tmp_path / "target" / index).read_text())
    theirs = json.loads((tmp_path / "source" / index).read_text())
    assert ours == theirs
    for path in (tmp_path / "target").glob("*.safetensors"):
        theirs = tmp_path / "source" / path.name
        with safetensors.safe_open(theirs, "np") as file:
            metadata = file.metadata()
        with safetensors.safe_open(path, "np") as file:
            assert file.metadata() == metadata == {"format": "pt"}


@pytest.mark.parametrize("is_old", [False, True])
def test_the_tokenizer_comes_along(tmp_path, is_old):
    """Old folders have only vocab.json and merges.txt; transformers 5 can make an
    empty tokenizer of them without a word."""
    packaged = convert.resolve("packaged")
    source = tmp_path / "source"
    shutil.copytree(packaged, source)
    wanted = transformers.AutoTokenizer.from_pretrained(packaged)
    if is_old:
        for path in source.glob("tokenizer*"):
            path.unlink()
        wanted.backend_tokenizer.model.save(str(source))
    config, params = convert.load(source)
    convert.save(tmp_path / "target", config, params, like=source)
    text = "It is a truth universally acknowledged,\nthat  naïve 3rd <|endoftext|>"
    got = transformers.AutoTokenizer.from_pretrained(tmp_path / "target")
    assert got(text).input_ids == wanted(text).input_ids
    assert len(got) == config.vocab_size
    assert got.eos_token_id == wanted.eos_token_id


def test_what_the_config_says_beyond_the_architecture_is_kept(checkpoints, tmp_path):
    """Token ids and labels come along; a twin of an old n_positions does not."""
    oracle = checkpoints.make_model()
    config, params = load_of(checkpoints, oracle, tmp_path)
    path = tmp_path / "source" / "config.json"
    values = json.loads(path.read_text())
    values |= {"n_ctx": 8, "eos_token_id": 7, "task_specific_params": {"a": 1}}
    values["torch_dtype"] = values.pop("dtype")
    path.write_text(json.dumps(values))
    convert.save(tmp_path / "target", config, params, like=tmp_path / "source")
    written = json.loads((tmp_path / "target" / "config.json").read_text())
    assert (written["eos_token_id"], written["dtype"]) == (7, "float32")
    assert written["task_specific_params"] == {"a": 1}
    assert not {"n_ctx", "torch_dtype"} & written.keys()


def load_of(checkpoints, oracle, tmp_path):
    oracle.save_pretrained(tmp_path / "source")
    return convert.load(tmp_path / "source")


def contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


@pytest.mark.parametrize("save", [convert.save, convert.save_native])
def test_a_failed_write_leaves_the_old_folder_whole(
    checkpoints, tmp_path, monkeypatch, save
):
    """A full disk in the middle of an export must not cost the export before it."""
    config, params = load_of(checkpoints, checkpoints.make_model(), tmp_path)
    target = tmp_path / "target"
    convert.save(target, config, params)
    before = contents(target)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting.folders, "write_sidecars", full)
    with pytest.raises(errors.UserError, match="target: cannot be written: No space"):
        save(target, config, jax.tree.map(lambda leaf: leaf + 1, params))
    assert contents(target) == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


@pytest.mark.parametrize("save", [convert.save, convert.save_native])
def test_a_model_written_before_is_replaced(checkpoints, tmp_path, save):
    """Shards of the old one must not stay beside the new one's single file."""
    config, params = load_of(checkpoints, checkpoints.make_model(), tmp_path)
    target = tmp_path / "target"
    convert.save(target, config, params, max_shard_bytes=3000)
    # What a killed process leaves is in nobody's way.
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "model.safetensors").touch()
    save(target, config, jax.tree.map(lambda leaf: leaf + 1, params))
    _, written = convert.load(target)
    assert not list(target.glob("model-*"))
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}
    old, new = params["ln_f"]["bias"], written["ln_f"]["bias"]
    np.testing.assert_array_equal(new, old + 1)


@pytest.mark.parametrize("save", [convert.save, convert.save_native])
def test_nothing_else_is_ever_replaced(checkpoints, tmp_path, save):
    """`gptjax convert SRC .` must not empty somebody's home."""
    config, params = load_of(checkpoints, checkpoints.make_model(), tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.txt").write_text("years")
    with pytest.raises(errors.UserError, match=r"holds thesis\.txt, which would be"):
        save(target, config, params)
    assert contents(target) == {"thesis.txt": b"years"}
    with pytest.raises(errors.UserError, match="is a file"):
        save(target / "thesis.txt", config, params)
    with pytest.raises(errors.UserError, match="is the source too"):
        save(tmp_path / "source", config, params, like=tmp_path / "source")
    with pytest.raises(errors.UserError, match=r"no config\.json to go by"):
        save(tmp_path / "new", config, params, like=target)


def test_params_of_another_model_are_refused(checkpoints, tmp_path):
    """They would be written under the names of this one."""
    config, params = load_of(checkpoints, checkpoints.make_model(), tmp_path)
    params["blocks"]["ln_1"].pop("bias")
    with pytest.raises(ValueError, match="blocks/ln_1/bias"):
        convert.save(tmp_path / "target", config, params)
    assert not (tmp_path / "target").exists()
