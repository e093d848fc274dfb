"""What a run came to, in sentences: perplexities, and the verdict of the controls."""

from typing import Any

from gptjax.reporting import connectivity, run_folder, tables

_CONTROLS = {
    "random": "a random mask with the same number of zeros in every layer",
    "reinit": "the same mask on freshly initialised weights",
    "shuffle": "its own mask shuffled within every layer",
}


def headline(run: run_folder.Run) -> str:
    """Perplexity at the start, dense, and at the end, with its protocol."""
    steps = []
    start, end = run.summary.get("start"), run.summary.get("end")
    if start:
        steps.append(("at the start", start))
    if run.rounds:
        first, last = run.rounds[0], run.rounds[-1]
        if not start or first["perplexity"] != start["perplexity"]:
            steps.append(("dense, trained", first))
        if last is not first:
            steps.append((_size(run), last))
    elif end:
        steps.append(("at the end", end))
    protocols = {result.get("protocol") for _, result in steps} - {None}
    figures = [
        f"{tables.perplexity_text(result['perplexity'])} {when}"
        + (f" ({result['protocol']})" if len(protocols) > 1 else "")
        for when, result in steps
    ]
    if not figures:
        return ""
    text = f"Perplexity: {', '.join(figures)}."
    return f"{text} Measured by: {protocols.pop()}." if len(protocols) == 1 else text


def _size(run: run_folder.Run) -> str:
    """What is left in the last round, in words."""
    first, last = run.rounds[0], run.rounds[-1]
    if "shape" not in last:
        return f"at {last['sparsity']:.1%} sparsity"
    cut = f"with {last['parameters'] / first['parameters']:.1%} of the weights left"
    return f"{cut}, {last['sparsity']:.1%} of them 0" if last["zeros"] else cut


def controls(run: run_folder.Run) -> list[str]:
    """What the last round's controls say, whichever way they went; a line for each."""
    if not run.rounds:
        return []
    last, lines = run.rounds[-1], []
    own = last["perplexity"]
    for kind in tables.controls([last]):
        other = tables.control_perplexity(last, kind)
        if other is None or own is None:
            continue
        if kind == "twin":
            lines.append(_twin(last, other))
            continue
        verdict = "beats" if own < other else "does NOT beat"
        lines.append(
            f"At {last['sparsity']:.1%} {run.criterion} pruning {verdict} "
            f"{_CONTROLS.get(kind, kind)}: perplexity {tables.perplexity_text(own)} "
            f"against {tables.perplexity_text(other)}."
        )
    return lines


def _twin(round_: dict[str, Any], other: float) -> str:
    """How far apart two runs of a round end that saw other batches."""
    text = (
        f"Trained again on other batches the round at {round_['sparsity']:.1%} comes "
        f"to perplexity {tables.perplexity_text(other)}, after "
        f"{tables.perplexity_text(round_['perplexity'])}"
    )
    barrier = round_["controls"]["twin"].get("barrier")
    if barrier is None:
        return f"{text}."
    is_stable = barrier < connectivity.NOTICEABLE
    verdict = "stable" if is_stable else "NOT stable"
    return (
        f"{text}; the barrier between the two is {barrier:.4f} nats a token: {verdict} "
        "(linear mode connectivity)."
    )
