"""Low-rank adapters in the one training loop; torch in float64 is the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gptjax import config, convert, errors, model, sharding, tree
from gptjax.training import adapters, distillation, objectives, step

ALL = [["blocks/(attn|mlp)/\\w+/kernel", True], [".*", False]]
SCALING = 0.75
RANK = 3
PRUNED = r"blocks/(attn|mlp)/\w+/kernel"


def pruned(params, fraction=0.8):
    """Params with so many of the smallest weights of every kernel exactly 0."""

    def prune(path, leaf):
        if not tree.covers(PRUNED, path):
            return leaf
        values = np.array(leaf)
        order = np.argsort(np.abs(values), axis=None)
        values.reshape(-1)[order[: int(fraction * values.size)]] = 0
        return jnp.asarray(values)

    return tree.map_with_path(prune, params)


def zeros(params):
    """Where the kernels of the blocks are 0, by slash path."""
    return {
        path: np.asarray(leaf) == 0
        for path, leaf in tree.flatten(params).items()
        if tree.covers(PRUNED, path)
    }


def kernels(params):
    flat = tree.flatten(params)
    return {path: leaf for path, leaf in flat.items() if tree.covers(PRUNED, path)}


def random_adapter(params, rank=RANK):
    """An adapter of every kernel of the blocks, neither of its factors 0."""
    shapes = model.adapter_shapes(kernels(params), rank)
    rng = np.random.default_rng(1)
    return tree.unflatten(
        {
            path: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)
            for path, leaf in shapes.items()
        }
    )


@pytest.fixture
def small(hugging_face, tmp_path):
    """A stock model of pruned kernels, its config and params, an adapter, a batch."""
    hugging_face.save_pretrained(tmp_path / "dense")
    shape, params = convert.load(tmp_path / "dense")
    params = pruned(params)
    convert.save(tmp_path / "pruned", shape, params)
    stock = type(hugging_face).from_pretrained(tmp_path / "pruned").double()
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 40, (4, 12)).astype(np.int32)
    batch = {"tokens": tokens, "labels": tokens}
    return stock, shape, params, random_adapter(params), batch


def torch_gradients(stock, shape, adapter, batch):
    """The loss, and the gradient of each factor, of LoRA written out in torch."""
    flat = tree.flatten(adapter)
    weights = {name: p.detach() for name, p in stock.named_parameters()}
    factors = {path: [] for path in flat}
    for leaf in convert.names.leaves(shape):
        parent = leaf.path.removesuffix("/kernel")
        if f"{parent}/lora_a" not in flat:
            continue
        for layer, name in enumerate(leaf.names):
            inputs, outputs = leaf.parts[0].hf_shape
            a, b = (
                torch.tensor(
                    np.asarray(flat[f"{parent}/{which}"][layer]).reshape(sizes),
                    dtype=torch.float64,
                    requires_grad=True,
                )
                for which, sizes in (
                    ("lora_a", (RANK, inputs)),
                    ("lora_b", (outputs, RANK)),
                )
            )
            factors[f"{parent}/lora_a"].append(a)
            factors[f"{parent}/lora_b"].append(b)
            whole = weights[name] + SCALING * (b @ a).T
            weights[name] = torch.where(weights[name] == 0, 0.0, whole)
    ids = torch.tensor(batch["tokens"], dtype=torch.long)
    out = torch.func.functional_call(stock, weights, (ids,), {"labels": ids})
    out.loss.backward()
    grads = {path: torch.stack([x.grad for x in xs]) for path, xs in factors.items()}
    return out.loss.item(), grads


def ours(shape, params, adapter, batch, *, parts=1, mesh=None, remat="matmuls"):
    objective = adapters.Adapted(objectives.LANGUAGE, SCALING)
    batch = {name: x.reshape(parts, -1, 12) for name, x in batch.items()}
    if mesh is not None:
        params, adapter = (
            jax.device_put(each, sharding.param_shardings(mesh, each))
            for each in (params, adapter)
        )
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    compute = model.Compute(mesh=mesh, remat=remat)
    return jax.jit(
        lambda adapter, batch, base: step.mean_gradients(
            shape, adapter, batch, compute=compute, objective=objective, frozen=(base,)
        )
    )(adapter, batch, params)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"parts": 4, "remat": "full"},
        {"mesh": {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}},
    ],
    ids=["plain", "accumulation", "mesh"],
)
def test_loss_and_gradients_are_torchs(small, how):
    """Of both factors, of every kernel, under a mask of 80 % zeros."""
    stock, shape, params, adapter, batch = small
    wanted_loss, wanted = torch_gradients(stock, shape, adapter, batch)
    if "mesh" in how:
        how = {"mesh": sharding.make_mesh(**how["mesh"])}
    grads, loss = ours(shape, params, adapter, batch, **how)
    assert float(loss) == pytest.approx(wanted_loss, rel=1e-5)
    found = tree.flatten(grads)
    assert found.keys() == wanted.keys()
    for path, expected in wanted.items():
        got = np.asarray(found[path]).reshape(expected.shape)
        most = np.abs(expected.numpy()).max()
        assert most > 0
        np.testing.assert_allclose(got, expected, atol=2e-5 * most, err_msg=path)


def test_what_is_trained_is_what_is_merged(small):
    """The loss through the adapter, layer by layer, is that of the merged model."""
    _, shape, params, adapter, batch = small
    adapted = model.adapt(params, adapter, scaling=SCALING)
    tokens = jnp.asarray(batch["tokens"])
    one, other, before = (
        model.apply(shape, each, tokens)
        for each in (adapted, model.merged(adapted), params)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(one - before).max() > 0.1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_merge_keeps_zeros_zero_and_makes_none(small, dtype):
    """A sum that happens to be 0 would pass for a weight more that is pruned."""
    _, _, params, adapter, _ = small
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    whole = model.merged(model.adapt(params, adapter, scaling=SCALING))
    before, after = zeros(params), zeros(whole)
    for path, was_zero in before.items():
        assert was_zero.mean() == pytest.approx(0.8, abs=0.01)
        np.testing.assert_array_equal(after[path], was_zero, err_msg=path)
        assert tree.flatten(whole)[path].dtype == dtype
    kernel = jnp.array([[[1.0, 0.0]]], dtype)
    leaf = {"blocks": {"mlp": {"up": {"kernel": kernel}}}}
    cancels = {"lora_a": jnp.ones((1, 1, 1)), "lora_b": -jnp.ones((1, 2, 1))}
    made = model.merged(
        model.adapt(leaf, {"blocks": {"mlp": {"up": cancels}}}, scaling=1.0)
    )
    alone = np.asarray(made["blocks"]["mlp"]["up"]["kernel"], np.float32)[0, 0]
    assert 0 < alone[0] < 1e-4
    assert alone[1] == 0


def adapter_of(params, **changes):
    """The adapter of a config's section, on a mesh of one device."""
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    settings = config.Adapter(**{"rank": 4, "weights": ALL, **changes})
    made = adapters.Adapter(settings, params, mesh)
    made.base = params
    return made


def test_a_fresh_adapter_changes_no_bit(small):
    """B starts at 0, A within 1 / sqrt(inputs), as PEFT has it, by the seed."""
    _, _, params, _, _ = small
    made = adapter_of(params)
    fresh = made.start(0)
    for path, leaf in tree.flatten(made.merge(fresh)).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params)[path], err_msg=path)
    first = fresh["blocks"]["mlp"]["up"]["lora_a"]
    assert 0.2 < np.abs(first).max() < 0.25  # 16 inputs
    again, other = (
        made.start(seed)["blocks"]["mlp"]["up"]["lora_a"] for seed in (0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_teacher_goes_with_an_adapter(small):
    """Its params come after the base's, and the student is the adapted model."""
    _, shape, params, adapter, batch = small
    teacher = jax.tree.map(lambda leaf: 1.1 * leaf, params)
    task = distillation.make(
        config.Distillation(teacher="x", weight=0.5, hidden_weight=0.5),
        objectives.LANGUAGE,
        shape.without_dropout(),
        shape,
        name="x",
    )
    compute, scale = model.Compute(), task.scale(batch)
    given = {"compute": compute, "dropout_key": None}

    def through(adapter):
        whole = model.adapt(params, adapter, scaling=SCALING)
        return task.loss(
            shape, model.merged(whole), batch, scale, frozen=teacher, **given
        )

    def lazily(adapter):
        objective = adapters.Adapted(task, SCALING)
        frozen = (params, teacher)
        return objective.loss(shape, adapter, batch, scale, frozen=frozen, **given)

    (loss, grads), (again, found) = (
        jax.jit(jax.value_and_grad(each))(adapter) for each in (through, lazily)
    )
    assert float(loss) == pytest.approx(float(again), rel=1e-6)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def scans(jaxpr):
    """What the loops of a program give, and those within it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield {out.aval.shape for out in equation.outvars}
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from scans(value.jaxpr)


def test_the_sum_is_made_for_a_layer_at_a_time(small):
    """Kept for the backward pass, it would be as large as the kernels themselves."""
    _, shape, params, adapter, batch = small
    objective = adapters.Adapted(objectives.LANGUAGE, SCALING)

    def loss(adapter):
        given = {"compute": model.Compute(), "dropout_key": None, "frozen": (params,)}
        return objective.loss(shape, adapter, batch, 1.0, **given)

    given = list(scans(jax.make_jaxpr(jax.grad(loss))(adapter).jaxpr))
    assert len(given) == 2  # over the layers, forward and back
    for path, leaf in kernels(params).items():
        for made in given:
            assert sorted(leaf.shape) not in map(sorted, made), path


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"weights": [[".*", False]]}, "weights: the rules leave nothing to adapt"),
        (
            {"weights": [["embed/.*", True], [".*", False]]},
            "embed/positions/embedding is no kernel of a block",
        ),
        ({"weights": [["blocks/.*", True]]}, "no rule covers the leaf 'embed"),
        ({"rank": 17}, "rank: 17 is more than blocks/attn/out/lora_a has use for, 16"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(small, changes, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        adapter_of(small[2], **changes)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"pruning.sparsities": [0.5]}, "adapter: does not go with pruning"),
        ({"training.steps": 0}, "adapter: training.steps 0 train none"),
        ({"optimizer.unfreeze_every_steps": 2}, "unfreeze_every_steps: at first"),
        ({"adapter.rank": 0}, "adapter.rank"),
        ({"adapter.alpha": -1}, "adapter.alpha"),
        ({"adapter.dropout": 0.1}, "adapter.dropout: unknown key"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tiny_settings, changes, wanted):
    with pytest.raises(errors.UserError, match=wanted):
        tiny_settings("never", **{"adapter.rank": 2, **changes})
