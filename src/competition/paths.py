"""Path patterns -> image files.

A pattern is relative to the competition's root, or absolute: {column} is a row's value, {column[0]} a letter of it, and
* anything within one name. Of several patterns the one that has a row's image counts. A pattern that ends in * finds
only images, by their suffix; .* at its end is the suffix of one. A zip, HDF5 or parquet file is a folder:
train.zip/{id}.jpg. A pattern or the root may be a URL; a row's values make none, and lead out of no folder.

Where competition.images is set a row has several files, of every pattern: its path is theirs, joined by JOIN.
"""

import os
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from operator import itemgetter
from urllib.parse import quote

import numpy as np
import pandas as pd

from src.competition.image_files import JOIN, STAR, FileTree, Paths, is_image, read_three
from src.containers import SUFFIXES, list_folder
from src.errors import UserError, listing, nearest
from src.remote import HTTP, is_url

_UNREAD = (".tfrec", ".tfrecord", ".lmdb")  # may hold images
_PLACE = re.compile(r"\{([^{}\[\]:!.]+)(?:\[(\d+)\])?\}")
_OUTSIDE = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]|//")


class NoImagesError(UserError):
    """No image at all was found, as of a hidden test set before it is scored."""


def find_images(competition, key, rows, ids):
    """Return the Paths of each row's image, by the pattern train_image or test_image, `key`; rows is a table of str."""
    is_present, paths = find_present(competition, key, rows, ids)
    if not is_present.all():
        first, (name, patterns) = np.flatnonzero(~is_present)[:1], choose_patterns(competition, key)
        found = f"{(~is_present).sum()} of {len(rows)} ids have no image (first: {ids[first[0]]})"
        if competition.images and len(patterns) > 1:  # which of them is it
            of_first = (next(_match_pattern(competition, name, one, rows.iloc[first], ids[first])) for one in patterns)
            patterns = [one for one, files in zip(patterns, of_first, strict=True) if not files]
            found = f"{(~is_present).sum()} of {len(rows)} ids lack an image (first: {ids[first[0]]}, of {patterns[0]})"
        where = ", ".join(locate(competition.root, _fixed_folder(one)).rstrip("/") for one in patterns)
        is_none = not is_present.any() and patterns == choose_patterns(competition, key)[1]
        raise (NoImagesError if is_none else UserError)(f"{where}: {found}; {_advise(competition, key)}")
    check_counts(competition, key, paths, ids)
    return paths


def check_counts(competition, key, paths, ids):
    """Check that all rows have as many images, where competition.images is set without num_images."""
    counts = [path.count(JOIN) + 1 for path in paths] if competition.images and not competition.num_images else []
    if len(known := Counter(counts).most_common()) > 1:
        found = listing([f"{count} ({num} rows, as {ids[counts.index(count)]})" for count, num in known], 3)
        advice = f"set competition.num_images={min(sorted(counts)[len(counts) // 2], 16)}, so many of each are read"
        raise UserError(f"{word(competition, key)}: rows have different numbers of images, {found}; {advice}")


def choose_patterns(competition, key):
    """Return (setting, patterns) that the images of train_image or test_image, `key`, are found by."""
    if competition.images is None or (key == "test_image" and competition.test_image != type(competition).test_image):
        return key, list_patterns(getattr(competition, key))
    name = lambda found: {"Train": "Test", "TRAIN": "TEST"}.get(found[0], "test")  # noqa: E731
    as_test = partial(re.sub, r"(?i)train(?![^{]*\})", name if key == "test_image" else r"\g<0>")  # but for {columns}
    return "images", [as_test(one) for one in list_patterns(competition.images)]


def word(competition, key):
    """Return the setting that `choose_patterns` takes as a word to paste."""
    name, patterns = choose_patterns(competition, key)
    return f"competition.{name}={patterns[0] if len(patterns) == 1 else '[' + ', '.join(patterns) + ']'}"


def settle_num_images(config, paths):
    """Return the config with competition.num_images as the rows have it, where several images a row leave it null."""
    competition = config.competition
    count = competition.num_images or (paths[0].count(JOIN) + 1 if competition.images else None)
    return replace(config, competition=replace(competition, num_images=count))


def find_present(competition, key, rows, ids):
    """Return (is_present, paths) as `find_images` would: (N,) bool, and Paths of the images that are there."""
    paths = Paths.of(_match_rows(competition, key, rows, ids))
    is_present = paths._encoded != b""
    files, lost = read_three(paths, ids)
    if lost and len(lost) == len(files):  # else a single one, of which unreadable=skip may decide
        raise UserError(lost[0])
    return is_present, paths if is_present.all() else paths[is_present]


def list_images(competition, key):
    """Return (rows, paths) of the images that fit a pattern, in natural order, where no table names the rows.

    The rows are a table of str: what the pattern's {names} are in each path, and unless it has it, the column
    competition.id: the path below the fixed folder, of several patterns below the root.
    """
    patterns = choose_patterns(competition, key)[1]
    listed = [_list_pattern(competition, key, one) for one in patterns]
    if competition.images:
        return _join_listed(competition, key, listed)
    if len(listed) == 1:
        return listed[0]
    rows, paths = zip(*listed, strict=True)
    rows, paths = pd.concat(rows, ignore_index=True), Paths.of(chain(*paths))
    if not any(competition.id in list_places(one) for one in patterns):
        rows[competition.id] = [path.removeprefix(f"{competition.root}/") for path in paths]
    return rows, paths


def _join_listed(competition, key, listed):
    """Return (rows, paths) of the files that each pattern found: those whose {names} are alike are of one row."""
    patterns, names, files = choose_patterns(competition, key)[1], list(listed[0][0]), {}
    if any({competition.id, *names} != set(list_places(one)) for one in patterns):
        advice = f"write {{{competition.id}}}, and the same names, in each pattern"
        raise UserError(f"{word(competition, key)}: no table says which images are of one row; {advice}")
    for place, (rows, paths) in enumerate(listed):
        for row, path in zip(rows[names].itertuples(index=False, name=None), paths, strict=True):
            files.setdefault(row, [[] for _ in listed])[place].append(path)
    for row in (row for row, found in files.items() if not all(found)):
        lacks = f"no image of {'/'.join(row)} by {patterns[files[row].index([])]}"
        raise UserError(f"{competition.root}: {lacks}; {_advise(competition, key)}")
    rows = pd.DataFrame(list(files), columns=names, dtype=str)
    paths = Paths.of(_join(chain(*found), competition.num_images) for found in files.values())
    check_counts(competition, key, paths, rows[competition.id].tolist())
    return rows, paths


def _join(files, count):
    """Return the path of a row's files: of `count` of them, the middles of as many equal parts; None: of all."""
    files = list(files)
    places = range(len(files)) if count is None else ((2 * one + 1) * len(files) // (2 * count) for one in range(count))
    return JOIN.join(files[place] for place in places)


def _list_pattern(competition, key, pattern):
    """Return `list_images` of one pattern."""
    _check_pattern(pattern, f"competition.{choose_patterns(competition, key)[0]}")
    root, pattern = _split_root(competition.root, pattern)
    tree, top = FileTree(root), _fixed_folder(pattern)
    names, read = _compile_reader(pattern)
    fitting = tree.match(_PLACE.sub(STAR, pattern).replace("*", STAR))
    # what test_image finds in a folder of its own, beside the class folders, is no class
    for one in choose_patterns(competition, "test_image")[1] if key == "train_image" else ():
        test_root, tested = _split_root(competition.root, one)
        if test_root == root and _fixed_folder(tested) not in ("", top):
            fitting = sorted(set(fitting) - set(tree.match(_PLACE.sub(STAR, tested).replace("*", STAR))))
    found = [(path, match) for path in fitting if is_image(path) and (match := read(path))]
    found.sort(key=lambda one: natural_key(one[0]))
    if not found:
        raise NoImagesError(f"{root}/{top}".rstrip("/") + f": no image found there; {_advise(competition, key)}")
    rows = pd.DataFrame({name: [match[index + 1] for _, match in found] for index, name in enumerate(names)}, dtype=str)
    if competition.id not in rows:
        rows[competition.id] = [path[len(top) :].lstrip("/") for path, _ in found]
    return rows, Paths.of(f"{root}/{path}" for path, _ in found)


def _advise(competition, key):
    """Return what to do where images are missing: they may be packed, or the pattern is wrong."""
    (name, patterns), names = choose_patterns(competition, key), set()
    near = [one for one in patterns if not is_url(locate(competition.root, one))]
    for root, pattern in (_split_root(competition.root, one) for one in near):
        names.update(*FileTree(root).list_folder(""), *FileTree(root).list_folder(_fixed_folder(pattern)))
    found = {name: None for name in names if name.lower().endswith(_UNREAD)}  # container -> a pattern of its images
    inside = {name: _name_inside(competition, name) for name in names if name.lower().endswith(SUFFIXES)}
    found |= {name: pattern for name, pattern in inside.items() if pattern}
    packed = sorted(name for name in found if key.partition("_")[0] in name.lower()) or sorted(found)
    advice = f"check competition.{name}, now {', '.join(patterns)}"
    if (name, key) == ("images", "test_image"):
        advice = f"set competition.test_image, which as competition.images says would be {', '.join(patterns)}"
    if not packed:
        return advice
    how = f"name them, as {found[packed[0]]}" if found[packed[0]] else "extract them as files"
    return f"images may be inside {listing(packed, 3)}: {how}, else {advice}"


def _name_inside(competition, folder):
    """Return a pattern of the images in a container, which may lie in folders; "" where there are none."""
    with suppress(UserError):  # which names the library that is missing, or the damage, once it is read
        files, folders = list_folder(f"{competition.root}/{folder}")
        images = sorted(name for name in files if is_image(f"{folder}/{name}"))
        if images:
            return f"{folder}/{{{competition.id}}}{os.path.splitext(images[0])[1]}"
        return next(filter(None, (_name_inside(competition, f"{folder}/{name}") for name in sorted(folders))), "")
    return f"{folder}/{{{competition.id}}}"


def list_patterns(patterns):
    """Return the patterns of a setting, which is one or a list."""
    return [patterns] if isinstance(patterns, str) else list(patterns)


def locate(root, path):
    """Return where a path of a competition file leads: below the root, or where it says if it is absolute or has ~."""
    return path if is_url(path) else os.path.join(root, os.path.expanduser(path))


def _split_root(root, pattern):
    """Return (root, pattern) where no pattern is absolute or a URL: of such a one the root is its fixed folder."""
    pattern = os.path.expanduser(pattern)
    if not (os.path.isabs(pattern) or is_url(pattern)):
        return root, pattern
    top = _fixed_folder(pattern)
    return top, pattern[len(top) + 1 :]


def _match_rows(competition, key, rows, ids):
    """Return an iterable of each row's path, "" where there is none; an image that two patterns have is refused."""
    name, patterns = choose_patterns(competition, key)
    found = (_match_pattern(competition, name, pattern, rows, ids) for pattern in patterns)
    if competition.images:
        count = competition.num_images
        return (_join(chain(*files), count) if all(files) else "" for files in zip(*found, strict=True))
    found = [(files[len(files) // 2] if files else "" for files in one) for one in found]  # of several the middle one
    if len(patterns) == 1:
        return found[0]
    if any(_split_root(competition.root, pattern)[0].startswith(HTTP) for pattern in patterns):
        unknown = "http lists no files, so that of several patterns none is known to have an image"
        raise UserError(f"{word(competition, key)}: {unknown}; write one, with a column of the table that tells")
    found = list(map(list, found))
    for row, paths in enumerate(zip(*found, strict=True)):
        if len(both := sorted(set(paths) - {""})) > 1:
            twice = f"id '{ids[row]}' has an image by two patterns ({listing(both)})"
            raise UserError(f"competition.{key}: {twice}; leave out one pattern, or move one of the images away")
    return map(max, zip(*found, strict=True))  # all others are ""


def _match_pattern(competition, key, pattern, rows, ids):
    """Yield each row's files by one pattern of a setting, `key`, in natural order."""
    where = f"competition.{key}"
    _check_pattern(pattern, where)
    root, pattern = _split_root(competition.root, pattern)
    tree, is_one_file = FileTree(root), pattern.endswith(".*") and pattern.count("*") == 1 and not competition.images
    if "*" in pattern.rpartition("/")[2].removesuffix(".*"):
        _check_one_row(tree, pattern, where, fill_pattern(pattern, where, rows))
    for row, path in enumerate(fill_pattern(pattern, where, rows)):
        if _OUTSIDE.search(path):
            found = f"the image of id '{ids[row]}' would be outside this folder ({path.replace(STAR, '*')})"
            raise UserError(f"{root}: {found}; correct the id or {where}, now {pattern}")
        found = tree.match(path)
        if not found and not path.isascii():  # a Mac writes names decomposed, a table has them composed
            found = tree.match(unicodedata.normalize("NFC", path)) or tree.match(unicodedata.normalize("NFD", path))
        if len(found) > 1 and is_one_file:  # as an image and its mask
            several = f"id '{ids[row]}' has several images ({listing(sorted(found))})"
            raise UserError(f"{where}={pattern}: {several}; write the suffix of one in place of .*")
        found = sorted(found, key=natural_key) if len(found) > 1 else found
        found = map(quote, found) if root.startswith(HTTP) else found  # so that ? and % lead to no other folder
        yield [f"{root}/{one}" for one in found]


def _check_one_row(tree, pattern, where, paths):
    """Check that no two rows of other names find one image: {id}*.jpg finds 10.jpg for the id 1, too."""
    parts = [path.rpartition("/") for path in set(paths) if not _OUTSIDE.search(path)]
    for cut in (lambda name: name.partition(STAR)[0], lambda name: name.rpartition(STAR)[2][::-1]):
        for (folder, start, one), (other, longer, another) in pairwise(sorted((a, cut(b), b) for a, _, b in parts)):
            is_within = folder == other and start != longer and longer.startswith(start)
            both = {*tree.match(f"{folder}/{one}")} & {*tree.match(f"{folder}/{another}")} if is_within else ()
            if both:
                found = f"{min(both)} is of two rows, {one} and {another}".replace(STAR, "*")
                raise UserError(f"{where}={pattern}: {found}; write what stands between the column and *")


def list_places(pattern):
    """Return the columns that a pattern names."""
    return [name for name, _ in _PLACE.findall(pattern)]


def fill_pattern(pattern, where, rows):
    """Return an iterator of each row's path: the pattern with the row's values, and stars."""
    _check_pattern(pattern, where)
    texts = [text.replace("*", STAR) for text in _PLACE.split(pattern)[::3]]
    places = _PLACE.findall(pattern)
    if not places:
        raise UserError(f"{where}={pattern}: all rows would get one image; name a column, for example {{id}}")
    columns, cells = {}, []
    for name, letter in places:
        if name not in rows:
            found = f"no column {name!r} (found {listing(rows.columns)})"
            raise UserError(f"{where}={pattern}: {found}{nearest(name, rows.columns) or '; name one of these'}")
        if name not in columns:
            columns[name] = rows[name].fillna("").tolist()
        cells.append(map(itemgetter(slice(int(letter), int(letter) + 1)), columns[name]) if letter else columns[name])
    # the pattern's own texts hold no braces, as _check_pattern has seen
    return map("{}".join(texts).format, *cells)


def _compile_reader(pattern):
    """Return (names, read): the match of read(path) has a group for each of the pattern's {names}.

    A name takes as much as it can, a star as little: {label}_*.jpg finds golden_retriever in golden_retriever_12.jpg.
    """
    names, text = [], ""
    for part in re.split(r"(\{[^}]*\}|\*)", pattern.removesuffix(".*")):
        if part == "*" or part.endswith("]}"):
            text += "[^/]*?"
        elif not part.startswith("{"):
            text += re.escape(part)
        elif part in names:
            text += f"\\{names.index(part) + 1}"
        else:
            text += "([^/]+)"
            names.append(part)
    read = re.compile(text + (r"\.[^./]*" if pattern.endswith(".*") else "")).fullmatch
    return [name[1:-1] for name in names], read


def _check_pattern(pattern, where):
    if re.search(r"[{}]", _PLACE.sub("", pattern)):
        advice = "in braces write a column, or a letter of it such as {id[0]}"
        raise UserError(f"{where}={pattern}: not a pattern; {advice}")
    path = pattern.partition("://")[2] if is_url(pattern) else os.path.expanduser(pattern).removeprefix("/")
    if _OUTSIDE.search(path):
        raise UserError(f"{where}={pattern}: leads outside competition.root; write a path below it")


def _fixed_folder(pattern):
    """Return the pattern's leading folders, up to the first that varies."""
    return re.split(r"[{*]", pattern, maxsplit=1)[0].rpartition("/")[0]


def natural_key(text):
    """Return a sorting key that counts: 2 before 10."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", text))]
