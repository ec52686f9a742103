"""Arrays written row by row, with a checksum of each row beside them; a writing that was stopped goes on where it was.

Until all rows are there both files have other names. What a killed process, or a power cut, has left of them counts as
far as its checksums hold.
"""

import io
import os
import zlib
from contextlib import ExitStack

import numpy as np

from src.files import sync_folder

_CHECKSUM = np.dtype("<u4")


def checksums_of(path):
    """Return the path of the file that holds the rows' CRC-32, (N,) uint32, as .npy."""
    return path.with_suffix(".crc")


def write_rows(path, num_rows, shape, dtype, rows_from):
    """Write rows one after the other: unlike with a memory map, a full disk is then an error and no crash.

    Args:
        path: pathlib.Path of a .npy file, (num_rows, *shape) of `dtype` in the end; one process at a time writes it.
        rows_from: number of a row -> iterator of that row and all after it, C-contiguous arrays.

    Raises:
        Exception: of rows_from, or as a file cannot be written; nothing is left then. What ends the program, and is
            no Exception, leaves what there is.
    """
    names = {_unfinished(path): path, path.with_suffix(".part.crc"): checksums_of(path)}
    heads = _head(dtype, (num_rows, *shape)), _head(_CHECKSUM, (num_rows,))
    try:
        with ExitStack() as opened:
            files = [opened.enter_context(open(name, "a+b")) for name in names]
            num_done = _take_over(files, heads, int(np.prod(shape)) * dtype.itemsize)
            for row in rows_from(num_done):
                files[0].write(row)
                files[1].write(np.array(zlib.crc32(row), _CHECKSUM))
            for file in files:
                file.flush()
                os.fsync(file.fileno())
    except Exception:
        for name in names:
            name.unlink(missing_ok=True)
        raise
    for name in reversed(names):  # the checksums first: where the rows are, they are
        os.replace(name, names[name])
    sync_folder(path.parent)


def unfinished_bytes(path):
    """Return how much a stopped writing has left of the rows that are to be in `path`; 0: nothing."""
    return _unfinished(path).stat().st_size if _unfinished(path).exists() else 0


def _unfinished(path):
    return path.with_suffix(".part")


def _head(dtype, shape):
    file = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def _take_over(files, heads, row_bytes):
    """Return how many rows two open files hold that are whole, and cut both behind these."""
    num_done, sizes = 0, (row_bytes, _CHECKSUM.itemsize)
    for file in files:
        file.seek(0)
    if [file.read(len(head)) for file, head in zip(files, heads, strict=True)] == list(heads):
        while True:
            row, checksum = (file.read(size) for file, size in zip(files, sizes, strict=True))
            if len(row) < row_bytes or checksum != np.array(zlib.crc32(row), _CHECKSUM).tobytes():
                break
            num_done += 1
    for file, head, size in zip(files, heads, sizes, strict=True):
        file.truncate(len(head) + num_done * size if num_done else 0)
        if not num_done:
            file.write(head)
    return num_done
