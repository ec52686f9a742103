"""The files below a folder, by paths with stars: each folder is listed once, and no path asks the disk by itself."""

import os
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path

from src.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".npy", ".dcm", ".dicom")
STAR = "\0"  # a pattern's *; no cell of a table holds this character, so a * in an id is a plain letter


class Folders:
    """The files below a root; a folder is listed when first asked for."""

    def __init__(self, root):
        self._root = Path(root)
        self._listed = {}
        self._names = {}
        self._stems = {}

    def match(self, path):
        """Return the files, relative to the root, that fit a path with stars."""
        folder, _, last = path.rpartition("/")
        if STAR not in path:
            return [path] if self._is_file(folder, last) else []
        above = [folder]
        if STAR in folder:
            above = [""]
            for part in folder.split("/"):
                fitting = ((one, name) for one in above for name in self._fitting(one, part))
                above = [_join(one, name) for one, name in fitting if self._is_folder(one, name)]
        suffixes = IMAGE_SUFFIXES if last.endswith(STAR) else ("",)
        return [
            _join(one, name)
            for one in above
            for name in self._fitting(one, last)
            if name.lower().endswith(suffixes) and self._is_file(one, name)
        ]

    def _is_file(self, folder, name):
        files, others = self._listed.get(folder) or self._list(folder)
        return name in files or (name in others and others[name].is_file())

    def _is_folder(self, folder, name):
        others = self._list(folder)[1]
        return name in others and others[name].is_dir()

    def _list(self, folder):
        """Return ({name of a plain file}, {name: os.DirEntry of what may be a link or a folder}) of one folder.

        Nothing when it is not there. A name takes a fifth of an entry's memory.
        """
        if folder not in self._listed:
            files, others = set(), {}
            try:
                with os.scandir(self._root / folder) as entries:
                    for entry in entries:
                        if entry.is_file(follow_symlinks=False):
                            files.add(entry.name)
                        else:
                            others[entry.name] = entry
            except (FileNotFoundError, NotADirectoryError):
                files, others = set(), {}
            except OSError as error:
                raise UserError(f"{self._root / folder}: cannot be listed ({error.strerror}); check it") from None
            self._listed[folder] = files, others
        return self._listed[folder]

    def _fitting(self, folder, part):
        """Return the names in a folder that fit one part of a path; hidden ones fit no star."""
        if STAR not in part:
            return [part] if any(part in names for names in self._list(folder)) else []
        pieces = part.split(STAR)
        if pieces[1:] == [""] and pieces[0].endswith("."):
            return self._with_stem(folder, pieces[0][:-1])
        flip = len(pieces[0]) < len(pieces[-1])  # search by the longer fixed end
        if (folder, flip) not in self._names:
            names = self._visible(folder)
            self._names[folder, flip] = sorted(name[::-1] if flip else name for name in names)
        names, start = self._names[folder, flip], pieces[-1][::-1] if flip else pieces[0]
        found, at = [], bisect_left(names, start)
        while at < len(names) and names[at].startswith(start):
            name = names[at][::-1] if flip else names[at]
            if _fits(name, part):
                found.append(name)
            at += 1
        return found

    def _with_stem(self, folder, stem):
        """Return the names in a folder that are the stem and one suffix."""
        if folder not in self._stems:
            self._stems[folder] = names = defaultdict(list)
            for name in self._visible(folder):
                before, dot, _ = name.rpartition(".")
                if dot:
                    names[before].append(name)
        return self._stems[folder].get(stem, [])

    def _visible(self, folder):
        return (name for names in self._list(folder) for name in names if not name.startswith("."))


def _fits(name, part):
    """Say whether a name is the part's pieces in order, with anything between them."""
    if part.endswith("." + STAR):
        name, dot, _ = name.rpartition(".")
        return bool(dot) and _fits(name, part[:-2])
    first, *middle = part.split(STAR)
    if not middle:
        return name == first
    last, at = middle.pop(), len(first)
    end = len(name) - len(last)
    if end < at or not name.startswith(first) or not name.endswith(last):
        return False
    for piece in middle:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _join(folder, name):
    return f"{folder}/{name}" if folder else name
