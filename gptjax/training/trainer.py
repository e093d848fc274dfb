"""What all phases of a run share: mesh, texts, optimizer, one compiled step."""

import functools
import math
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gptjax import (
    config,
    data,
    errors,
    evaluation,
    grids,
    masks,
    model,
    sharding,
    tree,
)
from gptjax.training import (
    adapters,
    distillation,
    logs,
    moving_average,
    objectives,
    phase,
    rounding,
    state,
    tasks,
    teacher_scores,
    updates,
    utilization,
)
from gptjax.training import optimizer as optimizer_lib
from gptjax.training import step as step_lib


class Trainer:
    """A run's mesh, data, optimizer and compiled steps, which `fit` uses for a phase.

    One Trainer serves all phases of a run, so that the step compiles once.
    """

    def __init__(
        self,
        settings: config.Run,
        model_config: model.Config,
        mesh: Mesh,
        *,
        texts: tasks.Texts,
        schedule_steps: int,
        on_evaluation: phase.OnEvaluation = phase.ignore,
    ):
        """Prepares, without compiling yet.

        Args:
          texts: labelled ones, or instructions, where the config's task says so.
          schedule_steps: the length of the learning-rate schedule.
          on_evaluation: called by `fit`.
        """
        self.settings, self.mesh = settings, mesh
        self.model_config = model_config
        self.texts = texts
        training = settings.training
        micro_batch = training.batch_sequences // training.accumulation_steps
        sharding.check_batch(
            mesh,
            micro_batch,
            key="training.batch_sequences / training.accumulation_steps",
        )
        self.task: tasks.Task = tasks.make(settings, model_config, mesh, texts)
        _check_dropout(training.dropout_schedule, model_config)
        self.shapes = model.shapes(model_config)
        self.adapter: adapters.Adapter | None = None
        if settings.adapter is not None:
            self.adapter = adapters.Adapter(settings.adapter, self.shapes, mesh)
            self.shapes = self.adapter.shapes
        self.grid: grids.Grid | None = None
        if settings.quantization is not None:
            self.grid = grids.Grid(**settings.quantization.model_dump())
            # Whether its groups fit.
            model.on_grid(self.shapes, self.grid)
        self.prunable: tree.Rules = ((r".*", False),)
        tracks_movement = False
        if settings.pruning is not None:
            self.prunable = settings.pruning.prunable
            tracks_movement = settings.pruning.criterion == "movement"
        mask_shapes = masks.shapes(self.shapes, self.prunable)
        schedule = optimizer_lib.make_schedule(settings.optimizer, steps=schedule_steps)
        self.optimizer = optimizer_lib.make_optimizer(
            settings.optimizer,
            schedule,
            self.shapes,
            tracks_movement=tracks_movement,
            average_decay=training.average_decay,
        )
        self.places = state.shardings(mesh, self.shapes, mask_shapes, self.optimizer)
        compute = step_lib.compute_of(training, mesh)
        self._make_full_step = functools.partial(
            step_lib.make_step,
            model_config if training.dropout else model_config.without_dropout(),
            self.optimizer,
            schedule,
            self.places,
            compute,
            adversary=settings.adversarial,
            dropout_schedule=training.dropout_schedule,
        )
        self.train_step = self._make_step(self.task.objective)
        self._make_gradients = functools.partial(
            step_lib.make_gradients, model_config, self.places, compute
        )
        self._gradients = self._make_gradients(self._rounding(self.task.objective))
        self._taught_step: step_lib.Step | None = None
        # The teacher's params, or none where its scores come with the batches.
        self._frozen: tuple[Any, ...] = ()
        self._scores: teacher_scores.Scores | None = None
        self.start = state.make_start(self.optimizer, self.places)
        self.change_masks = updates.make_change(self.optimizer, self.places)
        self.folder = pathlib.Path(settings.out)
        self.is_main = jax.process_index() == 0
        self.on_evaluation = on_evaluation
        self.log = logs.MetricsLog(settings, is_main=self.is_main)

    def teach(self, name: str, teacher: model.Config, params: Any) -> None:
        """Lets all further steps learn from a teacher, by the config's `distillation`.

        Args:
          name: what messages call it.
          params: placed as its sharding rules say.

        Raises:
          UserError: a teacher that does not fit the model.
        """
        objective = self.check_teacher(name, teacher)
        places = sharding.param_shardings(self.mesh, params)
        self._learn(objective, places)
        self._frozen = (params,)

    def recall(self, scores: teacher_scores.Scores) -> None:
        """Lets all further steps learn from what is kept of a teacher's scores.

        Batches that are made from now on hold them.
        """
        settings = self.settings.distillation
        assert settings is not None
        self._learn(distillation.Recollection(settings.temperature, settings.weight))
        self._scores = scores

    def _learn(self, objective: objectives.Objective, *frozen_places: Any) -> None:
        self._taught_step = self._make_step(objective, *frozen_places)
        self._gradients = self._make_gradients(
            self._rounding(objective), *frozen_places
        )

    def _rounding(self, objective: objectives.Objective) -> objectives.Objective:
        """The loss that is trained: of kernels rounded, if so wished."""
        return (
            objective if self.grid is None else rounding.Rounding(objective, self.grid)
        )

    def _make_step(self, objective: Any, *teacher_places: Any) -> step_lib.Step:
        if self.adapter is None:
            return self._make_full_step(self._rounding(objective), *teacher_places)
        places = (self.adapter.base_places, *teacher_places)
        return self._make_full_step(self.adapter.objective(objective), places)

    def check_teacher(
        self, name: str, teacher: model.Config
    ) -> distillation.Distillation:
        """What is learnt from a teacher of that shape; raises as `teach` does."""
        assert self.settings.distillation is not None
        return distillation.make(
            self.settings.distillation,
            self.task.objective,
            self.model_config,
            teacher,
            name=name,
        )

    @property
    def is_taught(self) -> bool:
        """Whether there is a teacher by now."""
        return self._taught_step is not None

    def take_step(
        self, state: state.TrainState, batch: step_lib.Batch, key: jax.Array
    ) -> tuple[state.TrainState, dict[str, jax.Array]]:
        """A step, with a teacher if there is one.

        What compiling it leaves in memory is returned.
        """
        compilations = self.compilations
        frozen = self._frozen
        if self.adapter is not None:
            frozen = ((self.adapter.base, *frozen),)
        step = self._taught_step or self.train_step
        result = step(state, batch, key, *frozen)
        if self.compilations > compilations:
            utilization.return_freed()
        return result

    def gradients(self, params: Any, batch: step_lib.Batch) -> Any:
        """The gradient of every weight, pruned ones too, of the loss that steps learn
        by, a teacher's part in it too; without dropout.
        """
        return self._gradients(params, batch, *self._frozen)

    def result_of(self, state: state.TrainState) -> Any:
        """What training has come to: the trained weights, or their moving average;
        rounded, if the loss saw them so."""
        params = state.params
        if self.settings.training.average_decay is not None:
            average = moving_average.average_of(state.opt_state)
            params = masks.apply(average, state.masks)
        if self.grid is not None:
            params = model.settled(model.on_grid(params, self.grid))
        return params

    def whole(self, params: Any) -> Any:
        """The model's params, of what is trained: the same, or an adapter merged in."""
        return params if self.adapter is None else self.adapter.merge(params)

    @property
    def compilations(self) -> int:
        """How many versions of the training step have been compiled."""
        steps = (self.train_step, self._taught_step)
        return sum(step._cache_size() for step in steps if step is not None)

    def parameters(self) -> int:
        """The number of weights of the model."""
        leaves = tree.flatten(model.shapes(self.model_config)).values()
        return sum(math.prod(leaf.shape) for leaf in leaves)

    def frozen_parameters(self) -> int:
        """How many of them have no gradient."""
        if self.adapter is None:
            return 0
        return self.parameters() - self.adapter.differentiated

    def placed_shapes(self) -> Any:
        """The trained params' shapes with their shardings, without making any array."""
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=place
            ),
            self.shapes,
            self.places.params,
        )

    def dense_masks(self) -> masks.Masks:
        """Masks under which every weight survives."""
        return masks.dense(self.placed_shapes(), self.prunable)

    def evaluate(self, params: Any) -> evaluation.Result:
        """How good params are, by the validation data and protocol of the config."""
        return self.task.evaluate(params)

    def batches(
        self, stream: int
    ) -> data.Batches | data.ExampleBatches | data.InstructionBatches | data.Mixture:
        """The endless batches of a stream, this process's share of each."""
        # A seed that two streams share by chance would repeat a round's batches.
        mixed = np.random.SeedSequence([self.settings.seed, stream])
        process_index, process_count = data.process_share(
            sharding.batch_sharding(self.mesh)
        )
        beside = {} if self._scores is None else {"beside": self._scores}
        return self.task.batches(
            seed=int(mixed.generate_state(1)[0]),
            process_index=process_index,
            process_count=process_count,
            **beside,
        )

    def stream_key(self, stream: int) -> jax.Array:
        """The key of a stream's dropout, made on the mesh so that hosts share it."""
        seed = self.settings.seed
        make = jax.jit(
            lambda: jax.random.fold_in(jax.random.key(seed), stream),
            out_shardings=sharding.replicated(self.mesh),
        )
        return make()


def _check_dropout(
    schedule: config.DropoutSchedule | None, model_config: model.Config
) -> None:
    """Raises a `UserError` for a schedule of rates that are none, or reach 1."""
    if schedule is None:
        return
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    highest = max(getattr(model_config, name) for name in names)
    if not highest:
        raise errors.UserError(
            "training.dropout_schedule: the model's dropout rates are 0; leave it out"
        )
    for name in ("start", "end"):
        if getattr(schedule, name) * highest >= 1:
            raise errors.UserError(
                f"training.dropout_schedule.{name}: {getattr(schedule, name)} times "
                f"the model's rate {highest} is not below 1"
            )
