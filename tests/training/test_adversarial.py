"""Adversarial moves of embeddings; PyTorch in float64 is the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gptjax import api, config, convert, errors, masks, model, training, tree
from gptjax.training import adversarial, objectives, step

FGM = config.Adversarial(method="fgm", epsilon=0.7)
FREELB = config.Adversarial(method="freelb", epsilon=0.5, moves=3, move_length=0.3)
KEY = jax.random.key(3)


@pytest.fixture
def oracle(hugging_face, tmp_path):
    """A stock model in float64, the same as ours, and tokens."""
    hugging_face.save_pretrained(tmp_path)
    gpt, params = convert.load(tmp_path)
    tokens_BT = np.random.default_rng(0).integers(0, 40, (4, 12)).astype(np.int32)
    return hugging_face.double().eval(), gpt, params, tokens_BT


def _starts(tokens_BT, width):
    """The first moves of freelb, as gptjax draws them for a batch in one part."""
    key = jax.random.split(KEY, 1)[0]
    shape = (*tokens_BT.shape, width)
    drawn = np.asarray(jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))
    return FREELB.epsilon * drawn / np.sqrt(tokens_BT.shape[1] * width)


def _stock(stock, tokens_BT, settings, start_BTD):
    """Gradients and losses by the papers' own steps, sequence by sequence."""
    stock.zero_grad()
    ids = torch.tensor(tokens_BT, dtype=torch.long)
    embedded = stock.transformer.wte

    def loss(move):
        return stock(inputs_embeds=embedded(ids) + move, labels=ids).loss

    def unit(x):
        return x / x.flatten(1).norm(dim=1)[:, None, None]

    move = torch.tensor(start_BTD, dtype=torch.float64, requires_grad=True)
    if settings.method == "fgm":
        first = loss(move)
        first.backward()
        slope = settings.epsilon * unit(move.grad)
        second = loss(slope)
        second.backward()
        return first.item(), second.item()
    told = []
    for _ in range(settings.moves):
        move = move.detach().requires_grad_()
        value = loss(move)
        told.append(value.item())
        (value / settings.moves).backward()
        moved = move.detach() + settings.move_length * unit(move.grad)
        lengths = moved.flatten(1).norm(dim=1)
        move = moved * (settings.epsilon / lengths).clamp(max=1)[:, None, None]
    return float(np.mean(told)), told[-1]


@pytest.mark.parametrize("settings", [FGM, FREELB], ids=["fgm", "freelb"])
def test_gradients_are_those_of_the_papers_steps(oracle, settings):
    """Both methods, of whole sequences, against autograd of inputs_embeds."""
    stock, gpt, params, tokens_BT = oracle
    start_BTD = np.zeros((*tokens_BT.shape, 16))
    if settings is FREELB:
        start_BTD = _starts(tokens_BT, 16)
    loss, worst = _stock(stock, tokens_BT, settings, start_BTD)
    batch = {"tokens": tokens_BT[None], "labels": tokens_BT[None]}
    grads, found = jax.jit(
        lambda params, batch: step.learnt(
            gpt,
            params,
            batch,
            compute=model.Compute(),
            adversary=settings,
            adversary_key=KEY,
        )
    )(params, batch)
    assert float(found["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(found["adversarial_loss"]) == pytest.approx(worst, rel=1e-5)
    assert worst > loss
    names = dict(stock.named_parameters())
    for name, leaf, part, place in convert.names.in_hf_order(gpt):
        got = np.asarray(tree.flatten(grads)[leaf.path])
        got = got[place] if leaf.is_stacked else got
        expected = names[name].grad.numpy()
        np.testing.assert_allclose(
            part.of_leaf(got), expected, rtol=2e-4, atol=2e-5, err_msg=name
        )


@pytest.mark.slow
def test_parts_of_a_batch_change_nothing(oracle):
    """Each sequence moves by its own gradient, whatever the loss is scaled by."""
    _, gpt, params, tokens_BT = oracle

    def gradients(parts):
        tokens = tokens_BT.reshape(parts, -1, 12)
        return step.learnt(
            gpt,
            params,
            {"tokens": tokens, "labels": tokens},
            compute=model.Compute(),
            adversary=FGM,
            adversary_key=KEY,
        )

    whole, halves = gradients(1), gradients(2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        whole,
        halves,
    )


def test_moves_are_no_longer_than_they_may_be():
    """Neither the first of freelb, nor any after it; and padding stays."""
    is_read_BT = jnp.array([[True, True, False], [True, False, False]])
    seen = []

    def loss(params, move_BTD):
        jax.debug.callback(lambda move: seen.append(np.array(move)), move_BTD)
        return (params * move_BTD).sum() + 1e-3 * jnp.square(move_BTD).sum()

    settings = config.Adversarial(
        method="freelb", epsilon=0.5, moves=4, move_length=0.4
    )
    adversarial.gradients(settings, loss, jnp.float32(2), is_read_BT, 8, KEY)
    jax.effects_barrier()
    lengths = np.array([np.sqrt(np.square(move).sum((1, 2))) for move in seen])
    assert lengths.shape[0] >= 4
    assert (lengths < 0.5 + 1e-5).all()
    assert (lengths.max(0) > 0.499).all()
    assert not any(move[~np.asarray(is_read_BT)].any() for move in seen)


@pytest.mark.parametrize("kind", ["language", "classification"])
@pytest.mark.parametrize("method", ["fgm", "freelb"])
@pytest.mark.slow
def test_rounds_keep_their_zeros(
    tiny_settings, labelled_settings, tmp_path, made_up_times, kind, method
):
    """And a mesh of eight devices moves the embeddings where they lie."""
    make = tiny_settings if kind == "language" else labelled_settings
    run = api.run_pruning(
        make(
            tmp_path / "run",
            **{"training.steps": 4, "pruning.sparsities": [0.6]},
            **{"adversarial.method": method, "adversarial.epsilon": 0.05},
            **{"training.batch_sequences": 16, "training.accumulation_steps": 2},
        )
    )
    _, params = convert.load(run.folder / "export")
    shapes = jax.tree.map(jnp.asarray, params)
    zeros = masks.load(run.folder / "rounds/01/masks.safetensors", shapes)
    for path, mask in tree.flatten(zeros).items():
        if mask.ndim:
            weights = np.asarray(tree.flatten(params)[path])
            assert (weights[~np.asarray(mask)] == 0).all()
    logged = [line for line in run.metrics if "loss" in line and "phase" in line]
    assert all("adversarial_loss" in line for line in logged if "grad_norm" in line)


def test_padding_of_texts_is_not_moved(tmp_path):
    """A classifier reads no further than a text's last token."""
    gpt = model.Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=4,
        classifiers=(model.Classifier(labels=("x", "y"), pad_token_id=0),),
    )  # fmt: skip
    part = {"tokens": jnp.array([[1, 2, 0, 0], [3, 1, 2, 4]])}
    read = objectives.Classification("label").is_read(gpt, part)
    assert read.tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"adversarial.method": "pgd"}, "adversarial.method"),
        ({"adversarial.method": "fgm", "adversarial.moves": 2}, "moves: is of method"),
        ({"adversarial.method": "fgm", "adversarial.epsilon": 0}, "epsilon"),
        (
            {"adversarial.method": "fgm", "distillation.teacher": "packaged"},
            "distillation: does not go with adversarial",
        ),
    ],
)
def test_what_does_nothing_is_refused(tiny_settings, tmp_path, overrides, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        tiny_settings(tmp_path / "run", **overrides)


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_run_that_stops_goes_on_with_the_same_moves(tiny_settings, tmp_path, stop_at):
    """They depend on the seed and the step alone."""
    plain = {
        "training.steps": 4,
        "training.checkpoint_every_steps": 1,
        "adversarial.method": "freelb",
    }
    whole = training.train(tiny_settings(tmp_path / "whole", **plain))
    stop_at(2)
    with pytest.raises(errors.Stopped):
        training.train(tiny_settings(tmp_path / "broken", **plain))
    broken = training.train(tiny_settings(tmp_path / "broken", **plain))
    one, other = (
        (done.export / "model.safetensors").read_bytes() for done in (whole, broken)
    )
    assert one == other
