"""Instructions and chats as tokens, each with what of it is learnt."""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gptjax import config, errors
from gptjax.data import chats, records
from gptjax.data.tokenizer import Tokenizer
from gptjax.data.tokens import Tokens

_AT_ONCE = 4096
"""Records whose texts are tokenized together, on all cores."""


@dataclasses.dataclass(frozen=True)
class Instructions:
    """Tokenized examples: prompts, which are read, and answers, which are learnt."""

    all_ids: np.ndarray
    """Of all examples of the source, one after another; int32."""
    all_learnt: np.ndarray
    """Whether the token is to be predicted; bool, as long."""
    bounds: np.ndarray
    """(N, 2) int64: where in these each example begins and ends."""
    name: str = "the instructions"
    """What reports call them."""
    chat_template: str | None = None
    """What their chats are written with, if there are any and the tokenizer's files
    lack it."""
    is_cut: np.ndarray | None = None
    """(N,) bool: which of them lost their end; None: none."""
    left_out: int = 0
    """How many more the source has, of whose answers nothing was left."""

    def __len__(self) -> int:
        return len(self.bounds)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64: the tokens of each."""
        return self.bounds[:, 1] - self.bounds[:, 0]

    @property
    def cut(self) -> int:
        """How many lost their end."""
        return 0 if self.is_cut is None else int(self.is_cut.sum())

    def ids(self, number: int) -> np.ndarray:
        """The token ids of an example."""
        return self.all_ids[slice(*self.bounds[number])]

    def is_learnt(self, number: int) -> np.ndarray:
        """Which of its tokens are to be predicted."""
        return self.all_learnt[slice(*self.bounds[number])]

    @property
    def checksum(self) -> int:
        """To tell that a run resumes on the same ones."""
        known = 0
        for array in (self.all_ids, self.all_learnt, self.bounds):
            known = zlib.crc32(array.tobytes(), known)
        return known

    @property
    def joined(self) -> Tokens:
        """The tokens of these examples alone, one after another."""
        ids = [self.ids(number) for number in range(len(self))]
        starts = np.cumsum([0, *map(len, ids[:-1])])
        return Tokens(np.concatenate(ids), starts, bytes=0, name=self.name)

    def take(self, numbers: np.ndarray) -> "Instructions":
        """Those of the given numbers, in their order of the source."""
        numbers = np.sort(numbers)
        is_cut = None if self.is_cut is None else self.is_cut[numbers]
        return dataclasses.replace(self, bounds=self.bounds[numbers], is_cut=is_cut)

    def cut_to(self, sequence_tokens: int) -> "Instructions":
        """The same, none longer than a sequence.

        What is longer loses its end: the style, the system's turn and the question
        stand at the beginning, and without them there is nothing to answer. Where that
        leaves nothing to learn, the example is left out.

        Raises:
          UserError: none is left.
        """
        ends = np.minimum(self.bounds[:, 1], self.bounds[:, 0] + sequence_tokens)
        learnt_before = np.concatenate([[0], np.cumsum(self.all_learnt)])
        # A sequence's first token has nothing before it to be predicted from.
        begins = np.minimum(self.bounds[:, 0] + 1, ends)
        is_left = learnt_before[ends] > learnt_before[begins]
        if not is_left.any():
            raise errors.UserError(
                f"{self.name}: {sequence_tokens} tokens of an example leave no room "
                "for an answer after any prompt"
            )
        return dataclasses.replace(
            self,
            bounds=np.stack([self.bounds[:, 0], ends], axis=1)[is_left],
            is_cut=(ends < self.bounds[:, 1])[is_left],
            left_out=int((~is_left).sum()),
        )


def read_instructions(
    source: config.Source,
    tokenizer: Tokenizer,
    *,
    chat_template: str | None,
    eos_id: int | None,
) -> Instructions:
    """The instructions of a source.

    Prompt and completion are tokenized apart, so that no token is half of each and
    generation finds prompts as training had them; so are the turns of a chat. A prompt
    begins with what the tokenizer puts before a text; in a chat the template says so.
    Every example ends with the end-of-text token, which is learnt.

    Args:
      chat_template: see `chats.template_of`.
      eos_id: the tokenizer's end-of-text token.

    Raises:
      UserError: one line naming file and line.
    """
    if eos_id is None:
        raise errors.UserError(
            f"{tokenizer.name}: the tokenizer has no end-of-text token (eos_token) to "
            "end an answer with"
        )
    ids, learnt, lengths = [], [], []
    template, is_new = None, False
    found = records.read_records(source)
    while some := list(itertools.islice(found, _AT_ONCE)):
        if template is None and any(record.messages for record in some):
            template, is_new = chats.template_of(tokenizer, chat_template)
        parts = [_parts(record, template) for record in some]
        opened = [not record.messages for record in some]
        for record, own in zip(some, _tokenize(parts, opened, tokenizer), strict=True):
            example = [token for tokens, _ in own for token in tokens]
            is_learnt = [part for tokens, part in own for _ in tokens]
            if not own[0][0]:
                raise errors.UserError(
                    f"{record.place}: has no token before what is to be learnt"
                )
            if example[-1] != eos_id:
                example.append(eos_id)
                is_learnt.append(True)
            ids.append(np.array(example, np.int32))
            learnt.append(np.array(is_learnt, bool))
            lengths.append(len(example))
    ends = np.cumsum(lengths)
    return Instructions(
        all_ids=np.concatenate(ids),
        all_learnt=np.concatenate(learnt),
        bounds=np.stack([ends - lengths, ends], axis=1).astype(np.int64),
        name=source.name,
        chat_template=template.text if template is not None and is_new else None,
    )


def _parts(record: records.Record, template: chats.Template | None) -> list[chats.Part]:
    if record.messages:
        assert template is not None
        return template.parts(record.messages, record.place)
    return [chats.Part(record.prompt, False), chats.Part(record.completion, True)]


def _tokenize(
    examples: Sequence[Sequence[chats.Part]],
    opened: Sequence[bool],
    tokenizer: Tokenizer,
) -> Iterator[list[tuple[list[int], bool]]]:
    """Each example's parts as token ids, with whether they are learnt.

    Args:
      opened: for each, whether it begins with what the tokenizer puts before a text.
    """
    texts = [part.text for parts in examples for part in parts]
    # Without what the tokenizer would put around each part.
    found = iter(tokenizer.backend.encode_batch(texts, add_special_tokens=False))
    opening = tokenizer.opened("") if any(opened) else []
    for parts, is_opened in zip(examples, opened, strict=True):
        ids = [next(found).ids for _ in parts]
        if is_opened:
            ids[0] = opening + ids[0]
        yield [(own, part.is_learnt) for own, part in zip(ids, parts, strict=True)]


def prompt_ids(
    prompt: str | Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    style: str | None,
    is_chat: bool,
) -> list[int]:
    """The tokens that a model trained on instructions goes on from.

    Args:
      prompt: a text; of a chat, what its user says, or all its turns so far.
      style: asks for it by its code.

    Raises:
      UserError: a tokenizer without a chat template, turns that are no chat.
    """
    if is_chat:
        turns = prompt
        if isinstance(prompt, str):
            turns = [{"role": "user", "content": prompt}]
        turns = records.check_chat(turns, "the prompt", is_answered=False)
        turns = records.styled(turns, style)
        template = chats.own_template(tokenizer)
        parts = template.parts(turns, "the prompt", asks=True)
    else:
        assert isinstance(prompt, str)
        before = "" if style is None else records.code(style)
        parts = [chats.Part(before + prompt, False)]
    (own,) = _tokenize([parts], [not is_chat], tokenizer)
    return [token for tokens, _ in own for token in tokens]


def divide_instructions(
    instructions: Instructions, fraction: float, *, seed: int
) -> tuple[Instructions, Instructions]:
    """Instructions in two, the second with a fraction of them, drawn at random.

    Raises:
      UserError: there is but one.
    """
    total = len(instructions)
    if total < 2:
        raise errors.UserError(
            f"{instructions.name}: one example; to train and to validate takes two; "
            "give data.valid"
        )
    count = min(max(1, round(fraction * total)), total - 1)
    order = np.random.default_rng([seed, 0]).permutation(total)
    part = dataclasses.replace(
        instructions.take(order[:count]),
        name=f"{instructions.name}, {count / total:.0%} of it",
        left_out=0,
    )
    return instructions.take(order[count:]), part


def limit_instructions(
    instructions: Instructions, count: int, *, seed: int
) -> Instructions:
    """So many drawn at random, or all; a larger count holds those of a smaller one."""
    order = np.random.default_rng([seed, 1]).permutation(len(instructions))
    return instructions.take(order[:count])
