"""What adopt makes of several images a row, and that training's loader reads it so."""

import pytest
from pydicom import Dataset, dcmwrite

from src.config.load import load_config
from tests.tools.adopt.folders import decided, ids, images, prove, table, zero_one
from tools.adopt.layout import recognise


def write(folder, names, mode="RGB", start="p"):
    """Write a competition of 12 and 4 rows whose id k has the files names(k)."""
    train, test = ids(0, 12, start + "{:03}"), ids(12, 4, start + "{:03}")
    for place, rows in (("train", train), ("test", test)):
        images(folder / place, [name for one in rows for name in names(one)], mode=mode)
    table(folder / "train.csv", id=train, target=zero_one(12))
    table(folder / "sample_submission.csv", id=test, target=[0.5] * 4)


def test_a_file_for_each_colour_is_a_channel_in_natural_order(tmp_path):
    folder, colours = tmp_path / "cells", ("red", "green", "blue", "yellow")
    write(folder, lambda one: [f"{one}_{colour}.png" for colour in colours], mode="L")
    found = decided(folder, ("root", "metric", "train_image", "image_size"))
    assert found["images"] == [f"train/{{id}}_{colour}.png" for colour in colours]
    assert found["test_image"] == [f"test/{{id}}_{colour}.png" for colour in colours]
    assert (found["images_as"], found["channels"], found["normalize"]) == ("channels", 1, "dataset")
    assert recognise(folder).doubts == []
    test = prove(tmp_path, folder, ["target"], zero_one(12))
    assert [one.rpartition("_")[2] for one in test.paths[0].split("\0")] == [f"{one}.png" for one in colours]


def test_numbered_files_of_different_numbers_are_sampled(tmp_path):
    folder = tmp_path / "shots"
    write(folder, lambda one: [f"{one}-{number}.jpg" for number in range(1, 3 + int(one[1:]) % 3)])
    found = decided(folder)
    assert (found["images"], found["test_image"]) == ("train/{id}-*.jpg", "test/{id}-*.jpg")
    assert (found["num_images"], found["images_as"]) == (3, "max")
    assert {path.count("\0") for path in prove(tmp_path, folder, ["target"], zero_one(12)).paths} == {2}


@pytest.mark.parametrize("start", ["p", "Train_", "ISIC.2024-"])
def test_left_and_right_of_one_row(tmp_path, start):
    folder = tmp_path / "eyes"
    write(folder, lambda one: [f"{one}_left.jpeg", f"{one}_right.jpeg"], start=start)
    found = decided(folder)
    assert found["images"] == ["train/{id}_left.jpeg", "train/{id}_right.jpeg"]
    assert found["images_as"] == "max"
    prove(tmp_path, folder, ["target"], zero_one(12))


@pytest.mark.parametrize(("number", "read"), [(20, 8), (40, 16)])
def test_a_series_is_sampled(tmp_path, number, read):
    folder = tmp_path / "scans"
    write(folder, lambda one: [f"{one}/{slice_}.dcm" for slice_ in range(number)])
    found = decided(folder)
    assert (found["images"], found["num_images"], found["images_as"]) == ("train/{id}/*.dcm", read, "max")
    layout = recognise(folder)
    assert layout.settings["competition.images"][1] == f"all files of a row's folder, {number}; null: one of them"
    test = prove(tmp_path, folder, ["target"], zero_one(12))
    assert test.paths[0].count("\0") == read - 1
    assert load_config([f"competition={tmp_path}/adopted.yaml"]).competition.train_image == "train/{id}/*.dcm"


def test_eyes_that_are_rows_of_their_own_and_masks_are_no_family(tmp_path):
    folder = tmp_path / "eyes"
    train, test = [f"{row}_{side}" for row in range(8) for side in ("left", "right")], ["8_left", "8_right"]
    images(folder, [f"train/{one}.png" for one in train] + [f"test/{one}.png" for one in test])
    images(folder, [f"train/{one}_mask.png" for one in train])
    table(folder / "train.csv", id=train, target=zero_one(16))
    table(folder / "sample_submission.csv", id=test, target=[0.5] * 2)
    found = decided(folder)
    assert "images" not in found
    assert found["train_image"] == "train/{id}.png"


def test_numbered_files_of_the_test_rows_are_found_in_another_layout(tmp_path):
    folder, rows = tmp_path / "layout", ids(0, 12, "p{:03}")
    write(folder, lambda one: [f"{one}/{number}.jpg" if one in rows else f"{one}_{number}.jpg" for number in (1, 2, 3)])
    found = decided(folder)
    assert (found["images"], found["test_image"]) == ("train/{id}/*.jpg", "test/{id}_*.jpg")
    assert {path.count("\0") for path in prove(tmp_path, folder, ["target"], zero_one(12)).paths} == {2}
    other = tmp_path / "other"
    write(other, lambda one: [f"{one}-{number}.jpg" if one in rows else f"{one}/{number}.jpg" for number in (1, 2, 3)])
    found = decided(other)
    assert (found["images"], found["test_image"]) == ("train/{id}-*.jpg", "test/{id}/*.jpg")
    assert found["train_image"] == "train/{id}-*.jpg"  # of which images=null reads the middle one, as of the test row's


def test_other_series_and_slices_out_of_order_are_doubts(tmp_path):
    folder, names = tmp_path / "scans", ("c.dcm", "a.dcm", "b.dcm")
    write(folder, lambda one: [f"{one}/{series}/{name}" for series in ("FLAIR", "T2w") for name in names])
    tags = Dataset()
    for path in folder.glob("*/*/*/*.dcm"):
        tags.InstanceNumber = names.index(path.name)
        dcmwrite(path, tags, implicit_vr=False, little_endian=True)
    series, order = recognise(folder).doubts
    assert series.startswith("rows have files in T2w beside FLAIR, too, which are not read; ")
    assert order.startswith(
        "train/p000/FLAIR: by name its slices are in another order than by InstanceNumber (1, 2, 0 ."
    )
    for path in folder.glob("*/*/*/*.dcm"):
        tags.InstanceNumber = ord(path.name[0])
        dcmwrite(path, tags, implicit_vr=False, little_endian=True)
    assert recognise(folder).doubts == [series]


def test_a_further_column_of_images_is_a_doubt(tmp_path):
    folder = tmp_path / "sides"
    write(folder, lambda one: [f"f{one}.png", f"g{one}.png"])
    for name, rows in (("train.csv", ids(0, 12, "p{:03}")), ("test.csv", ids(12, 4, "p{:03}"))):
        columns = {"front": [f"f{one}.png" for one in rows], "back": [f"g{one}.png" for one in rows]}
        table(folder / name, id=rows, **columns, **({"target": zero_one(12)} if name == "train.csv" else {}))
    found, line = decided(folder), "further columns lead to images, which are not read; competition.images="
    both = ["train/{front}", "train/{back}"][:: 1 if found["train_image"] == "train/{front}" else -1]
    line += f"[{', '.join(both)}] with competition.test_image=test/{{id}} reads all (of test rows test for train)"
    assert recognise(folder).doubts == [line]
