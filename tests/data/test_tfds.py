"""TFDS data sets are read without TensorFlow."""

import json
import pathlib
import subprocess
import sys

import pytest

from gptjax import config, errors
from gptjax.data import sources

BUILDER = '''
import tensorflow_datasets as tfds

class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """Two splits of short texts."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["odd", "even"]),
            }
        )
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, manager):
        counts = {"train": 10, "test": 3}
        return {name: self._generate_examples(n) for name, n in counts.items()}

    def _generate_examples(self, count):
        for n in range(count):
            yield n, {"text": f"text {n} é", "label": ("even", "odd")[n % 2]}
'''
BUILD = """
import sys
from tiny_texts import builder
made = builder.TinyTexts(data_dir=sys.argv[1], file_format="array_record")
made.download_and_prepare()
"""
READ = """
import json, sys
from gptjax import config
from gptjax.data import sources
opened = sources.open_corpus(config.Source(**json.loads(sys.argv[1])))
print(json.dumps([document.text for document in opened.read()]))
assert "tensorflow" not in sys.modules
"""


def _python(code, *arguments, folder):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data set built by TFDS in a process of its own: a builder needs a package."""
    root = tmp_path_factory.mktemp("tfds")
    (root / "tiny_texts").mkdir()
    (root / "tiny_texts" / "__init__.py").touch()
    (root / "tiny_texts" / "builder.py").write_text(BUILDER)
    _python(BUILD, str(root / "data"), folder=root)
    return root / "data"


def _texts(**source):
    opened = sources.open_corpus(config.Source(**source))
    return [document.text for document in opened.read()]


def _fails(message, **source):
    with pytest.raises(errors.UserError) as caught:
        _texts(**source)
    assert "\n" not in str(caught.value)
    assert message in str(caught.value)


def test_a_built_data_set_is_read_without_tensorflow(data_dir):
    """tfds imports TensorFlow wherever one of its lazy imports is touched."""
    source = {"path": "tiny_texts", "split": "train", "data_dir": str(data_dir)}
    texts = json.loads(
        _python(READ, json.dumps(source), folder=pathlib.Path(__file__).parents[2])
    )
    # TFDS shuffles as it writes.
    assert sorted(texts) == [f"text {n} é" for n in range(10)]


def test_class_labels_have_their_names(data_dir):
    """They are stored as numbers."""
    source = config.Source(path="tiny_texts", split="train", data_dir=str(data_dir))
    for document in sources.open_corpus(source, labelled=True).read():
        number = int(document.text.split()[1])
        assert document.label == ("even", "odd")[number % 2]


def test_versions_slices_and_folders_name_the_same_data(data_dir):
    """The split language is TFDS's own; a version's folder needs no name."""
    whole = _texts(path="tiny_texts", split="train", data_dir=str(data_dir))
    versioned = {"path": "tiny_texts:1.0.0", "data_dir": str(data_dir)}
    assert _texts(**versioned, split="train[:40%]") == whole[:4]
    assert _texts(**versioned, split="train[40%:]") == whole[4:]
    folder = str(data_dir / "tiny_texts" / "1.0.0")
    assert _texts(path=folder, split="train") == whole


def test_bad_names_splits_and_columns_are_told(data_dir, tmp_path):
    """TFDS explains an unknown name with its list of all 300 data sets."""
    named = {"path": "tiny_texts", "data_dir": str(data_dir)}
    _fails("name a split; present: train, test", **named)
    _fails("tiny_texts: Unknown split 'trian'", **named, split="trian")
    _fails("tiny_texts: Error parsing split", **named, split="train[:4")
    _fails(
        "tiny_texts: no column 'txt'; did you mean 'text'? present: label, text",
        **named,
        split="train",
        column="txt",
    )
    _fails("tiny_txts: no such data set in", path="tiny_txts", data_dir=str(data_dir))
    _fails("did you mean 'tiny_texts'?", path="tiny_txts", data_dir=str(data_dir))
    # Known to TFDS, but not built here: nothing is downloaded into a local folder.
    _fails("lm1b: not built in", path="lm1b", data_dir=str(tmp_path))


def test_the_tfrecord_format_is_refused(data_dir, tmp_path):
    """It reads through TensorFlow alone; TFDS says so over five lines."""
    folder = tmp_path / "old"
    folder.mkdir()
    for file in (data_dir / "tiny_texts" / "1.0.0").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    _fails("written as tfrecord, which only TensorFlow reads", path=str(folder))
