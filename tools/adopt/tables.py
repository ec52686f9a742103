"""Which of a folder's tables is what: the sample submission, the training rows, the test rows.

The sample submission decides first: it says what is predicted and for which ids. The training table is the one
whose ids lead to images on disk.
"""

import re
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path, PurePosixPath

from src.competition.tables import decode_table, is_count, read_content, read_table
from src.errors import UserError, listing
from tools.adopt.corrections import find_boxes, locate_images, pivot_long
from tools.adopt.patterns import Match, is_side, match_column, roles
from tools.adopt.readers import add_header, join_parts, read_json, read_lists

_NUM_ROWS = 300  # of a table, whose images are looked for on disk
_LEAST_DISTINCT = 0.02  # share of rows with an id of their own, where there are several rows an image
_MOST_PATTERNS = 6
_MOST_TEXTS = 500  # files of lists that are read, where no CSV leads to the images


@dataclass
class Sample:
    """The sample submission: its path, table, the column of ids, and the columns it asks for."""

    path: str | None
    table: object  # pandas table of str, or None
    id: str | None
    asked: list[str]
    ids: set[str]
    num_rows: int = 0


def read_tables(folder, paths, notes):
    """Read every CSV, its cells without outer blanks.

    Returns: ({relative path: table of str}, sentences on those that cannot be read as they are, {(path, column):
        sentence on its blanks}).
    """
    tables, doubts, blanks = {}, [], {}
    for path in paths:
        try:
            table = read_table(Path(folder) / path).fillna("").rename(columns=str.strip)
        except UserError as error:
            doubts.append(f"not read: {error}")
            continue
        if (headed := add_header(table)) is not None:
            notes[path].append(f"{path} has no header: its copy names the columns {listing(headed.columns)}")
            table = headed
        if len(table):
            tables[path] = table.apply(lambda cells: cells.str.strip())
            for name in table:
                if (is_changed := table[name] != tables[path][name]).any():
                    first = table[name][is_changed].iloc[0]
                    count = f"{is_changed.sum()} of {len(table)} cells of {name} in {path}"
                    blanks[path, name] = f"{count} have blanks at their ends (first: {first!r})"
        is_text = not path.lower().endswith(".parquet")
        if is_text and (encoding := decode_table(read_content(f"{folder}/{path}"), path)[1]) != "utf-8-sig":
            name = {"cp1252": "Windows-1252 (Latin-1)", "utf-16": "UTF-16"}[encoding]
            doubts.append(f"{path} is read as {name}, since it is not in UTF-8; look at its letters with accents")
    return tables, doubts, blanks


def read_others(folder, paths, notes):
    """Read tables of JSON and text, {relative path: table of str}; what each becomes is said in `notes`."""
    texts = [path for path in paths if path.lower().endswith(".txt")]
    tables = read_lists(folder, texts if len(texts) <= _MOST_TEXTS else [])
    for path in [path for path in paths if path.lower().endswith(".json")][:_MOST_TEXTS]:
        if (table := read_json(Path(folder) / path)) is not None and len(table):
            tables[path] = table
    for path in tables:
        what = f"{path} is no CSV"
        if "label" in tables[path] and PurePosixPath(path).stem in set(tables[path]["label"]):
            what = f"{path} and others beside it list the images of a label each"
        notes[path].append(f"{what}: the copy is a CSV of the columns {listing(tables[path].columns)}")
    return tables


def join_all(tables, notes, images):
    """Replace tables that are parts of one by the whole; those of parquet files with images name the file, too."""
    parts = {path: table for path, table in tables.items() if roles(_stem(path)) != {"test"}}
    for path, names in images.items():
        if path in parts and sum(re.sub(r"\d+", "", one) == re.sub(r"\d+", "", path) for one in parts) > 1:
            table, names = parts[path], set(names)
            for column in (one for one in table if set(table[one]) == names):
                parts[path] = table.assign(**{column: f"{PurePosixPath(path).name}/" + table[column]})
    for first, whole, others in join_parts(parts):
        notes[first].append(f"{listing([first, *others])} are parts of one table: the copy has the rows of all")
        tables[first] = whole
        for path in others:
            del tables[path]


def take_sample(tables, images):
    """Remove the sample submission from the tables and return it; its id is a column that other tables have too."""
    named = [path for path in tables if re.search("sample|submission", _stem(path))]
    named = [path for path in named if "train" not in roles(_stem(path))]
    path = min(named, key=lambda path: ("sample" not in _stem(path), path.count("/"), len(path), path), default=None)
    if path is None:
        return Sample(None, None, None, [], set())
    table = tables.pop(path)
    row_id = _choose_id(table, tables, images)
    asked = [name for name in table if name != row_id]
    if asked and table.columns[0] == asked[0] and is_count(table[asked[0]]):  # the index that a program has written
        asked, table = asked[1:], table.drop(columns=asked[0])
    return Sample(path, table, row_id, asked, set(table[row_id]), len(table))


def _choose_id(table, tables, images):
    """Return the sample's id: a column that other tables have too; of several, the one that does not count rows."""
    distinct = [name for name in table if table[name].is_unique]
    shared = [name for name in distinct if any(name in other for other in tables.values())]
    candidates = shared or distinct or list(table)
    named = [name for name in candidates if not re.fullmatch(r"unnamed: \d+|index|idx|row", name.lower().strip())]
    first, *others = named or candidates
    if others and is_count(table[first]):
        rows = spread(table)
        leading = [name for name in others if match_column(rows, name, images, "test", shared=True)]
        return next((name for name in leading if not is_count(table[name])), first)
    return first


def take_solution(tables):
    """Remove the solution (the labels of the test rows) from the tables and return its path, or None."""
    path = next((path for path in tables if "solution" in _stem(path)), None)
    tables.pop(path, None)
    return path


def choose_train(tables, sample, images, notes):
    """Return (path, (column, Match), rivals) of the table whose rows lead to training images; None, None without.

    Rivals are paths of others that do, and have the same columns. Tables are taken as they are if one leads there, else
    with a row per image where they have one per image and label, else with several rows an image, else by file names
    alone; a table that is replaced in `tables` has its sentences in `notes`, {path: [sentences]}.
    """
    found = _match_tables(tables, sample, images, 0.9) or _match_pivoted(tables, sample, images, notes)
    found = found or _match_tables(tables, sample, images, _LEAST_DISTINCT) or _match_located(tables, images, notes)

    def rank(path):
        table, words = tables[path], roles(_stem(path))
        return (
            -len(set(sample.asked) & set(table.columns)),
            any(set(table[name]) == sample.ids for name in table),
            bool(words - {"train"}),
            -round(found[path][1].share, 1),
            "train" not in words,
            path.count("/"),
            -len(table.columns),
            path,
        )

    best = min(found, key=rank, default=None)
    if best is not None and not notes[sample.path]:
        _widen_sample(sample, notes, set(tables[best]))
    rivals = [path for path in found if path != best and set(tables[path].columns) == set(tables[best].columns)]
    return best, found.get(best), rivals


def _match_tables(tables, sample, images, least):
    """Return {path: (column, Match)} of the tables that lead to training images."""
    found = {}
    for path, table in tables.items():
        if roles(_stem(path)) != {"test"} or len(tables) == 1:
            shared = bool(sample.ids) and not any(sample.ids & set(table[name]) for name in table)
            match = match_table(table.drop(columns=sample.asked, errors="ignore"), images, "train", shared, least)
            if match and match[1].share >= 0.5 and _names_many(table[match[0]], images):
                found[path] = match
    return found


def _names_many(values, images):
    """Whether a column has values enough to name images, and is not a class or a number that a file is called by."""
    return values.nunique() >= min(0.5 * len(values), 0.2 * sum(map(len, images.values())))


def _match_pivoted(tables, sample, images, notes):
    """As `_match_tables`, of long tables made wide; where they lead to images, they and the sample are replaced."""
    wide = {path: one for path, table in tables.items() if (one := pivot_long(table, list(table)))}
    found = _match_tables({path: table for path, (table, *_) in wide.items()}, sample, images, 0.9)
    if not found:
        return {}
    for path, (table, _, names) in wide.items():
        what = f"{path} has a row per image and label"
        notes[path].append(f"{what}; its copy has a row per image and a column of each of {len(names)} labels")
        tables[path] = table
    _widen_sample(sample, notes)
    return found


def _widen_sample(sample, notes, columns=None):
    """Make a row per image of a sample with a row per image and label; columns: that the labels must be; None: any."""
    one = pivot_long(sample.table, [sample.id]) if sample.path else None
    if one and (columns is None or set(one[2]) <= set(columns)):
        sample.table, _, sample.asked = one
        sample.ids = set(sample.table[sample.id])
        notes[sample.path].append("the sample's ids are <image>_<label>: submission.csv gets a row of each again")


def _match_located(tables, images, notes):
    """As `_match_tables`, of tables whose values name files in other words; they get a column of the files."""
    found = {}
    for path, table in list(tables.items()):
        rows = spread(table)
        shares = {}
        for name in (one for one in table if table[one].nunique() >= _LEAST_DISTINCT * len(table)):
            paths, _ = locate_images(rows[name], images, "train")
            shares[name] = sum(map(bool, paths)) / len(rows) if _names_many(table[name], images) else 0
        best = max(shares, key=shares.get, default=None)
        if best is not None and shares[best] >= 0.5 and roles(_stem(path)) != {"test"}:
            tables[path], match = _add_files(table, best, images, "train", False, notes[path])
            found[path] = best, match
    return found


def _add_files(table, column, images, role, shared, notes):
    """Return the table with a column of each row's file, and the Match that reads it."""
    paths, reasons = locate_images(table[column], images, role, shared)
    name = _free_name(table, "image_file")
    first = next(index for index, path in enumerate(paths) if path)
    shown = listing(reasons or ["a name that no pattern can hold"], 3)
    shown = f"{shown} (first: {table[column].iloc[first]!r} for {paths[first]})"
    notes.append(f"{column} names the {role} images with {shown}; the copy's {name} has the files")
    covered = frozenset(index for index, path in enumerate(paths) if path)
    return table.assign(**{name: paths}), Match(f"{{{name}}}", len(covered) / len(paths), 0, covered)


def refine(table, column, match, images, role, shared, notes, suffix=""):
    """Improve a match that misses rows or needs zeros: by further patterns, or by a column more.

    suffix: of `match_column`.

    Returns: (table, Match); what is added to the table is said in `notes`.
    """
    if match.padding:
        name, count = _free_name(table, f"{column}_padded"), match.padding
        found = f"the {role} images' names are padded with zeros to {count} digits, {column} is not"
        notes.append(f"{found}; the copy's {name} is")
        pattern = match.pattern.replace(f"{{{column}}}", f"{{{name}}}")
        table = table.assign(**{name: table[column].str.zfill(count)})
        return table, Match(pattern, match.share, 0, match.covered)
    if "{image_file}" in match.pattern:
        return table, match
    rows, patterns, covered = spread(table), [match.pattern], set(match.covered)
    while len(covered) < len(rows) and len(patterns) < _MOST_PATTERNS:
        rest = [index for index in range(len(rows)) if index not in covered]
        more = match_column(rows.iloc[rest], column, images, role, shared, suffix)
        if more is None or more.share < 0.1 or more.padding or is_side(more.pattern) or roles(more.pattern) - {role}:
            break
        patterns.append(more.pattern)
        covered |= {rest[index] for index in more.covered}
    if len(covered) < len(rows) and "*" not in match.pattern:
        paths, _ = locate_images(rows[column], images, role, shared)
        if sum(map(bool, paths)) > len(covered):
            return _add_files(table, column, images, role, shared, notes)
    if len(patterns) == 1:
        return table, match
    return table, Match(patterns, len(covered) / len(rows), 0, frozenset(covered))


def _free_name(table, name):
    return next(one for one in (name, *(f"{name}_{number}" for number in range(2, 100))) if one not in table)


def choose_test(tables, sample, columns):
    """Remove the test table and return (path, table): the one with the sample's ids, else the one of that name."""
    for path in sorted(tables, key=lambda path: ("test" not in roles(_stem(path)), path)):
        table = tables[path]
        same = find_sample_key(table, sample.ids) is not None
        named = "test" in roles(_stem(path)) and any(name in table for name in columns)
        if same if sample.ids else named:
            return path, tables.pop(path)
    return None, None


def find_sample_key(table, ids, train=()):
    """Return the column, or {a}_{b} of two, whose values are the sample's ids; None where there is none.

    train: the training table's columns. A column that names each row comes first, then what training has, too, since
    its rows can then be grouped alike.
    """
    names = [name for name in table if not re.search(r"[{}]", name)]
    pairs = [f"{{{one}}}{sign}{{{other}}}" for one, other in permutations(names, 2) for sign in "_-"]

    def rank(key):
        return not (key in table and table[key].is_unique), bool(set(_columns_of(key)) - set(train))

    for key in sorted([*table, *pairs], key=rank):
        if (values := table.get(key)) is None:
            one, sign, other = re.fullmatch(r"\{(.+)\}([_-])\{(.+)\}", key).groups()
            if table[one].iloc[0] + sign + table[other].iloc[0] not in ids:
                continue
            values = table[one] + sign + table[other]
        if set(values) == ids:
            return key
    return None


def _columns_of(key):
    return re.findall(r"\{([^}]+)\}", key) or [key]


def is_key(table, key):
    """Whether every row has a value of its own of a column, or of {a}_{b}."""
    return not table.duplicated(_columns_of(key)).any()


def match_table(table, images, role, shared=False, least=0.9):
    """Return (column, Match) of the column that leads to most images.

    least: share of the rows tried that have a value of their own.
    """
    rows = spread(table)
    columns = [name for name in table if rows[name].nunique() >= least * len(rows) and name not in find_boxes(table)]
    matches = [(name, match_column(rows, name, images, role, shared)) for name in columns]
    found = [one for one in matches if one[1]]
    return max(found, key=lambda one: (round(one[1].share, 2), not is_count(table[one[0]])), default=None)


def spread(table):
    """Return at most 300 of a table's rows, evenly spaced: those that are looked for on disk."""
    return table.iloc[:: -(-len(table) // _NUM_ROWS)]


def _stem(path):
    return PurePosixPath(path).stem.lower()
