"""Every family as exported programs: scores, and a cache filled in two parts."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import stock

from gptjax import errors, model
from gptjax.convert import hf_config, stablehlo


@pytest.mark.slow
@pytest.mark.parametrize("family", stock.FAMILIES)
def test_programs_compute_what_the_model_does(family, tmp_path):
    """Windows, rotation and slopes depend on lengths, which are free in a program."""
    own = {"model_type": family, **stock.regular(family), "vocab_size": 40}
    config = hf_config.parse(own, where=family)
    params = model.init(jax.random.key(0), config)
    stablehlo.save(
        tmp_path / "run", config, params, tokenizer_json="{}", eos_token_ids=[]
    )
    logits, extend = (
        jax.export.deserialize((tmp_path / "run" / f"{name}.exported").read_bytes())
        for name in ("logits", "extend")
    )
    weights = safetensors.numpy.load_file(tmp_path / "run" / stablehlo.WEIGHTS)
    tokens = np.random.default_rng(0).integers(40, size=(2, 20)).astype(np.int32)
    wanted = np.asarray(model.apply(config, params, tokens))
    allowed = {"rtol": 0, "atol": 1e-5 * abs(wanted).max()}
    np.testing.assert_allclose(logits.call(weights, tokens), wanted, **allowed)
    shape = (config.n_layer, 2, config.kv_heads, 22, config.head_width)
    cache = {name: np.zeros(shape, np.float32) for name in ("keys", "values")}
    for start, stop in ((0, 13), (13, 20)):
        scores, cache = extend.call(
            weights, tokens[:, start:stop], cache, np.int32(start)
        )
        np.testing.assert_allclose(scores, wanted[:, stop - 1], **allowed)


def test_a_classifier_is_refused(tmp_path):
    """A program scores the next token, which a classifier may have no weights for."""
    config = model.Config(
        n_layer=1,
        n_embd=8,
        n_head=2,
        classifiers=(model.Classifier(labels=("a", "b")),),
    )
    with pytest.raises(errors.UserError, match="a classifier"):
        stablehlo.save(
            tmp_path / "run", config, {}, tokenizer_json="{}", eos_token_ids=[]
        )
