"""What a run's models write: the same prompts after every round, by the same draws."""

import json
import pathlib
from typing import Any

import jax

from gptjax import files, generation, model
from gptjax.training.prepare import Prepared

NAME = "samples.json"
"""Of the file in a run folder: under `prompts` what is gone on from; under `texts`, by
`start`, `end` or a round's name, what a model adds to each."""


def write_samples(
    prepared: Prepared, name: str, config: model.Config, params: Any
) -> None:
    """Lets a model go on from the config's prompts, if there are some.

    Drawn with the run's seed, at temperature 0.8 from the 40 likeliest tokens, so that
    a run that is started again writes the same.

    Args:
      name: of the moment: `start`, `end`, or a round's.
    """
    protocol = prepared.settings.evaluation
    prompts = protocol.prompts
    if not prompts:
        return
    how = generation.Options(
        max_new_tokens=protocol.sample_tokens,
        do_sample=True,
        temperature=0.8,
        top_k=40,
    )
    opened = [prepared.tokenizer.opened(prompt) for prompt in prompts]
    engine = generation.Engine(config, params, mesh=prepared.mesh)
    made = engine.generate(opened, how, seed=prepared.settings.seed)
    texts = [
        prepared.tokenizer.continuation(ids, tokens)
        for ids, tokens in zip(opened, made.tokens, strict=True)
    ]
    if jax.process_index() == 0:
        told = read(prepared.folder).get("texts", {}) | {name: texts}
        files.write_json(
            prepared.folder / NAME, {"prompts": list(prompts), "texts": told}
        )


def read(folder: pathlib.Path) -> dict[str, Any]:
    """What the file in a run folder holds; empty where there is none."""
    path = folder / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
