"""Features of a training image other than its pixels that may leak its label: numbers, categories and neighbours."""

import re

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from src.errors import listing

_SIZE_STEP = 0.1  # of the logarithm of a file size, to which it is rounded
_NUM_NEIGHBOURS = (2, 20)  # half of them before and half after an image: alternating labels; long runs of one label
_MAX_VALUES = 50  # distinct values of a path component that is a category, and at most a tenth of the rows


def list_leak_features(data):
    """Return {feature: (kind, values)} of all that may leak the labels of the training rows.

    Kinds are those of leaks._MIN_EFFECT. Values are (N,) float, (N,) str (a category), or (N, K) int as returned by
    `find_neighbours`. A file's size is relative to that of the image encoded again: a blurred image takes few bytes
    because of what it shows, which is no leak, but another encoder or source is one. Row order, names and times are
    left out where there is no training table: a folder per class reveals the class by design.
    """
    scan, num = data.scan, data.num_train
    features = _list_order_features(data) | _list_name_features(data) if data.config.competition.train_table else {}
    size = np.log(np.maximum(scan.num_bytes[:num], 1) / np.maximum(scan.encoded[:num], 1))
    features["the size of the file"] = "file", np.round(size / _SIZE_STEP)
    features["the image's width"] = "file", scan.widths[:num].astype(float)
    features["the image's height"] = "file", scan.heights[:num].astype(float)
    features["the image's width / height"] = "file", scan.widths[:num] / np.maximum(scan.heights[:num], 1)
    features["the kind of the file"] = "file", scan.kinds[:num]
    return features


def list_columns(data):
    """Return {name: values (N,) float or str} of the `CompetitionData.train_columns`."""
    columns = {}
    for name, column in data.train_columns.items():
        numbers = pd.to_numeric(column, errors="coerce")
        is_number = numbers.notna().all() and numbers.nunique() > 20
        values = numbers if is_number else column.fillna("(empty)")
        columns[name] = values.to_numpy(dtype=float if is_number else str)
    return columns


def find_neighbours(values, count, groups=None):
    """Return (N, count) int32: the neighbours of each row when sorted by value, half on either side; -1: none.

    Rows of equal value are shuffled, so that equal times do not inherit the order of the table. Rows of the same group
    are not neighbours, since they are in the same fold.

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


def list_path_parts(paths, known=()):
    """Return {feature: values (N,) str} of path components (runs of letters, or of digits) with few distinct values.

    A random number has none. Components that half of the rows lack are left out, and those that divide the rows as an
    earlier one does.

    Args:
        paths: N str, relative to the root and without suffix.
        known: arrays (N,) that count as earlier ones, such as the table's columns.
    """
    split = [re.findall(r"\d+|[^\W\d_]+", path) for path in paths]
    seen = {pd.factorize(one)[0].tobytes() for one in known}
    components = {}
    for place in range(int(np.median([len(one) for one in split]))):
        codes, values = pd.factorize(np.array([one[place] if place < len(one) else "" for one in split], dtype=object))
        if 2 <= len(values) <= min(_MAX_VALUES, len(split) / 10) and codes.tobytes() not in seen:
            seen.add(codes.tobytes())
            components[f"part {place + 1} of the path ({listing(sorted(values), 3)})"] = values[codes].astype(str)
    return components


def _list_order_features(data):
    table = data.train
    orders = {
        "the order of the table's rows": ("order", np.arange(len(table), dtype=float)),
        "the order of the ids": ("name", _rank([_pad(one) for one in table.ids.tolist()])),
        "the time of the file": ("time", data.scan.modified[: len(table)]),
    }
    features = dict(orders)
    for name, (kind, values) in orders.items():
        if values.min() < values.max():
            for count in _NUM_NEIGHBOURS:
                found = find_neighbours(values, count, table.groups)
                features[f"the label of {count} neighbours by {name}"] = kind, found
    return features


def _list_name_features(data):
    table, paths = data.train, [path.rpartition(".")[0] for path in data.names[: data.num_train].tolist()]
    names = [path.rpartition("/")[2] for path in paths]
    features = {
        "the length of the file's name": np.array([len(one) for one in names], dtype=float),
        "the letters of the file's name": np.array([re.sub(r"\d+", "0", one) for one in names]),
        "the last letter or digit of the file's name": np.array([one[-1:] for one in names]),
    }
    known = [*list_columns(data).values(), *features.values(), *([] if table.groups is None else [table.groups])]
    return {name: ("name", values) for name, values in (features | list_path_parts(paths, known)).items()}


def _rank(texts):
    """Return (N,) float: the rank of each text."""
    return np.unique(texts, return_inverse=True)[1].astype(float)


def _pad(text):
    """Return the text with its numbers padded, so that 2 sorts before 10."""
    return re.sub(r"\d+", lambda found: found[0].zfill(20), text)
