"""What OpenAI's own client gets, beside what `gptjax generate` writes."""

import asyncio

import jax
import numpy as np
import openai
import pytest

from gptjax import cli

PROMPT = "It is a truth"


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as made:
        yield made


def _streamed(events):
    """Text, reason of the end and usage of a stream of one completion."""
    text, finish, usage = "", None, None
    for event in events:
        usage = event.usage or usage
        for choice in event.choices:
            text += choice.text
            finish = choice.finish_reason or finish
    return text, finish, usage


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (["--seed", "3"], {"seed": 3}),
        pytest.param(["--greedy"], {"temperature": 0}, marks=pytest.mark.slow),
        pytest.param(
            ["--seed", "9", "--temperature", "1.2", "--top-p", "0.9", "--top-k", "0"],
            {"seed": 9, "temperature": 1.2, "top_p": 0.9, "extra_body": {"top_k": 0}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_seed_writes_what_the_command_writes(client, capfd, flags, asked):
    """Nobody could believe a server whose text cannot be had again without it."""
    assert (
        cli.main(["generate", "packaged", "--prompt", PROMPT, "--tokens=20", *flags])
        == 0
    )
    written = capfd.readouterr().out
    asked = {"model": "packaged", "prompt": PROMPT, "max_tokens": 20, **asked}
    whole = client.completions.create(**asked)
    assert f"{PROMPT}{whole.choices[0].text}\n" == written
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 20
    options = {"include_usage": True}
    events = client.completions.create(**asked, stream=True, stream_options=options)
    text, finish, usage = _streamed(events)
    assert (text, finish) == (whole.choices[0].text, "length")
    assert usage == whole.usage


def test_a_chat_is_answered_as_the_command_answers(client, capfd, models):
    """By the model's own template, whole and streamed."""
    folder = str(models["chat"].model.folder)
    flags = ["--chat", "--prompt", "Who are you?", "--tokens=12", "--seed=5"]
    assert cli.main(["generate", folder, *flags]) == 0
    written = capfd.readouterr().out
    asked = {
        "model": "chat",
        "messages": [{"role": "user", "content": "Who are you?"}],
        "max_completion_tokens": 12,
        "seed": 5,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.role == "assistant"
    assert f"{whole.choices[0].message.content}\n" == written
    events = list(client.chat.completions.create(**asked, stream=True))
    assert events[0].choices[0].delta.role == "assistant"
    parts = [event.choices[0].delta.content or "" for event in events]
    assert "".join(parts) == whole.choices[0].message.content
    assert events[-1].choices[0].finish_reason == "length"


def test_a_chat_goes_on_with_the_servers_own_message(client):
    """As OpenAI's examples do it: what came is sent back, with all its fields."""
    turns = [{"role": "user", "content": "Who are you?"}]
    asked = {"model": "chat", "max_completion_tokens": 4, "seed": 5}
    first = client.chat.completions.create(messages=turns, **asked)
    turns += [first.choices[0].message, {"role": "user", "content": "And now?"}]
    second = client.chat.completions.create(messages=turns, **asked)
    assert second.usage.prompt_tokens > first.usage.total_tokens


def test_log_probabilities_are_those_of_the_whole_text(client, models):
    """Read at once by the model, the text must have the very chances that were told."""
    own = models["packaged"].model
    asked = {"model": "packaged", "prompt": PROMPT, "max_tokens": 8, "seed": 1}
    choice = client.completions.create(**asked, logprobs=3).choices[0]
    told = choice.logprobs
    assert "".join(told.tokens) == choice.text
    ends = [*told.text_offset[1:], len(choice.text)]
    for token, begin, end in zip(told.tokens, told.text_offset, ends, strict=True):
        assert choice.text[begin:end] == token
    before, after = (
        own.tokenizer(text)["input_ids"] for text in (PROMPT, PROMPT + choice.text)
    )
    assert after[: len(before)] == before
    logits = own(np.array([after]))[0, len(before) - 1 : -1]
    expected = np.asarray(jax.nn.log_softmax(logits))
    for id_, row, value, likeliest in zip(
        after[len(before) :],
        expected,
        told.token_logprobs,
        told.top_logprobs,
        strict=True,
    ):
        assert value == pytest.approx(row[id_], abs=1e-4)
        best = np.argsort(row)[::-1][:3]
        wanted = {own.tokenizer.decode([each]): row[each] for each in [*best, id_]}
        assert likeliest == pytest.approx(wanted, abs=1e-4)


def test_chats_have_log_probabilities_in_their_own_layout(client):
    """The same numbers as a completion of the same tokens, but nested."""
    asked = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        "seed": 1,
    }
    choice = client.chat.completions.create(
        model="chat", **asked, logprobs=True, top_logprobs=2
    ).choices[0]
    content = choice.logprobs.content
    assert "".join(each.token for each in content) == choice.message.content
    for each in content:
        assert len(each.top_logprobs) == 2
        assert bytes(each.bytes).decode() == each.token
        assert each.logprob <= each.top_logprobs[0].logprob + 1e-6


def test_each_of_n_and_of_several_prompts_is_drawn_apart(client, models):
    """Numbered through, as `generate` numbers them with one seed for all."""
    prompts = ["It is", "She was"]
    made = client.completions.create(
        model="packaged", prompt=prompts, n=3, max_tokens=6, seed=7
    )
    assert [choice.index for choice in made.choices] == list(range(6))
    expected = models["packaged"].model.generate(
        prompts, num_return_sequences=3, seed=7, max_new_tokens=6, do_sample=True,
        temperature=0.8,
    )  # fmt: skip
    assert [choice.text for choice in made.choices] == expected
    assert made.usage.completion_tokens == 36


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_a_text_before_it(client, stream):
    """It may lie across tokens, and of it nothing may be seen."""
    asked = {"model": "packaged", "prompt": PROMPT, "max_tokens": 20, "seed": 3}
    text = client.completions.create(**asked).choices[0].text
    stop = text[12:17]
    made = client.completions.create(**asked, stop=[stop, "qqq"], stream=stream)
    if stream:
        found, finish, _ = _streamed(made)
    else:
        found, finish = made.choices[0].text, made.choices[0].finish_reason
    assert (found, finish) == (text[: text.index(stop)], "stop")


def test_a_bias_forbids_and_forces_tokens(client, models):
    """By token ids, as strings, as OpenAI's API has them."""
    id_ = models["packaged"].model.tokenizer(" the")["input_ids"][0]
    made = client.completions.create(
        model="packaged", prompt=PROMPT, max_tokens=3, logit_bias={str(id_): 100}
    )
    assert made.choices[0].text == " the the the"


def test_the_models_are_listed_with_their_size(client, models):
    """A page shows dense and pruned side by side."""
    found = {each.id: each for each in client.models.list()}
    assert found.keys() == models.keys()
    assert found["packaged"].parameters == 3_111_936
    assert found["packaged"].bytes > 3_111_936
    assert 0 <= found["packaged"].sparsity < 0.01
    assert client.models.retrieve("labels").labels == {
        "mood": ["glad", "sad"],
        "speech": ["noun", "verb"],
    }


@pytest.mark.slow
def test_64_clients_at_once_each_get_their_own(url, models):
    """None lost, none mixed up: each text is that of its prompt and seed."""
    seeds = range(64)
    prompts = [f"{('He', 'She', 'They')[number % 3]} had" for number in seeds]
    own = models["packaged"].model
    expected = own.generate(
        prompts, seed=list(seeds), max_new_tokens=8, do_sample=True, temperature=0.8
    )

    async def ask(client, number):
        events = await client.completions.create(
            model="packaged", prompt=prompts[number], seed=seeds[number],
            max_tokens=8, stream=True,
        )  # fmt: skip
        return "".join([event.choices[0].text async for event in events])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:
            return await asyncio.gather(*(ask(client, number) for number in seeds))

    assert asyncio.run(ask_all()) == expected
    assert len(set(expected)) > 60
    assert models["packaged"].scheduler.running == 0
