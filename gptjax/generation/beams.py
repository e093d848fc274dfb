"""Beam search: the likeliest sequences, and not the likeliest tokens one by one.

As Hugging Face's `generate` does it, step for step, so that both find the same.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import model
from gptjax.generation import processors as processors_lib
from gptjax.generation.options import Options

_NEVER = -1e9
"""What a beam that must not go on is worse by, as in Hugging Face's search. No
infinity: differences of two must be numbers."""
_NONE = 2 * _NEVER
"""The score of an ended beam that is none: worse than any that has ended."""


class _Search(NamedTuple):
    """B prompts with K beams each, of at most S tokens."""

    open_BKS: jax.Array
    """Sequences that go on."""
    open_BK: jax.Array
    """Their summed log-probabilities, the highest first."""
    ended_BKS: jax.Array
    ended_BK: jax.Array
    """Of ended ones, over the length penalty."""
    ended_lengths_BK: jax.Array
    """How many new tokens they have; 0: there is none yet."""
    improves_B: jax.Array
    """Whether open beams may still do better than ended ones."""
    goes_on: jax.Array
    cache: model.Cache
    count: jax.Array
    """How many new tokens open sequences have."""


def search(
    config: model.Config,
    laid: model.Laid,
    tokens_BS: jax.Array,
    lengths_B: jax.Array,
    keys_B: jax.Array,
    cache: model.Cache,
    processors: Sequence[processors_lib.Processor],
    options: Options,
    *,
    new_tokens: int,
    dtype: Any,
) -> list[list[tuple[list[int], float]]]:
    """The best beams of each prompt: new tokens and score, the best first.

    Args:
      tokens_BS: the prompts, each from place 0 on.
      keys_B: raw keys, of `options.do_sample`.
      cache: of all but the last token of each.
    """
    found = _search(
        config,
        laid,
        tokens_BS,
        lengths_B,
        keys_B,
        cache,
        tuple(processors),
        np.array(options.eos_token_id, np.int32),
        options.length_penalty,
        jnp.int32(new_tokens),
        beams=options.num_beams,
        draws=options.do_sample,
        early_stopping=options.early_stopping,
        dtype=dtype,
    )
    sequences, counts, scores = map(np.asarray, found)
    return [
        [
            (row[length : length + count].tolist(), float(score))
            for row, count, score in zip(*own, strict=True)
        ]
        for *own, length in zip(
            sequences, counts, scores, np.asarray(lengths_B), strict=True
        )
    ]


@functools.partial(
    jax.jit,
    static_argnames=("config", "beams", "draws", "early_stopping", "dtype"),
)
def _search(
    config,
    laid,
    tokens_BS,
    lengths_B,
    keys_B,
    cache,
    processors,
    eos_ids,
    length_penalty,
    new_tokens,
    *,
    beams,
    draws,
    early_stopping,
    dtype,
):
    batch, slots = tokens_BS.shape
    # So many that beams go on even where all the best ones end.
    wider = max(2, 1 + len(eos_ids)) * beams

    def flat(x_BK):
        return x_BK.reshape(-1, *x_BK.shape[2:])

    def penalized(scores, length):
        return scores / length.astype(jnp.float32) ** length_penalty

    def step(state: _Search) -> _Search:
        places_B = lengths_B + state.count
        rows_R = jnp.repeat(places_B, beams)
        open_RS = flat(state.open_BKS)
        last_R = jnp.take_along_axis(open_RS, rows_R[:, None] - 1, axis=1)
        x_RTD, cache = model.extend(
            config, laid, last_R, state.cache, rows_R - 1, dtype=dtype
        )
        scores_RV = model.scores(config, laid, x_RTD[:, -1], dtype=dtype)
        prompts_R = jnp.repeat(lengths_B, beams)
        seen = processors_lib.Seen(open_RS, rows_R, prompts_R, prompts_R + new_tokens)
        scores_RV = processors_lib.process(
            processors, jax.nn.log_softmax(scores_RV), seen
        )
        vocabulary = scores_RV.shape[-1]
        total_BN = (
            scores_RV.reshape(batch, beams, vocabulary) + state.open_BK[..., None]
        )
        total_BN = total_BN.reshape(batch, -1)
        chosen_BW = _chosen(total_BN, wider, keys_B if draws else None, state.count)
        total_BW = jnp.take_along_axis(total_BN, chosen_BW, axis=1)
        from_BW, next_BW = chosen_BW // vocabulary, chosen_BW % vocabulary
        wide_BWS = _of(state.open_BKS, from_BW)
        at_B1S = jnp.arange(slots)[None, None] == places_B[:, None, None]
        wide_BWS = jnp.where(at_B1S, next_BW[..., None], wide_BWS)
        count = state.count + 1
        ends_BW = (next_BW[..., None] == eos_ids[None, None]).any(-1) | (
            count >= new_tokens
        )

        open_BW = total_BW + jnp.where(ends_BW, _NEVER, 0)
        open_BK, kept_BK = jax.lax.top_k(open_BW, beams)

        full_B1 = (state.ended_lengths_BK > 0).all(-1, keepdims=True)
        final_BW = penalized(total_BW, count)
        is_done_B1 = (full_B1 & (early_stopping is True)) | ~state.improves_B[:, None]
        final_BW += jnp.where(is_done_B1, 2 * _NONE, 0)
        has_ended_BW = ends_BW & (jnp.arange(wider) < beams)[None]
        final_BW += jnp.where(has_ended_BW, 0, _NONE)
        all_BN = jnp.concatenate([state.ended_BK, final_BW], axis=1)
        ended_BK, best_BK = jax.lax.top_k(all_BN, beams)
        ended_BKS = _of(jnp.concatenate([state.ended_BKS, wide_BWS], 1), best_BK)
        own_BW = jnp.where(has_ended_BW, count, 0)
        ended_lengths_BK = jnp.take_along_axis(
            jnp.concatenate([state.ended_lengths_BK, own_BW], 1), best_BK, axis=1
        )

        is_longest = early_stopping == "never"
        longest = jnp.where(is_longest & (length_penalty > 0), new_tokens, count)
        possible_B = penalized(open_BK[:, 0], longest)
        # Of a beam that has not ended yet nothing is known: any other may be better.
        worst_BK = jnp.where(
            ended_lengths_BK > 0, ended_BK.min(-1, keepdims=True), _NEVER
        )
        worst_BK = jnp.maximum(worst_BK, _NEVER)
        improves_B = state.improves_B & (possible_B[:, None] > worst_BK).any(-1)
        is_full = (ended_lengths_BK > 0).all() & (early_stopping is True)
        rows_R = (jnp.take_along_axis(from_BW, kept_BK, 1)) + (
            jnp.arange(batch)[:, None] * beams
        )
        return _Search(
            open_BKS=_of(wide_BWS, kept_BK),
            open_BK=open_BK,
            ended_BKS=ended_BKS,
            ended_BK=ended_BK,
            ended_lengths_BK=ended_lengths_BK,
            improves_B=improves_B,
            goes_on=improves_B.any() & ~is_full & ~ends_BW.all(),
            cache=_taken(cache, rows_R.reshape(-1)),
            count=count,
        )

    open_BKS = jnp.broadcast_to(tokens_BS[:, None], (batch, beams, slots))
    never_BK = jnp.full((batch, beams), _NEVER, jnp.float32)
    start = _Search(
        open_BKS=open_BKS,
        # Only the first: else all would choose the same.
        open_BK=never_BK.at[:, 0].set(0),
        ended_BKS=open_BKS,
        ended_BK=jnp.full((batch, beams), _NONE, jnp.float32),
        ended_lengths_BK=jnp.zeros((batch, beams), jnp.int32),
        improves_B=jnp.ones(batch, bool),
        goes_on=jnp.array(True),
        cache=_taken(cache, jnp.repeat(jnp.arange(batch), beams)),
        count=jnp.int32(0),
    )
    last = jax.lax.while_loop(lambda state: state.goes_on, step, start)
    return last.ended_BKS, last.ended_lengths_BK, last.ended_BK


def _chosen(
    total_BN: jax.Array, count: int, keys_B: jax.Array | None, number: jax.Array
) -> jax.Array:
    """The places of the highest, or with keys so many drawn without replacement: by
    the highest of scores with Gumbel noise (Kool et al., arXiv:1903.06059).
    """
    if keys_B is not None:

        def noise(key):
            key = jax.random.fold_in(jax.random.wrap_key_data(key), number)
            return jax.random.gumbel(key, total_BN.shape[1:])

        total_BN = total_BN + jax.vmap(noise)(keys_B)
    return jax.lax.top_k(total_BN, count)[1]


def _of(x_BKS: jax.Array, beams_BW: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BKS, beams_BW[..., None], axis=1)


def _taken(cache: model.Cache, rows_R: jax.Array) -> model.Cache:
    """A cache's sequences by their numbers."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows_R, axis=leaf.ndim - 4), cache)
