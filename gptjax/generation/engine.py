"""Decoding: prompts in, new tokens out."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import errors, model, rounding, sharding
from gptjax.generation import beams, processors, programs, speculative
from gptjax.generation.growing import Generated, Growing, Piece, Seed, keys_of
from gptjax.generation.options import Options

Prompts = Sequence[Sequence[int]]
FindStop = Callable[[Sequence[int], Sequence[int]], int | None]
"""Of a prompt and what was written after it: how many of the new tokens it takes until
a stop string is complete; None: more."""

_STOPS_EVERY = 8
"""Tokens that are decoded before stop strings are looked for."""
_SCORES_AT_ONCE = 16
"""Tokens whose scores are on the device at once, where they are wanted."""


class Engine:
    """A model laid out for decoding.

    A few shapes are compiled: numbers of sequences, lengths of prompts and of all are
    rounded up to powers of two.
    """

    def __init__(
        self,
        config: model.Config,
        params: Any,
        *,
        dtype: Any = jnp.float32,
        mesh: Mesh | None = None,
    ):
        """Lays the params out.

        Args:
          params: of any floating dtype; on the devices of `mesh`, where one is given.
          dtype: of the computation and of the cache.
        """
        self.config, self.dtype, self.mesh = config, jnp.dtype(dtype), mesh
        self.laid = model.lay_out(config, params, self.dtype)
        self.draft: Engine | None = None

    def with_draft(self, draft: "Engine") -> "Engine":
        """The same with a smaller model that proposes tokens; see `speculative`.

        It changes no token but those that are drawn, and of these no chance.

        Args:
          draft: of the same tokenizer.

        Raises:
          UserError: a draft that cannot propose for this model.
        """
        if draft.config.vocab_size != self.config.vocab_size:
            raise errors.UserError(
                f"draft: its vocab_size {draft.config.vocab_size} is not the model's "
                f"{self.config.vocab_size}"
            )
        if self.mesh is not None:
            raise errors.UserError("draft: goes with one device, not with a mesh")
        made = copy.copy(self)
        made.draft = draft
        return made

    def generate(
        self,
        prompts: Prompts,
        options: Options | None = None,
        *,
        seed: Seed = 0,
        find_stop: FindStop | None = None,
    ) -> Generated:
        """What the model says after each prompt.

        All are decoded together, until each has met its end. A sequence's tokens do not
        depend on the others; where tokens are drawn, they depend on its seed, and with
        one seed for all on its place among them.

        Args:
          prompts: token ids, at least one in each; of different lengths if need be.
          seed: one for each prompt, or one for all.
          find_stop: tells where `options.stop_strings` end a sequence.

        Raises:
          UserError: an empty prompt, a token id beyond the vocabulary, more tokens than
            the model has positions for, options that do not fit the model.
        """
        options = options or Options()
        if not prompts:
            return Generated([])
        count = len(prompts) * options.num_return_sequences
        if options.num_beams > 1:
            return self._search(prompts, options, seed)
        pieces: list[list[Piece]] = [[] for _ in range(count)]
        at_once = _STOPS_EVERY if options.stop_strings else self.config.n_positions
        for some in self.stream(
            prompts, options, seed=seed, find_stop=find_stop, at_once=at_once
        ):
            for piece in some:
                pieces[piece.sequence].append(piece)
        scores, acceptance = None, None
        if options.output_scores:
            none = np.zeros((0, self.config.vocab_size), np.float32)
            scores = [
                np.concatenate([none, *(piece.scores for piece in own)])
                for own in pieces
            ]
        if self.draft is not None:
            proposed = sum(piece.proposed for own in pieces for piece in own)
            accepted = sum(piece.accepted for own in pieces for piece in own)
            acceptance = accepted / max(proposed, 1)
        tokens = [[token for piece in own for token in piece.tokens] for own in pieces]
        return Generated(tokens, scores, acceptance=acceptance)

    def stream(
        self,
        prompts: Prompts,
        options: Options | None = None,
        *,
        seed: Seed = 0,
        find_stop: FindStop | None = None,
        at_once: int = 1,
    ) -> Iterator[list[Piece]]:
        """`generate`, by and by: each time a piece for every sequence that has grown.

        Args:
          at_once: how many tokens are waited for.

        Raises:
          UserError: as `generate` does; beams, which are not known before their end.
        """
        options = options or Options()
        self.check(prompts, options)
        if options.num_beams > 1:
            raise errors.UserError("num_beams: beams cannot be streamed")
        if options.stop_strings and find_stop is None:
            raise errors.UserError("stop_strings: take a tokenizer to be found")
        if self.draft is not None and options.output_scores:
            raise errors.UserError("output_scores: a draft leaves none")
        how = processors.make(options, self.config.vocab_size)
        if options.output_scores:
            at_once = min(at_once, _SCORES_AT_ONCE)
        repeats = options.num_return_sequences
        starts = [list(prompt) for prompt in prompts for _ in range(repeats)]
        keys = keys_of(seed, len(prompts), repeats)
        sequences = [
            Growing(number, start, options.new_tokens(len(start)), key)
            for number, (start, key) in enumerate(zip(starts, keys, strict=True))
        ]
        while open_ := [
            each
            for each in sequences
            if not each.has_ended and len(each.written) < each.budget
        ]:
            # Once, or where a window slides, again and again.
            yield from self._grow(open_, options, how, find_stop, at_once)

    def _grow(
        self,
        sequences: list[Growing],
        options: Options,
        how: tuple[processors.Processor, ...],
        find_stop: FindStop | None,
        at_once: int,
    ) -> Iterator[list[Piece]]:
        """Lets sequences grow to their ends, or to the last position."""
        contexts = [each.context(self.config.n_positions) for each in sequences]
        state, rows, draft = self._start(sequences, contexts, options)
        lengths = np.array([len(context) for context in contexts])
        window = min(
            state.tokens_BS.shape[1] - self._ahead(options), self.config.n_positions
        )
        drafted = np.zeros((2, len(state.lengths_B)), np.int32)
        eos_ids = np.array(options.eos_token_id, np.int32)
        while any(
            not each.has_ended and length < window
            for each, length in zip(sequences, lengths, strict=True)
        ):
            scores_BNV, before, drafted_before = None, lengths, drafted
            if self.draft is None:
                state, scores_BNV = programs.decode(
                    self.config,
                    self.laid,
                    state,
                    rows,
                    how,
                    eos_ids,
                    at_once,
                    draws=options.do_sample,
                    kept=at_once if options.output_scores else 0,
                    dtype=self.dtype,
                    mesh=self.mesh,
                )
            else:
                state, draft = speculative.decode(
                    self.config,
                    self.laid,
                    self.draft.config,
                    self.draft.laid,
                    state,
                    draft,
                    rows,
                    how,
                    eos_ids,
                    at_once,
                    ahead=options.num_assistant_tokens,
                    draws=options.do_sample,
                    dtype=self.dtype,
                )
                drafted = np.stack([draft.proposed_B, draft.accepted_B])
            tokens, lengths, ended = (
                np.asarray(each)[: len(sequences)]
                for each in (state.tokens_BS, state.lengths_B, state.has_ended_B)
            )
            stopped = np.zeros(len(state.has_ended_B), bool)
            pieces = []
            for place, each in enumerate(sequences):
                new = tokens[place, before[place] : lengths[place]].tolist()
                if not new:
                    continue
                each.written += new
                stop = None
                if find_stop is not None and options.stop_strings:
                    stop = find_stop(each.prompt, each.written)
                if stop is not None:
                    new = new[: len(new) - (len(each.written) - stop)]
                    stopped[place] = True
                    del each.written[stop:]
                each.has_ended = bool(ended[place] or stopped[place])
                own = None
                if scores_BNV is not None:
                    own = np.asarray(scores_BNV[place, : len(new)])
                counts = (drafted - drafted_before)[:, place].tolist()
                pieces.append(Piece(each.number, new, each.has_ended, own, *counts))
            if stopped.any():
                state = state._replace(has_ended_B=state.has_ended_B | stopped)
            yield pieces

    def _ahead(self, options: Options) -> int:
        """How many slots there are beyond those of sequences, for refused tokens."""
        return 0 if self.draft is None else options.num_assistant_tokens + 1

    def _start(
        self, sequences: list[Growing], contexts: list[list[int]], options: Options
    ) -> tuple[programs.State, programs.Rows, speculative.Draft | None]:
        """Sequences that are to grow, all but the last tokens of contexts read."""
        count, own = self._rounded(len(contexts)), slice(len(contexts))
        lengths, limits = np.ones(count, np.int32), np.zeros(count, np.int32)
        lengths[own] = [len(context) for context in contexts]
        new = np.array([len(each.written) for each in sequences], np.int32)
        limits[own] = lengths[own] + [each.budget for each in sequences] - new
        # Less than 0 where a window has left the prompt behind.
        prompts = lengths.copy()
        prompts[own] -= new
        needed = int(max(limits.max(), lengths.max()))
        room = self.config.n_positions
        if self.draft is not None:
            theirs = self.draft.config.n_positions
            if min(needed, room) > theirs:
                raise errors.UserError(
                    f"draft: its n_positions {theirs} are fewer than the "
                    f"{min(needed, room)} tokens of a prompt and what follows it"
                )
            room = min(room, theirs)
        whole = min(rounding.power_of_two(needed), room)
        tokens_BS = np.zeros((count, whole + self._ahead(options)), np.int32)
        for row, context in enumerate(contexts):
            tokens_BS[row, : len(context)] = context
        keys_B = np.zeros((count, *sequences[0].key.shape), sequences[0].key.dtype)
        keys_B[own] = [each.key for each in sequences]
        longest = int(lengths.max()) - 1
        given = (tokens_BS, lengths, limits <= lengths, prompts, limits, keys_B)
        if self.mesh is not None:
            split = NamedSharding(self.mesh, PartitionSpec(sharding.BATCH_AXES))
            given = sharding.place(given, (split,) * len(given))
        tokens_BS, lengths, has_ended, *rows = given
        cache = self._read(tokens_BS, longest, options)
        draft = None
        if self.draft is not None:
            theirs, none = self.draft._read(tokens_BS, longest, options), lengths * 0
            draft = speculative.Draft(theirs, none, none.copy())
        state = programs.State(tokens_BS, lengths, has_ended, cache)
        return state, programs.Rows(*rows), draft

    def _read(
        self, tokens_BS: jax.Array, longest: int, options: Options
    ) -> model.Cache:
        """The cache of so many first tokens of all sequences."""
        rows, slots = tokens_BS.shape
        cache = programs.empty(
            self.config, self.laid, rows, slots, dtype=self.dtype, mesh=self.mesh
        )
        longest = min(rounding.power_of_two(longest), slots) if longest else 0
        for start in range(0, longest, options.prefill_chunk_size):
            cache = programs.prefill(
                self.config,
                self.laid,
                tokens_BS,
                cache,
                start,
                count=min(options.prefill_chunk_size, longest - start),
                dtype=self.dtype,
            )
        return cache

    def _search(self, prompts: Prompts, options: Options, seed: Seed) -> Generated:
        """By beams."""
        self.check(prompts, options)
        budgets = [options.new_tokens(len(prompt)) for prompt in prompts]
        if not prompts or not max(budgets):
            return Generated(
                [[] for _ in prompts for _ in range(options.num_return_sequences)]
            )
        if len({*budgets}) > 1:
            raise errors.UserError(
                "max_length: with num_beams and prompts of several lengths, give "
                "max_new_tokens"
            )
        if self.draft is not None:
            raise errors.UserError("num_beams: a draft proposes for one beam alone")
        keys = keys_of(seed, len(prompts), 1)
        sequences = [
            Growing(number, list(prompt), budgets[0], keys[number])
            for number, prompt in enumerate(prompts)
        ]
        contexts = [each.prompt for each in sequences]
        state, rows, _ = self._start(sequences, contexts, options)
        found = beams.search(
            self.config,
            self.laid,
            state.tokens_BS,
            state.lengths_B,
            rows.keys_B,
            state.cache,
            processors.make(options, self.config.vocab_size),
            options,
            new_tokens=budgets[0],
            dtype=self.dtype,
        )
        found = [found[row] for row in range(len(prompts))]
        best = [beam for own in found for beam in own[: options.num_return_sequences]]
        return Generated(
            [tokens for tokens, _ in best], beam_scores=[score for _, score in best]
        )

    def _rounded(self, rows: int) -> int:
        """How many rows there are in arrays for so many sequences."""
        rows = rounding.power_of_two(rows)
        if self.mesh is None:
            return rows
        parts = math.prod(self.mesh.shape[axis] for axis in sharding.BATCH_AXES)
        return -(-rows // parts) * parts

    def check(self, prompts: Prompts, options: Options) -> None:
        """Raises a `UserError` unless prompts can be gone on with as options say."""
        for number, prompt in enumerate(prompts):
            where = f"prompt {number}" if len(prompts) > 1 else "the prompt"
            if len(prompt) == 0:
                raise errors.UserError(f"{where} is empty; it needs at least 1 token")
            if not 0 <= min(prompt) <= max(prompt) < self.config.vocab_size:
                wrong = min(prompt) if min(prompt) < 0 else max(prompt)
                raise errors.UserError(
                    f"{where} holds token id {wrong}, beyond the model's vocab_size "
                    f"{self.config.vocab_size}"
                )
            new = options.new_tokens(len(prompt))
            most = self.config.n_positions
            if len(prompt) + new > most and not options.sliding_window:
                raise errors.UserError(
                    f"{where} of {len(prompt)} tokens and {new} new ones do not fit "
                    f"the model's n_positions {most}; sliding_window goes beyond"
                )
