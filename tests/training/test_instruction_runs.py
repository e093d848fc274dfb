"""Instructions in the one training loop: runs, rounds, exports, commands."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import gptjax
from gptjax import (
    api,
    assets,
    cli,
    config,
    convert,
    errors,
    masks,
    model,
    training,
    tree,
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model folder of random weights with the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    gpt = model.Config(n_layer=1, n_embd=32, n_head=2, vocab_size=2048, n_positions=64)
    params = model.init(jax.random.key(0), gpt)
    convert.save(folder, gpt, params, like=convert.resolve("packaged"))
    return folder


@pytest.fixture
def settings(tiny_settings, tiny_model, tmp_path):
    """A function (out, **overrides) -> config.Run that learns made-up answers."""
    path = tmp_path / "records.jsonl"
    lines = []
    for number in range(48):
        word, answer = f"{number % 7}", "red" if number % 7 % 2 else "blue"
        turns = [("user", word), ("assistant", answer)]
        record = {"messages": [{"role": r, "content": c} for r, c in turns]}
        if number % 3 == 0:
            record = {"prompt": f"{word} is ", "completion": answer, "style": "sky"}
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines))

    def make(out, **overrides):
        return tiny_settings(
            out,
            **{
                "task.kind": "instructions",
                "model": str(tiny_model),
                "data.train": str(path),
                "data.valid": str(path),
                "data.sequence_tokens": 48,
                "optimizer.learning_rate": 0.01,
                **overrides,
            },
        )

    return make


@pytest.mark.slow
def test_answers_are_learnt_and_stock_transformers_gives_them(settings, tmp_path):
    """The whole way: chats, training, evaluation, export with its template, answers."""
    more = {"training.steps": 60, "training.log_every_steps": 60}
    done = training.train(settings(tmp_path / "run", **more))
    start, end = done.summary["start"], done.summary["end"]
    assert end["perplexity"] < 1.5 < start["perplexity"]
    assert "48 examples of at most 48 tokens, none seeing another" in end["protocol"]
    loaded = gptjax.load(done.folder)
    short = {"max_new_tokens": 8}
    assert loaded.generate(["3", "4"], chat=True, **short) == ["red", "blue"]
    assert loaded.generate(["2 is "], style="sky", **short) == ["blue"]
    again = loaded.complete(tmp_path / "records.jsonl", sequence_tokens=48)
    assert again.loss == pytest.approx(end["loss"], rel=1e-4)
    # In stock transformers, from the export alone.
    tokenizer = transformers.AutoTokenizer.from_pretrained(done.export)
    stock = transformers.GPT2LMHeadModel.from_pretrained(done.export).eval()
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    written = stock.generate(**asked, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert tokenizer.decode(written[0]).endswith("<|assistant|>\nred<|endoftext|>")


def test_the_commands_answer_and_measure(settings, tiny_model, tmp_path, capsys):
    """A model's folder is all that they need; a slip is one line."""
    folder, records = str(tmp_path / "model"), str(tmp_path / "records.jsonl")
    settings(tmp_path / "run")  # writes the records
    convert.save(
        folder,
        *convert.load(tiny_model),
        like=tiny_model,
        chat_template=assets.chat_template().read_text(),
    )

    def call(*arguments):
        code = cli.main([arguments[0], folder, *arguments[1:]])
        return (code, *capsys.readouterr())

    measured = ("evaluate", "--instructions", "--text", records, "--json")
    code, out, _ = call(*measured)
    assert code == 0
    assert json.loads(out)["examples"] == 48
    assert (
        json.loads(call(*measured, "--style", "sea")[1])["tokens"]
        > (json.loads(out)["tokens"])
    )
    short = ("--tokens", "4", "--greedy")
    code, out, _ = call("generate", "--prompt", "3", "--chat", "--style", "sky", *short)
    assert code == 0
    code, out, _ = call("generate", "--prompt", "", "--style", "sky", *short)
    assert code == 0
    for arguments, wanted in (
        ((*measured, "--stride", "4"), "--instructions: goes neither"),
        ((*measured, "--style", "|>"), "--style: style '|>'"),
        (("evaluate", "--text", records, "--style", "x"), "give --instructions too"),
        (("evaluate", "--text", records), "no column 'text'"),
        (("generate", "--prompt", " ", "--chat"), "content is an empty text"),
    ):
        code, _, complaint = call(*arguments)
        assert code == 1
        assert wanted in complaint
        assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    "more",
    [
        {"pruning.sparsities": [0.8]},
        pytest.param(
            {
                "pruning.sparsities": [0.5, 0.8],
                "pruning.criterion": "taylor",
                "pruning.controls": ["random"],
                "calibration.sequences": 8,
                "distillation.teacher": "dense",
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "pruning.sparsities": [0.5],
                "adversarial.method": "freelb",
                "training.dropout_schedule.steps": 2,
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pruned_answers_keep_their_zeros(settings, tmp_path, made_up_times, more):
    """Rounds, a control, calibration, a teacher, a template of its own in the end."""
    (tmp_path / "t.jinja").write_text(
        assets.chat_template().read_text().replace("<|", "[").replace("|>", "]")
    )
    run = api.run_pruning(
        settings(
            tmp_path / "run",
            **{
                "task.chat_template": str(tmp_path / "t.jinja"),
                "training.steps": 4,
                **more,
            },
        )
    )
    last = run.rounds[-1]
    wanted = more["pruning.sparsities"][-1]
    assert last["sparsity"] == pytest.approx(wanted, abs=1e-3)
    for each in (last, *last["controls"].values()):
        assert "those of answers and their ends" in each["protocol"]
    _, params = convert.load(run.folder / "export")
    stored = masks.load(
        run.folder / f"rounds/{last['round']:02d}/masks.safetensors",
        jax.tree.map(jnp.asarray, params),
    )
    zeros = 0
    for path, mask in tree.flatten(stored).items():
        if mask.ndim:
            weights = np.asarray(tree.flatten(params)[path])[~np.asarray(mask)]
            assert (weights == 0).all()
            zeros += weights.size
    assert zeros == last["zeros"]
    template = (run.folder / "export/chat_template.jinja").read_text()
    assert "[assistant]" in template
    assert "answers and their ends" in (run.folder / "report/report.md").read_text()


@pytest.mark.slow
def test_what_is_cut_out_keeps_the_template(settings, tmp_path, made_up_times):
    run = api.run_pruning(
        settings(
            tmp_path / "run",
            **{
                "training.steps": 2,
                "pruning.structured": [
                    {"what": "neurons", "fraction": 0.25, "by": "magnitude"}
                ],
            },
        )
    )
    assert gptjax.load(run.folder).generate(["3"], chat=True, max_new_tokens=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"mesh.fsdp": 2, "mesh.data": 2, "mesh.tensor": 2},
        {"training.accumulation_steps": 2, "mesh.fsdp": 4, "mesh.tensor": 2},
        {"mesh.fsdp": 1, "mesh.data": 4, "mesh.context": 2},
    ],
)
def test_meshes_and_accumulation_change_no_loss(settings, tmp_path, overrides):
    losses = []
    for name, more in (("a", {}), ("b", overrides)):
        done = training.train(
            settings(
                tmp_path / name,
                **{"training.steps": 3, "training.dropout": False, **more},
            )
        )
        lines = (done.folder / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
    first, second = ([x for x in each if x is not None] for each in losses)
    assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.slow
@pytest.mark.very_slow
def test_a_stopped_run_ends_where_the_unbroken_one_does(settings, tmp_path, stop_at):
    """The place in the stream of packed examples is a part of the state."""
    plain = {"training.steps": 8, "training.checkpoint_every_steps": 1}
    whole = training.train(settings(tmp_path / "whole", **plain))
    stop_at(5)
    with pytest.raises(errors.Stopped):
        training.train(settings(tmp_path / "broken", **plain))
    broken = training.train(settings(tmp_path / "broken", **plain))
    one, other = (
        (done.export / "model.safetensors").read_bytes() for done in (whole, broken)
    )
    assert one == other


def test_without_validation_examples_a_fraction_is_taken(settings, tmp_path, capsys):
    """And what is too long for a sequence is told, and counted in the protocol."""
    more = {"data.valid": None, "data.sequence_tokens": 17, "training.steps": 0}
    done = training.train(settings(tmp_path / "run", **more))
    assert done.summary["end"]["protocol"].startswith(
        "records.jsonl, 19% of it, 3 examples of at most 17 tokens, 2 of them cut, none"
    )
    told = capsys.readouterr().err
    assert "of 48 examples 9 lose their end, and 32 are left out, whose" in told


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"data.append_eos": True}, "data.append_eos: task.kind instructions has none"),
        ({"data.respect_documents": True}, "data.respect_documents"),
        ({"data.train": {"path": "x", "column": "a"}}, "data.train.column: task.kind"),
        ({"data.augmentation.operations": {"swap": 1.0}}, "data.augmentation"),
        ({"data.train": {"path": "x", "style": "a|b"}}, "data.train.style"),
        ({"task.name": "x"}, "task: name: kind instructions has none"),
        ({"evaluation.stride_tokens": 4}, "stride_tokens: is of task.kind language"),
        ({"data.valid_fraction": 0.5}, "data.valid is given"),
        (
            {"distillation.teacher": "packaged", "distillation.cache_top_k": 4},
            "cache_top_k: keeps scores of tokens in a text's order",
        ),
        ({"pruning.controls": ["twin"], "pruning.sparsities": [0.5]}, "twin compares"),
        (
            {"task.kind": "language", "task.chat_template": "x"},
            "template: kind la",
        ),
        (
            {"task.kind": "language", "data.train": {"path": "x", "style": "a"}},
            "data.train.style: task.kind language has none",
        ),
    ],
)
def test_what_does_not_fit_instructions_is_refused(
    settings, tmp_path, overrides, wanted
):
    with pytest.raises(errors.UserError, match=wanted):
        settings(tmp_path / "run", **overrides)


def test_a_slip_in_a_file_leaves_nothing_half_written(settings, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": ""}\n')
    run = settings(tmp_path / "run", **{"data.train": str(tmp_path / "bad.jsonl")})
    with pytest.raises(errors.UserError, match=r"bad\.jsonl, line 1: completion is an"):
        training.train(run)
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.slow
def test_methods_are_compared_by_answers(settings, tmp_path, made_up_times):
    from gptjax import pruning

    method = {"name": "m", "pruning": {"schedule": "one-shot"}}
    folder = pruning.compare(
        settings(
            tmp_path / "run", **{"compare.methods": [method], "training.steps": 1}
        ),
        after_job=lambda folder: None,
    )
    (row,) = (json.loads(p.read_text()) for p in folder.glob("rows/*.json"))
    assert "those of answers and their ends" in row["protocol"]


@pytest.mark.slow
def test_a_run_on_instructions_is_planned(settings, tmp_path):
    """Without reading them: a batch's shape is known."""
    from gptjax import planning

    planned = planning.plan(
        settings(tmp_path / "run", **{"mesh.data": -1, "mesh.fsdp": 1}), "cpu:1"
    )
    assert planned.step is not None
    assert config.Task().chat_template is None


@pytest.mark.slow
def test_a_text_may_be_learnt_beside_instructions(settings, tiny_settings, tmp_path):
    """So that a model does not forget how to write; the template is exported."""
    text = tiny_settings("unused").data
    more = {
        "auxiliary.text.data.train": text.train.path,
        "auxiliary.text.data.valid": text.valid.path,
        "auxiliary.text.data.sequence_tokens": 16,
        "training.steps": 3,
    }
    done = training.train(settings(tmp_path / "run", **more))
    end = done.summary["end"]
    assert "those of answers and their ends" in end["protocol"]
    assert end["auxiliary"]["text"]["perplexity"] > 1
    assert gptjax.load(done.folder).generate(["3"], chat=True, max_new_tokens=2)


@pytest.mark.slow
def test_an_adapter_learns_answers(settings, tmp_path):
    """Merged, its export has the template."""
    more = {"training.steps": 3, "adapter.rank": 2, "optimizer.learning_rate": 0.1}
    done = training.train(settings(tmp_path / "run", **more))
    assert done.summary["end"]["loss"] != done.summary["start"]["loss"]
    assert gptjax.load(done.folder).generate(["3"], chat=True, max_new_tokens=2)
