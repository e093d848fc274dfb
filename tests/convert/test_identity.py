"""What tells one model from another: its weights, not its folder."""

import dataclasses
import shutil

import jax
import pytest

from gptjax import convert, model

SHAPE = model.Config(n_layer=2, n_embd=8, n_head=2, vocab_size=40, n_positions=16)


@pytest.mark.parametrize("how", ["one file", "shards", "native"])
def test_a_digest_is_of_weights_and_architecture(tmp_path, how):
    """A weight of the last shard, a number of heads; not a name, not a tokenizer."""

    def saved(name, config, params):
        folder = tmp_path / name
        if how == "native":
            convert.save_native(folder, config, params)
        else:
            most = 5_000_000_000 if how == "one file" else 2_000
            convert.save(folder, config, params, max_shard_bytes=most)
        return folder

    params = model.init(jax.random.key(0), SHAPE)
    first = saved("a", SHAPE, params)
    shutil.copytree(first, tmp_path / "b")
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    assert convert.digest(first) == convert.digest(tmp_path / "b")
    changed = {**params, "ln_f": jax.tree.map(lambda x: x + 1, params["ln_f"])}
    more_heads = dataclasses.replace(SHAPE, n_head=4)
    others = [saved("c", SHAPE, changed), saved("d", more_heads, _as(params, 4))]
    digests = {convert.digest(folder) for folder in (first, *others)}
    assert len(digests) == 3


def _as(params, heads):
    """The same numbers for another number of heads."""
    attn = params["blocks"]["attn"]
    shapes = model.shapes(dataclasses.replace(SHAPE, n_head=heads))["blocks"]["attn"]
    attn = jax.tree.map(lambda x, like: x.reshape(like.shape), attn, shapes)
    return {**params, "blocks": {**params["blocks"], "attn": attn}}
