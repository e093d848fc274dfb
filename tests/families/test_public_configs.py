"""config.json of public checkpoints, as many versions of transformers wrote it."""

import json
import pathlib

import pytest
import transformers

from gptjax import errors
from gptjax.convert import families, hf_config

ROWS = pathlib.Path(__file__).with_name("public_configs.jsonl").read_text()
CONFIGS = {
    row["checkpoint"]: row["config"] for row in map(json.loads, ROWS.splitlines())
}
REFUSED = "facebook/opt-350m"


def test_every_family_has_a_public_checkpoint_here():
    """One without would not be held to what its users really have."""
    assert {own["model_type"] for own in CONFIGS.values()} == {*families.FAMILIES}


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {REFUSED}))
def test_a_public_config_is_read_as_transformers_reads_it(name):
    """Old names, fields left out and defaults of the day, all made one by theirs.

    What transformers makes of the file names every field in its newest way, which the
    parity tests hold to logits.
    """
    newest = transformers.AutoConfig.for_model(**CONFIGS[name]).to_dict()
    read = hf_config.parse(CONFIGS[name], where=name)
    assert read == hf_config.parse(newest, where=name)
    assert read.family == CONFIGS[name]["model_type"]
    assert read.n_embd in CONFIGS[name].values()


def test_projected_embeddings_are_refused_by_their_field():
    """OPT-350M alone of its family has them; as a plain OPT it would not even load."""
    with pytest.raises(errors.UserError, match="word_embed_proj_dim is 512"):
        hf_config.parse(CONFIGS[REFUSED], where="x")
