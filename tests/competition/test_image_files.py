"""Image files: what counts as one, lists of their paths, stars and links."""

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.competition.image_files import Paths, check_image_files
from src.competition.tables import load_train_table
from src.errors import UserError
from tests.competition.building import BASIC, IMAGES, PIXEL, names_of, refusal, table_of


def test_links_lead_to_files_and_folders(write_competition):
    """A link is as good as what it leads to; one that leads nowhere, and a folder, are no image."""
    csv = {"train.csv": "id,y\n001,1\n002,0\n"}
    competition = write_competition(IMAGES | csv, **BASIC | {"train_image": "*/links/{id}.*"})
    root = Path(competition.root)
    (root / "far/links").mkdir(parents=True)
    os.symlink(root / "far", root / "near")
    os.symlink(root / "train/001.png", root / "far/links/001.png")
    os.symlink(root / "nowhere.png", root / "far/links/002.png")
    (root / "far/links/002.jpg").mkdir()
    assert "1 of 2 ids have no image (first: 002)" in refusal(competition)
    (root / "far/links/002.png").unlink()
    os.symlink(root / "train/002.png", root / "far/links/002.png")
    assert names_of(load_train_table(competition), competition) == ["near/links/001.png", "near/links/002.png"]


def test_paths_are_read_as_an_array_of_str_is(monkeypatch):
    words = ["a/1.png", "b/é😀.png", "", "c/\udcff.png"]  # the last as Linux gives a name that is no UTF-8
    monkeypatch.setattr("src.competition.image_files._PATHS_AT_ONCE", 3)
    paths, array = pickle.loads(pickle.dumps(Paths.of(iter(words)))), np.array(words)
    assert len(paths) == 4
    assert paths.tolist() == list(paths) == words
    for row in (0, 3, -1, np.int64(1)):
        assert paths[row] == array[row]
        assert type(paths[row]) is str
    for rows in (slice(1, 3), np.array([3, 0, 0]), [2, 1], np.array([True, False, False, True])):
        assert isinstance(paths[rows], Paths)
        assert paths[rows].tolist() == array[rows].tolist()
    with pytest.raises(IndexError):
        paths[4]
    assert Paths.of([]).tolist() == []


def test_empty_files_are_named(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    for path, content in zip(paths, (b"x", b"", b""), strict=True):
        Path(path).write_bytes(content)
    table = replace(table_of([0, 1, 0]), paths=Paths.of(paths))
    check_image_files(table.take([0]))
    with pytest.raises(UserError) as caught:
        check_image_files(table)
    assert str(caught.value) == (
        f"{paths[1]}: cannot be decoded as an image (0 bytes); 2 of 3 are empty, copy them again or set unreadable=skip"
    )


def test_stars_in_folders_are_searched_once_for_all_rows(write_competition, monkeypatch):
    """Folders that a star stands for are found once, not for each of a million rows."""
    ids = [f"{number:04}" for number in range(1000)]
    files = {f"part{int(one) % 5}/{one}/image_{one}.png": PIXEL for one in ids} | {"other/0001.txt": b""}
    csv = "id,y\n" + "".join(f"{one},{int(one) % 2}\n" for one in ids)
    settings = BASIC | {"train_image": "p*/{id}/im*_{id}.*"}
    competition = write_competition(files | {"train.csv": csv}, **settings)
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert names_of(load_train_table(competition), competition) == list(files)[:1000]
    assert len(listed) == 1 + 5 + 1000


def test_a_link_that_cannot_be_followed_is_no_image_of_another_row(write_competition):
    competition = write_competition(IMAGES | {"train.csv": "id,y\n001,1\n002,0\n"}, **BASIC)
    os.symlink("loop.png", Path(competition.root) / "train/loop.png")
    assert len(load_train_table(competition)) == 2
    (Path(competition.root) / "train.csv").write_text("id,y\n001,1\nloop,0\n")
    assert "1 of 2 ids have no image (first: loop)" in refusal(competition)


@pytest.mark.parametrize("pattern", ["train/{id}.png", "train/{id}.*"])
def test_a_large_folder_is_listed_once(write_competition, monkeypatch, pattern):
    """Five thousand rows in one folder need one listing, so a quarter of a million take seconds."""
    ids = [f"{number:05}" for number in range(5000)]
    csv = "id,y\n" + "".join(f"{one},{int(one) % 2}\n" for one in ids)
    files = {f"train/{one}.png": PIXEL for one in ids} | {"train.csv": csv}
    competition = write_competition(files, **BASIC | {"train_image": pattern})
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    start = time.process_time()
    assert len(load_train_table(competition)) == 5000
    assert time.process_time() - start < 5
    assert len(listed) == 1


@pytest.mark.parametrize("suffix", [".gif", ".ppm", ".pgm", ".pbm", ".jp2", ".j2k", ".avif", ".jfif", ".GIF", ".dcm"])
def test_all_that_can_be_decoded_is_found(write_competition, suffix):
    files = {f"train/a1{suffix}": PIXEL, "train/a1.txt": PIXEL, f"train/b2{suffix}": PIXEL}
    competition = write_competition(files | {"t.csv": "id,y\na1,0\nb2,1\n"}, train_table="t.csv",
                                    train_image="train/{id}.*", targets=["y"])  # fmt: skip
    assert names_of(load_train_table(competition), competition) == [f"train/a1{suffix}", f"train/b2{suffix}"]
