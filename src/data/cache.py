"""Decoded images on disk: each is decoded and resized once, for all epochs, folds, runs and processes.

The idea to know: a row of the cache is bit for bit what decoding and resizing its file gives, so that a run with the
cache and one without are the same. A cache is one .npy file of shape (N, H, W, C) that numpy opens, with a checksum for
each row beside it; its name holds a hash of all that decides its content, so that another one is built when any file,
the size or the decoder changes. Decoding that was stopped goes on. Caches may be deleted at any time.
"""

import hashlib
import inspect
import os
import shutil
import time
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import PIL

from src.data import decode
from src.data.decode import decode_image, resize_image
from src.data.parallel import map_images
from src.data.row_files import checksums_of, unfinished_bytes, write_rows
from src.errors import UserError
from src.locks import hold

RESERVE_BYTES = 2_000_000_000  # of the disk that stay free, for runs and their checkpoints


class _NoRoom(Exception):
    """Why decoded images cannot be kept."""


class ImageCache:
    """Images of a cache file: those of a table's rows, in its order; can be pickled, as loaders may open it anew."""

    def __init__(self, path, rows=None):
        self._path, self._rows = Path(path), rows
        self._pixels = np.load(self._path, mmap_mode="r")
        self._checksums = np.load(checksums_of(self._path))

    def __getstate__(self):
        return self._path, self._rows

    def __setstate__(self, state):
        self.__init__(*state)

    def take(self, rows):
        """Return the cache of some rows: int indices, as those of `ImageTable.take`."""
        return ImageCache(self._path, rows if self._rows is None else self._rows[rows])

    def read(self, row):
        """Return a copy of one image (H, W, C), or None where its pixels are no longer those that were written."""
        row = row if self._rows is None else self._rows[row]
        pixels = np.array(self._pixels[row])
        return pixels if zlib.crc32(pixels) == self._checksums[row] else None


def open_cache(table, channels, size, root, folders, mode, num_reads):
    """Return the ImageCache of a table's images, building it where that pays; None: the files are to be read.

    Args:
        table: has .paths, (N,) str.
        channels: of the images.
        size: (height, width) they are resized to.
        root: folder of the competition; the paths count from there, so that it may be moved.
        folders: of `list_folders`.
        mode: off; on; or auto, which builds one where an image is read more than once and it can be written.
        num_reads: images that will be read in all.

    Raises:
        UserError: an image is missing or cannot be decoded, or its type is not the first one's; or mode=on and it
            cannot be written.
    """
    if mode == "off":
        return None
    name = f"{size[0]}x{size[1]}x{channels}_{hash_images(table.paths, root, channels, size)}.npy"
    for folder in folders:
        if (cache := _try_cache(folder / name)) is not None:
            return cache
    if not is_worth_building(mode, num_reads, len(table)):
        return None
    try:
        return _build_cache(folders, name, table, channels, size)
    except _NoRoom as reason:
        if mode == "on":
            raise UserError(f"{reason}; set cache_dir=FOLDER or cache=auto") from None
        print(f"{reason};\n  images are decoded in every epoch; cache_dir=FOLDER puts them elsewhere")
        return None


def is_worth_building(mode, num_reads, num_images):
    """Whether a cache of some images is built where there is none, as `open_cache` has it."""
    return mode == "on" or (mode == "auto" and num_reads > num_images)


def _try_cache(path):
    """Return the cache at `path`, or None where there is none that is whole."""
    try:
        return ImageCache(path)
    except (OSError, ValueError, EOFError):
        return None


def _build_cache(folders, name, table, channels, size):
    """Decode and resize every image, on all cores; of several processes one does it, and the others wait for it.

    Raises:
        _NoRoom: it cannot be written.
    """
    try:
        path = open_folder(folders) / name
    except UserError as error:
        raise _NoRoom(str(error).partition(";")[0]) from None
    lock = path.with_suffix(".lock")
    with hold(lock, f"{lock}: another process decodes the images; waiting for it"):
        if (cache := _try_cache(path)) is not None:
            return cache
        first = _read_image(str(table.paths[0]), channels, size)
        needed = first.nbytes * len(table) - unfinished_bytes(path)
        free = shutil.disk_usage(path.parent).free - RESERVE_BYTES
        if needed > free:
            spare = gigabytes(max(free, 0))
            raise _NoRoom(f"{path.parent}: {gigabytes(needed)} of decoded images do not fit ({spare} to spare)")
        began = time.perf_counter()
        try:
            _write_images(path, table, channels, size, first.dtype)
        except OSError as error:
            raise _NoRoom(f"{path}: cannot be written ({error.strerror})") from None
        took = time.perf_counter() - began
        print(f"{path}: {len(table)} decoded images, {gigabytes(path.stat().st_size)}, made in {took:.1f} s")
    return ImageCache(path)


def _write_images(path, table, channels, size, dtype):
    def images_from(first):
        if first:
            print(f"{path}: {first} of {len(table)} images were decoded before; going on", flush=True)
        paths = table.paths[first:]
        images = map_images(partial(_read_image, channels=channels, size=size), paths, "decoding")
        for row, image in enumerate(images):
            if image.dtype != dtype:
                raise UserError(f"{paths[row]}: has {image.dtype} pixels, {table.paths[0]} has {dtype}; set cache=off")
            yield image

    write_rows(path, len(table), (*size, channels), dtype, images_from)


def _read_image(path, channels, size):
    return np.ascontiguousarray(resize_image(decode_image(path, channels, size), size))


def hash_images(paths, root, channels, size):
    """Return a hash of the files' names, sizes and times, of the decoder's code, and of what it is asked for."""
    words = (inspect.getsource(decode), cv2.__version__, PIL.__version__, channels, *size)
    digest = hashlib.sha256(repr(words).encode())
    for path in paths.tolist():
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        inside = path.removeprefix(f"{root}/").encode(errors="surrogateescape")
        digest.update(b"%s\0%d\0%d\n" % (inside, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:16]


def list_folders(config):
    """Return where decoded images and features may lie; new ones go into the first that can be written."""
    if config.cache_dir is not None:
        return [Path(config.cache_dir)]
    return [Path(config.competition.root) / ".cache", Path(config.output_dir) / "cache"]


def open_folder(folders):
    """Return the first folder that can be made and written, as a Path.

    Raises:
        UserError: none can.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise UserError(f"{folder}: cannot be written; set cache_dir=FOLDER")


def gigabytes(num_bytes):
    """Return bytes as words, "1.5 GB"."""
    return f"{num_bytes / 1e9:.1f} GB"
