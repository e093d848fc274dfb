"""The engine: pieces, ends, seeds, windows, drafts, and what compiles."""

import dataclasses

import jax
import numpy as np
import pytest

from gptjax import errors, generation, model
from gptjax.generation import programs, speculative


@pytest.fixture(scope="module")
def tiny():
    """A model that compiles in no time, and a worse one that resembles it."""
    config = model.Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2,
        initializer_range=0.5,
    )  # fmt: skip
    params = model.init(jax.random.key(0), config)
    less = dataclasses.replace(config, n_layer=1)
    blocks = jax.tree.map(lambda leaf: leaf[:1], params["blocks"])
    return (
        generation.Engine(config, params),
        generation.Engine(less, {**params, "blocks": blocks}),
    )


def _options(**given):
    return generation.Options.make({"top_k": 0, "max_new_tokens": 12, **given})


PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("draws", [False, True])
def test_pieces_are_the_whole(tiny, at_once, draws):
    """Streaming must change no token, however much is waited for."""
    engine, _ = tiny
    options = _options(do_sample=draws, eos_token_id=7, output_scores=True)
    whole = engine.generate(PROMPTS, options, seed=3)
    tokens, scores, ended = [[] for _ in PROMPTS], [[] for _ in PROMPTS], {}
    for pieces in engine.stream(PROMPTS, options, seed=3, at_once=at_once):
        for piece in pieces:
            assert 1 <= len(piece.tokens) <= at_once
            assert piece.sequence not in ended
            tokens[piece.sequence] += piece.tokens
            scores[piece.sequence].append(piece.scores)
            if piece.is_last:
                ended[piece.sequence] = True
    assert tokens == whole.tokens
    assert len(ended) == len(PROMPTS)
    for own, expected in zip(scores, whole.scores, strict=True):
        np.testing.assert_array_equal(np.concatenate(own), expected)


def test_a_seed_of_its_own_makes_a_prompt_independent(tiny):
    """A service answers the same whoever else is asking."""
    engine, _ = tiny
    options = _options(do_sample=True, num_return_sequences=2)
    together = engine.generate(PROMPTS, options, seed=[7, 8, 9]).tokens
    for number, prompt in enumerate(PROMPTS):
        alone = engine.generate([prompt], options, seed=7 + number).tokens
        assert alone == together[2 * number : 2 * number + 2]
        assert alone[0] != alone[1]


def test_stop_strings_end_where_they_are_complete(tiny):
    """In the middle of what is decoded at once, and not in the prompt."""
    engine, _ = tiny

    def decode(ids):
        return "".join(f"<{id_}>" for id_ in ids)

    (free,) = engine.generate([[3]], _options()).tokens
    assert len({*free}) > 3
    stop = f"{free[4]}><{free[5]}"
    find = generation.finder(decode, [stop])
    options = _options(stop_strings=stop)
    first = decode(free).index(stop)
    length = decode(free)[: first + len(stop)].count("<")
    ours = engine.generate([[3]], options, find_stop=find).tokens
    assert ours == [free[:length]]
    for at_once in (1, 2, 5):
        pieces = list(engine.stream([[3]], options, find_stop=find, at_once=at_once))
        assert [t for each in pieces for t in each[0].tokens] == free[:length]
        assert [each[0].is_last for each in pieces] == [False] * (len(pieces) - 1) + [
            True
        ]
    # What began in the prompt counts, what ended there does not.
    across = generation.finder(decode, [f"3><{free[0]}"])
    assert engine.generate([[3]], options, find_stop=across).tokens == [free[:1]]
    before = generation.finder(decode, ["<3>"])
    assert before([3], [4]) is None
    with pytest.raises(errors.UserError, match="take a tokenizer"):
        engine.generate([[3]], options)


def test_a_window_slides_on_request(tiny):
    """The older half is forgotten: what follows is what the newer half alone brings."""
    engine, _ = tiny
    with pytest.raises(errors.UserError, match="sliding_window goes beyond"):
        engine.generate([[3]], _options(max_new_tokens=70))
    options = _options(max_new_tokens=70, sliding_window=True)
    (long,) = engine.generate([[3]], options).tokens
    assert len(long) == 70
    sequence = [3, *long]
    (first,) = engine.generate([[3]], _options(max_new_tokens=31)).tokens
    assert sequence[1:32] == first
    (second,) = engine.generate([sequence[16:32]], _options(max_new_tokens=16)).tokens
    assert sequence[32:48] == second
    # One of several, while others have room.
    both = engine.generate([[3], [5, 4]], options).tokens
    assert both[0] == long
    assert len(both[1]) == 70


@pytest.mark.parametrize(
    "ahead",
    [
        pytest.param(1, marks=pytest.mark.slow),
        3,
        pytest.param(6, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"eos_token_id": 7},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 27, "forced_eos_token_id": 9, "eos_token_id": 9},
    ],
    ids=str,
)
def test_a_draft_changes_no_token(tiny, ahead, given):
    """At every number of proposals, with ends and limits in the midst of them."""
    engine, draft = tiny
    options = _options(num_assistant_tokens=ahead, **given)
    expected = engine.generate(PROMPTS, options).tokens
    drafted = engine.with_draft(draft).generate(PROMPTS, options)
    assert drafted.tokens == expected
    assert 0 < drafted.acceptance < 1
    same = engine.with_draft(engine).generate(PROMPTS, options)
    assert same.tokens == expected


def test_its_own_proposals_are_all_accepted(tiny):
    """Of itself every model thinks the same, drawn or not."""
    engine, _ = tiny
    for draws in (False, True):
        options = _options(do_sample=draws, max_new_tokens=24)
        made = engine.with_draft(engine).generate(PROMPTS, options)
        assert made.acceptance > 0.999


@pytest.mark.slow
def test_a_draft_changes_no_chance(tiny):
    """A chi-squared test of first and second tokens: what follows a refused proposal
    is drawn from the rest, and what is accepted too often would show.
    """
    engine, draft = tiny
    prompt, rows = [3, 1, 4], 4000
    options = _options(do_sample=True, temperature=2.0, max_new_tokens=2)
    drafted = engine.with_draft(draft)
    made = drafted.generate([prompt] * rows, options)
    assert 0.1 < made.acceptance < 0.9
    drawn = np.array(made.tokens)

    def chances(contexts):
        how = _options(
            do_sample=True, temperature=2.0, max_new_tokens=1, output_scores=True
        )
        scores = np.concatenate(engine.generate(contexts, how).scores)
        return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)

    first_V = chances([prompt])[0]
    second_V = first_V @ chances([[*prompt, token] for token in range(50)])
    for place, probs_V in enumerate((first_V, second_V)):
        counts_V = np.bincount(drawn[:, place], minlength=50)
        is_common = probs_V * rows >= 10
        counts = np.append(counts_V[is_common], counts_V[~is_common].sum())
        expected = rows * np.append(probs_V[is_common], probs_V[~is_common].sum())
        # Its mean is the degrees of freedom, its variance twice that: five deviations.
        chi_squared = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
        freedom = is_common.sum()
        assert freedom > 10
        assert chi_squared < freedom + 5 * (2 * freedom) ** 0.5


def test_a_draft_that_cannot_propose_is_refused(tiny):
    engine, _ = tiny
    config = model.Config(vocab_size=51, n_embd=8, n_head=2, n_layer=1)
    other = generation.Engine(config, model.init(jax.random.key(0), config))
    with pytest.raises(errors.UserError, match="vocab_size 51 is not the model's 50"):
        engine.with_draft(other)
    config = dataclasses.replace(config, vocab_size=50, n_positions=8)
    short = generation.Engine(config, model.init(jax.random.key(0), config))
    with pytest.raises(
        errors.UserError, match="n_positions 8 are fewer than the 17 tokens"
    ):
        engine.with_draft(short).generate(PROMPTS, _options())


@pytest.mark.slow
def test_nothing_compiles_in_steady_state(tiny):
    """Prompts of other lengths, other numbers of them, other values of options."""
    engine, draft = tiny
    drafted = engine.with_draft(draft)
    counted = (programs.decode, programs.prefill, programs.empty, speculative.decode)

    def serve(seed):
        rng = np.random.default_rng(seed)
        for count in (1, 2, 3, 4):
            prompts = [
                rng.integers(50, size=rng.integers(5, 9)).tolist() for _ in range(count)
            ]
            options = _options(
                do_sample=True,
                temperature=float(rng.uniform(0.5, 2)),
                top_p=float(rng.uniform(0.5, 0.9)),
                max_new_tokens=int(rng.integers(12, 20)),
            )
            for each in (engine, drafted):
                each.generate(prompts, options, seed=seed)
                for _ in each.stream(prompts, options, seed=seed):
                    pass

    serve(0)
    before = [each._cache_size() for each in counted]
    for seed in range(1, 6):
        serve(seed)
    assert [each._cache_size() for each in counted] == before


@pytest.mark.slow
def test_a_large_layer_lies_by_itself(tiny, monkeypatch):
    """The other layout gives the same tokens."""
    engine, draft = tiny
    config, params = engine.config, model.init(jax.random.key(0), engine.config)
    monkeypatch.setattr("gptjax.model.cache._LARGE_LAYER", 0)
    apart = generation.Engine(config, params)
    assert isinstance(apart.laid.blocks, tuple)
    for options in (_options(), _options(num_beams=3)):
        assert apart.generate(PROMPTS, options) == engine.generate(PROMPTS, options)
    drafted = apart.with_draft(draft).generate(PROMPTS, _options()).tokens
    assert drafted == engine.generate(PROMPTS, _options()).tokens


def test_prompts_are_read_in_chunks(tiny):
    """Long prompts take no more memory than a chunk; the tokens are the same."""
    engine, _ = tiny
    prompts = [list(range(20)), [4]]
    whole = engine.generate(prompts, _options()).tokens
    for size in (1, 7, 16):
        options = _options(prefill_chunk_size=size)
        assert engine.generate(prompts, options).tokens == whole
