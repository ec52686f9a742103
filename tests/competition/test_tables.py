"""Tables hold what the CSVs and folders say, and what is wrong with them is refused in one line."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.competition.tables import load_solution, load_test_table, load_train_table, read_table
from src.errors import UserError
from tests.competition.building import BASIC, IMAGES, PIXEL, names_of, refusal


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
        "ROOT/s.csv: column 'kind' holds 'dog' (first: line 3), not among the classes of training (ape, cat); "
        "correct it or competition.classes"
    )


def test_of_a_binary_solution_a_third_class_is_refused(write_competition):
    files = {f"test/{name}.png": PIXEL for name in "abc"} | {"s.csv": "id,kind\na,dog\nb,cat\nc,cow\n"}
    competition = write_competition(files, test_image="test/{id}.png", label="kind", solution="s.csv")
    assert refusal(competition, load_solution, load_test_table(competition, ("dog",))) == (
        "ROOT/s.csv: column 'kind' holds 'cow' (first: line 4), not among the classes of training (dog, cat); "
        "correct it or competition.classes"
    )


def test_a_test_class_that_training_never_saw_is_refused(write_competition):
    files = {"test/a.png": PIXEL, "test.csv": "id,kind\na,bee\n"}
    competition = write_competition(
        files, test_table="test.csv", test_image="test/{id}.png", label="kind", task="multiclass"
    )
    assert refusal(competition, load_test_table, ("ape", "cat")) == (
        "ROOT/test.csv: column 'kind' holds 'bee' (first: line 2), not among the classes of training (ape, cat); "
        "correct it or competition.classes"
    )


@pytest.mark.parametrize("text", ["id,y\n001,1\n002,0\n", "\ufeffid,y\n001,1\n002,0\n", "id;y\n001;1\n002;0\n",
                                  "id\ty\n001\t1\n002\t0\n", '"id","y"\r\n"001","1"\r\n"002","0"\r\n',
                                  "id|y\n001|1\n002|0\n",
                                  "sep=;\nid;y\n001;1\n002;0\n"])  # fmt: skip
def test_csv_dialects_read_alike(tmp_path, text):
    (tmp_path / "t.csv").write_bytes(text.encode())
    table = read_table(tmp_path / "t.csv")
    assert table.to_dict("list") == {"id": ["001", "002"], "y": ["1", "0"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-be"])
def test_a_table_is_read_in_the_encoding_that_it_is_written_in(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""  # which Python writes for the others itself
    (tmp_path / "t.csv").write_bytes(f'{mark}id;"a, b, c";kind\n1;x;café\n2;y;"5 €; rue"\n'.encode(encoding))
    expected = {"id": ["1", "2"], "a, b, c": ["x", "y"], "kind": ["café", "5 €; rue"]}
    assert read_table(tmp_path / "t.csv").to_dict("list") == expected


@pytest.mark.parametrize("word", ["Größe", "süß", "créée", "opções", "«été»", "“thé”", "É", "5 €"])
def test_one_word_with_accents_is_read_in_windows_1252(tmp_path, word):
    (tmp_path / "t.csv").write_bytes(f"id,kind\n1,{word}\n2,b\n".encode("cp1252"))
    assert read_table(tmp_path / "t.csv")["kind"].tolist() == [word, "b"]


@pytest.mark.parametrize(("encoding", "words"), [("euc-kr", "A형,개"), ("gbk", "猫,狗"), ("cp1251", "кошка,собака"),
                                                 ("shift-jis", "ネコ,イヌ"), ("shift-jis", "ねこ,いぬ")])  # fmt: skip
def test_text_of_other_encodings_is_not_read_as_windows_1252(tmp_path, encoding, words):
    (tmp_path / "t.csv").write_bytes(f"id,kind\n1,{words}\n".encode(encoding))
    with pytest.raises(UserError, match="neither UTF-8 nor Windows-1252 text"):
        read_table(tmp_path / "t.csv")


def test_only_an_empty_cell_is_missing(tmp_path):
    (tmp_path / "t.csv").write_text("id,kind\nNA,None\n007,\n1e5,null\n")
    table = read_table(tmp_path / "t.csv")
    assert table["id"].tolist() == ["NA", "007", "1e5"]
    assert table["kind"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; copy or download it again"),
        (b"id,y\n1,\x000\n", "holds NUL bytes, so it is no text; save it as UTF-8 CSV"),
        ("id,y\n1,0\n".encode("utf-16-le"), "holds NUL bytes, so it is no text; save it as UTF-8 CSV"),
        (b"id,y\ncaf\x81,0\n", "neither UTF-8 nor Windows-1252 text; save it as UTF-8 CSV"),
        ("id,y\n강아지,0\n고양이,1\n".encode("cp949"), "neither UTF-8 nor Windows-1252 text; save it as UTF-8 CSV"),
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
         "ROOT/train.csv: 1 of 2 labels are missing in column 'y' (first: line 3, empty); fill them, or set "
         "competition.missing=drop to leave out these rows"),
        ("id,y\n001,1\n002,nan\n",
         "ROOT/train.csv: 1 of 2 labels are missing in column 'y' (first: line 3, 'nan'); fill them, or set "
         "competition.missing=drop to leave out these rows"),
        ("id,y\n001,2\n002,no\n010,1\n",
         "ROOT/train.csv: column 'y' holds other values than 0 to 1 (2, no); set competition.targets=[] and "
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


GROUPED = {"train_table": "train.csv", "train_image": "train/{id}.png", "targets": ["y"]}
EYES = "id,y,site,side\n12_left,0,a,l\n12_right,1,a,r\n7_left,1,b,l\n9,0,b,r\n"


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("re:^(.+)_(left|right)$", ["12", "12", "7", "9"]),
        ("re:^(?P<eye>..)", ["12", "12", "7_", "9"]),
        ("{site}_{side}", ["a_l", "a_r", "b_l", "b_r"]),
    ],
)
def test_a_group_is_read_from_the_id_or_joined_from_columns(write_competition, group, expected):
    files = {f"train/{name}.png": PIXEL for name in ("12_left", "12_right", "7_left", "9")}
    settings = GROUPED | {"group": group}
    competition = write_competition(files | {"train.csv": EYES}, **settings)
    assert load_train_table(competition).groups.tolist() == expected
    competition = write_competition({}, **settings, test_table="train.csv", test_image="train/{id}.png")
    assert load_test_table(competition, ("y",)).groups.tolist() == expected


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("re:^(.+)-", "ROOT/train.csv: competition.group=re:^(.+)- fits no id (first: 12_left); correct it"),
        ("{site}_{year}", "ROOT/train.csv: no column 'year' (found id, y, site, side); set competition.group to what "
         "the table has"),
    ],
)  # fmt: skip
def test_a_group_that_no_row_has_is_refused(write_competition, group, expected):
    files = {f"train/{name}.png": PIXEL for name in ("12_left", "12_right", "7_left", "9")}
    settings = GROUPED | {"group": group}
    assert refusal(write_competition(files | {"train.csv": EYES}, **settings)) == expected


def test_test_ids_are_found_in_the_column_that_leads_to_the_images(write_competition):
    files = {"test/7.png": PIXEL, "test/8.png": PIXEL, "s.csv": "y,Id\n0,7\n0,8\n", "true.csv": "Id,y\n8,1\n7,0\n"}
    settings = {"sample_submission": "s.csv", "test_image": "test/{id}.png", "targets": ["y"], "solution": "true.csv"}
    competition = write_competition(files, **settings)
    table = load_test_table(competition, ("y",))
    assert table.ids.tolist() == ["7", "8"]
    assert table.notes == (f"{competition.root}/s.csv: the ids are in column 'Id', which leads to the images",)
    assert load_solution(competition, table).tolist() == [[0], [1]]
    (Path(competition.root) / "test/8.png").unlink()
    assert refusal(competition, load_test_table, ("y",)) == (
        "ROOT/s.csv: no column 'id' (found y, Id); set competition.id to what the table has"
    )


def test_parquet_is_read_as_the_csv_of_the_same_content(tmp_path):
    table = pd.DataFrame(
        {
            "id": ["007", "", "a,b"],
            "whole": pd.array([1, None, 3], "Int64"),
            "single": np.array([0.1, np.nan, 1], np.float32),
            "flag": [True, None, False],
            "kind": pd.Categorical(["x", "y", "x"]),
            "when": pd.to_datetime(["2020-01-01", None, "2020-01-03"]),
        },
        index=[5, 6, 7],
    )
    table.to_csv(tmp_path / "x.csv", index=False)
    table.assign(tags=[["a", "b"], [], None], raw=[b"q", None, b"r"]).to_parquet(tmp_path / "x.parquet")
    found = read_table(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(found[list(table)], read_table(tmp_path / "x.csv"))
    assert found["whole"].tolist()[::2] == ["1", "3"]
    assert found["single"].tolist()[::2] == ["0.1", "1.0"]
    assert found["tags"].fillna("").tolist() == ["a|b", "", ""]
    assert found["raw"].fillna("").tolist() == ["q", "", "r"]
    table.set_index("id").to_parquet(tmp_path / "y.parquet")
    assert sorted(read_table(tmp_path / "y.parquet")) == sorted(table)


def test_a_table_in_a_zip(tmp_path):
    """As Kaggle serves single files: train.csv.zip."""
    path = f"{tmp_path}/train.csv.zip"

    def add(name, content):
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(name, content)

    def line():
        with pytest.raises(UserError) as caught:
            read_table(path)
        return str(caught.value).removeprefix(f"{tmp_path}/")

    add("note.md", "")
    assert line() == "train.csv.zip: holds 0 CSV files, one is read; name a file in it, as train.csv.zip/train.csv"
    add("train.csv", "id,y\n01,0\n")
    add("__MACOSX/._train.csv", "x")
    assert read_table(path).to_numpy().tolist() == [["01", "0"]]
    add("other.csv", "id,z\n02,1\n")
    assert line() == "train.csv.zip: holds 2 CSV files, one is read; name a file in it, as train.csv.zip/other.csv"
    assert read_table(f"{path}/other.csv").to_numpy().tolist() == [["02", "1"]]
