"""Controls of a round: the same training, but for one thing."""

from typing import Any

from gptjax import masks, training
from gptjax.convert import zipped
from gptjax.pruning import controls, round_report
from gptjax.pruning.context import Context
from gptjax.pruning.plan import Round
from gptjax.training import run as run_lib

# Streams of batches are numbered by rounds; a twin's must be no round's.
_TWINS = 1_000_000
# Models on the line between twins that are evaluated, both ends among them.
_POINTS = 11


def run(context: Context, this: Round, kind: str, *, zips: bool) -> dict[str, Any]:
    """Trains a control of a finished round; its result, and zipped bytes if asked.

    `random` and `shuffle` prune as many weights of each layer as the round, others of
    them; `reinit` keeps the mask and starts from freshly initialised weights. All three
    see the round's batches. `twin` is the round again on other batches; its result also
    holds the `barrier` between the two, see
    `evaluation.connectivity`.

    Of a control's model only its masks are kept.
    """
    number = this.number

    def load_params():
        if kind == "reinit":
            return controls.reinitialised(
                context.trainer.model_config,
                context.key("reinit", number),
                context.trainer.places.params,
            )
        if kind == "twin":
            return context.prepared.load_params(context.start_of(number))
        return context.prepared.load_params(_unpruned_start(context, number))

    control_masks = _masks(context, number, kind)
    path = context.control_masks_path(number, kind)
    if path != context.masks_path(number):
        masks.save(path, control_masks)
    if this.start == this.end:
        params = masks.apply_in_place(load_params(), control_masks)
        result = context.trainer.evaluate(params)
    else:
        state, result = training.fit(
            context.trainer,
            training.Phase(
                name=round_report.name(number, kind),
                start=this.start,
                end=this.end,
                stream=number + (_TWINS if kind == "twin" else 0),
            ),
            load_params=load_params,
            weight_masks=control_masks,
        )
        params = state.params
        del state
    found = run_lib.describe(result)
    if zips:
        config = context.trainer.model_config
        found["bytes_zipped"] = zipped.weights_bytes(config, params)
    if kind == "twin":
        found["barrier"] = _barrier(context, number, params)
    return found


def _masks(context: Context, number: int, kind: str) -> masks.Masks:
    own = context.masks_of(number)
    if kind == "random":
        return controls.random_like(
            own,
            context.trainer.dense_masks(),
            context.key("random", number),
            pattern=context.pruning.pattern,
        )
    if kind == "shuffle":
        return controls.shuffled(own, context.key("shuffle", number))
    return own


def _unpruned_start(context: Context, number: int) -> Any:
    """The weights that a round started from, before any of them were pruned."""
    if context.pruning.schedule != "iterative":
        return context.prepared.source
    if context.pruning.rewind.to == "none":
        return context.model_of(0)
    return context.start_of(number)


def _barrier(context: Context, number: int, twin: Any) -> float:
    own = context.prepared.load_params(context.model_of(number))
    return context.trainer.task.connect(own, twin, points=_POINTS).barrier
