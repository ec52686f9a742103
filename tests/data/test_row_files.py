"""Rows written one after the other: whatever a stopped writing leaves, the file in the end is the same."""

import os
import zlib

import numpy as np
import pytest

from src.data.row_files import checksums_of, unfinished_bytes, write_rows
from src.errors import Stopped

ROWS = np.random.default_rng(0).integers(0, 256, (5, 2, 3)).astype(np.float32)
STOPPED = Stopped("SIGTERM", 143)
HEAD, ROW = 128, 2 * 3 * 4  # bytes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.npy"


def write(path, rows=ROWS, end=None, error=STOPPED):
    """Write the rows up to `end`, where the error comes; return the row that was begun with."""
    begun = []

    def rows_from(first):
        begun.append(first)
        yield from rows[first:end]
        if end is not None:
            raise error

    write_rows(path, len(rows), rows.shape[1:], rows.dtype, rows_from)
    return begun[0]


def assert_whole(path):
    np.testing.assert_array_equal(np.load(path), ROWS, strict=True)
    checksums = np.load(checksums_of(path))
    assert checksums.dtype == np.uint32
    assert checksums.tolist() == [zlib.crc32(row) for row in ROWS]
    assert {one.name for one in path.parent.iterdir()} == {"some.npy", "some.crc"}
    assert unfinished_bytes(path) == 0


@pytest.mark.parametrize("num_rows", [0, 3, 5])
def test_a_stopped_writing_goes_on(path, num_rows):
    with pytest.raises(Stopped):
        write(path, end=num_rows)
    assert not path.exists()
    assert unfinished_bytes(path) == HEAD + num_rows * ROW
    assert write(path) == num_rows
    assert_whole(path)


@pytest.mark.parametrize("where", ["rows", "checksums"])
@pytest.mark.parametrize("num_rows", [0, 1, 3])
@pytest.mark.parametrize("odd", [0, 1, 3])
def test_what_was_not_written_to_its_end_is_written_again(path, where, num_rows, odd):
    with pytest.raises(Stopped):
        write(path, end=4)
    left, size = (path.with_suffix(".part"), ROW) if where == "rows" else (path.with_suffix(".part.crc"), 4)
    os.truncate(left, HEAD + num_rows * size + odd)
    assert write(path) == num_rows
    assert_whole(path)


@pytest.mark.parametrize(("at", "num_rows"), [(50, 0), (HEAD, 0), (HEAD + 2 * ROW + 5, 2), (HEAD + 4 * ROW - 1, 3)])
def test_from_a_damaged_row_on_all_are_written_again(path, at, num_rows):
    with pytest.raises(Stopped):
        write(path, end=4)
    left = path.with_suffix(".part")
    content = bytearray(left.read_bytes())
    content[at] ^= 1
    left.write_bytes(content)
    assert write(path) == num_rows
    assert_whole(path)


def test_rows_of_another_shape_are_not_taken_over(path):
    with pytest.raises(Stopped):
        write(path, ROWS[:4], end=3)
    assert write(path) == 0
    assert_whole(path)


def test_an_error_leaves_nothing(path):
    with pytest.raises(Stopped):
        write(path, end=2)
    with pytest.raises(ValueError, match="no image"):
        write(path, end=3, error=ValueError("no image"))
    assert list(path.parent.iterdir()) == []
