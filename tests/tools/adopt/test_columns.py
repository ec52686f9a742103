"""What columns mean: several labels in a cell or a name of two words, an index, ids that begin alike."""

import numpy as np
import pandas as pd
import pytest

from src.competition.tables import load_train_table
from src.config.load import load_config
from tests.tools.adopt.folders import decided, ids, images, prove, table, zero_one
from tools.adopt.columns import find_separator, find_stems
from tools.adopt.competition_file import competition_yaml
from tools.adopt.layout import recognise

PLANET = ["clear primary", "haze primary agriculture", "cloudy", "clear primary water", "haze primary", "clear water"]


@pytest.mark.parametrize(
    ("cells", "name", "shown", "separator"),
    [
        (PLANET, "tags", (), " "),
        (PLANET, "x", ("primary clear agriculture water road"[:-5],), " "),  # as no training row has it
        (PLANET, "x", (), None),
        (["scab", "rust", "scab rust", "healthy", "complex", "rust complex"], "x", ("healthy",), " "),
        (["a b", "b a", "c"], "x", (), " "),
        (["51 616 734", "51", "12 734"], "x", (), " "),
        (["Effusion", "Mass", "Effusion|Mass", "No Finding"], "Finding Labels", (), "|"),
        (["cat;dog", "dog", "cat"], "x", (), ";"),
        (["cat, dog", "dog", "cat"], "x", (), ", "),
        (["cat,dog", "dog", "cat"], "x", (), ","),
        (["golden retriever", "labrador retriever", "pug", "bull dog"], "breed", (), None),
        (["Black Sigatoka", "Yellow Sigatoka", "Healthy", "Panama disease"], "label", ("Healthy",), None),
        (["no tumor", "tumor"], "label", (), None),
        (["tench, Tinca tinca", "goldfish, Carassius auratus", "hen"], "label", (), None),
        (["fresh apple", "rotten apple", "fresh kiwi", "rotten kiwi", "fresh fig", "rotten fig"], "label", (), None),
    ],
)
def test_several_labels_in_a_cell_and_names_with_blanks(cells, name, shown, separator):
    assert find_separator(pd.Series(cells), name, shown)[0] == separator


def test_where_it_is_unsure_it_says_so():
    assert find_separator(pd.Series(PLANET), "x") == (
        None,
        "",
        "x may hold several labels in a cell ('clear primary'); if so, set competition.separator=' ' "
        "competition.task=multilabel competition.classes=[]",
    )
    assert find_separator(pd.Series(PLANET), "tags")[2] == (
        "the cells of tags are read as several labels ('clear primary'); if these are single class names, "
        "set competition.separator=null and competition.task=multiclass"
    )
    assert find_separator(pd.Series(["golden retriever", "labrador retriever", "pug"]), "breed")[2] is None


def write_images(folder, train, test):
    images(folder, [f"train/{one}.jpg" for one in train] + [f"test/{one}.jpg" for one in test])


def test_planet_no_tag_stands_alone(tmp_path):
    folder = tmp_path / "planet"
    train, test = ids(0, 12, "train_{}"), ids(0, 4, "test_{}")
    write_images(folder, train, test)
    cells = ["clear primary", "haze primary agriculture", "clear primary water"]
    table(folder / "train.csv", image_name=train, tags=cells * 4)
    table(folder / "sample_submission.csv", image_name=test, tags=["primary clear agriculture water"] * 4)
    found = decided(folder, metric="fbeta_samples")
    tags = ["agriculture", "clear", "haze", "primary", "water"]
    assert (found["label"], found["task"], found["separator"], found["classes"]) == ("tags", "multilabel", " ", tags)
    assert recognise(folder).doubts == []
    prove(tmp_path, folder, tags, [1, 0, 1] * 4)  # the first of each row's tags


def test_plant_pathology_2021(tmp_path):
    folder = tmp_path / "plants"
    write_images(folder, ids(0, 12, "a{}"), ids(0, 4, "b{}"))
    cells = ["scab", "scab frog_eye_leaf_spot", "frog_eye_leaf_spot", "healthy"]
    table(folder / "train.csv", image=ids(0, 12, "a{}.jpg"), labels=cells * 3)
    table(folder / "sample_submission.csv", image=ids(0, 4, "b{}.jpg"), labels=["healthy"] * 4)
    found = decided(folder, metric="fbeta_samples")
    assert (found["label"], found["task"], found["separator"]) == ("labels", "multilabel", " ")
    assert "missing" not in found
    prove(tmp_path, folder, ["frog_eye_leaf_spot", "healthy", "scab"], [2, 0, 0, 1] * 3)


@pytest.mark.parametrize(("name", "first"), [("Unnamed: 0", 0), ("", 0), ("index", 1), ("row", 1), ("nr", 0)])
def test_an_index_is_told_and_left_alone(tmp_path, name, first):
    folder = tmp_path / "index"
    write_images(folder, ids(0, 12, "a{}"), ids(20, 5, "a{}"))
    images(folder, ids(0, 12, "train/{}.jpg") if first else [])  # an index may name files, too
    count = lambda number: range(first, first + number)  # noqa: E731
    table(folder / "train.csv", **{name: count(12)}, id=ids(0, 12, "a{}"), target=zero_one(12))
    table(folder / "sample_submission.csv", **{name: count(5)}, id=ids(20, 5, "a{}"), target=[0.5] * 5)
    found = decided(folder)
    assert (found["id"], found["train_image"], found["targets"]) == ("id", "train/{id}.jpg", ["target"])
    shown = name or "Unnamed: 0"
    why = f"names a row in each table; {shown} only counts rows and is left alone"
    assert recognise(folder).settings["competition.id"][1] == why
    prove(tmp_path, folder, ["target"], zero_one(12), ids(0, 12, "a{}"))


def test_ids_that_count_and_are_the_only_ones_stay_ids(tmp_path):
    folder = tmp_path / "counted"
    write_images(folder, ids(1, 12), ids(1, 4))
    table(folder / "train.csv", id=ids(1, 12), target=zero_one(12))
    table(folder / "sample_submission.csv", id=ids(1, 4), target=[0.1, 0.2, 0.3, 0.4])
    assert decided(folder)["id"] == "id"
    prove(tmp_path, folder, ["target"], zero_one(12), ids(1, 12))


@pytest.mark.parametrize(
    ("names", "group", "shown"),
    [
        ([f"{n}_{side}" for n in range(8) for side in ("left", "right")], "re:^(.+)_(left|right)", "0_left, 0_right"),
        ([f"{n}_{side}.jpg" for n in range(8) for side in ("OD", "OS")], "re:^(.+)_(OD|OS)", "0_OD, 0_OS"),
        ([f"p{n}-{part}" for n in range(8) for part in (1, 2)], "re:^(.+)-(1|2)", "p0-1, p0-2"),
        ([f"P{n:03}{side}" for n in range(8) for side in ("OD", "OS")], "re:^(.+)(OD|OS)", "P000OD, P000OS"),
        (
            [f"train/p{n}/s{v}/view1.jpg" for n in range(8) for v in (1, 2)],
            "re:^(.+)(?:/[^/]+){2}$",
            "train/p0/s1/view1, train/p0/s2/view1",
        ),
        (
            [f"A/person{n // 2}_{'virus' if n % 4 < 2 else 'flu'}_{n}.jpeg" for n in range(8)]
            + [f"B/NORMAL2-IM-{n // 2:04}-{n:04}-0001.jpeg" for n in range(8)],
            "re:([^/]*[A-Za-z]-?[0-9]+)(?:[_-][A-Za-z]+)?(?:[_-][0-9]+)+(?:[.]|$)",
            "A/person0_virus_0, A/person0_virus_1",
        ),
        ([f"take{n // 8}_{n}.jpg" for n in range(16)], None, None),  # two takes are no patients
        ([f"train/{n}.jpg" for n in range(16)], None, None),
        ([f"part_{n % 2}/{n}.jpg" for n in range(16)], None, None),
        ([f"img_{n:04}" for n in range(16)], None, None),
        ([f"{n:04}" for n in range(16)], None, None),
        ([f"{n * 7919:016x}" for n in range(16)], None, None),
        ([f"cat_{n}" if n % 2 else f"dog_{n}" for n in range(16)], None, None),
        ([f"2020_{n:02}_{n * 31 % 17}" for n in range(16)], None, None),
        ([f"c{n // 2}_{n % 2}" for n in range(16)], None, None),  # c0 ... c7 are the labels
    ],
)
def test_ids_that_begin_alike(names, group, shown):
    labels = pd.Series([one.split("_")[0] if one[0] == "c" else str(row // 2 % 2) for row, one in enumerate(names)])
    expected = group and (group, f"16 of 16 ids begin alike, as {shown}")
    assert find_stems(pd.Series(names), labels) == expected


def test_two_eyes_of_a_patient_stay_in_one_fold(tmp_path):
    folder = tmp_path / "eyes"
    train = [f"{n}_{side}" for n in range(100, 110) for side in ("left", "right")]
    write_images(folder, train, ["200_left", "200_right"])
    table(folder / "train.csv", image=train, level=ids(0, 5) * 4)
    assert decided(folder)["group"] == "re:^(.+)_(left|right)"
    assert recognise(folder).doubts[0] == (
        "20 of 20 ids begin alike, as 100_left, 100_right: they stay in one fold; "
        "if not of one patient or scene, set group to null"
    )


@pytest.mark.parametrize("words", [["NA"], ["", "N/A"], ["nan"]])
def test_missing_answers_of_a_column_of_0_and_1(tmp_path, words):
    folder = tmp_path / "missing"
    write_images(folder, ids(0, 12), ids(20, 4))
    answers = [words[row % len(words)] if row < 2 else row % 2 for row in range(12)]
    table(folder / "train.csv", id=ids(0, 12), target=answers)
    table(folder / "sample_submission.csv", id=ids(20, 4), target=[0.5] * 4)
    found, layout = decided(folder), recognise(folder)
    assert (found["targets"], found["task"], found["missing"]) == (["target"], "binary", "drop")
    shown = {"NA": "'NA'", "": "an empty cell, 'N/A'", "nan": "'nan'"}[words[0]]
    assert layout.doubts == [f"2 labels are missing ({shown}) in 2 of 12 rows: such rows are left out of training"]
    assert layout.settings["competition.targets"][1] == "the sample asks for it; 0/1, 50.0 % are 1"
    prove(tmp_path, folder, ["target"], zero_one(12)[2:], ids(2, 10))


def test_missing_answers_of_some_of_several_columns(tmp_path):
    folder = tmp_path / "several"
    write_images(folder, ids(0, 12), ids(20, 4))
    table(folder / "train.csv", id=ids(0, 12), a=["", 0, 1, 1] * 3, b=[1, "NA", 0, 1] * 3)
    table(folder / "sample_submission.csv", id=ids(20, 4), a=[0] * 4, b=[0] * 4)
    assert (decided(folder)["task"], decided(folder)["missing"]) == ("multilabel", "drop")
    assert recognise(folder).doubts == [
        "6 labels are missing (an empty cell, 'NA') in 6 of 12 rows: such cells count for nothing"
    ]


def test_other_words_for_a_missing_answer_are_emptied_in_a_copy(tmp_path):
    folder = tmp_path / "unknown"
    write_images(folder, ids(0, 12), ids(20, 4))
    table(folder / "train.csv", id=ids(0, 12), target=["?", "unknown", *zero_one(10)])
    table(folder / "sample_submission.csv", id=ids(20, 4), target=[0.5] * 4)
    assert recognise(folder).doubts == [
        "target holds '?', 'unknown' for an unknown label: the copy has empty cells there",
        "2 labels are missing (an empty cell) in 2 of 12 rows: such rows are left out of training",
    ]
    prove(tmp_path, folder, ["target"], zero_one(10), ids(2, 10))


def test_missing_class_names_and_names_with_blanks(tmp_path):
    folder = tmp_path / "names"
    write_images(folder, ids(0, 12), ids(20, 4))
    table(folder / "train.csv", id=ids(0, 12), kind=["cat ", "dog", "NA"] * 4)
    table(folder / "sample_submission.csv", id=ids(20, 4), kind=[0.5] * 4)
    assert recognise(folder).doubts == [
        "4 of 12 cells of kind in train.csv have blanks at their ends (first: 'cat '), which do not count",
        "4 labels are missing ('NA') in 4 of 12 rows: such rows are left out of training; "
        "if 'NA' is a class, add it to competition.classes",
    ]
    prove(tmp_path, folder, ["dog"], zero_one(8))


def test_a_column_of_measures_is_a_regression(tmp_path):
    folder, train, test = tmp_path / "pawpularity", ids(0, 12), ids(12, 4)
    write_images(folder, train, test)
    age = [round(20 + 3.5 * number, 1) for number in range(12)]
    table(folder / "train.csv", Id=train, Eyes=zero_one(12), age=age)
    table(folder / "sample_submission.csv", Id=test, age=[0.5] * 4)
    found = decided(folder, without=("root", "channels", "image_size"), metric="rmse")
    assert (found["task"], found["targets"], found["metric"]) == ("regression", ["age"], "rmse")
    assert (
        recognise(folder).settings["competition.targets"][1]
        == "the sample asks for it; age holds 12 numbers from 20 to 58.5"
    )
    assert recognise(folder).doubts == []
    prove(tmp_path, folder, ["age"], np.float32(age).tolist())


def test_whole_numbers_are_measures_where_the_sample_shows_fractions(tmp_path):
    folder, train, test = tmp_path / "pawpularity", ids(0, 12), ids(12, 4)
    write_images(folder, train, test)
    table(folder / "train.csv", Id=train, Pawpularity=[1 + 9 * number for number in range(12)])
    table(folder / "sample_submission.csv", Id=test, Pawpularity=[67.2, 68, 69.5, 70])
    found = decided(folder, metric="rmse")
    assert (found["task"], found["targets"]) == ("regression", ["Pawpularity"])


def test_several_columns_of_measures_may_have_gaps(tmp_path):
    folder, train, test = tmp_path / "two", ids(0, 12), ids(12, 4)
    write_images(folder, train, test)
    x, y = [0.25 * number for number in range(12)], ["", *(str(number - 3) for number in range(11))]
    table(folder / "train.csv", id=train, x=x, y=y)
    table(folder / "sample_submission.csv", id=test, x=0, y=0)
    found = decided(folder, metric="rmse")
    assert (found["task"], found["targets"], found["missing"]) == ("regression", ["x", "y"], "drop")
    assert recognise(folder).doubts == [
        "1 labels are missing (an empty cell) in 1 of 12 rows: such cells count for nothing"
    ]


def test_grades_stay_classes_and_the_file_names_the_other_way(tmp_path):
    folder, train, test = tmp_path / "aptos", ids(0, 20, "{:03}"), ids(20, 5, "{:03}")
    images(folder, [f"train_images/{one}.png" for one in train] + [f"test_images/{one}.png" for one in test])
    table(folder / "train.csv", id_code=train, diagnosis=[number % 5 for number in range(20)])
    table(folder / "test.csv", id_code=test)
    table(folder / "sample_submission.csv", id_code=test, diagnosis=0)
    found = decided(folder, metric="accuracy")
    assert (found["task"], found["label"]) == ("multiclass", "diagnosis")
    why = "one of 5; of grades in order: task=regression with metric=quadratic_kappa"
    assert recognise(folder).settings["competition.task"][1] == why
    path = tmp_path / "aptos.yaml"
    path.write_text(competition_yaml(recognise(folder), folder))
    words = ["competition.task=regression", "competition.metric=quadratic_kappa"]
    competition = load_config([f"competition={path}", *words]).competition
    assert load_train_table(competition).targets[:5, 0].tolist() == [0, 1, 2, 3, 4]
