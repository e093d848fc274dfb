"""A pruning run of whatever kind its config asks for."""

from gptjax import config, errors
from gptjax.pruning import rounds, structured


def run(settings: config.Run, *, measures_all: bool = False) -> rounds.Pruned:
    """Prunes a model as its config says, or goes on where it was interrupted.

    Args:
      measures_all: see `rounds.run`.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    if settings.pruning is None:
        raise errors.UserError("pruning: missing; give sparsities, or use gptjax train")
    if not settings.is_measured:
        raise errors.UserError("data.valid: missing; rounds are compared by perplexity")
    if settings.pruning.structured:
        return structured.run(settings, measures_all=measures_all)
    return rounds.run(settings, measures_all=measures_all)
