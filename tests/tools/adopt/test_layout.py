"""Every known competition layout in miniature: what is decided, and that src.competition.tables reads its rows."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.competition.image_files import IMAGE_SUFFIXES
from src.competition.metadata import count_inputs
from src.competition.tables import load_train_table
from src.config.load import load_config
from src.errors import UserError
from tests.tools.adopt.folders import decided, ids, images, prove, table, zero_one
from tools.adopt.competition_file import competition_yaml
from tools.adopt.layout import recognise

COMMON = {"train_table": "train.csv", "sample_submission": "sample_submission.csv", "task": "binary"}


def write_cactus(folder):
    train, test = ids(0, 16, "a{:03}.jpg"), ids(16, 8, "a{:03}.jpg")
    images(folder / "train", train)
    images(folder / "test", test)
    table(folder / "train.csv", id=train, has_cactus=zero_one(16))
    table(folder / "sample_submission.csv", id=test, has_cactus=[0.5] * 8)


def test_cactus(tmp_path):
    folder = tmp_path / "cactus"
    write_cactus(folder)
    assert decided(folder, without=("root", "metric")) == COMMON | {
        "id": "id",
        "train_image": "train/{id}",
        "test_image": "test/{id}",
        "targets": ["has_cactus"],
        "channels": 3,
        "image_size": 64,
    }
    prove(tmp_path, folder, ["has_cactus"], zero_one(16))


def test_histopathologic(tmp_path):
    folder = tmp_path / "histo"
    train, test = ids(0, 12, "{:040x}"), ids(12, 6, "{:040x}")
    images(folder, [f"train/{one}.tif" for one in train] + [f"test/{one}.tif" for one in test], (96, 96))
    table(folder / "train_labels.csv", id=train, label=zero_one(12))
    table(folder / "sample_submission.csv", id=test, label=[0] * 6)
    assert decided(folder, ("root", "metric", "channels")) == COMMON | {
        "train_table": "train_labels.csv",
        "id": "id",
        "train_image": "train/{id}.tif",
        "test_image": "test/{id}.tif",
        "targets": ["label"],
        "image_size": 192,
    }
    prove(tmp_path, folder, ["label"], zero_one(12), train)


def test_melanoma(tmp_path):
    folder = tmp_path / "melanoma"
    train, test = ids(0, 24, "ISIC_{:07}"), ids(24, 8, "ISIC_{:07}")
    images(folder, [f"{place}/{one}.dcm" for place, all_ in (("train", train), ("test", test)) for one in all_])
    images(
        folder,
        [f"jpeg/{place}/{one}.jpg" for place, all_ in (("train", train), ("test", test)) for one in all_],
        (300, 200),
    )
    extra = lambda count: dict(  # noqa: E731
        patient_id=[f"IP_{number // 3}" for number in range(count)],
        sex=["male", "female"] * (count // 2),
        age_approx=[45.0, 50.0] * (count // 2),
        anatom_site_general_challenge=["torso", "head"] * (count // 2),
    )
    target = [int(number % 8 == 0) for number in range(24)]
    table(
        folder / "train.csv",
        image_name=train,
        **extra(24),
        diagnosis=["nevus", "unknown"] * 12,
        benign_malignant=["malignant" if one else "benign" for one in target],
        target=target,
    )
    table(folder / "test.csv", image_name=test, **extra(8))
    table(folder / "sample_submission.csv", image_name=test, target=[0] * 8)
    assert decided(folder) == COMMON | {
        "test_table": "test.csv",
        "id": "image_name",
        "train_image": "jpeg/train/{image_name}.jpg",
        "test_image": "jpeg/test/{image_name}.jpg",
        "targets": ["target"],
        "group": "patient_id",
    }
    assert "8-bit" in recognise(folder).settings["competition.train_image"][1]
    text = competition_yaml(recognise(folder), folder)
    assert text.count("  # metadata: [sex, age_approx, anatom_site_general_challenge]\n") == 1
    path = tmp_path / "with_metadata.yaml"
    path.write_text(text.replace("  # metadata", "  metadata"), encoding="utf-8")
    assert count_inputs(load_train_table(load_config([f"competition={path}"]).competition).encoding) == 5
    test = prove(tmp_path, folder, ["target"], target, train)
    assert list(test.groups) == [f"IP_{number // 3}" for number in range(8)]
    (folder / "sample_submission.csv").unlink()
    assert decided(folder)["targets"] == ["target"]


def test_ranzcr(tmp_path):
    folder = tmp_path / "ranzcr"
    train, test = ids(0, 24, "1.2.826.0.1.{:05}"), ids(24, 6, "1.2.826.0.1.{:05}")
    columns = ["ETT - Abnormal", "ETT - Normal", *ids(0, 9, "CVC {}")]
    images(folder, [f"train/{one}.jpg" for one in train] + [f"test/{one}.jpg" for one in test], (100, 80), "L")
    targets = {name: [int((row + place) % 3 == 0) for row in range(24)] for place, name in enumerate(columns)}
    table(folder / "train.csv", StudyInstanceUID=train, **targets, PatientID=[f"p{row // 4}" for row in range(24)])
    table(folder / "train_annotations.csv", StudyInstanceUID=train * 2, label=["CVC 1"] * 48, data=["[]"] * 48)
    table(folder / "sample_submission.csv", StudyInstanceUID=test, **{name: [0] * 6 for name in columns})
    assert decided(folder, ("root", "metric")) == COMMON | {
        "id": "StudyInstanceUID",
        "train_image": "train/{StudyInstanceUID}.jpg",
        "test_image": "test/{StudyInstanceUID}.jpg",
        "targets": columns,
        "task": "multilabel",
        "group": "PatientID",
        "channels": 3,
    }
    assert recognise(folder).unused == ["train_annotations.csv"]
    prove(tmp_path, folder, columns, [-row % 3 for row in range(24)])


def test_plant_pathology(tmp_path):
    folder = tmp_path / "plant"
    columns = ["healthy", "multiple_diseases", "rust", "scab"]
    images(folder / "images", ids(0, 12, "Train_{}.jpg") + ids(0, 12, "Test_{}.jpg"), (300, 200))
    targets = {name: [int(row % 4 == place) for row in range(12)] for place, name in enumerate(columns)}
    table(folder / "train.csv", image_id=ids(0, 12, "Train_{}"), **targets)
    table(folder / "test.csv", image_id=ids(0, 12, "Test_{}"))
    table(folder / "sample_submission.csv", image_id=ids(0, 12, "Test_{}"), **{name: [0.25] * 12 for name in columns})
    assert decided(folder) == COMMON | {
        "test_table": "test.csv",
        "id": "image_id",
        "train_image": "images/{image_id}.jpg",
        "test_image": "images/{image_id}.jpg",
        "targets": columns,
        "task": "multiclass",
    }
    prove(tmp_path, folder, columns, [row % 4 for row in range(12)])


def test_invasive_species_with_integer_ids_and_shuffled_sample(tmp_path):
    folder = tmp_path / "invasive"
    images(folder, ids(1, 16, "train/{}.jpg") + ids(1, 8, "test/{}.jpg"), (115, 86))
    table(folder / "train_labels.csv", name=ids(1, 16), invasive=zero_one(16))
    table(folder / "sample_submission.csv", name=[5, 1, 8, 2, 3, 4, 7, 6], invasive=[0.5] * 8)
    assert decided(folder) == COMMON | {
        "train_table": "train_labels.csv",
        "id": "name",
        "train_image": "train/{name}.jpg",
        "test_image": "test/{name}.jpg",
        "targets": ["invasive"],
    }
    test = prove(tmp_path, folder, ["invasive"], zero_one(16))
    assert list(test.ids) == ["5", "1", "8", "2", "3", "4", "7", "6"]


@pytest.mark.parametrize("padded", [True, False])
def test_brain_tumor_with_a_folder_of_slices_per_row(tmp_path, padded):
    folder = tmp_path / "brain"
    for place, start, count in (("train", 0, 12), ("test", 12, 4)):
        for one in ids(start, count, "{:05}"):
            images(
                folder / place / one,
                [f"{kind}/Image-{slice_}.dcm" for kind in ("FLAIR", "T1w") for slice_ in (1, 2, 3)],
            )
    form = "{:05}" if padded else "{}"
    table(folder / "train_labels.csv", BraTS21ID=ids(0, 12, form), MGMT_value=zero_one(12))
    table(folder / "sample_submission.csv", BraTS21ID=ids(12, 4, form), MGMT_value=[0.5] * 4)
    copies, column = Path("outputs/adopt/brain").absolute(), "BraTS21ID" if padded else "BraTS21ID_padded"
    tables = {"train_table": f"{copies}/train.csv", "test_table": f"{copies}/test.csv"}
    assert decided(folder) == COMMON | ({"train_table": "train_labels.csv"} if padded else tables) | {
        "id": "BraTS21ID",
        "train_image": f"train/{{{column}}}/FLAIR/*.dcm",
        "test_image": f"test/{{{column}}}/FLAIR/*.dcm",
        "images": f"train/{{{column}}}/FLAIR/*.dcm",
        "images_as": "max",
        "targets": ["MGMT_value"],
    }
    assert "middle slice" in recognise(folder).settings["competition.train_image"][1]
    test = prove(tmp_path, folder, ["MGMT_value"], zero_one(12))
    assert [one[-11:] for one in test.paths[0].split("\0")] == ["Image-1.dcm", "Image-2.dcm", "Image-3.dcm"]
    *doubts, series = recognise(folder).doubts
    assert series.startswith("rows have files in T1w beside FLAIR, too, which are not read; ")
    assert doubts == [
        f"the {role} images' names are padded with zeros to 5 digits, BraTS21ID is not; the copy's BraTS21ID_padded is"
        for role in ("train", "test")
        if not padded
    ]


def test_older_data_in_a_folder_below_is_left_out_and_reported(tmp_path):
    folder = tmp_path / "seti"
    for below in ("", "a_leak/"):
        train = [f"{row:03}{'x' * bool(below)}" for row in range(16)]
        images(folder / below / "train", [f"{one}.npy" for one in train], (6, 40, 40))
        table(folder / f"{below}train_labels.csv", id=train, target=zero_one(16))
    layout = recognise(folder)
    assert layout.value("train_table") == "train_labels.csv"
    assert layout.value("train_image") == "train/{id}.npy"
    assert layout.doubts[0] == (
        "a_leak/train_labels.csv could be the training table too, with the same columns as train_labels.csv"
    )


def test_seti_arrays_in_folders_by_first_letter(tmp_path):
    folder = tmp_path / "seti"
    train, test = [f"{row % 4:x}bc{row:03}" for row in range(16)], [f"{row % 4:x}bc{row:03}" for row in range(16, 24)]
    images(folder / "train", [f"{one[0]}/{one}.npy" for one in train], (6, 273, 256))
    images(folder / "test", [f"{one[0]}/{one}.npy" for one in test], (6, 273, 256))
    table(folder / "train_labels.csv", id=train, target=zero_one(16))
    table(folder / "sample_submission.csv", id=test, target=[0.5] * 8)
    assert decided(folder, ("root", "metric")) == COMMON | {
        "train_table": "train_labels.csv",
        "id": "id",
        "train_image": "train/{id[0]}/{id}.npy",
        "test_image": "test/{id[0]}/{id}.npy",
        "targets": ["target"],
        "channels": 6,
        "image_size": [288, 256],
        "normalize": "dataset",
    }
    prove(tmp_path, folder, ["target"], zero_one(16))


def test_a_folder_per_class(tmp_path):
    folder = tmp_path / "pets"
    images(folder / "train", ids(0, 6, "cat/{}.jpg") + ids(0, 6, "dog/{}.jpg"))
    images(folder / "test", ids(0, 4, "{}.jpg"))
    expected = {"id": "id", "train_image": "train/{label}/*", "test_image": "test/*", "label": "label"}
    expected |= {"classes": ["cat", "dog"], "task": "binary"}
    assert decided(folder) == expected
    prove(tmp_path, folder, ["dog"], [0] * 6 + [1] * 6)
    table(folder / "sample_submission.csv", image=ids(0, 4, "{}.jpg"), dog=[0] * 4, cat=[0] * 4)
    assert decided(folder) == expected | {
        "id": "image",
        "test_image": "test/{image}",
        "sample_submission": "sample_submission.csv",
        "classes": ["dog", "cat"],
        "task": "multiclass",
    }
    prove(tmp_path, folder, ["dog", "cat"], [1] * 6 + [0] * 6)


def test_class_folders_straight_under_the_folder(tmp_path):
    folder = tmp_path / "scenes"
    images(folder, [f"{name}/{row}.png" for name in ("sea", "wood", "town") for row in range(4)])
    expected = {"id": "id", "train_image": "{label}/*", "label": "label", "classes": ["sea", "town", "wood"]}
    expected |= {"task": "multiclass"}
    assert decided(folder) == expected
    assert recognise(folder).doubts == ["no test images found; training works, infer.py has nothing to predict"]
    images(folder / "test", ids(0, 4, "{}.png"))
    assert decided(folder) == expected | {"test_image": "test/*"}
    assert recognise(folder).doubts == []
    prove(tmp_path, folder, ["sea", "town", "wood"], [row for row in range(3) for _ in range(4)])
    images(folder / "val", ids(0, 4, "{}.png"))
    assert "val would count as a class too; move the class folders into a folder train" in recognise(folder).doubts
    shutil.rmtree(folder / "val")
    (folder / "train").mkdir()
    for name in ("sea", "wood", "town"):
        (folder / name).rename(folder / "train" / name)
    assert decided(folder) == expected | {"train_image": "train/{label}/*", "test_image": "test/*"}
    assert recognise(folder).doubts == []
    prove(tmp_path, folder, ["sea", "town", "wood"], [0] * 4 + [1] * 4 + [2] * 4)


def test_labels_in_file_names(tmp_path):
    folder = tmp_path / "dogs-vs-cats"
    images(folder / "train", ids(0, 8, "cat.{}.jpg") + ids(0, 8, "dog.{}.jpg"))
    images(folder / "test", ids(1, 6, "{}.jpg"))
    table(folder / "sample_submission.csv", id=ids(1, 6), label=[0.5] * 6)
    assert decided(folder) == {
        "sample_submission": "sample_submission.csv",
        "id": "id",
        "train_image": "train/{label}.*.jpg",
        "test_image": "test/{id}.jpg",
        "label": "label",
        "classes": ["cat", "dog"],
        "task": "binary",
    }
    prove(tmp_path, folder, ["dog"], [0] * 8 + [1] * 8)


def test_class_names_mixed_suffixes_and_a_sample_with_a_prefix(tmp_path):
    folder = tmp_path / "leaves"
    names = [f"leaf {row}{suffix}" for row, suffix in enumerate([".JPG", ".png", ".jpg"] * 4)]
    images(folder / "train_images", names)
    images(folder / "test_images", names)
    stems = [name.rpartition(".")[0] for name in names]
    table(folder / "labels.csv", image=stems, species=["oak", "elm", "ash", "oak"] * 3, weight=np.linspace(0, 1, 12))
    table(folder / "sampleSubmission.csv", image=stems, p_oak=[0] * 12, p_ash=[0] * 12, p_elm=[0] * 12)
    assert decided(folder) == {
        "train_table": "labels.csv",
        "sample_submission": "sampleSubmission.csv",
        "id": "image",
        "train_image": "train_images/{image}.*",
        "test_image": "test_images/{image}.*",
        "label": "species",
        "classes": ["oak", "ash", "elm"],
        "task": "multiclass",
    }
    prove(tmp_path, folder, ["oak", "ash", "elm"], [0, 2, 1, 0] * 3, stems)


@pytest.mark.parametrize(
    ("values", "column", "classes", "task"),
    [
        (["abnormal", "normal"], "state", ["normal", "abnormal"], "binary"),
        (["no", "yes"], "state", ["no", "yes"], "binary"),
        (["cat", "dog"], "cat", ["dog", "cat"], "binary"),
        (["0", "1", "2"], "state", ["0", "1", "2"], "multiclass"),
    ],
)
def test_one_sample_column_for_a_column_of_classes(tmp_path, values, column, classes, task):
    folder = tmp_path / "states"
    images(folder, ids(0, 12, "train/{}.png") + ids(0, 4, "test/{}.png"))
    table(folder / "train.csv", id=ids(0, 12), state=(values * 6)[:12])
    table(folder / "sample_submission_stage1.csv", **{"id": ids(0, 4), column: [0] * 4})
    found = decided(folder, metric="accuracy" if task == "multiclass" else "roc_auc")
    assert (found["label"], found["classes"], found["task"]) == ("state", classes, task)
    assert recognise(folder).doubts == []
    codes = [classes.index((values * 6)[row]) for row in range(12)]
    prove(tmp_path, folder, classes[-1:] if task == "binary" else classes, codes)


def test_path_column_group_and_byte_order_mark(tmp_path):
    folder = tmp_path / "slides"
    train = [f"tiles/s{row % 6}/t{row}.png" for row in range(24)]
    images(folder, [*train, *ids(0, 4, "tiles/x/{}.png")])
    (folder / ".git").mkdir()
    images(folder / "__MACOSX", ["tiles/x.png"])
    (folder / "train").mkdir()
    frame = pd.DataFrame(
        {"uid": ids(100, 24), "file": train, "slide": [row % 6 for row in range(24)], "tumor": zero_one(24)}
    )
    frame.to_csv(folder / "train.csv", index=False, encoding="utf-8-sig")
    test = ids(0, 4, "tiles/x/{}.png")
    table(folder / "test.csv", uid=ids(200, 4), file=test)
    table(folder / "sample_submission.csv", uid=ids(200, 4), tumor=[0] * 4)
    assert decided(folder) == COMMON | {
        "test_table": "test.csv",
        "id": "uid",
        "train_image": "{file}",
        "test_image": "{file}",
        "targets": ["tumor"],
        "group": "slide",
    }
    prove(tmp_path, folder, ["tumor"], zero_one(24), ids(100, 24))


def test_a_table_beside_class_folders(tmp_path):
    folder = tmp_path / "drivers"
    rows = [(f"c{row % 3}", f"img_{row}.jpg", f"p{row % 6}") for row in range(24)]
    images(folder / "imgs" / "train", [f"{label}/{name}" for label, name, _ in rows])
    images(folder / "imgs" / "test", ids(24, 6, "img_{}.jpg"))
    labels, names, subjects = (list(one) for one in zip(*rows, strict=True))
    table(folder / "driver_imgs_list.csv", subject=subjects, classname=labels, img=names)
    table(folder / "sample_submission.csv", img=ids(24, 6, "img_{}.jpg"), **{f"c{one}": [0.3] * 6 for one in range(3)})
    assert decided(folder) == {
        "train_table": "driver_imgs_list.csv",
        "sample_submission": "sample_submission.csv",
        "id": "img",
        "train_image": "imgs/train/{classname}/{img}",
        "test_image": "imgs/test/{img}",
        "label": "classname",
        "classes": ["c0", "c1", "c2"],
        "task": "multiclass",
        "group": "subject",
    }
    prove(tmp_path, folder, ["c0", "c1", "c2"], [row % 3 for row in range(24)])


def test_without_a_sample_values_and_names_decide(tmp_path):
    folder = tmp_path / "plain"
    images(folder, ids(0, 12, "train/img_{}.png") + ids(0, 4, "test/img_{}.png"))
    colours = {"red": [1, 0, 0] * 4, "green": [0, 1, 0] * 4, "blue": [0, 0, 1] * 4}
    table(folder / "train.csv", id=ids(0, 12), indoors=zero_one(12), **colours)
    table(folder / "test.csv", id=ids(0, 4), indoors=zero_one(4))
    assert decided(folder) == {
        "train_table": "train.csv",
        "test_table": "test.csv",
        "id": "id",
        "train_image": "train/img_{id}.png",
        "test_image": "test/img_{id}.png",
        "targets": ["red", "green", "blue"],
        "task": "multiclass",
    }
    prove(tmp_path, folder, ["red", "green", "blue"], [0, 1, 2] * 4)


@pytest.mark.parametrize(
    ("size", "mode", "name", "expected"),
    [
        ((28, 28), "L", "{}.png", {"channels": 1, "image_size": 64, "normalize": "dataset"}),
        ((28, 28), "RGB", "{}.png", {"channels": 3, "image_size": 64}),
        ((100, 100), "L", "{}.png", {"channels": 3}),
        ((400, 100), "RGB", "{}.webp", {"channels": 3, "image_size": [128, 448]}),
        ((64, 80), "RGB", "{}.npy", {"channels": 1, "image_size": 160, "normalize": "dataset"}),
        ((128, 128, 4), "RGB", "{}.npy", {"channels": 4, "image_size": 128, "normalize": "dataset"}),
    ],
)
def test_size_and_channels(tmp_path, size, mode, name, expected):
    folder = tmp_path / "sizes"
    images(folder, ids(0, 4, "train/" + name), size, mode)
    table(folder / "train.csv", id=ids(0, 4), target=zero_one(4))
    found = decided(folder, without=())
    assert {key: found[key] for key in ("channels", "image_size", "normalize") if key in found} == expected


@pytest.mark.parametrize(
    ("column", "values", "group", "why"),
    [
        ("PatientID", [f"p{row // 4}" for row in range(24)], "PatientID", "6 in 24 rows; equal ones stay in one fold"),
        ("patient", [f"p{row}" for row in range(24)], None, "patient hardly repeats"),
        ("anatom_site", [f"p{row % 6}" for row in range(24)], None, "no column named like a patient, slide or scene"),
        ("site", ["a", "b"] * 12, None, "site has too few values (2) to split by"),
        ("scene", [""] * 4 + [f"s{row % 5}" for row in range(20)], None, "scene has empty cells"),
    ],
)
def test_group(tmp_path, column, values, group, why):
    images(tmp_path / "train", ids(0, 24, "{}.png"))
    table(tmp_path / "train.csv", id=ids(0, 24), target=zero_one(24), **{column: values})
    assert recognise(tmp_path).settings["competition.group"] == (group, why)


@pytest.mark.parametrize(
    ("columns", "doubt"),
    [
        ({"label": ["a", "a", "b", ""] * 3}, "3 labels are missing (an empty cell) in 3 of 12 rows: such"),
        ({"target": [row / 7 for row in range(12)]}, "no column looks like a label; set targets (0/1) or label"),
        (
            {"red": zero_one(12), "green": ["x", "y", "z"] * 4},
            "the labels could also be in green; red was chosen by its",
        ),
    ],
)
def test_doubtful_labels_are_reported(tmp_path, columns, doubt):
    images(tmp_path / "train", ids(0, 12, "{}.png"))
    table(tmp_path / "train.csv", id=ids(0, 12), **columns)
    assert [one for one in recognise(tmp_path).doubts if one.startswith(doubt)]


def test_what_cannot_be_decided_is_reported(tmp_path):
    folder = tmp_path / "holes"
    images(folder, ids(0, 10, "train/{}.png"))
    (folder / "train" / "0.png").write_bytes(b"broken")
    table(folder / "train.csv", id=ids(0, 12), target=zero_one(12))
    table(folder / "sample_submission.csv", id=ids(0, 4), target=[0] * 4)
    (folder / "test.7z").write_bytes(b"")
    layout = recognise(folder)
    assert layout.value("test_image") == "test/{id}.png"
    assert layout.settings["competition.train_image"][1] == "10 of 12 training rows looked at have an image there"
    assert layout.doubts == [
        "2 of 12 training rows looked at have no image at train/{id}.png",
        "no image for the ids of sample_submission.csv is there; test_image is a guess",
        "1 of 10 images looked at cannot be read (first: train/0.png)",
        f"still packed: test.7z; 7z x {folder}/test.7z -o{folder}",
    ]


def test_refusals(tmp_path):
    def line():
        with pytest.raises(UserError) as caught:
            recognise(tmp_path / "x")
        return str(caught.value).replace(str(tmp_path), "")

    assert line() == "/x: no such folder; give the folder that holds a competition's data"
    (tmp_path / "x").mkdir()
    kinds = ", ".join(IMAGE_SUFFIXES)
    assert kinds.startswith(".jpg, .jpeg, .png, .tif, .tiff, .bmp, .webp, .gif")
    assert line() == f"/x: no images (found nothing); unpack the competition's data there ({kinds})"
    table(tmp_path / "x" / "train.csv", id=[1, 2])
    assert line() == f"/x: no images (found train.csv); unpack the competition's data there ({kinds})"
    (tmp_path / "x" / "train.7z").write_bytes(b"")
    assert line() == "/x: no images yet, only archives (train.7z); unpack them: 7z x /x/train.7z -o/x"
    (tmp_path / "x" / "train.7z").rename(tmp_path / "x" / "train.tar")
    assert line() == "/x: no images yet, only archives (train.tar); unpack them: python -m tools.adopt /x unzip=true"
    (tmp_path / "x" / "train.tar").rename(tmp_path / "x" / "train.zip")
    assert line() == "/x/train.zip: cannot be read (File is not a zip file); copy or download the file again"
    (tmp_path / "x" / "train.zip").unlink()
    images(tmp_path / "x" / "all", ["x.png", "y.png"])
    assert line() == (
        "/x: nothing labels the 2 images (first: all/x.png): train.csv names none of them (first row: id=1); "
        "add a CSV with a column of their names and one of labels"
    )


def test_twelve_bits_in_sixteen_are_written_down(tmp_path):
    for number, limit in enumerate((4095, 1500, 700)):
        path = tmp_path / "train" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.linspace(0, limit, 1024).astype(np.uint16).reshape(32, 32)).save(path)
    table(tmp_path / "train.csv", id=["0", "1", "2"], y=[0, 1, 0])
    assert decided(tmp_path)["bits"] == 12
    Image.fromarray(np.full((32, 32), 65535, np.uint16)).save(tmp_path / "train" / "1.png")
    assert "bits" not in decided(tmp_path)
