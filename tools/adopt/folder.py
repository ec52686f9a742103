"""The files of a competition's folder: images, tables and archives; and how archives are unpacked safely."""

import functools
import os
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from src.competition.image_files import IMAGE_SUFFIXES, is_image
from src.containers import SUFFIXES, list_folder
from src.errors import UserError, first_line
from src.remote import is_url

_TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz")
_ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", *_TAR_SUFFIXES)
_OTHER_SUFFIXES = (".tfrec", ".tfrecord", ".tfrecords", ".npz", ".mat", ".pkl", ".lmdb")
_TABLE_SUFFIXES = (".csv", ".tsv")
_MAX_DEPTH = 8  # levels of folders, which ends a link that leads back up


@dataclass
class Files:
    """A folder's files, as sorted paths relative to it; images are {folder: [file names]}."""

    images: dict[str, list[str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # JSON and text, which may be tables
    others: list[str] = field(default_factory=list)  # of kinds that may hold images and are not read
    containers: list[str] = field(default_factory=list)  # zip, HDF5 and parquet files that are read in place
    unread: list[str] = field(default_factory=list)  # sentences on those that cannot be read

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
    if is_url(str(folder)):
        how = "write configs/competition/NAME.yaml, with root: this URL, as docs/scale.md shows"
        raise UserError(f"{folder}: what lies elsewhere cannot be adopted; {how}")
    if not os.path.isdir(path):  # unlike Path's, it takes any text
        kind = "not a folder" if os.path.exists(path) else "no such folder"
        raise UserError(f"{folder}: {kind}; give the folder that holds a competition's data")
    files = Files()
    _scan_into(files, path, "", 0)
    for container in sorted(files.containers):
        _scan_container(files, path, container)
    files.tables.sort(key=lambda path: (path.count("/"), path))
    files.archives.sort()
    files.others.sort()
    files.texts.sort()
    return files


def unpack_command(folder, archives):
    """Return the shell command that unpacks these archives into the folder."""
    own, commands = (".zip", *_TAR_SUFFIXES), []
    for one in archives:
        if not one.lower().endswith(own):
            path = Path(folder) / one
            commands.append(f"7z x {quote(str(path))} -o{quote(str(path.parent))}")
    if any(one.lower().endswith(own) for one in archives):
        commands.append(f"python -m tools.adopt {quote(str(folder))} unzip=true")
    return " && ".join(commands)


def unpack_archives(folder):
    """Unpack every archive of a folder, and those inside of them; yield (archive, number of files, their folder).

    Archives for which this machine has no program stay packed.

    Raises:
        UserError: as `unpack` does.
    """
    done = set()
    while left := [archive for archive in scan(folder).archives if archive not in done]:
        for archive in left:
            done.add(archive)
            if unpacked := unpack(folder, archive):
                yield archive, *unpacked


def unpack(folder, archive):
    """Unpack an archive beside itself, except files that are there in full size already.

    An archive of images without a folder is unpacked into one named after it: train.zip into train/.

    Returns: (number of files, the folder they are in), or None where no program on this machine can.

    Raises:
        UserError: damaged, encrypted, a member would leave the folder, or the folder cannot be written.
    """
    path, lower = Path(folder) / archive, archive.lower()
    try:
        if lower.endswith(".zip"):
            return _unpack_zip(path)
        if lower.endswith(_TAR_SUFFIXES):
            return _unpack_tar(path)
        program = next((one for one in ("7z", "7zz", "7za", "bsdtar") if shutil.which(one)), None)
        if program is None:
            return None
        before = len(scan(folder).paths)
        words = ["-xf", path.name] if program == "bsdtar" else ["x", "-y", path.name]
        done = subprocess.run([program, *words], cwd=path.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{path}: cannot be unpacked ({program} ends with {done.returncode}); download it again")
        return len(scan(folder).paths) - before, path.parent
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({first_line(error)}); download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be unpacked here ({error.strerror or error}); unpack it elsewhere") from None


def _unpack_zip(path):
    with zipfile.ZipFile(path) as packed:
        members = [one for one in packed.infolist() if not one.is_dir()]
        return _extract(packed.extract, path, {one.filename: (one, one.file_size) for one in members})


def _unpack_tar(path):
    with tarfile.open(path) as packed:
        members = {one.name: (one, one.size) for one in packed.getmembers() if one.isfile()}
        return _extract(functools.partial(packed.extract, filter="data"), path, members)


def _extract(extract, path, members):
    """Extract {name: (member, bytes)}; return (number of files, their folder)."""
    members = {name: one for name, one in members.items() if not name.startswith("__MACOSX")}
    is_bare = any(name.lower().endswith(IMAGE_SUFFIXES) and "/" not in name for name in members)
    target = path.parent / path.stem.removesuffix(".tar") if is_bare else path.parent
    for name in members:
        if not (target / name).resolve().is_relative_to(target.resolve()):
            raise UserError(f"{path}: its member {name} would leave {target}; unpack it by hand")
    for name, (member, size) in members.items():
        file = target / name
        if not (file.is_file() and file.stat().st_size == size):
            extract(member, target)
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
            elif lower.endswith(_TABLE_SUFFIXES):
                files.tables.append(relative + name)
            elif lower.endswith(SUFFIXES):
                files.containers.append(relative + name)
            elif lower.endswith(_ARCHIVE_SUFFIXES):
                files.archives.append(relative + name)
            elif lower.endswith((".json", ".txt", ".xml")):
                files.texts.append(relative + name)
            elif lower.endswith(_OTHER_SUFFIXES):
                files.others.append(relative + name)
    if names:
        files.images[relative.rstrip("/")] = sorted(names)
    if depth < _MAX_DEPTH:
        for name in sorted(below):
            _scan_into(files, folder / name, f"{relative}{name}/", depth + 1)


def _scan_container(files, folder, container):
    """Add the images and tables inside a container; of a zip, unless they are unpacked beside it."""
    images, tables = {}, [container] if container.lower().endswith(".parquet") else []
    files.containers.remove(container)
    is_zip = container.lower().endswith(".zip")
    try:
        for path in _walk(str(folder), container):
            if is_image(path):
                images.setdefault(os.path.dirname(path), []).append(os.path.basename(path))
            elif path.lower().endswith(_TABLE_SUFFIXES):
                tables.append(path)
    except UserError as error:
        files.unread.append(str(error))
        tables = []
    if is_zip:
        files.archives.append(container)
        places = [folder / os.path.dirname(container), (folder / container).with_suffix("")]
        inside = [f"{one}/{names[0]}" for one, names in images.items()] + tables
        if any((place / one[len(container) + 1 :]).is_file() for one in inside for place in places):
            return
        tables = [container] if len(tables) == 1 and not images else tables  # train.csv.zip
    elif not images and not tables:
        files.others.append(container)
    files.tables += tables
    files.images |= {one: sorted(names) for one, names in images.items()}
    files.containers += [container] if images or tables else []


def _walk(root, folder):
    """Yield the paths of all files in a container or a folder of it, relative to the root, without hidden ones."""
    names, folders = list_folder(f"{root}/{folder}")
    yield from (f"{folder}/{name}" for name in names if not name.startswith("."))
    for name in sorted(folders):
        yield from _walk(root, f"{folder}/{name}")
