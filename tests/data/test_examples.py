"""Labelled texts: from every format, refused where they are wrong, divided fairly."""

import collections
import json
import pathlib

import numpy as np
import pytest

from gptjax import config, convert, data, errors

TOKENIZER = data.Tokenizer(convert.resolve("packaged"))


@pytest.fixture
def read(tmp_path):
    """A function (source, labels=None) that reads examples, a file's or a Source's."""

    def run(source, labels=None):
        if not isinstance(source, config.Source):
            source = config.Source(path=str(source))
        return data.read_examples(
            source,
            TOKENIZER,
            labels=labels,
            append_eos=False,
            workers=1,
            cache_dir=str(tmp_path / "cache"),
            vocab_size=2048,
            progress=False,
        )

    return run


def write_csv(path: pathlib.Path, rows) -> pathlib.Path:
    path.write_text(
        "label,text\n" + "".join(f'{label},"{text}"\n' for label, text in rows)
    )
    return path


def texts_of(examples):
    return [
        TOKENIZER.backend.decode(examples.ids(n).tolist()) for n in range(len(examples))
    ]


@pytest.fixture
def many(tmp_path, read):
    """200 texts of three labels, of 100, 60 and 40 texts, each another text."""
    labels = ["a"] * 100 + ["b"] * 60 + ["c"] * 40
    rows = [(label, f"text {n} " * (1 + n % 7)) for n, label in enumerate(labels)]
    return read(write_csv(tmp_path / "many.csv", rows))


def test_csv_jsonl_and_data_sets_say_the_same(tmp_path, read):
    """Each has a reader of its own, and data sets keep labels as numbers."""
    import pyarrow

    rows = [("good", "What a joy."), ("bad", "A bore, all of it."), ("good", "Fine.")]
    sources = [write_csv(tmp_path / "x.csv", rows), tmp_path / "x.jsonl"]
    lines = (json.dumps({"label": label, "text": text}) for label, text in rows)
    sources[1].write_text("\n".join(lines))
    folder = tmp_path / "saved"
    folder.mkdir()
    described = {
        "features": {"label": {"names": ["good", "bad"], "_type": "ClassLabel"}}
    }
    table = pyarrow.table(
        {"label": [0, 1, 0], "text": [text for _, text in rows]}
    ).replace_schema_metadata({"huggingface": json.dumps({"info": described})})
    with pyarrow.ipc.new_stream(folder / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data.arrow"}], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    sources.append(folder)
    for source in sources:
        found = read(source)
        assert found.labels == ("bad", "good")
        assert found.classes.tolist() == [1, 0, 1]
        assert texts_of(found) == [text for _, text in rows]


def test_labels_that_are_numbers_are_in_their_order(tmp_path, read):
    """By the alphabet, 10 would come before 9."""
    rows = [(str(n), f"text {n}") for n in (10, 9, -1, 0)]
    assert read(write_csv(tmp_path / "x.csv", rows)).labels == ("-1", "0", "9", "10")


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("x.csv", "text\nhello\n", "line 1: no column 'label'; present: text"),
        ("x.csv", 'label,text\na,hello\nb," "\n', "line 3: an empty text"),
        ("x.csv", "label,text\n,hello\n", "'label' holds no label but an empty text"),
        ("x.csv", "label,text\na,hello\na,you\n", "all have the label 'a'"),
        ("x.jsonl", '{"text": "hello", "label": 0.5}', "holds no label but float"),
        ("x.jsonl", '{"text": "hello", "label": null}', "holds no label but null"),
        ("x.jsonl", '{"text": "hello"}', "line 1: no column 'label'"),
        ("x.txt", "hello", "a text file has no labels"),
    ],
)
def test_a_source_without_proper_labels_is_refused(
    tmp_path, read, name, content, wanted
):
    """Where it is, and what is wrong with it."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(errors.UserError, match=wanted) as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_a_label_that_the_model_has_not_is_refused(tmp_path, read):
    """Of validation texts, whose labels are those of the training texts."""
    path = write_csv(tmp_path / "x.csv", [("a", "one"), ("z", "two")])
    with pytest.raises(errors.UserError, match=r"x.csv, line 3: label 'z' is none of"):
        read(path, labels=("a", "b"))


def test_dividing_keeps_every_labels_share(many):
    """A random fifth of few texts may miss a label altogether."""
    train, valid = data.divide(many, 0.2, seed=3)
    assert valid.counts.tolist() == [20, 12, 8]
    assert train.counts.tolist() == [80, 48, 32]
    both = texts_of(train) + texts_of(valid)
    assert sorted(both) == sorted(texts_of(many))
    assert valid.name == "many.csv, 20% of it"
    again = data.divide(many, 0.2, seed=3)[1]
    assert np.array_equal(again.rows, valid.rows)
    other = data.divide(many, 0.2, seed=4)[1]
    assert not np.array_equal(other.rows, valid.rows)


def test_a_limit_keeps_shares_and_holds_smaller_ones(many):
    """A learning curve's points are to differ by what is added alone."""
    few, more = (data.limit(many, count, seed=3) for count in (20, 50))
    assert few.counts.tolist() == [10, 6, 4]
    assert more.counts.tolist() == [25, 15, 10]
    assert set(few.rows) < set(more.rows)
    assert len(data.limit(many, 10_000, seed=3)) == 200


def batches_of(examples, count, **settings):
    given = {
        "sequence_tokens": 32,
        "batch_sequences": 10,
        "accumulation_steps": 1,
        "seed": 5,
        "pad_id": 0,
        **settings,
    }
    stream = data.ExampleBatches(examples, **given)
    return stream, [next(stream) for _ in range(count)]


def rows_of(batches):
    """(class, text without padding) of every row."""
    return [
        (int(label), tuple(row[row != 0].tolist()))
        for batch in batches
        for label, row in zip(
            batch["classes"].ravel(),
            batch["tokens"].reshape(-1, batch["tokens"].shape[-1]),
            strict=True,
        )
    ]


def test_an_epoch_has_every_text_once_with_its_class(many):
    """Sorting by length and cutting into batches could lose or double some."""
    _, batches = batches_of(many, 40)
    expected = collections.Counter(
        (int(many.classes[n]), tuple(many.ids(n)[:32].tolist())) for n in range(200)
    )
    first, second = rows_of(batches[:20]), rows_of(batches[20:])
    assert collections.Counter(first) == expected
    assert collections.Counter(second) == expected
    assert first != second


def test_texts_of_a_batch_are_of_about_one_length(many):
    """Else most of a batch would be padding."""
    _, batches = batches_of(many, 20)
    used = sum((batch["tokens"] != 0).sum() for batch in batches)
    assert used / sum(batch["tokens"].size for batch in batches) > 0.7
    assert {batch["tokens"].shape[-1] for batch in batches} == {16, 32}


def test_a_stream_goes_on_where_its_state_was_taken(many):
    """In the midst of a group that was sorted by length."""
    stream, _ = batches_of(many, 7)
    state = json.loads(json.dumps(stream.get_state()))
    expected = [next(stream) for _ in range(30)]
    again, _ = batches_of(many, 0)
    again.set_state(state)
    for batch in expected:
        for name, array in next(again).items():
            np.testing.assert_array_equal(array, batch[name])
    other, _ = batches_of(many.take(np.arange(50)), 0)
    with pytest.raises(errors.UserError, match="cannot resume on other data: texts"):
        other.set_state(state)


def test_processes_share_a_batch(many):
    """Of one length, or their devices would wait for each other for ever."""
    whole = batches_of(many, 5, accumulation_steps=2, batch_sequences=20)[1]
    parts = [
        batches_of(
            many,
            5,
            accumulation_steps=2,
            batch_sequences=20,
            process_index=index,
            process_count=2,
        )[1]
        for index in range(2)
    ]
    for number, batch in enumerate(whole):
        for name, array in batch.items():
            joined = np.concatenate([part[number][name] for part in parts], axis=1)
            np.testing.assert_array_equal(joined, array)


def test_tokens_to_predict_end_with_the_text(many):
    """The padding token may be a text's own; its place says what it is."""
    batch = data.fill(many, np.array([3, 0, -1]), longest=8, pad_id=7, with_labels=True)
    lengths = [min(8, len(many.ids(3))), min(8, len(many.ids(0))), 0]
    assert (batch["labels"] != -100).sum(-1).tolist() == lengths
    assert batch["classes"].tolist() == [0, 0, -100]
    assert batch["tokens"].shape == (3, 8)
    assert (batch["tokens"][2] == 7).all()
