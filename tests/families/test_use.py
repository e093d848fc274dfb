"""What is done with a model, of every family: writing, pruning, cutting, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stock
import torch

from gptjax import convert, generation, model, sharding, tree
from gptjax.pruning.structured import surgery


@pytest.fixture(params=stock.FAMILIES)
def family(request):
    return request.param


def _loaded(family, folder, seed=0, **changes):
    """A random model: transformers' own, and ours read from its folder."""
    theirs = stock.make(family, seed, **changes)
    theirs.save_pretrained(folder)
    return theirs, *convert.load(folder)


@pytest.mark.parametrize(
    "given",
    [
        {"prefill_chunk_size": 3},
        pytest.param(
            {"num_beams": 3, "num_return_sequences": 2}, marks=pytest.mark.slow
        ),
        {"repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_tokens_are_hugging_faces(family, given, tmp_path):
    """Rotated keys, windows and shared heads, as the cache has them."""
    theirs, config, params = _loaded(family, tmp_path, seed=3)
    prompts = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5]]
    asked = {"max_new_tokens": 12, "eos_token_id": 7, **given}
    made = generation.Engine(config, params).generate(
        prompts, generation.Options.make(asked)
    )
    asked.pop("prefill_chunk_size", None)
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        rows = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **asked
        )
        for row in rows[:, len(prompt) :].tolist():
            expected.append(row[: row.index(7) + 1] if 7 in row else row)
    assert made.tokens == expected


def test_a_mesh_changes_no_logit(family, tmp_path):
    """Each leaf has a rule of its sharding, and heads divide by those of keys."""
    _, config, params = _loaded(
        family, tmp_path, **stock.regular(family), vocab_size=40
    )
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    placed = jax.device_put(params, sharding.param_shardings(mesh, params))
    tokens = np.random.default_rng(0).integers(40, size=(4, 20))
    apply = jax.jit(model.apply, static_argnums=0, static_argnames="compute")
    np.testing.assert_allclose(
        apply(config, placed, tokens, compute=model.Compute(mesh=mesh)),
        apply(config, params, tokens),
        rtol=1e-4,
        atol=1e-4,
    )


def _kept(config, what):
    """What stays of three layers: one half, of layers the first and the last."""
    if what == "layers":
        return np.array([0, 2])
    there = {"neurons": config.mlp_width, "heads": config.kv_heads}[what]
    rng = np.random.default_rng(0)
    return np.stack(
        [np.sort(rng.choice(there, there // 2, replace=False)) for _ in range(3)]
    )


def _without(config, params, what, keep):
    """Params where what does not stay has no effect, or is left out by hand."""
    flat = tree.flatten(params)
    for path in ("blocks/attn/out", "blocks/mlp/down"):
        if what == "layers":
            for name in ("kernel", "bias"):
                if f"{path}/{name}" in flat:
                    flat[f"{path}/{name}"] = flat[f"{path}/{name}"].at[1].set(0)
        elif what == ("heads" if "attn" in path else "neurons"):
            shared = config.queries if what == "heads" else 1
            leaf = np.array(flat[f"{path}/kernel"])
            for layer, own in enumerate(keep):
                gone = np.setdiff1d(np.arange(leaf.shape[1] // shared), own)
                leaf[layer, (gone[:, None] * shared + np.arange(shared)).ravel()] = 0
            flat[f"{path}/kernel"] = jnp.asarray(leaf)
    return tree.unflatten(flat)


@pytest.mark.parametrize("what", ["neurons", "heads", "layers"])
def test_what_is_cut_is_what_was_without_effect(family, what, tmp_path):
    """And stock transformers computes what is left, zeros filled in where it must."""
    _, config, params = _loaded(family, tmp_path / "model", **stock.regular(family))
    if what == "heads" and isinstance(config.positions, model.Alibi):
        pytest.skip("refused: a head's slope is its number's")
    keep = _kept(config, what)
    params = _without(config, params, what, keep)
    tokens = np.random.default_rng(1).integers(config.vocab_size, size=(2, 20))
    small, cut, _ = surgery.cut(config, params, None, {what: keep})
    got = model.apply(small, cut, tokens)
    # A layer that normalizes what it adds to is not without effect.
    if what != "layers" or not (config.norm_after or config.residual_of_norm):
        wanted = model.apply(config, params, tokens)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    convert.save(tmp_path / "cut", small, cut, like=tmp_path / "model")
    theirs = stock.FAMILIES[family][1].from_pretrained(
        tmp_path / "cut", attn_implementation="eager"
    )
    with torch.no_grad():
        there = theirs.eval()(torch.tensor(tokens)).logits
    np.testing.assert_allclose(got, there, rtol=1e-4, atol=1e-4)


def test_a_gptjax_folder_holds_what_stock_models_cannot(family, tmp_path):
    """Fewer heads and neurons than a family's config.json can say."""
    _, config, params = _loaded(family, tmp_path / "model", **stock.regular(family))
    for what in ("heads", "neurons"):
        config, params, _ = surgery.cut(
            config, params, None, {what: _kept(config, what)}
        )
    convert.save_native(tmp_path / "own", config, params, like=tmp_path / "model")
    again, read = convert.load(tmp_path / "own")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, read, params)
