"""The generate command and `Model.generate`, as a user meets them."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest

import gptjax
from gptjax import assets, cli, convert, model

SHORT = ("--tokens", "8")


@pytest.fixture(scope="module")
def own():
    """The packaged model: each test asks it for little."""
    return gptjax.load("packaged")


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """Every other layer of it, as a draft."""
    config, params = convert.load(assets.checkpoint())
    blocks = jax.tree.map(lambda leaf: leaf[::2], params["blocks"])
    config = dataclasses.replace(config, n_layer=len(jax.tree.leaves(blocks)[0]))
    folder = tmp_path_factory.mktemp("models") / "child"
    convert.save(folder, config, {**params, "blocks": blocks}, like=assets.checkpoint())
    return folder


@pytest.fixture
def run(capfd):
    """A function (*arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main(["generate", *map(str, arguments)])
        return (code, *capfd.readouterr())

    return call


def _with_options(folder, **values):
    """The packaged model with a generation_config.json of its own."""
    shutil.copytree(assets.checkpoint(), folder)
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def test_prompts_are_followed_by_what_python_gets(run, own):
    """One prompt streams, several are written at once: both as `generate` writes."""
    prompts = ["It was", "Emma"]
    expected = [
        prompt + text
        for prompt, text in zip(
            prompts, own.generate(prompts, max_new_tokens=8), strict=True
        )
    ]
    greedy = (*SHORT, "--greedy")
    code, out, _ = run("packaged", *greedy, "--prompt", prompts[0])
    assert (code, out) == (0, expected[0] + "\n")
    pair = ("--prompt", prompts[0], "--prompt", prompts[1])
    code, out, _ = run("packaged", *greedy, *pair)
    assert (code, out) == (0, "\n---\n".join(expected) + "\n")


def test_options_go_by_hugging_faces_names(run, own):
    """Any of them, not only those that are flags too."""
    given = {"num_beams": 3, "no_repeat_ngram_size": 2, "num_return_sequences": 2}
    expected = own.generate(["It was"], max_new_tokens=8, **given)
    settings = [f"{name}={value}" for name, value in given.items()]
    code, out, _ = run("packaged", *settings, *SHORT, "--prompt", "It was")
    assert code == 0
    assert out == "\n---\n".join("It was" + text for text in expected) + "\n"
    assert len(expected) == 2


def test_a_checkpoints_own_options_hold_unless_others_are_given(tmp_path, run):
    """As with transformers: a chat model would else never stop."""
    folder = _with_options(tmp_path / "m", stop_strings=["e"], temperature=0.01)
    loaded = gptjax.load(folder)
    text = loaded.generate(["It was a"], max_new_tokens=40)[0]
    assert text.count("e") >= 1
    assert "e" in text[-4:]  # of the last token
    longer = loaded.generate(["It was a"], max_new_tokens=40, stop_strings=["Zq"])[0]
    assert longer.startswith(text)
    assert len(longer) > len(text)
    code, out, _ = run(folder, "--tokens", 40, "--prompt", "It was a")
    # So cold, a draw is the likeliest token.
    assert (code, out) == (0, f"It was a{text}\n")


def test_a_draft_writes_the_same(run, own, child):
    """Its proposals may only save time."""
    expected = own.generate(["It was"], max_new_tokens=24)
    drafted = own.generate(
        ["It was"], max_new_tokens=24, assistant_model=gptjax.load(child)
    )
    assert drafted == expected
    arguments = ("--tokens", 24, "--greedy", "--prompt", "It was", "--draft", child)
    assert run("packaged", *arguments)[1] == f"It was{expected[0]}\n"


def test_typed_lines_are_answered_one_by_one(run, own, monkeypatch):
    """Without a prompt; an empty line is none, and each draws for itself."""
    monkeypatch.setattr("sys.stdin", io.StringIO("It was\n\nEmma\n"))
    code, out, err = run("packaged", *SHORT, "--greedy")
    expected = own.generate(["It was", "Emma"], max_new_tokens=8)
    assert (code, err) == (0, "")
    assert out == f"It was{expected[0]}\nEmma{expected[1]}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("It was\nIt was\n"))
    _, out, _ = run("packaged", *SHORT, "temperature=3.0")
    half = len(out) // 2
    assert out[:half] != out[half:]


def test_a_chat_is_gone_on_with(run, tmp_path, monkeypatch):
    """What was said and answered is part of the next prompt."""
    folder = tmp_path / "m"
    shutil.copytree(assets.checkpoint(), folder)
    (folder / "chat_template.jinja").write_text(assets.chat_template().read_text())
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello.\nAgain?\n"))
    code, out, _ = run(folder, *SHORT, "--greedy", "--chat")
    assert code == 0
    loaded = gptjax.load(folder)
    turns = [{"role": "user", "content": "Hello."}]
    first = loaded.generate([turns], chat=True, max_new_tokens=8)[0]
    turns += [{"role": "assistant", "content": first}]
    turns += [{"role": "user", "content": "Again?"}]
    second = loaded.generate([turns], chat=True, max_new_tokens=8)[0]
    assert out == f"{first}\n{second}\n"


def test_ids_and_scores_are_given_on_request(own):
    """`generate_tokens` is `generate` without the tokenizer."""
    ids = own.tokenizer.encode("It was")
    made = own.generate_tokens(["It was", ids], max_new_tokens=6, output_scores=True)
    assert made.tokens[0] == made.tokens[1]
    logits_TV = np.asarray(own([ids + made.tokens[0]]))[0]
    scores_TV = logits_TV[len(ids) - 1 : -1]
    np.testing.assert_allclose(made.scores[0], scores_TV, rtol=1e-4, atol=1e-4)
    assert scores_TV.argmax(-1).tolist() == made.tokens[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_beam=4"], "num_beam: no option of generation; did you mean num_beams?"),
        (["penalty_alpha=0.6"], "penalty_alpha"),
        (["top_p=2"], "top_p"),
        (["top_p"], "'top_p' is no option; write name=value"),
        (["top_p=[1"], "not YAML"),
        (["--greedy", "--top-k", "4"], "--greedy: top_k is of drawing"),
        (["--greedy", "min_p=0.1"], "--greedy: min_p is of drawing"),
        (["num_beams=4", "--temperature", "0.5"], "temperature: says nothing unless"),
        (["do_sample=false", "--top-p", "0.5"], "top_p: says nothing unless"),
        (["top_k=5", "--top-k", "3"], "top_k: given twice"),
        (["--tokens", "5", "max_length=9"], "--tokens: goes before max_length"),
        (["max_length=3"], "max_length 3: the prompt alone has"),
        (["output_scores=true"], "output_scores: texts come without"),
        (["sequence_bias=[[[], 2.0]]"], "sequence_bias"),
        (["early_stopping=maybe"], "valid boolean"),
        (["bad_words_ids=[5]"], "valid list"),
        (["=5"], "'': no option of generation"),
        (["--tokens", "250"], "n_positions 256"),
        (["--chat"], "chat template"),
        (["--draft", "packaged", "num_beams=2"], "num_beams"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(run, arguments, message):
    """No option is ignored in silence."""
    prompt = ("--prompt", "It was a truth universally acknowledged, that a")
    code, out, err = run("packaged", *arguments, *prompt)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_checkpoints_options_that_there_are_not_are_named(run, tmp_path):
    """A file, too, may ask for what gptjax would else leave undone."""
    folder = _with_options(tmp_path / "m", penalty_alpha=0.6)
    code, _, err = run(folder, "--prompt", "It was")
    assert code == 1
    assert "generation_config.json" in err
    assert "penalty_alpha" in err


def test_lengths_are_those_that_were_asked_for(run, tmp_path):
    """By the checkpoint, by an option, or 50: a flag's own default would go before."""
    own = gptjax.load(_with_options(tmp_path / "m", max_new_tokens=7))
    prompt, count = "It was", len(own.tokenizer.encode("It was"))

    def written(*arguments):
        code, out, _ = run(own.folder, "--greedy", *arguments, "--prompt", prompt)
        assert code == 0
        return out.removesuffix("\n").removeprefix(prompt)

    def text(new):
        return own.generate([prompt], max_new_tokens=new)[0]

    assert written() == text(7)
    assert written(f"max_length={count + 3}") == text(3)
    assert written("--tokens", "4") == text(4)
    (folder := tmp_path / "n").mkdir()
    for file in own.folder.iterdir():
        if file.name != "generation_config.json":
            shutil.copyfile(file, folder / file.name)
    own = gptjax.load(folder)
    assert written() == text(50)


@pytest.mark.parametrize(
    "values",
    [
        {"max_cache_len": None, "cache_config": None, "temperature": 0.7},
        {"temperature": 0.0, "do_sample": False},
        {"num_return_sequences": 2},
        {"eos_token_id": None},
    ],
    ids=str,
)
def test_a_checkpoints_options_may_be_anything_that_is_harmless(values, run, tmp_path):
    """Written out by transformers, or of use with other options only."""
    folder = _with_options(tmp_path / "m", **values)
    more = ["num_return_sequences=1"] if "num_return_sequences" in values else []
    code, out, _ = run(folder, *SHORT, "--greedy", *more, "--prompt", "It was")
    assert code == 0
    assert out.startswith("It was")


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([5, 6, 7], {}, "prompt 1 is 5; it takes a text, or token ids"),
        ([None], {}, "prompt 1 is None"),
        ([[]], {}, "the prompt is empty"),
        ([[{"role": "user", "content": "a"}]], {}, "with chat the turns of one"),
        ([[3, 4]], {"style": "austen"}, "style and chat are of texts"),
        (["a"], {"seed": 0.5}, "seed 0.5: it is an integer"),
        (["a"], {"seed": -1}, "seed -1: it is an integer between 0"),
        (["a"], {"top_k": 5}, "top_k: says nothing unless tokens are drawn"),
        (["a"], {"output_scores": True}, "generate_tokens keeps them"),
    ],
    ids=str,
)
def test_what_python_cannot_ask_for_is_one_line(own, prompts, options, message):
    """A traceback from within JAX tells nobody what was wrong."""
    with pytest.raises(gptjax.UserError, match=message) as told:
        own.generate(prompts, **options)
    assert "\n" not in str(told.value)


def test_ids_and_seeds_may_be_of_any_integers(own):
    """As tokenizers and NumPy give them."""
    ids = own.tokenizer("It was a truth").input_ids
    how = {"max_new_tokens": 5, "do_sample": True}
    expected = own.generate([ids], seed=3, **how)
    for given in (np.array([ids]), [np.array(ids)], jax.numpy.array([ids])):
        assert own.generate(given, seed=np.int64(3), **how) == expected
    assert own.generate([ids], seed=np.array([3]), **how) == expected


@pytest.mark.slow
def test_a_draft_reaches_as_far_as_it_is_needed(own, child, tmp_path):
    """Rounded up to a power of two, what it has to read would seem too long for it."""
    loaded = gptjax.load(child)
    short = dataclasses.replace(loaded.config, n_positions=100)
    params = dict(loaded.params)
    table = params["embed"]["positions"]["embedding"][:100]
    embed = {**params["embed"], "positions": {"embedding": table}}
    convert.save(tmp_path / "d", short, {**params, "embed": embed}, like=child)
    expected = own.generate(["It was"], max_new_tokens=90)
    drafted = own.generate(
        ["It was"], max_new_tokens=90, assistant_model=str(tmp_path / "d")
    )
    assert drafted == expected
    with pytest.raises(gptjax.UserError, match="n_positions 100 are fewer than the"):
        own.generate(["It was"], max_new_tokens=99, assistant_model=str(tmp_path / "d"))


def test_a_draft_of_another_vocabulary_is_refused(run, tmp_path):
    """Its tokens would be other words."""
    small = model.Config(vocab_size=300, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    params = model.init(jax.random.key(0), small)
    convert.save(tmp_path / "other", small, params)
    code, _, err = run("packaged", "--prompt", "x", "--draft", tmp_path / "other")
    assert code == 1
    assert str(tmp_path / "other") in err
