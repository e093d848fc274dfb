"""Tokens by themselves, of tokenizers that write spaces and bytes in other ways."""

import pytest
import tokenizers
import transformers

from gptjax.serving import spelling

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.fixture(scope="module")
def llama():
    """A tokenizer as Llama 2's: a mark for spaces, and bytes of unknown characters."""
    words = ["<unk>", *BYTES, "▁", "a", "▁a", "is", "▁is"]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {word: id_ for id_, word in enumerate(words)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>"
    )


@pytest.mark.parametrize(
    ("token", "text", "own"),
    [
        ("▁is", " is", b" is"),
        ("is", "is", b"is"),
        ("▁", " ", b" "),
        ("<0xE2>", "<0xE2>", b"\xe2"),
        ("<0x41>", "A", b"A"),
    ],
)
def test_tokens_are_spelled_as_in_the_midst_of_a_text(llama, token, text, own):
    """Decoded alone, a word would lose its space, and so would texts put together."""
    id_ = llama.convert_tokens_to_ids(token)
    assert spelling.Spelling(llama)(id_) == (text, list(own))
