"""Writing files so that no reader ever sees half of one."""

import json
import os
import platform
import shutil
import tempfile
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # of names in folders that hosts share
_DAY = 86_400.0  # seconds


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`, in a folder that is made; when the block ends well, rename it into place.

    After an exception `path` is as it was; an OSError that names no file, as that of a full disk, names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{_HOST}.tmp")
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder, setting, error_class=UserError):
    """Return the folder, made if missing; error_class names the setting to change where it cannot be written."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise error_class(f"{folder}: cannot be written ({error.strerror}); set {setting}=FOLDER") from None
    return Path(folder)


def delete_unfinished(folder):
    """Delete what a killed process left in a folder, .NAME.PID-HOST.tmp; call it before this process writes there.

    Whether a process of another host lives is not known here: what it has left is deleted a day later.
    """
    import psutil  # here, since a typo should not wait for it

    for path in Path(folder).glob(".*.tmp"):
        number, _, host = path.name.split(".")[-2].partition("-")
        if not number.isdecimal():
            continue
        if host in ("", _HOST):
            is_left = int(number) == os.getpid() or not psutil.pid_exists(int(number))
        else:
            is_left = time.time() - path.stat().st_mtime > _DAY
        if is_left:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sync_folder(folder):
    """Have the renaming itself survive a power cut, where a folder can be opened (not on Windows)."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def save_text(path, text):
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(path, content):
    """Write plain containers as indented JSON, atomically."""
    save_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_json(path, *needed):
    """Read a JSON file as plain containers; one that is damaged, or lacks keys that are `needed`, is a UserError."""
    again = "delete it and run the same command again"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged, not JSON ({error}); {again}") from None
    for key in needed:
        if not isinstance(content, dict) or key not in content:
            raise UserError(f"{path}: damaged, it holds no {key}; {again}")
    return content


def save_table(path, table):
    """Write a pandas table, or an iterable of tables one below the other, as CSV without its index, atomically."""
    tables = [table] if hasattr(table, "to_csv") else table
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        for number, one in enumerate(tables):
            one.to_csv(file, index=False, header=number == 0)
