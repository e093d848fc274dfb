"""How tokens are chosen and when they end, by the names of Hugging Face."""

import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from gptjax import errors

FILE = "generation_config.json"

_Natural = Annotated[int, pydantic.Field(ge=0)]
_Positive = Annotated[int, pydantic.Field(gt=0)]
_Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
_Ids = tuple[_Natural, ...]

_WITHOUT_EFFECT = {
    "_from_model_config",
    "bos_token_id",
    "cache_implementation",
    "decoder_start_token_id",
    "disable_compile",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "pad_token_id",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "num_assistant_tokens_schedule",
    "return_dict_in_generate",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
}
"""What a generation_config.json may say without changing a token of ours."""

_NEUTRAL = {
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1,
    "low_memory": False,
    "num_beam_groups": 1,
    "token_healing": False,
}
"""Options that there are not, with values that ask for nothing; any may be None."""

_ABSENT = {
    *_NEUTRAL,
    "constraints",
    "dola_layers",
    "force_words_ids",
    "max_time",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "use_mtp",
    "watermarking_config",
}


DRAWING = (
    "temperature",
    "top_k",
    "top_p",
    "top_h",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""Options that say nothing unless tokens are drawn."""


class Options(pydantic.BaseModel):
    """What `generate` of Hugging Face's transformers takes, and does with it.

    The defaults are its own, but for the number of new tokens.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: _Natural | None = None
    """At most; None: `max_length`, or 50."""
    max_length: _Positive | None = None
    """Of prompt and new tokens together; `max_new_tokens` goes before it."""
    min_length: _Natural = 0
    """Of both together, before which no sequence ends."""
    min_new_tokens: _Natural | None = None
    """The same of new tokens alone; goes before `min_length`."""
    eos_token_id: _Ids = ()
    """Any of these ends a sequence."""
    stop_strings: tuple[Annotated[str, pydantic.Field(min_length=1)], ...] = ()
    """So does the token that completes one of these."""

    do_sample: bool = False
    """Draw tokens; else the likeliest is taken, or beams are searched."""
    temperature: Annotated[float, pydantic.Field(gt=0)] = 1.0
    """What scores are divided by. `DRAWING`, these eight, are of `do_sample`."""
    top_k: _Natural = 50
    """Only the k likeliest tokens, and those as likely as the k-th; 0: all."""
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    """Only the likeliest that have this much probability together (Holtzman et al.,
    arXiv:1904.09751)."""
    top_h: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    """Only the likeliest that have this much of the 100 likeliest's entropy together
    (Potraghloo et al., arXiv:2509.02510)."""
    min_p: _Fraction | None = None
    """Only those at least this fraction as likely as the likeliest (Nguyen et al.,
    arXiv:2407.01082)."""
    typical_p: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    """Only those nearest to the entropy that have this much probability together
    (Meister et al., arXiv:2202.00666)."""
    epsilon_cutoff: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    """Only those at least this likely (Hewitt et al., arXiv:2210.15191)."""
    eta_cutoff: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    """The same, less where the entropy is high."""

    repetition_penalty: Annotated[float, pydantic.Field(gt=0)] = 1.0
    """Scores of tokens that were there are divided by it, negative ones multiplied
    (Keskar et al., arXiv:1909.05858)."""
    presence_penalty: float = 0.0
    """Taken from the scores of tokens that were written. OpenAI's, as the next one;
    Hugging Face has neither."""
    frequency_penalty: float = 0.0
    """The same, as many times as they were written."""
    no_repeat_ngram_size: _Natural = 0
    """No so many tokens in a row come twice; 0: they may."""
    bad_words_ids: tuple[Annotated[_Ids, pydantic.Field(min_length=1)], ...] = ()
    """Token sequences that are never completed."""
    sequence_bias: tuple[
        tuple[Annotated[_Ids, pydantic.Field(min_length=1)], float], ...
    ] = ()
    """What is added to the score of the token that completes a sequence."""
    suppress_tokens: _Ids = ()
    """Never chosen."""
    begin_suppress_tokens: _Ids = ()
    """Never chosen first."""
    forced_bos_token_id: _Natural | None = None
    """The second token of all, where the prompt is one."""
    forced_eos_token_id: _Ids = ()
    """The last token where a sequence reaches its full length."""
    exponential_decay_length_penalty: tuple[_Natural, float] | None = None
    """After so many new tokens the end's score grows by this factor at every one."""
    remove_invalid_values: bool = False
    """NaN becomes 0, infinity the largest number."""
    renormalize_logits: bool = False
    """Scores become logarithms of probabilities, after all that changes them."""

    num_beams: _Positive = 1
    """Above 1: beam search, or of drawn beams with `do_sample`."""
    length_penalty: float = 1.0
    """A beam's score is divided by its number of new tokens to this power."""
    early_stopping: bool | Literal["never"] = False
    """True: once there are as many ended beams as beams. False: where better ones are
    unlikely. `never`: where they are impossible."""
    num_return_sequences: _Positive = 1
    """For each prompt; with beams, the best so many."""
    output_scores: bool = False
    """Whether `Generated.scores` are kept, which take a number for each token of the
    vocabulary."""

    num_assistant_tokens: _Positive = 5
    """How many a draft model proposes at a time, where there is one."""
    prefill_chunk_size: _Positive = 512
    """Tokens of a prompt that are read at once."""
    sliding_window: bool = False
    """Whether to go on beyond n_positions: then the older half is forgotten and the
    rest read again."""

    @pydantic.field_validator("eos_token_id", "forced_eos_token_id", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, int) else value

    @pydantic.field_validator("stop_strings", mode="before")
    @classmethod
    def _one_string_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @pydantic.field_validator("sequence_bias", mode="before")
    @classmethod
    def _mapping_or_pairs(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, Mapping) else value

    @pydantic.model_validator(mode="after")
    def _fit_together(self):
        if self.num_beams == 1 and not self.do_sample and self.num_return_sequences > 1:
            raise ValueError(
                "num_return_sequences: without do_sample or num_beams all would be "
                "the same"
            )
        if self.exponential_decay_length_penalty and not self.eos_token_id:
            raise ValueError(
                "exponential_decay_length_penalty: without eos_token_id there is no end"
            )
        forced = {*self.forced_eos_token_id}
        if forced and forced <= {*self.suppress_tokens}:
            raise ValueError("forced_eos_token_id: all of it is in suppress_tokens")
        if 1 < self.num_beams < self.num_return_sequences:
            raise ValueError("num_return_sequences: not more than num_beams")
        if self.num_beams > 1:
            for name in ("stop_strings", "sliding_window", "output_scores"):
                if getattr(self, name):
                    raise ValueError(f"{name}: does not go with num_beams")
        return self

    def new_tokens(self, prompt: int) -> int:
        """How many tokens may follow a prompt of so many."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return 50
        if self.max_length <= prompt:
            raise errors.UserError(
                f"max_length {self.max_length}: the prompt alone has {prompt} tokens"
            )
        return self.max_length - prompt

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> "Options":
        """Options by Hugging Face's names, as users or files give them.

        None stands for the default.

        Raises:
          UserError: naming an option that there is not, or a value that cannot be.
        """
        given = _known(values)
        try:
            return cls.model_validate(given)
        except pydantic.ValidationError as error:
            raise errors.UserError(_told(error, given)) from error


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of values that say something; raises a `UserError` for one that is none."""
    given = {}
    for name, value in values.items():
        if name in Options.model_fields:
            if value is not None:
                given[name] = value
        elif name in _ABSENT:
            if value is not None and value != _NEUTRAL.get(name):
                raise errors.UserError(f"{name} {value!r}: gptjax has no such option")
        elif name not in _WITHOUT_EFFECT:
            near = difflib.get_close_matches(name, Options.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            told = name or "''"
            raise errors.UserError(f"{told}: no option of generation{hint}")
    return given


def _told(error: pydantic.ValidationError, given: Mapping[str, Any]) -> str:
    """What is wrong with the first option that is, in one line."""
    problems = error.errors()
    name = str(problems[0]["loc"][0]) if problems[0]["loc"] else ""
    # An option that may be of several types has a problem with each of them.
    messages = dict.fromkeys(
        problem["msg"].removeprefix("Value error, ").replace("tuple", "list")
        for problem in problems
        if not name or problem["loc"][:1] == (name,)
    )
    told = "; or ".join(messages)
    return f"{name} {given[name]!r}: {told}" if name else told


def read_file(folder: pathlib.Path) -> dict[str, Any]:
    """What a checkpoint's generation_config.json says; nothing where there is none.

    Raises:
      UserError: naming the file: no JSON object, an option that there is not.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(own, dict):
        raise errors.UserError(f"{path}: holds no object {{...}}")
    own = {name: value for name, value in own.items() if value is not None}
    if not own.get("do_sample") and own.get("temperature") == 0:
        # So some write "greedy"; drawn, nothing could be divided by it.
        del own["temperature"]
    try:
        Options.model_validate(given := _known(own))
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from error
    except pydantic.ValidationError as error:
        # What goes together is known when a call's options are there.
        if any(problem["loc"] for problem in error.errors()):
            raise errors.UserError(f"{path}: {_told(error, given)}") from error
    return own
