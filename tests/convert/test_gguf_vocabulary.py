"""Tokenizers in GGUF files; llama.cpp's own reading of texts is the oracle."""

import json

import jax
import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors

import gptjax
from gptjax import assets, convert, errors, formats, model
from gptjax.convert.llama_cpp import vocabulary

TEXTS = (
    "It was 1811; they'd 3 dogs, WE'LL see!  Two  spaces\tand\n\n\nlines\r\n",
    " naïve café — “quotes” … 漢字。 😀 no-one's\u00a0x  ",
    "a",
)
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _split(regex):
    own = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}
    return {**own, "invert": False}


def _steps(found):
    """A pre-tokenizer of tokenizer.json by the key that the package knows it by."""
    made = {
        "ByteLevel": lambda value: {**LEVEL, "use_regex": value},
        "Digits": lambda value: {"type": "Digits", "individual_digits": value},
        "Split": _split,
    }
    return {
        "type": "Sequence",
        "pretokenizers": [made[kind](value) for kind, value in found],
    }


def _model(folder, tokenizer_json, **special):
    """A tiny random model with that tokenizer."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    config = model.Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=128,
        n_embd=8,
        n_head=2,
        n_layer=1,
    )
    params = jax.tree.map(
        lambda leaf: jax.numpy.zeros(leaf.shape), model.shapes(config)
    )
    convert.save(folder, config, params)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special
    ).save_pretrained(folder)
    return gptjax.load(folder)


def _packaged(**changes):
    values = json.loads((assets.checkpoint() / "tokenizer.json").read_text("utf-8"))
    values["model"] |= changes.pop("model", {})
    return json.dumps({**values, **changes})


def _sentence_piece():
    """Llama's kind: every pair that makes a token, in the order of tokens' scores."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=special)
    text = assets.text("shakespeare.valid").read_text("utf-8")[:30_000]
    made.train_from_iterator(text.splitlines(), trainer)
    values = json.loads(made.to_str())
    own = values["model"]
    joined = ["".join(pair) for pair in own["merges"]]
    own["merges"] = [
        [token[:cut], token[cut:]]
        for token in joined
        for cut in range(1, len(token))
        if {token[:cut], token[cut:]} <= own["vocab"].keys()
    ]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    first = {"type": "Prepend", "prepend": "▁"}
    values |= {
        "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [first, space]},
        "added_tokens": [own for own in values["added_tokens"] if own["id"] < 3],
        "post_processor": json.loads(
            processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 1)]
            ).__getstate__()
        ),
    }
    return values


def _check(own, folder, llama_server):
    formats.save_gguf(own, folder / "made.gguf")
    server = llama_server(folder / "made.gguf", context=128)
    for text in TEXTS:
        assert server.tokenize(text) == own.tokenizer(text).input_ids


@pytest.mark.parametrize("found", vocabulary.PRE, ids=vocabulary.PRE.values())
def test_llama_cpp_splits_texts_as_the_name_says(found, tmp_path, llama_server):
    """A name of another splitting would give other tokens here and there."""
    ignores = vocabulary.PRE[found] == "llama-bpe"
    text = _packaged(pre_tokenizer=_steps(found), model={"ignore_merges": ignores})
    own = _model(tmp_path / "made", text, eos_token="<|endoftext|>")
    _check(own, tmp_path, llama_server)


def test_llama_cpp_reads_sentence_piece_by_scores(tmp_path, llama_server):
    """It knows no merges there: a score must rank every token as they do."""
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    own = _model(tmp_path / "made", json.dumps(_sentence_piece()), **special)
    _check(own, tmp_path, llama_server)


def _fields(text):
    made = vocabulary.Vocabulary(json=text, special_ids={}, adds={})
    return made.fields(2048, where="made.gguf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "WordPiece"}}, "is a WordPiece"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end in a suffix"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizes texts by Lowercase"),
        ({"pre_tokenizer": _split(r"\w+")}, "llama.cpp has no name"),
        ({"pre_tokenizer": {**LEVEL, "add_prefix_space": True}}, "has no name"),
        ({"model": {"ignore_merges": True}}, "but ignore_merges is True"),
        ({"model": {"byte_fallback": True}}, "merges as no SentencePiece"),
    ],
    ids=str,
)
def test_another_tokenizer_is_refused(changes, message):
    """llama.cpp would load it and read texts otherwise, without a word."""
    with pytest.raises(errors.UserError, match=message):
        _fields(_packaged(**changes))


def test_sentence_piece_that_also_splits_is_refused():
    """llama.cpp joins across what its texts were split by."""
    values = _sentence_piece()
    values["pre_tokenizer"] = {"type": "Digits", "individual_digits": True}
    with pytest.raises(errors.UserError, match="changes or splits texts"):
        _fields(json.dumps(values))
