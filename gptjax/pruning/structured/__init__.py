"""Structured pruning: layers, MLP neurons, attention heads and width, cut out for good.

`plan` says which rounds there are, `choosing` scores and chooses, `surgery` cuts,
`rounds` puts them together.
"""

from gptjax.pruning.structured.rounds import run as run
