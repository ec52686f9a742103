"""Labels and target columns become targets, or are refused in one line."""

import pytest

from src.competition.tables import load_solution, load_test_table, load_train_table
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
        ({"label": "gap"}, "column 'gap' is empty in 1 of 3 rows (first: line 3); fill or remove them"),
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
    csv = "id,kind,gap,three,p,q,r\n001,cat,x,a,1,0,2\n002,cat,,b,0.5,1,-1\n010,cat,y,c,0,1,0\n"
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
         "competition.targets: a column is named twice (a, a); name each once"),
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
