"""Decoded images on disk: each is decoded and resized once, for all epochs, folds, runs and processes.

A cached image is bit for bit what its file gives. A cache is one .npy file, a record (pixels, CRC-32) for each image;
its name holds a hash of all that decides its content, as files, size and decoder. It may be deleted at any time.
Of images elsewhere it is the near copy: where the disk has no room for all, of the first half, quarter and so on.
"""

import hashlib
import io
import os
import shutil
import time
import zlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from src.competition.image_files import JOIN
from src.containers import stat_file
from src.data.decode import decode_image, resize_image
from src.data.scan import map_images
from src.errors import UserError
from src.files import make_folder, sync_folder
from src.locks import hold
from src.remote import is_url
from src.terminal import paint

RESERVE_BYTES = 2_000_000_000  # of the disk that stay free, for runs and their checkpoints


class NoRoom(UserError):
    """There is no folder, or no room on the disk, for decoded images."""


class ImageCache:
    """Decoded images, by the path of their file; keys, (N,) uint64, are `_key` of each row's."""

    def __init__(self, path, keys):
        self._path, self._keys, self._order = path, keys, np.argsort(keys)
        rows = np.load(path, mmap_mode="r")
        self._pixels, self._checksums = rows["pixels"], rows["checksum"]

    def __reduce__(self):
        return ImageCache, (self._path, self._keys)  # each worker maps the rows anew

    def find(self, path):
        """Return the row of a file's image; None: it is not here."""
        place = np.searchsorted(self._keys, key := _key(path), sorter=self._order)
        row = self._order[place % len(self._order)]
        return row if self._keys[row] == key else None

    def read(self, path):
        """Return a copy of the image (H, W, C) of a file; None: it is not here, or damaged on the disk."""
        if (row := self.find(path)) is None:
            return None
        pixels = np.array(self._pixels[row])
        return pixels if zlib.crc32(pixels) == self._checksums[row] else None


def _key(path):
    """64 bits for a path, since a dict of strings would grow each worker's memory; a million collide with p = 3e-8."""
    return np.uint64(int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little"))


def open_cache(paths, config, size, num_reads):
    """Return the ImageCache of some files at `size`, built where that pays; None: the files are to be read.

    config.cache=auto builds one where images are read more than once (num_reads in all) and it fits.

    Raises:
        UserError: an image is missing, undecodable or not of the first one's type, or cache=on and there is no room.
    """
    if config.cache == "off":
        return None
    channels, digest = config.competition.row_channels, hash_images(paths, config, size)
    path = cache_folder(config) / f"{size[0]}x{size[1]}x{channels}_{digest}.npy"
    keys = np.fromiter(map(_key, paths), np.uint64, len(paths))
    if (cache := _try_cache(path, keys)) is not None:
        return cache
    try:
        if is_worth_building(config.cache, num_reads, len(paths)):
            make_folder(path.parent, "cache_dir", NoRoom)
            return _build_cache(path, paths, keys, config, size)
    except NoRoom as error:
        if config.cache == "on":
            raise
        half, is_elsewhere = paths[: len(paths) // 2], is_url(paths[-1])
        left = f"{len(paths) - len(half)} images are fetched" if is_elsewhere else "without it images are decoded"
        print(paint(f"{error};\n  {left} in every epoch", "yellow"))
        return open_cache(half, config, size, num_reads) if is_elsewhere and len(half) else None
    return None


def is_worth_building(mode, num_reads, num_images):
    """Whether `open_cache` builds a cache of some images where there is none."""
    return mode == "on" or (mode == "auto" and num_reads > num_images)


def _try_cache(path, keys):
    with suppress(OSError, ValueError, EOFError):  # None where there is none that is complete
        return ImageCache(path, keys)


def _build_cache(path, paths, keys, config, size):
    """Decode and resize every image, on all cores; of several processes one does it, and the others wait for it."""
    lock, unfinished, began = path.with_suffix(".lock"), path.with_suffix(".part"), time.perf_counter()
    with hold(lock, f"{lock}: another process decodes the images; waiting"):
        if (cache := _try_cache(path, keys)) is not None:
            return cache

        def decode(image_path):
            image = decode_image(image_path, config.competition, size)
            return np.ascontiguousarray(resize_image(image, size, config.resize))

        first = decode(paths[0])
        row_type = np.dtype([("pixels", first.dtype, first.shape), ("checksum", "<u4")])
        needed = row_type.itemsize * len(paths) - (unfinished.stat().st_size if unfinished.exists() else 0)
        free = max(shutil.disk_usage(path.parent).free - RESERVE_BYTES, 0)
        if needed > free:
            found = f"{gigabytes(needed)} of decoded images do not fit ({gigabytes(free)} to spare)"
            raise NoRoom(f"{path.parent}: {found}; set cache_dir=FOLDER")
        print(f"decoding {len(paths)} images", flush=True)
        _write_rows(path, paths, row_type, decode)
        took = time.perf_counter() - began
        print(f"{path}: {len(paths)} decoded images, {gigabytes(path.stat().st_size)}, made in {took:.1f} s")
    return ImageCache(path, keys)


def _write_rows(path, paths, row_type, decode):
    """Write a row of each path; resume after the rows of a process that was killed. An Exception leaves no file.

    What was fetched from elsewhere stays, though, when a server fails.
    Rows are appended, under another name: a full disk is then an error, where a write into a memory map crashes.
    """
    unfinished, dtype, header = path.with_suffix(".part"), row_type["pixels"].base, io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(row_type), "fortran_order": False, "shape": (len(paths),)}
    np.lib.format.write_array_header_1_0(header, description)
    try:
        with open(unfinished, "ab") as file:
            num_done = max(file.tell() - header.tell(), 0) // row_type.itemsize
            if num_done:
                file.truncate(header.tell() + num_done * row_type.itemsize)
                print(f"{path}: resumes after {num_done} of {len(paths)} images", flush=True)
            else:
                file.truncate(0)
                file.write(header.getvalue())
            for row, pixels in enumerate(map_images(decode, paths[num_done:], "decoding"), num_done):
                if pixels.dtype != dtype:
                    found = f"has {pixels.dtype} pixels, {paths[0].split(JOIN)[0]} has {dtype}"
                    raise UserError(f"{paths[row].split(JOIN)[0]}: {found}; set cache=off")
                file.write(pixels)
                file.write(zlib.crc32(pixels).to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except Exception as error:
        if isinstance(error, OSError) or not is_url(paths[-1]):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise NoRoom(f"{path}: cannot be written ({error.strerror}); set cache_dir=FOLDER") from None
        raise


def hash_images(paths, config, size):
    """Return a hash of the files' names, sizes and times, of what decodes them, and of what it is asked for."""
    settings = config.competition
    code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("decode.py", "dicom.py")]
    versions = [cv2.__version__, *map(version, ("pillow", "pydicom", "numpy"))]
    asked = [settings.channels, settings.bits, settings.exif, settings.background, config.resize, *size]
    root = settings.root if is_url(settings.root) else os.path.realpath(settings.root)
    digest = hashlib.sha256(repr((code, versions, asked, root)).encode())
    for path in (file for one in paths for file in one.split(JOIN)):
        inside = path.removeprefix(f"{settings.root}/").encode(errors="surrogateescape")
        digest.update(b"%s\0%d\0%d\n" % (inside, *stat_file(path)))
    return digest.hexdigest()[:16]


def cache_folder(config):
    """Return where decoded images and features lie, of all competitions."""
    return Path(config.output_dir) / "cache" if config.cache_dir is None else Path(config.cache_dir)


def gigabytes(num_bytes):
    """Return bytes in words, "1.5 GB"."""
    return f"{num_bytes / 1e9:.1f} GB"
