"""The files of a competition's folder: images, tables and archives; and how archives are unpacked safely."""

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from src.competition.paths import IMAGE_SUFFIXES
from src.errors import UserError

_TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz")
_ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", *_TAR_SUFFIXES)
_MAX_DEPTH = 8  # levels of folders, which ends a link that leads back up


@dataclass
class Files:
    """A folder's files, as sorted paths relative to it; images are {folder: [file names]}."""

    images: dict[str, list[str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)

    @property
    def paths(self):
        """Every image's path."""
        return [f"{folder}/{name}".lstrip("/") for folder, names in self.images.items() for name in names]


def scan(folder):
    """List a folder's files; hidden ones and other kinds are left out.

    Raises:
        UserError: no such folder.
    """
    path = Path(folder)
    if not os.path.isdir(path):  # unlike Path's, it takes any text
        kind = "not a folder" if os.path.exists(path) else "no such folder"
        raise UserError(f"{folder}: {kind}; give the folder that holds a competition's data")
    files = Files()
    _scan_into(files, path, "", 0)
    files.tables.sort(key=lambda path: (path.count("/"), path))
    files.archives.sort()
    return files


def unpack_command(folder, archives):
    """Return the shell command that unpacks these archives into the folder."""
    if all(one.endswith(".zip") for one in archives):
        return f"python -m tools.adopt {quote(str(folder))} unzip=true"
    commands = []
    for one in archives:
        path = Path(folder) / one
        tool = "tar -xf {} -C {}" if one.lower().endswith(_TAR_SUFFIXES) else "7z x {} -o{}"
        commands.append(tool.format(quote(str(path)), quote(str(path.parent))))
    return " && ".join(commands)


def unpack_zip(folder, archive):
    """Unpack a .zip beside itself, except files that are there in full size already.

    An archive of images without a folder is unpacked into one named after it: train.zip into train/.

    Returns: (number of files, the folder they are in).

    Raises:
        UserError: damaged, encrypted, a member would leave the folder, or the folder cannot be written.
    """
    path = Path(folder) / archive
    try:
        with zipfile.ZipFile(path) as packed:
            members = [one for one in packed.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX")]
            bare = [one for one in members if one.filename.lower().endswith(IMAGE_SUFFIXES) and "/" not in one.filename]
            target = path.parent / path.stem if bare else path.parent
            for one in members:
                if not (target / one.filename).resolve().is_relative_to(target.resolve()):
                    raise UserError(f"{path}: its member {one.filename} would leave {target}; unpack it by hand")
            for one in members:
                file = target / one.filename
                if not (file.is_file() and file.stat().st_size == one.file_size):
                    packed.extract(one, target)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be unpacked here ({error.strerror}); unpack it elsewhere") from None
    return len(members), target


def _scan_into(files, folder, relative, depth):
    """Add the files of one folder and of those below it."""
    names, below = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name, lower = entry.name, entry.name.lower()
            if name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                below.append(name)
            elif not entry.is_file():
                continue  # a pipe or a device
            elif lower.endswith(IMAGE_SUFFIXES):
                names.append(name)
            elif lower.endswith(".csv"):
                files.tables.append(relative + name)
            elif lower.endswith(_ARCHIVE_SUFFIXES):
                files.archives.append(relative + name)
    if names:
        files.images[relative.rstrip("/")] = sorted(names)
    if depth < _MAX_DEPTH:
        for name in sorted(below):
            _scan_into(files, folder / name, f"{relative}{name}/", depth + 1)
