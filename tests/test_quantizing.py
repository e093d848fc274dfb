"""Models on a grid: the command, the Python name, what they leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gptjax
from gptjax import assets, cli, convert, grids, masks, quantizing, tree
from gptjax.pruning.calibration import finished

RULES = quantizing._PRUNABLE
TEXT = str(assets.text("shakespeare.valid"))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The packaged model with two layers, half of their kernels' weights 0."""
    folder = tmp_path_factory.mktemp("models") / "pruned"
    loaded = gptjax.load("packaged")
    config = convert.read_config(assets.checkpoint())
    config = type(config)(**{**vars(config), "n_layer": 2})
    params = dict(loaded.params)
    params["blocks"] = jax.tree.map(lambda leaf: leaf[:2], params["blocks"])
    flat = tree.flatten(params)
    rng = np.random.default_rng(0)
    for path, leaf in flat.items():
        if path.endswith("/kernel"):
            flat[path] = jnp.where(rng.random(leaf.shape) < 0.5, leaf, 0)
    convert.save(folder, config, tree.unflatten(flat), like=assets.checkpoint())
    return folder


def _zeros(folder):
    _, params = convert.load(folder, dtype=jnp.float32)
    return {p: np.asarray(x) == 0 for p, x in tree.flatten(params).items()}


@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--bits", "4", "--group", "64", "--dtype", "float16"],
        [
            *("--bits", "4", "--group", "32", "--calibration", TEXT),
            *("--sequences", "4", "--context", "64"),
        ],
    ],
    ids=["8 bits", "4 bits", "GPTQ"],
)
def test_the_command_keeps_every_zero_and_tells_what_it_did(
    how, pruned, tmp_path, capsys
):
    """A pruned weight that rounding revived would be no pruned weight."""
    out = tmp_path / "small"
    code = cli.main(["quantize", str(pruned), "--out", str(out), *how])
    said = capsys.readouterr().out
    assert code == 0
    before, after = _zeros(pruned), _zeros(out)
    for path, zeros in before.items():
        if path.endswith("/kernel"):
            assert after[path][zeros].all()
    kernels = [path for path in before if path.endswith("/kernel")]
    shares = [
        sum(own[path].sum() for path in kernels)
        / sum(own[path].size for path in kernels)
        for own in (before, after)
    ]
    told = f"{shares[0]:.2%} of them before, {shares[1]:.2%} after"
    assert told in said
    assert shares[1] >= shares[0]
    sizes = [
        sum(file.stat().st_size for file in convert.weight_files(folder))
        for folder in (pruned, out)
    ]
    assert f"bytes      {sizes[0]:,} before, {sizes[1]:,} after" in said
    assert ("by GPTQ on the first 4 x 64 tokens" in said) == ("--calibration" in how)
    assert sizes[1] < 0.75 * sizes[0]


def test_gptq_goes_on_after_the_last_finished_block(
    pruned, tmp_path, capsys, monkeypatch
):
    def begun(out, *more):
        texts = ("--calibration", TEXT, "--sequences", "4", "--context", "64")
        command = ["quantize", str(pruned), "--out", str(tmp_path / out), *texts]
        code = cli.main([*command, *more])
        return code, "".join(capsys.readouterr())

    def interrupt(self, layer, *given):
        save(self, layer, *given)
        raise KeyboardInterrupt

    assert begun("whole")[0] == 0
    save = finished.Finished.save
    with monkeypatch.context() as patched:
        patched.setattr(finished.Finished, "save", interrupt)
        assert begun("small")[0] != 0
    kept = tmp_path / "small.blocks"
    files = sorted(path.name for path in kept.iterdir())
    assert not (tmp_path / "small").exists()

    code, said = begun("small", "--bits", "4")
    assert code == 1
    assert f"{kept}: holds blocks pruned with grid" in said
    assert sorted(path.name for path in kept.iterdir()) == files

    code, said = begun("small")
    assert code == 0
    assert "1 of 2 blocks by an earlier attempt" in said
    assert not kept.exists()
    whole, resumed = (
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("whole", "small")
    )
    assert whole == resumed

    kept = tmp_path / "other.blocks"
    kept.mkdir()
    (kept / "novel.txt").write_text("mine")
    code, said = begun("other")
    assert code == 1
    assert "it holds something else" in said
    assert (kept / "novel.txt").exists()


def test_perplexities_are_those_of_the_folders(pruned, tmp_path, capsys):
    """After: of what was written, read again."""
    out = tmp_path / "small"
    text = tmp_path / "text.txt"
    text.write_text(assets.text("shakespeare.valid").read_text()[:3000])
    arguments = ["--bits", "4", "--group", "64", "--text", str(text)]
    assert cli.main(["quantize", str(pruned), "--out", str(out), *arguments]) == 0
    said = capsys.readouterr().out
    before, after = (
        gptjax.load(folder).perplexity(text).perplexity for folder in (pruned, out)
    )
    assert f"perplexity {before:.4f} before, {after:.4f} after" in said
    assert before != after


def test_pruned_and_rounded_in_one_pass_meets_the_sparsity(pruned):
    """Of each kernel's layers; more where weights round to 0."""
    made = gptjax.quantize(
        pruned, calibration_text=TEXT, sequences=4, context=64, sparsity=0.75
    )
    flat = tree.flatten(made.model.params)
    for path in made.on_grid.scales:
        zeros = (np.asarray(flat[path]) == 0).mean((*range(1, flat[path].ndim),))
        assert (zeros >= 0.75 - 1e-6).all()
        assert (zeros < 0.8).all()
    assert made.zeros_before / made.weights == pytest.approx(0.5, abs=0.01)
    assert made.zeros_after == masks.zeros(made.model.params, RULES)[0]


def test_an_ordinary_checkpoint_is_made_of_it(pruned, tmp_path):
    """`gptjax convert`: for those who read no codes."""
    made = gptjax.quantize(pruned, bits=4, group=64)
    made.save(tmp_path / "small")
    arguments = ["convert", str(tmp_path / "small"), str(tmp_path / "dense")]
    assert cli.main(arguments) == 0
    assert "quantization_config" not in (tmp_path / "dense/config.json").read_text()
    _, params = convert.load(tmp_path / "dense")
    jax.tree.map(np.testing.assert_array_equal, params, made.model.params)


def test_activations_of_8_bits_stay_with_the_folder(pruned, tmp_path, capsys):
    """And are no part of an ordinary checkpoint, nor of what can be trained."""
    folders = {name: tmp_path / name for name in ("plain", "rounded", "ordinary")}
    for name, more in (("plain", []), ("rounded", ["--activations", "8"])):
        out = ["--out", str(folders[name])]
        assert cli.main(["quantize", str(pruned), *out, *more]) == 0
    rounded, ordinary = str(folders["rounded"]), str(folders["ordinary"])
    assert cli.main(["convert", rounded, ordinary]) == 0
    models = {name: gptjax.load(folder) for name, folder in folders.items()}
    logits = {name: each(np.arange(8)[None]) for name, each in models.items()}
    np.testing.assert_array_equal(logits["plain"], logits["ordinary"])
    error = np.abs(logits["rounded"] - logits["plain"]).max()
    assert 0 < error < 0.1 * np.abs(logits["plain"]).max()
    # Decoding token by token goes another way, to the same scores.
    (made,) = models["rounded"].generate(["It was"], max_new_tokens=8, do_sample=False)
    ids = models["rounded"].tokenizer.encode("It was")
    for _ in range(8):
        ids.append(int(models["rounded"](np.array([ids]))[0, -1].argmax()))
    assert models["rounded"].tokenizer.decode(ids) == "It was" + made
    assert cli.main(["convert", rounded, f"{rounded}.gguf", "--to", "gguf"]) == 1
    assert "quantize without --activations" in capsys.readouterr().err
    settings = {"model": rounded, "out": str(tmp_path / "run"), "data.train": TEXT}
    with pytest.raises(gptjax.UserError, match="computes with activations of 8 bits"):
        gptjax.train(None, **settings)


def test_a_folder_that_is_in_use_is_refused_before_the_work(pruned, tmp_path, capsys):
    """GPTQ takes an hour on a large model, and would be lost."""
    (tmp_path / "novel.txt").write_text("mine")
    began = ["quantize", str(pruned), "--out", str(tmp_path), "--calibration", "none"]
    assert cli.main(began) == 1
    assert "holds novel.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": 3}, "bits: 3; codes have 4 or 8"),
        ({"group": 7}, "group: 7 does not divide the 192 inputs of blocks/attn/"),
        ({"sparsity": 0.5}, "takes a calibration text"),
        ({"pattern": "2:4"}, "takes a calibration text"),
        ({"sparsity": 1.5, "calibration_text": TEXT}, "lies between 0 and 1"),
        (
            {"sparsity": 0.5, "pattern": "2:4", "calibration_text": TEXT},
            "2:4 says how many go",
        ),
        ({"activation_bits": 8, "bits": 4}, "activations: only weights of 8 bits"),
        ({"activation_bits": 8, "calibration_text": TEXT}, "leave out bits, group"),
        ({"activation_bits": 4}, "activation_bits is 4; it may be 8"),
        ({"sparsity": 0.2, "calibration_text": TEXT}, "are pruned already"),
        ({"calibration_text": TEXT, "sequences": 10**6}, "need 256000000"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(given, message, pruned):
    with pytest.raises(gptjax.UserError, match=message) as told:
        gptjax.quantize(pruned, **given)
    assert "\n" not in str(told.value)


def test_scales_reach_the_largest_weight_and_zeros_have_one():
    """Else the largest would be clipped, and a group of zeros divided by 0."""
    weights = jnp.array([[3.0, 0.0], [-7.0, 0.0], [0.5, 1.0], [0.0, 0.0]])
    grid = grids.Grid(bits=4, group=2)
    scales = grids.scales_of(weights, grid)
    np.testing.assert_allclose(scales, [[1.0, 1.0], [0.5 / 7, 1 / 7]])
    codes = grids.codes_of(weights, scales, grid)
    np.testing.assert_array_equal(codes, [[3, 0], [-7, 0], [7, 7], [0, 0]])
    np.testing.assert_allclose(grids.values_of(codes, scales), weights, rtol=1e-6)
