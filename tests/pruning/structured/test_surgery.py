"""What is cut out: stock transformers is the judge of what is left."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, masks, model, sharding, tree
from gptjax.pruning.structured import choosing, surgery

CONFIG = model.Config(
    vocab_size=40, n_positions=12, n_embd=12, n_layer=4, n_head=4, n_inner=10
)
RULES = ((r"blocks/(attn|mlp)/\w+/kernel", True), (r".*", False))
# One of each kind, other indices in every layer where a layer has its own.
KEPT = {
    "layers": np.array([0, 3]),
    "neurons": np.array([[0, 2, 9], [1, 2, 3], [7, 8, 9], [0, 5, 6]]),
    "heads": np.array([[0, 2], [1, 3], [2, 3], [0, 1]]),
    "width": np.array([0, 1, 2, 4, 7, 11]),
}
CUTS = {what: getattr(surgery, what) for what in KEPT}


def noisy_params(config, seed=0):
    """Biases and norms not at their trivial first values either."""
    params = model.init(jax.random.key(seed), config)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [
        leaf + 0.2 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(treedef, noisy)


def random_masks(params, seed=5):
    shapes = masks.shapes(params, RULES)
    keys = iter(jax.random.split(jax.random.key(seed), 99))
    return jax.tree.map(
        lambda mask: (
            jax.random.bernoulli(next(keys), 0.5, mask.shape) if mask.ndim else np.True_
        ),
        shapes,
    )


def logits_of(config, params, tokens):
    return np.asarray(jax.jit(model.apply, static_argnums=0)(config, params, tokens))


def assert_same(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 40, (3, 12))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("what", [*KEPT, "width and heads"])
def test_what_is_left_loads_in_stock_transformers(what, tied, tokens, tmp_path):
    """A leaf cut along the wrong axis may still have a shape that loads."""
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied)
    kept = (
        {what: KEPT[what]}
        if what in KEPT
        else {"heads": KEPT["heads"], "width": KEPT["width"]}
    )
    new, params, _ = surgery.cut(config, noisy_params(config), None, kept)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        lambda leaf: leaf.shape, model.shapes(new)
    )
    if what == "width":
        # Four heads of width 3 at six channels are no shape that stock knows.
        with pytest.raises(errors.UserError, match="cannot be made up"):
            convert.save(tmp_path / "hf", new, params)
        return
    convert.save(tmp_path / "hf", new, params)
    hf = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        wanted = hf(torch.tensor(tokens)).logits.numpy()
    assert_same(logits_of(new, params, tokens), wanted)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    padding = 0
    if what == "heads":
        assert convert.is_padded(new)
        # q, k, v and output, and the biases of the first three.
        padding = config.n_layer * 2 * config.head_width * (4 * config.n_embd + 3)
    assert sum(p.numel() for p in hf.parameters()) == count + padding


@pytest.mark.parametrize("what", KEPT)
def test_masks_are_cut_along(what):
    """A mask that lags behind would freeze other weights than were pruned."""
    params = noisy_params(CONFIG)
    weight_masks = random_masks(params)
    # Weights that say for themselves whether their mask keeps them.
    marked = jax.tree.map(
        lambda mask, leaf: jnp.where(mask, 1.0, 0.0) if mask.ndim else leaf,
        weight_masks,
        params,
    )
    _, cut, cut_masks = CUTS[what](CONFIG, marked, weight_masks, KEPT[what])
    for path, mask in tree.flatten(cut_masks).items():
        if masks.is_prunable(mask):
            assert mask.dtype == bool
            np.testing.assert_array_equal(tree.flatten(cut)[path] == 1, mask, path)
        else:
            assert mask is np.True_


def test_dropping_layers_is_running_the_others(tokens):
    """Against the blocks one by one, which know nothing of the cut."""
    params = noisy_params(CONFIG)
    new, cut, _ = surgery.layers(CONFIG, params, None, [1, 2])
    assert_same(
        logits_of(new, cut, tokens), _run_blocks(CONFIG, params, [1, 2], tokens)
    )


@pytest.mark.parametrize("upcast", [True, False])
def test_layers_keep_the_attention_scale_of_their_old_number(upcast, tokens):
    """The scale hangs on the number, which changes when a layer before it goes."""
    config = dataclasses.replace(
        CONFIG, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=upcast
    )
    params = jax.tree.map(lambda x: 2 * x, noisy_params(config))
    new, cut, _ = surgery.layers(config, params, None, [1, 3])
    wanted = _run_blocks(config, params, [1, 3], tokens)
    assert_same(logits_of(new, cut, tokens), wanted)
    # The scale must matter, or the test shows nothing.
    naive = jax.tree.map(lambda x: x[jnp.array([1, 3])], params["blocks"])
    difference = logits_of(new, {**params, "blocks": naive}, tokens) - wanted
    assert np.abs(difference).max() > 1e-2 * np.abs(wanted).max()


def _run_blocks(config, params, layers, tokens):
    x_BTD = model.embed(config, params, tokens, compute=model.Compute())
    for layer in layers:
        block = jax.tree.map(lambda leaf, n=layer: leaf[n], params["blocks"])
        x_BTD, _ = model.apply_block(
            config, block, x_BTD, layer=layer, compute=model.Compute()
        )
    return np.asarray(model.logits(config, params, x_BTD, compute=model.Compute()))


@pytest.mark.parametrize(
    ("what", "leaf"), [("neurons", "mlp/down"), ("heads", "attn/out")]
)
def test_a_dead_part_is_not_missed(what, leaf, tokens):
    """Indices off by one would take a living part instead of the dead one."""
    params = noisy_params(CONFIG)
    size = {"neurons": 10, "heads": 4}[what]
    dead_L = np.array([0, 2, 3, 1])
    flat = tree.flatten(params)
    kernel = np.array(flat[f"blocks/{leaf}/kernel"])
    for layer, dead in enumerate(dead_L):
        kernel[layer, dead] = 0
    params = tree.unflatten({**flat, f"blocks/{leaf}/kernel": jnp.asarray(kernel)})
    keep = np.array([np.delete(np.arange(size), dead) for dead in dead_L])
    new, cut, _ = CUTS[what](CONFIG, params, None, keep)
    assert_same(logits_of(new, cut, tokens), logits_of(CONFIG, params, tokens))


@pytest.mark.parametrize("what", KEPT)
def test_a_cut_on_a_mesh_is_the_cut_off_it(what):
    """Sharded axes are cut too; what comes out must lie by the rules again."""
    config = dataclasses.replace(CONFIG, vocab_size=16, n_positions=8)
    params = noisy_params(config)
    kept = KEPT[what]
    if what == "neurons":
        kept = np.tile(np.array([0, 2, 6, 9]), (4, 1))
    new, wanted, wanted_masks = CUTS[what](config, params, random_masks(params), kept)
    mesh = (
        sharding.make_mesh(data=2, fsdp=2, tensor=2)
        if what != "width"
        else (sharding.make_mesh(data=4, fsdp=2))
    )
    places = sharding.param_shardings(mesh, params)
    on_mesh = jax.device_put(params, places)
    masks_on_mesh = jax.tree.map(
        lambda mask, place: jax.device_put(mask, place) if mask.ndim else mask,
        random_masks(params),
        places,
    )
    again, got, got_masks = CUTS[what](config, on_mesh, masks_on_mesh, kept)
    assert again == new
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    jax.tree.map(np.testing.assert_array_equal, got_masks, wanted_masks)
    assert jax.tree.map(lambda leaf: leaf.sharding, got) == sharding.param_shardings(
        mesh, got
    )


def test_a_cut_that_the_mesh_does_not_divide_names_the_leaf():
    """XLA's own error speaks of tiles."""
    params = noisy_params(CONFIG)
    mesh = sharding.make_mesh(data=4, fsdp=1, tensor=2)
    on_mesh = jax.device_put(params, sharding.param_shardings(mesh, params))
    with pytest.raises(errors.UserError, match=r"blocks/mlp/\w+/\w+ .* of 3 does not"):
        surgery.neurons(CONFIG, on_mesh, None, KEPT["neurons"])


@pytest.mark.parametrize(
    ("what", "fraction"),
    [("layers", 1 / 6), ("layers", 1 / 2), ("neurons", 1 / 4), ("neurons", 1 / 2)],
)
def test_a_trained_model_survives_its_cut_in_stock_transformers(
    what, fraction, tmp_path
):
    """Trained weights spread over magnitudes that random ones do not show."""
    source = convert.resolve("packaged")
    config, params = convert.load(source, dtype=jnp.float32)
    scores = np.random.default_rng(0).random(
        (6,) if what == "layers" else (6, config.mlp_width)
    )
    drop = round(fraction * scores.shape[-1])
    keep = choosing.highest(scores, drop=drop)
    new, params, _ = CUTS[what](config, params, None, keep)
    convert.save(tmp_path / "hf", new, params, like=source)
    hf = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 64))
    with torch.no_grad():
        wanted = hf(torch.tensor(tokens)).logits.numpy()
    assert_same(logits_of(new, params, tokens), wanted)
    a_layer = 12 * 192**2 + 13 * 192
    a_neuron = 2 * 192 + 1
    gone = {"layers": a_layer * drop, "neurons": 6 * a_neuron * drop}[what]
    assert sum(p.numel() for p in hf.parameters()) == 3_111_936 - gone


def test_a_classifier_is_cut_along():
    """It reads the residual stream, as the output layer does."""
    labels = model.Classifier(name="mood", labels=("a", "b", "c"), pad_token_id=0)
    config = dataclasses.replace(CONFIG, classifiers=(labels,))
    params = noisy_params(config)
    for what, keep in KEPT.items():
        new, cut, _ = CUTS[what](config, params, None, keep)
        wanted = jax.tree.map(lambda leaf: leaf.shape, model.shapes(new))
        assert jax.tree.map(lambda leaf: leaf.shape, cut) == wanted
        assert new.classifiers == (labels,)
    weight = params["classifiers"]["mood"]["weight"]
    np.testing.assert_array_equal(
        cut["classifiers"]["mood"]["weight"], np.asarray(weight)[:, KEPT["width"]]
    )
