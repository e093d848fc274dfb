"""Long texts are cut only where the ids of the whole do not change."""

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies as st

from gptjax.data import cutting

WORDS = ["the", "'ll", "😀", "<|endoftext|>", "<|endof"]
SPACES = ["\n", "\n", "\r\n", "  ", "\u00a0", "\u2028", "\x1c"]
PARTS = st.sampled_from([*"aZ9é.'s!~ \t\n\r", *WORDS, *SPACES])


@pytest.fixture
def backend(tokenizer):
    return tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def _ids(backend, text):
    return backend.encode(text, add_special_tokens=False).ids


@hypothesis.settings(
    max_examples=400,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(parts=st.lists(PARTS, max_size=40), size=st.integers(1, 6))
def test_pieces_give_the_ids_of_the_whole(monkeypatch, backend, parts, size):
    """A cut inside a run of white space, or after a blank, would change tokens."""
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", size)
    text = "".join(parts)
    pieces = list(cutting.cutter(backend)([text]))
    # Where a file was read in two goes is no place to cut.
    assert list(cutting.cutter(backend)(parts)) == pieces
    assert "".join(pieces) == text
    joined = [i for piece in pieces for i in _ids(backend, piece)]
    assert joined == _ids(backend, text)


def test_a_novel_is_cut_into_pieces_of_the_size_asked_for(backend, texts):
    """A rule that never finds a place would be right, and of no use."""
    text = (texts / "austen.valid.txt").read_text(encoding="utf-8")
    pieces = list(cutting.cutter(backend)([text]))
    size = cutting.PIECE_CHARACTERS
    assert len(pieces) == len(text) // size + 1 > 1
    assert all(size <= len(piece) < 1.01 * size for piece in pieces[:-1])


def test_other_tokenizers_get_texts_whole(monkeypatch, backend):
    """Each of these splits elsewhere, or lets a token reach for white space."""
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 1)
    text = "one.\ntwo.\nthree."
    assert len(list(cutting.cutter(backend)([text]))) == 3
    backend.add_tokens([tokenizers.AddedToken("<mask>", rstrip=True)])
    assert list(cutting.cutter(backend)(["one.", text[4:]])) == [text]

    def changed(**parts):
        other = tokenizers.Tokenizer(tokenizers.models.BPE())
        other.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
        assert len(list(cutting.cutter(other)([text]))) == 3
        for name, part in parts.items():
            setattr(other, name, part)
        return other

    for other in [
        changed(pre_tokenizer=tokenizers.pre_tokenizers.ByteLevel(True)),
        changed(pre_tokenizer=tokenizers.pre_tokenizers.ByteLevel(use_regex=False)),
        changed(pre_tokenizer=tokenizers.pre_tokenizers.Whitespace()),
        changed(normalizer=tokenizers.normalizers.NFKC()),
        changed(model=tokenizers.models.BPE(dropout=0.1)),
        changed(model=tokenizers.models.WordLevel({"a": 0}, "a")),
    ]:
        assert list(cutting.cutter(other)([text])) == [text]
