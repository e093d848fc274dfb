"""Stock PyTorch GPT-2 is the oracle: the same weights give the same numbers."""

import functools
import pathlib
import tempfile

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.torch
import torch
import transformers
from hypothesis import strategies as st

from gptjax import convert, model, tree
from gptjax.model import activations

TOLERANCE = 1e-5


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


@functools.partial(
    jax.jit,
    static_argnums=0,
    # Every config compiles anew, to run once: a fifth of the time.
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
    },
)
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


def assert_parity(folder: pathlib.Path, oracle: torch.nn.Module, tokens_BT):
    """Logits, loss and every leaf's gradient, of the checkpoint in `folder`."""
    config, params = convert.load(folder, dtype=jnp.float32)
    outputs = oracle(torch.tensor(tokens_BT), labels=torch.tensor(tokens_BT))
    outputs.loss.backward()
    (loss, logits_BTV), gradients = loss_and_gradients(config, params, tokens_BT)
    assert_close(logits_BTV, outputs.logits.detach().numpy(), "logits")
    assert_close(loss, outputs.loss.item(), "loss")

    # Torch's gradients come back as a checkpoint of their own.
    torch_gradients = {
        name: parameter.grad.contiguous()
        for name, parameter in oracle.named_parameters()
    }
    with tempfile.TemporaryDirectory() as beside:
        beside = pathlib.Path(beside)
        (beside / "config.json").write_bytes((folder / "config.json").read_bytes())
        safetensors.torch.save_file(torch_gradients, beside / "model.safetensors")
        _, wanted = convert.load(beside)
    wanted = tree.flatten(wanted)
    for path, gradient in tree.flatten(gradients).items():
        # The keys' bias has a true gradient of 0: its leaf, which holds the queries'
        # and the values' too, is compared as one.
        assert_close(gradient, np.asarray(wanted[path]), path)


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


@hypothesis.settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    # Shrinking would compile hundreds of models more; small ones come first anyway.
    phases=[hypothesis.Phase.generate],
)
@hypothesis.given(hf_config=configs(), seed=st.integers(0, 2**31), data=st.data())
def test_logits_and_gradients_are_those_of_torch(hf_config, seed, data):
    """Any field of the config that is read wrongly or not at all shows here."""
    length = data.draw(st.integers(2, hf_config.n_positions), label="tokens")
    tokens_BT = np.random.default_rng(seed).integers(
        hf_config.vocab_size, size=(2, length)
    )
    oracle = torch_model(hf_config, seed)
    with tempfile.TemporaryDirectory() as folder:
        oracle.save_pretrained(folder)
        assert_parity(pathlib.Path(folder), oracle, tokens_BT)
