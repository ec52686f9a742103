"""Which of a folder's tables is what: the sample submission, the training rows, the test rows.

The sample submission decides first: it says what is predicted and for which ids. The training table is the one
whose ids lead to images on disk.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from src.competition.tables import read_table
from src.errors import UserError
from tools.adopt.patterns import match_column, roles

_NUM_ROWS = 300  # of a table, whose images are looked for on disk


@dataclass
class Sample:
    """The sample submission: its path, table, the column of ids, and the columns it asks for."""

    path: str | None
    table: object  # pandas table of str, or None
    id: str | None
    asked: list[str]
    ids: set[str]


def read_tables(folder, paths):
    """Read every CSV; return ({relative path: table of str}, [a sentence for each that cannot be read])."""
    tables, doubts = {}, []
    for path in paths:
        try:
            table = read_table(Path(folder) / path).fillna("")
        except UserError as error:
            doubts.append(f"not read: {error}")
            continue
        if len(table):
            tables[path] = table
    return tables, doubts


def take_sample(tables):
    """Remove the sample submission from the tables and return it; its id is a column that other tables have too."""
    named = [path for path in tables if re.search("sample|submission", _stem(path))]
    named = [path for path in named if "train" not in roles(_stem(path))]
    path = min(named, key=lambda path: ("sample" not in _stem(path), path.count("/"), len(path), path), default=None)
    if path is None:
        return Sample(None, None, None, [], set())
    table = tables.pop(path)
    distinct = [name for name in table if table[name].is_unique]
    shared = [name for name in distinct if any(name in other for other in tables.values())]
    row_id = (shared or distinct or list(table))[0]
    return Sample(path, table, row_id, [name for name in table if name != row_id], set(table[row_id]))


def take_solution(tables):
    """Remove the solution (the labels of the test rows) from the tables and return its path, or None."""
    path = next((path for path in tables if "solution" in _stem(path)), None)
    tables.pop(path, None)
    return path


def choose_train(tables, sample, images):
    """Return (path, (column, Match), rivals) of the table whose rows lead to training images; None, None without.

    Rivals are paths of others that do, and have the same columns.
    """
    found = {}
    for path, table in tables.items():
        if roles(_stem(path)) != {"test"} or len(tables) == 1:
            shared = bool(sample.ids) and not any(sample.ids & set(table[name]) for name in table)
            match = match_table(table, images, "train", shared)
            if match and match[1].share >= 0.5:
                found[path] = match

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
    rivals = [path for path in found if path != best and set(tables[path].columns) == set(tables[best].columns)]
    return best, found.get(best), rivals


def choose_test(tables, sample, columns):
    """Remove the test table and return (path, table): the one with the sample's ids, else the one of that name."""
    for path in sorted(tables, key=lambda path: ("test" not in roles(_stem(path)), path)):
        table = tables[path]
        same = any(set(table[name]) == sample.ids for name in table)
        named = "test" in roles(_stem(path)) and any(name in table for name in columns)
        if same if sample.ids else named:
            return path, tables.pop(path)
    return None, None


def match_table(table, images, role, shared=False):
    """Return (column, Match) of the column that leads to most images, among those that name each row once."""
    rows = spread(table)
    columns = [name for name in table if rows[name].nunique() >= 0.9 * len(rows)]
    matches = [(name, match_column(rows, name, images, role, shared)) for name in columns]
    return max((one for one in matches if one[1]), key=lambda one: round(one[1].share, 2), default=None)


def spread(table):
    """Return at most 300 of a table's rows, evenly spaced: those that are looked for on disk."""
    return table.iloc[:: -(-len(table) // _NUM_ROWS)]


def _stem(path):
    return PurePosixPath(path).stem.lower()
