"""Our reader of MATLAB files beside scipy's, and on damaged files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from scipy.io import loadmat, savemat

from tests.data.fine_grained_layouts import cell
from vpt.data.readers import matlab
from vpt.data.readers.matlab import integers, read_mat, texts
from vpt.errors import DataError
from vpt.storage.archive import Limits

ARRAYS = stn.arrays(
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
    shape=stn.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=5),
)


def written(path: Path, compress: bool = False, **values) -> Path:
    savemat(path, values, do_compression=compress)
    return path


def refusal(path: Path, *names: str) -> str:
    with pytest.raises(DataError) as caught:
        read_mat(path, *names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=ARRAYS, compress=st.booleans())
def test_numbers__are_what_scipy_reads(tmp_path, array, compress):
    path = written(tmp_path / "a.mat", compress, other=[[1]], values=array)
    found = read_mat(path, "values")["values"]
    expected = loadmat(path)["values"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert set(read_mat(path, "values")) == {"values"}


@pytest.mark.parametrize("compress", [False, True])
def test_cells_structs_and_texts__are_lists_dicts_and_texts(tmp_path, compress):
    table = np.empty((1, 2), dtype=[("class", object), ("fname", object)])
    table[0, 0], table[0, 1] = (np.array([[3]], np.uint8), "a.jpg"), (np.array([[1.0]]), "böö.jpg")
    path = written(tmp_path / "a.mat", compress, table=table, names=cell(["x", "yy z", "é"]))
    found = read_mat(path, "table", "names")
    assert found["names"] == ["x", "yy z", "é"]
    assert [row["fname"] for row in found["table"]] == ["a.jpg", "böö.jpg"]
    assert [row["class"].tolist() for row in found["table"]] == [[[3]], [[1.0]]]
    assert integers(path, "class", [row["class"] for row in found["table"]]) == [3, 1]


def test_a_list_in_columns__is_read_down_the_columns(tmp_path):
    path = written(
        tmp_path / "a.mat", v=np.array([[1, 2], [3, 4]]), c=np.array([["a"], ["b"]], object)
    )
    assert integers(path, "v", read_mat(path, "v")["v"]) == [1, 3, 2, 4]
    assert texts(path, "c", read_mat(path, "c")["c"]) == ["a", "b"]


def test_big_endian_and_shortened_numbers__are_read(tmp_path):
    """As MATLAB itself writes: a double that fits is stored as a byte."""

    def element(kind: int, content: bytes) -> bytes:
        if 0 < len(content) <= 4:
            return struct.pack(">HH4s", len(content), kind, content)
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    matrix = (
        element(6, struct.pack(">II", 6, 0))
        + element(5, struct.pack(">ii", 1, 3))
        + element(1, b"labels")
        + element(2, bytes([5, 6, 7]))
    )
    packed = zlib.compress(element(14, matrix))
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "a.mat").write_bytes(data + struct.pack(">II", 15, len(packed)) + packed)
    found = read_mat(tmp_path / "a.mat", "labels")["labels"]
    assert (found.tolist(), found.dtype, found.shape) == ([[5.0, 6.0, 7.0]], "f8", (1, 3))
    np.testing.assert_array_equal(found, loadmat(tmp_path / "a.mat")["labels"])


def test_what_is_not_read__is_named(tmp_path):
    path = written(tmp_path / "a.mat", a=np.array([[1j]]))
    assert "a.mat: cannot be read as a MATLAB file (variables of kind 6 are not read)" in refusal(
        path, "a"
    )
    assert "has no variable 'b'" in refusal(path, "b")
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    assert "it is of version 7.3; save it with '-v7'" in refusal(path, "a")
    path.write_text("<html>gone</html>" * 20)
    assert "its head is another one" in refusal(path, "a")
    assert "cannot be read (No such file" in refusal(tmp_path / "b.mat", "a")
    savemat(path, {"a": np.array([[1]])}, format="4")
    assert "its head is another one" in refusal(path, "a")


def test_a_bomb__is_refused_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "Limits", lambda: Limits(small=10**7, ratio=1))
    path = written(tmp_path / "a.mat", a=[[1]])
    packer = zlib.compressobj(9)
    bomb = b"".join([*(packer.compress(bytes(2**20)) for _ in range(12)), packer.flush()])
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<II", 15, len(bomb)) + bomb)
    assert "is cut, or unpacks to too much" in refusal(path, "a")


def test_a_nest__is_refused(tmp_path):
    value = np.array([[1]])
    for _ in range(20):
        outer = np.empty((1, 1), object)
        outer[0, 0] = value
        value = outer
    assert "nested too deep" in refusal(written(tmp_path / "a.mat", a=value), "a")


@pytest.fixture(scope="module", params=[False, True])
def mat(request) -> bytes:
    table = np.empty((1, 9), dtype=[("class", object), ("fname", object)])
    for number in range(9):
        table[0, number] = (np.array([[number]], np.uint8), f"{number}.jpg")
    file = io.BytesIO()
    values = {"table": table, "names": cell(["a", "b"]), "x": np.arange(24.0).reshape(2, 3, 4)}
    savemat(file, values, do_compression=request.param)
    return file.getvalue()


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4),
    end=st.integers(0, 10**6) | st.none(),
)
def test_a_damaged_file__is_read_or_refused_in_one_line(mat, tmp_path, flips, end):
    data = bytearray(mat)
    for place, change in flips:
        data[place % len(data)] ^= change
    path = tmp_path / "a.mat"
    path.write_bytes(data if end is None else data[: end % len(data)])
    message = ""
    try:
        found = read_mat(path, "table", "names", "x")
        texts(path, "names", found["names"])
        integers(path, "x", found["x"])
    except DataError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
