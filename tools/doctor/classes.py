"""The classes of a competition, for the page: how many images each has, and some of them; of numbers, their ranges."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

_NUM_IMAGES = 8  # of a class
_MOST_CLASSES = 24  # on the page: of more, the most frequent and the rarest
_MOST_COLUMNS = 4  # of regression
_NUM_RANGES = 10  # of a column of numbers


@dataclass(frozen=True)
class ImageClass:
    """Images that have something in common.

    Attributes:
        name: of the class.
        rows: of the scan, some that can be read, drawn by a fixed seed.
        count: how many training images it has; 0: of numbers and test images, which are no class.
        share: of all training images.
    """

    name: str
    rows: tuple[int, ...]
    count: int = 0
    share: float = 0.0


def list_classes(data):
    """Return (classes, a sentence about those left out or "") of a `CompetitionData`, and the test images as the last.

    A class is: of one label a row each class; of several, each column, and "none" for the rows of none; of regression
    the lowest, middle and highest numbers of a column. Where no label is known, all training images are one.
    """
    classes, left_out = [], ""
    if data.train is not None and data.train.targets is None:
        classes = [_draw(data, "train, no label known", np.arange(data.num_train))]
    elif data.train is not None and data.train.task == "regression":
        classes, left_out = _list_numbers(data)
    elif data.train is not None:
        classes, left_out = _list_columns(data)
    if data.is_test.any():
        test = _draw(data, "test images", np.flatnonzero(data.is_test))
        classes.append(replace(test, count=0, share=0.0))
    return classes, left_out


def count_ranges(data):
    """Return {column: [(range, number of rows, share)]} of regression: ten equal ranges, or each of few numbers."""
    found, table = {}, data.train
    if table is None or table.targets is None or table.task != "regression":
        return found
    for name, values in list(zip(table.target_names, table.targets.T.astype(float), strict=True))[:_MOST_COLUMNS]:
        values = values[~np.isnan(values)]
        numbers, counts = np.unique(values, return_counts=True)
        names = [f"{number:.6g}" for number in numbers]
        if len(numbers) > _NUM_RANGES:
            counts, edges = np.histogram(values, _NUM_RANGES)
            names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
        found[name] = [(one, int(count), count / len(values)) for one, count in zip(names, counts, strict=True)]
    return found


def describe_label(data, row):
    """Return the label of a row of the scan in words: the class or classes, the numbers, or "test"."""
    if data.is_test[row]:
        return "test"
    table = data.train
    if table.targets is None:
        return ""
    targets, names = table.targets[row], table.target_names
    if table.task == "regression":
        shown = [f"{name} {value:.4g}" for name, value in zip(names, targets.tolist(), strict=True)]
        return ", ".join(shown[:_MOST_COLUMNS])
    if table.task == "binary":
        return _name_binary(data)[int(not table.positives[row, 0])]
    return ", ".join(names[column] for column in np.flatnonzero(table.positives[row])) or "none"


def _name_binary(data):
    """Return the names of the positive class and of the other."""
    competition, [name] = data.config.competition, data.train.target_names
    if competition.label:
        other = next((one for one in competition.classes if one != name), f"not {name}")
        return name, other
    return f"{name}: 1", f"{name}: 0"


def _list_columns(data):
    table = data.train
    is_positive, names = table.positives, list(table.target_names)
    if table.task == "binary":
        names, is_positive = list(_name_binary(data)), np.concatenate([is_positive, ~is_positive], axis=1)
    elif (is_none := ~is_positive.any(axis=1) & ~np.isnan(table.targets).any(axis=1)).any():
        names, is_positive = [*names, "none"], np.concatenate([is_positive, is_none[:, None]], axis=1)
    counts, chosen, left_out = is_positive.sum(axis=0), range(len(names)), ""
    if len(names) > _MOST_CLASSES:
        order = np.argsort(-counts, kind="stable")
        half = _MOST_CLASSES // 2
        between = counts[order[half:-half]]
        chosen = [*order[:half], *order[-half:]]
        left_out = (
            f"The {half} most frequent and the {half} rarest of {len(names)} classes; the {len(between)} between them "
            f"have {between.min()} to {between.max()} images each."
        )
    return [_draw(data, names[one], np.flatnonzero(is_positive[:, one])) for one in chosen], left_out


def _list_numbers(data):
    table, classes = data.train, []
    for column, name in enumerate(table.target_names[:_MOST_COLUMNS]):
        values = table.targets[:, column]
        order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]  # nan are the last
        order = order[data.scan.is_read[order]]
        num = min(_NUM_IMAGES, len(order) // 3)
        middle = (len(order) - num) // 2
        for which, first in (("lowest", 0), ("middle", middle), ("highest", len(order) - num)):
            if len(rows := order[first : first + num]):
                low, high = (f"{values[row]:.4g}" for row in (rows[0], rows[-1]))
                title = f"{name}, {which}: {low}" + (f" to {high}" if low != high else "")
                classes.append(ImageClass(title, tuple(rows.tolist())))
    num_left = len(table.target_names) - _MOST_COLUMNS
    return classes, f"The first {_MOST_COLUMNS} of {num_left + _MOST_COLUMNS} columns." if num_left > 0 else ""


def _draw(data, name, rows):
    read = rows[data.scan.is_read[rows]]
    if len(read) > _NUM_IMAGES:
        read = np.sort(np.random.default_rng(0).choice(read, _NUM_IMAGES, replace=False))
    return ImageClass(name, tuple(read.tolist()), len(rows), len(rows) / max(1, data.num_train))
