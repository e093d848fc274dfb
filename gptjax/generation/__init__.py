"""Text from a model, token by token."""

from gptjax.generation.decoding import generate as generate
from gptjax.generation.sampling import Sampling as Sampling
from gptjax.generation.sampling import filter_logits as filter_logits
