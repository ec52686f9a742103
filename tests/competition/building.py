"""What several test files of this room share: a tiny competition's files, and how a refusal is read."""

import numpy as np
import pytest

from src.competition.tables import ImageTable, load_train_table
from src.errors import UserError

PIXEL = b"stub"  # tables look at names and sizes, never into an image
IMAGES = {f"train/{name}.png": PIXEL for name in ("001", "002", "010")}
BASIC = {"train_table": "train.csv", "train_image": "train/{id}.png", "targets": ["y"]}


def names_of(table, competition):
    return [path.removeprefix(competition.root + "/") for path in table.paths]


def refusal(competition, load=load_train_table, *words):
    """The UserError's line, with the folder of the test as ROOT."""
    with pytest.raises(UserError) as caught:
        load(competition, *words)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(competition.root, "ROOT")


def table_of(targets, groups=None, folds=None, names=None):
    targets = np.array(targets, dtype=np.float32)
    targets = targets[:, None] if targets.ndim == 1 else targets
    ids = np.array([f"{row:04}" for row in range(len(targets))])
    groups = None if groups is None else np.array(groups, dtype=str)
    folds = None if folds is None else np.array(folds, dtype=np.int64)
    names = names or tuple("abcdefghijklmnopqrstuvwxyz"[: targets.shape[1]])
    return ImageTable(ids, ids, targets, names, groups, folds)


def random_multilabel(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((rows, 3)) < [0.5, 0.2, 0.1]).astype(float)


def reference(splitter, *words):
    folds = np.full(len(words[0]), -1)
    for fold, (_, rows) in enumerate(splitter.split(*words)):
        folds[rows] = fold
    return folds
