"""GPT-2 XL's step, compiled for a TPU slice by the TPU's own compiler, without one."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "gpt2_xl_v5e.yaml"
CHIP_BYTES = 16e9
"""High-bandwidth memory of a v5e chip (Google Cloud's documentation of TPU v5e)."""

# A process of its own: the TPU compiler wants flags and a platform that the other
# tests must not see.
COMPILE = textwrap.dedent(
    """
    import json, sys
    import jax, jax.numpy as jnp
    from jax.experimental import topologies
    from gptjax import config, masks, model, sharding
    from gptjax.training import optimizer, state, step

    settings = config.load(sys.argv[1])
    gpt = model.Config(n_layer=48, n_embd=1600, n_head=25)
    slice_ = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
    mesh = sharding.make_mesh(**settings.mesh.model_dump(), devices=slice_.devices)
    shapes = model.shapes(gpt)
    steps = settings.training.steps
    schedule = optimizer.make_schedule(settings.optimizer, steps=steps)
    chain = optimizer.make_optimizer(settings.optimizer, schedule, shapes)
    prunable = config.Pruning(sparsities=(0.5,)).prunable
    mask_shapes = masks.shapes(shapes, prunable)
    places = state.shardings(mesh, shapes, mask_shapes, chain)
    train_step = step.make_step(
        gpt.without_dropout(), chain, schedule, places, mesh,
        dtype=jnp.dtype(settings.training.compute_dtype), remat=settings.training.remat,
    )
    abstract = state.TrainState(
        jax.ShapeDtypeStruct((), jnp.int32), shapes, mask_shapes,
        jax.eval_shape(chain.init, shapes),
    )
    tokens = jax.ShapeDtypeStruct(
        (1, settings.training.batch_sequences, settings.data.sequence_tokens), jnp.int32
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = train_step.lower(
        abstract, {"tokens": tokens, "labels": tokens}, key
    ).compile()
    memory = compiled.memory_analysis()
    print(json.dumps({
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "weights": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        "devices": mesh.size,
    }))
    """
)


@pytest.mark.slow
def test_the_xl_recipe_compiles_for_v5e_4x4_and_fits():
    """Out of memory shows only on the chip otherwise, after the slice was paid for."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is missing: pip install libtpu")
    environment = {**os.environ, "XLA_FLAGS": "", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(CONFIG)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout.splitlines()[-1])
    assert memory["devices"] == 16
    assert memory["weights"] == pytest.approx(1.56e9, rel=0.01)
    used = memory["arguments"] + memory["outputs"] + memory["temporaries"]
    assert used < CHIP_BYTES, memory
    # Weights, two moments and the masks, split over 16 chips and not copied to each.
    split = memory["weights"] * (4 * 3 + 1) / 16
    assert memory["arguments"] < 1.1 * split, memory
