"""Savings are measured: zipped bytes, and times of what was masked and what was cut."""

import dataclasses
import weakref
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from gptjax import convert, masks, model, pruning, training, tree
from gptjax.convert import names, zipped
from gptjax.pruning import removed, savings, timing

PRUNABLE = ((r"blocks/(attn|mlp)/\w+/kernel", True), (r".*", False))
# The model of `tiny_settings`, and one with more to cut.
TINY = model.Config(
    n_layer=2, n_embd=8, n_head=2, vocab_size=2048, n_positions=16, attn_pdrop=0.2
)
CONFIG = model.Config(n_layer=2, n_embd=24, n_head=6, vocab_size=50, n_positions=16)


def _masks(config, sparsity, prunable=PRUNABLE):
    """Masks whose first weights, in each layer's order, are pruned."""
    shapes = tree.flatten(masks.shapes(model.shapes(config), prunable))
    flat = {}
    for path, shape in shapes.items():
        flat[path] = np.True_
        if masks.is_prunable(shape):
            layers, size = shape.shape[0], np.prod(shape.shape[1:])
            layer = np.arange(size) >= round(sparsity * size)
            flat[path] = jnp.asarray(np.tile(layer, layers).reshape(shape.shape))
    return tree.unflatten(flat)


@pytest.mark.parametrize(
    ("sparsity", "heads", "neurons"), [(0.5, 3, 48), (0.81, 1, 18), (0.99, 1, 1)]
)
def test_the_reference_loses_the_share_of_heads_and_neurons(sparsity, heads, neurons):
    """6 heads and 96 neurons, rounded, and never none."""
    cut = removed.config_like(CONFIG, _masks(CONFIG, sparsity))
    assert (cut.n_head, cut.mlp_width) == (heads, neurons)
    assert cut.head_width == CONFIG.head_width
    assert (cut.n_embd, cut.n_layer) == (CONFIG.n_embd, CONFIG.n_layer)


def test_the_reference_has_as_many_weights_fewer_as_are_zeros():
    """A reference cut more or less would be no comparison."""
    weight_masks = _masks(CONFIG, 0.5)
    cut = removed.config_like(CONFIG, weight_masks)

    def kernels(config):
        shapes = masks.shapes(model.shapes(config), PRUNABLE)
        return sum(int(n.sum()) for n in masks.layer_sizes(shapes).values())

    assert kernels(cut) == kernels(CONFIG) / 2


def test_what_may_not_be_pruned_is_not_cut():
    """With masks on the MLP alone, heads removed would be a saving never offered."""
    prunable = ((r"blocks/mlp/\w+/kernel", True), (r".*", False))
    cut = removed.config_like(CONFIG, _masks(CONFIG, 0.5, prunable))
    assert (cut.n_head, cut.mlp_width) == (6, 48)


def test_without_zeros_there_is_no_reference():
    """It would be the dense model, compiled and timed once more for nothing."""
    assert removed.config_like(CONFIG, _masks(CONFIG, 0.0)) is CONFIG


def test_a_mesh_that_splits_heads_can_hold_the_reference():
    """3 heads do not divide over 2 devices, where 6 did."""
    cut = removed.config_like(CONFIG, _masks(CONFIG, 0.5), multiple_of=2)
    assert cut.n_head % 2 == cut.mlp_width % 2 == 0


def test_zipped_bytes_are_those_of_the_export_read_back(tmp_path):
    """A zip of other numbers, or of a file's header, would be another claim."""
    params = model.init(jax.random.key(0), CONFIG)
    params = masks.apply(params, _masks(CONFIG, 0.8))
    convert.save(tmp_path / "export", CONFIG, params, like=convert.resolve("packaged"))
    read = safetensors.numpy.load_file(tmp_path / "export" / "model.safetensors")
    order = [name for name, *_ in names.in_hf_order(CONFIG)]
    assert sorted(order) == sorted(read)
    raw = b"".join(read[name].tobytes() for name in order)
    assert zipped.weights_bytes(CONFIG, params) == len(zlib.compress(raw, 1))
    assert zipped.LEVEL == 1


def test_half_precision_is_zipped_as_the_numbers_it_stands_for():
    """Else a bfloat16 source would look half the size of its float32 export."""
    half = jax.tree.map(
        lambda w: w.astype(jnp.bfloat16), model.init(jax.random.key(0), CONFIG)
    )
    whole = jax.tree.map(lambda w: w.astype(jnp.float32), half)
    assert zipped.weights_bytes(CONFIG, half) == zipped.weights_bytes(CONFIG, whole)


@pytest.fixture
def measured(tiny_settings, tmp_path):
    """A function (config of the model, sparsities) -> the savings, the trainer."""
    settings = tiny_settings(tmp_path, **{"pruning.sparsities": [0.5]})
    prepared = training.prepare(settings)

    def measure(config, *sparsities):
        trainer = training.Trainer(
            settings,
            config,
            prepared.mesh,
            texts=training.Texts(prepared.texts.train, None),
            schedule_steps=4,
        )

        models = []
        for sparsity in sparsities:
            path = tmp_path / f"{sparsity}.safetensors"
            masks.save(path, _masks(config, sparsity))
            models.append(
                timing.Variant(name=f"{sparsity}", config=config, masks_path=path)
            )
        return savings.measure(prepared, trainer, models), trainer

    return measure


@pytest.mark.slow
def test_masked_and_removed_are_timed_beside_the_dense_model(measured):
    """The report's three times come from here, and from one compiled step."""
    figures, trainer = measured(TINY, 0.5)
    for what in ("step", "decode"):
        for name in ("dense", "pruned", "removed"):
            assert figures[f"{what}_seconds_{name}"] > 0
        assert len(figures[f"{what}_ratios"]) == timing.REPEATS
        assert len(figures[f"{what}_ratios_removed"]) == timing.REPEATS
    assert figures["backend"] == "cpu"
    assert figures["removed"]["is_reference"]
    assert figures["removed"]["heads"] == 1
    assert figures["removed"]["neurons"] == 16
    assert trainer.compilations == 1


@pytest.mark.slow
def test_all_models_of_a_run_take_turns_with_one_compiled_step(measured):
    """A program for each round, or the last one's time for all, would be no measure."""
    figures, trainer = measured(TINY, 0.8, 0.5)
    assert list(figures["models"]) == ["0.8", "0.5"]
    for what in ("step", "decode"):
        own = {model[f"{what}_seconds"] for model in figures["models"].values()}
        assert len(own) == 2
        assert figures[f"{what}_seconds_pruned"] in own
        ratios = [model[f"{what}_ratios"] for model in figures["models"].values()]
        assert figures[f"{what}_ratios"] == ratios[0]
    assert figures["removed"]["neurons"] == 6
    assert trainer.compilations == 1


@pytest.mark.slow
def test_a_model_that_was_cut_is_timed_itself(measured):
    """Its own shape against the source's; a reference would say less."""
    cut = dataclasses.replace(TINY, n_layer=1, n_inner=8)
    figures, _ = measured(cut, 0.5)
    assert not figures["removed"]["is_reference"]
    assert figures["removed"]["layers"] == 1
    shapes = tree.flatten(model.shapes(cut)).values()
    assert figures["removed"]["parameters"] == sum(np.prod(s.shape) for s in shapes)
    assert "step_seconds_pruned" not in figures
    assert len(figures["decode_ratios_removed"]) == timing.REPEATS


def test_variants_take_turns(monkeypatch):
    """One after the other, a machine whose speed drifts would favour one of them."""
    order, seconds = [], iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(seconds)))
    runs = {name: (lambda n=name: n, order.append) for name in ("one", "two", "three")}
    taken = timing.in_turn(runs)
    assert order == ["one", "two", "three"] * (timing.REPEATS + 1)
    assert {name: len(own) for name, own in taken.items()} == dict.fromkeys(
        runs, timing.REPEATS
    )


def test_what_a_turn_made_is_gone_before_the_next():
    """Two training states would not fit where one just does."""
    made, alive = [], []

    def make():
        alive.append(sum(array() is not None for array in made))
        return run(jnp.ones(3))

    def run(array):
        result = array + 1
        made.append(weakref.ref(result))
        return result

    timing.in_turn(dict.fromkeys(("one", "two"), (make, run)))
    assert alive == [0] * 2 * (timing.REPEATS + 1)


@pytest.mark.slow
def test_a_run_says_what_zeros_cost_in_each_layer(tiny_settings, tmp_path):
    """The counts of the report are those of the masks."""
    done = pruning.run(tiny_settings(tmp_path, **{"pruning.sparsities": [0.5]}))
    report = done.rounds[-1]
    counted = sum(sum(zeros) for zeros in report["zeros_per_layer"].values())
    assert counted == report["zeros"]
    assert list(done.summary["savings"]["models"]) == ["01"]
    source = done.summary["savings"]["bytes_zipped_dense"]
    assert 0.5 * source < done.summary["savings"]["bytes_zipped"] < source
