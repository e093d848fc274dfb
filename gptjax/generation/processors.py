"""What options make of the scores of the next token, one change after another.

Each processor does what its namesake in Hugging Face's
`transformers.generation.logits_process` does; `make` puts them into its order. They
are trees of arrays: another temperature compiles nothing, another list of processors
does.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import errors
from gptjax.generation import filters
from gptjax.generation.options import Options


class Seen(NamedTuple):
    """The sequences whose next token is to be chosen."""

    tokens_BS: jax.Array
    """Each from its place 0 on; beyond its length there may be anything."""
    lengths_B: jax.Array
    """How many there are."""
    prompts_B: jax.Array
    """How many of them are the prompt's."""
    limits_B: jax.Array
    """How many there may be."""

    @property
    def is_there_BS(self) -> jax.Array:
        return jnp.arange(self.tokens_BS.shape[1])[None] < self.lengths_B[:, None]

    def last(self, count: int) -> tuple[jax.Array, jax.Array]:
        """The last so many tokens, and whether there are so many, B1."""
        places_BN = self.lengths_B[:, None] - count + jnp.arange(count)[None]
        tokens_BN = jnp.take_along_axis(self.tokens_BS, jnp.maximum(places_BN, 0), 1)
        return tokens_BN, self.lengths_B[:, None] >= count


class Processor(Protocol):
    """A change of scores."""

    def __call__(self, scores_BV: jax.Array, seen: Seen) -> jax.Array:
        """The scores of the next token, changed."""
        ...


def _tree(**fields: str):
    """A frozen dataclass that is a tree; of its fields some are no arrays.

    Args:
      fields: `static`: their names, with spaces between.
    """
    static = fields.get("static", "").split()

    def decorate(cls):
        cls = dataclasses.dataclass(frozen=True)(cls)
        names = [field.name for field in dataclasses.fields(cls)]
        return jax.tree_util.register_dataclass(
            cls, [name for name in names if name not in static], static
        )

    return decorate


@_tree()
class SequenceBias:
    """Adds to the score of a token that completes a sequence."""

    groups: tuple[tuple[jax.Array, jax.Array, jax.Array], ...]
    """For each length: what comes before (G, P), the last token (G,), the bias (G,)."""

    @classmethod
    def of(cls, sequences: Sequence[tuple[Sequence[int], float]]) -> "SequenceBias":
        by_length: dict[int, dict[tuple[int, ...], float]] = {}
        for ids, bias in sequences:
            by_length.setdefault(len(ids), {})[tuple(ids)] = bias
        groups = []
        for length, own in sorted(by_length.items()):
            ids = np.array(list(own), np.int32).reshape(len(own), length)
            bias = np.array(list(own.values()), np.float32)
            groups.append((ids[:, :-1], ids[:, -1], bias))
        return cls(tuple(groups))

    def __call__(self, scores_BV, seen):
        bias_BV = jnp.zeros_like(scores_BV)
        for before_GP, last_G, bias_G in self.groups:
            own_BP, are_there_B1 = seen.last(before_GP.shape[1])
            fits_BG = (own_BP[:, None] == before_GP[None]).all(-1) & are_there_B1
            bias_BV = bias_BV.at[:, last_G].add(jnp.where(fits_BG, bias_G[None], 0))
        return scores_BV + bias_BV


@_tree()
class RepetitionPenalty:
    penalty: float

    def __call__(self, scores_BV, seen):
        vocabulary = scores_BV.shape[-1]
        ids_BS = jnp.where(seen.is_there_BS, seen.tokens_BS, vocabulary)
        was_there_BV = _marked(ids_BS, vocabulary)
        changed_BV = jnp.where(
            scores_BV < 0, scores_BV * self.penalty, scores_BV / self.penalty
        )
        return jnp.where(was_there_BV, changed_BV, scores_BV)


@_tree()
class CountPenalties:
    """Of tokens that were written, whatever the prompt holds."""

    presence: float
    frequency: float

    def __call__(self, scores_BV, seen):
        vocabulary = scores_BV.shape[-1]
        places_1S = jnp.arange(seen.tokens_BS.shape[1])[None]
        is_new_BS = seen.is_there_BS & (places_1S >= seen.prompts_B[:, None])
        ids_BS = jnp.where(is_new_BS, seen.tokens_BS, vocabulary)
        rows_B1 = jnp.arange(len(scores_BV))[:, None]
        counts_BV = jnp.zeros((len(scores_BV), vocabulary + 1)).at[rows_B1, ids_BS]
        counts_BV = counts_BV.add(1)[:, :vocabulary]
        return scores_BV - self.frequency * counts_BV - self.presence * (counts_BV > 0)


@_tree(static="size")
class NoRepeatNGram:
    size: int

    def __call__(self, scores_BV, seen):
        before_BN, are_there_B1 = seen.last(self.size - 1)
        vocabulary, slots = scores_BV.shape[-1], seen.tokens_BS.shape[1]
        if slots < self.size:
            return scores_BV
        starts = slots - self.size + 1
        is_same_BS = jnp.broadcast_to(are_there_B1, (len(scores_BV), starts))
        for place in range(self.size - 1):
            own_BS = seen.tokens_BS[:, place : place + starts]
            is_same_BS &= own_BS == before_BN[:, place : place + 1]
        is_same_BS &= seen.is_there_BS[:, self.size - 1 :]
        ids_BS = jnp.where(is_same_BS, seen.tokens_BS[:, self.size - 1 :], vocabulary)
        return jnp.where(_marked(ids_BS, vocabulary), -jnp.inf, scores_BV)


@_tree()
class MinLength:
    least: int
    eos_ids: jax.Array

    def __call__(self, scores_BV, seen):
        return _suppressed(scores_BV, self.eos_ids, seen.lengths_B < self.least)


@_tree()
class MinNewTokens:
    least: int
    eos_ids: jax.Array

    def __call__(self, scores_BV, seen):
        is_due_B = seen.lengths_B - seen.prompts_B < self.least
        return _suppressed(scores_BV, self.eos_ids, is_due_B)


@_tree()
class ForcedBos:
    ids: jax.Array

    def __call__(self, scores_BV, seen):
        return _forced(scores_BV, self.ids, seen.lengths_B == 1)


@_tree()
class ForcedEos:
    ids: jax.Array

    def __call__(self, scores_BV, seen):
        return _forced(scores_BV, self.ids, seen.lengths_B == seen.limits_B - 1)


@_tree()
class RemoveInvalid:
    def __call__(self, scores_BV, seen):
        del seen
        return jnp.nan_to_num(scores_BV)


@_tree()
class ExponentialDecay:
    start: int
    factor: float
    eos_ids: jax.Array

    def __call__(self, scores_BV, seen):
        late_B = seen.lengths_B - seen.prompts_B - self.start
        own_BE = scores_BV[:, self.eos_ids]
        growth_B1 = (self.factor ** late_B.astype(jnp.float32) - 1)[:, None]
        added_BE = jnp.abs(own_BE) * growth_B1
        added_BE = jnp.where(jnp.isfinite(own_BE) & (late_B > 0)[:, None], added_BE, 0)
        return scores_BV.at[:, self.eos_ids].add(added_BE)


@_tree()
class Suppress:
    ids: jax.Array

    def __call__(self, scores_BV, seen):
        return _suppressed(scores_BV, self.ids, seen.lengths_B >= 0)


@_tree(static="has_forced_bos")
class BeginSuppress:
    ids: jax.Array
    has_forced_bos: bool

    def __call__(self, scores_BV, seen):
        begin_B = seen.prompts_B + (self.has_forced_bos & (seen.prompts_B == 1))
        return _suppressed(scores_BV, self.ids, seen.lengths_B == begin_B)


@_tree()
class Temperature:
    temperature: float

    def __call__(self, scores_BV, seen):
        del seen
        return scores_BV / self.temperature


@_tree(static="k")
class TopK:
    k: int

    def __call__(self, scores_BV, seen):
        del seen
        return filters.top_k(scores_BV, self.k)


@_tree(static="name keep")
class Filter:
    """One of `filters` that takes a value, and how many tokens stay in any case."""

    name: str
    value: float
    keep: int

    def __call__(self, scores_BV, seen):
        del seen
        return getattr(filters, self.name)(scores_BV, self.value, self.keep)


@_tree()
class TopH:
    fraction: float

    def __call__(self, scores_BV, seen):
        del seen
        return filters.top_h(scores_BV, self.fraction)


@_tree()
class Normalize:
    def __call__(self, scores_BV, seen):
        del seen
        return jax.nn.log_softmax(scores_BV)


def make(options: Options, vocab_size: int) -> tuple[Processor, ...]:
    """The processors of options, in Hugging Face's order.

    Raises:
      UserError: a token id beyond the vocabulary, named by its option.
    """
    ids = functools.partial(_ids, vocab_size=vocab_size)
    eos_ids = ids("eos_token_id", options.eos_token_id)
    found: list[Processor] = []
    if options.sequence_bias:
        for sequence, _ in options.sequence_bias:
            ids("sequence_bias", sequence)
        found.append(SequenceBias.of(options.sequence_bias))
    if options.repetition_penalty != 1:
        found.append(RepetitionPenalty(options.repetition_penalty))
    if options.presence_penalty or options.frequency_penalty:
        found.append(
            CountPenalties(options.presence_penalty, options.frequency_penalty)
        )
    if options.no_repeat_ngram_size:
        found.append(NoRepeatNGram(options.no_repeat_ngram_size))
    if options.bad_words_ids:
        for word in options.bad_words_ids:
            ids("bad_words_ids", word)
        # The end of a text may be forbidden by its minimum length alone.
        ends = {(each,) for each in options.eos_token_id}
        words = [(word, -np.inf) for word in options.bad_words_ids if word not in ends]
        found.append(SequenceBias.of(words))
    if options.min_new_tokens is None and options.min_length and len(eos_ids):
        found.append(MinLength(options.min_length, eos_ids))
    if options.min_new_tokens and len(eos_ids):
        found.append(MinNewTokens(options.min_new_tokens, eos_ids))
    forced_bos = options.forced_bos_token_id
    if forced_bos is not None:
        found.append(ForcedBos(ids("forced_bos_token_id", [forced_bos])))
    if options.forced_eos_token_id:
        found.append(ForcedEos(ids("forced_eos_token_id", options.forced_eos_token_id)))
    if options.remove_invalid_values:
        found.append(RemoveInvalid())
    if options.exponential_decay_length_penalty is not None and len(eos_ids):
        found.append(
            ExponentialDecay(*options.exponential_decay_length_penalty, eos_ids)
        )
    if options.suppress_tokens:
        found.append(Suppress(ids("suppress_tokens", options.suppress_tokens)))
    if options.begin_suppress_tokens:
        own = ids("begin_suppress_tokens", options.begin_suppress_tokens)
        found.append(BeginSuppress(own, forced_bos is not None))
    if options.do_sample:
        found += _of_sampling(options)
    if options.renormalize_logits:
        found.append(Normalize())
    return tuple(found)


def _of_sampling(options: Options) -> list[Processor]:
    # Of beams one at least must go on.
    keep = len(options.eos_token_id) + 1 if options.num_beams > 1 else 1
    keep = max(keep, 2) if options.num_beams > 1 else keep
    found: list[Processor] = []
    if options.temperature != 1:
        found.append(Temperature(options.temperature))
    if options.top_h is not None:
        found.append(TopH(options.top_h))
    if options.top_k:
        found.append(TopK(max(options.top_k, keep)))
    if options.top_p < 1:
        # Subtracted here, in double precision, as torch does it: which tokens lie on
        # the boundary can hang on it.
        found.append(Filter("top_p", 1 - options.top_p, keep))
    if options.min_p is not None:
        found.append(Filter("min_p", options.min_p, keep))
    if options.typical_p < 1:
        found.append(Filter("typical", options.typical_p, keep))
    if options.epsilon_cutoff:
        found.append(Filter("epsilon", options.epsilon_cutoff, keep))
    if options.eta_cutoff:
        found.append(Filter("eta", options.eta_cutoff, keep))
    return found


def process(
    processors: Sequence[Processor], scores_BV: jax.Array, seen: Seen
) -> jax.Array:
    """Scores changed by all processors in turn."""
    for processor in processors:
        scores_BV = processor(scores_BV, seen)
    return scores_BV


def _ids(option: str, ids: Sequence[int], *, vocab_size: int) -> np.ndarray:
    for each in ids:
        if each >= vocab_size:
            raise errors.UserError(
                f"{option}: token id {each} is beyond the model's vocab_size "
                f"{vocab_size}"
            )
    return np.array(ids, np.int32)


def _marked(ids_BS: jax.Array, vocabulary: int) -> jax.Array:
    """Which tokens are among some, bool BV; an id of `vocabulary` is none."""
    rows_B1 = jnp.arange(len(ids_BS))[:, None]
    is_BV = jnp.zeros((len(ids_BS), vocabulary + 1), bool)
    return is_BV.at[rows_B1, ids_BS].set(True)[:, :vocabulary]


def _suppressed(scores_BV: jax.Array, ids: jax.Array, is_due_B: jax.Array) -> Any:
    lowest_BE = jnp.where(is_due_B[:, None], -jnp.inf, scores_BV[:, ids])
    return scores_BV.at[:, ids].set(lowest_BE)


def _forced(scores_BV: jax.Array, ids: jax.Array, is_due_B: jax.Array) -> jax.Array:
    forced_BV = jnp.full_like(scores_BV, -jnp.inf).at[:, ids].set(0)
    return jnp.where(is_due_B[:, None], forced_BV, scores_BV)
