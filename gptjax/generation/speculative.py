"""Speculative decoding: a small model proposes tokens, the model reads them at once.

Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2022,
arXiv:2211.17192. What is drawn has the very distribution that the model alone would
draw from, and what is not drawn is what it alone would choose.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gptjax import model
from gptjax.generation import processors, programs


class Draft(NamedTuple):
    """The small model while sequences grow."""

    cache: model.Cache
    """Of all tokens but the last, and of some that were refused."""
    proposed_B: jax.Array
    accepted_B: jax.Array


@functools.partial(
    jax.jit,
    static_argnames=("config", "draft_config", "ahead", "draws", "dtype"),
    donate_argnames=("state", "draft"),
)
def decode(
    config,
    laid,
    draft_config,
    draft_laid,
    state,
    draft,
    rows,
    how,
    eos_ids,
    limit,
    *,
    ahead,
    draws,
    dtype,
):
    """As `programs.decode`, and the draft's state.

    Args:
      state: its arrays have `ahead` + 1 more slots than sequences may have tokens.
      limit: rounds; each brings a sequence one token or up to `ahead` + 1.
      ahead: how many tokens are proposed at a time, K.
    """
    slots = state.tokens_BS.shape[1]
    places_1S = jnp.arange(slots)[None]
    # Of tokens that a sequence may have.
    room = slots - ahead - 1

    def grows_B(state):
        return ~state.has_ended_B & (state.lengths_B < room)

    def is_open(carry):
        count, state, _ = carry
        return (count < limit) & grows_B(state).any()

    def processed(scores_BV, tokens_BS, lengths_B):
        seen = processors.Seen(tokens_BS, lengths_B, rows.prompts_B, rows.limits_B)
        return processors.process(how, scores_BV, seen)

    def put(tokens_BS, at_B, new_B):
        return jnp.where(places_1S == at_B[:, None], new_B[:, None], tokens_BS)

    def step(carry):
        count, state, draft = carry
        lengths_B = state.lengths_B
        draw = _Draws(rows.keys_B, lengths_B - rows.prompts_B)

        def propose(carry, number):
            tokens_BS, cache = carry
            at_B = lengths_B + number
            last_B1 = jnp.take_along_axis(tokens_BS, at_B[:, None] - 1, axis=1)
            x_BTD, cache = model.extend(
                draft_config, draft_laid, last_B1, cache, at_B - 1, dtype=dtype
            )
            scores_BV = model.scores(
                draft_config, draft_laid, x_BTD[:, -1], dtype=dtype
            )
            scores_BV = processed(scores_BV, tokens_BS, at_B)
            next_B = draw.token(scores_BV, 0, number) if draws else _best(scores_BV)
            return (put(tokens_BS, at_B, next_B), cache), (next_B, scores_BV)

        # One more than is proposed: it reads the last proposal, for the next round.
        (tokens_BS, draft_cache), (found_TB, theirs_TBV) = jax.lax.scan(
            propose, (state.tokens_BS, draft.cache), jnp.arange(ahead + 1)
        )
        proposed_BK = found_TB[:ahead].T
        at_BT = lengths_B[:, None] + jnp.arange(ahead + 1)[None]
        read_BT = jnp.take_along_axis(tokens_BS, at_BT - 1, axis=1)
        x_BTD, cache = model.extend(
            config, laid, read_BT, state.cache, lengths_B - 1, dtype=dtype
        )
        scores_BTV = jax.vmap(
            lambda scores_BV, at_B: processed(scores_BV, tokens_BS, at_B), 1, 1
        )(model.scores(config, laid, x_BTD, dtype=dtype), at_BT)
        if draws:
            theirs_BTV = jnp.moveaxis(theirs_TBV, 0, 1)
            accepted_B, last_B = _judged(scores_BTV, theirs_BTV, proposed_BK, draw)
        else:
            best_BT = _best(scores_BTV)
            accepted_B = _until_refused(best_BT[:, :ahead] == proposed_BK)
            last_B = jnp.take_along_axis(best_BT, accepted_B[:, None], axis=1)[:, 0]
        tokens_BS = put(tokens_BS, lengths_B + accepted_B, last_B)

        grows = grows_B(state)
        most_B = jnp.minimum(rows.limits_B, room) - lengths_B
        new_BT = jnp.take_along_axis(tokens_BS, at_BT, axis=1)
        is_end_BT = (new_BT[..., None] == eos_ids[None, None]).any(-1)
        is_new_BT = jnp.arange(ahead + 1)[None] <= accepted_B[:, None]
        is_end_BT &= is_new_BT
        # Up to the first end, which is a token itself.
        before_BT = jnp.cumsum(is_end_BT, axis=1) - is_end_BT
        new_B = jnp.minimum((is_new_BT & (before_BT == 0)).sum(1), most_B)
        new_B = jnp.where(grows, new_B, 0)
        ends_B = (is_end_BT & (jnp.arange(ahead + 1)[None] < new_B[:, None])).any(1)
        lengths_B = lengths_B + new_B
        ends_B |= grows & (lengths_B >= rows.limits_B)
        draft = Draft(
            draft_cache,
            draft.proposed_B + grows * ahead,
            draft.accepted_B + grows * accepted_B,
        )
        state = programs.State(tokens_BS, lengths_B, state.has_ended_B | ends_B, cache)
        return count + 1, state, draft

    _, state, draft = jax.lax.while_loop(is_open, step, (jnp.int32(0), state, draft))
    return state, draft


class _Draws:
    """The chances of one round, each used once."""

    def __init__(self, keys_B: jax.Array, numbers_B: jax.Array):
        def of(key, number):
            return jax.random.fold_in(jax.random.wrap_key_data(key), number)

        self._keys_B = jax.vmap(of)(keys_B, numbers_B)

    def _keys(self, kind, number):
        def of(key):
            return jax.random.fold_in(jax.random.fold_in(key, kind), number)

        return jax.vmap(of)(self._keys_B)

    def token(self, scores_BV, kind, number):
        """One of each row, by scores."""
        keys_B = self._keys(kind, number)
        drawn_B = jax.vmap(jax.random.categorical)(keys_B, scores_BV)
        return drawn_B.astype(jnp.int32)

    def uniform(self, kind, count):
        """Numbers from 0 to 1, (B, count)."""
        keys_B = self._keys(kind, 0)
        return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys_B)


def _best(scores: jax.Array) -> jax.Array:
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def _until_refused(is_right_BK: jax.Array) -> jax.Array:
    """How many come before the first that is not right."""
    return jnp.cumprod(is_right_BK.astype(jnp.int32), axis=1).sum(1)


def _judged(scores_BTV, theirs_BTV, proposed_BK, draw):
    """How many proposals are accepted, and the token that follows them.

    A proposal is accepted with the ratio of its chances by the model and by the draft;
    what follows a refused one is drawn from what the draft's chances lack.
    """
    ahead = proposed_BK.shape[1]
    ours_BTV = jax.nn.softmax(scores_BTV)
    theirs_BTV = jax.nn.softmax(theirs_BTV).at[:, ahead].set(0)

    def of(chances_BTV):
        own_BKV = chances_BTV[:, :ahead]
        return jnp.take_along_axis(own_BKV, proposed_BK[..., None], axis=2)[..., 0]

    is_right_BK = draw.uniform(1, ahead) * of(theirs_BTV) < of(ours_BTV)
    accepted_B = _until_refused(is_right_BK)
    at_B11 = accepted_B[:, None, None]
    ours_BV = jnp.take_along_axis(ours_BTV, at_B11, axis=1)[:, 0]
    theirs_BV = jnp.take_along_axis(theirs_BTV, at_B11, axis=1)[:, 0]
    rest_BV = jnp.maximum(ours_BV - theirs_BV, 0)
    # Where both have the same chances none was refused but by rounding.
    is_some_B1 = rest_BV.sum(-1, keepdims=True) > 0
    rest_BV = jnp.where(is_some_B1, rest_BV, ours_BV)
    return accepted_B, draw.token(jnp.log(rest_BV), 2, 0)
