"""Calibration beside hooks on stock transformers' GPT-2, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from gptjax import convert, model, sharding
from gptjax.pruning import blockwise, calibration
from gptjax.pruning.calibration import activations, stacked

HF_NAMES = {
    "attn/qkv/kernel": "attn.c_attn",
    "attn/out/kernel": "attn.c_proj",
    "mlp/up/kernel": "mlp.c_fc",
    "mlp/down/kernel": "mlp.c_proj",
}


@pytest.fixture
def oracle(tiny, one_device, tiny_config, tmp_path):
    """The tiny model in torch."""
    convert.save(tmp_path / "hf", tiny_config, tiny(one_device))
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
    return loaded.double().eval()


def watch(oracle, layer, tokens_NT):
    """What enters each Conv1D of a block: name -> (tokens, inputs)."""
    seen, handles = {}, []
    for name, hf_name in HF_NAMES.items():
        conv = oracle.transformer.h[layer].get_submodule(hf_name)

        def hook(module, args, name=name):
            seen[name] = args[0].reshape(-1, args[0].shape[-1]).numpy()

        handles.append(conv.register_forward_pre_hook(hook))
    with torch.no_grad():
        oracle(torch.from_numpy(tokens_NT).long())
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(
    "sizes", [(8, 1, 1, 1), (2, 4, 1, 1), (2, 2, 1, 2), (1, 1, 1, 1)]
)
def test_norms_and_hessians_are_those_of_the_hooks(
    sizes, tiny, tiny_config, tokens_NT, oracle, one_device
):
    """A batch filled up with made-up sequences, or a device's share counted twice,
    changes them a little."""
    mesh = one_device
    if sizes != (1, 1, 1, 1):
        mesh = sharding.make_mesh(**dict(zip(sharding.AXES, sizes, strict=True)))
    params = tiny(mesh)
    norms = calibration.input_norms(
        tiny_config, params, tokens_NT, mesh=mesh, batch_sequences=2
    )
    stream = activations.Stream(
        activations.How(tiny_config, jnp.float32, mesh),
        params,
        tokens_NT,
        batch_sequences=2,
    )
    for layer in range(tiny_config.n_layer):
        block = stacked.Stack(params["blocks"], mesh).block(layer)
        hessians = stream.moments(block, layer, HF_NAMES, activations.products)
        stream.advance(block, layer)
        for name, x in watch(oracle, layer, tokens_NT).items():
            norm = norms[f"blocks/{name}"][layer]
            np.testing.assert_allclose(norm, np.linalg.norm(x, axis=0), rtol=1e-4)
            wanted = x.T @ x / len(x)
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(
                hessians[name], wanted, rtol=0, atol=1e-5 * scale
            )


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_wandas_masks_are_the_oracles_block_after_block(
    pattern, tiny, tiny_config, dense_masks, tokens_NT, oracle, one_device
):
    """Norms of the dense model, of another orientation, or of a block that is pruned
    already: each would give masks that are nearly right."""
    params = tiny(one_device)
    sparsities = {path: np.array([0.25, 0.5, 0.75]) for path in dense_masks.shapes}
    new, masks, _ = blockwise.prune(
        tiny_config,
        params,
        dense_masks,
        tokens_NT,
        mesh=one_device,
        criterion="wanda",
        pattern=pattern,
        scope="row",
        sparsities=sparsities,
        batch_sequences=4,
    )
    for layer, sparsity in enumerate([0.25, 0.5, 0.75]):
        for name, x in watch(oracle, layer, tokens_NT).items():
            conv = oracle.transformer.h[layer].get_submodule(HF_NAMES[name])
            weight = conv.weight.data.numpy()
            score = np.abs(weight) * np.linalg.norm(x, axis=0)[:, None]
            wanted = np.ones(weight.shape, bool)
            for column in range(weight.shape[1]):
                if pattern == "2:4":
                    for start in range(0, len(weight), 4):
                        order = np.argsort(score[start : start + 4, column])
                        wanted[start + order[:2], column] = False
                else:
                    order = np.argsort(score[:, column])
                    wanted[order[: round(sparsity * len(weight))], column] = False
            weight[~wanted] = 0
            got = masks.layer(f"blocks/{name}", layer).reshape(weight.shape)
            np.testing.assert_array_equal(got, wanted, err_msg=f"{layer} {name}")
    with torch.no_grad():
        logits = oracle(torch.from_numpy(tokens_NT).long()).logits
    np.testing.assert_allclose(
        model.apply(tiny_config, new, tokens_NT), logits, rtol=0, atol=1e-4
    )
