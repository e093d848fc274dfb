"""How many training steps a run takes, all its rounds and controls together."""

from gptjax import config
from gptjax.pruning import plan
from gptjax.pruning.comparing import jobs


def schedule_steps(settings: config.Run) -> int:
    """The length of the learning-rate schedule of a run."""
    if settings.pruning is None or settings.pruning.structured:
        return settings.training.steps
    return max(each.end for each in plan.rounds(settings))


def steps(settings: config.Run) -> int:
    """The optimizer steps of everything that a run trains.

    A control trains as long as its round does. Cut models count as if they were whole.
    """
    if settings.compare is not None:
        return sum(steps(job.settings) for job in jobs.planned(settings))
    pruning = settings.pruning
    if pruning is None:
        return settings.training.steps
    if pruning.structured:
        return len(pruning.structured) * settings.training.steps
    total = 0
    for each in plan.rounds(settings):
        trained = 1 + (len(pruning.controls) if each.number else 0)
        total += trained * (each.end - each.start)
    return total
