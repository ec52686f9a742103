"""A tiny competition on disk, written from the texts that a test gives."""

import pytest

from src.config.settings import Competition


@pytest.fixture
def write_competition(tmp_path):
    """Return write(files, **settings): writes {path: text or bytes} below root and returns the Competition."""

    def write(files, **settings):
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Competition(root=str(root), **settings)

    return write
