"""First-order scores against torch's autograd."""

import jax
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, errors, sharding, tree
from gptjax.pruning.criteria import taylor


@pytest.fixture(scope="module")
def hf():
    """A small GPT-2 with dropout, which a score must not see."""
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=12,
            initializer_range=0.2, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_scores_are_weight_times_gradient_of_the_mean_loss(hf, tmp_path, sizes):
    """The last batch is not full: a mean of means would weigh its sequences more."""
    hf.eval().float().save_pretrained(tmp_path / "model")
    tokens = np.random.default_rng(0).integers(0, 40, (10, 12))
    oracle = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    oracle = oracle.double().eval()
    ids = torch.tensor(tokens)
    oracle(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.copy_((parameter * parameter.grad).abs())
    oracle.float().save_pretrained(tmp_path / "scores")
    expected = tree.flatten(convert.load(tmp_path / "scores")[1])

    data, fsdp, tensor = sizes
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)
    gpt, params = convert.load(tmp_path / "model")
    places = sharding.param_shardings(mesh, params)
    params = jax.device_put(params, places)
    scores = taylor.scores(gpt, params, tokens, mesh=mesh, batch_sequences=4)
    for path, ours in tree.flatten(scores).items():
        theirs = np.asarray(expected[path])
        assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * theirs.max(), path
        assert ours.sharding.is_equivalent_to(tree.flatten(places)[path], ours.ndim)


def test_a_batch_that_the_mesh_does_not_divide_is_refused(hf, tmp_path):
    """XLA would speak of shardings where the user wrote a number of sequences."""
    hf.save_pretrained(tmp_path)
    gpt, params = convert.load(tmp_path)
    with pytest.raises(errors.UserError, match=r"calibration\.batch_sequences: 4 "):
        taylor.scores(
            gpt,
            params,
            np.zeros((4, 12), np.int32),
            mesh=sharding.make_mesh(data=2, fsdp=4),
            batch_sequences=4,
        )
