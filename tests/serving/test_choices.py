"""Answers from tokens: stop strings, what is held back, where tokens begin."""

import pytest

from gptjax import assets, data, generation, writing
from gptjax.serving import choices, replies, spelling

WORDS = ["", "The", " end", " is", " ne", "ar", "é", "EN", "D"]


class _Telling:
    """Of which token 6 waits for the next one, as half a character does."""

    def __init__(self):
        self.held = ""

    def take(self, tokens, *, is_last):
        text = self.held + "".join(WORDS[id_] for id_ in tokens)
        self.held = ""
        if tokens == [6] and not is_last:
            self.held, text = text, ""
        return text


def _spelled(id_):
    return spelling.Spelled(WORDS[id_], None)


def _choice(stops=(), new=20, likeliest=0):
    options = generation.Options(max_new_tokens=new, eos_token_id=0)
    return choices.Choice(
        _Telling(), _spelled, options, stops=stops, likeliest=likeliest
    )


def _take(choice, ids):
    log_probs = generation.LogProbs(-0.5, [(1, -0.1), (2, -0.2)])
    return [choice.take(generation.Token(0, id_, log_probs)) for id_ in ids]


def test_what_may_begin_a_stop_string_is_held_back():
    """Once told, it could not be taken back."""
    deltas = _take(_choice(stops=["near END", "xyz"]), [1, 3, 4, 5, 2])
    texts = [each.text for each in deltas]
    assert texts == ["The", " is", " ", "", "near end"]
    assert {each.finish for each in deltas} == {None}


@pytest.mark.parametrize("ids", [[1, 7, 8, 3], [1, 4, 7, 8]])
def test_the_first_stop_string_ends_the_text(ids):
    """Even where a shorter one ends later, or lies in the same token."""
    choice = _choice(stops=["D", "END"], likeliest=0)
    found = []
    for id_ in ids:
        found += _take(choice, [id_])
        if choice.finish:
            break
    assert "".join(each.text for each in found) == "".join(
        WORDS[id_] for id_ in ids[: ids.index(7)]
    )
    assert found[-1].finish == "stop"
    tokens = [each.token.text for delta in found for each in delta.tokens]
    assert "".join(tokens) == "".join(each.text for each in found)


def test_tokens_are_told_with_the_text_that_they_begin():
    """Half a character has none yet; then both its tokens begin where it does."""
    deltas = _take(_choice(likeliest=1), [1, 6, 3, 0])
    assert [each.text for each in deltas] == ["The", "", "é is", ""]
    told = [
        [(each.token.text, each.offset) for each in delta.tokens] for delta in deltas
    ]
    assert told == [[("The", 0)], [], [("é", 3), (" is", 3)], []]
    assert deltas[0].tokens[0].likeliest == [(_spelled(1), -0.1)]
    assert deltas[-1].finish == "stop"


def test_the_last_token_brings_what_was_held_back():
    """Of a stop string that never came, and of a character that never ended."""
    choice = _choice(stops=["near END"], new=3, likeliest=0)
    deltas = _take(choice, [1, 4, 5])
    assert [each.text for each in deltas] == ["The", " ", "near"]
    assert deltas[-1].finish == "length"
    tokens = [each.token.text for delta in deltas for each in delta.tokens]
    assert tokens == ["The", " ne", "ar"]


def test_parts_of_a_character_are_told_with_their_own_bytes():
    """Whoever puts the bytes of tokens together must get the text."""
    loaded = data.load_tokenizer(str(assets.checkpoint()))
    ids = loaded("é€ no")["input_ids"]
    choice = choices.Choice(
        writing.Telling(data.Tokenizer.of(loaded), [5], ()),
        spelling.Spelling(loaded),
        generation.Options(max_new_tokens=len(ids)),
        stops=(),
        likeliest=2,
    )
    told = []
    for id_ in ids:
        log_probs = generation.LogProbs(-0.5, [(ids[1], -0.1), (id_, -0.5)])
        told += choice.take(generation.Token(0, id_, log_probs)).tokens
    content = replies.ChatLogProbs.of(told).content
    assert [each.bytes for each in content[:2]] == [[195], [169]]
    assert b"".join(bytes(each.bytes) for each in content).decode() == "é€ no"
    assert content[0].top_logprobs[0].bytes == [169]
