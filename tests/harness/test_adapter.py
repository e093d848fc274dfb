"""Models in the lm-evaluation-harness, held against its own `hf` models."""

import lm_eval.api.instance
import lm_eval.api.model
import pytest
import tokenizers
import torch
import transformers
from lm_eval.models import huggingface

from gptjax import assets, convert, errors
from gptjax.harness import adapter

POSITIONS = 16


def _llama(folder):
    """A random one whose tokenizer puts <s> before a text, and spaces into words."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"]
    )
    text = assets.text("shakespeare.valid").read_text(encoding="utf-8")[:20_000]
    made.train_from_iterator(text.splitlines(), trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **special
    ).save_pretrained(folder)
    settings = transformers.LlamaConfig(
        vocab_size=made.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=POSITIONS,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tiny_settings, tmp_path_factory):
    """A tiny model: of a tokenizer that puts nothing before a text, and of one that
    does.
    """
    if request.param == "llama":
        return _llama(tmp_path_factory.mktemp("llama"))
    return convert.resolve(tiny_settings("unused").model)


def _both(folder, **options):
    theirs = huggingface.HFLM(
        str(folder), device="cpu", dtype="float32", batch_size=3, **options
    )
    return theirs, adapter.Adapter(str(folder), batch_size=4, **options)


def _requests(kind, *arguments):
    return [
        lm_eval.api.instance.Instance(kind, {}, each, number)
        for number, each in enumerate(arguments)
    ]


def _same_scores(theirs, ours, requests):
    wanted, found = (
        each.loglikelihood(requests, disable_tqdm=True) for each in (theirs, ours)
    )
    assert [score for score, _ in found] == pytest.approx(
        [score for score, _ in wanted], rel=1e-5, abs=1e-4
    )
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    return found


CONTEXT = "Is it not that, good my lord?"
PAIRS = [
    (CONTEXT, " a"),
    (CONTEXT, " b"),
    (CONTEXT, " a friend"),
    (CONTEXT + " ", "a friend"),
    ("", "a friend"),
    (" ".join([CONTEXT] * 5), " what then"),
    ("<s>What", " is it"),
]


def test_loglikelihoods_are_those_of_hf(folder):
    """The choices of a question, no context, one beyond the window, a space at its end,
    a beginning of text that is written out, and what the model itself would say.
    """
    theirs, ours = _both(folder)
    _same_scores(theirs, ours, _requests("loglikelihood", *PAIRS))
    prompt = ours.tok_encode("the end of")
    written = theirs.model.generate(
        torch.tensor([prompt]), max_length=len(prompt) + 2, do_sample=False
    )
    tokens = [(None, prompt, written[0, len(prompt) :].tolist())]
    (wanted,) = theirs._loglikelihood_tokens(tokens, disable_tqdm=True)
    (found,) = ours._loglikelihood_tokens(tokens, disable_tqdm=True)
    assert found == (pytest.approx(wanted[0], abs=1e-4), True)


@pytest.mark.parametrize("adds", [False, True])
def test_a_beginning_of_text_goes_before_as_add_bos_token_says(folder, adds):
    """A token more or less before every text shifts every number a little."""
    theirs, ours = _both(folder, add_bos_token=adds)
    _same_scores(theirs, ours, _requests("loglikelihood", *PAIRS[:2]))


def test_whole_texts_are_those_of_hf(folder):
    """Every token once, over the edges of windows, and nothing of no text."""
    theirs, ours = _both(folder, max_length=10)
    requests = _requests(
        "loglikelihood_rolling", (CONTEXT * 4,), ("a",), (CONTEXT[:9],), ("",)
    )
    wanted, found = (
        each.loglikelihood_rolling(requests, disable_tqdm=True)
        for each in (theirs, ours)
    )
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-4)


def test_what_is_written_is_that_of_hf(folder):
    """Of short contexts and such as lose their beginning, of several ways to end."""
    theirs, ours = _both(folder)
    contexts = ["Is it", "What then? I", CONTEXT, CONTEXT * 3, "Good"]
    six = {"until": [], "max_gen_toks": 6}
    (first, *_) = theirs.generate_until(
        _requests("generate_until", (contexts[0], six)), disable_tqdm=True
    )
    middle = first[len(first) // 2]
    ways = [six, {"until": [middle, "\n"], "max_gen_toks": 9, "do_sample": False}]
    requests = _requests(
        "generate_until", *((text, way) for way in ways for text in contexts)
    )
    wanted, found = (
        each.generate_until(requests, disable_tqdm=True) for each in (theirs, ours)
    )
    assert found == wanted
    assert middle in first
    assert middle not in "".join(found[len(contexts) :])


def test_a_string_that_begins_in_the_context_ends_nothing(tiny_settings):
    """The harness looks for it in new text; other prompts of gptjax end at it."""
    ours = adapter.Adapter(tiny_settings("unused").model)
    line = ours.tok_encode("\n")
    wanted = {"until": ["\n\n"], "max_gen_toks": 4}
    ((way, _),) = ours._ways(_requests("generate_until", ("a\n", wanted)))
    assert way.find_stop(line, line) is None
    assert way.find_stop([], line * 2) == len(line * 2)


def test_drawn_texts_are_of_a_requests_own_seed(tiny_settings):
    """Repeats must differ, and a batch's size must change nothing."""
    way = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    requests = _requests("generate_until", *[("Is it", way)] * 3)
    texts = [
        adapter.Adapter(
            tiny_settings("unused").model, batch_size=size, seed=1
        ).generate_until(requests, disable_tqdm=True)
        for size in (1, "auto")
    ]
    assert texts[0] == texts[1]
    assert len({*texts[0]}) == 3


def test_answers_are_kept_and_not_computed_again(tiny_settings, tmp_path, monkeypatch):
    """--use_cache is the harness's way to go on where it was interrupted."""
    ours = adapter.Adapter(tiny_settings("unused").model)
    requests = _requests("loglikelihood", *PAIRS[:2])
    kept = lm_eval.api.model.CachingLM(ours, str(tmp_path / "kept.db"))
    found = ours.loglikelihood(requests, disable_tqdm=True)
    monkeypatch.setattr(ours, "loglikelihood", None)
    assert [tuple(each) for each in kept.loglikelihood(requests)] == found


def test_chats_are_written_by_the_tokenizers_template(tiny_settings, caplog):
    """A chat without its template is no chat; one that knows no system gets none."""
    ours = adapter.Adapter(tiny_settings("unused").model)
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it?"},
    ]
    with pytest.raises(errors.UserError, match="has no chat template"):
        ours.apply_chat_template(chat)
    ours.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    whole = "system: Be brief.\nuser: Is it?\nassistant:"
    assert ours.apply_chat_template(chat) == whole
    ours.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
        + ours.tokenizer.chat_template
    )
    for _ in range(2):
        assert ours.apply_chat_template(chat) == "user: Is it?\nassistant:"
    assert caplog.text.count("without their system turn") == 1


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"pretrained": "x"}, "--model_args pretrained"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"max_batch_size": 0}, "max_batch_size 0"),
        ({"device": "cuda"}, "device cuda: JAX runs on cpu"),
        ({"prefix_token_id": 2048}, "prefix_token_id 2048: .* vocab_size is 2048"),
        ({"max_length": 0}, "max_length 0: .* n_positions are 16"),
        ({"max_length": 17}, "max_length 17: .* n_positions are 16"),
        ({"context_len": 0}, "context_len 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(tiny_settings, arguments, wrong):
    """An argument that is passed over in silence is a wrong number in a table."""
    with pytest.raises(errors.UserError, match=wrong):
        adapter.Adapter(tiny_settings("unused").model, **arguments)


@pytest.mark.parametrize(
    ("way", "wrong"),
    [
        ({"max_gen_toks": 16}, "max_gen_toks 16"),
        ({"max_length": 9}, "generation_kwargs max_length"),
        ({"max_gen_toks": 4, "topp": 0.5}, "topp"),
        ({"max_gen_toks": 4, "do_sample": True, "temperature": 0.0}, "temperature"),
    ],
)
def test_wrong_ways_to_write_are_refused_by_name(tiny_settings, way, wrong):
    """As for the model's arguments."""
    ours = adapter.Adapter(tiny_settings("unused").model)
    requests = _requests("generate_until", ("Is it", {"until": [], **way}))
    with pytest.raises(errors.UserError, match=wrong):
        ours.generate_until(requests, disable_tqdm=True)


def test_a_device_that_no_one_has_named_is_none(tiny_settings):
    """The harness's command says cuda:0 to every model, asked or not."""
    adapter.Adapter(tiny_settings("unused").model, device="cuda:0")


def test_a_continuation_beyond_the_window_is_refused(tiny_settings):
    """Of what was cut off nothing could be predicted."""
    ours = adapter.Adapter(tiny_settings("unused").model)
    with pytest.raises(errors.UserError, match="request 0: its continuation of"):
        ours.loglikelihood(
            _requests("loglikelihood", ("a", CONTEXT * 9)), disable_tqdm=True
        )
