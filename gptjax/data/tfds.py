"""Documents of a TFDS data set, read without TensorFlow.

TFDS opens data sets in the array_record format as random-access sources in plain
Python; those in its older tfrecord format need TensorFlow and are refused.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from gptjax import errors
from gptjax.data import corpus

MARK = "features.json"
"""The file that tells the folder of a built version from others."""


def open_corpus(
    name: str,
    column: str,
    split: str | None,
    data_dir: str | None,
    label_column: str | None = None,
) -> corpus.Corpus:
    """The examples of one split, in the order in which TFDS stored them.

    Args:
      name: of a data set (`lm1b`, `my_texts/config:1.0.0`), or the folder of a
        built version.
      column: the text feature that holds the text.
      split: in TFDS's language (`train[:80%]+test`); None where there is only one.
      data_dir: where it was built. With None, TFDS looks in its usual place and,
        if it is not there, downloads and builds it.
      label_column: the feature that holds the label; None: labels are not wanted.

    Raises:
      UserError: an unknown name, split or feature, another format.
    """
    builder = _find_builder(name, data_dir)
    written = builder.info.file_format
    if written is not None and written.value != "array_record":
        raise errors.UserError(
            f"{name}: written as {written.value}, which only TensorFlow reads; build "
            'it again with file_format="array_record"'
        )
    splits = list(builder.info.splits)
    if split is None and len(splits) != 1:
        raise errors.UserError(f"{name}: name a split; present: {', '.join(splits)}")
    features = builder.info.features
    for needed in (column, label_column):
        if needed is not None and needed not in features:
            # A builder read from its files gives them in another order each time.
            raise corpus.missing_column(name, needed, sorted(features))
    try:
        examples = builder.as_data_source(split=split or splits[0])
    except (ValueError, OSError, ImportError) as error:
        # TFDS explains over many lines; the first says what.
        raise errors.UserError(f"{name}: {str(error).splitlines()[0]}") from error

    def read() -> Iterator[corpus.Document]:
        for row in range(len(examples)):
            place = f"{name}, row {row}"
            example = examples[row]
            value, label = example[column], None
            if label_column is not None:
                label = _label(features[label_column], example[label_column])
                label = corpus.as_label(label, place, label_column)
            try:
                text = value.decode() if isinstance(value, bytes) else value
            except UnicodeDecodeError as error:
                raise corpus.not_utf8(place, error.start, value[error.start]) from error
            text = corpus.as_text(text, place, column)
            yield corpus.Document(text, place, row + 1, label)

    # The data path may be a bucket's: it speaks as etils.epath does, not pathlib.
    files = [(file, file.stat()) for file in sorted(builder.data_path.iterdir())]
    return corpus.Corpus(
        name=name,
        identity=["tfds", column, split or splits[0]]
        + [[str(file), stat.length, stat.mtime] for file, stat in files],
        size_bytes=sum(stat.length for _, stat in files),
        total=len(examples),
        read=read,
    )


def _label(feature: Any, value: Any) -> Any:
    """A label as text, where it is a class's number, or as Python has it."""
    if hasattr(feature, "int2str"):
        # -1 stands for none, e.g. in a test split without labels.
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if hasattr(value, "item") else value


def _find_builder(name: str, data_dir: str | None) -> Any:
    """The builder of a data set that is there, downloaded and built if need be."""
    # A second to import, and of no use to other sources.
    import tensorflow_datasets

    try:
        if pathlib.Path(name, MARK).exists():
            return tensorflow_datasets.builder_from_directory(name)
        if data_dir is not None:
            builder = tensorflow_datasets.builder(name, data_dir=data_dir)
            if not builder.data_path.exists():
                raise errors.UserError(f"{name}: not built in {data_dir}")
            return builder
        builder = tensorflow_datasets.builder(name, file_format="array_record")
        builder.download_and_prepare()
        return builder
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        near = corpus.near_miss(name, _present(data_dir))
        where = data_dir or "TFDS or its usual folder"
        raise errors.UserError(
            f"{name}: no such data set in {where}; {near}"
        ) from error
    except (ValueError, OSError, ImportError) as error:
        raise errors.UserError(
            f"{name}: TFDS cannot open it: {' '.join(str(error).split())}"
        ) from error


def _present(data_dir: str | None) -> list[str]:
    """The data sets of a folder that TFDS built into."""
    folder = pathlib.Path(data_dir or "")
    if data_dir is None or not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if child.is_dir())
