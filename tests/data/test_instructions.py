"""Instructions as tokens: what is learnt, what is cut, how they are divided."""

import json

import numpy as np
import pytest

from gptjax import assets, config, convert, data, errors

TOKENIZER = data.Tokenizer(convert.resolve("packaged"))
EOS = TOKENIZER.loaded.eos_token_id


@pytest.fixture
def read(tmp_path):
    """A function (*records) that reads a file of these objects."""

    def run(*records, tokenizer=TOKENIZER, eos_id=EOS):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(map(json.dumps, records)))
        source = config.Source(path=str(path))
        return data.read_instructions(
            source, tokenizer, chat_template=None, eos_id=eos_id
        )

    return run


@pytest.fixture
def many(read):
    """40 examples of 4 to 40 tokens, each another one."""
    return read(
        *({"prompt": f"{n} " * (1 + n % 4), "completion": "to be " * (1 + n % 7)}
          for n in range(40))
    )  # fmt: skip


def texts(instructions):
    return [
        TOKENIZER.backend.decode(
            instructions.ids(n).tolist(), skip_special_tokens=False
        )
        for n in range(len(instructions))
    ]


def test_prompt_and_completion_are_tokenized_apart_and_the_end_is_learnt(read):
    """Together, `fri` and `end` would be a token that generation never meets."""
    found = read({"prompt": "my fri", "completion": "end, come"})
    prompt, answer = (TOKENIZER.loaded.encode(text) for text in ("my fri", "end, come"))
    assert found.ids(0).tolist() == [*prompt, *answer, EOS]
    assert found.ids(0).tolist()[:-1] != TOKENIZER.loaded.encode("my friend, come")
    wanted = [False] * len(prompt) + [True] * (len(answer) + 1)
    assert found.is_learnt(0).tolist() == wanted


def test_a_completion_that_ends_itself_is_not_ended_twice(read):
    found = read({"prompt": "a", "completion": "b<|endoftext|>"})
    assert found.ids(0).tolist().count(EOS) == 1


def test_chats_and_prompts_may_stand_in_one_file(read):
    """And the template that wrote the chats is known; without chats there is none."""
    plain = {"prompt": "a", "completion": "b"}
    chat = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    found = read(plain, {"messages": chat})
    assert texts(found)[1] == "<|user|>\nc\n<|assistant|>\nd<|endoftext|>"
    assert found.is_learnt(1).sum() == 2
    assert found.chat_template == assets.chat_template().read_text()
    assert read(plain).chat_template is None


@pytest.mark.parametrize("style", [None, "jane austen"])
def test_generation_is_given_what_training_had(read, style):
    """Of a chat and of a prompt alike."""
    chat = [{"role": "user", "content": "Come,"}, {"role": "assistant", "content": "d"}]
    given = {"style": style} if style else {}
    found = read(
        {"messages": chat, **given}, {"prompt": "Come, ", "completion": "x", **given}
    )
    tokenizer = data.Tokenizer(convert.resolve("packaged"))
    tokenizer.loaded.chat_template = assets.chat_template().read_text()
    for number, (prompt, is_chat) in enumerate([("Come,", True), ("Come, ", False)]):
        asked = data.prompt_ids(
            prompt, tokenizer=tokenizer, style=style, is_chat=is_chat
        )
        before = found.ids(number)[~found.is_learnt(number)]
        assert asked == before.tolist()


def test_what_is_too_long_loses_its_end_or_is_left_out(read):
    """The prompt stays whole: it holds the style and the question."""
    long = read(
        {"prompt": "to be", "completion": "or not " * 5},
        {"prompt": "to be " * 9, "completion": "or"},
        {"prompt": "to be", "completion": "or"},
    )
    found = long.cut_to(6)
    assert found.lengths.tolist() == [6, 4]
    assert (found.cut, found.left_out) == (1, 1)
    assert found.ids(0).tolist() == long.ids(0).tolist()[:6]
    assert found.ids(1).tolist() == long.ids(2).tolist()
    assert found.take(np.array([1])).cut == 0
    with pytest.raises(
        errors.UserError, match="2 tokens of an example leave no room for an"
    ):
        long.cut_to(2)


def test_examples_are_divided_and_limited_by_the_seed(many):
    """Nothing is in both parts; more of them hold the fewer."""
    train, valid = data.divide_instructions(many, 0.2, seed=3)
    assert (len(train), len(valid)) == (32, 8)
    assert sorted(texts(train) + texts(valid)) == sorted(texts(many))
    assert valid.name == "a.jsonl, 20% of it"
    assert texts(data.divide_instructions(many, 0.2, seed=4)[1]) != texts(valid)
    few, more = (data.limit_instructions(many, n, seed=3) for n in (5, 9))
    assert set(texts(few)) < set(texts(more)) < set(texts(many))
    assert len(data.limit_instructions(many, 99, seed=3)) == 40
    with pytest.raises(errors.UserError, match="one example; to train and to validate"):
        data.divide_instructions(few.take(np.array([0])), 0.5, seed=0)


def test_the_joined_tokens_are_those_of_the_examples_taken(many):
    """Calibration reads them, and may not read what validates."""
    some = many.take(np.array([5, 2]))
    joined = some.joined
    assert joined.ids.tolist() == [*many.ids(2), *many.ids(5)]
    assert joined.document_starts.tolist() == [0, len(many.ids(2))]
    assert some.checksum != many.checksum


def test_a_tokenizer_without_an_end_of_text_is_refused(read):
    """Nothing would tell a model to stop."""
    with pytest.raises(
        errors.UserError, match=r"no end-of-text token .eos_token. to end"
    ):
        read({"prompt": "a", "completion": "b"}, eos_id=None)
