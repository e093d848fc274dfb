"""The reader of torch's files against torch, and against malice."""

import collections
import os
import pathlib
import pickle
import random
import zipfile

import pytest
import torch

from gptjax import errors
from gptjax.convert import torch_bin

ZIPPED = (True, False)


@pytest.mark.parametrize("zipped", ZIPPED)
def test_any_view_of_a_storage_is_read_as_torch_reads_it(tmp_path, zipped):
    """Tensors may be transposed, begin in the middle of a storage or share one."""
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    stored = collections.OrderedDict(
        whole=base,
        transposed=base.T,
        middle=base[2:4, 3:7],
        stepped=base[::2, ::3],
        scalar=base[3, 4],
        empty=base[:0],
        repeated=base[:, :1].expand(6, 5),
        parameter=torch.nn.Parameter(torch.randn(3)),
        half=torch.randn(5, dtype=torch.float16),
        brain=torch.randn(5).bfloat16(),
        long=torch.arange(5),
        byte=torch.arange(5, dtype=torch.uint8),
        boolean=torch.tensor([True, False]),
    )
    path = tmp_path / "x.bin"
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    read = torch_bin.read(path)
    wanted = torch.load(path, weights_only=True)
    assert list(read) == list(wanted)
    for name, tensor in wanted.items():
        array = read[name].array
        assert array.shape == tuple(tensor.shape), name
        assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        assert array.tobytes() == flat.numpy().tobytes(), name


class Harmful:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(os.environ["GPTJAX_TEST_MARK"]),)


@pytest.mark.parametrize("zipped", ZIPPED)
def test_a_pickle_cannot_run_code(tmp_path, zipped, monkeypatch):
    """Checkpoints come from strangers."""
    monkeypatch.setenv("GPTJAX_TEST_MARK", str(tmp_path / "mark"))
    path = tmp_path / "x.bin"
    torch.save({"x": Harmful()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(errors.UserError, match="which is no part of a tensor"):
        torch_bin.read(path)
    assert not (tmp_path / "mark").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "mark").exists()


def rewrite(path: pathlib.Path, change) -> None:
    """The same archive with another pickle in it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(data) if name.endswith(".pkl") else data)


def test_a_view_beyond_its_storage_is_refused(tmp_path):
    """It would read another tensor's bytes, or none's."""
    path = tmp_path / "x.bin"
    torch.save({"x": torch.zeros(200)}, path)
    # Its shape and the storage's size, both 200, as one byte each.
    rewrite(path, lambda data: data.replace(b"K\xc8\x85", b"K\xc9\x85"))
    with pytest.raises(errors.UserError, match="x reaches beyond its storage"):
        torch_bin.read(path)


@pytest.mark.parametrize("value", [[torch.zeros(2)], {"a": 3}, {"a": {"b": 1}}, 7])
def test_what_is_no_dict_of_tensors_is_refused(tmp_path, value):
    """Training frameworks wrap weights in their own ways."""
    torch.save(value, tmp_path / "x.bin")
    with pytest.raises(errors.UserError, match=r"x\.bin: [^\n]*$"):
        torch_bin.read(tmp_path / "x.bin")


def test_any_other_file_is_refused(tmp_path):
    """Whatever else is called pytorch_model.bin."""
    path = tmp_path / "x.bin"
    for data in (b"hello", pickle.dumps({"a": 1}), b"PK\x03\x04", b"\x80\x02."):
        path.write_bytes(data)
        with pytest.raises(errors.UserError, match=r"x\.bin: [^\n]*$"):
            torch_bin.read(path)


@pytest.mark.parametrize("zipped", ZIPPED)
def test_flipped_bytes_are_an_error_or_harmless(tmp_path, zipped):
    """A bad disk may turn any byte of the pickle into any other."""
    path = tmp_path / "x.bin"
    stored = {"a": torch.randn(3, 4), "b": torch.randn(5).half()}
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    rng = random.Random(0)
    messages = []
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            for tensor in torch_bin.read(path).values():
                tensor.array.tobytes()
        except errors.UserError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
