"""What a run came to, in sentences: how good its models are, and what controls say."""

from typing import Any

from gptjax.reporting import (
    connectivity,
    measures,
    page,
    run_folder,
    savings,
    tables,
)

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


def unfinished(run: run_folder.Run) -> str:
    """How far a run has come that has not ended."""
    parts = []
    if run.rounds:
        done = len(run.rounds)
        parts.append(f"{done} round{'s' if done > 1 else ''} done")
    if run.metrics:
        last = run.metrics[-1]
        parts.append(f"last heard of at step {last['step']} of {last['phase']}")
    return f"{run.lacks.capitalize()}: {', '.join(parts) or 'nothing trained yet'}."


def figures(run: run_folder.Run) -> page.Figures:
    """The figures that a reader looks for first: how good, how small, how fast."""
    start, end = run.summary.get("start"), run.summary.get("end")
    measure = measures.find([start, end, *run.rounds])
    items = []

    def add(name, value, note=""):
        if value is not None:
            items.append((name, value, note))

    def good(result):
        value = measure.of(result)
        return None if value is None else measure.text(value)

    add(f"{measure.key} at the start", good(start))
    if not run.rounds:
        add(f"{measure.key} at the end", good(end))
        return page.Figures(items)
    first, last = run.rounds[0], run.rounds[-1]
    add(f"{measure.key}, dense", good(first), "round 0")
    if last is first:
        return page.Figures(items)
    add(f"{measure.key}, {_size(run)}", good(last), f"round {last['round']}")
    share = last["bytes_packed"] / first["bytes_dense"]
    packed, dense = (
        tables.bytes_text(each) for each in (last["bytes_packed"], first["bytes_dense"])
    )
    add("bytes, packed", f"{share:.0%}", f"{packed} of {dense}")
    for what, name in (("step", "a training step"), ("decode", "decoding")):
        found = savings.speed(run.savings, what)
        if found is not None:
            ratio, is_faster = found
            note = "the dense model's" + ("" if is_faster else ": no speed-up")
            add(f"time of {name}", f"{ratio:.2f} x", note)
    return page.Figures(items)


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
