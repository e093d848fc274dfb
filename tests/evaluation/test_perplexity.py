"""Perplexity against a plain torch loop, and against itself on meshes."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import gptjax
from gptjax import convert, errors, evaluation, model, sharding

PACKAGED = pathlib.Path(gptjax.__file__).parent / "assets" / "gpt2-austen"


def _torch_loss(hf_model, ids_N, *, context, stride):
    """The loop of Hugging Face's "Perplexity of fixed-length models", and its count."""
    ids = torch.tensor(np.asarray(ids_N, np.int64))[None]
    nll_sum, predicted, seen = 0.0, 0, 0
    for begin in range(0, len(ids_N), stride):
        end = min(begin + context, len(ids_N))
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - seen)] = -100
        with torch.no_grad():
            logits = hf_model(ids[:, begin:end]).logits
        nll_sum += torch.nn.functional.cross_entropy(
            logits[0, :-1].double(), labels[0, 1:], ignore_index=-100, reduction="sum"
        ).item()
        predicted += int((labels[0, 1:] != -100).sum())
        seen = end
        if end == len(ids_N):
            break
    return nll_sum / predicted, predicted


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small random model, theirs and ours, and 200 random tokens."""
    torch.manual_seed(0)
    hf_config = transformers.GPT2Config(
        vocab_size=70, n_positions=32, n_embd=32, n_layer=2, n_head=4,
        initializer_range=0.3,
    )  # fmt: skip
    hf_model = transformers.GPT2LMHeadModel(hf_config).eval()
    folder = tmp_path_factory.mktemp("small")
    hf_model.save_pretrained(folder)
    config, params = convert.load(folder)
    return hf_model, config, params, np.random.default_rng(0).integers(70, size=200)


@pytest.mark.parametrize(
    ("context", "stride", "tokens"),
    [
        (32, 32, 200),  # no overlap, a short window at the end
        (32, 32, 192),  # no window at the end
        (32, 32, 193),  # a last window of one token, which predicts nothing
        (32, 8, 200),
        (32, 31, 200),
        (16, 7, 200),
        (2, 1, 12),
        (2, 2, 12),
        (32, 32, 10),  # shorter than one window
        (32, 4, 33),
        (32, 4, 2),
    ],
)
def test_loss_is_that_of_a_plain_torch_loop(small, context, stride, tokens):
    """Windows are where an implementation counts tokens twice or forgets them."""
    hf_model, config, params, ids_N = small
    ids_N = ids_N[:tokens]
    expected, predicted = _torch_loss(hf_model, ids_N, context=context, stride=stride)
    ours = evaluation.perplexity(
        config, params, ids_N, context=context, stride=stride, batch_sequences=3
    )
    assert ours.predicted == predicted
    np.testing.assert_allclose(ours.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(ours.perplexity, math.exp(expected), rtol=1e-4)


@pytest.mark.parametrize("stride", [256, 100])
def test_perplexity_of_the_packaged_checkpoint_is_that_of_torch(stride):
    """Real weights and real text, at the size at which people read the number."""
    hf_model = transformers.GPT2LMHeadModel.from_pretrained(
        PACKAGED, dtype=torch.float32
    ).eval()
    config, params = convert.load(PACKAGED, dtype=jnp.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(PACKAGED)
    text = (PACKAGED.parent / "texts" / "austen.valid.txt").read_text("utf-8")[:5_000]
    ids_N = np.array(tokenizer(text, verbose=False)["input_ids"], np.uint16)
    expected, predicted = _torch_loss(hf_model, ids_N, context=256, stride=stride)
    ours = evaluation.perplexity(
        config,
        params,
        ids_N,
        context=256,
        stride=stride,
        batch_sequences=8,
        total_bytes=len(text.encode()),
    )
    assert ours.predicted == predicted
    np.testing.assert_allclose(ours.perplexity, math.exp(expected), rtol=1e-5)
    bits = expected / math.log(2) * len(ids_N) / len(text.encode())
    np.testing.assert_allclose(ours.bits_per_byte, bits, rtol=1e-5)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_a_mesh_changes_nothing(axes):
    """The last batch is filled up with rows that must not count."""
    config = model.Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2,
        initializer_range=0.3,
    )  # fmt: skip
    params = model.init(jax.random.key(0), config)
    data, fsdp, tensor = axes
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    placed = sharding.place(params, sharding.param_shardings(mesh, params))
    ids_N = np.random.default_rng(0).integers(50, size=333)
    settings = {"context": 16, "stride": 9, "batch_sequences": 5}
    one = evaluation.perplexity(config, params, ids_N, **settings)
    many = evaluation.perplexity(config, placed, ids_N, **settings, mesh=mesh)
    assert many.predicted == one.predicted == 332
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-6)


def test_the_batch_size_changes_nothing(small):
    """Filled-up rows must not count on one device either."""
    _, config, params, ids_N = small
    losses = [
        evaluation.perplexity(
            config, params, ids_N, context=32, stride=20, batch_sequences=sequences
        ).loss
        for sequences in (1, 4, 64)
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def test_other_params_and_texts_compile_nothing_new(small):
    """A run evaluates after every round; each compilation would cost it seconds."""
    _, config, params, ids_N = small
    settings = {"context": 24, "stride": 24, "batch_sequences": 4}
    halved = jax.tree.map(lambda x: x / 2, params)
    compilations = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        evaluation.perplexity(config, params, ids_N, **settings)
        assert compilations, "the listener hears nothing"
        compilations.clear()
        evaluation.perplexity(config, halved, ids_N[:100].astype(np.uint16), **settings)
        assert not compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_bfloat16_comes_close_and_says_so(small):
    """The dtype is part of the protocol, since it moves the number."""
    _, config, params, ids_N = small
    settings = {"context": 32, "stride": 32, "batch_sequences": 4}
    full = evaluation.perplexity(config, params, ids_N, **settings)
    half = evaluation.perplexity(config, params, ids_N, dtype=jnp.bfloat16, **settings)
    np.testing.assert_allclose(half.loss, full.loss, rtol=2e-2)
    assert half.loss != full.loss
    assert full.protocol() == (
        "text, context 32, stride 32, 193 of 200 tokens predicted, float32"
    )
    assert half.protocol().endswith("bfloat16")


def test_the_progress_bar_goes_to_stderr(small, capsys):
    """stdout belongs to the result, which scripts read."""
    _, config, params, ids_N = small
    evaluation.perplexity(
        config, params, ids_N, context=32, stride=32, batch_sequences=4, progress=True
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "100%" in printed.err


def test_figures_follow_from_their_parts():
    """Worked by hand: 30 nats over 10 tokens is 3 nats a token."""
    result = evaluation.Perplexity(
        nll_sum=30.0, tokens=12, predicted=10, context=6, stride=6, dtype="float32",
        total_bytes=48,
    )  # fmt: skip
    assert result.loss == 3.0
    assert result.perplexity == pytest.approx(20.0855369)
    assert result.tokens_per_byte == 0.25
    assert result.bytes_per_token == 4.0
    assert result.bits_per_byte == pytest.approx(3 / 4 * 1.4426950)


def test_a_loss_that_overflows_is_infinite_and_nan_stays_nan():
    """One-shot pruned models reach it; the report must still be written."""
    shared = {
        "tokens": 2,
        "predicted": 1,
        "context": 2,
        "stride": 2,
        "dtype": "float32",
    }
    assert evaluation.Perplexity(nll_sum=1e4, **shared).perplexity == math.inf
    assert math.isnan(evaluation.Perplexity(nll_sum=math.nan, **shared).perplexity)


@pytest.mark.parametrize(
    ("ids", "settings", "message"),
    [
        ([1, 2, 3], {"context": 1}, "context 1: a window needs at least 2 tokens"),
        ([1, 2, 3], {"context": 33}, "context 33 is longer than .* n_positions 32"),
        ([1, 2, 3], {"stride": 17}, "stride 17 is longer than the context 16"),
        ([1, 2, 3], {"stride": 0}, "stride 0: it must be at least 1"),
        ([1], {}, "the text has 1 tokens; at least 2"),
        ([], {}, "the text has 0 tokens"),
        ([1, 70, 2], {}, "token id 70, beyond the model's vocab_size 70"),
        ([1, -1, 2], {}, "token id -1"),
        ([1, 2, 3], {"batch_sequences": 0}, "batch_sequences 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(small, ids, settings, message):
    """A window that skips tokens, or an id that is clamped, still gives a number."""
    _, config, params, _ = small
    settings = {"context": 16, "stride": 16, "batch_sequences": 2, **settings}
    with pytest.raises(errors.UserError, match=message):
        evaluation.perplexity(config, params, np.array(ids, np.int64), **settings)
