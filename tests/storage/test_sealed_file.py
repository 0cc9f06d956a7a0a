import errno
import os
import pickle  # noqa: TID251 (an attacker's file)
import zipfile

import pytest
import safetensors.torch
import torch

from vpt.errors import RunError
from vpt.storage.sealed_file import (
    HEAD_LIMIT,
    SealedFileError,
    read_sealed,
    read_sealed_header,
    write_sealed,
)

HEADER = {"name": "ä 'quoted' \"text\" \ud800", "zeros": "0" * 64, "list": [1, 2.5, None, True]}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "prompt": torch.randn(2, 3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).to(torch.bfloat16),
        "vpt": torch.arange(3),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 4),
        "bad": torch.tensor([float("nan"), float("inf")]),
    }


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_sealed(path, tensors(), HEADER)
    return path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_sealed_file__written_and_read__same_header_and_bits(sealed):
    header, read = read_sealed(sealed)
    assert header == HEADER == read_sealed_header(sealed)
    assert read.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name].nan_to_num(), tensor.nan_to_num())


def test_sealed_file__same_content__same_bytes(sealed):
    first = sealed.read_bytes()
    write_sealed(sealed, tensors(), dict(reversed(HEADER.items())))
    assert sealed.read_bytes() == first
    assert files(sealed.parent) == [sealed.name]


def test_sealed_file__tied_and_strided_tensors__each_read_back(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    given = {"whole": base, "tied": base, "row": base[1], "turned": base.T}
    write_sealed(tmp_path / "a.safetensors", given, {})
    read = read_sealed(tmp_path / "a.safetensors")[1]
    assert all(torch.equal(read[name], given[name]) for name in given)


def test_sealed_file__no_tensors__header_alone_is_kept(tmp_path):
    write_sealed(tmp_path / "a.safetensors", {}, {"a": 1})
    assert read_sealed(tmp_path / "a.safetensors") == ({"a": 1}, {})


def test_sealed_file__plain_safetensors_tools__can_read_it(sealed):
    assert torch.equal(safetensors.torch.load_file(sealed)["vpt"], torch.arange(3))


def test_sealed_file__cut_anywhere_or_longer__refused(sealed):
    raw = sealed.read_bytes()
    for length in range(0, len(raw), 2):
        sealed.write_bytes(raw[:length])
        with pytest.raises(SealedFileError):
            read_sealed_header(sealed)
    sealed.write_bytes(raw + b" ")
    with pytest.raises(SealedFileError, match="overlong"):
        read_sealed_header(sealed)


def test_sealed_file__any_byte_changed__refused(sealed):
    raw = sealed.read_bytes()
    head = 8 + int.from_bytes(raw[:8], "little")
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= (0x01, 0x20, 0xFF)[position % 3]
        sealed.write_bytes(changed)
        with pytest.raises(SealedFileError) as error:
            (read_sealed_header if position < head else read_sealed)(sealed)
        assert "\n" not in str(error.value)
        assert str(sealed) in str(error.value)


@pytest.mark.parametrize("protocol", range(6))
def test_sealed_file__pickle_renamed__refused_by_name_and_not_run(tmp_path, protocol):
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Payload(), protocol=protocol))
    for read in (read_sealed, read_sealed_header):
        with pytest.raises(SealedFileError, match="is a pickle, not safetensors; nothing of it"):
            read(path)
    assert not canary.exists()


def test_sealed_file__torch_save_renamed__refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save({"a": torch.ones(2)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(SealedFileError, match="zip archive"):
        read_sealed(path)


def test_sealed_file__head_length_over_the_limit__refused_without_reading_it(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(SealedFileError, match="1099511627776 bytes, at most"):
        read_sealed_header(path)
    with pytest.raises(SealedFileError, match="at most"):
        write_sealed(path, {}, {"long": "x" * HEAD_LIMIT})


def test_sealed_file__another_tools_safetensors__not_ours(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(SealedFileError, match="not a file that vpt wrote"):
        read_sealed(path)


def test_sealed_file__missing_or_folder__one_line(tmp_path):
    with pytest.raises(SealedFileError, match="does not exist"):
        read_sealed(tmp_path / "none.safetensors")
    with pytest.raises(SealedFileError, match="is a folder or a device"):
        read_sealed(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sealed_file__number_json_does_not_have__key_named(tmp_path, value):
    with pytest.raises(SealedFileError, match=r"header\.metrics\.1\.loss is"):
        write_sealed(tmp_path / "a.safetensors", {}, {"metrics": [1, {"loss": value}]})
    assert files(tmp_path) == []


def no_space(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def half_then_full(descriptor, data):
    """A disk that takes half of what is written."""
    WRITE(descriptor, data[: len(data) // 2])
    no_space()


def a_few_bytes(descriptor, data):
    """A disk that takes a few bytes at a time."""
    return WRITE(descriptor, data[:100])


WRITE = os.write


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_sealed_file__disk_full__old_file_intact_and_no_leftover(sealed, monkeypatch, call):
    old = sealed.read_bytes()
    if call == "write":
        monkeypatch.setattr(os, "write", half_then_full)
    else:
        monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match=r"no space left to write .*a\.safetensors: \d+ bytes"):
        write_sealed(sealed, {"big": torch.ones(1000)}, {})
    monkeypatch.undo()
    assert sealed.read_bytes() == old
    assert files(sealed.parent) == [sealed.name]


def test_sealed_file__short_writes__whole_file_written(sealed, monkeypatch):
    old = sealed.read_bytes()
    monkeypatch.setattr(os, "write", a_few_bytes)
    write_sealed(sealed, tensors(), HEADER)
    monkeypatch.undo()
    assert sealed.read_bytes() == old


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_sealed_file__forbidden_folder__one_line(sealed, monkeypatch, code):
    def forbidden(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(RunError, match="no permission to write"):
        write_sealed(sealed, {}, {})


def test_sealed_file__folder_missing__one_line(tmp_path):
    with pytest.raises(RunError, match=r"its folder .* does not exist"):
        write_sealed(tmp_path / "none" / "a.safetensors", {}, {})
