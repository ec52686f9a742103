"""Path patterns inferred from the files on disk: which pattern leads from a row, or from a label, to its image.

Folders are {relative folder: [file names]}. Every match of a value and a path proposes the patterns that explain it;
the pattern that explains most rows, with the fewest wildcards, wins.
"""

import itertools
import re
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

DICOM_SUFFIXES = (".dcm", ".dicom")

# Beginnings of the words that name a folder's role (training, tests).
_ROLE_WORDS = {"train": ("train",), "test": ("test",), "val": ("val", "dev")}
# Folders that hold something other than the images of a row.
_SIDE_WORDS = ("mask", "seg", "annot", "label", "thumb", "preview", "heatmap")
_NO_NAME = re.compile(r"[{}\[\]:!.]")  # a column with one of these cannot be named in a pattern
_MOST_LETTERS = 4  # of a value, that a folder is named by
_STAR = 100  # cost of a wildcard folder: any pattern without one is preferred


@dataclass(frozen=True)
class Match:
    """A pattern (several: a row's image is at one of them), and the share of the rows tried that have an image there.

    `padding` is the length to which the names on disk are padded with zeros that the values do not have, or 0;
    `covered` the numbers of the rows tried that have an image.
    """

    pattern: str | list[str]
    share: float
    padding: int = 0
    covered: frozenset[int] = frozenset()

    @property
    def patterns(self):
        return [self.pattern] if isinstance(self.pattern, str) else self.pattern


def is_side(folder):
    """Whether a folder or pattern holds something other than the images: masks, thumbnails ..."""
    return any(word.startswith(_SIDE_WORDS) for word in re.findall("[a-z]+", folder.lower()))


def roles(path):
    """Return the set of train, test, val that the words of a path or pattern name; {columns} do not count."""
    words = re.findall("[a-z]+", re.sub(r"\{[^}]*\}", " ", str(path)).lower())
    return {role for role, starts in _ROLE_WORDS.items() if any(word.startswith(starts) for word in words)}


def match_column(rows, column, folders, role, shared=False, suffix=""):
    """Find the pattern that leads from a column's values to the images of `role` (train or test).

    Args:
        rows: table of str; a few hundred rows are enough.
        folders: {relative folder: [file names]}.
        shared: a folder named after the other role may hold these images too.
        suffix: of the other role's images; files of the same kind are preferred.

    Returns: the best `Match`, or None when no value is found on disk.
    """
    if _NO_NAME.search(column):
        return None
    rows = rows.map(_compose)
    folders = {_compose(folder): list(map(_compose, names)) for folder, names in folders.items()}
    other = {"train": "test", "test": "train"}[role]
    if not shared:
        folders = {folder: names for folder, names in folders.items() if other not in roles(folder) - {role}}
    found = _propose(rows, column, folders)
    found = {pattern: hit for pattern, hit in found.items() if shared or other not in roles(pattern) - {role}}
    if not found:
        return None
    enough = min(0.5, max(len(covered) for covered, _ in found.values()) / len(rows))
    found = {pattern: hit for pattern, hit in found.items() if len(hit[0]) / len(rows) >= enough}

    def rank(pattern):
        covered, cost = found[pattern]
        return (
            bool(roles(pattern) - {role}),
            cost >= _STAR,
            is_side(pattern),
            not pattern.endswith(suffix),
            -round(len(covered) / len(rows), 2),
            role not in roles(pattern),
            cost,
            pattern.lower().endswith(DICOM_SUFFIXES),
            pattern.count("/"),
            pattern,
        )

    best = min(found, key=rank)
    padding = re.search(r":0>(\d+)\}", best)
    covered = frozenset(found[best][0])
    return Match(re.sub(r":0>\d+", "", best), len(covered) / len(rows), int(padding[1]) if padding else 0, covered)


def _compose(text):
    """Return text with each letter and its accents as one character, as in a table but not in a Mac's file names."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def match_labels(folders):
    """Find the pattern that reads labels from folder or file names, and how many images each label has.

    Returns: (pattern with {label}, Counter of labels), or None when the names hold no labels.
    """
    fixed, varying = _split_folders(folders)
    if varying:
        labels = Counter()
        for folder, names in folders.items():
            parts = PurePosixPath(folder).parts
            if len(parts) == len(fixed) + len(varying):
                labels[parts[len(fixed)]] += len(names)
        return "/".join([*fixed, "{label}", *varying[1:], "*"]), labels
    names = [name for names in folders.values() for name in names]
    suffix = _one_or_star({PurePosixPath(name).suffix for name in names}, ".*")
    stems = [PurePosixPath(name).stem for name in names]
    for sign in "._- ":
        for label_first in (True, False):
            parts = [stem.rpartition(sign) if label_first else stem.partition(sign)[::-1] for stem in stems]
            labels = Counter(label for label, _, number in parts if label and number.isdigit() and not label.isdigit())
            if len(labels) >= 2 and labels.total() >= 0.9 * len(stems) and len(labels) <= labels.total() / 2:
                name = "{label}" + sign + "*" if label_first else "*" + sign + "{label}"
                return "/".join([*fixed, name + suffix]), labels
    return None


def find_siblings(pattern, table, rows, folders):
    """Return sentences on files that have a row's id in their name beside the one that is read, where many rows do.

    rows: those of the table that are looked at; a file that another row of the table names is no such file.
    """
    last = pattern.rpartition("/")[2] if isinstance(pattern, str) else "*"
    column = re.search(r"\{([^}\[]+)\}", last)
    if "*" in last.removesuffix(".*") or column is None:
        return []
    names = {_compose(folder): sorted(map(_compose, names)) for folder, names in folders.items()}
    known, found = set(table[column[1]]), []
    for row in rows.to_dict("records"):
        more = _list_siblings(pattern, column, row, names)
        found += [more] if (more := [one for one in more if PurePosixPath(one).stem not in known]) else []
    if len(found) < 0.05 * len(rows):
        return []
    share, shown = round(100 * len(found) / len(rows)), ", ".join(found[0][:3])
    which = "the others are not read; write another pattern to read another one"
    return [f"{pattern} reads one of several files: {share} % of the ids looked at have more (first: {shown}); {which}"]


def _list_siblings(pattern, column, row, names):
    """Return the names that begin with a row's id, as a whole word, and are of another stem than its image's."""
    fill = lambda hit: row[hit[1]][int(hit[2] or 0) :][: 1 if hit[2] else None]  # noqa: E731
    folder, _, own = _compose(re.sub(r"\{([^}\[]+)(?:\[(\d+)\])?\}", fill, pattern)).rpartition("/")
    value = PurePosixPath(_compose(row[column[1]])).stem
    start = own[: own.index(value) + len(value)] if value in own else own
    listed = names.get(folder, [])
    first = bisect_left(listed, start)
    more = list(itertools.takewhile(lambda name: name.startswith(start), listed[first : first + 100]))
    stem = own.removesuffix(".*").removesuffix(_suffix(own))
    more = [one for one in more if not one[len(start) :][:1].isalnum() and PurePosixPath(one).stem != stem]
    return more if len(more) < 100 else []


def any_image(folders):
    """Return the pattern of all images in `folders`, a wildcard where they differ."""
    fixed, varying = _split_folders(folders)
    return "/".join([*fixed, *("*" for _ in varying), "*"])


def _split_folders(folders):
    """Return the folder names all paths begin with, and below them each level's one name, or * where it varies."""
    depth = Counter()
    for folder, names in folders.items():
        depth[len(PurePosixPath(folder).parts)] += len(names)
    depth = max(depth, key=lambda one: (depth[one], -one))  # a copy within the folder is deeper
    levels = list(zip(*(parts for one in folders if len(parts := PurePosixPath(one).parts) == depth), strict=True))
    levels = [_one_or_star(set(level), "*") for level in levels]
    first = levels.index("*") if "*" in levels else len(levels)
    return levels[:first], levels[first:]


def _one_or_star(values, star):
    return next(iter(values)) if len(values) == 1 else star


def _propose(rows, column, folders):
    """Return {pattern: (set of covered row numbers, cost)} of all patterns that explain a hit of a value."""
    records = rows.to_dict("records")
    others = [name for name in rows.columns if name != column and not _NO_NAME.search(name)]
    varying = [name for name in others if rows[name].nunique() > 1]
    wanted = defaultdict(list)  # last part of a value -> (row, the folders before it)
    for row, record in enumerate(records):
        lead, _, last = record[column].removeprefix("./").rpartition("/")
        if last:
            wanted[last].append((row, PurePosixPath(lead).parts))
    found = {}
    for read in (_read_exactly, _read_padded, _read_affixed, _read_both):
        for row, prefix, ends in _hits(wanted, column, folders, read):
            ways = [_ways_to_write(place, prefix, column, records[row], varying) for place in range(len(prefix))]
            for *parts, (end, end_cost) in itertools.product(*ways, ends):
                pattern = "/".join([*(text for text, _ in parts), end])
                cost = end_cost + (read is not _read_exactly) + sum(cost for _, cost in parts)
                found.setdefault(pattern, (set(), cost))[0].add(row)
        if any(len(covered) >= 0.99 * len(records) for covered, _ in found.values()):
            break
    return found


def _hits(wanted, column, folders, read):
    """Yield (row, folders before, [(rest of the pattern, cost)]) of each file or folder that is named like a value."""
    below = defaultdict(lambda: defaultdict(set))  # what lies under folders named like a value, level by level
    under = []
    for folder, names in folders.items():
        parts = PurePosixPath(folder).parts
        for place, part in enumerate(parts):
            for key, text in read(part, column):
                kind = (len(parts) - place, _suffix(names[0]))
                for row, lead in wanted.get(key, ()):
                    if not lead:
                        under.append((row, parts[:place], text, kind, parts[place + 1 :]))
                        for level, one in enumerate(parts[place + 1 :]):
                            below[kind][level].add(one)
                        below[kind]["file"].update(names if len(names) == 1 else ("1", "2"))
        for name in names:
            suffix = _suffix(name)
            for key, text in [(name, f"{{{column}}}")] * (read is _read_exactly) + [
                (key, text + suffix) for key, text in read(name.removesuffix(suffix), column)
            ]:
                for row, lead in wanted.get(key, ()):
                    if parts[len(parts) - len(lead) :] == lead:
                        ends = [(text, 0)] + ([(text.removesuffix(suffix) + ".*", 1)] if key != name else [])
                        yield row, parts[: len(parts) - len(lead)], ends
    for row, prefix, text, kind, own in under:
        levels = [_one_or_star(below[kind][level], "*") for level in range(kind[0] - 1)]
        last = _one_or_star(below[kind]["file"], "*" + kind[1])
        ends = [("/".join([text, *levels, last]), int("*" in levels))]
        yield row, prefix, ends + [("/".join([text, *own, last]), 0)] * ("*" in levels)


def _ways_to_write(place, prefix, column, record, varying):
    """Return [(text, cost)]: a folder's name as it is, as letters of the value, as another column, as anything."""
    part = prefix[place]
    letter = sum(len(one) == 1 for one in prefix[:place])
    ways = [(part, 0), ("*", _STAR)]
    for first in {0, letter}:
        if len(part) <= _MOST_LETTERS and part == record[column][first : first + len(part)]:
            ways.append(("".join(f"{{{column}[{first + index}]}}" for index in range(len(part))), len(part)))
    return ways + [(f"{{{other}}}", 2) for other in varying if record[other] == part]


def _read_exactly(stem, column):
    """The name is the value."""
    return [(stem, f"{{{column}}}")]


def _read_padded(stem, column):
    """The name is the value with zeros before it: 7 -> 00007."""
    return [(stem.lstrip("0") or "0", f"{{{column}:0>{len(stem)}}}")] if stem.isdigit() else []


def _read_affixed(stem, column):
    """The name is the value with a word before or after it: 7 -> img_7."""
    readings = []
    for place in (place for place, sign in enumerate(stem) if sign in "_-."):
        before, after = stem[:place], stem[place + 1 :]
        if before and after:
            readings += [(after, f"{stem[: place + 1]}{{{column}}}"), (before, f"{{{column}}}{stem[place:]}")]
    return readings


def _read_both(stem, column):
    """The name is the value with zeros and a word before it: 7 -> img_0007."""
    signs = re.fullmatch(r"(.*\D)(\d+)", stem)
    return [(key, signs[1] + text) for key, text in _read_padded(signs[2], column)] if signs else []


def _suffix(name):
    return PurePosixPath(name).suffix
