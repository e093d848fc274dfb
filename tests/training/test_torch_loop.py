"""A plain PyTorch loop over Hugging Face's model, followed step by step."""

import itertools

import numpy as np
import pytest
import torch
import transformers

from gptjax import assets, config, convert, data, masks, model, sharding
from gptjax.training import optimizer, state, step

STEPS, SEQUENCES, LENGTH = 50, 4, 64


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """The first batches of Shakespeare, (1, B, T) each."""
    tokens = data.tokenize(
        config.Source(path=str(assets.text("shakespeare.train"))),
        data.Tokenizer(assets.checkpoint()),
        append_eos=False,
        workers=1,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        vocab_size=2048,
        progress=False,
    )
    stream = data.Batches(
        tokens,
        sequence_tokens=LENGTH,
        batch_sequences=SEQUENCES,
        accumulation_steps=1,
        seed=0,
        respect_documents=False,
    )
    return list(itertools.islice(stream, STEPS))


def torch_losses(batches):
    """AdamW with clipping, decay and a cosine schedule, as anyone writes it."""
    model = transformers.GPT2LMHeadModel.from_pretrained(
        assets.checkpoint(),
        dtype=torch.float32,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    schedule = transformers.get_cosine_schedule_with_warmup(adamw, 5, STEPS)
    losses = []
    for batch in batches:
        tokens = torch.tensor(batch["tokens"][0]).long()
        loss = model(input_ids=tokens, labels=tokens).loss
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def our_losses(batches):
    """The same through gptjax's step."""
    import jax

    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    gpt, params = convert.load(assets.checkpoint(), dtype=np.float32)
    gpt = gpt.without_dropout()
    settings = config.Optimizer(
        learning_rate=1e-3, warmup_steps=5, weight_decay=0.1, options={"b2": 0.95}
    )
    schedule = optimizer.make_schedule(settings, steps=STEPS)
    chain = optimizer.make_optimizer(settings, schedule, params)
    dense = masks.dense(params, config.Pruning(sparsities=(0.5,)).prunable)
    places = state.shardings(mesh, params, dense, chain)
    train_step = step.make_step(gpt, chain, schedule, places, model.Compute(mesh=mesh))
    current = state.make_start(chain, places)(params, dense, 0)
    losses = []
    for batch in batches:
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        current, metrics = train_step(current, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.slow
def test_fifty_steps_follow_torchs_loss_curve(batches):
    """One wrong constant (epsilon, bias correction, decay) bends the curve apart."""
    expected, ours = torch_losses(batches), our_losses(batches)
    assert expected[-1] < expected[0] - 0.5
    np.testing.assert_allclose(ours, expected, rtol=1e-3)
