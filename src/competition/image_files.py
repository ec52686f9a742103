"""Image files below a competition's root: what counts as one, lists of their paths, and names with stars."""

import os
import sys
from bisect import bisect_left
from itertools import islice

import numpy as np

from src import remote
from src.config.registry import list_names
from src.containers import SUFFIXES, list_folder, stat_file
from src.errors import UserError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jfif", ".jpe", ".avif", *list_names("data/decode.py", "DECODERS"),
)  # fmt: skip
JOIN = "\0"  # between the files of a row's path; no name holds it
STAR = "\0"  # a pattern's *; no cell of a table holds this character, so a * in an id is a plain letter
_PATHS_AT_ONCE = 50_000  # Python's strings that are in memory while Paths are built


def is_image(path):
    """Whether a path is that of an image: by its suffix, or inside a container whose files need none."""
    lower = path.lower()
    return lower.endswith(IMAGE_SUFFIXES) or any(f"{suffix}/" in lower for suffix in SUFFIXES[1:])


def check_image_files(table):
    """Check that no image file is empty, as a broken copy leaves it, and that three are there of those by http."""
    empty = [file for path in table.paths for file in path.split(JOIN) if stat_file(file)[0] == 0]
    if empty:
        found = f"cannot be decoded as an image (0 bytes); {len(empty)} of {len(table)} are empty"
        raise UserError(f"{empty[0]}: {found}, copy them again or set unreadable=skip")
    if lost := read_three(table.paths, table.ids)[1]:
        raise UserError(lost[0])


def read_three(paths, ids):
    """Read the http files of three rows, as http lists none; return (these, a line about each that is not there)."""
    rows, lost = range(len(paths))[:: max(1, (len(paths) - 1) // 2)][:3], []
    files = [file for row in rows for file in paths[row].split(JOIN) if file.startswith(remote.HTTP)]
    for file in files:
        try:
            remote.read_file(file)
        except UserError as error:
            lost.append(name_row(error, ids, paths))
            if isinstance(error, remote.Unreachable):
                raise UserError(lost[-1]) from None
    return files, lost


def name_row(error, ids, paths):
    """Return an error's text; before that about a file elsewhere comes the id of the first row that has the file."""
    file = str(error).partition(": ")[0]
    rows = zip(ids, paths, strict=True) if remote.is_url(file) else ()
    return next((f"id {one}: {error}" for one, path in rows if file in path.split(JOIN)), str(error))


class Paths:
    """N paths that are read as a numpy array of str is, at one byte a letter where numpy's takes four."""

    def __init__(self, encoded):
        self._encoded = encoded  # (N,) bytes of fixed width

    @classmethod
    def of(cls, paths):
        """Build it from str, some at a time, so that a million of them need not be in memory at once."""
        paths, chunks = iter(paths), [np.zeros(0, dtype=bytes)]
        while encoded := list(map(os.fsencode, islice(paths, _PATHS_AT_ONCE))):
            chunks.append(np.array(encoded))
        return cls(np.concatenate(chunks))

    def __len__(self):
        return len(self._encoded)

    def __iter__(self):
        return map(os.fsdecode, self._encoded)

    def __getitem__(self, rows):
        """Return one path, str, or the Paths of some rows: a slice, int indices or a bool mask."""
        found = self._encoded[rows]
        return os.fsdecode(found) if isinstance(found, bytes) else Paths(found)

    def tolist(self):
        return list(self)

    def isin(self, other):
        """Return which of these paths are among other Paths, (N,) bool."""
        return np.isin(self._encoded, other._encoded)


class FileTree:
    """The files below a root; each folder is listed once, when a path first leads there; http lists none."""

    def __init__(self, root):
        self._root, self._listed, self._sorted, self._expanded = root, {}, {}, {}

    def match(self, path):
        """Return the files, relative to the root, that fit a path; STAR is anything within one name."""
        folder, _, last = path.rpartition("/")
        if STAR not in path:  # over http only reading tells
            return [path] if self._root.startswith(remote.HTTP) or last in self.list_folder(folder)[0] else []
        found = [f"{one}/{name}".lstrip("/") for one in self._folders(folder) for name in self._find(one, last, 0)]
        return [file for file in found if is_image(file) or not last.endswith(STAR)]

    def _folders(self, path):
        if STAR not in path:
            return [path]
        if path not in self._expanded:
            above, _, last = path.rpartition("/")
            found = ((one, name) for one in self._folders(above) for name in self._find(one, last, 1))
            self._expanded[path] = [f"{one}/{name}".lstrip("/") for one, name in found]
        return self._expanded[path]

    def _find(self, folder, part, kind):
        """Return the names of a folder's files (kind 0) or others (1) that fit; hidden ones fit no star."""
        if STAR not in part:
            return [part] if part in self.list_folder(folder)[kind] else []
        start, end = part[: part.index(STAR)], part[part.rindex(STAR) + 1 :]
        step = 1 if len(start) >= len(end) else -1  # search by the longer fixed end
        kind = 0 if end.lower().endswith(SUFFIXES) else kind  # *.zip, which as a folder * alone is not
        if (folder, kind, step) not in self._sorted:
            names = (name for name in self.list_folder(folder)[kind] if not name.startswith("."))
            self._sorted[folder, kind, step] = sorted(name[::step] for name in names)
        names, start = self._sorted[folder, kind, step], start if step == 1 else end[::-1]
        found = names[bisect_left(names, start) : bisect_left(names, start + chr(sys.maxunicode))]
        return [name[::step] for name in found if _fits(name[::step], part)]

    def list_folder(self, folder):
        """Return the names of (files, others) in a folder of the tree."""
        path = f"{self._root}/{folder}".rstrip("/")
        if path.startswith(remote.HTTP):
            raise UserError(f"{path}: http lists no files; set a table of the ids, and patterns without *")
        if folder not in self._listed:
            self._listed[folder] = list_folder(path)
        return self._listed[folder]


def _fits(name, part):
    """Whether a name is the part's pieces in order, with anything between them; a last .* is one suffix."""
    if part.endswith("." + STAR):
        name, dot, _ = name.rpartition(".")
        return bool(dot) and _fits(name, part[:-2])
    first, *middle = part.split(STAR)
    if not middle:
        return name == first
    last, at = middle.pop(), len(first)
    for piece in middle:
        if (at := name.find(piece, at)) < 0:
            return False
        at += len(piece)
    return at <= len(name) - len(last) and name.startswith(first) and name.endswith(last)
