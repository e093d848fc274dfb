"""Masks that change while a phase trains: gradual pruning, RigL and SET."""

from gptjax.pruning.dynamic.factory import updates as updates
