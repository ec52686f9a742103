"""Files on the disk, by URL, and inside zip, HDF5 and parquet files: train.zip/train/1.jpg goes on inside one.

Open HDF5 and parquet files are used by one thread at a time and closed before a process forks, since processes that
share one read at each other's place. A member of a zip is read from a file that is opened for it.
"""

import io
import math
import os
import re
import stat
import threading
import zipfile
import zlib
from contextlib import suppress
from functools import partial

import numpy as np

from src import remote
from src.errors import UserError, first_line
from src.remote import MAX_BYTES, is_url

_MAX_CELLS, _MAX_ROWS, _MAX_OPEN = 100_000_000, 10_000_000, 64  # of a table; images in one dataset; containers
SUFFIXES = (".zip", ".h5", ".hdf5", ".hdf", ".parquet")
_PLACE = re.compile(r"\.(zip|h5|hdf5|hdf|parquet)(?=/|$)", re.IGNORECASE)
_NAMING = re.compile(r"(.*_)?(id|name|path|file|filename|image)|(image|file).*", re.IGNORECASE)  # columns of parquet
_LOCK, _OPENED = threading.RLock(), {}  # path -> ((bytes, mtime_ns), container)


def split_path(path):
    """Return (path of a container, path inside it or ""); (path, None) where there is no container."""
    ends = (found.end() for found in _PLACE.finditer(path))
    return next(((path[:end], path[end + 1 :]) for end in ends if os.path.isfile(path[:end])), (path, None))


def is_file(path):
    """Whether a path leads to a file, on the disk or inside a container; of a URL only reading tells."""
    folder, _, name = path.rpartition("/")
    if is_url(path) and name:
        return True
    return os.path.isfile(path) or (split_path(folder)[1] is not None and name in list_folder(folder)[0])


def list_folder(path):
    """Return the names of (files, others), two sets, in a folder or container; links count as what they lead to."""
    if is_url(path):
        return remote.list_folder(path)
    if (where := split_path(path))[1] is not None:
        return _call(*where, "list")
    files, others = set(), set()
    try:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
            for entry in entries:
                is_plain = entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)
                (files if is_plain else others).add(entry.name)
    except OSError as error:
        raise UserError(f"{path}: cannot be listed ({error.strerror}); check it") from None
    return files, others


def stat_file(path):
    """Return (bytes, time of the last change in ns), of a container where it is one; UserError: there is no file."""
    if is_url(path):
        return remote.stat_file(path)
    where, member = split_path(path)
    try:
        status = os.stat(where)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        return _call(where, member, "size") if member else status.st_size, status.st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_file(path):
    """Return the bytes of a regular file of at most 1 GB: a pipe or a device might never end.

    An array in HDF5 is returned as .npy holds it. UserError: there is no such file, or it cannot be read.
    """
    if is_url(path):
        if _PLACE.search(path, path.index("/", path.index("://") + 3)):
            raise UserError(f"{path}: zip, HDF5 and parquet files are read on the disk; download it and name that file")
        return remote.read_file(path)
    where, member = split_path(path)
    if member:
        return _call(where, member, "read")
    _check_size(path, stat_file(path)[0])
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_parquet(path):
    """Return a parquet file's table as a CSV's text: lists joined by |, images by what they are called in this file."""
    return _call(path, "", "to_csv")


def _check_size(path, num_bytes):
    if num_bytes > MAX_BYTES:
        raise UserError(f"{path}: is over {MAX_BYTES // 10**9} GB; scale it down beforehand")


def _call(path, member, method):
    """Return what a method of the container says of a member; UserError: it cannot."""
    try:
        with _LOCK:
            container = _open(path)
            if not isinstance(container, _Zip):
                return getattr(container, method)(member)
        return getattr(container, method)(member)
    except ImportError as error:
        library = (error.name or "h5py pyarrow").partition(".")[0]
        raise UserError(f"{path}: needs a library that is not installed; pip install {library}") from None
    except UserError:
        raise
    except Exception as error:  # of a broken file the libraries raise whatever they run into
        where, reason = f"{path}/{member}".rstrip("/"), first_line(error)[:300]
        raise UserError(f"{where}: cannot be read ({reason}); copy or download the file again") from None


def _open(path):
    status = os.stat(path)
    stamp, (known, container) = (status.st_size, status.st_mtime_ns), _OPENED.pop(path, (None, None))
    if known != stamp:  # new, or changed since
        if container:
            container.close()  # HDF5 would go on with the open one
        container = {".zip": _Zip, ".parquet": _Parquet}.get(os.path.splitext(path)[1].lower(), _Hdf5)(path)
    _OPENED[path] = stamp, container
    if len(_OPENED) > _MAX_OPEN:
        _OPENED.pop(next(iter(_OPENED)))[1].close()  # the one out of use for longest
    return container


def _before_fork():
    _LOCK.acquire()
    for _, container in _OPENED.values():
        container.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class _Container:
    """Files by their names, a list of str, kept sorted: those of a folder lie beside each other."""

    _opened = None

    def __init__(self, path, names):
        self._path, names = path, np.array(list(map(os.fsencode, names)), dtype=bytes)  # str would grow in each worker
        self._order = np.argsort(names, kind="stable")
        self._names = names[self._order]

    @property
    def file(self):
        self._opened = self._opened or self._open(self._path)
        return self._opened

    def close(self):
        if self._opened:
            self._opened.close()
        self._opened = None

    def find(self, member):
        """Return a file's place in the list of names; of equal ones the last, as unpacking would leave it."""
        name = os.fsencode(member)
        place = np.searchsorted(self._names, name[: self._names.itemsize], side="right") - 1  # a longer one copies all
        if place < 0 or self._names[place] != name:
            raise UserError(f"{self._path}/{member}: cannot be read (no such file in it)")
        return int(self._order[place])

    def list(self, folder):
        prefix, first, last = os.fsencode(folder and f"{folder}/"), 0, None
        if folder:
            first, last = np.searchsorted(self._names, [prefix, prefix[:-1] + b"0"])  # 0 is the next after /
        names = [os.fsdecode(name[len(prefix) :]).partition("/") for name in self._names[first:last].tolist()]
        return {name for name, slash, _ in names if not slash}, {name for name, slash, _ in names if slash}


class _Zip(_Container):
    def __init__(self, path):
        with zipfile.ZipFile(path) as packed:
            found = [(name, one) for one in packed.infolist() if (name := _name_member(one))]
        super().__init__(path, [name for name, _ in found])
        fields = ("header_offset", "compress_size", "file_size", "CRC", "compress_type", "flag_bits")
        self._entries = np.array([[getattr(one, field) for field in fields] for _, one in found], np.int64)

    def size(self, member):
        return int(self._entries[self.find(member), 2])

    def read(self, member):
        place, packed, size, checksum, method, flags = self._entries[self.find(member)].tolist()
        _check_size(f"{self._path}/{member}", size)
        if flags & 1 or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            what = "encrypted" if flags & 1 else f"packed by method {method}"
            raise UserError(f"{self._path}/{member}: is {what} and not read in place; unpack {self._path}")
        with open(self._path, "rb") as file:
            file.seek(place)
            header = file.read(30)
            file.seek(place + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"))
            data = file.read(packed)
        data = data if method == zipfile.ZIP_STORED else zlib.decompressobj(-15).decompress(data, size + 1)
        if len(data) != size or zlib.crc32(data) != checksum:
            raise ValueError("damaged")
        return data


def _name_member(info):
    """Return a member's path; "" of a folder, and of what a Mac adds."""
    name = info.filename
    with suppress(UnicodeError):
        if not info.flag_bits & 0x800:  # which states UTF-8; without it zipfile takes DOS's letters
            name = name.encode("cp437").decode()
    name = re.sub(r"^(\.?/)+", "", name.replace("\\", "/"))
    return "" if re.search(r"^__MACOSX/|(^|/)\.DS_Store$|/$", name) else name


class _Hdf5(_Container):
    """Groups are folders, datasets files; one of N images, (N, H, W, C) or (N,) of bytes, is a folder of 0 to N - 1."""

    def __init__(self, path):
        import h5py  # here, as most competitions have none

        self._h5py, names = h5py, []
        self._open = partial(h5py.File, mode="r", locking=False)  # some disks know no locks
        visit = lambda name, info: names.append(name) if info.type == h5py.h5o.TYPE_DATASET else None  # noqa: E731
        with self._open(path) as file:
            h5py.h5o.visit(file.id, visit, info=True)  # follows no links, as these may lead to other files
            for name in names[:_MAX_OPEN]:
                one = file[name]
                if (one.ndim == 4 or (one.ndim == 1 and one.dtype.kind in "OVS")) and len(one) <= _MAX_ROWS:
                    names += [b"%s/%d" % (name, row) for row in range(len(one))]
        super().__init__(path, names)

    def _find(self, member):
        """Return (dataset, a row of it or (), its bytes or None where only reading tells)."""
        self.find(member)
        name, row = os.fsencode(member), ()
        if name not in self.file.id:
            name, row = os.path.dirname(name), int(os.path.basename(name))
        one = self._h5py.h5o.open(self.file.id, name)
        plan = one.get_create_plist()
        if plan.get_layout() == self._h5py.h5d.VIRTUAL or plan.get_external_count():
            raise ValueError("its data lie in another file")
        return one, row, None if one.dtype.kind == "O" else one.dtype.itemsize * math.prod(one.shape[row != () :])

    def size(self, member):
        num_bytes = self._find(member)[2]
        return len(self.read(member)) if num_bytes is None else num_bytes

    def read(self, member):
        one, row, num_bytes = self._find(member)
        _check_size(f"{self._path}/{member}", num_bytes or 0)
        if num_bytes is None or row != ():
            value = self._h5py.Dataset(one)[row]
        else:
            one.read(self._h5py.h5s.ALL, self._h5py.h5s.ALL, value := np.empty(one.shape, one.dtype))
        value = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
        if value.dtype.kind in "VS" or (value.ndim == 1 and value.dtype in (np.uint8, np.int8)):
            return value.tobytes()
        if value.ndim not in (2, 3) or value.dtype.kind not in "biuf":
            raise ValueError(f"{value.shape} of {value.dtype}, neither a file's bytes nor an array of 2 or 3 axes")
        np.save(file := io.BytesIO(), value, allow_pickle=False)
        return file.getvalue()


def _to_text(cell):
    cell = "|".join(map(str, cell)) if isinstance(cell, np.ndarray) else cell
    return cell.decode(errors="replace") if isinstance(cell, bytes) else cell


class _Parquet(_Container):
    """Images of a column of bytes, or of Hugging Face's {bytes, path}, called by path, id or the row's number."""

    def __init__(self, path):
        from pyarrow.parquet import ParquetFile  # here, as most competitions have none

        self._open, self._path, self._groups, self._given = ParquetFile, path, {}, []
        if self.file.metadata.num_rows > _MAX_ROWS:
            raise ValueError(f"{self.file.metadata.num_rows} rows, over {_MAX_ROWS} are not read")
        self._image = next((one.name for one in self.file.schema_arrow if self._holds_images(one)), None)
        super().__init__(path, self._name_rows() if self._image else [])
        groups = range(self.file.num_row_groups)
        self._starts = np.cumsum([0, *(self.file.metadata.row_group(group).num_rows for group in groups)])

    def _holds_images(self, field):
        kind = str(field.type)
        cells = self.file.iter_batches(1, columns=[field.name]) if kind.endswith("binary") else ()
        first = next((cell for batch in cells if (cell := batch.column(0)[0].as_py())), b"")
        return "\ufffd" in first.decode(errors="replace") or (kind.startswith("struct") and "bytes: binary" in kind)

    def _name_rows(self):
        """Return the rows' names, which are kept where no column of the table has them."""
        columns = [name for name in self.file.schema_arrow.names if _NAMING.fullmatch(name) and name != self._image]
        for column in [f"{self._image}.path", *columns]:
            cells = [cell for one in self.file.read([column]).flatten().columns for cell in one.to_pylist()]
            names = [str(cell).lstrip("/") for cell in cells if isinstance(cell, str | int)]
            is_odd = any(re.search(r"^$|//|\\|\0|(^|/)\.\.?(/|$)", name) for name in names)
            if not is_odd and len(set(names)) == self.file.metadata.num_rows:
                self._given = [] if column in columns else names
                return names
        self._given = list(map(str, range(self.file.metadata.num_rows)))
        return self._given

    def size(self, member):
        return len(self.read(member))

    def read(self, member):
        row = self.find(member)
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group not in self._groups:
            _check_size(f"{self._path}: row group {group}", self.file.metadata.row_group(group).total_byte_size)
            images = self.file.read_row_group(group, [self._image], use_threads=False).flatten()
            images = images.column(f"{self._image}.bytes" if self._image not in images.column_names else 0)
            self._groups = dict([*self._groups.items()][-1:]) | {group: images}  # two: rows mostly come in order
        return self._groups[group][int(row - self._starts[group])].as_py() or b""

    def to_csv(self, _):
        names = [name for name in self.file.schema_arrow.names if name != self._image and name[:8] != "__index_"]
        if (count := self.file.metadata.num_rows * len(names)) > _MAX_CELLS:
            raise ValueError(f"{count} cells are over {_MAX_CELLS}; leave out columns that are not used")
        table = self.file.read(names).to_pandas(ignore_metadata=True, integer_object_nulls=True)
        for place, kind in enumerate(table.dtypes):
            if kind.kind == "O":
                table.isetitem(place, np.array([*map(_to_text, table.iloc[:, place]), None], dtype=object)[:-1])
        if self._given:
            table.insert(0, self._image, self._given)
        return table.to_csv(index=False)
