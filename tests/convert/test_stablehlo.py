"""Exported programs, run by a process in which gptjax cannot be imported."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import gptjax
from gptjax import assets, cli, convert, errors, formats, model, quantizing, tree
from gptjax.convert import stablehlo
from gptjax.planning import compiling

# Nothing of gptjax is there, and nothing of its folder: only that of run.py.
_ALONE = """
import json, pathlib, sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gptjax":
            raise ImportError(f"{name} is out of reach")
sys.meta_path.insert(0, Nowhere())
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
asked = json.loads(sys.stdin.read())
for folder in map(pathlib.Path, sys.argv[1:]):
    sys.path.insert(0, str(folder))
    import run
    own = run.Model(folder)
    np.save(folder.parent / f"{folder.name}.npy", own.logits(np.int32(asked["ids"])))
    if folder.name != "dense run":
        continue
    written = own.complete(asked["ids"][0][:5], 8)
    text = own.tokenizer.encode(asked["text"], add_special_tokens=False).ids
    try:
        own.perplexity(text[:1], 16)
    except SystemExit as error:
        print(json.dumps([written, *own.perplexity(text, 16), str(error)]))
"""
CONFIG = model.Config(vocab_size=2048, n_positions=24, n_embd=32, n_head=4, n_layer=2)
IDS = np.random.default_rng(0).integers(1, 2048, (2, 20))
KINDS = ("dense", "4 bits", "8 bits")
TEXT = "It is a truth universally acknowledged, that a single man is in want of a wife."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model, `dense`, and the same on grids, each with its programs."""
    folder, rng = tmp_path_factory.mktemp("stablehlo"), np.random.default_rng(0)
    params = tree.map_with_path(
        lambda path, leaf: (
            path.endswith("/scale") + 0.3 * rng.standard_normal(leaf.shape)
        ).astype(np.float32),
        model.shapes(CONFIG),
    )
    convert.save(folder / "dense", CONFIG, params, like=assets.checkpoint())
    small = quantizing.quantize(folder / "dense", bits=4, group=16)
    small.save(folder / "4 bits", dtype=np.float16)
    quantizing.quantize(folder / "dense", activation_bits=8).save(folder / "8 bits")
    (folder / "text.txt").write_text(TEXT)
    for name in KINDS:
        own = gptjax.load(folder / name, dtype=None)
        grid = convert.load_grid(folder / name)
        formats.save_stablehlo(own, folder / f"{name} run", on_grid=grid)
    return folder


def test_programs_alone_compute_write_and_measure_the_same(folder):
    """Logits in floats and codes; greedy tokens, a cache behind them; perplexity."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", _ALONE, *(folder / f"{n} run" for n in KINDS)],
        input=json.dumps({"ids": IDS.tolist(), "text": TEXT}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in KINDS:
        own = gptjax.load(folder / name)
        wanted = np.asarray(own(IDS))
        got = np.load(folder / f"{name} run.npy")
        # Rounding what enters a layer makes much of the order of a sum.
        near = 1e-4 if own.config.activation_bits else 1e-5
        np.testing.assert_allclose(got, wanted, rtol=0, atol=near * abs(wanted).max())
    own = gptjax.load(folder / "dense")
    written, perplexity, predicted, refused = json.loads(done.stdout)
    assert refused == "1 tokens: a text has 2 at least"
    asked = {"max_new_tokens": 8, "do_sample": False}
    assert written == own.generate_tokens([IDS[0, :5].tolist()], **asked).tokens[0]
    measured = own.perplexity(folder / "text.txt", context=16)
    assert perplexity == pytest.approx(measured.perplexity, rel=1e-5)
    assert predicted == measured.predicted


def test_codes_are_stored_as_codes(folder):
    """As floats they would save nothing, and as constants they would be there twice."""
    sizes = []
    for name in KINDS:
        run = folder / f"{name} run"
        stored = safetensors.numpy.load_file(run / stablehlo.WEIGHTS)
        codes = [array for own, array in stored.items() if own.endswith(".codes")]
        kind = {"4 bits": np.uint8, "8 bits": np.int8}.get(name)
        assert [array.dtype for array in codes] == [kind] * 4 * (name != "dense")
        assert all(path.stat().st_size < 60_000 for path in run.glob("*.exported"))
        sizes.append((run / stablehlo.WEIGHTS).stat().st_size)
    assert sizes[1] < 0.45 * sizes[0]


def test_programs_are_lowered_for_every_platform(tmp_path):
    """Made on a CPU, they must name what a TPU and a GPU are to do."""
    command = ["convert", "packaged", str(tmp_path / "run"), "--to", "stablehlo"]
    assert cli.main(command) == 0
    for path in (tmp_path / "run").glob("*.exported"):
        found = jax.export.deserialize(path.read_bytes())
        assert found.platforms == ("cpu", "tpu", "cuda")
        calls = re.findall(r"custom_call @(\w+)", found.mlir_module())
        assert {*calls} == {"shape_assertion"}
    stored = safetensors.numpy.load_file(tmp_path / "run" / stablehlo.WEIGHTS)
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    # Once more over it, but not over anything else.
    (tmp_path / "run" / "__pycache__").mkdir()
    assert cli.main(command) == 0
    (tmp_path / "run" / "mine.txt").write_text("mine")
    own = gptjax.load("packaged")
    with pytest.raises(errors.UserError, match=r"holds mine\.txt"):
        formats.save_stablehlo(own, tmp_path / "run")


def test_a_longer_text_than_the_model_reads_is_refused(folder):
    """Beyond its table of positions a program would read the last one again."""
    run = folder / "dense run"
    found = jax.export.deserialize((run / "logits.exported").read_bytes())
    weights = safetensors.numpy.load_file(run / stablehlo.WEIGHTS)
    with pytest.raises(ValueError, match="shapes"):
        found.call(weights, np.zeros((1, 25), np.int32))


_FOR_TPU = """
import sys, jax, jax.numpy as jnp, safetensors.numpy
from jax.experimental import topologies
found = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
place = jax.sharding.SingleDeviceSharding(found.devices[0])
def shaped(*shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)
folder = sys.argv[1]
stored = safetensors.numpy.load_file(f"{folder}/model.safetensors")
weights = {n: shaped(*a.shape, dtype=a.dtype) for n, a in stored.items()}
half = shaped(2, 1, 4, 24, 8, dtype=jnp.float32)
more = {"logits": (), "extend": ({"keys": half, "values": half}, shaped())}
for name, rest in more.items():
    with open(f"{folder}/{name}.exported", "rb") as file:
        found = jax.export.deserialize(file.read())
    compiled = jax.jit(found.call).lower(weights, shaped(1, 16), *rest).compile()
    print(name, compiled.memory_analysis().argument_size_in_bytes > 50_000)
"""


@pytest.mark.slow
def test_a_tpus_own_compiler_takes_the_programs(folder):
    """Made on a machine without one, they might hold what a TPU cannot do."""
    lacking = compiling.missing("tpu")
    if lacking is not None:
        pytest.skip(lacking)
    done = subprocess.run(
        [sys.executable, "-c", _FOR_TPU, folder / "4 bits run"],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
            "TPU_SKIP_MDS_QUERY": "1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["logits", "True", "extend", "True"]
