"""Hugging Face data sets, written by `datasets` itself, read without it."""

import pytest

from gptjax import config, errors
from gptjax.data import sources

datasets = pytest.importorskip("datasets", reason="the extra `test` has it")

ROWS = [f"text {n} é" for n in range(11)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set in three shards after a shuffle, and one with two splits."""
    root = tmp_path_factory.mktemp("hf")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"text": ROWS, "n": range(11)})
    shuffled = rows.shuffle(seed=0)
    shuffled.save_to_disk(root / "one", num_shards=3)
    splits = {"train": rows, "test": rows.select([3, 1])}
    datasets.DatasetDict(splits).save_to_disk(root / "many")
    return root, shuffled["text"]


def _texts(path, **source):
    opened = sources.open_corpus(config.Source(path=str(path), **source))
    return [document.text for document in opened.read()]


def _fails(path, message, **source):
    with pytest.raises(errors.UserError) as caught:
        _texts(path, **source)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_the_rows_are_those_of_datasets(folders):
    """A shuffle is an index until it is saved; shards must come in their order."""
    root, shuffled = folders
    assert _texts(root / "one") == list(shuffled)
    assert _texts(root / "many", split="train") == ROWS
    assert _texts(root / "many", split="test") == [ROWS[3], ROWS[1]]


@pytest.mark.parametrize("bounds", [":80%", "80%:", ":3", "-4:", "2:9", "25%:50%"])
def test_a_split_is_sliced_as_datasets_slices(folders, bounds):
    """Rounded another way, one row lands in train and valid, or in neither."""
    root, shuffled = folders
    instruction = datasets.ReadInstruction.from_spec(f"train[{bounds}]")
    (absolute,) = instruction.to_absolute({"train": len(ROWS)})
    expected = list(shuffled)[absolute.from_ : absolute.to]
    assert _texts(root / "one", split=f"train[{bounds}]") == expected


def test_bad_data_sets_are_named(folders, tmp_path):
    """The folder, the split or the column may be wrong, or the value missing."""
    root, _ = folders
    _fails(root / "many", "name a split; present: train, test")
    _fails(root / "many", "no split 'tset'; did you mean 'test'?", split="tset")
    _fails(root / "many", "'train[:8' is no split", split="train[:8")
    _fails(root / "one", "no column 'txt'; did you mean 'text'?", column="txt")
    _fails(root / "one", "column 'n' holds no text but int64", column="n")
    _fails(tmp_path, "no data set that datasets' save_to_disk wrote", format="hf")
    nulls = datasets.Dataset.from_dict({"text": ["a", None]})
    nulls.save_to_disk(tmp_path / "nulls")
    _fails(tmp_path / "nulls", "row 1: column 'text' holds no text but null")
    shard = next((tmp_path / "nulls").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:100])
    _fails(tmp_path / "nulls", "damaged")
