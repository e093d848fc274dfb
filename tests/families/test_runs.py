"""Pruning runs of every family, and what stock transformers reads of them."""

import json

import numpy as np
import pytest
import stock
import torch

from gptjax import api, assets, config, convert, tree

# The packaged tokenizer's.
VOCABULARY = 2048


@pytest.fixture
def source(tmp_path):
    """A function (family, **fields) -> a random model, with a tokenizer."""

    def make(family, **more):
        more = {**stock.regular(family), "vocab_size": VOCABULARY, **more}
        theirs = stock.make(family, 0, **more)
        theirs.save_pretrained(tmp_path / "theirs")
        own, params = convert.load(tmp_path / "theirs")
        tokenizer = convert.resolve("packaged")
        convert.save(tmp_path / "model", own, params, like=tokenizer)
        return tmp_path / "model"

    return make


def _settings(source, out, **more):
    texts = {
        f"data.{name}": str(assets.text(f"shakespeare.{name}"))
        for name in ("train", "valid")
    }
    return config.load(
        None,
        {
            "model": str(source),
            "out": str(out),
            **texts,
            "data.sequence_tokens": stock.POSITIONS,
            "data.cache_dir": str(out.parent / "cache"),
            "mesh.data": 2,
            "mesh.fsdp": 2,
            "mesh.tensor": 2,
            "training.batch_sequences": 8,
            "training.steps": 10,
            "evaluation.limit_tokens": 400,
            "optimizer.learning_rate": 0.003,
            **more,
        },
    )


def _check_export(run, family):
    """Its zeros, and that stock transformers computes what gptjax does."""
    kernels = [p for p in tree.flatten(run.model.params) if p.endswith("/kernel")]
    flat = tree.flatten(run.model.params)
    zeros = sum(int((np.asarray(flat[path]) == 0).sum()) for path in kernels)
    assert zeros == run.rounds[-1]["zeros"]
    theirs = stock.FAMILIES[family][1].from_pretrained(
        run.folder / "export", attn_implementation="eager"
    )
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(2, 20))
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens)).logits
    np.testing.assert_allclose(run.model(tokens), logits, rtol=1e-3, atol=1e-4)


SOON = ("llama", "qwen3")  # what they have, the others have, too, or less


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            family,
            marks=[
                pytest.mark.slow,
                *(() if family in SOON else [pytest.mark.very_slow]),
            ],
        )
        for family in stock.FAMILIES
    ],
)
def test_a_family_is_pruned_and_its_zeros_stay(family, source, tmp_path, made_up_times):
    """Three rounds of ten steps on a mesh, with momentum and decay."""
    more = {
        "pruning.sparsities": [0.3, 0.5, 0.7],
        "pruning.rewind.to": "none",
        "evaluation.sample_prompt": "To be",
        "evaluation.sample_tokens": 8,
    }
    run = api.run_pruning(_settings(source(family), tmp_path / "run", **more))
    assert run.model.config.family == family
    assert [r["sparsity"] for r in run.rounds] == pytest.approx(
        [0, 0.3, 0.5, 0.7], abs=1e-3
    )
    _check_export(run, family)
    # Every round has gone on from the prompt, the last one as the export does.
    texts = json.loads((run.folder / "samples.json").read_text())["texts"]
    assert list(texts) == ["start", "00", "01", "02", "03"]
    how = {"do_sample": True, "temperature": 0.8, "top_k": 40, "max_new_tokens": 8}
    assert run.model.generate(["To be"], **how) == texts["03"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wanda", "sparsegpt"])
def test_gates_and_shared_keys_are_watched(how, source, tmp_path, made_up_times):
    """What a criterion reads of the other kernels it reads of theirs, too."""
    more = {
        "pruning.criterion": how,
        "pruning.pattern": "2:4",
        "pruning.rewind.to": "none",
        "calibration.sequences": 8,
    }
    run = api.run_pruning(_settings(source("llama"), tmp_path / "run", **more))
    _check_export(run, "llama")
    gate_LDF = np.asarray(run.model.params["blocks"]["mlp"]["gate"]["kernel"])
    fours = (gate_LDF != 0).reshape(len(gate_LDF), -1, 4, gate_LDF.shape[-1])
    assert (fours.sum(2) <= 2).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["llama", pytest.param("gpt_neox", marks=pytest.mark.very_slow)]
)
def test_a_family_is_cut_by_what_its_parts_do(family, source, tmp_path, made_up_times):
    """Scores of shared heads and of gated neurons, and the run with what is left."""
    removals = [
        {"what": "layers", "count": 1, "by": "influence"},
        {"what": "neurons", "fraction": 0.5, "by": "activation"},
        {"what": "heads", "fraction": 0.5, "by": "taylor"},
        {"what": "heads", "fraction": 0.5, "by": "magnitude"},
    ]
    removals = removals[: 3 if family == "llama" else 4]
    more = {
        "pruning": {"structured": removals},
        "calibration.sequences": 8,
        "mesh.tensor": 1,
        "mesh.fsdp": 4,
        "training.steps": 3,
    }
    run = api.run_pruning(_settings(source(family), tmp_path / "run", **more))
    own = run.model.config
    assert (own.n_layer, own.mlp_width) == (2, 24)
    assert own.n_head == {"llama": 2, "gpt_neox": 1}[family]
    # The export has heads of zeros where the family's have no width of their own.
    theirs = stock.FAMILIES[family][1].from_pretrained(
        run.folder / "export", attn_implementation="eager"
    )
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(2, 20))
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens)).logits
    np.testing.assert_allclose(run.model(tokens), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.very_slow
@pytest.mark.parametrize("family", ["bloom", "openai-gpt"])
def test_neurons_are_cut_where_a_family_has_no_field_for_them(
    family, source, tmp_path, made_up_times
):
    """The export is filled up with zeros, and no round may go on with that."""
    removals = [{"what": "neurons", "count": 8, "by": "magnitude"}] * 2
    more = {"pruning": {"structured": removals}, "training.steps": 2}
    run = api.run_pruning(_settings(source(family), tmp_path / "run", **more))
    whole = stock.regular(family)
    width = 4 * whole.get("n_embd", whole.get("hidden_size"))
    assert [r["shape"]["neurons"] for r in run.rounds] == [width, width - 8, width - 16]
    assert run.model.config.mlp_width == width - 16
    note = f"{width - 16} neurons are written as {width}, 16 of them zeros"
    assert note in run.rounds[-1]["padding"]
    theirs = stock.FAMILIES[family][1].from_pretrained(
        run.folder / "export", attn_implementation="eager"
    )
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(2, 20))
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens)).logits
    np.testing.assert_allclose(run.model(tokens), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_channels_of_a_llama_are_cut_and_its_heads_stay(
    source, tmp_path, made_up_times
):
    """Stock transformers loads heads that are wider together than the model."""
    more = {
        "pruning": {"structured": [{"what": "width", "fraction": 0.5}]},
        "calibration.sequences": 8,
        "training.steps": 2,
    }
    run = api.run_pruning(_settings(source("llama"), tmp_path / "run", **more))
    own = run.model.config
    assert (own.n_embd, own.n_head, own.head_width) == (16, 4, 16)
    theirs = stock.FAMILIES["llama"][1].from_pretrained(
        run.folder / "export", attn_implementation="eager"
    )
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(2, 20))
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens)).logits
    np.testing.assert_allclose(run.model(tokens), logits, rtol=1e-3, atol=1e-4)


@pytest.fixture
def tags(tmp_path):
    """The settings of a run that labels words by their first letters."""
    lines = [
        json.dumps({"text": [f"a{n}", "b"], "label": ["x", "y"]}) + "\n"
        for n in range(32)
    ]
    (tmp_path / "tags.jsonl").write_text("".join(lines))
    return {
        "task.kind": "tagging",
        "task.name": "letters",
        "data.train": str(tmp_path / "tags.jsonl"),
        "data.valid": str(tmp_path / "tags.jsonl"),
        "evaluation.limit_tokens": None,
        "training.steps": 2,
    }


@pytest.mark.slow
def test_a_tagger_that_transformers_has_no_class_for_is_kept(tags, source, tmp_path):
    """Told after all training, that would leave nothing of it."""
    run = api.run_training(_settings(source("openai-gpt"), tmp_path / "run", **tags))
    assert not (run.folder / "export").exists()
    kept = convert.read_config(convert.resolve(tmp_path / "run"))
    assert kept.classifier("letters").labels == ("x", "y")
    (found,) = run.model.tag(["a1 b a2"])
    assert [word for word, _ in found] == ["a1", "b", "a2"]


@pytest.mark.slow
@pytest.mark.very_slow
@pytest.mark.parametrize("how", ["sparsities", "structured"])
def test_such_a_tagger_is_pruned_and_cut(how, tags, source, tmp_path, made_up_times):
    """Every round reads the model of the one before."""
    removals = [{"what": "neurons", "count": 8, "by": "magnitude"}] * 2
    # Rounds time the model writing.
    tied = {"tie_word_embeddings": True}
    given = {"sparsities": [0.3, 0.5], "structured": removals}
    more = {**tags, "pruning": {how: given[how]}}
    run = api.run_pruning(_settings(source("opt", **tied), tmp_path / "run", **more))
    assert run.model.config.classifier("letters").per_token
    if how == "structured":
        assert run.model.config.mlp_width == 32
    else:
        assert run.rounds[-1]["sparsity"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
def test_a_family_with_wide_heads_has_adapters(source, tmp_path):
    """Qwen3's are wider together than the model, and so they are in transformers."""
    folder = source("qwen3")
    assert convert.read_config(folder).head_dim is not None
    more = {"adapter.rank": 2, "adapter.alpha": 4, "training.steps": 2}
    run = api.run_training(_settings(folder, tmp_path / "run", **more))
    merged = api.load(folder, adapter=run.folder)
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(2, 20))
    np.testing.assert_allclose(merged(tokens), run.model(tokens), rtol=1e-4, atol=1e-4)
    theirs = stock.FAMILIES["qwen3"][1].from_pretrained(
        run.folder / "export", attn_implementation="eager"
    )
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens)).logits
    np.testing.assert_allclose(run.model(tokens), logits, rtol=1e-3, atol=1e-4)
