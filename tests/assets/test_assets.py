"""The packaged checkpoint and texts are whole and found by name."""

import pytest
import torch
import transformers

from gptjax import assets, errors


def test_the_packaged_checkpoint_loads_in_stock_transformers():
    """Rounding to half precision and dropping vocab.json must not have broken it."""
    folder = assets.checkpoint()
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float16
    assert model.num_parameters() == 3_111_936
    assert len(tokenizer) == model.config.vocab_size == 2048


def test_the_packaged_tokenizer_gives_a_text_back_unchanged():
    """A tokenizer without its merges would lose or rewrite characters."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(assets.checkpoint())
    text = assets.text("shakespeare.valid").read_text(encoding="utf-8")
    ids = tokenizer(text, verbose=False)["input_ids"]
    assert len(ids) == 48_598  # as the README beside the checkpoint says
    assert tokenizer.decode(ids) == text


def test_an_unknown_text_is_an_error_that_lists_the_known_ones():
    """A misspelled name would otherwise end as a missing file far away."""
    with pytest.raises(errors.UserError, match=r"'shakespear'.*shakespeare\.train"):
        assets.text("shakespear")
