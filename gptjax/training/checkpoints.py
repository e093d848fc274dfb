"""Checkpoints of a phase of training: the newest ones and the best one, by orbax."""

import functools
import json
import pathlib
from typing import Any

import jax

from gptjax import errors
from gptjax.training.state import TrainState


class Checkpoints:
    """A folder of checkpoints, one for each of some steps.

    A checkpoint holds step, params and optimizer state, and a small JSON object for
    what lives outside the state (the place in the data, the best loss so far). Masks
    are in it only where a phase changes them; else they are stored once, packed.

    Saves are asynchronous and appear whole or not at all: orbax writes beside and
    renames. A restore may use another mesh than the save. Orbax is imported late: that
    takes longer than the first steps of a small model.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int, masks_change: bool = False):
        """Nothing is made or opened before the first save.

        Args:
          keep: how many of the newest checkpoints are kept, beside the best.
          masks_change: whether each checkpoint has masks of its own.
        """
        self.folder, self._masks_change, self._keep = folder, masks_change, keep

    @functools.cached_property
    def _manager(self):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers

        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics["valid_loss"],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        newest = checkpoint_managers.LatestN(self._keep)
        return ocp.CheckpointManager(
            self.folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [newest, best]
                ),
                cleanup_tmp_directories=True,
            ),
        )

    def save(
        self, state: TrainState, extra: dict[str, Any], *, valid_loss: float | None
    ) -> None:
        """Starts saving; the state may be donated as soon as this returns.

        Args:
          extra: JSON-able.
          valid_loss: where it was measured at this very step, so that the best
            checkpoint can be told.
        """
        import orbax.checkpoint as ocp

        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(self._stored(state)),
                extra=ocp.args.JsonSave(extra),
            ),
            metrics=None if valid_loss is None else {"valid_loss": valid_loss},
        )

    def latest(self) -> int | None:
        """The newest step that has a whole checkpoint."""
        return self._manager.latest_step() if self.folder.exists() else None

    def best(self) -> int | None:
        """The step with the lowest validation loss, among those that were measured."""
        return self._manager.best_step()

    def restore(
        self, step: int, state: TrainState, places: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        """The state of a step, placed as `places` say, and its `extra`.

        Args:
          state: gives structure, shapes and dtypes, and the masks where they do not
            change.

        Raises:
          UserError: a checkpoint that cannot be read, naming it.
        """
        import orbax.checkpoint as ocp

        like = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=place
            ),
            self._stored(state),
            self._stored(places),
        )
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like), extra=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, OSError, json.JSONDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise errors.UserError(
                f"{self.folder / str(step)}: the checkpoint cannot be read ({reason}); "
                "remove that folder to go on from the one before it"
            ) from error
        whole = {"bits": state.bits, **restored["state"]}
        return TrainState(**whole), restored["extra"]

    def wait(self) -> None:
        """Returns when all that was handed to `save` is on disk."""
        if self._is_open:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets the folder go."""
        if self._is_open:
            self._manager.close()

    @property
    def _is_open(self) -> bool:
        return "_manager" in vars(self)

    def _stored(self, state: TrainState) -> dict[str, Any]:
        names = ("step", "params", "opt_state")
        names += ("bits",) if self._masks_change else ()
        return {name: getattr(state, name) for name in names}
