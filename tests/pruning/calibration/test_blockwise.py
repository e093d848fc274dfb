"""Pruning block by block: on any mesh, after any interruption, with zeros that stay."""

import jax
import numpy as np
import pytest

from gptjax import config, errors, masks, model, sharding, tree
from gptjax.pruning import blockwise, calibration
from gptjax.pruning.calibration import one_block

HALF = {f"blocks/{name}": np.full(3, 0.5) for name in calibration.KERNELS}


@pytest.fixture
def prune(tiny, tiny_config, tokens_NT, one_device, dense_masks):
    """A function (**changes) that prunes the tiny model: params, masks, report."""

    def run(*, mesh=one_device, params=None, current=dense_masks, **changes):
        how = {
            "criterion": "sparsegpt",
            "sparsities": HALF,
            "batch_sequences": 4,
            "tokens_NT": tokens_NT,
            **changes,
        }
        params = tiny(mesh) if params is None else params
        return blockwise.prune(tiny_config, params, current, mesh=mesh, **how)

    return run


def as_numpy(params):
    """Slash path -> NumPy array."""
    return {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("sizes", [(8, 1, 1, 1), (2, 4, 1, 1)])
def test_every_mesh_gives_the_same_masks(criterion, sizes, prune):
    """Sums over devices that miss one, or count one twice."""
    mesh = sharding.make_mesh(**dict(zip(sharding.AXES, sizes, strict=True)))
    changes = {
        "criterion": criterion,
        "scope": "row" if criterion == "wanda" else "layer",
    }
    params, packed, _ = prune(**changes)
    other, other_packed, _ = prune(mesh=mesh, **changes)
    assert packed.checksum() == other_packed.checksum()
    for path, leaf in as_numpy(other).items():
        np.testing.assert_allclose(
            leaf, as_numpy(params)[path], rtol=0, atol=2e-3, err_msg=path
        )
    assert other["blocks"]["mlp"]["up"]["kernel"].sharding.mesh == mesh


def test_pruned_weights_are_zero_and_as_many_as_asked(prune, capsys):
    """The masks and the weights are told by different code."""
    params, packed, report = prune(progress=True)
    said = capsys.readouterr()
    assert said.err.startswith("calibration will take about ")
    assert not said.out
    for path, mask in tree.flatten(packed.tree(params)).items():
        leaf = as_numpy(params)[path]
        if masks.is_prunable(mask):
            mask = np.asarray(mask)
            np.testing.assert_array_equal(leaf != 0, mask)
            np.testing.assert_array_equal(
                mask.sum((*range(1, mask.ndim),)), mask[0].size / 2
            )
    assert [block["layer"] for block in report["blocks"]] == [0, 1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"criterion": "wanda", "scope": "row"},
        {"reconstruction": config.Reconstruction(epochs=2, learning_rate=1e-3)},
    ],
    ids=["wanda", "sparsegpt and reconstruction"],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    changes, prune, tmp_path, monkeypatch
):
    """What is kept of finished blocks has to be all that the later ones depend on."""
    whole, whole_masks, whole_report = prune(**changes)
    real, done = one_block.prune, []

    def stops_after_two(stack, layer, **rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(layer)
        return real(stack, layer, **rest)

    folder = tmp_path / "calibration"
    monkeypatch.setattr(one_block, "prune", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        prune(folder=folder, **changes)
    done.clear()
    params, packed, report = prune(folder=folder, **changes)
    assert done == [2]
    assert packed.checksum() == whole_masks.checksum()
    assert report["blocks"] == whole_report["blocks"]
    for path, leaf in as_numpy(params).items():
        assert leaf.tobytes() == as_numpy(whole)[path].tobytes(), path
    calibration.forget(folder)
    assert not folder.exists()


def test_finished_blocks_of_other_settings_are_refused(prune, tmp_path):
    """Blocks of yesterday's sparsity in today's model would go unnoticed."""
    changes = {"criterion": "wanda", "scope": "row", "folder": tmp_path}
    prune(**changes, fingerprint={"model": "a"})
    with pytest.raises(errors.UserError, match="pruned with model a, not b"):
        prune(**changes, fingerprint={"model": "b"})
    more = {path: np.full(3, 0.75) for path in HALF}
    with pytest.raises(errors.UserError, match="pruned with sparsities"):
        prune(**{**changes, "sparsities": more}, fingerprint={"model": "a"})


def test_reconstruction_brings_the_outputs_nearer_and_keeps_zeros(
    prune, tiny, tiny_config, tokens_NT, one_device, dense_masks
):
    """Trained on its own input, a block would learn to repeat its errors."""
    start = tiny(one_device)
    rng = np.random.default_rng(2)
    bits = {
        (path, layer): np.packbits(rng.random(shape[1:]) < 0.6)
        for path, shape in dense_masks.shapes.items()
        for layer in range(3)
    }
    given = dense_masks.replaced(bits).tree(start)
    wanted = model.apply(tiny_config, start, tokens_NT)
    masked = model.apply(tiny_config, masks.apply(start, given), tokens_NT)
    steps = config.Reconstruction(epochs=20, learning_rate=3e-3)
    params, new, report = prune(
        params=start, current=given, criterion=None, reconstruction=steps
    )
    assert all(b["error_after"] < b["error_before"] for b in report["blocks"])
    chained = model.apply(tiny_config, params, tokens_NT)
    assert np.square(chained - wanted).mean() < np.square(masked - wanted).mean() / 2
    for path, mask in tree.flatten(given).items():
        if masks.is_prunable(mask):
            np.testing.assert_array_equal(tree.flatten(new)[path], mask)
            assert not as_numpy(params)[path][~np.asarray(mask)].any()


def test_a_reconstruction_that_fails_is_undone(prune):
    """A learning rate too large, and the block would be worse than before."""
    plain, _, _ = prune()
    wild = config.Reconstruction(epochs=1, learning_rate=1e3)
    params, _, report = prune(reconstruction=wild)
    assert all(b["error_after"] == b["error_before"] for b in report["blocks"])
    for path, leaf in as_numpy(params).items():
        np.testing.assert_array_equal(leaf, as_numpy(plain)[path])


def test_embeddings_that_are_masked_already_stay_so(
    prune, tiny, tiny_config, one_device
):
    """Reconstruction takes any masks, and the blocks are not all that they cover."""
    start = tiny(one_device)
    rules = ((r"embed/tokens/embedding", True), (r".*", False))
    rows = np.arange(61)[:, None] % 2 + np.zeros(16) > 0
    current = calibration.PackedMasks.dense(model.shapes(tiny_config), rules).replaced(
        {("embed/tokens/embedding", 0): np.packbits(rows)}
    )
    params, _, _ = prune(params=start, current=current, criterion=None)
    assert not as_numpy(params)["embed/tokens/embedding"][~rows].any()


def test_bad_input_is_told_in_a_line(prune, tiny_config, tokens_NT, tmp_path):
    """And before anything is written."""
    folder = tmp_path / "calibration"

    def fails(match, **changes):
        with pytest.raises(errors.UserError, match=match) as caught:
            prune(folder=folder, **changes)
        assert "\n" not in str(caught.value)
        assert not folder.exists()

    def dense(config, *rules):
        rules = (*rules, (r".*", False))
        return calibration.PackedMasks.dense(model.shapes(config), rules)

    fails("2:5 does not divide blocks/attn/out", pattern="2:5")
    fails(
        "embed/tokens/embedding is no kernel of a block",
        current=dense(tiny_config, (r"embed/tokens/embedding", True)),
    )
    fails("leave nothing to prune", current=dense(tiny_config))
    wider = model.Config(vocab_size=61, n_positions=12, n_embd=32, n_head=4, n_layer=3)
    fails(
        r"masks of another model: blocks/mlp/up/kernel \(3, 32, 128\)",
        current=dense(wider, (r"blocks/mlp/up/kernel", True)),
    )
    fails("13 tokens, more than the model's n_positions 12", tokens_NT=np.ones((2, 13)))
    fails("token id 61, beyond the model's vocab_size 61", tokens_NT=tokens_NT * 0 + 61)


def test_params_are_changed_where_they_lie(prune, tiny, one_device):
    """A second copy of a leaf is what bounded memory has no room for."""
    start = tiny(one_device)
    # Memory that XLA owns, as a loaded model's.
    start = jax.jit(lambda p: jax.tree.map(lambda w: w + 0, p))(start)
    before = start["blocks"]["mlp"]["up"]["kernel"].unsafe_buffer_pointer()
    params, _, _ = prune(params=start, criterion="wanda", scope="row")
    after = params["blocks"]["mlp"]["up"]["kernel"].unsafe_buffer_pointer()
    assert after == before
    assert start["blocks"]["mlp"]["up"]["kernel"].is_deleted()
