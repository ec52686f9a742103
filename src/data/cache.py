"""Decoded images on disk: each is decoded and resized once, for all epochs, folds, runs and processes.

A cached image is bit for bit what decoding and resizing its file gives, so runs with and without a cache are the same.
A cache is <name>.npy (N, H, W, C) and <name>.crc, the CRC-32 of each row; the name holds a hash of all that decides its
content, so another one is built when any file, the size or the decoder changes. It may be deleted at any time.
"""

import hashlib
import io
import math
import os
import shutil
import time
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import PIL

from src.data.decode import decode_image, resize_image
from src.data.scan import map_images
from src.errors import UserError
from src.files import sync_folder
from src.locks import hold

RESERVE_BYTES = 2_000_000_000  # of the disk that stay free, for runs and their checkpoints


class NoRoom(UserError):
    """There is no folder, or no room on the disk, for decoded images."""


class ImageCache:
    """Decoded images, by the path of their file; keys, (N,) uint64, are `_key` of each row's."""

    def __init__(self, path, keys):
        self._path, self._keys, self._order = path, keys, np.argsort(keys)
        self._pixels, self._checksums = np.load(path, mmap_mode="r"), np.fromfile(path.with_suffix(".crc"), "<u4")
        if not len(keys) == len(self._pixels) == len(self._checksums):
            raise ValueError(f"{path}: not complete")

    def __reduce__(self):
        return ImageCache, (self._path, self._keys)  # each worker maps the pixels anew

    def read(self, path):
        """Return a copy of the image (H, W, C) of a file; None: it is not here, or damaged on the disk."""
        place = np.searchsorted(self._keys, key := _key(path), sorter=self._order)
        row = self._order[place % len(self._order)]
        if self._keys[row] != key:
            return None
        pixels = np.array(self._pixels[row])
        return pixels if zlib.crc32(pixels) == self._checksums[row] else None


def _key(path):
    """64 bits for a path, since a dict of strings would grow each worker's memory; a million collide with p = 3e-8."""
    return np.uint64(int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little"))


def open_cache(paths, channels, size, root, folders, mode, num_reads):
    """Return the ImageCache of some files, built where that pays; None: the files are to be read.

    Args:
        paths: competition.paths.Paths, or an array of str.
        size: (height, width) that images are resized to.
        root: folder of the competition, which may move together with its cache.
        folders: of `list_folders`.
        mode: off; on; or auto, which builds one where images are read more than once (num_reads in all) and it fits.

    Raises:
        UserError: an image is missing or cannot be decoded, or its type is not the first one's; NoRoom: mode=on and
            the cache cannot be written.
    """
    if mode == "off":
        return None
    name = f"{size[0]}x{size[1]}x{channels}_{hash_images(paths, root, channels, size)}.npy"
    keys = np.fromiter(map(_key, paths), np.uint64, len(paths))
    for folder in folders:
        if (cache := _try_cache(folder / name, keys)) is not None:
            return cache
    if not is_worth_building(mode, num_reads, len(paths)):
        return None
    try:
        return _build_cache(open_folder(folders) / name, paths, keys, channels, size)
    except NoRoom as error:
        if mode == "on":
            raise
        print(f"{error};\n  without it images are decoded in every epoch")
        return None


def is_worth_building(mode, num_reads, num_images):
    """Whether `open_cache` builds a cache of some images where there is none."""
    return mode == "on" or (mode == "auto" and num_reads > num_images)


def _try_cache(path, keys):
    """Return the cache of a file, or None where there is none that is complete."""
    try:
        return ImageCache(path, keys)
    except (OSError, ValueError, EOFError):
        return None


def _build_cache(path, paths, keys, channels, size):
    """Decode and resize every image, on all cores; of several processes one does it, and the others wait for it."""
    lock, unfinished = path.with_suffix(".lock"), path.with_suffix(".part")
    with hold(lock, f"{lock}: another process decodes the images; waiting"):
        if (cache := _try_cache(path, keys)) is not None:
            return cache
        first = _decode(paths[0], channels, size)
        needed = first.nbytes * len(paths) - (unfinished.stat().st_size if unfinished.exists() else 0)
        free = max(shutil.disk_usage(path.parent).free - RESERVE_BYTES, 0)
        if needed > free:
            found = f"{gigabytes(needed)} of decoded images do not fit ({gigabytes(free)} to spare)"
            raise NoRoom(f"{path.parent}: {found}; set cache_dir=FOLDER")
        began = time.perf_counter()
        try:
            rows_after = partial(_decode_rows, path, paths, channels, size, first.dtype)
            _write_rows(path, (len(paths), *first.shape), first.dtype, rows_after)
        except OSError as error:
            raise NoRoom(f"{path}: cannot be written ({error.strerror}); set cache_dir=FOLDER") from None
        took = time.perf_counter() - began
        print(f"{path}: {len(paths)} decoded images, {gigabytes(path.stat().st_size)}, made in {took:.1f} s")
    return ImageCache(path, keys)


def _decode(path, channels, size):
    return np.ascontiguousarray(resize_image(decode_image(path, channels, size), size))


def _decode_rows(path, paths, channels, size, dtype, num_done):
    """Yield the decoded images of all paths but the first `num_done`."""
    if num_done:
        print(f"{path}: resumes after {num_done} of {len(paths)} images", flush=True)
    rest = paths[num_done:]
    for row, image in enumerate(map_images(partial(_decode, channels=channels, size=size), rest, "decoding")):
        if image.dtype != dtype:
            raise UserError(f"{rest[row]}: has {image.dtype} pixels, {paths[0]} has {dtype}; set cache=off")
        yield image


def _write_rows(path, shape, dtype, rows_after):
    """Write rows_after(number of rows), which yields all others, and checksums; resume where a killed process stopped.

    Rows are appended under other names: a full disk is then an error, where a write into a memory map crashes. An
    Exception leaves no file; what ends the program, and is no Exception, leaves the rows so far.
    """
    unfinished = path.with_suffix(".part"), path.with_suffix(".part.crc")
    try:
        with open(unfinished[0], "a+b") as pixels, open(unfinished[1], "a+b") as checksums:
            for row in rows_after(_take_over(pixels, checksums, shape, dtype)):
                pixels.write(row)
                checksums.write(_checksum(row))
            for file in (pixels, checksums):
                file.flush()
                os.fsync(file.fileno())
    except Exception:
        for one in unfinished:
            one.unlink(missing_ok=True)
        raise
    os.replace(unfinished[1], path.with_suffix(".crc"))  # the checksums first: where the rows are, they are
    os.replace(unfinished[0], path)
    sync_folder(path.parent)


def _take_over(pixels, checksums, shape, dtype):
    """Return how many rows of two open files agree with their checksums, and cut both files after these."""
    file, num_done, row_bytes = io.BytesIO(), 0, math.prod(shape[1:]) * dtype.itemsize
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    header = file.getvalue()
    pixels.seek(0)
    checksums.seek(0)
    if pixels.read(len(header)) == header:
        while len(row := pixels.read(row_bytes)) == row_bytes and checksums.read(4) == _checksum(row):
            num_done += 1
    checksums.truncate(4 * num_done)
    pixels.truncate(len(header) + num_done * row_bytes if num_done else 0)
    if not num_done:
        pixels.write(header)
    return num_done


def _checksum(row):
    return zlib.crc32(row).to_bytes(4, "little")


def hash_images(paths, root, channels, size):
    """Return a hash of the files' names, sizes and times, of the decoder's code, and of what it is asked for."""
    code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("decode.py", "dicom.py")]
    digest = hashlib.sha256(repr((*code, cv2.__version__, PIL.__version__, channels, *size)).encode())
    for path in paths:
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
    """Return the first folder that can be made and written; raise NoRoom where none can."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise NoRoom(f"{folder}: cannot be written; set cache_dir=FOLDER")


def gigabytes(num_bytes):
    """Return bytes in words, "1.5 GB"."""
    return f"{num_bytes / 1e9:.1f} GB"
