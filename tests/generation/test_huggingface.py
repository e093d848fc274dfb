"""Generation token for token as Hugging Face's `generate` has it."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import assets, convert, generation, model

EOS = 5


def _tiny(folder, seed):
    """A model of random weights that repeats itself little, ours and theirs."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width = int(rng.choice([16, 32]))
    stock = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=61,
            n_positions=48,
            n_embd=width,
            n_layer=int(rng.integers(1, 4)),
            n_head=int(rng.choice([1, 2, 4])),
            activation_function=str(rng.choice(["gelu_new", "relu", "silu"])),
            scale_attn_by_inverse_layer_idx=bool(rng.integers(2)),
            tie_word_embeddings=bool(rng.integers(2)),
            initializer_range=0.4,
        )
    ).eval()
    stock.save_pretrained(folder)
    return stock, generation.Engine(*convert.load(folder))


@pytest.fixture(scope="module")
def packaged():
    """The packaged checkpoint in float32, ours and theirs."""
    folder = assets.checkpoint()
    stock = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    engine = generation.Engine(*convert.load(folder, dtype=jnp.float32))
    return stock.eval(), engine


def _options(rng, vocab_size):
    """Some options of a deterministic search, as both take them."""
    ids = rng.integers(vocab_size, size=12).tolist()
    choices = {
        "repetition_penalty": float(rng.choice([0.8, 1.2, 1.7])),
        "no_repeat_ngram_size": int(rng.integers(1, 4)),
        "bad_words_ids": [ids[:1], ids[1:3], ids[3:6]],
        "sequence_bias": [[ids[6:7], 2.5], [ids[7:9], 5.0]],
        "suppress_tokens": ids[9:11],
        "begin_suppress_tokens": ids[11:],
        "min_new_tokens": int(rng.integers(1, 12)),
        "min_length": int(rng.integers(1, 16)),
        "exponential_decay_length_penalty": (int(rng.integers(1, 8)), 1.2),
        "forced_eos_token_id": EOS,
        "forced_bos_token_id": int(rng.integers(vocab_size)),
        "renormalize_logits": True,
        "remove_invalid_values": True,
    }
    given = {name: each for name, each in choices.items() if rng.random() < 0.25}
    given["max_new_tokens"] = int(rng.integers(1, 20))
    if rng.random() < 0.4:
        given["num_beams"] = int(rng.integers(2, 5))
        given["num_return_sequences"] = int(rng.integers(1, given["num_beams"] + 1))
        given["length_penalty"] = float(rng.choice([0.0, 0.6, 1.0, 2.0, -1.0]))
        given["early_stopping"] = [False, True, "never"][rng.integers(3)]
    if rng.random() < 0.8:
        given["eos_token_id"] = [EOS, 9] if rng.random() < 0.3 else EOS
    else:  # an end that there is not
        given.pop("exponential_decay_length_penalty", None)
    if EOS in given.get("suppress_tokens", ()):
        given.pop("forced_eos_token_id", None)
    return given


def _theirs(stock, prompt, given):
    """New tokens of each returned sequence, up to their ends."""
    ids = torch.tensor([prompt])
    given = {"eos_token_id": None, **given}
    stock.generation_config.eos_token_id = given["eos_token_id"]
    with torch.no_grad():
        made = stock.generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **given
        )
    ends = np.atleast_1d(given["eos_token_id"] or -1).tolist()
    found = []
    for row in made[:, len(prompt) :].tolist():
        stops = [place for place, token in enumerate(row) if token in ends]
        found.append(row[: stops[0] + 1] if stops else row)
    return found


def _compare(stock, engine, seed):
    rng = np.random.default_rng(seed)
    given = _options(rng, engine.config.vocab_size)
    lengths = rng.integers(1, 12, size=rng.integers(1, 4))
    prompts = [rng.integers(engine.config.vocab_size, size=n).tolist() for n in lengths]
    expected = [row for prompt in prompts for row in _theirs(stock, prompt, given)]
    ours = engine.generate(prompts, generation.Options.make(given)).tokens
    # A beam is filled up to the longest of its prompt's, with padding, 0.
    ours = [
        row + [0] * (len(e) - len(row)) for row, e in zip(ours, expected, strict=True)
    ]
    assert ours == expected, given


def _often(numbers, soon):
    """The first few among the slow tests, the others among the very slow ones."""
    return [
        each if place < soon else pytest.param(each, marks=pytest.mark.very_slow)
        for place, each in enumerate(numbers)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_tokens_are_hugging_faces(tmp_path, seed):
    """Drawn architectures, prompts and options, several of them at once."""
    _compare(*_tiny(tmp_path, seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", _often(range(12, 184), 40))
def test_tokens_are_hugging_faces_whatever_is_asked(tmp_path, seed):
    """The same, often."""
    _compare(*_tiny(tmp_path, seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", _often(range(1000, 1040), 8))
def test_tokens_of_the_packaged_checkpoint_are_hugging_faces(packaged, seed):
    """With weights that have learnt something, and a real vocabulary."""
    _compare(*packaged, seed)


def test_scores_are_hugging_faces(packaged):
    """What every token was chosen by, more of them than stay on the device at once."""
    stock, engine = packaged
    given = {"max_new_tokens": 40, "repetition_penalty": 1.3, "suppress_tokens": [9]}
    ids = torch.tensor([[40, 41, 42]])
    with torch.no_grad():
        made = stock.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            eos_token_id=None,
            output_scores=True,
            return_dict_in_generate=True,
            **given,
        )
    options = generation.Options.make({**given, "output_scores": True})
    ours = engine.generate([[40, 41, 42], [7]], options)
    assert ours.tokens[0] == made.sequences[0, 3:].tolist()
    expected = torch.stack(made.scores, 1)[0].numpy()
    np.testing.assert_allclose(ours.scores[0], expected, rtol=1e-4, atol=2e-4)
    assert ours.scores[1].shape == (40, engine.config.vocab_size)


def test_beam_scores_are_hugging_faces(packaged):
    stock, engine = packaged
    given = {
        "max_new_tokens": 12,
        "num_beams": 4,
        "num_return_sequences": 3,
        "length_penalty": 0.7,
    }
    ids = torch.tensor([[40, 41, 42]])
    with torch.no_grad():
        made = stock.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            eos_token_id=None,
            output_scores=True,
            return_dict_in_generate=True,
            **given,
        )
    ours = engine.generate([[40, 41, 42]], generation.Options.make(given))
    np.testing.assert_allclose(
        ours.beam_scores, made.sequences_scores.numpy(), rtol=1e-4
    )


def test_the_cache_takes_what_is_computed():
    """Two numbers for each layer, head, width of one, slot and sequence."""
    config = model.Config(n_layer=3, n_embd=32, n_head=4, vocab_size=50)
    import jax

    laid = model.lay_out(config, model.init(jax.random.key(0), config))
    cache = model.init_cache(config, laid, sequences=5, slots=64, dtype=jnp.bfloat16)
    taken = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    how = {"sequences": 5, "slots": 64, "dtype": jnp.bfloat16}
    assert taken == model.cache_bytes(config, **how) == 2 * 5 * 64 * 3 * 32 * 2
