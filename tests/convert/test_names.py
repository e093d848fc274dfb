"""The table of names against torch's own."""

import numpy as np
import pytest

from gptjax.convert import families, hf_config, names


@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": False, "n_inner": 5}])
def test_names_order_and_shapes_are_torch_s(checkpoints, fields):
    """A state dict's order decides which tensor lands in which shard."""
    oracle = checkpoints.make_model(**fields)
    config = hf_config.parse(oracle.config.to_dict(), where="x")
    ours = [(name, part.hf_shape) for name, _, part, _ in names.in_hf_order(config)]
    theirs = [(name, tuple(p.shape)) for name, p in oracle.named_parameters()]
    assert ours == theirs


def test_a_leaf_and_its_tensors_are_of_one_size(checkpoints):
    """Else a reshape would fail, or worse, fit."""
    config = hf_config.parse(checkpoints.make_model().config.to_dict(), where="x")
    for leaf in names.leaves(config):
        (part,) = leaf.parts
        assert np.prod(leaf.shape) == len(leaf.names) * np.prod(part.hf_shape)


def test_only_buffers_of_layers_that_exist_are_skipped(checkpoints):
    """A mask of a twelfth layer in a model of three says that the config is wrong."""
    config = hf_config.parse(checkpoints.make_model().config.to_dict(), where="x")
    family = families.FAMILIES[config.family]
    assert family.is_buffer("transformer.h.2.attn.bias", config.n_layer)
    assert family.is_buffer("transformer.h.2.attn.masked_bias", config.n_layer)
    assert not family.is_buffer("transformer.h.3.attn.bias", config.n_layer)
    assert not family.is_buffer("transformer.h.2.attn.c_attn.bias", config.n_layer)
