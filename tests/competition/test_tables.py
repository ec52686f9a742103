"""Tables hold what the CSVs and folders say, and what is wrong with them is refused in one line."""

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.competition.paths import Paths, check_not_empty
from src.competition.tables import load_solution, load_test_table, load_train_table, read_table
from src.errors import UserError

PIXEL = b"stub"  # tables look at names and sizes, never into an image
IMAGES = {f"train/{name}.png": PIXEL for name in ("001", "002", "010")}
BASIC = {"train_table": "train.csv", "train_image": "train/{id}.png", "targets": ["y"]}


def names_of(table, competition):
    return [path.removeprefix(competition.root + "/") for path in table.paths]


def refusal(competition, load=load_train_table, *words):
    """The UserError's line, with the folder of the test as ROOT."""
    with pytest.raises(UserError) as caught:
        load(competition, *words)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(competition.root, "ROOT")


def test_a_binary_table_keeps_ids_order_groups_and_folds(write_competition):
    csv = "id,y,patient,part\n010,1,p2,7\n001,0,p1,3\n002,1.0,p2,3\n"
    competition = write_competition(IMAGES | {"train.csv": csv}, **BASIC, group="patient", fold="part")
    table = load_train_table(competition)
    assert table.ids.tolist() == ["010", "001", "002"]
    assert table.ids.dtype.kind == table.groups.dtype.kind == "U"
    assert names_of(table, competition) == ["train/010.png", "train/001.png", "train/002.png"]
    assert table.targets.tolist() == [[1], [0], [1]]
    assert table.targets.dtype == np.float32
    assert table.target_names == ("y",)
    assert table.groups.tolist() == ["p2", "p1", "p2"]
    assert table.folds.tolist() == [7, 3, 3]
    assert table.folds.dtype == np.int64
    for rows in (np.array([2, 0]), np.array([True, False, True])):
        part = table.take(rows)
        assert len(part) == 2
        assert sorted(part.ids) == ["002", "010"]
        assert part.target_names == ("y",)
    assert table.take(np.array([2, 0])).ids.tolist() == ["002", "010"]


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
    ("pattern", "files", "expected"),
    [
        ("{folder}/{id}.png", ["x/a1.png", "y/b2.png"], ["x/a1.png", "y/b2.png"]),
        ("train/{id[0]}/{id[1]}/{id}.png", ["train/a/1/a1.png", "train/b/2/b2.png"], None),
        ("train/{id}.*", ["train/a1.tif", "train/b2.jpg", "train/a1.txt", "train/b2.x.jpg", "train/.b2.jpg"],
         ["train/a1.tif", "train/b2.jpg"]),
        ("train/*_{id}.png", ["train/7_a1.png", "train/8_b2.png"], None),
        ("train/{id}/*/*.dcm",
         ["train/a1/T1/s2.dcm", "train/a1/T1/s10.dcm", "train/a1/T1/s1.dcm", "train/b2/T1/s1.dcm", "train/b2/T1/a.txt"],
         ["train/a1/T1/s2.dcm", "train/b2/T1/s1.dcm"]),
        ("train/{id}/*",
         ["train/a1/9.png", "train/a1/10.png", "train/a1/11.png", "train/a1/list.csv", "train/b2/1.JPG",
          "train/b2/._1.JPG", "train/b2/._2.JPG"],
         ["train/a1/10.png", "train/b2/1.JPG"]),
        ("{id}*.png", ["a1-x.png", "b2.png"], ["a1-x.png", "b2.png"]),
        ("*/{id}-*-v*.png", ["s/a1-k-v1.png", "t/b2-k-v2.png", "t/b2-k-w.png"], ["s/a1-k-v1.png", "t/b2-k-v2.png"]),
    ],
)  # fmt: skip
def test_patterns_lead_to_files(write_competition, pattern, files, expected):
    stubs = dict.fromkeys(files, PIXEL)
    csv = {"t.csv": "id,y,folder\na1,0,x\nb2,1,y\n"}
    competition = write_competition(stubs | csv, train_table="t.csv", train_image=pattern, targets=["y"])
    assert names_of(load_train_table(competition), competition) == (expected or files)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{id.__class__}.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("{id:>5}.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("{id!r}.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("{id.png", "not a pattern; in braces write a column, or a letter of it such as {id[0]}"),
        ("../{id}.png", "leads outside competition.root; write a path below it"),
        ("/train/{id}.png", "leads outside competition.root; write a path below it"),
        ("train/*.png", "all rows would get one image; name a column, for example {id}"),
        ("{idd}.png", "no column 'idd' (found id, y); did you mean id?"),
    ],
)
def test_a_wrong_pattern_is_refused(write_competition, pattern, expected):
    settings = BASIC | {"train_image": pattern}
    competition = write_competition(IMAGES | {"train.csv": "id,y\n001,1\n002,0\n"}, **settings)
    assert refusal(competition) == f"competition.train_image={pattern}: {expected}"


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
    monkeypatch.setattr("src.competition.paths._PATHS_AT_ONCE", 3)
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


@pytest.mark.parametrize("bad", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_an_id_never_leads_out_of_the_root(write_competition, bad):
    settings = BASIC | {"train_image": "{id}"}
    competition = write_competition({"ok.png": PIXEL, "train.csv": f"id,y\nok.png,1\n{bad},0\n"}, **settings)
    expected = f"ROOT: the image of id '{bad}' would be outside this folder ({bad}); "
    assert refusal(competition) == expected + "correct the id or competition.train_image, now {id}"


def test_a_star_in_an_id_is_a_letter(write_competition):
    competition = write_competition(IMAGES | {"train.csv": "id,y\n001,1\n*,0\n"}, **BASIC)
    assert "1 of 2 ids have no image (first: *)" in refusal(competition)


@pytest.mark.parametrize(
    ("pattern", "files", "ids", "labels", "positive"),
    [
        ("train/{label}/*",
         ["train/dog/10.png", "train/dog/9.png", "train/cat/1.jpg", "train/cat/x.txt", "train/z.png"],
         ["cat/1.jpg", "dog/9.png", "dog/10.png"], [0, 1, 1], "dog"),
        ("train/{label}.*.jpg", ["train/dog.2.jpg", "train/cat.0.jpg"], ["cat.0.jpg", "dog.2.jpg"], [0, 1], "dog"),
        ("{label}_*.*", ["pug_dog_1.png", "cat_2.jpg"], ["cat_2.jpg", "pug_dog_1.png"], [0, 1], "pug_dog"),
        ("all/*_{label}.png", ["all/1_pug_dog.png", "all/2_cat.png"],
         ["1_pug_dog.png", "2_cat.png"], [1, 0], "pug_dog"),
        ("{label}/{id}.png", ["dog/d.png", "cat/c.png"], ["c", "d"], [0, 1], "dog"),
    ],
)  # fmt: skip
def test_labels_are_read_from_paths(write_competition, pattern, files, ids, labels, positive):
    competition = write_competition(dict.fromkeys(files, PIXEL), train_image=pattern, label="label")
    table = load_train_table(competition)
    assert table.ids.tolist() == ids
    assert table.targets[:, 0].tolist() == labels
    assert table.target_names == (positive,)
    assert len(set(table.paths)) == len(ids)


def test_groups_can_be_read_from_paths(write_competition):
    files = {"train/a/p1_1.png": PIXEL, "train/b/p2_1.png": PIXEL}
    competition = write_competition(files, train_image="train/{label}/{patient}_*.png", label="label", group="patient")
    assert load_train_table(competition).groups.tolist() == ["p1", "p2"]


def test_test_rows_come_from_table_then_sample_then_files(write_competition):
    files = {f"test/{name}.png": PIXEL for name in ("1", "2", "10")}
    files |= {"test.csv": "id,patient\n2,p\n1,q\n", "sample.csv": "id,y\n10,0\n1,0\n2,0\n"}
    settings = {"test_image": "test/{id}.png", "targets": ["y"], "group": "patient"}
    competition = write_competition(files, **settings, test_table="test.csv", sample_submission="sample.csv")
    table = load_test_table(competition, ("y",))
    assert table.ids.tolist() == ["2", "1"]
    assert names_of(table, competition) == ["test/2.png", "test/1.png"]
    assert table.targets is None
    assert table.target_names == ("y",)
    assert table.groups.tolist() == ["p", "q"]
    table = load_test_table(write_competition({}, **settings, sample_submission="sample.csv"), ("y",))
    assert table.ids.tolist() == ["10", "1", "2"]
    assert table.groups is None
    assert load_test_table(write_competition({}, **settings), ("y",)).ids.tolist() == ["1", "2", "10"]
    files_only = write_competition({}, **settings | {"test_image": "test/*"})
    assert load_test_table(files_only, ("y",)).ids.tolist() == ["1.png", "2.png", "10.png"]


def test_the_solution_follows_the_test_rows(write_competition):
    files = {f"test/{name}.png": PIXEL for name in "abc"} | {"s.csv": "id,y,Usage\nc,1,Public\nx,0,-\na,0,-\nb,1,-\n"}
    settings = {"test_image": "test/{id}.png", "targets": ["y"]}
    competition = write_competition(files, **settings, solution="s.csv")
    test = load_test_table(competition, ("y",))
    assert load_solution(competition, test).tolist() == [[0], [1], [1]]
    assert load_solution(write_competition({}, **settings), test) is None
    competition = write_competition({"s.csv": "id,y\na,1\n"}, **settings, solution="s.csv")
    assert refusal(competition, load_solution, test) == "ROOT/s.csv: 2 of 3 test ids are missing (first: b); add them"


def test_a_label_solution_uses_the_classes_of_training(write_competition):
    files = {f"test/{name}.png": PIXEL for name in "ab"} | {"s.csv": "id,kind\nb,cat\na,dog\n"}
    settings = {"test_image": "test/{id}.png", "label": "kind", "solution": "s.csv"}
    competition = write_competition(files, **settings, task="multiclass")
    test = load_test_table(competition, ("ape", "cat", "dog"))
    assert load_solution(competition, test).tolist() == [[0, 0, 1], [0, 1, 0]]
    binary = write_competition({}, **settings)
    assert load_solution(binary, load_test_table(binary, ("dog",))).tolist() == [[1], [0]]
    fewer = load_test_table(competition, ("ape", "cat"))
    assert refusal(competition, load_solution, fewer) == (
        "ROOT/s.csv: column 'kind' holds 'dog', not among the classes of training (ape, cat); "
        "correct it or competition.classes"
    )


def test_a_test_class_that_training_never_saw_is_refused(write_competition):
    files = {"test/a.png": PIXEL, "test.csv": "id,kind\na,bee\n"}
    competition = write_competition(
        files, test_table="test.csv", test_image="test/{id}.png", label="kind", task="multiclass"
    )
    assert refusal(competition, load_test_table, ("ape", "cat")) == (
        "ROOT/test.csv: column 'kind' holds 'bee', not among the classes of training (ape, cat); "
        "correct it or competition.classes"
    )


@pytest.mark.parametrize("text", ["id,y\n001,1\n002,0\n", "\ufeffid,y\n001,1\n002,0\n", "id;y\n001;1\n002;0\n",
                                  "id\ty\n001\t1\n002\t0\n", '"id","y"\r\n"001","1"\r\n"002","0"\r\n'])  # fmt: skip
def test_csv_dialects_read_alike(tmp_path, text):
    (tmp_path / "t.csv").write_bytes(text.encode())
    table = read_table(tmp_path / "t.csv")
    assert table.to_dict("list") == {"id": ["001", "002"], "y": ["1", "0"]}


def test_only_an_empty_cell_is_missing(tmp_path):
    (tmp_path / "t.csv").write_text("id,kind\nNA,None\n007,\n1e5,null\n")
    table = read_table(tmp_path / "t.csv")
    assert table["id"].tolist() == ["NA", "007", "1e5"]
    assert table["kind"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; copy or download it again"),
        (b"id,y\n1,\x000\n", "holds NUL bytes, so it is no UTF-8 text; save it as UTF-8 CSV"),
        ("id,y\n1,0\n".encode("utf-16"), "holds NUL bytes, so it is no UTF-8 text; save it as UTF-8 CSV"),
        (b"id,y\ncaf\xe9,0\n", "not UTF-8 text (byte 8); save it as UTF-8 CSV"),
        (b'id,y\n1,0\n"2,1\n3,0\n',
         "cannot be read as CSV (EOF inside string starting at row 2); correct its quotes and separators"),
        (b"id,y\n1,0\n2,1,5\n",
         "cannot be read as CSV (Expected 2 fields in line 3, saw 3); correct its quotes and separators"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_refused(tmp_path, content, expected):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: {expected}"


def test_rows_longer_than_the_header_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,y\n1,0,9\n2,1,9\n")
    with pytest.raises(UserError, match=r"cannot be read as CSV"):
        read_table(path)


@pytest.mark.parametrize(
    ("csv", "expected"),
    [
        ("id,y\n", "ROOT/train.csv: has a header but no rows; copy or download it again"),
        ("name,has\n001,1\n",
         "ROOT/train.csv: no column 'id' (found name, has); set competition.id to what the table has"),
        ("id,yy\n001,1\n", "ROOT/train.csv: no column 'y' (found id, yy); did you mean yy?"),
        ("id,y\n001,1\n002,0\n001,1\n",
         "ROOT/train.csv: 1 of 3 rows repeat an id (first: 001); keep one row per image"),
        ("id,y\n001,1\n,0\n",
         "ROOT/train.csv: column 'id' is empty in 1 of 2 rows (first: line 3); fill or remove them"),
        ("id,y\n001,1\n002,\n",
         "ROOT/train.csv: column 'y' is empty in 1 of 2 rows (first: line 3); fill or remove them"),
        ("id,y\n001,1\n002,nan\n",
         "ROOT/train.csv: column 'y' holds other values than 0 and 1 (nan); set competition.targets=[] and "
         "competition.label=y for class names"),
        ("id,y\n001,2\n002,no\n010,1\n",
         "ROOT/train.csv: column 'y' holds other values than 0 and 1 (2, no); set competition.targets=[] and "
         "competition.label=y for class names"),
        ("id,y\n001,1\n002,1\n",
         "ROOT/train.csv: column 'y' holds one class only (1); nothing can be learned, leave it out"),
        ("id,y\n001,1\n002,0\n77,0\n78,1\n",
         "ROOT/train: 2 of 4 ids have no image (first: 77); check competition.train_image, now train/{id}.png"),
    ],
)  # fmt: skip
def test_a_wrong_training_table_is_refused(write_competition, csv, expected):
    competition = write_competition(IMAGES | {"train/empty.png": b"", "train.csv": csv}, **BASIC)
    assert refusal(competition) == expected


def test_empty_files_are_named(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    for path, content in zip(paths, (b"x", b"", b""), strict=True):
        Path(path).write_bytes(content)
    check_not_empty(paths[:1])
    with pytest.raises(UserError) as caught:
        check_not_empty(paths)
    assert str(caught.value) == (
        f"{paths[1]}: cannot be decoded as an image (0 bytes); 2 of 3 are empty, copy them again or set unreadable=skip"
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "column 'kind' holds one class only (cat); nothing can be learned, set another label"),
        ({"label": "gap"}, "column 'gap' is empty in 1 of 3 rows (first: line 3); fill or remove them"),
        ({"label": "three"}, "column 'three' holds 3 classes (a, b, c); set competition.task=multiclass"),
        ({"label": "three", "classes": ["a", "b"]},
         "column 'three' holds 'c', not among competition.classes (a, b); correct it or competition.classes"),
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
         "competition.task=multilabel: label=a holds one class a row; set competition.task=multiclass"),
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


def test_a_missing_root_is_refused(write_competition):
    competition = replace(write_competition({}, **BASIC), root="no/such")
    assert refusal(competition) == "ROOT: no such folder; set competition.root to the folder of the data"


def test_other_columns_stay_with_their_rows(write_competition):
    csv = "id,y,site,age,patient\n010,1,a,07,p\n001,0,,8,q\n002,1,b,nan,q\n"
    files = IMAGES | {"train.csv": csv} | {f"test/{name}.png": PIXEL for name in ("001", "002", "010")}
    competition = write_competition(files, **BASIC, group="patient", test_table="train.csv", test_image="test/{id}.png")
    table = load_train_table(competition)
    assert list(table.columns) == ["site", "age", "patient"]
    assert table.columns.fillna("-").to_dict("list") == {
        "site": ["a", "-", "b"], "age": ["07", "8", "nan"], "patient": ["p", "q", "q"]
    }  # fmt: skip
    for rows in (np.array([2, 0]), [2, 0]):
        assert table.take(rows).columns.loc[[0, 1], "age"].tolist() == ["nan", "07"]
    assert table.take(np.array([False, True, True])).columns["site"].isna().tolist() == [True, False]
    assert load_test_table(competition, ("y",)).columns.equals(table.columns)
    alone = write_competition({"train.csv": "id,y\n010,1\n001,0\n"}, **BASIC)
    assert load_train_table(alone).columns.shape == (2, 0)
    assert len(load_train_table(alone).take([1]).columns) == 1


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
    start = time.perf_counter()
    assert len(load_train_table(competition)) == 5000
    assert time.perf_counter() - start < 5
    assert len(listed) == 1
