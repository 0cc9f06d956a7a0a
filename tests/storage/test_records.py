"""A file of records is whole under its name, or it is said what is wrong with it."""

from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from vpt.storage.records import Records, RecordsError, RecordsWriter

ROWS = [np.full(size, size % 251, dtype=np.uint8) for size in (5, 0, 300, 1)]


def write(path: Path, rows=ROWS) -> None:
    writer = RecordsWriter(path, [len(row) for row in rows])
    writer.finish({"what": "rows"}, [writer.write(n, row) for n, row in enumerate(rows)])


def test_records__come_back_as_they_were__read_only(tmp_path):
    write(tmp_path / "rows")
    records = Records.open(tmp_path / "rows", threads=2)
    assert records.header == {"what": "rows"}
    assert len(records) == len(ROWS)
    assert all(np.array_equal(records[n], row) for n, row in enumerate(ROWS))
    assert not records[0].flags.writeable
    assert [each.name for each in tmp_path.iterdir()] == ["rows"]


def _write_half(writer: RecordsWriter, numbers: list[int]) -> list[int]:
    return [writer.write(n, ROWS[n]) for n in numbers]


def test_other_processes__write_into_the_same_file_and_read_it(tmp_path):
    writer = RecordsWriter(tmp_path / "rows", [len(row) for row in ROWS])
    with get_context("spawn").Pool(1) as pool:
        there = pool.apply(_write_half, (writer, [2, 3]))
        writer.finish({}, _write_half(writer, [0, 1]) + there)
        records = Records.open(tmp_path / "rows")
        assert pool.apply(records.__getitem__, (2,)).tolist() == ROWS[2].tolist()
    assert len(ForkingPickler.dumps(records)) < 2000


@pytest.mark.parametrize("place", [0, 200, 306, -100, -30, -1])
def test_one_changed_byte_anywhere__is_found(tmp_path, place):
    path = tmp_path / "rows"
    write(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordsError, match=r"rows is (damaged|truncated)"):
        Records.open(path)


def test_every_truncation__is_found(tmp_path):
    path = tmp_path / "rows"
    write(path)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(RecordsError):
            Records.open(path)


def test_a_writer_that_does_not_finish__leaves_no_file_of_the_name(tmp_path):
    writer = RecordsWriter(tmp_path / "rows", [5, 5])
    writer.write(0, ROWS[0])
    assert not (tmp_path / "rows").exists()
    with pytest.raises(ValueError, match="not 5"):
        writer.write(1, ROWS[2])
    writer.discard()
    assert list(tmp_path.iterdir()) == []
