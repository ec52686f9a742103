"""Path patterns -> image files.

A pattern is written relative to the competition's root: {column} is a row's value, {column[0]} a letter of it, and *
anything within one name. A pattern that ends in * finds only images, by their suffix; .* at its end is one suffix.
"""

import os
import re
import sys
import unicodedata
from itertools import islice
from operator import itemgetter

import numpy as np
import pandas as pd

from src.competition.folders import IMAGE_SUFFIXES, STAR, Folders
from src.errors import UserError, listing, nearest

_PATHS_AT_ONCE = 50_000  # Python's strings that are in memory while Paths are built
_PLACE = re.compile(r"\{([^{}\[\]:!.]+)(?:\[(\d+)\])?\}")
_OUTSIDE = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]|//")


def find_images(competition, key, rows, ids):
    """Find the image file of each row; of several matches the middle one in natural order.

    Args:
        competition: src.config.settings.Competition.
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
        for row, path in enumerate(_match_rows(root, pattern, key, rows, ids)):
            if path:
                yield path
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


def find_present(competition, key, rows, ids):
    """Find the images as `find_images` does, but leave out the rows that have none.

    Returns: (is_present, paths): (N,) bool, and Paths of the images that are there.

    Raises:
        UserError: the pattern is wrong, or an image would be outside the root.
    """
    found = list(_match_rows(competition.root, getattr(competition, key), key, rows, ids))
    return np.array([bool(path) for path in found], dtype=bool), Paths.of(filter(None, found))


def _match_rows(root, pattern, key, rows, ids):
    """Yield the image file of each row, "" where there is none; arguments and errors are those of `find_images`."""
    folders = Folders(root)
    for row, path in enumerate(_fill(pattern, f"competition.{key}", rows)):
        may_lead_outside = ".." in path or "//" in path or ":" in path or path[:1] in ("/", "\\")
        if may_lead_outside and _OUTSIDE.search(path):  # which is slow
            raise UserError(
                f"{root}: the image of id '{ids[row]}' would be outside this folder ({path.replace(STAR, '*')}); "
                f"correct the id or competition.{key}, now {pattern}"
            )
        found = _match_in_any_form(folders, path)
        yield f"{root}/{found[0] if len(found) == 1 else _middle(found)}" if found else ""


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
    folders, base = Folders(root), _fixed_folder(pattern)
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


def _fill(pattern, where, rows):
    """Return an iterator of each row's path: the pattern with the row's values, and stars."""
    _check_pattern(pattern, where)
    texts = [text.replace("*", STAR) for text in _PLACE.split(pattern)[::3]]
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
    return _PLACE.sub(STAR, pattern).replace("*", STAR)


def _fixed_folder(pattern):
    """Return the pattern's leading folders, up to the first that varies."""
    return re.split(r"[{*]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _middle(paths):
    return sorted(paths, key=_natural)[len(paths) // 2]


def _natural(text):
    """A sorting key that counts: 2 before 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", text))]
