"""Typed configs of a run: YAML and `key.sub=value` overrides in, checked values out.

A YAML file holds only what differs from the defaults in the sections; the sizes of the
model come from the checkpoint.
"""

from gptjax.config.adapter import Adapter as Adapter
from gptjax.config.adversarial import Adversarial as Adversarial
from gptjax.config.base import ComputeDtype as ComputeDtype
from gptjax.config.compare import Compare as Compare
from gptjax.config.compare import Method as Method
from gptjax.config.curve import Curve as Curve
from gptjax.config.data import Augmentation as Augmentation
from gptjax.config.data import Data as Data
from gptjax.config.data import Source as Source
from gptjax.config.distillation import Distillation as Distillation
from gptjax.config.loading import augmentation as augmentation
from gptjax.config.loading import check as check
from gptjax.config.loading import dump as dump
from gptjax.config.loading import leaves as leaves
from gptjax.config.loading import load as load
from gptjax.config.profile import Profile as Profile
from gptjax.config.profile import profiling as profiling
from gptjax.config.pruning import Pruning as Pruning
from gptjax.config.pruning import Reconstruction as Reconstruction
from gptjax.config.pruning import Removal as Removal
from gptjax.config.pruning import Rewind as Rewind
from gptjax.config.pruning import Updates as Updates
from gptjax.config.run import Run as Run
from gptjax.config.sections import Calibration as Calibration
from gptjax.config.sections import DropoutSchedule as DropoutSchedule
from gptjax.config.sections import Evaluation as Evaluation
from gptjax.config.sections import Logging as Logging
from gptjax.config.sections import Mesh as Mesh
from gptjax.config.sections import Optimizer as Optimizer
from gptjax.config.sections import Training as Training
from gptjax.config.task import MAIN as MAIN
from gptjax.config.task import Auxiliary as Auxiliary
from gptjax.config.task import Mixing as Mixing
from gptjax.config.task import Task as Task
from gptjax.config.tuning import STUDY_LOCK as STUDY_LOCK
from gptjax.config.tuning import Search as Search
from gptjax.config.tuning import Space as Space
