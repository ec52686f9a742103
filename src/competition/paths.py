"""Path patterns -> image files: each folder is listed once, and no row asks the disk by itself.

A pattern is written relative to the competition's root: {column} is a row's value, {column[0]} a letter of it, and *
anything within one name. A pattern that ends in * finds only images, by their suffix; .* at its end is one suffix.
"""

import os
import re
import sys
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd

from src.errors import UserError, listing, nearest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".npy", ".dcm", ".dicom")

_PATHS_AT_ONCE = 50_000  # Python's strings that are in memory while Paths are built
_STAR = "\0"  # the pattern's *; no cell of a table holds this character, so a * in an id is a plain letter
_PLACE = re.compile(r"\{([^{}\[\]:!.]+)(?:\[(\d+)\])?\}")
_OUTSIDE = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]|//")


def find_images(competition, key, rows, ids):
    """Find the image file of each row; of several matches the middle one in natural order.

    Args:
        competition: src.config.Competition.
        key: train_image or test_image, the setting that holds the pattern.
        rows: table of str with the columns that the pattern names.
        ids: (N,) names of the rows for errors.

    Returns: Paths of the N images.

    Raises:
        UserError: the pattern is wrong, or an image is missing or outside the root.
    """
    root, pattern = competition.root, getattr(competition, key)
    missing = []

    def find():
        folders = _Folders(root)
        for row, path in enumerate(_fill(pattern, f"competition.{key}", rows)):
            may_lead_outside = ".." in path or "//" in path or ":" in path or path[:1] in ("/", "\\")
            if may_lead_outside and _OUTSIDE.search(path):  # which is slow
                raise UserError(
                    f"{root}: the image of id '{ids[row]}' would be outside this folder ({path.replace(_STAR, '*')}); "
                    f"correct the id or competition.{key}, now {pattern}"
                )
            if found := _match_in_any_form(folders, path):
                yield f"{root}/{found[0] if len(found) == 1 else _middle(found)}"
            else:
                missing.append(ids[row])

    paths = Paths.of(find())
    where = f"{root}/{_fixed_folder(pattern)}".rstrip("/")
    if missing:
        raise UserError(
            f"{where}: {len(missing)} of {len(rows)} ids have no image (first: {missing[0]}); "
            f"check competition.{key}, now {pattern}"
        )
    return paths


def _match_in_any_form(folders, path):
    """Match a path as it is, else in Unicode's two forms: a Mac writes names decomposed, a table has them composed."""
    found = folders.match(path)
    if not found and not path.isascii():
        forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
        found = next(filter(None, map(folders.match, forms)), [])
    return found


def list_images(competition, key):
    """List the images that fit a pattern, in natural order, where no table names the rows.

    A folder of test images beside the class folders is no class: what test_image finds there is left out of training.

    Returns: (rows, paths). The rows are a table of str: what the pattern's {names} are in each path, and the column
        competition.id: the path below the pattern's fixed folder, unless the pattern has it. The paths are Paths.

    Raises:
        UserError: the pattern is wrong, or nothing fits it.
    """
    root, pattern = competition.root, getattr(competition, key)
    _check_pattern(pattern, f"competition.{key}")
    folders, base = _Folders(root), _fixed_folder(pattern)
    names, reader = _compile_reader(pattern)
    fitting = folders.match(_starred(pattern))
    if key == "train_image" and _fixed_folder(competition.test_image) not in ("", base):
        fitting = sorted(set(fitting) - set(folders.match(_starred(competition.test_image))))
    found = [(path, read) for path in fitting if path.lower().endswith(IMAGE_SUFFIXES) and (read := reader(path))]
    found.sort(key=lambda one: _natural(one[0]))
    if not found:
        where = f"{root}/{base}".rstrip("/")
        raise UserError(f"{where}: no image found there; check competition.{key}, now {pattern}")
    rows = pd.DataFrame({name: [read[place + 1] for _, read in found] for place, name in enumerate(names)}, dtype=str)
    if competition.id not in rows:
        rows[competition.id] = [path[len(base) :].lstrip("/") for path, _ in found]
    return rows, Paths.of(f"{root}/{path}" for path, _ in found)


def check_not_empty(paths):
    """Check that every image file holds something: what a broken copy leaves most often, found before training.

    Raises:
        UserError: names the first empty file.
    """
    empty = [path for path in paths if os.path.getsize(path) == 0]
    if empty:
        raise UserError(
            f"{empty[0]}: cannot be decoded as an image (0 bytes); {len(empty)} of {len(paths)} are empty, "
            "copy them again or set unreadable=skip"
        )


class Paths:
    """N paths that are read as a numpy array of str is, at one byte a letter where numpy's takes four."""

    def __init__(self, encoded):
        self._encoded = encoded  # (N,) bytes of fixed width

    @classmethod
    def of(cls, paths):
        """Build it from str, some at a time, so that a million of them need not be in memory at once."""
        paths, parts = iter(paths), [np.zeros(0, dtype=bytes)]
        how = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # as os.fsencode, a call less
        while some := [path.encode(*how) for path in islice(paths, _PATHS_AT_ONCE)]:
            parts.append(np.array(some))
        return cls(np.concatenate(parts))

    def __len__(self):
        return len(self._encoded)

    def __iter__(self):
        return map(os.fsdecode, self._encoded)

    def __getitem__(self, rows):
        """Return one path, str, or the Paths of some rows: a slice, int indices or a bool mask."""
        found = self._encoded[rows]
        return os.fsdecode(found) if isinstance(found, bytes) else Paths(found)

    def tolist(self):
        """Return a list of str."""
        return list(self)


class _Folders:
    """The files below a root; a folder is listed when first asked for."""

    def __init__(self, root):
        self._root = Path(root)
        self._listed = {}
        self._names = {}
        self._stems = {}

    def match(self, path):
        """Return the files, relative to the root, that fit a path with stars."""
        folder, _, last = path.rpartition("/")
        if _STAR not in path:
            return [path] if self._is_file(folder, last) else []
        above = [folder]
        if _STAR in folder:
            above = [""]
            for part in folder.split("/"):
                fitting = ((one, name) for one in above for name in self._fitting(one, part))
                above = [_join(one, name) for one, name in fitting if self._is_folder(one, name)]
        suffixes = IMAGE_SUFFIXES if last.endswith(_STAR) else ("",)
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
        if _STAR not in part:
            return [part] if any(part in names for names in self._list(folder)) else []
        pieces = part.split(_STAR)
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
    if part.endswith("." + _STAR):
        name, dot, _ = name.rpartition(".")
        return bool(dot) and _fits(name, part[:-2])
    first, *middle = part.split(_STAR)
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


def _fill(pattern, where, rows):
    """Return an iterator of each row's path: the pattern with the row's values, and stars."""
    _check_pattern(pattern, where)
    texts = [text.replace("*", _STAR) for text in _PLACE.split(pattern)[::3]]
    places = _PLACE.findall(pattern)
    if not places:
        raise UserError(f"{where}={pattern}: all rows would get one image; name a column, for example {{id}}")
    columns, cells = {}, []
    for name, letter in places:
        if name not in rows:
            raise UserError(
                f"{where}={pattern}: no column {name!r} (found {listing(rows.columns)})"
                f"{nearest(name, rows.columns) or '; name one of these'}"
            )
        if name not in columns:
            columns[name] = rows[name].fillna("").tolist()
        cells.append(map(itemgetter(slice(int(letter), int(letter) + 1)), columns[name]) if letter else columns[name])
    # the pattern's own texts hold no braces, as _check_pattern has seen
    return map("{}".join(texts).format, *cells)


def _compile_reader(pattern):
    """Return (names, reader): the reader's match of a path has a group for each of the pattern's {names}.

    A name takes as much as it can and a star as little, so golden_retriever_12.jpg has the {label} golden_retriever in
    {label}_*.jpg, and 12_golden_retriever.jpg has it in *_{label}.jpg.
    """
    names, text = [], ""
    for part in re.split(r"(\{[^}]*\}|\*)", pattern.removesuffix(".*")):
        name = part[1:-1]
        if part == "*" or part.endswith("]}"):
            text += "[^/]*?"
        elif part.startswith("{") and name in names:
            text += f"\\{names.index(name) + 1}"
        elif part.startswith("{"):
            text += "([^/]+)"
            names.append(name)
        else:
            text += re.escape(part)
    return names, re.compile(text + (r"\.[^./]*" if pattern.endswith(".*") else "")).fullmatch


def _check_pattern(pattern, where):
    if re.search(r"[{}]", _PLACE.sub("", pattern)):
        raise UserError(
            f"{where}={pattern}: not a pattern; in braces write a column, or a letter of it such as {{id[0]}}"
        )
    if _OUTSIDE.search(pattern):
        raise UserError(f"{where}={pattern}: leads outside competition.root; write a path below it")


def _starred(pattern):
    """Return the pattern with a star for whatever varies."""
    return _PLACE.sub(_STAR, pattern).replace("*", _STAR)


def _fixed_folder(pattern):
    """Return the pattern's leading folders, up to the first that varies."""
    return re.split(r"[{*]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _middle(paths):
    return sorted(paths, key=_natural)[len(paths) // 2]


def _natural(text):
    """A sorting key that counts: 2 before 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", text))]


def _join(folder, name):
    return f"{folder}/{name}" if folder else name
