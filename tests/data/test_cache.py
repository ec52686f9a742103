"""The cache of decoded images: bit for bit what the files give, built once, not trusted when something changed."""

import os
import pickle
import re
import resource
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.config.settings import REPOSITORY, Augment
from src.data import cache as cache_module
from src.data.cache import open_cache
from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.data.transforms import build_augmentation, build_resize
from src.errors import Stopped, UserError

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


def open_(table, root, size=SIZE, channels=3, mode="auto", num_reads=100, folders=None):
    return open_cache(table, channels, size, str(root), folders or [root / ".cache"], mode, num_reads)


def test_a_row_is_bitwise_what_the_file_gives_decoded_and_resized(table, root, capsys):
    for channels in (1, 3):
        cache, resize = open_(table, root, channels=channels), build_resize(SIZE)
        for row, path in enumerate(table.paths):
            expected = resize(decode_image(path, channels, SIZE), seed=0)
            np.testing.assert_array_equal(cache.read(row), expected, strict=True)
    some = cache.take(np.array([5, 2, 3])).take(np.array([1, 0]))
    np.testing.assert_array_equal([some.read(0), some.read(1)], [cache.read(2), cache.read(5)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert f"{NUM_ROWS} decoded images, 0.0 GB, made in" in lines[0]


@pytest.mark.parametrize("preset", ["none", "medium", "heavy"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_bitwise_those_of_the_files(table, root, preset, num_workers):
    augmentation = build_augmentation(Augment(preset=preset), SIZE, 3, True)
    cache = open_(table, root, size=augmentation.decode_size)
    plain, cached = (
        build_loader(ImageDataset(table, 3, augmentation, augmentation.decode_size, 5, one), 3, num_workers, 5)
        for one in (None, cache)
    )
    for expected, batch in zip(plain.batches(1), cached.batches(1), strict=True):
        np.testing.assert_array_equal(batch["image"], expected["image"], strict=True)
    plain.close()
    cached.close()


def test_reading_gives_a_copy_that_may_be_written_into(table, root):
    cache = open_(table, root)
    before = cache.read(1).copy()
    cache.read(1)[:] = 0
    np.testing.assert_array_equal(cache.read(1), before)


def test_built_where_it_pays_and_found_again(table, root):
    assert open_(table, root, mode="off") is None
    assert open_(table, root, num_reads=NUM_ROWS) is None
    assert not (root / ".cache").exists()
    assert open_(table, root, mode="on", num_reads=1) is not None
    [pixels] = root.glob(".cache/20x24x3_*.npy")
    written = pixels.stat().st_mtime_ns
    assert open_(table, root, num_reads=1) is not None
    assert pixels.stat().st_mtime_ns == written
    assert np.load(pixels).shape == (NUM_ROWS, *SIZE, 3)


def test_the_folder_may_move_and_come_to_where_nothing_can_be_written(table, root, make_table):
    open_(table, root)
    moved = root.rename(root.with_name("moved"))
    table = make_table(sorted(moved.glob("[0-9]*")))
    assert open_(table, moved, num_reads=0) is not None
    folders = [moved / "0.png" / ".cache", moved.parent / "elsewhere"]  # a file cannot hold a folder
    assert open_(table, moved, folders=folders) is not None
    assert len(list(folders[1].glob("*.npy"))) == 1
    assert open_(table, moved, folders=folders[:1]) is None
    with pytest.raises(UserError) as caught:
        open_(table, moved, folders=folders[:1], mode="on")
    assert str(caught.value) == (f"{folders[0]}: cannot be written; set cache_dir=FOLDER or cache=auto")


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
    assert len(list(root.glob(".cache/*.crc"))) == 2
    row = table.paths.tolist().index(str(path))
    np.testing.assert_array_equal(cache.read(row), build_resize(SIZE)(decode_image(str(path), 3, SIZE), 0))


def test_a_flipped_bit_is_seen_and_the_file_read_instead(table, root):
    cache = open_(table, root)
    expected = cache.read(3)
    [pixels] = root.glob(".cache/20x24x3_*.npy")
    with open(pixels, "r+b") as file:
        file.seek(-(NUM_ROWS - 3) * expected.nbytes + 100, os.SEEK_END)
        file.write(bytes([expected.reshape(-1)[100] ^ 1]))
    cache = open_(table, root)
    assert cache.read(3) is None
    assert cache.read(2) is not None
    dataset = ImageDataset(table, 3, build_resize(SIZE), SIZE, 5, cache)
    np.testing.assert_array_equal(dataset[0, 3, 0]["image"], expected)


@pytest.mark.parametrize("suffix", [".npy", ".crc"])
def test_a_truncated_cache_is_built_anew(table, root, suffix):
    expected = open_(table, root).read(6)
    [path] = root.glob(f".cache/20x24x3_{'?' * 16}{suffix}")
    os.truncate(path, path.stat().st_size - 1)
    np.testing.assert_array_equal(open_(table, root).read(6), expected)
    os.truncate(path, 0)
    np.testing.assert_array_equal(open_(table, root).read(6), expected)


def test_pickled_it_is_its_path(table, root):
    cache = open_(table, root).take(np.array([4, 1]))
    state = pickle.dumps(cache)
    assert len(state) < 1000
    np.testing.assert_array_equal(pickle.loads(state).read(1), cache.read(1))


def test_arrays_of_other_types_keep_theirs_but_all_the_same(tmp_path, make_table):
    for row in range(3):
        np.save(tmp_path / f"{row}.npy", np.full((9, 8, 5), row / 7, np.float16))
    table = make_table([tmp_path / f"{row}.npy" for row in range(3)])
    row = open_(table, tmp_path, channels=5).read(2)
    assert row.dtype == np.float32
    assert row.shape == (*SIZE, 5)
    np.save(tmp_path / "1.npy", np.zeros((9, 8, 5), np.uint8))
    with pytest.raises(UserError) as caught:
        open_(table, tmp_path, channels=5)
    assert str(caught.value) == (f"{table.paths[1]}: has uint8 pixels, {table.paths[0]} has float32; set cache=off")
    assert not list(tmp_path.glob(".cache/.*"))


def test_an_image_that_cannot_be_decoded_is_named_and_leaves_nothing(table, root):
    (root / "5.jpg").write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(UserError, match=r"5\.jpg: cannot be decoded as an image"):
        open_(table, root)
    assert [one.suffix for one in (root / ".cache").iterdir()] == [".lock"]


def test_decoding_that_was_stopped_goes_on(table, root, capsys, monkeypatch):
    expected, read, opened = open_(table, root), cache_module._read_image, []
    shutil.rmtree(root / ".cache")

    def stop_at_the_fifth(path, channels, size):
        opened.append(path)
        if len(opened) == 1 + 5:  # the first tells the type
            raise Stopped("SIGTERM", 143)
        return read(path, channels, size)

    monkeypatch.setattr(cache_module, "_read_image", stop_at_the_fifth)
    with pytest.raises(Stopped):
        open_(table, root)
    monkeypatch.undo()
    capsys.readouterr()
    cache = open_(table, root)
    assert re.search(r"\.npy: [34] of 7 images were decoded before; going on\n", capsys.readouterr().out)
    for row in range(NUM_ROWS):
        np.testing.assert_array_equal(cache.read(row), expected.read(row))
    assert {one.suffix for one in (root / ".cache").iterdir()} == {".npy", ".crc", ".lock"}


def test_without_room_the_files_are_read_unless_it_is_asked_for(table, root, capsys, monkeypatch):
    monkeypatch.setattr(cache_module, "RESERVE_BYTES", 1 << 60)
    assert open_(table, root) is None
    assert capsys.readouterr().out == (
        f"{root}/.cache: 0.0 GB of decoded images do not fit (0.0 GB to spare);\n"
        "  images are decoded in every epoch; cache_dir=FOLDER puts them elsewhere\n"
    )
    with pytest.raises(UserError, match="set cache_dir=FOLDER or cache=auto"):
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
from pathlib import Path
import numpy as np
from src.data.cache import open_cache
root, *paths = sys.argv[1:]
table = type("Table", (), {"paths": np.array(paths), "__len__": lambda self: len(self.paths)})()
print(open_cache(table, 3, (600, 600), root, [Path(root) / ".cache"], "on", 0).read(0).sum())
"""


@pytest.mark.slow
def test_of_two_processes_one_builds_and_the_other_waits(table, root):
    words = [sys.executable, "-c", BUILD, str(root), *np.tile(table.paths, 60).tolist()]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) for _ in range(2)]
    printed = [one.communicate()[0] for one in running]
    assert sum("made in" in one for one in printed) == 1
    assert len({one.splitlines()[-1] for one in printed}) == 1
