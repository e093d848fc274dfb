"""One training loop: state, optimizer, step, checkpoints, logs.

`Trainer` puts them together for a run and `fit` trains; each part also serves on its
own.
"""

from gptjax.training import environment as environment
from gptjax.training import signals as signals
from gptjax.training.curve import learning_curve as learning_curve
from gptjax.training.fit import fit as fit
from gptjax.training.movement import movement_scores as movement_scores
from gptjax.training.optimizer import OPTIMIZERS as OPTIMIZERS
from gptjax.training.optimizer import make_optimizer as make_optimizer
from gptjax.training.optimizer import make_schedule as make_schedule
from gptjax.training.phase import OnEvaluation as OnEvaluation
from gptjax.training.phase import Phase as Phase
from gptjax.training.phase import ignore as ignore
from gptjax.training.prepare import Prepared as Prepared
from gptjax.training.prepare import prepare as prepare
from gptjax.training.run import Trained as Trained
from gptjax.training.run import train as train
from gptjax.training.run_folder import check_same_run as check_same_run
from gptjax.training.run_folder import run_folder as run_folder
from gptjax.training.samples import write_samples as write_samples
from gptjax.training.state import TrainState as TrainState
from gptjax.training.step import make_step as make_step
from gptjax.training.tasks import Texts as Texts
from gptjax.training.trainer import Trainer as Trainer
from gptjax.training.updates import Updates as Updates
