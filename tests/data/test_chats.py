"""Chats by their templates; transformers' own mask of the assistant is the oracle."""

import pytest
import transformers

from gptjax import assets, config, convert, data, errors
from gptjax.data import chats

CHAT = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who wrote Emma?"},
    {"role": "assistant", "content": "Jane Austen."},
    {"role": "user", "content": "And\n\nHamlet?"},
    {"role": "assistant", "content": "  Shakespeare.\n"},
)
CHATML = """\
{% for message in messages %}
{{- '<|im_start|>' + message.role + '\n' -}}
{% if message.role == 'assistant' %}
{% generation %}{{ message.content | trim + eos_token }}{% endgeneration %}
{% else %}{{ message.content }}{% endif %}{{ '\n' -}}
{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""


@pytest.fixture
def make():
    """A function (template) -> `chats.Template`, with a tokenizer of its own."""

    def run(text):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            convert.resolve("packaged")
        )
        return chats.Template(text, "t.jinja", tokenizer)

    return run


@pytest.mark.parametrize("text", [assets.chat_template().read_text(), CHATML])
def test_what_is_learnt_is_what_transformers_says_the_assistant_wrote(make, text):
    """Its mask needs tags in the template, which few have; prefixes need none."""
    template = make(text)
    wanted = template.tokenizer.apply_chat_template(
        list(CHAT),
        chat_template=text,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, is_learnt = [], []
    for part in template.parts(CHAT, "here"):
        own = template.tokenizer.encode(part.text, add_special_tokens=False)
        ids += own
        is_learnt += [int(part.is_learnt)] * len(own)
    # What follows the last answer is left away; nothing of it is learnt.
    rest = wanted["input_ids"][len(ids) :]
    assert ids == wanted["input_ids"][: len(ids)]
    assert is_learnt == wanted["assistant_masks"][: len(ids)]
    assert template.tokenizer.decode(rest) == "\n"
    assert sum(is_learnt) > 8


def test_a_template_without_tags_gives_the_same(make):
    """The tags are all that the second lacks."""
    text = assets.chat_template().read_text()
    bare = text.replace("{%- generation %}\n", "").replace("{%- endgeneration %}\n", "")
    assert "generation %" not in bare != text
    assert make(bare).parts(CHAT, "here") == make(text).parts(CHAT, "here")


def test_a_turns_end_that_is_no_end_of_text_is_learnt_with_it(make):
    text = CHATML.replace("eos_token", "'<|im_end|>'")
    found = make(text).parts(CHAT, "here")
    assert found[1] == chats.Part("Jane Austen.<|im_end|>\n", True)
    assert "".join(part.text for part in found) == make(text).write(
        CHAT, "here", asks=False
    )


def test_a_prompt_is_what_training_has_before_the_answer(make):
    template = make(assets.chat_template().read_text())
    asked = template.parts(CHAT[:4], "here", asks=True)
    assert asked == template.parts(CHAT, "here")[:3]
    assert not asked[-1].is_learnt


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{% for x in %}", r"t\.jinja, line 1: not a template"),
        ("{{ raise_exception('no\nsystem') }}", r"f, line 3: t\.jinja refuses .*no sy"),
        ("{{ messages[0].content + 1 }}", r"f, line 3: t\.jinja refuses the chat"),
        ("{{ messages | length }}", r"turn 3: t\.jinja writes the chat before it"),
        ("{{ 'always the same' }}", "turn 3: .*writes nothing of it"),
    ],
)
def test_a_template_that_does_not_do_is_one_line(make, text, wanted):
    with pytest.raises(errors.UserError, match=wanted) as told:
        make(text).parts(CHAT, "f, line 3")
    assert "\n" not in str(told.value)


def test_earlier_turns_may_not_change(make):
    """As in templates that take thoughts out of all answers but the last."""
    text = CHATML.replace("message.content | trim", "('' if loop.last else 'x')")
    with pytest.raises(errors.UserError, match=r"turn 5: .*otherwise once it is there"):
        make(text).parts(CHAT, "here")


def test_a_file_goes_before_the_tokenizers_own_and_that_before_gptjaxs(tmp_path):
    """And only what the tokenizer lacks has to be exported."""
    folder = tmp_path / "model"
    convert.save(folder, *convert.load(assets.checkpoint()), like=assets.checkpoint())
    tokenizer = data.Tokenizer(folder)
    found, is_new = chats.template_of(tokenizer, None)
    assert (found.text, is_new) == (assets.chat_template().read_text(), True)
    with pytest.raises(errors.UserError, match="model: its tokenizer has no chat temp"):
        chats.own_template(tokenizer)
    (folder / "chat_template.jinja").write_text("{{ 'own' }}")
    tokenizer = data.Tokenizer(folder)
    found, is_new = chats.template_of(tokenizer, None)
    assert (found.text, is_new) == ("{{ 'own' }}", False)
    assert chats.own_template(tokenizer).text == found.text
    (tmp_path / "t.jinja").write_text(CHATML)
    found, is_new = chats.template_of(tokenizer, str(tmp_path / "t.jinja"))
    assert (found.text, is_new) == (CHATML, True)
    (tmp_path / "t.jinja").write_text("a name, by mistake")
    for path, wanted in ((tmp_path / "t.jinja", "holds no Jinja"), ("x", "No such fi")):
        with pytest.raises(errors.UserError, match=rf"task\.chat_template: .*{wanted}"):
            chats.template_of(tokenizer, str(path))


def test_a_prompt_is_checked_as_training_texts_are():
    """What generation is given is checked as what training reads."""
    tokenizer = data.Tokenizer(convert.resolve("packaged"))
    given = {"tokenizer": tokenizer, "style": None, "is_chat": True}
    with pytest.raises(
        errors.UserError, match="the prompt: turn 1: content is an empty"
    ):
        data.prompt_ids(" ", **given)
    with pytest.raises(errors.UserError, match="no chat template"):
        data.prompt_ids("Hello.", **given)
    with pytest.raises(errors.UserError, match=r"style 'a\\nb'"):
        data.prompt_ids("x", **{**given, "is_chat": False, "style": "a\nb"})
    assert config.Source(path="x", style="jane austen").style == "jane austen"
