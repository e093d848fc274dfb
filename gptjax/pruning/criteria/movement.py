"""Movement: how far training moved the weight away from zero."""

from typing import Any

from gptjax import training


def scores(state: training.TrainState) -> Any:
    """- sum over the phase's steps of w dL/dw: low where training shrank the weight.

    Gathered in the optimizer's state, so that it resumes with it: see
    `gptjax.training.movement`. It belongs to the phase that has just been trained:
    each starts anew with its optimizer.

    Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020,
    arXiv:2005.07683.

    Args:
      state: of a run with `pruning.criterion: movement`.

    Returns:
      A tree like params of float32 scores, the state's own arrays: what donates the
      state deletes them.
    """
    return training.movement_scores(state.opt_state)
