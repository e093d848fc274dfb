"""The training step: against torch, over meshes, over accumulation, over dtypes."""

import dataclasses

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import strategies as st

from gptjax import config, convert, masks, model, sharding, tree
from gptjax.pruning import ranking
from gptjax.pruning.criteria import magnitude
from gptjax.training import loss, optimizer, state, step

SMALL = model.Config(
    n_layer=2,
    n_embd=16,
    n_head=2,
    vocab_size=40,
    n_positions=12,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)
PRUNABLE = config.Pruning(sparsities=(0.5,)).prunable
MESHES = [(8, 1, 1), (2, 4, 1), (2, 2, 2)]


def mesh_of(sizes=(1, 1, 1)):
    devices = jax.devices()[: int(np.prod(sizes))]
    data, fsdp, tensor = sizes
    return sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)


def some_batch(*, parts=1, sequences=8, seed=0, vocabulary=40, length=12):
    """Tokens (A, B/A, T), of which some are not to be predicted, unevenly."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, (sequences, length)).astype(np.int32)
    labels = np.where(rng.random(tokens.shape) < 0.3, loss.IGNORED, tokens)
    labels[0] = loss.IGNORED
    shape = (parts, sequences // parts, length)
    return {"tokens": tokens.reshape(shape), "labels": labels.reshape(shape)}


class Setup:
    """A small model with its optimizer and step on a mesh."""

    def __init__(
        self, *, mesh=None, gpt=SMALL, dtype=jnp.float32, steps=20, **settings
    ):
        self.mesh = mesh or mesh_of()
        self.gpt = gpt
        params = model.init(jax.random.key(0), gpt)
        places = sharding.param_shardings(self.mesh, params)
        self.params = jax.device_put(params, places)
        settings = config.Optimizer(**settings)
        schedule = optimizer.make_schedule(settings, steps=steps)
        self.optimizer = optimizer.make_optimizer(settings, schedule, params)
        self.dense = masks.dense(self.params, PRUNABLE)
        self.places = state.shardings(self.mesh, params, self.dense, self.optimizer)
        self.step = step.make_step(
            gpt,
            self.optimizer,
            schedule,
            self.places,
            model.Compute(dtype=dtype, mesh=self.mesh),
        )

    def start(self, weight_masks=None, *, at=0):
        return state.make_start(self.optimizer, self.places)(
            self.params, self.dense if weight_masks is None else weight_masks, at
        )

    def run(self, current, batch):
        batch = jax.device_put(batch, sharding.batch_sharding(self.mesh))
        return self.step(current, batch, jax.random.key(1))

    def pruned(self, sparsity):
        return ranking.prune_to(
            magnitude.scores(self.params),
            masks.dense(self.params, PRUNABLE),
            sparsity=sparsity,
            scope="global",
        )


def nonzero_pruned(current):
    """How many pruned weights are not exactly 0."""
    return sum(
        int((np.asarray(leaf)[~np.asarray(mask)] != 0).sum())
        for leaf, mask in zip(
            jax.tree.leaves(current.params), jax.tree.leaves(current.masks), strict=True
        )
        if masks.is_prunable(mask)
    )


def test_the_loss_is_that_of_hugging_faces_model():
    """Shift, mask and mean: each is easily off by one token."""
    batch = some_batch()
    tokens, labels = batch["tokens"][0], batch["labels"][0]
    gpt = dataclasses.replace(SMALL, vocab_size=40)
    params = model.init(jax.random.key(1), gpt)
    compute = model.Compute()
    x_BTD = model.hidden(gpt, params, tokens, compute=compute)
    logits = np.array(model.logits(gpt, params, x_BTD, compute=compute))
    total, count = loss.next_token_loss(gpt, params, x_BTD, labels, compute=compute)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, :-1].reshape(-1, 40)),
        torch.tensor(labels[:, 1:].reshape(-1).astype(np.int64)),
    )
    assert float(total / count) == pytest.approx(expected.item(), rel=1e-6)
    assert int(count) == (labels[:, 1:] != loss.IGNORED).sum()


def test_one_adamw_step_with_clipping_and_decay_is_torchs(hugging_face, tmp_path):
    """Order of clipping, decay, bias correction and schedule: all in one comparison."""
    hf = hugging_face
    hf.save_pretrained(tmp_path)
    gpt, params = convert.load(tmp_path)
    batch = some_batch()

    # A small epsilon would let rounding noise in tiny gradients decide their sign;
    # 1e-6 against gradients of 1e-3 leaves the update what it is.
    learning_rate, decay, clip, eps = 0.01, 0.1, 0.05, 1e-6
    decayed = [p for p in hf.parameters() if p.ndim > 1]
    others = [p for p in hf.parameters() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.95),
        eps=eps,
    )
    before = {k: v.detach().numpy().copy() for k, v in hf.state_dict().items()}
    for _ in range(3):
        adamw.zero_grad()
        output = hf(
            input_ids=torch.tensor(batch["tokens"][0]).long(),
            labels=torch.tensor(batch["labels"][0]).long(),
        )
        output.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(hf.parameters(), clip)
        adamw.step()
    assert norm > clip  # else nothing was clipped

    setup = Setup(
        gpt=gpt,
        learning_rate=learning_rate,
        schedule="constant",
        weight_decay=decay,
        clip_norm=clip,
        options={"b2": 0.95, "eps": eps},
    )
    setup.params = params
    current = setup.start()
    for _ in range(3):
        current, metrics = setup.run(current, batch)
    assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-5)

    hf.save_pretrained(tmp_path / "after")
    _, expected = convert.load(tmp_path / "after")
    moved = np.abs(before["transformer.h.0.mlp.c_fc.weight"]).max()
    assert moved > 0
    expected, ours = tree.flatten(expected), tree.flatten(current.params)
    for path, theirs in expected.items():
        mine, theirs = np.asarray(ours[path]), np.asarray(theirs)
        if path.endswith("qkv/bias"):
            # The key's bias has a true gradient of 0: Adam makes steps of its noise.
            mine, theirs = mine[:, [0, 2]], theirs[:, [0, 2]]
        # In units of one step: 3 steps moved each weight by up to 0.03.
        assert np.abs(mine - theirs).max() < 1e-5 * max(1, np.abs(theirs).max()), path


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_schedule_is_that_of_transformers(name):
    """Users compare runs; one step off shifts the whole curve."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=0.5)
    make = getattr(transformers, f"get_{name}_schedule_with_warmup")
    scheduler = make(theirs, num_warmup_steps=4, num_training_steps=20)
    ours = optimizer.make_schedule(
        config.Optimizer(learning_rate=0.5, schedule=name, warmup_steps=4), steps=20
    )
    for at in range(20):
        rate = theirs.param_groups[0]["lr"]
        assert float(ours(at)) == pytest.approx(rate, abs=1e-6), at
        theirs.step()
        scheduler.step()


def test_a_state_that_starts_late_uses_the_late_learning_rate():
    """Rewinding to step k replays the schedule from k, with Adam's moments afresh."""
    setup = Setup(name="sgd", learning_rate=1.0, schedule="linear", clip_norm=None)
    batch = some_batch()
    moved = {}
    for at in (0, 10):
        before = jax.tree.map(np.asarray, setup.params)
        current, metrics = setup.run(setup.start(at=at), batch)
        after = jax.tree.map(np.asarray, current.params)
        moved[at] = np.abs(after["ln_f"]["bias"] - before["ln_f"]["bias"]).max()
        assert float(metrics["learning_rate"]) == pytest.approx(1 - at / 20)
    assert moved[10] == pytest.approx(moved[0] / 2, rel=1e-4)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing(parts):
    """A mean of means would weigh the parts wrongly: the labels lie unevenly."""
    results = {}
    for count in (1, parts):
        setup = Setup(learning_rate=0.01)
        results[count] = setup.run(setup.start(), some_batch(parts=count))
    for name in ("loss", "grad_norm", "tokens"):
        assert float(results[parts][1][name]) == pytest.approx(
            float(results[1][1][name]), rel=1e-6
        )


@pytest.mark.parametrize("sizes", MESHES)
def test_a_mesh_changes_neither_loss_nor_gradients(sizes):
    """A reduction over the wrong axis scales gradients by the number of devices."""
    gpt = model.Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=41, n_positions=12,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    batch = {k: v[:1] for k, v in some_batch(vocabulary=41).items()}

    def loss_and_grads(mesh):
        params = model.init(jax.random.key(0), gpt)
        params = jax.device_put(params, sharding.param_shardings(mesh, params))
        placed = jax.device_put(batch, sharding.batch_sharding(mesh))

        @jax.jit
        def run(params):
            return step.mean_gradients(
                gpt, params, placed, compute=model.Compute(mesh=mesh)
            )

        grads, value = run(params)
        return float(value), jax.tree.map(np.asarray, grads)

    expected_loss, expected = loss_and_grads(mesh_of())
    ours_loss, ours = loss_and_grads(mesh_of(sizes))
    assert ours_loss == pytest.approx(expected_loss, rel=1e-5)
    for path, grad in tree.flatten(expected).items():
        difference = np.abs(tree.flatten(ours)[path] - grad).max()
        assert difference <= 1e-5 * np.abs(grad).max(), path


@pytest.mark.parametrize("sizes", MESHES)
def test_params_and_optimizer_state_are_split_over_the_mesh(sizes):
    """Replicated moments would triple the memory of each device, unnoticed."""
    setup = Setup(mesh=mesh_of(sizes))
    current, _ = setup.run(setup.start(), some_batch())
    split = sizes[1] * sizes[2]
    device = setup.mesh.devices.flat[0]

    def bytes_here(tree_):
        return sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree_)
            for shard in leaf.addressable_shards
            if shard.device == device
        )

    vectors = sum(
        leaf.nbytes
        for path, leaf in tree.flatten(current.params).items()
        if not path.endswith(("kernel", "embedding"))
    )
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(current.params))
    assert bytes_here(current.params) <= (total - vectors) / split + vectors
    moments = sum(
        leaf.nbytes for leaf in jax.tree.leaves(current.opt_state) if leaf.ndim
    )
    assert bytes_here(current.opt_state) <= (
        (moments - 2 * vectors) / split + 2 * vectors + 16
    )
    kernels = [state_.params for state_ in (current, setup.places)]
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf.sharding, kernels[0]), kernels[1]
    )


@pytest.mark.parametrize(
    ("sizes", "dtype", "parts"),
    [
        ((2, 2, 2), jnp.bfloat16, 2),
        pytest.param((1, 1, 1), jnp.float32, 1, marks=pytest.mark.slow),
        pytest.param((1, 1, 1), jnp.bfloat16, 2, marks=pytest.mark.slow),
        pytest.param((2, 2, 2), jnp.float32, 1, marks=pytest.mark.slow),
    ],
)
@hypothesis.settings(max_examples=5, deadline=None)
@hypothesis.given(sparsity=st.floats(0.05, 0.99))
def test_pruned_weights_stay_exactly_zero_on_any_mesh_and_dtype(
    sizes, dtype, parts, sparsity
):
    """bfloat16 rounds, shards are updated apart, accumulation adds: none may leak."""
    setup = SETUPS.setdefault(
        (sizes, dtype),
        Setup(mesh=mesh_of(sizes), dtype=dtype, learning_rate=0.1, weight_decay=0.1),
    )
    current = setup.start(setup.pruned(sparsity))
    for seed in range(3):
        current, _ = setup.run(current, some_batch(seed=seed, parts=parts))
    assert nonzero_pruned(current) == 0
    assert masks.sparsity(current.masks) == pytest.approx(sparsity, abs=1e-3)


SETUPS = {}
"""Kept between examples, so that each mesh and dtype compiles once."""


def test_new_masks_compile_nothing():
    """Masks as constants would recompile the step in every round."""
    setup = Setup()
    for sparsity in (0.1, 0.5, 0.9):
        setup.run(setup.start(setup.pruned(sparsity)), some_batch())
    assert setup.step._cache_size() == 1


def test_dropout_depends_on_key_and_step_alone():
    """A resumed run must draw what the unbroken one would have drawn."""
    gpt = model.Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=12)
    setup = Setup(gpt=gpt, name="sgd", learning_rate=1e-12)
    losses = [
        float(setup.run(setup.start(at=at), some_batch())[1]["loss"])
        for at in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]
