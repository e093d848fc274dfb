"""What a run trains for: its batches, its loss, and how the result is measured."""

from gptjax.training.tasks.classification import Classification as Classification
from gptjax.training.tasks.language import Language as Language

Task = Language | Classification
