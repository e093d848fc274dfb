"""Stock PyTorch GPT-2 is the oracle: the same weights give the same numbers."""

import functools
import pathlib
import tempfile

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import strategies as st

from gptjax import config, convert, model, tree
from gptjax.model import activations
from gptjax.training import optimizer

TOLERANCE = 1e-5
LEARNING_RATE, DECAY, CLIP_NORM = 1e-2, 0.1, 0.1


@st.composite
def configs(draw) -> transformers.GPT2Config:
    """Small configs over every field of `model.Config`."""
    heads = draw(st.integers(1, 3))
    floats = {"allow_nan": False, "allow_infinity": False}
    rate = st.floats(0, 1, **floats)
    return transformers.GPT2Config(
        vocab_size=draw(st.integers(11, 40)),
        n_positions=draw(st.integers(6, 12)),
        # Not 2: LayerNorm would leave nothing but signs, and gradients of 0.
        n_embd=heads * draw(st.integers(4, 8)),
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        n_inner=draw(st.none() | st.integers(1, 40)),
        activation_function=draw(st.sampled_from(sorted(activations.ACTIVATIONS))),
        resid_pdrop=draw(rate),
        embd_pdrop=draw(rate),
        attn_pdrop=draw(rate),
        layer_norm_epsilon=draw(st.floats(1e-8, 1e-1, **floats)),
        initializer_range=draw(st.floats(0.01, 0.3, **floats)),
        scale_attn_weights=draw(st.booleans()),
        scale_attn_by_inverse_layer_idx=draw(st.booleans()),
        reorder_and_upcast_attn=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )


def torch_model(config: transformers.GPT2Config, seed: int) -> torch.nn.Module:
    """A model whose biases and norms are not at their trivial first values either."""
    torch.manual_seed(seed)
    built = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return built


# Every config compiles anew, to run once: a fifth of the time.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def loss_and_gradients(config, params, tokens_BT):
    """((loss, logits), gradients); every token but the first is predicted."""
    logits_BTV = model.apply(config, params, tokens_BT)
    log_probs_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    picked = jnp.take_along_axis(log_probs_BTV, tokens_BT[:, 1:, None], axis=-1)
    return -picked.mean(), logits_BTV


def assert_close(got, wanted, what):
    scale = np.abs(wanted).max()
    error = np.abs(np.asarray(got) - wanted).max() / scale
    assert error <= TOLERANCE, f"{what}: off by {error:.2e} of its largest {scale:.2e}"


def adamw_step(params, gradients):
    """One step of the optimizer that a run builds: clipping, AdamW, decay."""
    settings = config.Optimizer(
        learning_rate=LEARNING_RATE,
        schedule="constant",
        weight_decay=DECAY,
        clip_norm=CLIP_NORM,
    )
    schedule = optimizer.make_schedule(settings, steps=1)
    chain = optimizer.make_optimizer(settings, schedule, params)

    def step(params, gradients):
        dense = jax.tree.map(lambda _: np.True_, params)
        updates, _ = chain.update(gradients, chain.init(params), params, masks=dense)
        return optax.apply_updates(params, updates)

    return jax.jit(step, compiler_options=QUICKLY)(params, gradients)


def torch_adamw_step(oracle: torch.nn.Module) -> None:
    """The same by torch, on the gradients that `oracle` holds."""
    groups = [
        {"params": [p for p in oracle.parameters() if (p.ndim > 1) == is_matrix]}
        for is_matrix in (True, False)
    ]
    groups[0]["weight_decay"], groups[1]["weight_decay"] = DECAY, 0.0
    torch.nn.utils.clip_grad_norm_(oracle.parameters(), CLIP_NORM)
    torch.optim.AdamW(groups, lr=LEARNING_RATE).step()


def assert_parity(folder: pathlib.Path, oracle: torch.nn.Module, tokens_BT):
    """Logits, loss, gradients and an AdamW step, of the checkpoint in `folder`."""
    gpt, params = convert.load(folder, dtype=jnp.float32)
    outputs = oracle(torch.tensor(tokens_BT), labels=torch.tensor(tokens_BT))
    outputs.loss.backward()
    (loss, logits_BTV), gradients = loss_and_gradients(gpt, params, tokens_BT)
    assert_close(logits_BTV, outputs.logits.detach().numpy(), "logits")
    assert_close(loss, outputs.loss.item(), "loss")

    torch_gradients = as_params(
        folder, {name: p.grad for name, p in oracle.named_parameters()}
    )
    wanted = tree.flatten(torch_gradients)
    for path, gradient in tree.flatten(gradients).items():
        # The keys' bias has a true gradient of 0: its leaf, which holds the queries'
        # and the values' too, is compared as one.
        assert_close(gradient, np.asarray(wanted[path]), path)

    # From torch's gradients: a first step of Adam is the sign of a gradient, however
    # small, and would make rounding noise as large as the step itself.
    stepped = tree.flatten(adamw_step(params, torch_gradients))
    torch_adamw_step(oracle)
    wanted = as_params(folder, {n: p.detach() for n, p in oracle.named_parameters()})
    for path, leaf in tree.flatten(wanted).items():
        off = np.abs(np.asarray(stepped[path]) - np.asarray(leaf)).max()
        largest = max(LEARNING_RATE, np.abs(np.asarray(leaf)).max())
        assert off <= TOLERANCE * largest, f"{path} after AdamW: off by {off:.2e}"


def as_params(folder: pathlib.Path, tensors: dict[str, torch.Tensor]):
    """Tensors by torch's names as a tree like params: a checkpoint of their own."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory() as beside:
        beside = pathlib.Path(beside)
        (beside / "config.json").write_bytes((folder / "config.json").read_bytes())
        safetensors.torch.save_file(tensors, beside / "model.safetensors")
        return convert.load(beside)[1]


def test_the_packaged_checkpoint_is_the_one_torch_computes():
    """A real model has what random ones lack: trained norms and sharp attention."""
    folder = convert.resolve("packaged")
    oracle = transformers.GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens_BT = np.random.default_rng(0).integers(
        oracle.config.vocab_size, size=(2, 64)
    )
    assert_parity(folder, oracle, tokens_BT)


def drawn(max_examples):
    """The settings of a test of so many configs."""
    return hypothesis.settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        # Shrinking would compile hundreds of models more; small ones come first anyway.
        phases=[hypothesis.Phase.generate],
    )


@drawn(10)
@hypothesis.given(hf_config=configs(), seed=st.integers(0, 2**31), data=st.data())
def test_logits_and_gradients_are_those_of_torch(hf_config, seed, data):
    """Any field of the config that is read wrongly or not at all shows here."""
    assert_drawn_parity(hf_config, seed, data)


@pytest.mark.slow
@drawn(30)
@hypothesis.given(hf_config=configs(), seed=st.integers(0, 2**31), data=st.data())
def test_more_logits_and_gradients_are_those_of_torch(hf_config, seed, data):
    """Other configs than those above: what is drawn depends on a test's name, too."""
    assert_drawn_parity(hf_config, seed, data)


def assert_drawn_parity(hf_config, seed, data):
    length = data.draw(st.integers(2, hf_config.n_positions), label="tokens")
    tokens_BT = np.random.default_rng(seed).integers(
        hf_config.vocab_size, size=(2, length)
    )
    oracle = torch_model(hf_config, seed)
    with tempfile.TemporaryDirectory() as folder:
        oracle.save_pretrained(folder)
        assert_parity(pathlib.Path(folder), oracle, tokens_BT)
