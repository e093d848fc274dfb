"""How well a model predicts a text."""

from gptjax.evaluation.connectivity import Connectivity as Connectivity
from gptjax.evaluation.connectivity import connect as connect
from gptjax.evaluation.perplexity import Perplexity as Perplexity
from gptjax.evaluation.perplexity import perplexity as perplexity
