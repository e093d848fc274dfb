"""How well a model predicts a text."""

from gptjax.evaluation.perplexity import Perplexity as Perplexity
from gptjax.evaluation.perplexity import perplexity as perplexity
