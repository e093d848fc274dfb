"""The benchmarks run, and say in words and as JSON what they should."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


def _run(name, folder, *arguments):
    """The figures of a benchmark in a hurry, and the last line that it printed."""
    # One device; quickly compiled, as in the other tests.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    out = folder / f"{name}.json"
    done = subprocess.run(
        [
            sys.executable,
            SCRIPTS / f"bench_{name}.py",
            *("--quick", "--out", out, *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["benchmark"] == name
    assert found["machine"]["cores"] > 0
    for ratio in found["ratios"].values():
        assert 0 < ratio["least"] <= ratio["median"] <= ratio["most"]
    return found, done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_step_trains_as_pytorch_does(tmp_path):
    """A loss of another task, or weights never held, would make the ratios idle."""
    found, last = _run("step", tmp_path)
    assert last.startswith("tokens/s gptjax / torch: ")
    packaged = found["steps"]["packaged"]
    losses = packaged["first_loss"]
    assert losses["gptjax"] == pytest.approx(losses["torch"], abs=0.05)
    # Weights, gradients, moments.
    assert min(packaged["peak_bytes"].values()) > 50e6


@pytest.mark.slow
def test_bench_decode_writes_what_pytorch_writes(tmp_path):
    """A quicker decoder that says something else is no quicker decoder."""
    found, last = _run("decode", tmp_path, "--draft")
    assert last.startswith("tokens/s gptjax / torch: ")
    assert found["decoding"]["packaged, batch 4"]["same_tokens"] == 1
    assert 0 < found["decoding"]["draft"]["acceptance"] < 1
    assert len(found["ratios"]) == 5


@pytest.mark.slow
def test_bench_round_takes_a_run_apart(tmp_path):
    """Parts that counted twice, or a step that compiled again, would tell a tale."""
    found, last = _run("round", tmp_path)
    assert last.startswith("seconds masked step / dense step: ")
    run = found["run"]
    assert run["compilations"] == 1
    parts = run["seconds_of_a_round"]
    assert {"ranking", "rewinding", "saving", "other"} < parts.keys()
    most = sum(p["most"] for part, p in parts.items() if part != "evaluation")
    assert 0 < run["seconds_outside_steps"]["most"] <= most
    added = found["ratios"]["bytes that masks add / bytes of the parameters"]
    assert added["median"] < 1 / 8


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_checkpoint_tells_what_training_waits_for(tmp_path):
    """A save that went on after it was timed would look like the quickest disk."""
    found, last = _run("checkpoint", tmp_path)
    assert last.startswith("save GB/s gptjax / torch: ")
    assert found["bytes"] > 3 * 4 * 3_111_936
    seconds = found["seconds"]
    assert (
        seconds["gptjax, training held up"]["most"] <= seconds["gptjax, save"]["most"]
    )


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_convert_measures_each_way_in_a_process_of_its_own(tmp_path):
    """Within one process the second conversion would find warm what the first made."""
    found, last = _run("convert", tmp_path)
    assert last.startswith("conversion seconds gptjax / torch: ")
    for rival in ("gptjax", "torch"):
        # The weights themselves must have come to memory.
        assert found[rival]["peak GB per GB to read"]["least"] > 0.9


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_start_finds_a_warm_start_quicker_than_a_cold_one(tmp_path):
    """A cache that no program ever came out of would go unseen."""
    found, last = _run("start", tmp_path)
    assert last.startswith("first step seconds gptjax warm / torch: ")
    first = found["seconds"]["first step"]
    assert first["gptjax, warm"]["median"] < first["gptjax, cold"]["median"]
    assert "compile seconds 48 layers / 12 layers" in found["ratios"]


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_data_finds_that_the_data_keep_up_with_the_step(tmp_path):
    """A step that waits for its batch wastes the device; ten times is ample."""
    found, last = _run("data", tmp_path)
    assert last.startswith("tokens/s cache / training step: ")
    assert found["ratios"]["tokens/s cache / training step"]["median"] > 10
    for speed in found["tokens_per_second"].values():
        assert 0 < speed["least"] <= speed["most"]


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_structured_measures_what_was_cut(tmp_path):
    """A removal that removed nothing would be the dense model again."""
    found, last = _run("structured", tmp_path)
    assert last.startswith("seconds of a step, 1 layer less / dense: ")
    removed = found["removed"]
    assert removed["1 layer"]["parameters"] < removed["dense"]["parameters"]


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_student_compares_starts_and_teachers(tmp_path):
    """Six students of one teacher, by one protocol."""
    found, last = _run("student", tmp_path)
    assert last.startswith("perplexity teacher's layers / random weights: ")
    assert len(found["perplexity"]) == 7
    assert len(found["ratios"]) == 5


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_quantize_reads_back_what_it_wrote(tmp_path):
    """Fewer bits in as many bytes, or a model that came back as another one."""
    found, last = _run("quantize", tmp_path)
    assert last.startswith("perplexity 4 bits, trained so / float32: ")
    models = found["models"]
    ways = ("4 bits, nearest", "8 bits, nearest", "float16", "float32")
    sizes = [models[way]["bytes"] for way in ways]
    assert sizes == sorted(set(sizes))
    first, last = (models[way]["perplexity"] for way in ways[1::2])
    assert first == pytest.approx(last, rel=0.01)


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_server_asks_both_servers(tmp_path):
    """A server that answers with nothing would be the quickest."""
    found, last = _run("server", tmp_path)
    assert last.startswith("tokens/s at once gptjax / plain server: ")
    assert len(found["ratios"]) == 3
    for speed in found["tokens_per_second"].values():
        assert 0 < speed["least"] <= speed["most"]


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_style_tells_what_is_kept_from_what_is_there_by_chance(tmp_path):
    """Of a model that learnt nothing of it; passages themselves sound as they are."""
    found, last = _run("style", tmp_path)
    assert last.startswith("words kept of austen as austen / of another prompt: ")
    for way, told in found["answers"].items():
        source, _, style = way.split()
        assert 0 <= told["kept"] < 0.5
        assert (told["passages sound so"] > 0.5) == (source == style)


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_teacher_tells_what_is_kept(tmp_path):
    """Of fewer words less of the divergence is left, and never more than all."""
    found, last = _run("teacher", tmp_path)
    assert last.startswith("step seconds scores kept / teacher beside: ")
    assert found["bytes_per_token"] == 64 * 2 + 65 * 2
    for values in found["divergence"].values():
        ordered = [values[keep] for keep in ("16", "64", "256", "all")]
        assert 0 < ordered[0] < ordered[1] < ordered[2] < ordered[3]


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_classify_puts_a_regression_beside(tmp_path):
    """On texts that words tell apart, the regression is right about all."""
    rows = "".join(f"{'ab'[n % 2]},{['sun', 'joy'][n % 2]} {n}\n" for n in range(80))
    path = tmp_path / "texts.csv"
    path.write_text("label,text\n" + rows)
    names = (f"--{name}={path}" for name in ("train", "valid", "test"))
    found, _ = _run("classify", tmp_path, *names, "--texts", "20", "0")
    assert found["accuracy"]["20"]["regression"] == [1.0]
    assert set(found["accuracy"]) == {"20", "all"}


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_lm_eval_answers_what_the_harness_answers(tmp_path):
    """A ratio of two that answer differently is none."""
    found, last = _run("lm_eval", tmp_path)
    assert last.startswith("loglikelihood: speed gptjax / hf: ")
    apart = {kind: figures["apart"] for kind, figures in found["kinds"].items()}
    assert apart["generate_until"] == 0
    assert apart["loglikelihood"] < 1e-3
    # Of a text's 2,400 tokens together.
    assert apart["loglikelihood_rolling"] < 1e-2


@pytest.mark.slow
@pytest.mark.very_slow
def test_bench_formats_reads_one_model_in_every_format(tmp_path):
    """A format that lost weights, or a reader of another text, would show here."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (xllamacpp)")
    found, last = _run("formats", tmp_path)
    assert last.startswith("tokens/s jax.export / transformers: ")
    first, *others = found["formats"].values()
    for own in others:
        assert own["perplexity"] == pytest.approx(first["perplexity"], rel=0.01)
        assert own["predicted"] == first["predicted"] == 1020
        assert own["bytes"] < 0.3 * first["bytes"]
    coded = found["formats"]
    exact = [coded[f"{name}, 8 bits"] for name in ("compressed-tensors", "StableHLO")]
    assert exact[0]["perplexity"] == pytest.approx(exact[1]["perplexity"], rel=1e-5)
    assert exact[0]["written"] == exact[1]["written"]
