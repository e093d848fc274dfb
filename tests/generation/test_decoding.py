"""Decoding against Hugging Face's `generate`."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import gptjax
from gptjax import convert, errors, generation, model, sharding
from gptjax.generation import programs

PACKAGED = pathlib.Path(gptjax.__file__).parent / "assets" / "gpt2-austen"


def _hf_greedy(hf_model, prompts, *, max_new_tokens, eos_id=None):
    """New tokens by Hugging Face, prompts padded on the left and masked."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    hf_model.generation_config.eos_token_id = eos_id
    with torch.no_grad():
        out = hf_model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=0,
        )
    rows = [row[longest:].tolist() for row in out]
    return [r[: r.index(eos_id) + 1] if eos_id in r else r for r in rows]


def _written(config, params, prompts, *, greedy=False, seed=0, eos_id=None, **given):
    """The new tokens of each prompt."""
    where = {name: given.pop(name) for name in ("dtype", "mesh") if name in given}
    options = {"top_k": 0, "do_sample": not greedy, "eos_token_id": eos_id, **given}
    engine = generation.Engine(config, params, **where)
    made = engine.generate(prompts, generation.Options.make(options), seed=seed)
    return made.tokens


def _prompts(vocab_size, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(vocab_size, size=length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def packaged():
    """The packaged checkpoint in float32, ours and theirs."""
    hf_model = transformers.GPT2LMHeadModel.from_pretrained(
        PACKAGED, dtype=torch.float32
    )
    config, params = convert.load(PACKAGED, dtype=jnp.float32)
    return hf_model.eval(), config, params


@pytest.fixture(scope="module")
def tiny():
    """A model that compiles in no time, for claims that need no oracle."""
    config = model.Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2,
        initializer_range=0.5,
    )  # fmt: skip
    return config, model.init(jax.random.key(0), config)


def test_greedy_tokens_of_the_packaged_checkpoint_are_those_of_hugging_face(packaged):
    """Positions or masks off by one for padded rows change the text at once."""
    hf_model, config, params = packaged
    tokenizer = transformers.AutoTokenizer.from_pretrained(PACKAGED)
    texts = [
        "It is a truth",
        "Emma",
        "She had been so much surprised by the arrival of her brother that",
        '"My dear Mr. Bennet," said his lady to him one day,',
    ]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    assert len(set(map(len, prompts))) == len(prompts)
    expected = _hf_greedy(hf_model, prompts, max_new_tokens=64, eos_id=0)
    ours = _written(config, params, prompts, max_new_tokens=64, greedy=True, eos_id=0)
    assert ours == expected


def test_greedy_tokens_reach_the_last_position(packaged):
    """The last slot and the last position are the likeliest to be off by one."""
    hf_model, config, params = packaged
    prompts = _prompts(config.vocab_size, [250, 7])
    new = config.n_positions - 250
    expected = _hf_greedy(hf_model, prompts, max_new_tokens=new)
    assert (
        _written(config, params, prompts, max_new_tokens=new, greedy=True) == expected
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_inner": 24},
        {"activation_function": "relu"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True},
        {"layer_norm_epsilon": 1e-2},
        {"tie_word_embeddings": False},
        {"n_head": 1, "n_layer": 1},
        {
            "n_head": 8,
            "n_layer": 3,
            "n_inner": 40,
            "activation_function": "gelu",
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "tie_word_embeddings": False,
        },
    ],
    ids=lambda fields: ",".join(fields) or "default",
)
def test_greedy_tokens_equal_hugging_face_for_every_field(fields, tmp_path):
    """The cached pass could forget a field that the full pass knows."""
    torch.manual_seed(0)
    fields = {"n_layer": 2, "n_head": 4, **fields}
    hf_config = transformers.GPT2Config(
        vocab_size=61, n_positions=48, n_embd=32, initializer_range=0.3, **fields
    )
    hf_model = transformers.GPT2LMHeadModel(hf_config).eval()
    # Biases start at 0 and would hide one that is left out.
    with torch.no_grad():
        for name, leaf in hf_model.named_parameters():
            if name.endswith("bias"):
                leaf.normal_(std=0.1)
    hf_model.save_pretrained(tmp_path)
    config, params = convert.load(tmp_path)
    prompts = _prompts(61, [1, 9, 4])
    expected = _hf_greedy(hf_model, prompts, max_new_tokens=20)
    assert len({token for row in expected for token in row}) > 3
    ours = _written(config, params, prompts, max_new_tokens=20, greedy=True)
    assert ours == expected


def test_sequences_stop_at_their_own_end(packaged):
    """One row's end must neither cut the others nor be run over by them."""
    hf_model, config, params = packaged
    prompts = _prompts(config.vocab_size, [3, 8, 5])
    free = _hf_greedy(hf_model, prompts, max_new_tokens=16)
    eos_id = free[1][5]
    expected = _hf_greedy(hf_model, prompts, max_new_tokens=16, eos_id=eos_id)
    ours = _written(
        config, params, prompts, max_new_tokens=16, greedy=True, eos_id=eos_id
    )
    assert ours == expected
    assert ours[1][-1] == eos_id
    assert len(ours[1]) <= 6


@pytest.mark.parametrize("greedy", [True, False])
def test_a_row_does_not_depend_on_rows_after_it(tiny, greedy):
    """A longer neighbour moves a prompt to other slots and other compiled shapes."""
    config, params = tiny
    prompts = _prompts(50, [3, 17, 6])
    settings = {"max_new_tokens": 12, "greedy": greedy, "seed": 5}
    together = _written(config, params, prompts, **settings)
    for count in (1, 2):
        alone = _written(config, params, prompts[:count], **settings)
        assert alone == together[:count]


def test_seeds_decide_what_is_drawn(tiny):
    """A key used twice, or never, would repeat rows or runs."""
    config, params = tiny
    prompts = [_prompts(50, [4])[0]] * 3

    def drawn(seed):
        return _written(
            config, params, prompts, max_new_tokens=20, seed=seed, temperature=2.0
        )

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    assert first[0] != first[1] != first[2]


def test_draws_follow_the_probabilities(tiny):
    """A chi-squared test: rows or steps that share random bits would show."""
    config, params = tiny
    prompt, rows = _prompts(50, [4])[0], 4000
    logits_V = np.asarray(model.apply(config, params, np.array([prompt])))[0, -1]
    probs_V = np.exp(logits_V / 2) / np.exp(logits_V / 2).sum()
    drawn = _written(config, params, [prompt] * rows, max_new_tokens=1, temperature=2.0)
    counts_V = np.bincount(np.ravel(drawn), minlength=50)
    # Tokens expected fewer than 10 times count as one.
    is_common = probs_V * rows >= 10
    counts = np.append(counts_V[is_common], counts_V[~is_common].sum())
    expected = rows * np.append(probs_V[is_common], probs_V[~is_common].sum())
    # Its mean is the degrees of freedom, its variance twice that: five deviations.
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = is_common.sum()
    assert freedom > 10
    assert chi_squared < freedom + 5 * (2 * freedom) ** 0.5


def test_drawing_the_likeliest_token_alone_is_greedy(tiny):
    """Ties the sampled path to the greedy one, which has an oracle."""
    config, params = tiny
    prompts = _prompts(50, [4, 9])
    greedy = _written(config, params, prompts, max_new_tokens=16, greedy=True)
    for settings in ({"top_k": 1}, {"top_p": 1e-6}):
        drawn = _written(config, params, prompts, max_new_tokens=16, **settings)
        assert drawn == greedy


@pytest.mark.parametrize(
    ("axes", "how"), [((8, 1, 1), {"greedy": True}), ((2, 2, 2), {"top_p": 0.9})]
)
def test_a_mesh_changes_no_token(tiny, axes, how):
    """Rows added so that the mesh divides them must neither show nor stop the loop."""
    config, params = tiny
    prompts = _prompts(50, [5, 2, 9])
    data, fsdp, tensor = axes
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    placed = sharding.place(params, sharding.param_shardings(mesh, params))
    settings = {"max_new_tokens": 10, "seed": 3, **how}
    one = _written(config, params, prompts, **settings)
    many = _written(config, placed, prompts, **settings, mesh=mesh)
    assert many == one


def test_lengths_close_to_each_other_share_one_compilation(tiny):
    """Compiling takes longer than decoding."""
    config, params = tiny
    before = programs.decode._cache_size()
    for length, new in ((5, 9), (6, 10), (7, 9)):
        prompts = _prompts(50, [length])
        rows = _written(
            config, params, prompts, max_new_tokens=new, greedy=True, dtype=jnp.bfloat16
        )
        assert len(rows[0]) == new
    assert programs.decode._cache_size() == before + 1


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[]], {}, "the prompt is empty; it needs at least 1 token"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1, 50]], {}, "holds token id 50, beyond the model's vocab_size 50"),
        ([[-1, 3]], {}, "holds token id -1"),
        (
            [[1] * 20],
            {"max_new_tokens": 13},
            "the prompt of 20 tokens and 13 new ones do not fit .* n_positions 32",
        ),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens -1: Input should"),
        ([[1]], {"temperature": 0}, "temperature 0: Input should be greater"),
    ],
)
def test_what_cannot_be_decoded_is_refused(tiny, prompts, settings, message):
    """A gather clamps positions and ids beyond its table and would go on silently."""
    config, params = tiny
    settings = {"max_new_tokens": 4, **settings}
    with pytest.raises(errors.UserError, match=message):
        _written(config, params, prompts, **settings)


def test_nothing_asked_gives_nothing(tiny):
    """No prompts and no new tokens are answers, not errors."""
    config, params = tiny
    assert _written(config, params, [], max_new_tokens=3) == []
    assert _written(config, params, [[1]], max_new_tokens=0) == [[]]
