"""What tests of training share."""

import pytest


@pytest.fixture
def hugging_face():
    """A small GPT-2 of Hugging Face's, of random weights and without dropout."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=12,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, initializer_range=0.2,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
