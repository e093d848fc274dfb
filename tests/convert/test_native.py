"""The gptjax folder."""

import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import convert, errors, model, sharding


@pytest.fixture
def folder(checkpoints, tmp_path):
    checkpoints.make_model().save_pretrained(tmp_path / "source")
    config, params = convert.load(tmp_path / "source")
    convert.save_native(tmp_path / "n", config, params, like=tmp_path / "source")
    return tmp_path / "n"


def test_a_folder_of_one_mesh_loads_on_another(folder, tmp_path):
    """Checkpoints outlive the slice that they were written on."""
    config, whole = convert.load(folder)

    def on(**axes):
        mesh = sharding.make_mesh(**axes)
        return lambda shapes: sharding.param_shardings(mesh, shapes)

    _, params = convert.load(folder, shardings=on(fsdp=2, tensor=2))
    convert.save_native(tmp_path / "sharded", config, params)
    shardings = on(data=1, fsdp=4, tensor=2)
    _, params = convert.load(tmp_path / "sharded", shardings=shardings)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == shardings(params)
    jax.tree.map(np.testing.assert_array_equal, params, whole)


def test_a_cast_on_loading(folder):
    """As from a Hugging Face folder."""
    _, params = convert.load(folder, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_leaves_that_do_not_fit_the_config_are_refused(folder):
    """orbax would pad or cut an array of another shape without a word."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "n_positions": 9}))
    with pytest.raises(
        errors.UserError, match=r"embed/positions/embedding .*\(9, 16\)"
    ):
        convert.load(folder)
    path.write_text(json.dumps({**values, "tie_word_embeddings": False}))
    with pytest.raises(errors.UserError, match="head/embedding is missing"):
        convert.load(folder)


# orbax leaves reads that it did not come to.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pattern", ["_METADATA", "manifest.ocdbt", "d/*", "*/d/*"])
@pytest.mark.parametrize("is_removed", [True, False])
def test_a_broken_folder_is_one_line(folder, pattern, is_removed):
    """Copies lose files or break off."""
    for path in (folder / "params").glob(pattern):
        if is_removed:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-10])
    try:
        _, params = convert.load(folder)
    except errors.UserError as error:
        message = str(error)
        gc.collect()
    else:
        # Not every file is needed for reading; but what is read is right.
        _, whole = convert.load(folder.parent / "source")
        jax.tree.map(np.testing.assert_array_equal, params, whole)
        return
    assert str(folder) in message
    assert "\n" not in message


def test_a_fresh_model_needs_no_source(tmp_path):
    """`like` is for what a checkpoint brought along."""
    config = model.Config(n_layer=1, n_embd=4, n_head=2, vocab_size=5, n_positions=3)
    params = model.init(jax.random.key(0), config)
    convert.save_native(tmp_path / "fresh", config, params)
    assert convert.read_config(tmp_path / "fresh") == config
