"""Tables that people ship and that cannot be used as they are: each is read, told, and leads to every image."""

import pandas as pd
import pytest

from src.errors import UserError
from tests.tools.adopt.folders import ids, images, prove, table, zero_one
from tools.adopt.corrections import locate_images, pivot_long
from tools.adopt.layout import recognise


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def write_pair(folder, train_ids, test_ids, train_files, test_files):
    """A competition of one 0/1 column whose ids are written in one way and whose files in another."""
    images(folder / "train", train_files)
    images(folder / "test", test_files)
    table(folder / "train.csv", id=train_ids, target=zero_one(len(train_ids)))
    table(folder / "sample_submission.csv", id=test_ids, target=[0.5] * len(test_ids))


@pytest.mark.parametrize(
    ("encoding", "doubts"),
    [
        ("utf-8-sig", []),
        ("cp1252", ["is read as Windows-1252 (Latin-1), since it is not in UTF-8; look at its letters with accents"]),
        ("utf-16", ["is read as UTF-16, since it is not in UTF-8; look at its letters with accents"]),
    ],
)
@pytest.mark.parametrize("sign", ["|", "\t", ";"])
def test_encodings_and_separators(tmp_path, encoding, doubts, sign):
    folder = tmp_path / "trees"
    images(folder, ids(0, 12, "train/é{}.png") + ids(0, 4, "test/{}.png"))
    rows = [f"é{row}{sign}{['chêne', 'hêtre'][row % 2]}" for row in range(12)]
    write(folder / "train.csv", "\n".join([f'id{sign}"kind, or class"', *rows]), encoding)
    rows = [f"{row}{sign}0" for row in range(4)]
    write(folder / "sample_submission.csv", "\n".join([f'id{sign}"kind, or class"', *rows]))
    assert recognise(folder).doubts == [f"train.csv {doubt}" for doubt in doubts]
    prove(tmp_path, folder, ["hêtre"], zero_one(12), [f"é{row}" for row in range(12)])


A_TO_L = "abcdefghijkl"


@pytest.mark.parametrize(
    ("train_ids", "train_files", "reason"),
    [
        ([f"{n}.0" for n in range(12)], [f"{n}.jpg" for n in range(12)], "numbers that end in .0 (first: '0.0'"),
        ([rf"train\{a}.jpg" for a in A_TO_L], [f"{a}.jpg" for a in A_TO_L], r"\ in place of / (first: 'train\\a.jpg'"),
        ([f"{a}x.jpg" for a in A_TO_L], [f"{a}x.JPG" for a in A_TO_L], "other letter case (first: 'ax.jpg'"),
        (
            [f"{a}x.jpg" for a in A_TO_L],
            [f"{a}x.{'jpg' if n % 3 else 'JPG'}" for n, a in enumerate(A_TO_L)],
            "other letter case (first: 'ax.jpg'",
        ),
        (
            [f"../input/data/{a}x.png" for a in A_TO_L],
            [f"{a}x.jpg" for a in A_TO_L],
            "another suffix, folders that are elsewhere (first: '../input/data/ax.png'",
        ),
        (
            [f"C:\\Users\\me\\train\\{a}x.jpg" for a in A_TO_L],
            [f"{a}x.jpg" for a in A_TO_L],
            r"\ in place of /, folders that are elsewhere (first: 'C:\\Users\\me\\train\\ax.jpg'",
        ),
    ],
)
def test_files_are_found_by_ids_that_are_written_otherwise(tmp_path, train_ids, train_files, reason):
    folder = tmp_path / "otherwise"
    test_ids = [one.replace("train", "test") for one in train_ids[:4]]
    write_pair(folder, train_ids, test_ids, train_files, train_files[:4])
    doubts = recognise(folder).doubts
    for role, doubt in zip(("train", "test"), doubts, strict=True):
        shown = reason.replace("train", role)
        assert doubt.startswith(f"id names the {role} images with {shown} for {role}/{train_files[0]})")
        assert doubt.endswith("; the copy's image_file has the files")
    test = prove(tmp_path, folder, ["target"], zero_one(12), train_ids)
    assert [path.rpartition("/")[2] for path in test.paths] == train_files[:4]
    assert list(test.ids) == test_ids  # as the sample writes them


def test_a_file_is_not_guessed(tmp_path):
    found = {"train/cat": ["1.jpg", "2.JPG"], "train/dog": ["1.jpg"], "test": ["2.jpg", "3.jpg"]}
    assert locate_images(["1", "2.jpg", "3", "Cat/1.PNG", ""], found, "train") == (
        ["", "train/cat/2.JPG", "", "train/cat/1.jpg", ""],
        ["other letter case", "another suffix"],
    )


def test_the_same_file_name_in_many_folders(tmp_path):
    folder = tmp_path / "chests"
    names = [f"patient{row:02}/study1/view{view}.jpg" for row in range(6) for view in (1, 2)]
    images(folder, [f"train/{one}" for one in names])
    paths = [f"Chests-v1.0-small/train/{one}" for one in names]
    table(folder / "train.csv", Path=paths, edema=zero_one(12))
    layout = recognise(folder)
    assert layout.value("group") == "re:^(.+)(?:/[^/]+){2}$"
    assert layout.doubts[0] == (
        f"Path names the train images with folders that are elsewhere (first: {paths[0]!r} for train/{names[0]}); "
        "the copy's image_file has the files"
    )
    (rows,) = layout.copies.values()
    assert rows["image_file"].tolist() == [f"train/{one}" for one in names]


def test_blanks_around_ids(tmp_path):
    folder = tmp_path / "blanks"
    write_pair(folder, ids(0, 12, "a{} "), ids(20, 4, "a{} "), ids(0, 12, "a{}.jpg"), ids(20, 4, "a{}.jpg"))
    assert [path.rpartition("/")[2] for path in prove(tmp_path, folder, ["target"], zero_one(12)).paths] == [
        *ids(20, 4, "a{}.jpg")
    ]
    assert recognise(folder).doubts == [
        "12 of 12 cells of id in train.csv have blanks at their ends (first: 'a0 '), which do not count",
        "4 of 4 cells of id in sample_submission.csv have blanks at their ends (first: 'a20 '), which do not count",
    ]


def test_rows_that_repeat_an_id(tmp_path):
    folder = tmp_path / "twice"
    images(folder / "train", ids(0, 20, "{}.png"))
    table(folder / "train.csv", id=ids(0, 20) * 2, kind=["cat", "dog"] * 20)
    assert recognise(folder).doubts[0] == (
        "20 of 40 training rows repeat an id with the same labels; the copy has one row of each"
    )
    names = ["cat", "dog"] * 20
    names[39] = "cat"
    table(folder / "train.csv", id=ids(0, 20) * 2, kind=names)
    assert recognise(folder).doubts[:2] == [
        "19 of 40 training rows repeat an id with the same labels; the copy has one row of each",
        "1 id has rows of different labels (first: 19: dog, cat); the copy leaves them out",
    ]
    images(folder / "test", ids(0, 4, "{}.png"))
    prove(tmp_path, folder, ["dog"], zero_one(19), ids(0, 19))


def test_a_row_per_image_and_label_in_the_id(tmp_path):
    folder = tmp_path / "bleeding"
    kinds = ["epidural", "sub_dural", "any"]
    images(folder, ids(0, 6, "train/ID_{:03}.dcm") + ids(6, 4, "test/ID_{:03}.dcm"))
    rows = [(f"ID_{row:03}_{kind}", int(row % 3 == place)) for row in range(6) for place, kind in enumerate(kinds)]
    table(folder / "train.csv", ID=[one for one, _ in rows], Label=[label for _, label in rows])
    asked = [f"ID_{row:03}_{kind}" for row in range(6, 10) for kind in kinds]
    table(folder / "sample_submission.csv", ID=asked, Label=[0.5] * 12)
    assert recognise(folder).doubts == [
        "train.csv has a row per image and label; its copy has a row per image and a column of each of 3 labels",
        "the sample's ids are <image>_<label>: submission.csv gets a row of each again",
    ]
    test = prove(tmp_path, folder, kinds, [0, 1, 2] * 2, ids(0, 6, "ID_{:03}"))
    assert list(test.ids) == ids(6, 4, "ID_{:03}")


def test_a_row_per_image_and_label_in_two_columns():
    rows = pd.DataFrame({"image": ["a", "a", "b", "b"], "finding": ["x", "y"] * 2, "present": ["1", "0", "0", "0"]})
    wide, name, labels = pivot_long(rows, ["image"])
    assert (wide.to_dict("list"), name, labels) == (
        {"image": ["a", "b"], "x": ["1", "0"], "y": ["0", "0"]}, "image", ["x", "y"]
    )  # fmt: skip
    assert pivot_long(pd.DataFrame({"id": ["a_1", "a_2", "b_1", "b_2"], "y": list("0101")}), ["id"]) is None


def test_rows_of_several_labels_of_an_image(tmp_path):
    folder = tmp_path / "several"
    images(folder, ids(0, 8, "train/{}.png") + ids(8, 2, "test/{}.png"))
    table(folder / "train.csv", id=[one for one in ids(0, 8) for _ in "ab"], kind=["cat", "dog", "cat", "cow"] * 4)
    layout = recognise(folder)
    assert (layout.value("task"), layout.value("separator"), layout.value("classes")) == (
        "multilabel", "|", ["cat", "cow", "dog"]
    )  # fmt: skip
    assert layout.doubts[0] == (
        "8 of 8 ids have rows of several labels: the copy has a row of each id, whose cell holds all, joined by |"
    )


def test_detection_is_said(tmp_path):
    folder = tmp_path / "boxes"
    images(folder / "train", ids(0, 6, "{}.png"))
    boxes = {name: ids(0, 12) for name in ("xmin", "ymin", "xmax", "ymax")}
    table(folder / "train.csv", image=ids(0, 6) * 2, name=["cat"] * 6 + ["dog"] * 6, **boxes)
    with pytest.raises(UserError) as caught:
        recognise(folder)
    assert str(caught.value) == (
        f"{folder}: train.csv is of object detection: boxes in xmin, ymin, xmax, ymax, 12 rows of 6 images; "
        "to classify whole images, put a CSV with a row per image and its labels in its place"
    )
    table(folder / "train.csv", image=ids(0, 6) * 2, name=["cat", "dog"] * 6, **boxes)
    assert recognise(folder).doubts[0] == (
        "train.csv is of object detection: boxes in xmin, ymin, xmax, ymax, which are not used: "
        "whole images are classified"
    )


def test_segmentation_and_boxes_in_files_are_said(tmp_path):
    folder = tmp_path / "masks"
    images(folder / "train", ids(0, 6, "{}.png"))
    table(folder / "train.csv", ImageId=ids(0, 6, "{}.png"), EncodedPixels=["1 2 5 6"] * 6)
    table(folder / "sample_submission.csv", ImageId=["9.png"], EncodedPixels=["1 1"])
    with pytest.raises(UserError, match="train.csv is of segmentation: masks in EncodedPixels, 6 rows of 6 images; to"):
        recognise(folder)
    (folder / "train.csv").unlink()
    (folder / "sample_submission.csv").unlink()
    write(folder / "labels" / "0.txt", "0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n")
    write(folder / "voc" / "0.xml", "<annotation><object><bndbox>\n</bndbox></object></annotation>\n")
    with pytest.raises(UserError) as caught:
        recognise(folder)
    assert "labels/0.txt and others like it are of object detection: the boxes of an image each" in str(caught.value)
    assert "voc/0.xml and others like it are of object detection: the boxes of an image each" in str(caught.value)


def test_several_answers_of_an_image_are_averaged(tmp_path):
    folder = tmp_path / "readers"
    images(folder, ids(0, 8, "train/{}.png") + ids(8, 2, "test/{}.png"))
    table(folder / "train.csv", id=[one for one in ids(0, 8) for _ in "abcd"], target=[0, 1, 1, 1, 0, 0, 0, 0] * 4)
    assert recognise(folder).doubts == ["4 of 8 ids have rows of different targets: the copy has the mean of each id"]
    prove(tmp_path, folder, ["target"], [0.75, 0] * 4, ids(0, 8))


def test_what_the_tables_hold_instead_is_said(tmp_path):
    images(tmp_path, ["x/a.png", "x/b.png"])
    table(tmp_path / "labels.csv", name=["q", "r"], kind=["cat", "dog"])
    table(tmp_path / "boxes.csv", name=["s", "t"], bbox=["[1]", "[2]"])
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError) as caught:
        recognise(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: nothing labels the 2 images (first: x/a.png): "
        f"not read: {tmp_path}/empty.csv: is empty; copy or download it again; "
        "boxes.csv is of object detection: boxes in bbox; "
        "labels.csv names none of them (first row: name=q, kind=cat); "
        "add a CSV with a column of their names and one of labels"
    )


def test_several_files_of_an_id(tmp_path):
    folder = tmp_path / "pets"
    kinds = ("1", "mask", "edge")  # numbers alone would be several images a row
    images(folder / "train", [f"a{row}-{kind}.jpg" for row in range(10) for kind in kinds[: 1 + row % 3]])
    table(folder / "train.csv", PetID=ids(0, 10, "a{}"), AdoptionSpeed=zero_one(10))
    layout = recognise(folder)
    assert (layout.value("train_image"), layout.value("images")) == ("train/{PetID}-1.jpg", None)
    assert layout.doubts[0] == (
        "train/{PetID}-1.jpg reads one of several files: 60 % of the ids looked at have more (first: a1-mask.jpg); "
        "the others are not read; write another pattern to read another one"
    )
