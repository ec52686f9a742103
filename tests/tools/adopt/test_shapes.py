"""Competitions of other shapes: images in two places, groups to predict, tables that are no CSV with a header."""

import json

import pytest

from tests.tools.adopt.folders import decided, ids, images, prove, table, zero_one
from tools.adopt.layout import recognise


def names_of(table):
    return [path.rpartition("/")[2] for path in table.paths]


def write(folder, **target):
    """Twelve training and four test images, and a sample that asks for `target`."""
    images(folder, ids(0, 12, "train/{}.jpg") + ids(20, 4, "test/{}.jpg"))
    if target:
        table(folder / "sample_submission.csv", id=ids(20, 4), **target)


def test_images_in_hdf5_are_named(tmp_path):
    folder = tmp_path / "skin"
    images(folder, ids(0, 12, "train/{}.jpg"))
    (folder / "test-image.hdf5").write_bytes(b"")
    table(folder / "train.csv", id=ids(0, 12), target=zero_one(12))
    table(folder / "sample_submission.csv", id=ids(20, 4), target=[0.5] * 4)
    assert recognise(folder).doubts == [
        "no image for the ids of sample_submission.csv is there; test_image is a guess; test-image.hdf5 may hold them "
        "but is not read: write each as a file, test/<id>.jpg, and adopt again"
    ]


CATS = ["dog" if row % 2 else "cat" for row in range(12)]


@pytest.mark.parametrize(
    ("name", "content", "doubt"),
    [
        (
            "labels.json",
            json.dumps({f"{row}.jpg": one for row, one in enumerate(CATS)}),
            "labels.json is no CSV: the copy is a CSV of the columns image, label",
        ),
        (
            "train.json",
            json.dumps([{"file": f"train/{row}.jpg", "label": one} for row, one in enumerate(CATS)]),
            "train.json is no CSV: the copy is a CSV of the columns file, label",
        ),
        (
            "coco.json",
            json.dumps(
                {
                    "images": [{"id": row + 100, "file_name": f"{row}.jpg"} for row in range(12)],
                    "annotations": [{"image_id": row + 100, "category_id": row % 2} for row in range(12)],
                    "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
                }
            ),
            "coco.json is no CSV: the copy is a CSV of the columns image, label",
        ),
        (
            "train.txt",
            "".join(f"train/{row}.jpg {one}\n" for row, one in enumerate(CATS)),
            "train.txt is no CSV: the copy is a CSV of the columns image, label",
        ),
        (
            "train.csv",
            "".join(f"{row}.jpg,{one}\n" for row, one in enumerate(CATS)),
            "train.csv has no header: its copy names the columns image, label",
        ),
    ],
)
def test_labels_that_are_no_csv_with_a_header(tmp_path, name, content, doubt):
    folder = tmp_path / "forms"
    write(folder)
    (folder / name).write_text(content)
    assert recognise(folder).doubts == [doubt]
    prove(tmp_path, folder, ["dog"], zero_one(12))


def test_a_list_of_images_for_each_label(tmp_path):
    folder = tmp_path / "lists"
    write(folder)
    for label in ("cat", "dog"):
        (folder / f"{label}.txt").write_text("\n".join(f"{row}.jpg" for row in range(12) if CATS[row] == label))
    assert recognise(folder).doubts == [
        "cat.txt and others beside it list the images of a label each: the copy is a CSV of the columns image, label"
    ]
    prove(tmp_path, folder, ["dog"], [0] * 6 + [1] * 6)


def test_a_table_in_parts(tmp_path):
    folder = tmp_path / "parts"
    write(folder, target=[0.5] * 4)
    for part in range(2):
        table(folder / f"train_{part}.csv", id=ids(6 * part, 6), target=zero_one(6))
    assert recognise(folder).doubts == ["train_0.csv, train_1.csv are parts of one table: the copy has the rows of all"]
    prove(tmp_path, folder, ["target"], zero_one(12), ids(0, 12))


@pytest.mark.parametrize("form", ["images/{1}.jpg", "{0}/{1}.jpg"])
def test_a_column_that_says_which_rows_are_for_testing(tmp_path, form):
    folder = tmp_path / "split"
    split = ["train"] * 8 + ["val"] * 2 + ["test"] * 6
    images(folder, [form.format(kind, row) for row, kind in enumerate(split)])
    table(folder / "all.csv", id=ids(0, 16), split=split, kind=["cat", "dog"] * 8)
    assert recognise(folder).doubts[0] == (
        "split says which rows are for testing (8 train, 6 test, 2 val): the copies are train.csv and test.csv"
    )
    assert list(prove(tmp_path, folder, ["dog"], zero_one(10), ids(0, 10)).ids) == ids(10, 6)


def test_signs_in_place_of_zeros_and_ones(tmp_path):
    folder = tmp_path / "signs"
    write(folder, smiling=[0] * 4, male=[0] * 4)
    table(folder / "train.csv", id=ids(0, 12), smiling=[1, -1, -1] * 4, male=[-1, 1, 1] * 4)
    assert recognise(folder).doubts == ["2 columns hold 1 and -1: the copy has 0 for -1"]
    prove(tmp_path, folder, ["smiling", "male"], [0, 1, 1] * 4)


def test_an_extra_total_column_class_numbers_and_a_table_of_their_names(tmp_path):
    folder = tmp_path / "total"
    write(folder)
    kinds = {name: [int(row % 3 == place) for row in range(12)] for place, name in enumerate("abc")}
    table(folder / "train.csv", id=ids(0, 12), **kinds, total=[1] * 12)
    assert decided(folder)["targets"] == ["a", "b", "c"]
    prove(tmp_path, folder, ["a", "b", "c"], [0, 1, 2] * 4)
    table(folder / "train.csv", id=ids(0, 12), class_id=ids(1, 4) * 3)
    table(folder / "classes.csv", class_id=ids(1, 4), name=["w", "x", "y", "z"])
    assert decided(folder)["classes"] == ids(1, 4)
    assert recognise(folder).unused == ["classes.csv"]
    prove(tmp_path, folder, ids(1, 4), [0, 1, 2, 3] * 3)


def test_what_programs_leave_beside_images_is_left_out(tmp_path):
    folder = tmp_path / "rubbish"
    images(
        folder, [f"{kind}/{row}.JPG" for kind in ("CAT", "DOG", ".ipynb_checkpoints", "__MACOSX") for row in range(4)]
    )
    for name in ("._0.JPG", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / "CAT" / name).write_bytes(b"x")
    assert decided(folder)["classes"] == ["CAT", "DOG"]
    assert len(recognise(folder).files.paths) == 8


def test_folders_of_the_first_two_letters_and_padded_names_after_a_word(tmp_path):
    folder = tmp_path / "letters"
    train = [f"{row * 7919 % 65536:04x}a" for row in range(12)]
    images(folder, [f"train/{one[:2]}/{one}.jpg" for one in train] + ids(1, 4, "test/IMG_{:04}.jpg"))
    table(folder / "train.csv", id=train, target=zero_one(12))
    table(folder / "sample_submission.csv", id=ids(1, 4), target=[0.5] * 4)
    found = decided(folder)
    assert found["train_image"] == "train/{id[0]}{id[1]}/{id}.jpg"
    assert found["test_image"] == "test/IMG_{id_padded}.jpg"
    assert names_of(prove(tmp_path, folder, ["target"], zero_one(12), train)) == ids(1, 4, "IMG_{:04}.jpg")


def test_test_images_in_two_folders(tmp_path):
    folder = tmp_path / "planet"
    test = ids(0, 6, "test_{}") + ids(6, 3, "file_{}")
    images(folder, ids(0, 12, "train-jpg/train_{}.jpg"))
    images(folder, [f"test-jpg{'-additional' * (one[0] == 'f')}/{one}.jpg" for one in test])
    table(folder / "train.csv", id=ids(0, 12, "train_{}"), target=zero_one(12))
    table(folder / "sample_submission.csv", id=test, target=[0.5] * 9)
    assert decided(folder)["test_image"] == ["test-jpg/{id}.jpg", "test-jpg-additional/{id}.jpg"]
    assert recognise(folder).doubts == []
    assert names_of(prove(tmp_path, folder, ["target"], zero_one(12))) == [f"{one}.jpg" for one in test]


@pytest.mark.parametrize("has_column", [True, False])
def test_the_sample_asks_for_groups_of_images(tmp_path, has_column):
    folder = tmp_path / "breasts"
    images(folder, ids(0, 12, "train/{}.jpg") + ids(20, 8, "test/{}.jpg"))
    sides = list("LLRR")
    table(folder / "train.csv", patient=ids(0, 3) * 4, side=sides * 3, image_id=ids(0, 12), cancer=zero_one(12))
    asked = [f"{row // 4}_{sides[row % 4]}" for row in range(40, 48)]
    columns = {"prediction_id": asked} if has_column else {}
    table(folder / "test.csv", patient=[10] * 4 + [11] * 4, side=sides * 2, image_id=ids(20, 8), **columns)
    table(folder / "sample_submission.csv", prediction_id=sorted(set(asked)), cancer=[0] * 4)
    found = decided(folder)
    key = "{patient}_{side}"  # which training has, too, so that its rows can be scored alike
    assert (found["id"], found["predict_by"], found["predict_with"]) == ("image_id", key, "mean")
    assert recognise(folder).settings["competition.predict_by"][1] == (
        "what the sample's prediction_id names: 4 for 8 test rows"
    )
    assert names_of(prove(tmp_path, folder, ["cancer"], zero_one(12), ids(0, 12))) == ids(20, 8, "{}.jpg")


def test_the_sample_calls_the_id_otherwise(tmp_path):
    folder = tmp_path / "otherwise"
    images(folder, ids(0, 12, "train/{}.jpg") + ids(20, 4, "test/{}.jpg"))
    table(folder / "train.csv", id=ids(0, 12), target=zero_one(12))
    table(folder / "test.csv", id=ids(20, 4))
    table(folder / "sample_submission.csv", Id=ids(20, 4), Predicted=[0] * 4)
    assert recognise(folder).doubts == ["the sample calls Id what the tables call id; they are matched by value"]
    assert list(prove(tmp_path, folder, ["target"], zero_one(12), ids(0, 12)).ids) == ids(20, 4)
