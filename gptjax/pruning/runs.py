"""A pruning run of whatever kind its config asks for."""

from gptjax import config, errors, training
from gptjax.pruning import rounds, structured


def run(
    settings: config.Run,
    *,
    measures_all: bool = False,
    concludes: bool = True,
    on_evaluation: training.OnEvaluation = training.ignore,
) -> rounds.Pruned:
    """Prunes a model as its config says, or goes on where it was interrupted.

    Args:
      measures_all, concludes, on_evaluation: see `rounds.run`.

    Raises:
      UserError: for whatever the user can mend.
      Stopped: by a signal, with the state saved.
    """
    if settings.pruning is None:
        raise errors.UserError("pruning: missing; give sparsities, or use gptjax train")
    if not settings.is_measured:
        raise errors.UserError("data.valid: missing; rounds are compared by perplexity")
    run_rounds = structured.run if settings.pruning.structured else rounds.run
    return run_rounds(
        settings,
        measures_all=measures_all,
        concludes=concludes,
        on_evaluation=on_evaluation,
    )
