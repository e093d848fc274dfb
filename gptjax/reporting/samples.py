"""What the models of a run wrote after the same prompts, named as readers know them."""

from gptjax.reporting import page, run_folder

_FEW = 4
"""Up to so many texts stand beside each other."""


def before_and_after(
    run: run_folder.Run, texts: dict[str, str]
) -> list[tuple[str, str]]:
    """Of one prompt: what the source model wrote, and what the last one did."""
    named = _named(run, texts)
    if len(named) < 2:
        return named
    return [("before", named[0][1]), ("after", named[-1][1])]


def sections(run: run_folder.Run) -> list[page.Section]:
    """The texts of all moments, a block for each prompt; nothing without samples."""
    if not run.samples:
        return []
    told = (
        "Drawn with the same seed at temperature 0.8 from the 40 likeliest tokens. A "
        "sample is one of many; the figures are what counts."
    )
    blocks = []
    for prompt, texts in run.samples:
        named = _named(run, texts)
        # The source, the dense model and the last one; or all, where they are few.
        shown = named if len(named) <= _FEW else [*named[:2], named[-1]]
        others = [each for each in named if each not in shown]
        blocks.append(page.Samples(prompt, shown, others))
    return [page.Section("Samples", [told, *blocks])]


def _named(run: run_folder.Run, texts: dict[str, str]) -> list[tuple[str, str]]:
    """Texts in the order of their moments, under what readers call these."""
    names = {"start": "before", "end": "after training"}
    rounds = {f"{r['round']:02d}": r for r in run.rounds}
    found = []
    for when, text in texts.items():
        round_ = rounds.get(when)
        if round_ is None:
            name = names.get(when, f"round {when}, under way")
        elif not round_["round"]:
            name = "round 0, dense"
        elif "shape" in round_:
            name = f"round {round_['round']}, {round_['parameters']:,} weights"
        else:
            name = f"round {round_['round']}, {round_['sparsity']:.1%} sparse"
        found.append((name, text))
    return found
