"""What a run trains for: its batches, its loss, and how the result is measured."""

from gptjax.training.tasks.classification import Classification as Classification
from gptjax.training.tasks.instructions import Instructions as Instructions
from gptjax.training.tasks.language import Language as Language
from gptjax.training.tasks.several import Several as Several
from gptjax.training.tasks.several import make as make
from gptjax.training.tasks.texts import Texts as Texts

Task = Language | Classification | Instructions | Several
