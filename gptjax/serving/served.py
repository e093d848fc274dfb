"""A model that is served: its scheduler, and what is told of it."""

import dataclasses
import functools
import pathlib
import threading
import time
from typing import Any

import jax

from gptjax import config as config_lib
from gptjax import convert, errors, generation, masks, models
from gptjax.serving.scheduler import Scheduler
from gptjax.serving.spelling import Spelling

_PRUNABLE = config_lib.Pruning.model_fields["prunable"].default


@dataclasses.dataclass(frozen=True)
class Served:
    """A model under a name.

    Attributes:
      scheduler: of a language model; a classifier has none.
      created: when it was loaded, in seconds since 1970.
      parameters: how many weights it has.
      sparsity: the fraction of the kernels of its blocks that is exactly 0.
      bytes: of its weight files.
    """

    name: str
    model: models.Model
    scheduler: Scheduler | None
    created: int
    parameters: int
    sparsity: float
    bytes: int
    _one_at_a_time: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def context(self) -> int:
        """How many tokens a text has at most."""
        if self.scheduler is None:
            return self.model.config.n_positions
        return self.scheduler.context

    @functools.cached_property
    def spelling(self) -> Spelling:
        """Its tokens by themselves."""
        return Spelling(self.model.tokenizer)

    def public(self, error: errors.UserError) -> str:
        """An error as clients read it, whom folders of this machine do not concern."""
        return str(error).replace(str(self.model.folder), self.name)

    def close(self) -> None:
        """Lets go of it; what is still being written ends."""
        if self.scheduler is not None:
            self.scheduler.close()

    def label(
        self, texts: list[str], task: str | None, given_up: threading.Event
    ) -> list[Any]:
        """`Model.predict`, or of a classifier of words `Model.tag`; one at a time.

        Args:
          given_up: set once no one waits; who has not had his turn by then gets none.

        Raises:
          UserError: as these do.
        """
        classifier = self.model.classifier(task)
        with self._one_at_a_time:
            if given_up.is_set():
                return []
            if classifier.per_token:
                return self.model.tag(texts, task=task)
            return self.model.predict(texts, task=task)


def load(
    name: str, source: str, *, slots: int, context: int | None, longest_queue: int
) -> Served:
    """A model from wherever `gptjax.load` finds one, ready to answer.

    Args:
      slots: how many sequences are decoded together.
      context: how many tokens a sequence has at most; None: the model's n_positions,
        2048 at most.

    Raises:
      UserError: no such model, a context that it has no positions for, a
        generation_config.json that asks for what sequences cannot have together.
    """
    folder = pathlib.Path(source).expanduser()
    # Whole, so that `public` finds it in messages: `.` is the end of sentences, too.
    loaded = models.load(str(folder.resolve()) if folder.is_dir() else source)
    zero, prunable = masks.zeros(loaded.params, _PRUNABLE)
    scheduler = None
    if not loaded.config.classifiers:
        scheduler = _scheduler(loaded, slots, context, longest_queue)
    sizes = [path.stat().st_size for path in convert.weight_files(loaded.folder)]
    return Served(
        name=name,
        model=loaded,
        scheduler=scheduler,
        created=int(time.time()),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(loaded.params)),
        sparsity=zero / prunable,
        bytes=sum(sizes),
    )


def named(argument: str) -> tuple[str, str]:
    """Name and source of a model as the command line has it: `NAME=MODEL`, or `MODEL`,
    which is its own name."""
    name, equals, source = argument.partition("=")
    if not equals or pathlib.Path(argument).expanduser().exists():
        return argument, argument
    if not name or not source:
        raise errors.UserError(f"{argument!r}: write NAME=MODEL, or MODEL")
    return name, source


def _scheduler(
    loaded: models.Model, slots: int, context: int | None, longest_queue: int
) -> Scheduler:
    positions = loaded.config.n_positions
    if context is not None and context > positions:
        raise errors.UserError(
            f"--context {context}: more than the n_positions {positions} of "
            f"{loaded.folder}"
        )
    writer = loaded.writer
    try:
        own = writer.options(writer.drawing({}))
        generation.check_shared(own)
        if own.max_new_tokens == 0:
            raise errors.UserError("max_new_tokens 0: nothing would be written")
    except errors.UserError as error:
        raise errors.UserError(
            f"{loaded.folder / 'generation_config.json'}: {error}"
        ) from error
    made = generation.Slots(
        writer.engine, slots=slots, context=context or min(positions, 2048)
    )
    return Scheduler(made, longest_queue=longest_queue)
