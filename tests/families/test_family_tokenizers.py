"""Tokenizers of other families: what stands around a prompt, and what follows it."""

import json

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import gptjax
from gptjax import assets, convert, errors, generation


def _llama(folder):
    """SentencePiece's way: a space is part of the word after it, <s> comes first."""
    words = ["▁to", "▁be", "▁or", "▁not", "▁that"]
    vocab = {token: id_ for id_, token in enumerate(["<unk>", "<s>", "</s>", *words])}
    made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, **special
    ).save_pretrained(folder)
    return transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=64,
        eos_token_id=2,
    )


def _chinese(folder):
    """GPT2-Chinese: BERT's characters, [CLS] before a text and [SEP] after it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *"今天气很好我们去公园"]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer"})
    )
    # Its end of text stays GPT-2's 50256, which no such vocabulary has.
    return transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64)


def _gpt(folder):
    """GPT-1: words end in </w>, and all is lower case."""
    made = tokenizers.Tokenizer(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    text = assets.text("shakespeare.valid").read_text(encoding="utf-8")[:20_000]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>"
    )
    made.train_from_iterator(text.splitlines(), trainer)
    made.model.save(str(folder))
    return transformers.OpenAIGPTConfig(n_embd=16, n_layer=1, n_head=2, n_positions=64)


MAKERS = {
    "llama": (_llama, transformers.LlamaForCausalLM, "to be or not"),
    "chinese": (_chinese, transformers.GPT2LMHeadModel, "今天天气"),
    "gpt": (_gpt, transformers.OpenAIGPTLMHeadModel, "To be or not"),
}


@pytest.fixture(params=MAKERS)
def loaded(request, tmp_path):
    """A random model of its family, its prompt, and how Hugging Face reads that."""
    make, model_class, prompt = MAKERS[request.param]
    config = make(tmp_path)
    config.vocab_size = 200
    model_class(config).save_pretrained(tmp_path)
    own = gptjax.load(tmp_path)
    read = own.tokenizer(prompt).input_ids
    return own, prompt, read[:-1] if request.param == "chinese" else read


def test_a_prompt_is_begun_and_not_ended(loaded):
    """After [SEP] a model writes another text; without <s> it has never begun."""
    own, prompt, read = loaded
    asked = {"max_new_tokens": 6, "eos_token_id": None}
    assert own.generate_tokens([prompt], **asked).tokens == (
        own.generate_tokens([read], **asked).tokens
    )
    assert own.writer.encode([prompt], style=None, chat=False) == [read]


def test_what_is_written_goes_on_from_the_prompt(loaded):
    """Decoded by themselves, the first word's space would be lost."""
    own, prompt, read = loaded
    (text,) = own.generate([prompt], max_new_tokens=6)
    new = own.generate_tokens([prompt], max_new_tokens=6).tokens[0]
    ends = own.writer.options({}).eos_token_id
    kept = [token for token in new if token not in ends]
    decode = own.tokenizer.decode
    assert decode(read) + text == decode([*read, *kept])
    how = own.writer.options({"max_new_tokens": 6})
    pieces = [piece for _, piece in own.writer.stream([read], how, 0)]
    assert "".join(pieces) == text


def test_a_space_before_the_first_word_is_kept(tmp_path):
    """What the test above says, with the text to look at."""
    config = _llama(tmp_path)
    config.vocab_size = 8
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    own = gptjax.load(tmp_path)
    assert own.writer.text([1, 3, 4], [5, 6, 2], own.writer.options({})) == " or not"
    assert own.writer.encode([""], style=None, chat=False) == [[1]]


def test_a_stream_of_tidied_words_is_the_text(tmp_path):
    """What is printed cannot be taken back when the next token tidies up a space."""
    words = ["it", "s", "a", "word", ",", "do", "n", "'", "t", "say", "so", ".", "!"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys([*special, *words])))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "BertTokenizer",
                "clean_up_tokenization_spaces": True,
            }
        )
    )
    config = transformers.GPT2Config(vocab_size=18, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    own = gptjax.load(tmp_path)
    how = own.writer.options(
        {"max_new_tokens": 12, "do_sample": True, "suppress_tokens": [0, 1, 2, 3, 4]}
    )
    ids = own.writer.encode(["it"], style=None, chat=False)
    tidied = 0
    for seed in range(12):
        made = own.writer.generate(ids, how, seed)
        (text,) = own.writer.texts(ids, made, how)
        pieces = [piece for _, piece in own.writer.stream(ids, how, seed)]
        assert "".join(pieces) == text
        tidied += " ".join(text.split()) != " ".join(
            own.tokenizer.convert_ids_to_tokens(made.tokens[0])
        )
    assert tidied > 6


def test_an_end_of_text_beyond_the_vocabulary_is_none(tmp_path):
    """A checkpoint of GPT2-Chinese names GPT-2's; asked for, it is refused."""
    config = _chinese(tmp_path)
    config.vocab_size = 30
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert generation.read_file(tmp_path)["eos_token_id"] == 50256
    own = gptjax.load(tmp_path)
    assert len(own.generate_tokens(["今天"], max_new_tokens=5).tokens[0]) == 5
    with pytest.raises(errors.UserError, match="50256 is beyond the model's vocab"):
        own.generate(["今天"], eos_token_id=50256)
    # Import, export: the tokenizer goes along.
    own.save(tmp_path / "again")
    again = gptjax.load(tmp_path / "again")
    assert again.tokenizer("今天").input_ids == own.tokenizer("今天").input_ids
    assert convert.read_config(tmp_path / "again") == own.config
