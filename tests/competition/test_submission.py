"""A submission has the sample's columns and rows, filled by name, and a wrong one is never written."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from src.checkpointing.run_folder import RunFolder
from src.competition import submission, tables
from src.competition.submission import (
    asks_for_labels,
    build_submission,
    check_sample,
    check_submission,
    load_sample,
    write_submission,
)
from src.competition.tables import ImageTable, load_test_table
from src.errors import UserError
from src.evaluation.metrics import build_metric
from src.evaluation.thresholds import Decision

IDS = np.array(["01", "02", "3"])
PROBS = np.array([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]])
CLASSES = ("cat", "dog", "eel")


def sample_of(write_competition, header, ids=("3", "01", "02"), **settings):
    columns = header.split(",")
    text = "\n".join([header, *(",".join(one if name == "id" else "0" for name in columns) for one in ids)]) + "\n"
    competition = write_competition({"sample.csv": text}, sample_submission="sample.csv", **settings)
    return load_sample(competition), competition


def image_table(ids=IDS):
    return ImageTable(np.array(ids), np.array(ids), None, ("y",), None, None)


def refusal(function, *words):
    with pytest.raises(UserError) as caught:
        function(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def filled(write_competition, header, probs, names, **settings):
    """The built submission's columns by name; the sample's rows are 3, 01, 02."""
    sample, competition = sample_of(write_competition, header, **settings)
    check_sample(sample, competition, image_table(), names)
    [frame] = build_submission(sample, competition, IDS, probs, names)
    assert list(frame.columns) == header.split(",")
    assert frame["id"].tolist() == ["3", "01", "02"]
    check_submission(frame, sample, "id")
    return {name: frame[name].tolist() for name in frame.columns if name != "id"}


def test_columns_are_filled_by_name_in_the_samples_order(write_competition):
    expected = {"eel": [0.5, 0.2, 0.3], "cat": [0.2, 0.7, 0.1], "dog": [0.3, 0.1, 0.6]}
    assert filled(write_competition, "eel,id,cat,dog", PROBS, CLASSES, task="multiclass") == expected
    for before, after in (("Predicted_", ""), ("", "_prob"), ("p(", ")"), ("cat", "")):
        header = ",".join(["id", *(f"{before}{name}{after}" for name in ("eel", "cat", "dog"))])
        found = filled(write_competition, header, PROBS, CLASSES, task="multiclass")
        assert found == {f"{before}{name}{after}": values for name, values in expected.items()}


def test_one_column_takes_the_one_target(write_competition):
    assert filled(write_competition, "id,p", PROBS[:, :1], ("y",)) == {"p": [0.2, 0.7, 0.1]}


def test_two_class_columns_take_a_probability_and_the_rest(write_competition):
    settings = {"label": "kind", "classes": ["cat", "dog"]}
    for cat, dog in (("cat", "dog"), ("p_cat", "p_dog")):
        found = filled(write_competition, f"id,{dog},{cat}", PROBS[:, :1], ("dog",), **settings)
        assert found[dog] == [0.2, 0.7, 0.1]
        assert found[cat] == pytest.approx([0.8, 0.3, 0.9])


def test_one_column_of_several_classes_takes_the_most_probable_name(write_competition):
    found = filled(write_competition, "id,label", PROBS, CLASSES, task="multiclass", label="label")
    assert found == {"label": ["eel", "cat", "dog"]}
    digits = filled(write_competition, "id,label", PROBS, ("7", "8", "9"), task="multiclass", label="label")
    assert digits == {"label": ["9", "7", "8"]}


def test_class_numbers_that_became_floats_are_written_as_the_sample_does(write_competition):
    settings, names = {"task": "multiclass", "label": "label", "sample_submission": "s.csv"}, ("7.0", "8.0", "10.0")
    for cells, expected in (("8", ["10", "7", "8"]), ("8.0", ["10.0", "7.0", "8.0"])):
        competition = write_competition({"s.csv": f"id,label\n3,{cells}\n01,{cells}\n02,{cells}\n"}, **settings)
        [frame] = build_submission(load_sample(competition), competition, IDS, PROBS, names)
        assert frame["label"].tolist() == expected


@pytest.mark.parametrize(
    ("cells", "may_be_none", "expected"),
    [
        ("eel dog", False, ["eel", "dog cat", "cat"]),
        ("eel|dog", False, ["eel", "dog|cat", "cat"]),  # the sample's own way to join
        ("eel", True, ["eel", "dog cat", ""]),
    ],
)
def test_one_column_of_labels_takes_those_over_their_thresholds(write_competition, cells, may_be_none, expected):
    settings = {"task": "multilabel", "label": "kinds", "separator": " ", "sample_submission": "s.csv"}
    competition = write_competition({"s.csv": f"id,kinds\n3,{cells}\n01,cat\n02,\n"}, **settings)
    sample, names = load_sample(competition), ("eel", "dog", "cat")
    check_sample(sample, competition, image_table(), names)
    probs = np.array([[0.1, 0.5, 0.4], [0.3, 0.2, 0.35], [0.5, 0.2, 0.2]])  # of 01, 02 (below all), 3
    decision = Decision(np.array([0.4, 0.5, 0.4]), may_be_none=may_be_none)
    [frame] = build_submission(sample, competition, IDS, probs, names, decision)
    check_submission(frame, sample, "id")
    assert frame["kinds"].tolist() == expected


def test_class_names_follow_the_thresholds(write_competition):
    sample, competition = sample_of(write_competition, "id,label", task="multiclass", label="label")
    decision = Decision(np.array([0.5, 0.2, 0.5]), task="multiclass")
    [frame] = build_submission(sample, competition, IDS, PROBS, CLASSES, decision)
    assert frame["label"].tolist() == ["dog", "cat", "dog"]  # of 3, 01, 02; by the largest: eel, cat, dog


@pytest.mark.parametrize(
    ("header", "names", "settings", "expected"),
    [
        ("id,y", ("y",), {}, {"y": [0, 1, 0]}),
        ("id,eel,cat,dog", CLASSES, {"task": "multilabel"}, {"eel": [1, 0, 0], "cat": [0, 1, 0], "dog": [1, 0, 1]}),
        ("id,cat,dog", ("dog",), {"label": "kind", "classes": ["cat", "dog"]}, {"cat": [1, 0, 1], "dog": [0, 1, 0]}),
    ],
)
def test_columns_of_zeros_and_ones_take_labels(write_competition, tmp_path, header, names, settings, expected):
    sample, competition = sample_of(write_competition, header, **settings)
    assert asks_for_labels(sample, competition, names, build_metric("accuracy", competition.task), IDS)
    assert not asks_for_labels(sample, competition, names, build_metric("roc_auc", competition.task), IDS)
    decision = Decision(np.array([0.65, 0.3, 0.4])[: len(names)])
    path = tmp_path / "submission.csv"
    write_submission(path, sample, competition, IDS, PROBS[:, : len(names)], names, decision)
    found = pd.read_csv(path, dtype=str)
    assert {name: found[name].astype(int).tolist() for name in expected} == expected
    assert set(found[list(expected)].to_numpy().ravel()) <= {"0", "1"}


@pytest.mark.parametrize(("header", "names"), [("id,y", ("dog",)), ("id,cat,dog", ("dog",))])
def test_true_and_false_are_labels_and_words(write_competition, header, names):
    sample, competition = sample_of(write_competition, header, label="kind", classes=["cat", "dog"])
    sample = sample.assign(**{name: ["True", "False", "False"] for name in sample.columns if name != "id"})
    assert asks_for_labels(sample, competition, names, build_metric("accuracy", "binary"), IDS)
    [frame] = build_submission(sample, competition, IDS, PROBS[:, :1], names, Decision(0.65))
    assert frame.iloc[:, -1].tolist() == ["False", "True", "False"]
    check_submission(frame, sample, "id")
    names_of_classes = sample.assign(**{sample.columns[-1]: "cat"}).rename(columns={sample.columns[-1]: "dog"})
    with pytest.raises(UserError, match="holds names"):
        list(build_submission(names_of_classes[["id", "dog"]], competition, IDS, PROBS[:, :1], ("dog",)))


def test_a_long_sample_takes_labels_too(write_competition):
    asked = [f"{one}_{name}" for one in ("3", "01", "02") for name in ("eel", "cat", "dog")]
    text = "id,Label\n" + "".join(f"{one},0\n" for one in asked)
    competition = write_competition({"sample.csv": text}, sample_submission="sample.csv", task="multilabel")
    sample = load_sample(competition)
    assert asks_for_labels(sample, competition, CLASSES, build_metric("f1_micro", "multilabel"), IDS)
    [frame] = build_submission(sample, competition, IDS, PROBS, CLASSES, Decision(np.array([0.5, 0.5, 0.5])))
    assert frame["Label"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(("cell", "asks"), [("0.5", False), ("0", True)])
def test_a_long_sample_of_classes_holds_no_names(write_competition, cell, asks):
    asked = [f"{one}_{name}" for one in ("3", "01", "02") for name in ("eel", "cat", "dog")]
    text = "id,Label\n" + "".join(f"{one},{cell}\n" for one in asked)
    competition = write_competition({"sample.csv": text}, sample_submission="sample.csv", task="multiclass")
    sample = load_sample(competition)
    assert asks_for_labels(sample, competition, CLASSES, build_metric("accuracy", "multiclass"), IDS) is asks
    assert not asks_for_labels(sample, competition, CLASSES, build_metric("log_loss", "multiclass"), IDS)
    decision = Decision(task="multiclass") if asks else None
    [frame] = build_submission(sample, competition, IDS, PROBS, CLASSES, decision)
    assert frame["Label"].tolist() == (
        [1, 0, 0, 0, 1, 0, 0, 0, 1] if asks else [0.5, 0.2, 0.3, 0.2, 0.7, 0.1, 0.3, 0.1, 0.6]
    )


@pytest.mark.parametrize("last", ["0", "0.5", ""])
def test_a_large_sample_is_read_in_less_memory_and_filled_alike(write_competition, monkeypatch, last):
    cells = [["0"] * 4 for _ in range(9)]
    cells[-1][-1] = last
    text = "id,a,b,c,d\n" + "".join(f"0{row},{','.join(one)}\n" for row, one in enumerate(cells))
    competition = write_competition({"s.csv": text}, sample_submission="s.csv", task="multilabel")
    ids, names, plain = np.array([f"0{row}" for row in range(9)]), tuple("abcd"), load_sample(competition)
    probs = np.random.default_rng(0).random((9, 4))
    monkeypatch.setattr(tables, "_MANY_COLUMNS", 3)
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 4)
    compact = load_sample(competition)
    assert (compact.dtypes == "category").tolist() == [False, True, True, True, last == "0"]
    pd.testing.assert_frame_equal(compact.astype(plain.dtypes), plain)
    metric, found = build_metric("accuracy", "multilabel"), []
    for sample in (plain, compact):
        asks = asks_for_labels(sample, competition, names, metric, ids)
        check_sample(sample, competition, image_table(ids), names)
        found.append((asks, *build_submission(sample, competition, ids, probs, names, Decision() if asks else None)))
    assert found[0][0] == found[1][0] == (last == "0")
    pd.testing.assert_frame_equal(found[0][1], found[1][1])


@pytest.mark.parametrize(("cells", "expected"), [("0 1 1", True), ("0.0 1.0 0", True), ("0.5 0 1", False),
                                                 ("0 2 1", False), ("a 0 1", False), (" 0 1", False)])  # fmt: skip
def test_zeros_and_ones_are_known_by_their_values(write_competition, cells, expected):
    rows = "".join(f"{one},{cell}\n" for one, cell in zip(IDS, cells.split(" "), strict=True))
    competition = write_competition({"s.csv": f"image,y\n{rows}"}, sample_submission="s.csv")
    for name, has_labels in (("accuracy", True), ("f1_best", True), ("log_loss", False), ("roc_auc", False)):
        metric = build_metric(name, "binary")
        assert asks_for_labels(load_sample(competition), competition, ("y",), metric, IDS) is (expected and has_labels)
        assert not asks_for_labels(None, competition, ("y",), metric, IDS)


def test_a_label_may_be_nowhere_but_not_because_nothing_was_learned(write_competition, tmp_path):
    sample, competition = sample_of(write_competition, "id,y")
    path, high = tmp_path / "submission.csv", Decision(np.array([0.9]))
    write_submission(path, sample, competition, IDS, PROBS[:, :1], ("y",), high)
    assert path.read_text() == "id,y\n3,0\n01,0\n02,0\n"
    line = refusal(write_submission, path, sample, competition, IDS, np.full((3, 1), 0.3), ("y",), high)
    assert line.startswith("submission: column 'y' is 0.3 in every row; the model has learned nothing")


def test_a_sample_with_a_row_per_id_and_target_is_written_long(write_competition, tmp_path):
    asked = [f"{one}_{name}" for one in ("3", "01", "02") for name in ("eel", "cat", "dog")]
    text = "id,Label\n" + "".join(f"{one},0.5\n" for one in asked)
    competition = write_competition({"sample.csv": text}, sample_submission="sample.csv", task="multilabel")
    sample = load_sample(competition)
    check_sample(sample, competition, image_table(), CLASSES)
    write_submission(tmp_path / "submission.csv", sample, competition, IDS, PROBS, CLASSES)
    assert (tmp_path / "submission.csv").read_text().splitlines() == [
        "id,Label", "3_eel,0.5", "3_cat,0.2", "3_dog,0.3", "01_eel,0.2", "01_cat,0.7", "01_dog,0.1",
        "02_eel,0.3", "02_cat,0.1", "02_dog,0.6",
    ]  # fmt: skip
    line = refusal(check_sample, sample, competition, image_table(["01", "02", "4"]), CLASSES)
    assert "its columns Label cannot be filled from the targets cat, dog, eel" in line


@pytest.mark.parametrize(("name", "first"), [("", 0), ("row", 1)])
def test_a_column_that_counts_rows_is_left_alone(write_competition, tmp_path, name, first):
    text = f"{name},id,y\n" + "".join(f"{first + row},{one},0\n" for row, one in enumerate(("3", "01", "02")))
    competition = write_competition({"sample.csv": text}, sample_submission="sample.csv")
    sample = load_sample(competition)
    check_sample(sample, competition, image_table(), ("y",))
    write_submission(tmp_path / "submission.csv", sample, competition, IDS, PROBS[:, :1], ("y",))
    assert pd.read_csv(tmp_path / "submission.csv", dtype=str, header=None).fillna("").to_numpy().tolist() == [
        [name, "id", "y"], [str(first), "3", "0.2"], [str(first + 1), "01", "0.7"], [str(first + 2), "02", "0.1"],
    ]  # fmt: skip


def test_a_sample_with_a_column_for_each_label_takes_probabilities(write_competition):
    settings = {"task": "multilabel", "label": "kinds", "separator": " "}
    found = filled(write_competition, "id,eel,cat,dog", PROBS, CLASSES, **settings)
    assert found == {"eel": [0.5, 0.2, 0.3], "cat": [0.2, 0.7, 0.1], "dog": [0.3, 0.1, 0.6]}


@pytest.mark.parametrize(
    ("header", "names", "settings"),
    [
        ("id,cat,dog,fox", CLASSES, {"task": "multiclass"}),
        ("id,cat,dog", CLASSES, {"task": "multiclass"}),
        ("id,p", CLASSES, {"task": "multilabel"}),
        ("id,cat,confidence", ("cat",), {"label": "kind"}),
        ("id,a_cat,b_dog,a_eel", CLASSES, {"task": "multiclass"}),
    ],
)
def test_columns_that_cannot_be_filled_are_refused_with_both_lists(write_competition, header, names, settings):
    sample, competition = sample_of(write_competition, header, **settings)
    expected = (
        f"{competition.root}/sample.csv: its columns {header.removeprefix('id,').replace(',', ', ')} cannot be filled "
        f"from the targets {', '.join(names)}; check competition.targets, label and classes"
    )
    assert refusal(check_sample, sample, competition, image_table(), names) == expected
    assert refusal(lambda: list(build_submission(sample, competition, IDS, PROBS[:, : len(names)], names))) == expected


def test_a_sample_of_class_names_takes_no_probabilities_and_the_advice_leads_on(write_competition):
    competition = write_competition({"sample.csv": "id,kind\n3,cat\n01,cat\n02,\n"}, label="kind",
                                    sample_submission="sample.csv")  # fmt: skip
    sample = load_sample(competition)
    assert refusal(check_sample, sample, competition, image_table(), ("dog",)) == (
        f"{competition.root}/sample.csv: column 'kind' holds names (cat), task=binary gives probabilities; set "
        "competition.task=multiclass, which writes the class"
    )
    advised = replace(competition, task="multiclass")
    check_sample(sample, advised, image_table(), ("cat", "dog"))
    [frame] = build_submission(sample, advised, IDS, PROBS[:, :2], ("cat", "dog"))
    assert frame["kind"].tolist() == ["dog", "cat", "dog"]


@pytest.mark.parametrize(
    ("test_ids", "expected"),
    [
        (["01", "02"], "1 of 3 ids are no test rows and 0 test rows are missing (first: 3)"),
        (["01", "02", "3", "4"], "0 of 3 ids are no test rows and 1 test rows are missing (first: 4)"),
        (["1", "2", "3"], "2 of 3 ids are no test rows and 2 test rows are missing (first: 01)"),
    ],
)
def test_a_sample_of_other_rows_is_refused(write_competition, test_ids, expected):
    sample, competition = sample_of(write_competition, "id,y")
    assert refusal(check_sample, sample, competition, image_table(test_ids), ("y",)) == (
        f"{competition.root}/sample.csv: {expected}; check competition.test_table"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id\n1\n", "has 1 rows and the columns id; it needs a row for each test image, with its id and a prediction"),
        (
            "id,y\n",
            "has 0 rows and the columns id, y; it needs a row for each test image, with its id and a prediction",
        ),
        ("id,y\n1,0\n1,0\n", "1 of 2 rows repeat an id (first: 1); keep one row per image"),
        ("id,y\n1,0\n,0\n", "column 'id' is empty in 1 of 2 rows (first: line 3); fill or remove them"),
    ],
)
def test_a_wrong_sample_is_refused(write_competition, text, expected):
    competition = write_competition({"s.csv": text}, sample_submission="s.csv")
    assert refusal(load_sample, competition) == f"{competition.root}/s.csv: {expected}"


def test_without_a_sample_the_test_rows_are_written_as_they_come(write_competition, tmp_path):
    competition = write_competition({}, id="image")
    assert load_sample(competition) is None
    path = tmp_path / "submission.csv"
    write_submission(path, None, competition, IDS, PROBS, CLASSES)
    assert path.read_text() == "image,cat,dog,eel\n01,0.7,0.1,0.2\n02,0.1,0.6,0.3\n3,0.2,0.3,0.5\n"


FRAME = {"id": ["3", "01", "02"], "y": [0.5, 0.25, 0.0]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"id": ["02", "01", "3"]}, None),
        ({"y": ["cat", "cat", "cat"]}, None),
        ({"id": ["3", "01", "01"]}, "id 01 is there twice; write each id once"),
        ({"id": ["3", "01", "2"]},
         "1 of the sample's 3 ids are missing and 1 are too many (first: 02); write the sample's ids"),
        ({"z": [0.1, 0.2, 0.3]}, "columns are id, y, z, the sample has id, y; write the sample's"),
        ({"y": [0.5, np.nan, 0.0]},
         "column 'y' is nan in 1 of 3 rows (first: 01); train again with a lower optimizer.lr"),
        ({"y": [0.5, 0.25, -0.5]}, "column 'y' leaves 0 to 1 in 1 of 3 rows (first: 02, -0.5); write probabilities"),
        ({"y": [1.5, 2.0, 0.0]}, "column 'y' leaves 0 to 1 in 2 of 3 rows (first: 3, 1.5); write probabilities"),
        ({"y": [np.inf, 0.5, 0.0]}, "column 'y' leaves 0 to 1 in 1 of 3 rows (first: 3, inf); write probabilities"),
        ({"y": [0.5, 0.5, 0.5]},
         "column 'y' is 0.5 in every row; the model has learned nothing (look at its log.csv), or the images are all "
         "alike"),
    ],
)  # fmt: skip
def test_what_a_host_would_refuse_is_refused(change, expected):
    frame, sample = pd.DataFrame(FRAME | change), pd.DataFrame(FRAME).astype(str)
    if expected is None:
        check_submission(frame, sample, "id")
    else:
        assert refusal(check_submission, frame, sample, "id") == f"submission: {expected}"


def test_values_of_regression_are_finite():
    frame = pd.DataFrame(FRAME | {"y": [2.0, -np.inf, np.nan]})
    expected = "submission: column 'y' is -inf in 2 of 3 rows (first: 01); train again with a lower optimizer.lr"
    assert refusal(check_submission, frame, None, "id", -np.inf, np.inf) == expected


def test_a_missing_row_is_refused():
    frame, sample = pd.DataFrame(FRAME).iloc[:2], pd.DataFrame(FRAME).astype(str)
    expected = "submission: 1 of the sample's 3 ids are missing and 0 are too many (first: 02); write the sample's ids"
    assert refusal(check_submission, frame, sample, "id") == expected


def test_nothing_is_written_when_the_submission_is_wrong(write_competition, tmp_path):
    sample, competition = sample_of(write_competition, "id,y")
    path = tmp_path / "run" / "submission.csv"
    write_submission(path, sample, competition, IDS, PROBS[:, :1], ("y",))
    before = path.read_text()
    assert before == "id,y\n3,0.2\n01,0.7\n02,0.1\n"
    refusal(write_submission, path, sample, competition, IDS, np.full((3, 1), np.nan), ("y",))
    assert path.read_text() == before
    assert sorted(one.name for one in path.parent.iterdir()) == ["submission.csv", "submission.sha256"]
    digest = hashlib.sha256(before.encode()).hexdigest()
    assert RunFolder(path.parent).submission_hash.read_text() == f"{digest}  submission.csv\n"


@pytest.mark.parametrize("header", ["Id,y", "ID ,y", "image,y", "y,image"])
def test_the_samples_ids_are_found_by_their_values(write_competition, header):
    text = "\n".join([header, *(",".join("0" if name == "y" else one for name in header.split(",")) for one in IDS)])
    competition = write_competition({"s.csv": f"{text}\n"}, sample_submission="s.csv", targets=["y"])
    sample = load_sample(competition)
    [name] = set(header.split(",")) - {"y"}
    [note] = check_sample(sample, competition, image_table(), ("y",))
    assert note == f"{competition.root}/s.csv: the ids are in column {name!r}, by their values"
    [frame] = build_submission(sample, competition, IDS[::-1], PROBS[:, :1], ("y",))
    assert list(frame.columns) == header.split(",")
    assert frame[name].tolist() == IDS.tolist()
    assert frame["y"].tolist() == PROBS[::-1, 0].tolist()
    check_submission(frame, sample, name)


def test_a_sample_whose_ids_are_nowhere_is_refused(write_competition):
    competition = write_competition({"s.csv": "ID,y\n1,0\n"}, sample_submission="s.csv")
    assert refusal(check_sample, load_sample(competition), competition, image_table(), ("y",)) == (
        f"{competition.root}/s.csv: no column 'id' (found ID, y); set competition.id to what the table has"
    )


@pytest.mark.parametrize(
    ("ids", "columns", "by"),
    [
        (["p1", "p2"], {"patient": ["p2", "p1", "p1"]}, "patient"),
        (["1_L", "2_R"], {"who": ["1", "1", "2"], "side": ["L", "L", "R"]}, "{who}_{side}"),
        (["x", "y"], {}, "re:^(.+)[_-][^_-]+$"),
    ],
)
def test_a_sample_of_groups_is_answered_by_the_column_that_makes_them(write_competition, ids, columns, by):
    text = "id,y\n" + "".join(f"{one},0\n" for one in ids)
    files = {"s.csv": text} | {f"test/{name}.png": b"stub" for name in ("x_1", "x_2", "y_1")}
    pd.DataFrame({"id": ["x_1", "x_2", "y_1"]} | columns).to_csv(table := io.StringIO(), index=False)
    settings = {"test_table": "t.csv", "test_image": "test/{id}.png", "sample_submission": "s.csv", "targets": ["y"]}
    competition = write_competition(files | {"t.csv": table.getvalue()}, **settings)
    sample, test = load_sample(competition), load_test_table(competition, ("y",))
    assert refusal(check_sample, sample, competition, test, ("y",)) == (
        f"{competition.root}/s.csv: 2 of 2 ids are no test rows and 3 test rows are missing (first: {ids[0]}); "
        f"each of them is several test rows: set competition.predict_by={by}"
    )
    competition = write_competition({}, **settings, predict_by=by)
    test = load_test_table(competition, ("y",))
    check_sample(sample, competition, test, ("y",))
    assert sorted(set(test.units)) == ids


@pytest.mark.parametrize(
    ("header", "settings", "decision"),
    [
        ("id,cat,dog,eel", {}, None), ("id,label", {"task": "multiclass"}, None), ("nr,id,p_cat,p_dog,p_eel", {}, None),
        ("id,cat,dog,eel", {}, Decision(0.25)),
    ],
)  # fmt: skip
def test_a_large_submission_is_written_and_refused_by_pieces_as_at_once(
    write_competition, tmp_path, monkeypatch, header, settings, decision
):
    text = header + "\n" + "".join(
        ",".join({"id": one, "nr": str(row), "label": "cat"}.get(name, "0") for name in header.split(",")) + "\n"
        for row, one in enumerate(("3", "01", "02"))
    )  # fmt: skip
    competition = write_competition({"s.csv": text}, sample_submission="s.csv", **settings)
    sample, found = load_sample(competition), []
    for at_once in (submission._VALUES_AT_ONCE, 4):  # a row
        monkeypatch.setattr(submission, "_VALUES_AT_ONCE", at_once)
        path = tmp_path / f"{at_once}.csv"
        write_submission(path, sample, competition, IDS, PROBS, CLASSES, decision)
        found.append([path.read_bytes()])
        if "label" not in header:
            for column in ([0.5, np.nan, np.nan], [2.0, 0.5, 3.0], [0.5, 0.5, 0.5]):
                probs = np.column_stack([column, PROBS[:, 1:]])
                words = (path, sample, competition, IDS, probs, CLASSES, decision)
                found[-1].append(refusal(write_submission, *words))
    assert found[0] == found[1]
