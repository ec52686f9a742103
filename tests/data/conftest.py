"""Tables of image files, and files of any kind."""

import numpy as np
import pytest
from PIL import Image

from src.competition.image_files import Paths
from src.competition.tables import ImageTable


@pytest.fixture
def make_table():
    def build(paths, targets=None):
        targets = np.zeros((len(paths), 2), np.float32) if targets is None else np.asarray(targets, np.float32)
        names = tuple(f"target{column}" for column in range(targets.shape[1]))
        return ImageTable(np.arange(len(paths)).astype(str), Paths.of(map(str, paths)), targets, names, None, None)

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
