"""Competitions of other shapes: images in two places, groups to predict, tables that are no CSV with a header."""

import io
import json
import zipfile
from dataclasses import fields

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from src.competition.tables import load_train_table
from src.config.settings import Competition
from src.containers import read_file
from src.errors import UserError
from src.files import save_table
from tests.tools.adopt.folders import decided, ids, images, prove, table, zero_one
from tools.adopt.layout import recognise


def names_of(table):
    return [path.rpartition("/")[2] for path in table.paths]


def write(folder, **target):
    """Twelve training and four test images, and a sample that asks for `target`."""
    images(folder, ids(0, 12, "train/{}.jpg") + ids(20, 4, "test/{}.jpg"))
    if target:
        table(folder / "sample_submission.csv", id=ids(20, 4), **target)


def test_images_in_files_that_are_not_read_are_named(tmp_path):
    folder = tmp_path / "skin"
    images(folder, ids(0, 12, "train/{}.jpg"))
    (folder / "test-image.tfrec").write_bytes(b"")
    table(folder / "train.csv", id=ids(0, 12), target=zero_one(12))
    table(folder / "sample_submission.csv", id=ids(20, 4), target=[0.5] * 4)
    assert recognise(folder).doubts == [
        "no image for the ids of sample_submission.csv is there; test_image is a guess; test-image.tfrec may hold them "
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


def write_jpegs(count):
    """{id: the bytes of a JPEG}, which differ."""
    found = {}
    for number in range(count):
        Image.new("RGB", (40, 40), (number * 10, 50, 90)).save(file := io.BytesIO(), "JPEG")
        found[f"ISIC_{number:07}"] = file.getvalue()
    return found


def test_isic_2024_in_hdf5(tmp_path):
    """train-image.hdf5 and test-image.hdf5, a dataset an image."""
    folder, jpegs = tmp_path / "isic-2024", write_jpegs(16)
    train, test = list(jpegs)[:12], list(jpegs)[12:]
    more = {"sex": "male", "image_type": "TBP tile: close-up"}
    patients = [f"IP_{number // 2}" for number in range(12)]
    table(folder / "train-metadata.csv", isic_id=train, target=zero_one(12), patient_id=patients, **more)
    table(folder / "test-metadata.csv", isic_id=test, patient_id=["IP_7"] * 4, **more)
    table(folder / "sample_submission.csv", isic_id=test, target=[0.3] * 4)
    for role, names in (("train", train), ("test", test)):
        with h5py.File(folder / f"{role}-image.hdf5", "w") as file:
            for name in names:
                file[name] = np.void(jpegs[name])
    assert decided(folder, without=("root", "metric", "image_size")) == {
        "train_table": "train-metadata.csv",
        "test_table": "test-metadata.csv",
        "sample_submission": "sample_submission.csv",
        "id": "isic_id",
        "train_image": "train-image.hdf5/{isic_id}",
        "test_image": "test-image.hdf5/{isic_id}",
        "targets": ["target"],
        "task": "binary",
        "group": "patient_id",
        "channels": 3,
    }
    layout = recognise(folder)
    assert "read inside train-image.hdf5, which need not" in layout.settings["competition.train_image"][1]
    assert layout.doubts == []
    (folder / "train-image.hdf5").write_bytes(b"broken")
    (folder / "test-image.hdf5").unlink()
    with pytest.raises(UserError, match=r"train-image.hdf5: cannot be read \(.*"):
        recognise(folder)


def test_hugging_face_parquet_in_parts(tmp_path):
    """The parts' images are called by their rows' numbers, so that the copy names the part, too."""
    folder, jpegs = tmp_path / "hf", list(write_jpegs(16).values())
    (folder / "data").mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, rows in (
        ("train-00000-of-00002", jpegs[:6]),
        ("train-00001-of-00002", jpegs[6:12]),
        ("test", jpegs[12:]),
    ):
        packed = pa.array([{"bytes": one, "path": None} for one in rows], kind)
        columns = {"image": packed} | ({} if name == "test" else {"label": [0, 1] * 3})
        pq.write_table(pa.table(columns), folder / "data" / f"{name}.parquet", row_group_size=2)
    found = decided(folder)
    assert (found["train_image"], found["test_image"]) == ("data/{image}", "data/test.parquet/{image}")
    layout = recognise(folder, output=tmp_path / "copies")
    [(path, copy)] = layout.copies.items()
    assert copy["image"].tolist()[5:7] == ["train-00000-of-00002.parquet/5", "train-00001-of-00002.parquet/0"]
    save_table(path, copy)
    given = {key.removeprefix("competition."): value[0] for key, value in layout.settings.items()}
    given = {key: value for key, value in given.items() if key in {one.name for one in fields(Competition)}}
    paths = load_train_table(Competition(**given)).paths
    assert [read_file(one) for one in paths] == jpegs[:12]


def test_all_in_one_zip_and_tables_in_zips(tmp_path):
    folder, jpegs = tmp_path / "all", write_jpegs(16)
    folder.mkdir()
    train, test = list(jpegs)[:12], list(jpegs)[12:]
    tables = {
        "train.csv": pd.DataFrame({"id": train, "y": zero_one(12)}).to_csv(index=False),
        "sample_submission.csv": pd.DataFrame({"id": test, "y": 0}).to_csv(index=False),
    }
    members = {f"{'train' if name in train else 'test'}_images/{name}.jpg": one for name, one in jpegs.items()}

    def pack(name, members):
        with zipfile.ZipFile(folder / name, "w") as packed:
            for member, content in members.items():
                packed.writestr(member, content)

    pack("all.zip", members | tables | {"__MACOSX/._train.csv": b""})
    found = decided(folder)
    assert (found["train_table"], found["train_image"]) == ("all.zip/train.csv", "all.zip/train_images/{id}.jpg")
    assert found["sample_submission"] == "all.zip/sample_submission.csv"
    pack("all.zip", members)
    for name, content in tables.items():
        pack(f"{name}.zip", {name: content, f"__MACOSX/._{name}": b""})
    found = decided(folder)
    assert (found["train_table"], found["sample_submission"]) == ("train.csv.zip", "sample_submission.csv.zip")


def test_a_sample_of_a_row_per_image_and_label_beside_a_table_of_columns(tmp_path):
    folder, test = tmp_path / "wide", ids(12, 4, "p{:03}")
    images(folder / "train", [f"{one}.png" for one in ids(0, 12, "p{:03}")])
    images(folder / "test", [f"{one}.png" for one in test])
    table(folder / "train.csv", id=ids(0, 12, "p{:03}"), any=zero_one(12), skin=[1 - one for one in zero_one(12)])
    table(folder / "sample_submission.csv", id=[f"{one}_{label}" for label in ("skin", "any") for one in test], p=0.5)
    found = decided(folder)
    assert (sorted(found["targets"]), found["test_image"]) == (["any", "skin"], "test/{id}.png")
    prove(tmp_path, folder, ["skin", "any"], zero_one(12))


@pytest.mark.parametrize("is_table", [True, False])
def test_a_sample_that_holds_one_of_two_names_asks_for_names(tmp_path, is_table):
    folder, rows, names = tmp_path / "pets", ids(0, 12, "p{:03}"), [("cat", "dog")[one] for one in zero_one(12)]
    images(
        folder / "train",
        [f"{one}.png" if is_table else f"{name}/{one}.png" for one, name in zip(rows, names, strict=True)],
    )
    images(folder / "test", [f"{one}.png" for one in ids(12, 4, "p{:03}")])
    if is_table:
        table(folder / "train.csv", id=rows, pet=names)
    table(folder / "sample_submission.csv", id=ids(12, 4, "p{:03}"), pet="cat")
    found = decided(folder, metric="accuracy")
    assert (found["task"], found["classes"]) == ("multiclass", ["cat", "dog"])
    prove(tmp_path, folder, ["cat", "dog"], zero_one(12) if is_table else sorted(zero_one(12)))
