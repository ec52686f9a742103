"""A file inside a zip, HDF5 or parquet file is what it was as a file; what cannot be read is one line."""

import io
import multiprocessing
import os
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src import containers
from src.config.settings import REPOSITORY
from src.containers import is_file, list_folder, read_file, stat_file
from src.errors import UserError

FILES = {"a": b"\xff\xd8 one \0\0", "b": b"\x89PNG two" * 100, "c": b"\xff\xd8 three"}


def pack(path, files=FILES, method=zipfile.ZIP_DEFLATED, inside="train/{}.jpg"):
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(inside.format(name), content)
    return str(path)


def pack_hdf5(path, kind="void", files=FILES):
    with h5py.File(path, "w") as file:
        for name, content in files.items():
            data = {
                "void": lambda content=content: np.void(content),
                "bytes": lambda content=content: np.frombuffer(content, np.uint8),
                "text": lambda content=content: np.array(content, f"S{len(content)}"),
            }
            if kind == "vlen":
                file.create_dataset(f"deep/{name}", (), h5py.vlen_dtype(np.uint8))[()] = data["bytes"]()
            elif kind == "chunked":
                file.create_dataset(f"deep/{name}", data=data["bytes"](), chunks=(4,), compression="gzip")
            else:
                file.create_dataset(f"deep/{name}", data=data[kind]())
    return str(path)


def pack_parquet(path, files=FILES, **options):
    pq.write_table(pa.table({"y": [0] * len(files), "id": list(files), "jpg": list(files.values())}), path, **options)
    return str(path)


def line_of(function, *words):
    with pytest.raises(UserError) as caught:
        function(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_in_a_zip(tmp_path, method):
    path = pack(tmp_path / "all.ZIP", method=method)
    assert list_folder(path) == (set(), {"train"})
    assert list_folder(f"{path}/train") == ({"a.jpg", "b.jpg", "c.jpg"}, set())
    assert list_folder(f"{path}/tra") == (set(), set())
    for name, content in FILES.items():
        assert read_file(f"{path}/train/{name}.jpg") == content
        assert stat_file(f"{path}/train/{name}.jpg") == (len(content), os.stat(path).st_mtime_ns)
    assert is_file(f"{path}/train/a.jpg")
    assert not is_file(f"{path}/train/d.jpg")
    assert not is_file(f"{path}/train")
    assert read_file(path) == (tmp_path / "all.ZIP").read_bytes()  # the zip itself is a file, too


def test_names_of_a_zip_are_those_that_unpacking_gives(tmp_path):
    """Backslashes of Windows, UTF-8 without its mark, another encoding, what a Mac adds, folders, and a name twice."""
    names = ("dir/", "win\\a.jpg", "./dot.jpg", "__MACOSX/._a.jpg", "dir/.DS_Store", "utf.jpg", "dos.jpg", "é.jpg")
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, name)
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("é.jpg", "last")
    content = path.read_bytes().replace(b"utf.jpg", "한.jpg".encode()).replace(b"dos.jpg", b"\x82\x82\x82.jpg")
    path.write_bytes(content.replace(b"dos.jpg", "éé".encode("cp437") + b".jpg"))
    files, folders = list_folder(str(path))
    assert (files, folders) == ({"dot.jpg", "한.jpg", "ééé.jpg", "é.jpg"}, {"win"})
    assert list_folder(f"{path}/win") == ({"a.jpg"}, set())
    assert read_file(f"{path}/é.jpg") == b"last"


def test_a_path_goes_on_inside_files_alone(tmp_path):
    """A folder may be called like a container, and a file that is none is no folder."""
    (tmp_path / "x.zip").mkdir()
    (tmp_path / "x.zip" / "a.jpg").write_bytes(b"plain")
    inner = pack(tmp_path / "x.zip" / "in.zip")
    assert read_file(f"{tmp_path}/x.zip/a.jpg") == b"plain"
    assert read_file(f"{inner}/train/a.jpg") == FILES["a"]
    assert not is_file(f"{tmp_path}/x.zip/a.jpg/b")
    assert line_of(read_file, f"{tmp_path}/y.zip/a.jpg").endswith("cannot be read (No such file or directory)")


@pytest.mark.parametrize("kind", ["void", "bytes", "text", "vlen", "chunked"])
def test_bytes_in_hdf5(tmp_path, kind):
    path = pack_hdf5(tmp_path / "train.hdf5", kind)
    assert list_folder(path) == (set(), {"deep"})
    assert list_folder(f"{path}/deep") == ({"a", "b", "c"}, set())
    for name, content in FILES.items():
        assert read_file(f"{path}/deep/{name}") == content
        assert stat_file(f"{path}/deep/{name}")[0] == len(content)


def test_arrays_in_hdf5_are_those_of_npy(tmp_path):
    arrays = {"grey": np.arange(6, dtype=np.float32).reshape(2, 3), "rgb": np.ones((4, 5, 3), np.uint8)}
    stack = np.arange(2 * 3 * 4 * 3, dtype=np.uint16).reshape(2, 3, 4, 3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["many"], file["jpegs"] = stack, np.array([np.void(b"ab"), np.void(b"cd")])
    for name, array in {**arrays, "many/1": stack[1]}.items():
        loaded = np.load(io.BytesIO(read_file(f"{tmp_path}/x.h5/{name}")))
        assert loaded.dtype == array.dtype
        assert np.array_equal(loaded, array)
    assert list_folder(f"{tmp_path}/x.h5/many") == ({"0", "1"}, set())
    assert stat_file(f"{tmp_path}/x.h5/many/1")[0] == stack[1].nbytes
    assert read_file(f"{tmp_path}/x.h5/jpegs/1") == b"cd"


def test_images_in_parquet_are_called_by_path_id_or_number(tmp_path):
    contents = list(FILES.values())
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def names_of(**columns):
        pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=2)
        os.utime(tmp_path / "x.parquet", ns=(0, len(seen)))  # as fast rewriting keeps the time of the last change
        seen.append(1)
        names = sorted(list_folder(f"{tmp_path}/x.parquet")[0])
        assert [read_file(f"{tmp_path}/x.parquet/{name}") for name in names] == contents
        return names

    seen = []
    assert names_of(image_id=[7, 8, 9], image=contents) == ["7", "8", "9"]
    assert names_of(label=[7, 8, 9], image=contents) == ["0", "1", "2"]
    assert names_of(id=["x", "x", "y"], name=["p", "q", "r"], image=contents) == ["p", "q", "r"]
    packed = [{"bytes": one, "path": f"{name}.jpg"} for name, one in FILES.items()]
    assert names_of(image=pa.array(packed, struct), label=[0, 1, 0]) == ["a.jpg", "b.jpg", "c.jpg"]
    packed = [{"bytes": one, "path": f"../{name}.jpg"} for name, one in FILES.items()]
    assert names_of(image=pa.array(packed, struct)) == ["0", "1", "2"]
    assert names_of(image=pa.array([{"bytes": one, "path": None} for one in contents], struct)) == ["0", "1", "2"]


def damage(path, at, content):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def test_zips_that_cannot_be_read(tmp_path, monkeypatch):
    path = pack(tmp_path / "x.zip", method=zipfile.ZIP_STORED)
    assert line_of(read_file, f"{path}/train/d.jpg") == f"{path}/train/d.jpg: cannot be read (no such file in it)"
    assert line_of(stat_file, f"{path}/{'long' * 99}").endswith("cannot be read (no such file in it)")
    damage(path, 45, b"???")
    again = "copy or download the file again"
    assert line_of(read_file, f"{path}/train/a.jpg") == f"{path}/train/a.jpg: cannot be read (damaged); {again}"
    whole = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    assert line_of(list_folder, f"{tmp_path}/cut.zip").endswith(f"cannot be read (File is not a zip file); {again}")
    secret = bytearray(whole)
    place = whole.index(b"PK\1\2")
    secret[place + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(secret)
    found = line_of(read_file, f"{tmp_path}/secret.zip/train/a.jpg")
    assert found.endswith(f"a.jpg: is encrypted and not read in place; unpack {tmp_path}/secret.zip")
    path = pack(tmp_path / "b.zip", method=zipfile.ZIP_BZIP2)
    assert "is packed by method 12 and not read in place; unpack" in line_of(read_file, f"{path}/train/a.jpg")
    monkeypatch.setattr(containers, "MAX_BYTES", 10**6)
    path = pack(tmp_path / "bomb.zip", {"a": bytes(10**6 + 1)})
    assert "a.jpg: is over" in line_of(read_file, f"{path}/train/a.jpg")
    size = struct.pack("<I", 100)  # a million bytes that claim to be a hundred
    whole = (tmp_path / "bomb.zip").read_bytes()
    place = whole.index(b"PK\1\2")
    damage(path, place + 24, size)
    assert "(damaged)" in line_of(read_file, f"{path}/train/a.jpg")


def test_hdf5_and_parquet_that_cannot_be_read(tmp_path, monkeypatch):
    """Neither links nor data in other files are followed: a container from a forum may not show /etc/passwd."""
    (tmp_path / "secret").write_bytes(b"password")
    path = f"{tmp_path}/x.h5"
    with h5py.File(path, "w") as file:
        file["soft"], file["far"] = h5py.SoftLink("/text"), h5py.ExternalLink("other.h5", "/a")
        file.create_dataset("stored", (8,), np.uint8, external=[(str(tmp_path / "secret"), 0, 8)])
        layout = h5py.VirtualLayout((8,), np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (8,))
        file.create_virtual_dataset("virtual", layout)
        file["long"], file["words"] = np.arange(4), np.array([["a", "b"]], "S1")
        file.create_dataset("bomb", (10**6, 10**6), np.uint8, chunks=(10, 10))
        file["group/a"] = np.void(b"x")
        file.create_dataset("endless", (2**40,), "S8", chunks=(10,))
    assert list_folder(path)[0] == {"stored", "virtual", "long", "words", "bomb", "endless"}
    for name in ("soft", "far", "group", "none", "stored/0", "endless/0"):
        assert line_of(read_file, f"{path}/{name}") == f"{path}/{name}: cannot be read (no such file in it)"
    for name in ("stored", "virtual"):
        assert "(its data lie in another file)" in line_of(read_file, f"{path}/{name}")
    assert "((4,) of int64, neither a file's bytes nor an array of 2 or 3 axes)" in line_of(read_file, f"{path}/long")
    assert line_of(read_file, f"{path}/bomb") == f"{path}/bomb: is over 1 GB; scale it down beforehand"
    for name in ("bad.h5", "bad.parquet"):
        (tmp_path / name).write_bytes(b"nothing of this kind")
        assert f"{name}: cannot be read (" in line_of(list_folder, f"{tmp_path}/{name}")
    pack_parquet(tmp_path / "x.parquet")
    monkeypatch.setattr(containers, "MAX_BYTES", 100)
    assert "x.parquet: row group 0: is over" in line_of(read_file, f"{tmp_path}/x.parquet/a")


@pytest.mark.parametrize(("suffix", "library"), [("h5", "h5py"), ("parquet", "pyarrow")])
def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch, suffix, library):
    (tmp_path / f"x.{suffix}").write_bytes(b"")
    for name in (library, f"{library}.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    found = line_of(list_folder, f"{tmp_path}/x.{suffix}")
    assert found == f"{tmp_path}/x.{suffix}: needs a library that is not installed; pip install {library}"


def test_a_file_that_changes_is_opened_anew_and_few_stay_open(tmp_path, monkeypatch):
    path = pack_hdf5(tmp_path / "x.h5")
    assert read_file(f"{path}/deep/a") == FILES["a"]
    pack_hdf5(tmp_path / "y.h5", files={"a": b"\xff new"})
    os.replace(tmp_path / "y.h5", path)
    assert read_file(f"{path}/deep/a") == b"\xff new"
    monkeypatch.setattr(containers, "_MAX_OPEN", 2)
    monkeypatch.setattr(containers, "_OPENED", {})
    for number in (0, 1, 2, 0):
        place = tmp_path / f"{number}.h5"
        assert read_file(f"{place if place.exists() else pack_hdf5(place)}/deep/a") == FILES["a"]
    assert list(containers._OPENED) == [f"{tmp_path}/2.h5", f"{tmp_path}/0.h5"]


def read_all(paths):
    return [read_file(path) for path in paths]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_threads_and_forked_processes_read_the_same(tmp_path):
    """A loader's workers are forked while files are open, and read them while the threads of their parent do."""
    files = {f"{number:03}": os.urandom(3000) for number in range(60)}
    places = [
        f"{pack(tmp_path / 'x.zip', files)}/train/{{}}.jpg",
        f"{pack_hdf5(tmp_path / 'x.h5', files=files)}/deep/{{}}",
        f"{pack_parquet(tmp_path / 'x.parquet', files, row_group_size=7)}/{{}}",
    ]
    paths = [place.format(name) for name in files for place in places]
    expected = [content for content in files.values() for _ in places]
    assert read_all(paths[:9]) == expected[:9]  # all are open
    with multiprocessing.get_context("fork").Pool(3) as workers, ThreadPoolExecutor(4) as threads:
        found = workers.map_async(read_all, [paths] * 6, chunksize=1)
        reading = [threads.submit(read_all, paths) for _ in range(8)]
        assert all(one == expected for one in [*found.get(timeout=60), *(one.result() for one in reading)])


def test_neither_library_is_imported_before_it_is_needed():
    code = "import sys, src.containers; assert not {'h5py', 'pyarrow', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
