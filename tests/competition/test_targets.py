"""Labels and target columns become targets, or are refused in one line."""

import numpy as np
import pytest

from src.competition.tables import load_solution, load_test_table, load_train_table
from src.competition.targets import split_ranges, standardize
from tests.competition.building import BASIC, IMAGES, PIXEL, refusal


@pytest.mark.parametrize(
    ("settings", "names", "targets"),
    [
        ({"task": "binary"}, ("10",), [[1], [0], [1]]),  # numbers are sorted as numbers, so 10 is last
        ({"task": "binary", "classes": ["10", "9"]}, ("9",), [[0], [1], [0]]),
        ({"task": "multiclass"}, ("9", "10"), [[0, 1], [1, 0], [0, 1]]),
        ({"task": "multiclass", "classes": ["10", "9"]}, ("10", "9"), [[1, 0], [0, 1], [1, 0]]),
    ],
)
def test_a_label_column_becomes_targets(write_competition, settings, names, targets):
    competition = write_competition(
        IMAGES | {"train.csv": "id,kind\n001,10\n002,9\n010,10\n"},
        train_table="train.csv", train_image="train/{id}.png", label="kind", **settings,
    )  # fmt: skip
    table = load_train_table(competition)
    assert table.target_names == names
    assert table.targets.tolist() == targets


def test_several_targets_may_be_soft(write_competition):
    csv = "id,a,b\n001,0.25,0.75\n002,1,0\n010,0,1\n"
    for task in ("multiclass", "multilabel"):
        settings = BASIC | {"targets": ["b", "a"]}
        table = load_train_table(write_competition(IMAGES | {"train.csv": csv}, **settings, task=task))
        assert table.target_names == ("b", "a")
        assert table.targets.tolist() == [[0.75, 0.25], [0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "column 'kind' holds one class only (cat); nothing can be learned, set another label"),
        ({"label": "none", "missing": "drop"},
         "column 'none' holds one class only (no label); nothing can be learned, set another label"),
        ({"label": "gap"}, "1 of 3 labels are missing in column 'gap' (first: line 3, empty); fill them, or set "
         "competition.missing=drop to leave out these rows"),
        ({"label": "three"}, "column 'three' holds 3 classes (a, b, c); set competition.task=multiclass"),
        ({"label": "three", "classes": ["a", "b"]},
         "column 'three' holds 'c' (first: line 4), not among competition.classes (a, b); correct it or "
         "competition.classes"),
        ({"label": "three", "task": "multiclass", "classes": ["a", "b", "c", "d"]},
         "column 'three' has no row of class 'd' (found a, b, c); correct competition.classes"),
        ({"label": None, "targets": ["p", "q"], "task": "multiclass"},
         "1 of 3 rows do not sum to 1 (first: line 3, sum 1.5); correct them or set competition.task=multilabel"),
        ({"label": None, "targets": ["p", "r"], "task": "multilabel"},
         "column 'r' holds other values than 0 to 1 (2, -1); correct them"),
        ({"label": "three", "task": "multiclass", "group": "gap"},
         "column 'gap' is empty in 1 of 3 rows (first: line 3); fill or remove them"),
        ({"label": "three", "task": "multiclass", "fold": "kind"},
         "column 'kind' holds 'cat', no whole number; number the folds from 0"),
    ],
)  # fmt: skip
def test_wrong_labels_are_refused(write_competition, settings, expected):
    csv = "id,kind,gap,three,p,q,r,none\n001,cat,x,a,1,0,2,\n002,cat,,b,0.5,1,-1,\n010,cat,y,c,0,1,0,\n"
    settings = {"label": "kind", "train_table": "train.csv", "train_image": "train/{id}.png"} | settings
    assert refusal(write_competition(IMAGES | {"train.csv": csv}, **settings)) == f"ROOT/train.csv: {expected}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "competition.targets: neither targets nor label is set; set competition.targets=[COLUMN] (0/1) or "
             "competition.label=COLUMN (class names)"),
        ({"targets": ["a", "b"], "label": "c", "task": "multilabel"},
         "competition.targets: both targets (a, b) and label (c) are set; keep one of them"),
        ({"targets": ["a", "b"]},
         "competition.task=binary: needs one target, found 2 (a, b); set competition.task=multilabel or multiclass"),
        ({"targets": ["a"], "task": "multilabel"},
         "competition.task=multilabel: needs several targets, found 1 (a); set competition.task=binary"),
        ({"label": "a", "task": "multilabel"},
         "competition.task=multilabel: label=a holds one class a row; set competition.task=multiclass, or "
         "competition.separator to the text between a cell's labels"),
        ({"targets": ["a", "a"], "task": "multilabel"},
         "competition.targets: a name is there twice (a, a); name each once"),
        ({"label": "a", "task": "multiclass", "classes": ["x", "y", "x "]},
         "competition.classes: a name is there twice (x, y, x); name each once"),
        ({"targets": ["a"], "train_table": "train.csv"}, "ROOT/train.csv: no such file; check competition.train_table"),
        ({"targets": ["a"], "train_image": "train/*"},
         "competition.train_image=train/*: without train_table the labels are read from the paths; "
         "write for example train/{label}/*"),
        ({"label": "label", "train_image": "train/{label}/*"},
         "ROOT/train: no image found there; check competition.train_image, now train/{label}/*"),
        ({"label": "label", "train_image": "{kind}/*"},
         "competition.train_image={kind}/*: no column 'label' (found kind, id); "
         "set competition.label to what the table has"),
    ],
)  # fmt: skip
def test_settings_that_do_not_agree_are_refused(write_competition, settings, expected):
    assert refusal(write_competition({"x/1.png": PIXEL}, **settings)) == expected


TAGS = {"train_table": "train.csv", "train_image": "train/{id}.png", "label": "tags", "task": "multilabel"}


@pytest.mark.parametrize("separator", [" ", ",", "|", ";", ", "])
def test_a_cell_of_several_labels_becomes_a_column_for_each_class(write_competition, separator):
    cells = [f"10{separator}9", f" 9{separator} {separator}9 ", ""]  # in any order, twice, with blanks, none
    csv = 'id,tags\n001,"{}"\n002,"{}"\n010,"{}"\n'.format(*cells)
    table = load_train_table(write_competition(IMAGES | {"train.csv": csv}, **TAGS, separator=separator))
    assert table.target_names == ("9", "10")
    assert table.targets.tolist() == [[1, 1], [1, 0], [0, 0]]
    settings = TAGS | {"separator": separator, "classes": ["10", "9"]}
    table = load_train_table(write_competition(IMAGES | {"train.csv": csv}, **settings))
    assert table.target_names == ("10", "9")
    assert table.targets.tolist() == [[1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"classes": ["a", "b"]}, "ROOT/train.csv: column 'tags' holds 'c' (first: line 3), not among "
         "competition.classes (a, b); correct it or competition.classes"),
        ({"classes": ["a", "b", "c", "d"]},
         "ROOT/train.csv: column 'tags' has no row of class 'd' (found a, b, c); correct competition.classes"),
        ({"label": "one"}, "ROOT/train.csv: column 'one' holds one class only (a); nothing can be learned, set "
         "another label"),
        ({"task": "multiclass"}, "competition.separator= : splits the cells of competition.label for "
         "competition.task=multilabel, and is one letter or more; set it to null or set these"),
        ({"separator": ""}, "competition.task=multilabel: label=tags holds one class a row; set "
         "competition.task=multiclass, or competition.separator to the text between a cell's labels"),
    ],
)  # fmt: skip
def test_wrong_cells_of_several_labels_are_refused(write_competition, settings, expected):
    csv = "id,tags,one\n001,a b,a\n002,c,\n010,b,a\n"
    settings = TAGS | {"separator": " "} | settings
    assert refusal(write_competition(IMAGES | {"train.csv": csv}, **settings)) == expected


def test_a_solution_of_several_labels_a_cell_is_read_by_trainings_classes(write_competition):
    files = IMAGES | {"train.csv": "id,tags\n001,b a\n002,\n", "solution.csv": "id,tags\n002,b\n001,\n"}
    settings = {"test_table": "train.csv", "test_image": "train/{id}.png", "solution": "solution.csv"}
    competition = write_competition(files, **TAGS, **settings, separator=" ")
    test = load_test_table(competition, ("a", "b"))
    assert load_solution(competition, test).tolist() == [[0, 0], [0, 1]]
    competition = write_competition({"train.csv": "id,tags\n001,b a\n002,c\n"}, **TAGS, **settings, separator=" ")
    assert refusal(competition, load_test_table, ("a", "b")) == (
        "ROOT/train.csv: column 'tags' holds 'c' (first: line 3), not among the classes of training (a, b); correct it "
        "or competition.classes"
    )


def test_one_soft_target_may_be_binary(write_competition):
    table = load_train_table(write_competition(IMAGES | {"train.csv": "id,y\n001,0.25\n002,1\n010,0.5\n"}, **BASIC))
    assert table.targets.tolist() == [[0.25], [1], [0.5]]
    assert table.positives.tolist() == [[False], [True], [True]]


def test_the_largest_share_of_a_class_is_its_positive(write_competition):
    csv = "id,a,b,c\n001,0.4,0.3,0.3\n002,0.3,0.4,0.3\n010,0.3,0.3,0.4\n"
    settings = BASIC | {"targets": ["a", "b", "c"]}
    for task, expected in (("multiclass", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]), ("multilabel", [[0] * 3] * 3)):
        table = load_train_table(write_competition(IMAGES | {"train.csv": csv}, **settings, task=task))
        assert table.positives.tolist() == expected
        assert table.take([0, 2]).positives.tolist() == [expected[0], expected[2]]


def test_outer_blanks_of_ids_labels_and_column_names_do_not_count(write_competition):
    csv = "id ,kind, patient\n001 ,cat,p\n002,cat ,q \n 010,dog,q\n"
    competition = write_competition(
        IMAGES | {"train.csv": csv}, train_table="train.csv", train_image="train/{id}.png", label="kind",
        classes=["dog ", "cat"], group="patient",
    )  # fmt: skip
    table = load_train_table(competition)
    assert table.ids.tolist() == ["001", "002", "010"]
    assert table.targets.tolist() == [[1], [1], [0]]
    assert table.groups.tolist() == ["p", "q", "q"]
    assert [note.replace(competition.root, "ROOT") for note in table.notes] == [
        "ROOT/train.csv: 2 column names had outer blanks; removed",
        "ROOT/train.csv: 2 of 3 values of column 'id' had outer blanks; removed",
        "ROOT/train.csv: 1 of 3 values of column 'kind' had outer blanks; removed",
        "ROOT/train.csv: 1 of 3 values of column 'patient' had outer blanks; removed",
    ]
    twice = write_competition(IMAGES | {"train.csv": "id,y\n001,1\n001 ,0\n010,1\n"}, **BASIC)
    assert refusal(twice) == "ROOT/train.csv: 1 of 3 rows repeat an id (first: 001); keep one row per image"
    twice = write_competition(IMAGES | {"train.csv": "id,y,y \n001,1,0\n"}, **BASIC)
    assert refusal(twice) == "ROOT/train.csv: two columns are named 'y'; rename one of them"


@pytest.mark.parametrize("text", ["", "NA", "NaN", " ", "N/A"])
def test_missing_answers_are_named_or_their_rows_dropped(write_competition, text):
    names = ("a", "b", "c", "d")
    files = {f"train/{name}.png": PIXEL for name in names}
    csv = f"id,y,kind,s,t\na,0,cat,1,0\nb,{text},{text},{text},{text}\nc,1,dog,0,1\nd,0,cat,1,{text}\n"
    base = {"train_table": "train.csv", "train_image": "train/{id}.png"}
    shown = "empty" if text == "" else repr(text)
    for settings, column, found, what in (
        ({"targets": ["y"]}, "'y'", "1 of 4", "rows"), ({"label": "kind"}, "'kind'", "1 of 4", "rows"),
        ({"targets": ["s", "t"], "task": "multilabel"}, "'s', 't'", "3 of 8", "cells"),
        ({"targets": ["s", "t"], "task": "multiclass"}, "'s', 't'", "3 of 8", "rows"),
    ):  # fmt: skip
        line = refusal(write_competition(files | {"train.csv": csv}, **base, **settings))
        empty = "empty" if column == "'kind'" and text == " " else shown
        assert line == (
            f"ROOT/train.csv: {found} labels are missing in column {column} (first: line 3, {empty}); fill them, or "
            f"set competition.missing=drop to leave out these {what}"
        )
        table = load_train_table(write_competition({}, **base, **settings, missing="drop"))
        is_multilabel = settings.get("task") == "multilabel"
        assert table.ids.tolist() == (["a", "c"] if settings.get("task") == "multiclass" else ["a", "c", "d"])
        assert len(table.columns) == len(table.paths) == len(table.targets) == len(table)
        assert [path[-5] for path in table.paths] == table.ids.tolist()
        if is_multilabel:
            np.testing.assert_array_equal(table.targets, [[1, 0], [0, 1], [1, np.nan]])
            assert table.notes[-1].endswith(": 1 labels of other rows are missing; no loss and no score counts them")
        elif "task" not in settings:
            assert table.targets.tolist() == [[0], [1], [0]]
        note = f"train.csv: {4 - len(table)} of 4 rows have no label and are left out"
        assert any(one.endswith(note) for one in table.notes)


def test_a_class_may_be_named_as_missing_answers_are(write_competition):
    csv = "id,kind\n001,NA\n002,EU\n010,NA\n"
    settings = {"train_table": "train.csv", "train_image": "train/{id}.png", "label": "kind", "classes": ["EU", "NA"]}
    table = load_train_table(write_competition(IMAGES | {"train.csv": csv}, **settings))
    assert table.targets[:, 0].tolist() == [1, 0, 1]


def test_an_empty_cell_of_several_labels_is_none_of_them_but_na_is_missing(write_competition):
    settings = TAGS | {"separator": " "}
    csv = "id,tags\n001,a b\n002,\n010,NA\n"
    line = refusal(write_competition(IMAGES | {"train.csv": csv}, **settings))
    assert line.startswith("ROOT/train.csv: 1 of 3 labels are missing in column 'tags' (first: line 4, 'NA'); ")
    table = load_train_table(write_competition({}, **settings, missing="drop"))
    assert (table.ids.tolist(), table.targets.tolist()) == (["001", "002"], [[1, 1], [0, 0]])


def test_which_class_is_positive_is_told_where_no_setting_says_it(write_competition):
    files = IMAGES | {"train.csv": "id,kind\n001,normal\n002,ill\n010,ill\n"}
    settings = {"train_table": "train.csv", "train_image": "train/{id}.png", "label": "kind"}
    [note] = load_train_table(write_competition(files, **settings)).notes
    assert note.endswith("train.csv: 'normal' is positive, 'ill' is not; competition.classes can swap them")
    assert load_train_table(write_competition(files, **settings, classes=["normal", "ill"])).notes == ()


REGRESSION = BASIC | {"task": "regression"}


@pytest.mark.parametrize(
    ("settings", "csv", "names", "targets"),
    [
        ({}, "id,y\n001,-3.5\n002,1e3\n010,7\n", ("y",), [[-3.5], [1000], [7]]),
        ({"targets": ["y", "z"]}, "id,z,y\n001,1,2\n002,3,4\n010,5,6\n", ("y", "z"), [[2, 1], [4, 3], [6, 5]]),
        ({"targets": [], "label": "y", "classes": ["0", "4"]}, "id,y\n001,4\n002,0\n010,2\n", ("y",), [[4], [0], [2]]),
    ],
)
def test_regression_reads_numbers_as_they_are(write_competition, settings, csv, names, targets):
    competition = write_competition(IMAGES | {"train.csv": csv}, **REGRESSION | settings)
    table = load_train_table(competition)
    assert (table.target_names, table.targets.tolist(), table.task) == (names, targets, "regression")


def test_missing_numbers_leave_out_the_cell_and_rows_without_any(write_competition):
    csv = "id,y,z\n001,1,NA\n002,,\n010,5,6\n"
    more = IMAGES | {"train/011.png": PIXEL, "train.csv": csv + "011,2,3\n"}
    settings = REGRESSION | {"targets": ["y", "z"], "missing": "drop"}
    table = load_train_table(write_competition(more, **settings))
    np.testing.assert_array_equal(table.targets, [[1, np.nan], [5, 6], [2, 3]])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("cat", "dog", "cat"), "column 'y' holds other values than finite numbers (cat, dog); set "
         "competition.task=multiclass, or leave it out"),
        (("1", "x", "2"), "column 'y' holds other values than finite numbers (x); correct them"),
        (("1", "inf", "2"), "column 'y' holds other values than finite numbers (inf); correct them"),
        (("3", "3", "3"), "column 'y' holds one value only (3); nothing can be learned, leave it out"),
        (("3", "", "4"), "1 of 3 labels are missing in column 'y' (first: line 3, empty); fill them, or set "
         "competition.missing=drop to leave out these rows"),
    ],
)  # fmt: skip
def test_what_no_regression_can_learn_is_refused(write_competition, cells, expected):
    rows = "".join(f"{name},{cell}\n" for name, cell in zip(("001", "002", "010"), cells, strict=True))
    competition = write_competition(IMAGES | {"train.csv": "id,y\n" + rows}, **REGRESSION)
    assert refusal(competition) == f"ROOT/train.csv: {expected}"


def test_a_solution_of_regression_is_read_by_its_label_too(write_competition):
    files = {"train.csv": "id,y\n001,1.5\n002,2\n010,7\n", "test.csv": "id\n9\n", "solution.csv": "id,y\n9,12.5\n"}
    settings = REGRESSION | {"targets": [], "label": "y", "test_table": "test.csv", "solution": "solution.csv"}
    competition = write_competition(IMAGES | files | {"test/9.png": PIXEL}, **settings, test_image="test/{id}.png")
    test = load_test_table(competition, load_train_table(competition).target_names)
    assert load_solution(competition, test).tolist() == [[12.5]]


AUXILIARY_CSV = "id,y,share,age,site,one,name\n001,1,0,30,b,1,x\n002,0,NA,,a,1,y\n010,1,1,50,,1,z\n"


def test_auxiliary_columns_are_numbers_or_a_column_for_each_word(write_competition):
    competition = write_competition(IMAGES | {"train.csv": AUXILIARY_CSV}, **BASIC, auxiliary=["share", "age", "site"])
    table = load_train_table(competition)
    nan = np.nan
    assert table.auxiliary_names == ("share", "age", "site", "site")
    np.testing.assert_array_equal(table.auxiliary, [[0, 30, 0, 1], [nan, nan, 1, 0], [1, 50, nan, nan]])
    assert table.targets.tolist() == [[1], [0], [1]]
    np.testing.assert_array_equal(table.training_targets[:, 1:], table.auxiliary)
    np.testing.assert_array_equal(table.take([2]).training_targets, [[1, 1, 50, nan, nan]])


@pytest.mark.parametrize(
    ("auxiliary", "expected"),
    [
        (["aeg"], "ROOT/train.csv: no column 'aeg' (found id, y, share, age, site, one, name); did you mean age?"),
        (["y"], "competition.auxiliary: 'y' is competition.targets already; leave it out of competition.auxiliary"),
        (["id"], "competition.auxiliary: 'id' is competition.id already; leave it out of competition.auxiliary"),
        (["age", "age"], "competition.auxiliary: a name is there twice (age, age); name each once"),
        (["one"], "ROOT/train.csv: column 'one' holds one value only (1); leave it out of competition.auxiliary"),
    ],
)
def test_auxiliary_columns_that_cannot_be_learned_are_refused(write_competition, auxiliary, expected):
    files = IMAGES | {"train.csv": AUXILIARY_CSV}
    assert refusal(write_competition(files, **BASIC, auxiliary=auxiliary)) == expected


def test_a_column_that_names_rows_is_no_auxiliary_one(write_competition):
    files = {f"train/{row:03}.png": PIXEL for row in range(102)}
    csv = "id,y,name\n" + "".join(f"{row:03},{row % 2},n{row:03}\n" for row in range(102))
    competition = write_competition(files | {"train.csv": csv}, **BASIC, auxiliary=["name"])
    assert refusal(competition) == (
        "ROOT/train.csv: column 'name' holds too many words (n000, n001, n002 ... (102 in all)), of which 100 can be "
        "learned; leave it out of competition.auxiliary"
    )


def test_standardize_knows_gaps_and_constants():
    mean, deviation = standardize(np.array([[1, 5, np.nan, np.nan], [3, 5, 4, np.nan]], np.float32))
    assert (mean.tolist(), deviation.tolist()) == ([2, 5, 4, 0], [1, 1, 1, 1])
    tiny, rounded = np.float32([1e-28, 3e-28]), np.float32([0.1] * 7)
    assert standardize(tiny[:, None])[1] == pytest.approx([1e-28])
    assert standardize(rounded[:, None])[1].tolist() == [1]


def test_one_number_among_the_words_of_an_auxiliary_column_is_a_word(write_competition):
    files = IMAGES | {"train.csv": "id,y,stage\n001,0,0\n002,1,IA\n010,0,0\n"}
    table = load_train_table(write_competition(files, **BASIC, auxiliary=["stage"]))
    assert (table.auxiliary_names, table.auxiliary[:, 0].tolist()) == (("stage", "stage"), [1, 0, 1])


def test_ranges_hold_equally_many_rows_and_equal_numbers_share_one():
    ranges = split_ranges(np.random.default_rng(0).permutation(1000)[:, None].astype(np.float32))
    assert ranges.sum(axis=0).tolist() == [100] * 10
    grades = np.repeat([0, 1, 2, 4], [5, 3, 1, 1])[:, None]
    assert len(np.unique(split_ranges(grades).argmax(axis=1))) == 4
    assert len(set(map(tuple, split_ranges(np.hstack([grades, 1 - grades]))))) == 4  # columns against each other


@pytest.mark.parametrize("factors", [(1, 2), (1, -2), (-1, 2), (-1, -2, -3)])
def test_ranges_rise_with_the_first_column_whatever_the_sign_of_the_principal_component(factors):
    values = np.random.default_rng(0).permutation(40)[:, None] * np.array(factors)
    numbers = split_ranges(values).argmax(axis=1)
    assert (np.diff(numbers[np.argsort(values[:, 0])]) >= 0).all()
