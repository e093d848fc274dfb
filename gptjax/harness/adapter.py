"""A model of gptjax as the lm-evaluation-harness wants one.

Texts become tokens, are cut to the context and are stopped by the rules of the
harness's own `hf` models, so that both give the same numbers of the same checkpoint;
what is computed is gptjax's.
"""

import functools
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import lm_eval.api.model
import lm_eval.models.utils
import lm_eval.utils
import tqdm

from gptjax import data, errors, evaluation, generation, models, writing
from gptjax.harness import generating

_log = logging.getLogger(__name__)
_DTYPES = ("float32", "bfloat16", "float16")
_UNSAID = (None, "cuda:0")
"""The devices that the harness names where its user has named none."""


class Adapter(lm_eval.api.model.TemplateLM):
    """What `--model gptjax` makes of `--model_args`."""

    max_gen_toks = 256
    """New tokens at most, unless a task says otherwise; as for `hf`."""

    def __init__(
        self,
        path: str,
        *,
        tokenizer: str | None = None,
        adapter: str | None = None,
        dtype: str = "float32",
        max_length: int | None = None,
        context_len: int = 1,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        chat_template_args: dict[str, Any] | None = None,
        seed: int = 0,
        device: str | None = None,
        **unknown: Any,
    ):
        """Loads a model.

        Args:
          path: a model as `gptjax.load` takes it.
          tokenizer: a folder or a hub name; None: the model's own.
          adapter: a LoRA adapter, merged into the model.
          dtype: of weights and computation.
          max_length: the most tokens of context and continuation; None: n_positions.
          context_len: what each window of a long text shows at least of what the one
            before it predicted; `hf` has 1.
          batch_size: sequences read at once, or `auto` for as many as make 8192
            tokens, `max_batch_size` at most.
          add_bos_token: whether texts begin with the beginning-of-text token; None: as
            the tokenizer has it.
          prefix_token_id: what stands before a text that has nothing before it; None:
            the tokenizer's beginning of text, or else its end.
          chat_template_args: what the chat template takes besides the chat.
          seed: of drawn tokens, the request's number on top.
          device: what the harness's own models run on. JAX chooses by itself, or by
            JAX_PLATFORMS; another one's name is refused, but for `cuda:0`, which the
            harness says unasked.

        Raises:
          UserError: an argument that there is not, or a value that cannot be.
        """
        super().__init__()
        if unknown:
            parameters = inspect.signature(Adapter).parameters.values()
            known = [each.name for each in parameters if each.kind != each.VAR_KEYWORD]
            raise errors.UserError(
                f"--model_args {next(iter(unknown))}: a gptjax model has none; it has "
                + ", ".join(known)
            )
        if dtype not in _DTYPES:
            raise errors.UserError(f"dtype {dtype!r}: one of {', '.join(_DTYPES)}")
        _check_device(device)
        self.batch_size = _batch_size(batch_size)
        self.most = evaluation.MOST_SEQUENCES
        if max_batch_size is not None:
            if max_batch_size < 1:
                raise errors.UserError(
                    f"max_batch_size {max_batch_size}: a number above 0"
                )
            self.most = max_batch_size
        self.dtype, self.seed = jnp.dtype(dtype), seed
        self.model = models.load(str(path), dtype=self.dtype, adapter=adapter)
        self.tokenizer = self.model.tokenizer
        if tokenizer is not None:
            other = data.Tokenizer(tokenizer)
            facts = other.facts(data.cache_folder(None))
            data.check_tokenizer(facts, self.model.config.vocab_size, tokenizer)
            self.tokenizer = other.loaded
        self.max_length = self.model.config.n_positions
        if max_length is not None:
            self.max_length = max_length
        if not 0 < self.max_length <= self.model.config.n_positions:
            raise errors.UserError(
                f"max_length {max_length}: the model's n_positions are "
                f"{self.model.config.n_positions}"
            )
        if not 1 <= context_len <= self.max_length:
            raise errors.UserError(
                f"context_len {context_len}: from 1 to max_length {self.max_length}"
            )
        self.context_len = context_len
        self.add_bos_token = add_bos_token
        if add_bos_token is not None:
            self.tokenizer.add_bos_token = add_bos_token
        self._prefix_token_id = prefix_token_id
        if self.prefix_token_id is None:
            raise errors.UserError(
                f"{path}: its tokenizer has neither a beginning nor an end of text; "
                "give prefix_token_id"
            )
        if not 0 <= self.prefix_token_id < self.model.config.vocab_size:
            raise errors.UserError(
                f"prefix_token_id {self.prefix_token_id}: the model's vocab_size is "
                f"{self.model.config.vocab_size}"
            )
        self.chat_template_args = chat_template_args or {}
        self._has_warned = False

    @property
    def eot_token_id(self) -> int | None:
        """The end of a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int | None:
        """What stands before a text that has nothing before it."""
        for id_ in (self._prefix_token_id, self.tokenizer.bos_token_id):
            if id_ is not None:
                return id_
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps requests under."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What results say of the model."""
        sizes = [leaf.size for leaf in jax.tree.leaves(self.model.params)]
        return {"model_num_parameters": sum(sizes), "model_dtype": self.dtype.name}

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the tokenizer's template writes it.

        Without its system turn, where the template knows none: the harness makes one of
        a task's description, too.

        Raises:
          UserError: the tokenizer has no template, or it refuses the chat.
        """
        template = data.own_template(data.Tokenizer.of(self.tokenizer))
        write = functools.partial(
            template.write,
            place="the chat",
            asks=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.chat_template_args,
        )
        try:
            return write(chat_history)
        except errors.UserError as error:
            rest = [turn for turn in chat_history if turn["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            if not self._has_warned:
                _log.warning(
                    "%s; such chats are written without their system turn", error
                )
                self._has_warned = True
            return write(rest)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """The tokens of a text, whose first one is not put there twice."""
        del unused
        prefix = self.tokenizer.decode(self.prefix_token_id)
        return self._encode(string, add_special_tokens, beginning=prefix)

    def _encode(
        self, text: str, adds: bool | None, *, beginning: str | None
    ) -> list[int]:
        if adds is None:
            adds = self.add_bos_token
            if beginning is not None and text.startswith(beginning):
                adds = False
        how = {} if adds is None else {"add_special_tokens": adds}
        return self.tokenizer.encode(text, **how)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **unused: Any,
    ) -> list[tuple[float, bool]]:
        del unused
        found: list[Any] = [None] * len(requests)
        prefix = [self.prefix_token_id]
        # Of white space alone, which goes to the continuation, nothing is left.
        pairs = [(before or prefix, after) for _, before, after in requests]
        with tqdm.tqdm(
            total=len(requests),
            disable=disable_tqdm,
            desc="Running loglikelihood requests",
        ) as bar:
            for batch in evaluation.score(
                self.model.config,
                self.model.params,
                pairs,
                context=self.max_length,
                batch_sequences=self.batch_size,
                most_sequences=self.most,
                dtype=self.dtype,
            ):
                for number, score in batch:
                    found[number] = tuple(score)
                    request = requests[number][0]
                    if request is not None:
                        self.cache_hook.add_partial(
                            "loglikelihood", request, found[number]
                        )
                bar.update(len(batch))
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, each token predicted once."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            for window in lm_eval.utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=self.context_len,
            ):
                windows.append((None, *lm_eval.utils.make_disjoint_window(window)))
                owners.append(number)
        sums = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows, disable_tqdm)
        for number, (log_likelihood, _) in zip(owners, scores, strict=True):
            sums[number] += log_likelihood
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """What the model writes after contexts, up to the strings that end it."""
        found: list[Any] = [None] * len(requests)
        with tqdm.tqdm(
            total=len(requests),
            disable=disable_tqdm,
            desc="Running generate_until requests",
        ) as bar:
            for way, numbers in self._ways(requests):
                contexts = [
                    self._context(requests[number].args[0], way) for number in numbers
                ]
                for places in self._batches(contexts, way.most):
                    own = [numbers[place] for place in places]
                    made = way.write(
                        self._writer,
                        [contexts[place] for place in places],
                        seeds=[self.seed + number for number in own],
                    )
                    for number, new in zip(own, made, strict=True):
                        text = self.tokenizer.decode(new, skip_special_tokens=True)
                        found[number] = way.cut(text)
                        self.cache_hook.add_partial(
                            "generate_until", requests[number].args, found[number]
                        )
                    bar.update(len(own))
        return found

    @functools.cached_property
    def _writer(self) -> writing.Writer:
        """What writes: a second copy of the weights, where a task asks for texts."""
        config, params = self.model.config, self.model.params
        engine = generation.Engine(config, params, dtype=self.dtype)
        return writing.Writer(engine, self.tokenizer, self.model.folder)

    def _ways(
        self, requests: Sequence[Any]
    ) -> Iterator[tuple[generating.Way, list[int]]]:
        """The ways of writing that requests ask for, and which ask for each."""
        ways: dict[str, tuple[generating.Way, list[int]]] = {}
        end = self.eot_token_id
        for number, request in enumerate(requests):
            wanted = request.args[1]
            key = repr(sorted(wanted.items()))
            if key not in ways:
                way = generating.way(
                    wanted,
                    self._writer,
                    new_tokens=self.max_gen_toks,
                    end=None if end is None else self.tokenizer.decode(end),
                    decode=self.tokenizer.decode,
                )
                ways[key] = way, []
            ways[key][1].append(number)
        yield from ways.values()

    def _context(self, text: str, way: generating.Way) -> list[int]:
        """The last tokens of a text that leave room for what is to be written."""
        room = self.max_length - way.most
        if room < 1:
            raise errors.UserError(
                f"max_gen_toks {way.most}: fewer than max_length {self.max_length}, "
                "that something of the context is left"
            )
        ids = self._encode(text, None, beginning=self.tokenizer.bos_token)
        return (ids or [self.prefix_token_id])[-room:]

    def _batches(
        self, contexts: Sequence[Sequence[int]], new_tokens: int
    ) -> Iterator[list[int]]:
        """Which contexts are written after together, the longest first."""
        order = sorted(range(len(contexts)), key=lambda place: -len(contexts[place]))
        while order:
            length = len(contexts[order[0]]) + new_tokens
            count = self.batch_size or evaluation.sequences_at_once(length, self.most)
            yield order[:count]
            order = order[count:]


def _check_device(wanted: str | None) -> None:
    if wanted in _UNSAID:
        return
    # torch numbers them, and has other names for some of JAX's.
    kind = str(wanted).partition(":")[0]
    kind = {"cuda": "gpu", "xla": "tpu"}.get(kind, kind)
    if kind != jax.default_backend():
        raise errors.UserError(
            f"device {wanted}: JAX runs on {jax.default_backend()} here; leave it out, "
            "or see JAX_PLATFORMS"
        )


def _batch_size(given: int | str) -> int | None:
    """How many sequences, or None for `auto`."""
    # So the harness's own say how often they look for it anew.
    if str(given).partition(":")[0] == "auto":
        return None
    if not str(given).isdecimal() or int(given) < 1:
        raise errors.UserError(f"batch_size {given!r}: a number above 0, or auto")
    return int(given)
