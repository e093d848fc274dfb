"""A plan on the terminal."""

from gptjax.planning import planner, roofline
from gptjax.reporting import tables

_NUMBERS = ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"))


def print_plan(plan: planner.Plan) -> None:
    """Prints a plan, its suggestions last."""
    import rich.console

    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    for line in lines(plan):
        console.print(line, soft_wrap=True)


def lines(plan: planner.Plan) -> list[str]:
    """The plan, line by line."""
    batch = plan.batch
    told = [
        f"{plan.model}: {plan.parameters:,} weights on {plan.topology.name}, "
        f"{plan.topology.devices} devices",
        f"{batch['sequences']} sequences of {batch['sequence_tokens']} tokens a step, "
        f"{plan.compute_dtype}; {plan.steps:,} steps in all",
    ]
    if plan.problem is not None:
        told += ["", plan.problem]
    if plan.step is not None:
        told += ["", *_step(plan, plan.step)]
    for overrides, step in plan.suggestions:
        told += ["", "fits: " + " ".join(overrides), *_step(plan, step)]
    if not plan.fits and not plan.suggestions:
        told += ["", "does not fit"]
    if plan.topology.platform == "cuda":
        told += [
            "",
            "attention by the plain formula: cuDNN's kernels, which need less memory "
            "and traffic, compile on a GPU alone",
        ]
    steps = [plan.step] if plan.step else []
    if any(step.roofline for step in [*steps, *(s for _, s in plan.suggestions)]):
        told += ["", roofline.FORMULA, roofline.MFU_FORMULA]
    return told


def _step(plan: planner.Plan, step: planner.Step) -> list[str]:
    axes = ", ".join(f"{axis} {size}" for axis, size in step.mesh.items())
    told = [f"a device, on the mesh {axes}:"]
    for kind, size in step.memory.items():
        if size:
            told.append(f"  {kind:26} {tables.bytes_text(size):>10}")
    total = f"  {'memory':26} {tables.bytes_text(step.used):>10}"
    if step.limit is not None:
        verdict = "fits" if step.fits else "does not fit"
        total += f" of {tables.bytes_text(step.limit)}: {verdict}"
    figures = step.figures
    told += [
        total,
        f"  {'FLOPs':26} {_number(figures['flops']):>10} "
        f"(the model's own: {_number(step.model_flops)})",
        f"  {'memory traffic':26} {tables.bytes_text(figures['memory_traffic']):>10}",
    ]
    for kind, row in figures["collectives"].items():
        line = f"  {kind:26} {tables.bytes_text(row['sent_bytes']):>10} sent"
        if row["network_bytes"]:
            line += f", {tables.bytes_text(row['network_bytes'])} of it between nodes"
        told.append(f"{line}, {row['count']:,} times")
    if not figures["collectives"]:
        told.append("  no collectives")
    if figures["unknown_loops"]:
        told.append(
            f"  {figures['unknown_loops']} loops do not tell how often they turn, and "
            "count once"
        )
    if figures["silent_kernels"]:
        told.append(
            f"  {figures['silent_kernels']:,} runs of kernels (attention) do not state "
            "their FLOPs, which are not among these"
        )
    if step.roofline is not None:
        told += _times(plan, step, step.roofline)
    return told


def _times(
    plan: planner.Plan, step: planner.Step, times: roofline.Roofline
) -> list[str]:
    parts = {
        name: getattr(times, name)
        for name in ("compute", "memory", "interconnect", "network")
    }
    spent = ", ".join(f"{n} {_seconds(s)}" for n, s in parts.items() if s)
    tokens = plan.batch["sequences"] * plan.batch["sequence_tokens"] / times.step
    return [
        f"  at least {_seconds(times.step)} a step, bound by {times.bound} ({spent})",
        f"  at most {tokens:,.0f} tokens/s, MFU {times.mfu:.0%}",
        f"  at least {plan.hours(step):,.2f} device-hours for {plan.steps:,} steps",
    ]


def _number(value: float) -> str:
    for power, unit in _NUMBERS:
        if value >= 10**power:
            return f"{value / 10**power:.2f} {unit}"
    return f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
