"""The sequences that calibration reads."""

import numpy as np

from gptjax import config, data, errors, training


def sequences(prepared: training.Prepared) -> np.ndarray:
    """The calibration sequences of a run, (N, T) int32; see `cut`."""
    settings, text = prepared.settings, prepared.texts.train
    if isinstance(text, data.Examples | data.Instructions):
        text = text.joined
    if settings.calibration.text is not None:
        text = prepared.read(settings.calibration.text)
    return cut(settings, text, n_positions=prepared.model_config.n_positions)


def cut(settings: config.Run, text: data.Tokens, *, n_positions: int) -> np.ndarray:
    """The calibration sequences of a run, (N, T) int32.

    The text is read as windows of T tokens, one after another without overlap: the
    first N of them, or N that the run's seed draws, none twice.

    Args:
      text: the tokens of `calibration.text`, or of what stands in for it.
      n_positions: the model's; T is never taken from it.

    Raises:
      UserError: T exceeds n_positions, or the text is too short.
    """
    wanted = settings.calibration
    key = "calibration.sequence_tokens"
    length = wanted.sequence_tokens
    if length is None:
        key, length = "data.sequence_tokens", settings.data.sequence_tokens
    if length > n_positions:
        raise errors.UserError(
            f"{key}: {length} is more than the model's n_positions {n_positions}"
        )
    return choose(
        text,
        wanted.sequences,
        length,
        seed=settings.seed if wanted.order == "random" else None,
    )


def choose(
    text: data.Tokens, count: int, length: int, *, seed: int | None
) -> np.ndarray:
    """So many windows of a text, (N, T) int32, which do not overlap.

    Args:
      seed: what draws them; None: the first.

    Raises:
      UserError: the text is too short.
    """
    windows = len(text) // length
    if windows < count:
        raise errors.UserError(
            f"{text.name}: {len(text)} tokens, but calibration.sequences "
            f"{count} of {length} tokens need {count * length}"
        )
    chosen = np.arange(count)
    if seed is not None:
        chosen = np.random.default_rng(seed).permutation(windows)[:count]
    places = chosen[:, None] * length + np.arange(length)
    return np.asarray(text.ids[places], np.int32)
