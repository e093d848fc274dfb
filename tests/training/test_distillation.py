"""Learning from a teacher, against torch and float64 numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import config, convert, errors, model, sharding, tree
from gptjax.training import distillation, objectives, step

STUDENT = model.Config(
    vocab_size=61, n_positions=12, n_embd=16, n_layer=2, n_head=2
).without_dropout()
TEACHER = dataclasses.replace(STUDENT, n_layer=4)
SETTINGS = config.Distillation(teacher="x", weight=0.7, temperature=3.0)


def torch_of(folder, shape, seed):
    torch.manual_seed(seed)
    stock = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **{
                name: getattr(shape, name)
                for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
            },
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    stock.save_pretrained(folder)
    return stock


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Student and teacher in torch, their params, and a batch of four sequences."""
    folder = tmp_path_factory.mktemp("pair")
    stock = [
        torch_of(folder / name, shape, seed)
        for seed, (name, shape) in enumerate([("s", STUDENT), ("t", TEACHER)])
    ]
    params = [convert.load(folder / name)[1] for name in ("s", "t")]
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 61, (4, 12)).astype(np.int32)
    labels = np.where(rng.random(tokens.shape) < 0.2, -100, tokens).astype(np.int32)
    return stock, params, {"tokens": tokens, "labels": labels}


def torch_loss(stock, batch, settings, pairs):
    """The formula again, written on stock transformers' outputs."""
    ids = torch.tensor(batch["tokens"], dtype=torch.long)
    labels = torch.tensor(batch["labels"], dtype=torch.long)
    asked = {"output_hidden_states": True, "output_attentions": True}
    own = stock[0](ids, **asked)
    with torch.no_grad():
        shown = stock[1](ids, **asked)
    counts = torch.zeros(labels.shape)
    counts[:, :-1] = (labels[:, 1:] != -100).float()
    counts = counts / counts.sum()
    nll = torch.nn.functional.cross_entropy(
        own.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    log_p, log_q = (
        (out.logits / settings.temperature).log_softmax(-1) for out in (shown, own)
    )
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    total = (1 - settings.weight) * nll
    total += settings.weight * settings.temperature**2 * (counts * kl).sum()
    for student, teacher in pairs:
        # The last of these is after the final norm in transformers: not compared here.
        if settings.hidden_weight:
            one, other = (
                own.hidden_states[student + 1],
                shown.hidden_states[teacher + 1],
            )
            away = (one - other).square().sum(-1) / other.square().sum(-1)
            total += settings.hidden_weight * (counts * away).sum() / len(pairs)
        if settings.attention_weight:
            one, other = own.attentions[student], shown.attentions[teacher]
            away = other * (other.clamp_min(1e-30).log() - one.clamp_min(1e-30).log())
            away = away.sum(-1).mean(1)
            total += settings.attention_weight * (counts * away).sum() / len(pairs)
    return total


def ours(params, batch, settings, *, parts=1, mesh=None, chunk=None, teacher=TEACHER):
    objective = distillation.make(
        settings, objectives.LANGUAGE, STUDENT, teacher, name="x"
    )
    compute = model.Compute(mesh=mesh, loss_chunk_tokens=chunk)
    batch = {name: x.reshape(parts, -1, 12) for name, x in batch.items()}
    own, frozen = params
    if mesh is not None:
        own, frozen = (
            jax.device_put(each, sharding.param_shardings(mesh, each))
            for each in params
        )
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    return jax.jit(
        lambda own, batch, frozen: step.mean_gradients(
            STUDENT, own, batch, compute=compute, objective=objective, frozen=frozen
        )
    )(own, batch, frozen)


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({}, []),
        ({"weight": 1.0}, []),
        ({"hidden_weight": 0.5, "layers": ((0, 1), (0, 2))}, [(0, 1), (0, 2)]),
        ({"attention_weight": 2.0}, [(0, 1), (1, 3)]),
    ],
    ids=["scores", "scores alone", "states", "attention"],
)
def test_loss_and_gradients_are_torchs(pair, changes, pairs):
    """Of scores, of states, of attention: each by a formula of its own."""
    stock, params, batch = pair
    settings = SETTINGS.model_copy(update=changes)
    stock[0].zero_grad()
    wanted = torch_loss(stock, batch, settings, pairs)
    wanted.backward()
    grads, loss = ours(params, batch, settings)
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
    named = dict(stock[0].named_parameters())
    for name, leaf, part, place in convert.names.in_hf_order(STUDENT):
        got = np.asarray(tree.flatten(grads)[leaf.path])
        got = got[place] if leaf.is_stacked else got
        expected = named[name].grad.numpy()
        np.testing.assert_allclose(
            part.of_leaf(got), expected, rtol=1e-3, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"parts": 4},
        {"chunk": 5},
        {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}},
        {"mesh": {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}, "chunk": 3},
    ],
    ids=["accumulation", "chunks", "mesh", "context"],
)
def test_no_option_changes_what_is_learnt(pair, how):
    """Both heads are gathered, and both are cut into chunks."""
    _, params, batch = pair
    settings = SETTINGS.model_copy(
        update={"hidden_weight": 0.5, "attention_weight": 0.5}
    )
    expected, loss = ours(params, batch, settings)
    if "mesh" in how:
        how = {**how, "mesh": sharding.make_mesh(**how["mesh"])}
    grads, again = ours(params, batch, settings, **how)
    assert float(again) == pytest.approx(float(loss), rel=1e-5)
    for path, leaf in tree.flatten(expected).items():
        got = np.asarray(tree.flatten(grads)[path])
        assert np.abs(got - leaf).max() <= 2e-5 * max(1, np.abs(leaf).max()), path


@pytest.mark.parametrize("scale", [1e3, 1e8])
def test_extreme_scores_give_no_nan(pair, scale):
    """Most probabilities are 0 then, and the logarithm of 0 is not finite."""
    _, (own, frozen), batch = pair
    frozen = {**frozen, "ln_f": jax.tree.map(lambda x: scale * x, frozen["ln_f"])}
    own = {**own, "ln_f": jax.tree.map(lambda x: -scale * x, own["ln_f"])}
    grads, loss = ours((own, frozen), batch, SETTINGS)
    assert np.isfinite(float(loss))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_a_teacher_that_is_the_student_teaches_nothing(pair):
    """Its divergence is 0, and no more than rounding is learnt from it."""
    _, (own, _), batch = pair
    settings = SETTINGS.model_copy(update={"weight": 1.0})
    grads, loss = ours((own, own), batch, settings, teacher=STUDENT)
    assert float(loss) == pytest.approx(0, abs=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) < 1e-5


def test_classes_are_learnt_from_a_classifier():
    """The same, of the scores of labels; padding is no part of a text's states."""
    rng = np.random.default_rng(3)
    labels = model.Classifier(labels=("a", "b", "c"), pad_token_id=0)
    shape = dataclasses.replace(STUDENT, classifiers=(labels,))
    own, frozen = (model.init(jax.random.key(n), shape) for n in (0, 1))
    tokens = rng.integers(1, 61, (4, 12)).astype(np.int32)
    tokens[1, 5:] = 0
    batch = {"tokens": tokens, "classes": np.array([0, 2, 1, 2], np.int32)}
    settings = SETTINGS.model_copy(update={"hidden_weight": 0.5})
    objective = distillation.make(
        settings, objectives.Classification("label"), shape, shape, name="x"
    )
    compute = model.Compute()
    found = objective.loss(
        shape, own, batch, objective.scale(batch), compute=compute, dropout_key=None,
        frozen=frozen,
    )  # fmt: skip

    def outputs(params):
        x, inside = model.hidden_and_inside(
            shape, params, jnp.asarray(tokens), compute=compute, states=True,
            attention=False,
        )  # fmt: skip
        logits = model.label_logits(
            shape, params, x, jnp.asarray(tokens), classifier="label", compute=compute
        )
        return np.asarray(logits, np.float64), np.asarray(
            inside.states_LBTD, np.float64
        )

    (student, states), (teacher, shown) = outputs(own), outputs(frozen)

    def log_softmax(x):
        return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)

    nll = -np.take_along_axis(log_softmax(student), batch["classes"][:, None], 1)[:, 0]
    log_q, log_p = log_softmax(student / 3), log_softmax(teacher / 3)
    kl = 9 * (np.exp(log_p) * (log_p - log_q)).sum(-1)
    away = np.square(states - shown).sum(-1) / np.square(shown).sum(-1)
    lengths = [12, 5, 12, 12]
    hidden = [away[:, row, :n].mean() for row, n in enumerate(lengths)]
    wanted = np.mean(0.3 * nll + 0.7 * kl) + 0.5 * np.mean(hidden)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("teacher", "changes", "wanted"),
    [
        ({"vocab_size": 60}, {}, "vocabulary has 60 tokens, the student's 61"),
        ({"n_embd": 32}, {"hidden_weight": 1.0}, "with the student's n_embd 16"),
        ({"n_head": 4}, {"attention_weight": 1.0}, "with the student's n_head 2"),
        (
            {},
            {"hidden_weight": 1.0, "layers": ((0, 0), (2, 1))},
            "layers: 2 and 1; the student has layers 0 to 1",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(teacher, changes, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        distillation.make(
            SETTINGS.model_copy(update=changes),
            objectives.LANGUAGE,
            STUDENT,
            dataclasses.replace(TEACHER, **teacher),
            name="x",
        )


def test_a_teachers_padding_is_the_students():
    """A folder that names none would be read at the last place of its padding."""
    own = model.Classifier(labels=("a", "b"), pad_token_id=3)
    student = dataclasses.replace(STUDENT, classifiers=(own,))
    other = dataclasses.replace(own, pad_token_id=None)
    teacher = dataclasses.replace(STUDENT, classifiers=(other,))
    made = distillation.make(
        SETTINGS, objectives.Classification("label"), student, teacher, name="x"
    )
    assert made.teacher.classifiers == (own,)
