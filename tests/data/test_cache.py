"""The cache of decoded images: bit for bit what the files give, built once, resumed, not trusted after a change."""

import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import cv2
import fsspec
import numpy as np
import pytest

from src.competition.image_files import Paths
from src.config.settings import REPOSITORY, Augment, Competition, Config
from src.data import cache as cache_module
from src.data.cache import _write_rows, cache_folder, open_cache
from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.errors import Stopped, UserError
from src.remote import Unreachable, list_folder
from tests.data.building import augmentation, resizing
from tests.http_server import Server

SIZE, NUM_ROWS = (20, 24), 7


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "competition"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for row in range(NUM_ROWS):
        smooth = cv2.resize(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8), (90 + row, 80))
        cv2.imwrite(str(folder / f"{row}.{'jpg' if row % 2 else 'png'}"), smooth)
    return folder


@pytest.fixture
def table(root, make_table):
    return make_table(sorted(root.glob("[0-9]*")))


def configure(root, channels=3, mode="auto", folder=None, resize="squash", **settings):
    competition = Competition(root=str(root), channels=channels, **settings)
    folder = str(folder or root / ".cache")
    return Config(competition=competition, cache=mode, cache_dir=folder, resize=resize)


def open_(table, root, size=SIZE, channels=3, mode="auto", num_reads=100, **settings):
    return open_cache(table.paths, configure(root, channels, mode, **settings), size, num_reads)


def test_a_row_is_bitwise_what_the_file_gives_decoded_and_resized(table, root, capsys):
    for channels in (1, 3):
        cache, resize = open_(table, root, channels=channels), resizing(SIZE)
        for path in table.paths:
            expected = resize(decode_image(path, Competition(channels=channels), SIZE), seed=0)
            np.testing.assert_array_equal(cache.read(path), expected, strict=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"decoding {NUM_ROWS} images"
    assert f"{NUM_ROWS} decoded images, 0.0 GB, made in" in lines[1]


def test_a_path_that_is_not_cached_is_none(table, root):
    cache = open_(table, root)
    assert cache.read(f"{root}/7.png") is None
    assert all(cache.read(f"{root}/other/{number}.png") is None for number in range(1000))


def test_many_paths_are_found_in_any_order(tmp_path):
    rng = np.random.default_rng(1)
    for row in rng.permutation(300):
        np.save(tmp_path / f"{row}.npy", np.full((2, 3), row, np.uint16))
    paths = Paths.of(f"{tmp_path}/{row}.npy" for row in [*rng.permutation(300), 5, 5])  # one of them three times
    cache = open_cache(paths, configure(tmp_path, 1, "on"), (2, 3), 0)
    assert [int(cache.read(f"{tmp_path}/{row}.npy")[0, 0, 0]) for row in range(300)] == list(range(300))
    again = open_cache(paths, configure(tmp_path, 1, "on"), (2, 3), 0)
    assert int(again.read(paths[7])[1, 2, 0]) == int(cache.read(paths[7])[0, 0, 0])


@pytest.mark.parametrize("preset", ["none", "medium", "heavy"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_bitwise_those_of_the_files(table, root, preset, num_workers):
    augment = augmentation(Augment(preset=preset), SIZE)
    cache = open_(table, root, size=augment.decode_size)
    plain, cached = (
        build_loader(ImageDataset(table, Competition(), augment, 5, caches), 3, num_workers, shuffle_seed=5)
        for caches in (None, {augment.decode_size: cache})
    )
    for expected, batch in zip(plain.batches(1), cached.batches(1), strict=True):
        np.testing.assert_array_equal(batch["inputs"]["image"], expected["inputs"]["image"], strict=True)
    plain.close()
    cached.close()


def test_reading_gives_a_copy_that_may_be_written_into(table, root):
    cache, path = open_(table, root), table.paths[1]
    before = cache.read(path).copy()
    cache.read(path)[:] = 0
    np.testing.assert_array_equal(cache.read(path), before)


def test_built_where_it_pays_and_found_again(table, root):
    assert open_(table, root, mode="off") is None
    assert open_(table, root, num_reads=NUM_ROWS) is None
    assert not (root / ".cache").exists()
    assert open_(table, root, mode="on", num_reads=1) is not None
    [pixels] = root.glob(".cache/20x24x3_*.npy")
    written = pixels.stat().st_mtime_ns
    assert open_(table, root, num_reads=1) is not None
    assert pixels.stat().st_mtime_ns == written
    assert np.load(pixels)["pixels"].shape == (NUM_ROWS, *SIZE, 3)


def test_a_folder_that_cannot_be_written_is_one_line_and_no_cache(table, root, capsys):
    folder = root / "0.png" / "cache"  # a file cannot hold a folder
    assert open_(table, root, folder=folder) is None
    assert capsys.readouterr().out.startswith(f"{folder}: cannot be written (Not a directory); set cache_dir=FOLDER;\n")
    with pytest.raises(UserError) as caught:
        open_(table, root, folder=folder, mode="on")
    assert str(caught.value) == f"{folder}: cannot be written (Not a directory); set cache_dir=FOLDER"


def test_it_lies_in_outputs_and_never_in_the_competition(table, root, tmp_path, monkeypatch):
    assert cache_folder(Config()) == Path("outputs/cache")
    assert cache_folder(Config(output_dir="runs")) == Path("runs/cache")
    assert cache_folder(Config(output_dir="runs", cache_dir="fast")) == Path("fast")
    monkeypatch.chdir(tmp_path)
    files = sorted(root.rglob("*"))
    assert open_cache(table.paths, Config(competition=Competition(root=str(root))), SIZE, 100) is not None
    assert sorted(root.rglob("*")) == files
    assert [path.suffix for path in sorted((tmp_path / "outputs/cache").iterdir())] == [".lock", ".npy"]


def test_two_competitions_of_equal_names_sizes_and_times_share_no_image(tmp_path, make_table):
    """As arrays that come out of two zip files have them: all of one size, all from 1980."""
    folder, tables = tmp_path / "cache", {}
    for number in (1, 2):
        (root := tmp_path / str(number)).mkdir()
        np.save(root / "0.npy", np.full((4, 4), number, np.uint8))
        os.utime(root / "0.npy", ns=(0, 315532800 * 10**9))
        tables[number] = make_table([root / "0.npy"])
    for number, table in tables.items():
        cache = open_(table, tmp_path / str(number), channels=1, folder=folder)
        assert cache.read(table.paths[0])[0, 0, 0] == number
    assert len(list(folder.glob("*.npy"))) == 2


@pytest.mark.parametrize(
    "change", [{"exif": False}, {"background": "black"}, {"bits": 12}, {"resize": "crop"}, {"size": (20, 25)}]
)  # fmt: skip
def test_what_decides_the_pixels_is_in_the_name(table, root, change):
    open_(table, root)
    open_(table, root, **change)
    assert len(list(root.glob(".cache/*.npy"))) == 2


@pytest.mark.parametrize("library", ["pillow", "pydicom", "numpy"])
def test_another_version_of_what_decodes_is_another_file(table, root, library, monkeypatch):
    open_(table, root)
    monkeypatch.setattr(cache_module, "version", lambda name: f"{version(name)}{'a' if name == library else ''}")
    open_(table, root)
    assert len(list(root.glob(".cache/*.npy"))) == 2


@pytest.mark.parametrize("change", ["content", "time", "name"])
def test_another_one_is_built_when_a_file_changes(table, root, make_table, change):
    open_(table, root)
    path, status = root / "2.png", os.stat(root / "2.png")
    if change == "content":
        cv2.imwrite(str(path), np.full((40, 30, 3), 77, np.uint8))
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        path = path.rename(root / "20.png")
    table = make_table(sorted(root.glob("[0-9]*")))
    cache = open_(table, root)
    assert len(list(root.glob(".cache/*.npy"))) == 2
    expected = resizing(SIZE)(decode_image(str(path), Competition(), SIZE), 0)
    np.testing.assert_array_equal(cache.read(str(path)), expected)


def test_a_flipped_bit_is_seen_and_the_file_read_instead(table, root):
    cache = open_(table, root)
    expected = cache.read(table.paths[3])
    [pixels] = root.glob(".cache/20x24x3_*.npy")
    with open(pixels, "r+b") as file:
        file.seek(-(NUM_ROWS - 3) * (expected.nbytes + 4) + 100, os.SEEK_END)
        file.write(bytes([expected.reshape(-1)[100] ^ 1]))
    cache = open_(table, root)
    assert cache.read(table.paths[3]) is None
    assert cache.read(table.paths[2]) is not None
    dataset = ImageDataset(table, Competition(), resizing(SIZE), 5, {SIZE: cache})
    np.testing.assert_array_equal(dataset[0, 3, 0]["inputs"]["image"], expected)


def test_a_truncated_cache_is_built_anew(table, root):
    last = table.paths[6]
    expected = open_(table, root).read(last)
    [path] = root.glob(f".cache/20x24x3_{'?' * 16}.npy")
    for num_bytes in (path.stat().st_size - 1, path.stat().st_size - 4, 0):
        os.truncate(path, num_bytes)
        np.testing.assert_array_equal(open_(table, root).read(last), expected)


def test_pickled_it_holds_no_pixels(table, root):
    cache = open_(table, root)
    state = pickle.dumps(cache)
    assert len(state) < 1000
    np.testing.assert_array_equal(pickle.loads(state).read(table.paths[1]), cache.read(table.paths[1]))


def test_arrays_of_other_types_keep_theirs_but_all_the_same(tmp_path, make_table):
    for row in range(3):
        np.save(tmp_path / f"{row}.npy", np.full((9, 8, 5), row / 7, np.float16))
    table = make_table([tmp_path / f"{row}.npy" for row in range(3)])
    image = open_(table, tmp_path, channels=5).read(table.paths[2])
    assert image.dtype == np.float32
    assert image.shape == (*SIZE, 5)
    np.save(tmp_path / "1.npy", np.zeros((9, 8, 5), np.uint8))
    with pytest.raises(UserError) as caught:
        open_(table, tmp_path, channels=5)
    assert str(caught.value) == f"{table.paths[1]}: has uint8 pixels, {table.paths[0]} has float32; set cache=off"
    assert not list(tmp_path.glob(".cache/.*"))


def test_an_image_that_cannot_be_decoded_is_named_and_leaves_nothing(table, root):
    (root / "5.jpg").write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(UserError, match=r"5\.jpg: cannot be decoded as an image"):
        open_(table, root)
    assert [one.suffix for one in (root / ".cache").iterdir()] == [".lock"]


def test_decoding_that_was_stopped_resumes(table, root, capsys, monkeypatch):
    expected, read = open_(table, root), cache_module.map_images
    shutil.rmtree(root / ".cache")

    def stop_after_four(*arguments):
        yield from islice(read(*arguments), 4)
        raise Stopped("SIGTERM", 143)  # as a signal's handler does, in the main thread

    monkeypatch.setattr(cache_module, "map_images", stop_after_four)
    with pytest.raises(Stopped):
        open_(table, root)
    monkeypatch.undo()
    capsys.readouterr()
    cache = open_(table, root)
    assert re.search(r"\.npy: resumes after 4 of 7 images\n", capsys.readouterr().out)
    for path in table.paths:
        np.testing.assert_array_equal(cache.read(path), expected.read(path))
    assert {one.suffix for one in (root / ".cache").iterdir()} == {".npy", ".lock"}


def test_without_room_the_files_are_read_unless_it_is_asked_for(table, root, capsys, monkeypatch):
    monkeypatch.setattr(cache_module, "RESERVE_BYTES", 1 << 60)
    assert open_(table, root) is None
    assert capsys.readouterr().out == (
        f"{root}/.cache: 0.0 GB of decoded images do not fit (0.0 GB to spare); set cache_dir=FOLDER;\n"
        "  without it images are decoded in every epoch\n"
    )
    with pytest.raises(UserError, match="do not fit .*; set cache_dir=FOLDER$"):
        open_(table, root, mode="on")


def test_a_disk_that_fills_up_while_writing_is_one_line_and_leaves_nothing(table, root):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        assert open_(table, root) is None
        with pytest.raises(UserError, match=r"\.npy: cannot be written \(File too large\); set cache_dir=FOLDER"):
            open_(table, root, mode="on")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [one.suffix for one in (root / ".cache").iterdir()] == [".lock"]


BUILD = """
import sys
import numpy as np
from src.config.settings import Competition, Config
from src.data.cache import open_cache
root, *paths = sys.argv[1:]
config = Config(competition=Competition(root=root), cache="on", cache_dir=root + "/.cache")
print(open_cache(np.array(paths), config, (600, 600), 0).read(paths[0]).sum())
"""


@pytest.mark.slow
def test_of_two_processes_one_builds_and_the_other_waits(table, root):
    words = [sys.executable, "-c", BUILD, str(root), *np.tile(table.paths, 60).tolist()]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) for _ in range(2)]
    printed = [one.communicate()[0] for one in running]
    assert sum("made in" in one for one in printed) == 1
    assert len({one.splitlines()[-1] for one in printed}) == 1


ROWS = np.random.default_rng(0).integers(0, 256, (5, 2, 3)).astype(np.float32)
NAMES = np.array(["0", "1", "2", "3", "4"])
ROW_TYPE = np.dtype([("pixels", np.float32, (2, 3)), ("checksum", "<u4")])
HEAD, ROW = 192, 2 * 3 * 4 + 4  # bytes
STOPPED = Stopped("SIGTERM", 143)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.npy"


def write(path, names=NAMES, end=None, error=STOPPED):
    """Write the named rows up to `end`, where the error comes; return the row that was begun with."""
    begun = []

    def decode(name):
        begun.append(int(name))
        if end == int(name):
            raise error
        return ROWS[int(name)]

    with pytest.MonkeyPatch.context() as patched:  # one after the other, so that it is known which are done
        patched.setattr(cache_module, "map_images", lambda function, paths, title: map(function, paths))
        _write_rows(path, names, ROW_TYPE, decode)
    return min(begun, default=len(names))


def assert_whole(path):
    found = np.load(path)
    np.testing.assert_array_equal(found["pixels"], ROWS, strict=True)
    assert found["checksum"].tolist() == [zlib.crc32(row) for row in ROWS]
    assert {one.name for one in path.parent.iterdir()} == {"some.npy"}


@pytest.mark.parametrize("num_rows", [0, 3, 4, 5])
def test_writing_that_was_stopped_resumes(path, num_rows):
    if num_rows < 5:
        with pytest.raises(Stopped):
            write(path, end=num_rows)
    else:  # all rows are there, but under the other name
        write(path)
        path.rename(path.with_suffix(".part"))
    assert not path.exists()
    assert path.with_suffix(".part").stat().st_size == HEAD + num_rows * ROW
    assert write(path) == num_rows
    assert_whole(path)


@pytest.mark.parametrize(("num_rows", "odd"), [(0, -100), (0, 0), (0, ROW - 1), (1, 0), (3, 1), (3, ROW - 4)])
def test_what_was_not_written_to_its_end_is_written_again(path, num_rows, odd):
    with pytest.raises(Stopped):
        write(path, end=4)
    os.truncate(path.with_suffix(".part"), HEAD + num_rows * ROW + odd)
    assert write(path) == num_rows
    assert_whole(path)


def test_an_error_while_writing_leaves_nothing(path):
    with pytest.raises(Stopped):
        write(path, end=3)
    with pytest.raises(ValueError, match="no image"):
        write(path, end=4, error=ValueError("no image"))
    assert list(path.parent.iterdir()) == []


def test_several_images_a_row_are_kept_bit_for_bit(root, tmp_path):
    files = [str(root / f"{row}.{'jpg' if row % 2 else 'png'}") for row in range(NUM_ROWS)]
    paths = Paths.of(f"{one}\0{other}" for one, other in zip(files, files[1:] + files[:1], strict=True))
    competition = Competition(root=str(root), images="{id}/*", num_images=2)
    config = Config(competition=competition, image_size=SIZE, cache_dir=str(tmp_path / "cache"))
    cache = open_cache(paths, config, SIZE, 100)
    for path in paths:
        expected = resizing(SIZE)(decode_image(path, competition, SIZE), 0)
        assert expected.shape == (*SIZE, 6)
        assert np.array_equal(cache.read(path), expected)
    assert open_cache(Paths.of(files), replace(config, competition=Competition(root=str(root))), SIZE, 100).read(
        files[0]
    ).shape == (*SIZE, 3)


def serve(root):
    return Server({file.name: file.read_bytes() for file in root.glob("[0-9]*")})


def test_images_elsewhere_are_the_same_and_fetched_once(table, root, make_table, tmp_path, quick):
    expected = open_(table, root)
    with serve(root) as server:
        server.faults = {"3.jpg": [500, "cut"]}
        there = make_table([f"{server.url}/{Path(path).name}" for path in table.paths])
        cache = open_(there, server.url, folder=tmp_path / "near")
        for near, path in zip(there.paths, table.paths, strict=True):
            assert np.array_equal(cache.read(near), expected.read(path))
        assert server.asked.total() == NUM_ROWS + 1 + 2  # the first twice, to know its size
        before = Path.cwd()
        os.chdir(tmp_path)  # a URL is no path below the current folder
        try:
            assert open_(there, server.url, folder=tmp_path / "near")._path == cache._path
        finally:
            os.chdir(before)


def test_a_server_that_fails_keeps_what_was_fetched(table, root, make_table, tmp_path, quick, capsys):
    with serve(root) as server:
        there = make_table([f"{server.url}/{Path(path).name}" for path in table.paths])
        server.faults = {"5.jpg": [500] * 5}
        with pytest.raises(Unreachable, match=rf"^{server.url}/5.jpg: cannot be read in 5 tries \(500 "):
            open_(there, server.url, folder=tmp_path / "near")
        server.asked.clear()
        cache = open_(there, server.url, folder=tmp_path / "near")
        assert re.search(r"resumes after [345] of 7 images", capsys.readouterr().out)
        assert not {"1.jpg", "2.png"} & {*server.asked}
        assert np.array_equal(cache.read(there.paths[5]), open_(table, root).read(table.paths[5]))


def test_of_images_elsewhere_a_part_is_kept_where_the_disk_has_no_room_for_all(
    table, root, make_table, tmp_path, monkeypatch, capsys
):
    row = 20 * 24 * 3 + 4
    monkeypatch.setattr(cache_module, "RESERVE_BYTES", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3.5 * row))
    with serve(root) as server:
        there = make_table([f"{server.url}/{Path(path).name}" for path in table.paths])
        cache = open_(there, server.url, folder=tmp_path / "near")
        assert [cache.find(path) is None for path in there.paths] == [False] * 3 + [True] * 4
        assert "\n  4 images are fetched in every epoch" in capsys.readouterr().out
        server.asked.clear()
        batches = load(there, {SIZE: cache})
        assert server.asked == {Path(path).name: 1 for path in there.paths[3:]}
        assert all(np.array_equal(one, other) for one, other in zip(batches, load(table, {}), strict=True))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        assert open_(there, server.url, folder=tmp_path / "near")._path == cache._path
        assert open_(there, server.url, folder=tmp_path / "other") is None
        with pytest.raises(UserError, match="do not fit"):
            open_(there, server.url, folder=tmp_path / "third", mode="on")


def test_a_listing_tells_when_a_file_elsewhere_has_changed(root, make_table, tmp_path):
    memory, names = fsspec.filesystem("memory"), sorted(file.name for file in root.glob("[0-9]*"))
    there, opened = make_table([f"memory://cached/{name}" for name in names]), []
    for changed in (None, "0.png"):
        memory.pipe({f"/cached/{name}": (root / name).read_bytes() for name in ([changed] if changed else names)})
        list_folder("memory://cached")
        opened.append(open_(there, "memory://cached", folder=tmp_path / "near")._path)
    assert opened[0] != opened[1]


def load(table, caches):
    loader = build_loader(ImageDataset(table, Competition(), resizing(SIZE), 5, caches), 4, 0)
    return [batch["inputs"]["image"].numpy() for batch in loader.batches(0)]
