"""Clues: all that stands beside a training picture and may betray its answer, in numbers, categories and neighbours."""

import re

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from src.errors import listing

_SIZE_STEP = 0.1  # of the logarithm of a file size: what is told apart
_NUM_NEIGHBOURS = (2, 20)  # half of them before and half after a picture: pairs and turns; wide windows
_MOST_VALUES = 50  # of a part of the paths that is tried as a category, and a tenth of the rows


def list_clues(case):
    """Return {what it is: (kind, values)} of all that may betray an answer of the training rows.

    Kinds are those of leaks._MATERIAL. Values are (N,) float, (N,) str, which is a category, or (N, K) int as
    `find_neighbours` has them. A file's size counts against that of the picture encoded anew: a blurred picture takes
    few bytes because of what it shows, which is no leak; another encoder or source is one. The order of rows, names and
    times are left out where the images' paths are the table: a folder per class betrays its class by design.
    """
    scan, num = case.scan, case.num_train
    clues = _list_order_clues(case) | _list_name_clues(case) if case.config.competition.train_table else {}
    told = np.log(np.maximum(scan.num_bytes[:num], 1) / np.maximum(scan.encoded[:num], 1))
    clues["the size of the file"] = "file", np.round(told / _SIZE_STEP)
    clues["the picture's width"] = "file", scan.widths[:num].astype(float)
    clues["the picture's height"] = "file", scan.heights[:num].astype(float)
    clues["the picture's width / height"] = "file", scan.widths[:num] / np.maximum(scan.heights[:num], 1)
    clues["the kind of the file"] = "file", scan.kinds[:num]
    return clues


def list_columns(case):
    """Return {name: values (N,) float or str} of the `Case.other_columns`."""
    columns = {}
    for name in case.other_columns:
        numbers = pd.to_numeric(case.train_rows[name], errors="coerce")
        is_number = numbers.notna().all() and numbers.nunique() > 20
        values = numbers if is_number else case.train_rows[name].fillna("(empty)")
        columns[name] = values.to_numpy(dtype=float if is_number else str)
    return columns


def find_neighbours(values, count, groups=None):
    """Return (N, count) int32: the rows beside each in the order of values, half of them on either side; -1: none.

    Rows of one value are in random order, so that the table's order is not in that of times. A row of the same group is
    no neighbour, since it is in the same fold.

    Args:
        values: (N,) float.
        count: even.
        groups: (N,) str; None: each row is its own.
    """
    order = np.lexsort((np.random.default_rng(0).permutation(len(values)), values)).astype(np.int32)
    padded = np.pad(order, count // 2, constant_values=-1)
    neighbours = np.empty((len(values), count), np.int32)
    neighbours[order] = np.delete(sliding_window_view(padded, count + 1), count // 2, axis=1)
    if groups is not None:
        codes = pd.factorize(groups)[0]
        neighbours[codes[neighbours] == codes[:, None]] = -1
    return neighbours


def list_parts(paths, known=()):
    """Return {what it is: values (N,) str} of the parts of paths that few values fill: runs of letters, or of digits.

    A random number has no such part. A part that half of the rows lack is left out, and one that tells the same rows
    apart as an earlier one.

    Args:
        paths: N str, below the root and without suffix.
        known: arrays (N,) that need not be told again, such as the table's columns.
    """
    split = [re.findall(r"\d+|[^\W\d_]+", path) for path in paths]
    seen = {pd.factorize(one)[0].tobytes() for one in known}
    parts = {}
    for place in range(int(np.median([len(one) for one in split]))):
        codes, values = pd.factorize(np.array([one[place] if place < len(one) else "" for one in split], dtype=object))
        if 2 <= len(values) <= min(_MOST_VALUES, len(split) / 10) and codes.tobytes() not in seen:
            seen.add(codes.tobytes())
            parts[f"part {place + 1} of the path ({listing(sorted(values), 3)})"] = values[codes].astype(str)
    return parts


def _list_order_clues(case):
    table = case.train
    orders = {
        "the order of the table's rows": ("order", np.arange(len(table), dtype=float)),
        "the order of the ids": ("name", _rank([_pad(one) for one in table.ids.tolist()])),
        "the time of the file": ("time", case.scan.modified[: len(table)]),
    }
    clues = dict(orders)
    for name, (kind, values) in orders.items():
        if values.min() < values.max():
            for count in _NUM_NEIGHBOURS:
                found = find_neighbours(values, count, table.groups)
                clues[f"the answer of {count} neighbours by {name}"] = kind, found
    return clues


def _list_name_clues(case):
    table, paths = case.train, [path.rpartition(".")[0] for path in case.names[: case.num_train].tolist()]
    names = [path.rpartition("/")[2] for path in paths]
    clues = {
        "the length of the file's name": np.array([len(one) for one in names], dtype=float),
        "the letters of the file's name": np.array([re.sub(r"\d+", "0", one) for one in names]),
        "the last letter or digit of the file's name": np.array([one[-1:] for one in names]),
    }
    known = [*list_columns(case).values(), *clues.values(), *([] if table.groups is None else [table.groups])]
    return {name: ("name", values) for name, values in (clues | list_parts(paths, known)).items()}


def _rank(texts):
    """Return (N,) float: the place of each text among the sorted ones."""
    return np.unique(texts, return_inverse=True)[1].astype(float)


def _pad(text):
    """Return the text with its numbers padded, so that 2 sorts before 10."""
    return re.sub(r"\d+", lambda found: found[0].zfill(20), text)
