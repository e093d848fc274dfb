"""Scores against float64 numpy on what hooks saw in stock GPT-2."""

import jax
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, sharding
from gptjax.pruning.structured import activation, leave_out, magnitude, taylor

SEQUENCES, TOKENS, HEADS, LAYERS = 5, 9, 3, 3


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A stock model whose biases and norms count."""
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=TOKENS,
        n_embd=12,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=8,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
        scale_attn_by_inverse_layer_idx=True,
    )
    torch.manual_seed(0)
    built = transformers.GPT2LMHeadModel(config).eval().double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("oracle") / "hf"
    built.float().save_pretrained(folder)
    # The float32 numbers that were saved, so that only the arithmetic differs.
    return built.double(), folder


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, 50, (SEQUENCES, TOKENS))


@pytest.fixture(scope="module", params=[1, 3])
def reading(request):
    """Batches that do not divide the sequences, on a mesh of all devices."""
    return {
        "batch_sequences": request.param,
        "mesh": sharding.make_mesh(data=2, fsdp=2, tensor=1, devices=jax.devices()[:4]),
    }


@pytest.fixture(scope="module")
def ours(oracle, reading):
    return convert.load(
        oracle[1],
        shardings=lambda shapes: sharding.param_shardings(reading["mesh"], shapes),
    )


@pytest.fixture(scope="module")
def seen(oracle, tokens):
    """What went through each block of the stock model, float64 numpy."""
    built, _ = oracle
    found = [{} for _ in range(LAYERS)]
    hooks = []

    def note(layer, name, which):
        def hook(module, inputs, output):
            value = inputs[0] if which == "in" else output
            value = value[0] if isinstance(value, tuple) else value
            found[layer][name] = value.detach().numpy()

        return hook

    for number, block in enumerate(built.transformer.h):
        for name, module, which in (
            ("x", block, "in"),
            ("y", block, "out"),
            ("ln_1", block.ln_1, "out"),
            ("ln_2", block.ln_2, "out"),
            ("hidden", block.mlp.c_proj, "in"),
            ("attended", block.attn.c_proj, "in"),
        ):
            hooks.append(module.register_forward_hook(note(number, name, which)))
    with torch.no_grad():
        built(torch.tensor(tokens))
    for hook in hooks:
        hook.remove()
    return found


def aggregated(amount_NTX):
    """Minitron's best: mean over the sequence, L2 over the batch."""
    return np.sqrt((amount_NTX.mean(1) ** 2).sum(0))


def test_influence_is_one_minus_the_mean_cosine(ours, tokens, seen, reading):
    """ShortGPT's BI; a mean of norms, or a cosine of means, ranks otherwise."""
    wanted = []
    for block in seen:
        x, y = block["x"], block["y"]
        norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
        wanted.append(1 - ((x * y).sum(-1) / norms).mean())
    got = activation.influence(*ours, tokens, **reading)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_activation_scores_are_those_of_minitron(ours, tokens, seen, reading):
    """Post-activation for neurons, norms over a head's width, LayerNorm outputs."""
    neurons = [aggregated(np.abs(block["hidden"])) for block in seen]
    np.testing.assert_allclose(
        activation.neurons(*ours, tokens, **reading), neurons, rtol=1e-5
    )
    heads = [
        aggregated(
            np.linalg.norm(
                block["attended"].reshape(SEQUENCES, TOKENS, HEADS, -1), axis=-1
            )
        )
        for block in seen
    ]
    np.testing.assert_allclose(
        activation.heads(*ours, tokens, **reading), heads, rtol=1e-5
    )
    width = sum(
        aggregated(np.abs(block[name])) for block in seen for name in ("ln_1", "ln_2")
    )
    np.testing.assert_allclose(
        activation.width(*ours, tokens, **reading), width, rtol=1e-5
    )


@pytest.mark.parametrize("what", ["neurons", "heads"])
def test_taylor_is_the_squared_gradient_of_a_gate(what, oracle, ours, tokens, reading):
    """Summed over tokens before squaring, and not over sequences."""
    built, _ = oracle
    width = {"neurons": 8, "heads": HEADS}[what]
    squares = np.zeros((LAYERS, width))
    for row in tokens:
        gates = [
            torch.ones(width, dtype=torch.float64, requires_grad=True)
            for _ in range(LAYERS)
        ]
        hooks = []
        for gate, block in zip(gates, built.transformer.h, strict=True):
            module = block.mlp.c_proj if what == "neurons" else block.attn.c_proj

            def multiply(module, inputs, gate=gate):
                (x,) = inputs
                return (x * gate.repeat_interleave(x.shape[-1] // len(gate)),)

            hooks.append(module.register_forward_pre_hook(multiply))
        sequence = torch.tensor(row[None])
        built(sequence, labels=sequence).loss.backward()
        for hook in hooks:
            hook.remove()
        squares += [gate.grad.numpy() ** 2 for gate in gates]
    got = taylor.scores(what, *ours, tokens, **reading)
    wanted = squares / SEQUENCES
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6 * wanted.max())


def test_layers_by_loss_are_those_that_torch_misses_least(
    oracle, ours, tokens, reading
):
    """Greedy and measured anew: the second choice depends on the first."""
    built, _ = oracle
    blocks = list(built.transformer.h)

    def loss(layers):
        built.transformer.h = torch.nn.ModuleList([blocks[n] for n in layers])
        with torch.no_grad():
            sequences = torch.tensor(tokens)
            value = float(built(sequences, labels=sequences).loss)
        built.transformer.h = torch.nn.ModuleList(blocks)
        return value

    first = [loss([n for n in range(LAYERS) if n != gone]) for gone in range(LAYERS)]
    gone = int(np.argmin(first))
    second = [
        None if n == gone else loss([m for m in range(LAYERS) if m not in (n, gone)])
        for n in range(LAYERS)
    ]
    dropped, losses = leave_out.greedy(*ours, tokens, count=2, **reading)
    np.testing.assert_allclose(losses[0], first, rtol=1e-6)
    assert losses[1][gone] is None
    rest = [n for n in range(LAYERS) if n != gone]
    np.testing.assert_allclose(
        [losses[1][n] for n in rest], [second[n] for n in rest], rtol=1e-6
    )
    assert dropped == [gone, min(rest, key=second.__getitem__)]


def test_magnitude_is_the_norm_of_all_that_goes(oracle, ours):
    """Weights in and out, and the biases."""
    built, _ = oracle
    _, params = ours
    for number, block in enumerate(built.transformer.h):
        state = {name: p.detach().numpy() for name, p in block.named_parameters()}
        neurons = np.sqrt(
            (state["mlp.c_fc.weight"] ** 2).sum(0)
            + state["mlp.c_fc.bias"] ** 2
            + (state["mlp.c_proj.weight"] ** 2).sum(1)
        )
        np.testing.assert_allclose(magnitude.neurons(params)[number], neurons, 1e-5)
        inward = state["attn.c_attn.weight"].reshape(12, 3, HEADS, 4)
        bias = state["attn.c_attn.bias"].reshape(3, HEADS, 4)
        outward = state["attn.c_proj.weight"].reshape(HEADS, 4, 12)
        heads = np.sqrt(
            (inward**2).sum((0, 1, 3))
            + (bias**2).sum((0, 2))
            + (outward**2).sum((1, 2))
        )
        np.testing.assert_allclose(magnitude.heads(params)[number], heads, 1e-5)
