"""A stand-in for competition.tables.ImageTable: named numpy arrays that spawned workers can load."""

import numpy as np
import pytest


@pytest.fixture
def make_table():
    def build(paths, targets=None):
        paths = np.array([str(path) for path in paths])
        targets = np.zeros((len(paths), 2), np.float32) if targets is None else np.asarray(targets, np.float32)
        kinds = [("ids", paths.dtype), ("paths", paths.dtype), ("targets", np.float32, targets.shape[1:])]
        table = np.recarray(len(paths), dtype=kinds)
        table.ids, table.paths, table.targets = [str(row) for row in range(len(paths))], paths, targets
        return table

    return build
