"""Writing files so that no reader ever sees half of one."""

import json
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; when the block ends well, flush the file to disk and rename it into place.

    The folder is made if it is missing. After an exception `path` is as it was and the temporary file is gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_text(path, text):
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(path, content):
    """Write plain containers as indented JSON, atomically."""
    save_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_json(path):
    """Read a JSON file as plain containers."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def save_table(path, table):
    """Write a pandas table as CSV without its index, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
