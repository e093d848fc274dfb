"""Labelled texts written to a file with changed copies of them."""

import csv
import pathlib

import numpy as np

from gptjax import config, data, errors, files


def write(
    source: config.Source,
    out: pathlib.Path,
    settings: config.Augmentation,
    *,
    copies: int,
    seed: int,
) -> tuple[int, int]:
    """Writes a CSV file `label,text`: each text, then its copies that differ from it.

    Each copy's changes depend on the seed, the text's place and its own number alone.

    Returns:
      How many texts there were, and how many copies were written.

    Raises:
      UserError: what `data.read_labelled` raises, or a file that cannot be written,
        is no CSV file, or is the source.
    """
    if out.suffix.lower() != ".csv":
        raise errors.UserError(f"{out}: CSV is what is written; name a .csv file")
    change = data.Augmentation(settings)
    texts = changed = 0
    with (
        files.derived(out, [source.path]) as beside,
        beside.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file)
        rows.writerow([source.label_column, source.column])
        for place, document in enumerate(data.read_labelled(source)):
            rows.writerow([document.label, document.text])
            texts += 1
            seen = {document.text}
            for copy in range(copies):
                rng = np.random.default_rng([seed, place, copy])
                text = change(document.text, rng)
                if text not in seen:
                    rows.writerow([document.label, text])
                    seen.add(text)
                    changed += 1
    return texts, changed
