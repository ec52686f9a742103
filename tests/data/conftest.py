"""A stand-in for competition.tables.ImageTable, of named arrays that spawned workers can load; files of any kind."""

import numpy as np
import pytest
from PIL import Image


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


@pytest.fixture
def put(tmp_path):
    """Write bytes, a Pillow image or an array to a file of the given name; return its path."""

    def write(name, content, **options):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Image.Image):
            content.save(path, **options)
        else:
            np.save(path, content)
        return str(path)

    return write
