"""The loss of packed answers; stock PyTorch, an example at a time, is the oracle."""

import jax
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, data, evaluation, model, tree
from gptjax.training import objectives, step

T, LENGTHS, LEARNT = 24, (24, 5, 9, 13, 2, 7, 11, 8), (10, 4, 1, 6, 1, 3, 5, 7)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A stock model, its folder, and examples of random tokens."""
    folder = tmp_path_factory.mktemp("oracle")
    torch.manual_seed(0)
    stock = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=29,
            n_positions=T,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    stock.save_pretrained(folder)
    ends = np.cumsum(LENGTHS)
    ids = np.random.default_rng(0).integers(0, 29, ends[-1]).astype(np.int32)
    is_learnt = np.zeros(len(ids), bool)
    for end, count in zip(ends, LEARNT, strict=True):
        is_learnt[end - count : end] = True
    bounds = np.stack([ends - LENGTHS, ends], axis=1)
    return stock, folder, data.Instructions(ids, is_learnt, bounds)


def stock_loss(stock, instructions):
    """The mean over all answers' tokens, each example run alone and not packed."""
    total = 0.0
    for number in range(len(instructions)):
        ids = torch.tensor(instructions.ids(number), dtype=torch.long)[None]
        is_learnt = torch.tensor(instructions.is_learnt(number))[None]
        loss = stock(input_ids=ids, labels=ids.masked_fill(~is_learnt, -100)).loss
        total = total + loss * LEARNT[number]
    return total / sum(LEARNT)


@pytest.mark.parametrize("parts", [1, 2])
def test_loss_and_gradients_are_those_of_examples_run_alone_in_torch(oracle, parts):
    """A packed example that saw its neighbour, or another's place, would differ."""
    stock, folder, instructions = oracle
    stock.zero_grad()
    wanted = stock_loss(stock, instructions)
    wanted.backward()
    gpt, params = convert.load(folder)
    packed = data.fit_in(instructions.lengths, T)
    assert len(packed) == 4 < len(instructions)
    batch = data.lay_out(instructions, packed, sequence_tokens=T)
    batch = {name: x.reshape(parts, -1, T) for name, x in batch.items()}
    grads, loss = jax.jit(
        lambda params, batch: step.mean_gradients(
            gpt.without_dropout(),
            params,
            batch,
            compute=model.Compute(),
            objective=objectives.ANSWERS,
        )
    )(params, batch)
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
    names = dict(stock.named_parameters())
    for name, leaf, part, place in convert.names.in_hf_order(gpt):
        got = np.asarray(tree.flatten(grads)[leaf.path])
        got = got[place] if leaf.is_stacked else got
        expected = names[name].grad.numpy()
        np.testing.assert_allclose(
            part.of_leaf(got), expected, rtol=1e-4, atol=2e-6, err_msg=name
        )


@pytest.mark.parametrize("rows", [1, 3])
def test_the_perplexity_of_answers_is_torchs(oracle, rows):
    """Whatever the packing and the batch; and the protocol counts what was."""
    stock, folder, instructions = oracle
    with torch.no_grad():
        wanted = stock_loss(stock, instructions).item()
    found = evaluation.complete(
        *convert.load(folder), instructions, sequence_tokens=T, batch_sequences=rows
    )
    assert found.loss == pytest.approx(wanted, rel=1e-5)
    assert found.protocol() == (
        "the instructions, 8 examples of at most 24 tokens, none seeing another, "
        "37 of 79 tokens predicted, those of answers and their ends, float32"
    )


def test_padding_is_told_from_tokens_that_are_read(oracle):
    """Or adversarial moves would be measured with it."""
    _, folder, instructions = oracle
    packed = data.fit_in(instructions.lengths, T)
    batch = data.lay_out(instructions, packed, sequence_tokens=T)
    is_read = objectives.ANSWERS.is_read(convert.read_config(folder), batch)
    assert is_read.sum() == sum(LENGTHS)
