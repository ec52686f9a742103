"""Recognises several images a row: a folder of slices, numbered files, a file for each colour or side."""

import io
import re
from bisect import bisect_left
from collections import Counter
from contextlib import suppress
from pathlib import PurePosixPath
from statistics import median

from src.competition.image_files import IMAGE_SUFFIXES
from src.competition.paths import fill_pattern, list_places, natural_key
from src.containers import read_file
from src.errors import listing
from tools.adopt.patterns import DICOM_SUFFIXES
from tools.adopt.tables import spread

# words at the end of files' names, in their natural order
COLOURS = ("red", "green", "blue", "yellow")
SIDES = ("left", "right", "l", "r", "cc", "mlo", "frontal", "lateral", "front", "back", "top", "bottom")
_MANY = 32  # images a row, from which 16 are read instead of 8
_MOST_READ = 16
_MOST_LOOKED_AT = 50  # rows, and slices of one


def decide_several(layout, table, rows, test_table=None):
    """Decide competition.images where each row has several; train_image stays, for images=null.

    table: of the training rows; rows: those that are looked at; test_table: of the test rows.
    """
    pattern, test = layout.value("train_image"), layout.value("test_image")
    if not isinstance(pattern, str) or "}" not in pattern:
        return
    folders = {folder: sorted(names) for folder, names in layout.files.images.items()}
    if "*" in pattern.rpartition("}")[2].removesuffix(".*"):
        counts = _count_files(pattern, rows, folders)
        if counts and median(counts) > 1:
            why = "all files of a row's folder" + (", of all its series" if "/*/" in pattern else "")
            _decide(layout, pattern, counts, why)
            _doubt_series(layout, pattern, rows, folders)
            if family := _find_test_family(test, test_table, folders):
                layout.decide(
                    "test_image", test.rpartition("}")[0] + "}" + family[1][0], "numbered files of a row, as images"
                )
        return
    family = find_family(pattern, rows, folders, _list_stems(pattern, table))
    if family is None:
        return
    kind, ends, counts = family
    start = pattern.rpartition("}")[0] + "}"
    if isinstance(test, str) and "}" in test and "/" not in test.rpartition("}")[2]:  # else it names them, or images do
        ends_of_test = (_find_test_family(test, test_table, folders) or family)[1]
        test = [test.rpartition("}")[0] + "}" + end for end in (ends_of_test if kind == "numbers" else ends)]
        layout.decide("test_image", test[0] if len(test) == 1 else test, "as images")
    patterns = [start + end for end in ends]
    layout.doubts[:] = [one for one in layout.doubts if not one.startswith(f"{pattern} reads one of several files")]
    if kind == "numbers":
        layout.decide("train_image", patterns[0], "of a row's files the middle one, where images is null")
        _decide(layout, patterns[0], counts, "numbered files of a row")
        return
    layout.decide("images", patterns, f"a file for each {kind} of a row; null: train_image alone")
    if kind == "colour":
        layout.decide("images_as", "channels", "one image, of a channel a file")
        layout.decide("channels", 1, "of each file")
    else:
        layout.decide("images_as", "max", "of features: one of them may show it; or mean, attention, channels")


def _find_test_family(pattern, table, folders):
    """Return `find_family` of numbered files by a pattern of test images that names one; None: there are none."""
    if not isinstance(pattern, str) or "}" not in pattern or table is None:
        return None
    if "*" in pattern.rpartition("}")[2]:
        return None
    family = find_family(pattern, spread(table), folders, _list_stems(pattern, table))
    return family if family and family[0] == "numbers" else None


def _list_stems(pattern, table):
    """Return the names, without suffix, that the last column of a pattern holds."""
    return {PurePosixPath(one).stem for one in table[list_places(pattern)[-1]].dropna()}


def _doubt_series(layout, pattern, rows, folders):
    """Say where rows have more series than one, and slices in another order than their names have."""
    parts = re.fullmatch(r"(.*\}[^/]*)(?:/([^/*]+))?/[^/]*\*(.*)", pattern)
    if parts is None:
        return
    head, folder, end = parts.groups()
    tops = list(fill_pattern(head, "competition.images", rows[:_MOST_LOOKED_AT]))
    beside = {one[len(top) + 1 :].partition("/")[0] for top in tops for one in folders if one.startswith(f"{top}/")}
    if folder and (beside := sorted(beside - {folder})):
        others = f"rows have files in {listing(beside)} beside {folder}, too, which are not read"
        layout.doubts.append(f"{others}; competition.images and test_image take lists of such patterns")
    for place in (f"{top}/{folder}" if folder else top for top in tops if end.lower().endswith(DICOM_SUFFIXES)):
        names = sorted(folders.get(place, ()), key=natural_key)
        numbers = [_read_number(f"{layout.folder}/{place}/{one}") for one in names[:_MOST_LOOKED_AT]]
        if len(numbers) > 2 and None not in numbers:
            if numbers not in (sorted(numbers), sorted(numbers, reverse=True)):
                found = f"{place}: by name its slices are in another order than by InstanceNumber"
                advice = "the middle one and evenly spaced ones are any until the files are renamed"
                layout.doubts.append(f"{found} ({', '.join(map(str, numbers[:4]))} ...); {advice}")
            return


def _read_number(path):
    """Return a DICOM file's InstanceNumber; None: it has none, or cannot be read."""
    from pydicom import dcmread  # here, as it takes a while

    with suppress(Exception):  # whatever a broken file makes it raise; the doctor names it
        return int(dcmread(io.BytesIO(read_file(path)), stop_before_pixels=True, force=True).InstanceNumber)
    return None


def _decide(layout, pattern, counts, why):
    least, most = min(counts), max(counts)
    layout.decide("images", pattern, f"{why}, {least if least == most else f'{least} to {most}'}; null: one of them")
    if least != most or most > _MOST_READ:
        number = _MOST_READ if median(counts) >= _MANY else min(8, round(median(counts)))
        layout.decide("num_images", number, "of a row's, evenly spaced in the order of names; more cost more time")
    layout.decide("images_as", "max", "of features: one of them may show it; or mean, attention, channels")


def _count_files(pattern, rows, folders):
    """Return how many images each row has by a pattern with stars."""
    counts, parts = Counter(), re.split(r"(\{[^}]*\}|\*)", pattern)
    read = "".join("[^/]*" if one == "*" else "([^/]+)" if one.startswith("{") else re.escape(one) for one in parts)
    for folder, names in folders.items():
        for name in names:
            if found := re.fullmatch(read, f"{folder}/{name}".lstrip("/")):
                counts[found.groups()] += 1
    values = (fill_pattern(one, "competition.images", rows) for one in parts if one.startswith("{"))
    return [counts[key] for key in zip(*values, strict=True) if key in counts]


def find_family(pattern, rows, folders, known=frozenset()):
    """Return (kind, ends, counts) of files that begin as a row's image does, up to the last {column}; None: none.

    kind is colour, side or numbers; ends are what follows the column, one pattern for each colour and side, and of
    numbers one with a star; counts how many such files rows have. known: names that are of other rows.
    """
    head, _, own = pattern.rpartition("}")
    if "/" in own:
        return None
    ends, suffix = [], PurePosixPath("x" + own.replace("*", "")).suffix.lower()
    for path in fill_pattern(head + "}", "competition.images", rows):
        folder, _, start = path.rpartition("/")
        listed, found = folders.get(folder, []), []
        for name in listed[bisect_left(listed, start) :]:
            if not name.startswith(start):
                break
            is_own = PurePosixPath(name).stem not in known and name.lower().endswith(suffix or IMAGE_SUFFIXES)
            found += [name[len(start) :]] if is_own and re.match("[-_. ]", name[len(start) :]) else []
        if found:
            ends.append(found)
    if not ends or sum(len(found) > 1 for found in ends) < 0.5 * len(ends):
        return None
    counts, every = [len(found) for found in ends], {end for found in ends for end in found}
    of_word = {PurePosixPath("x" + end).stem[2:].lower(): end for end in every}
    if len(of_word) == len(every):
        for kind, words in (("colour", COLOURS), ("side", SIDES)):
            if set(of_word) <= set(words) and min(counts) == len(every):
                return kind, [of_word[word] for word in words if word in of_word], counts
    signs, suffixes = {end[0] for end in every}, {PurePosixPath("x" + end).suffix for end in every}
    if len(signs) == 1 and signs != {"."} and all(word.isdigit() for word in of_word):
        return "numbers", [f"{min(signs)}*{min(suffixes) if len(suffixes) == 1 else '.*'}"], counts
    return None
