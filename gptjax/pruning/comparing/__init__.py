"""Many methods and sparsities on one model under one protocol, a run for each."""

from gptjax.pruning.comparing.runner import run as run
