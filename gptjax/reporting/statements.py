"""What a run came to, in sentences: how good its models are, and what controls say."""

from typing import Any

from gptjax.reporting import connectivity, measures, run_folder, tables

_CONTROLS = {
    "random": "a random mask with the same number of zeros in every layer",
    "reinit": "the same mask on freshly initialised weights",
    "shuffle": "its own mask shuffled within every layer",
}


def headline(run: run_folder.Run) -> str:
    """Perplexity or accuracy at the start, dense, and at the end, with its protocol."""
    steps = []
    start, end = run.summary.get("start"), run.summary.get("end")
    measure = measures.find([start, end, *run.rounds])
    if start:
        steps.append(("at the start", start))
    if run.rounds:
        first, last = run.rounds[0], run.rounds[-1]
        if measure.of(first) != measure.of(start):
            steps.append(("dense, trained", first))
        if last is not first:
            steps.append((_size(run), last))
    elif end:
        steps.append(("at the end", end))
    protocols = {result.get("protocol") for _, result in steps} - {None}
    figures = [
        f"{measure.text(measure.of(result))} {when}"
        + (f" ({result['protocol']})" if len(protocols) > 1 else "")
        for when, result in steps
    ]
    if not figures:
        return ""
    text = f"{measure.key.capitalize()}: {', '.join(figures)}."
    return f"{text} Measured by: {protocols.pop()}." if len(protocols) == 1 else text


def _size(run: run_folder.Run) -> str:
    """What is left in the last round, in words."""
    first, last = run.rounds[0], run.rounds[-1]
    if "shape" not in last:
        return f"at {last['sparsity']:.1%} sparsity"
    cut = f"with {last['parameters'] / first['parameters']:.1%} of the weights left"
    return f"{cut}, {last['sparsity']:.1%} of them 0" if last["zeros"] else cut


def adapter(run: run_folder.Run) -> str:
    """How little was trained, and that no zero was lost; empty without an adapter."""
    told = run.summary.get("adapter")
    if not told:
        return ""
    whole, total = run.summary["parameters"], told["prunable"]
    before, after = told["zeros_before"], told["zeros_after"]
    return (
        f"Adapter: {told['trained']:,} weights trained beside {whole:,} "
        f"({told['trained'] / whole:.1%}); {before:,} of {total:,} weights of the "
        f"blocks' kernels are 0 ({before / total:.1%}) before it is merged, {after:,} "
        f"({after / total:.1%}) after."
    )


def controls(run: run_folder.Run) -> list[str]:
    """What the last round's controls say, whichever way they went; a line for each."""
    if not run.rounds:
        return []
    last, lines = run.rounds[-1], []
    measure = measures.find([last])
    own = measure.of(last)
    for kind in tables.controls([last]):
        other = measure.of(tables.control(last, kind))
        if other is None or own is None:
            continue
        if kind == "twin":
            lines.append(_twin(last, other))
            continue
        verdict = "beats" if measure.is_better(own, other) else "does NOT beat"
        lines.append(
            f"At {last['sparsity']:.1%} {run.criterion} pruning {verdict} "
            f"{_CONTROLS.get(kind, kind)}: {measure.key} {measure.text(own)} "
            f"against {measure.text(other)}."
        )
    return lines


def _twin(round_: dict[str, Any], other: float) -> str:
    """How far apart two runs of a round end that saw other batches."""
    text = (
        f"Trained again on other batches the round at {round_['sparsity']:.1%} comes "
        f"to perplexity {measures.PERPLEXITY.text(other)}, after "
        f"{measures.PERPLEXITY.text(round_['perplexity'])}"
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
