import json

import numpy as np
import pandas as pd
import pytest

from src.competition.metadata import count_inputs, encode, fit_encoding
from src.competition.tables import load_test_table, load_train_table
from src.config.settings import Competition
from src.errors import UserError
from tests.competition.building import BASIC, PIXEL, refusal

ROOT3 = np.sqrt(1.5)  # 10, 20, 30 are at -ROOT3, 0 and ROOT3 deviations


def fit(columns, where="train.csv"):
    """The encoding of {name: cells}, None for an empty one, and its notes."""
    return fit_encoding(pd.DataFrame(columns, dtype=str), Competition(metadata=list(columns)), where)


def encode_cells(encoding, columns):
    return encode(encoding, pd.DataFrame(columns, dtype=str), "test.csv")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["10", "20", "30"], [[-ROOT3], [0], [ROOT3]]),
        (["10", " 20 ", "30", None], [[-ROOT3, 0], [0, 0], [ROOT3, 0], [0, 1]]),  # the last says what is missing
        (["1e1", "NA", "20.0", "30"], [[-ROOT3, 0], [0, 1], [0, 0], [ROOT3, 0]]),
        (["b", " a", "b"], [[0, 1], [1, 0], [0, 1]]),
        (["b", "a", "nan", " "], [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]),
        (["yes", None, "yes"], [[1, 0], [0, 1], [1, 0]]),  # one word is enough beside missing cells
        (["10", "85+", "20", "30"], [[-ROOT3, 0], [0, 1], [0, 0], [ROOT3, 0]]),  # more numbers than other texts
        (["7", "85+", "7", None], [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]),  # no deviation
        (["1", "85+"], [[1, 0], [0, 1]]),  # half are numbers: all are words
        (["10", "inf", "20", "30", "1e300"], [[-ROOT3, 0, 0], [0, 0, 1], [0, 0, 0], [ROOT3, 0, 0], [0, 1, 0]]),
        (["0", "1", "0", "1"], [[-1], [1], [-1], [1]]),
    ],
    ids=["numbers", "gap", "spellings", "words", "gaps", "one word", "mixed", "constant", "half", "infinite", "flags"],
)
def test_a_column_is_a_number_or_a_01_for_each_word_and_says_what_is_missing(cells, expected):
    encoding, _ = fit({"x": cells})
    found, notes = encode_cells(encoding, {"x": cells})
    assert (found.dtype, count_inputs(encoding), notes) == (np.float32, len(expected[0]), ())
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_columns_stand_in_the_order_they_are_named_in():
    encoding, [note] = fit({"site": ["b", "a", "b"], "age": ["10", "30", None]})
    found, _ = encode_cells(encoding, {"age": ["30", "10"], "other": ["1", "2"], "site": ["a", "b"]})
    assert found.tolist() == [[1, 0, 1, 0], [0, 1, -1, 0]]
    assert note == "train.csv: beside the image: site (2 words), age (number, 1 missing)"


def test_what_training_does_not_have_counts_as_missing():
    gaps, _ = fit({"age": ["10", "30", None], "site": ["a", "b", None]})
    found, notes = encode_cells(gaps, {"age": ["30", "old", "??", None], "site": ["c", "a", None, "d"]})
    assert found.tolist() == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 0, 1], [0, 1, 0, 0, 1]]
    assert notes == (
        "test.csv: 2 of 4 cells of column 'age' are not among training's (first: 'old'); they count as missing",
        "test.csv: 2 of 4 cells of column 'site' are not among training's (first: 'c'); they count as missing",
    )
    whole, _ = fit({"age": ["10", "30"], "site": ["a", "b"]})  # nothing is missing in training: no input for it
    assert encode_cells(whole, {"age": [None, "x"], "site": ["c", None]})[0].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_numbers_far_from_trainings_stay_within_16_bits():
    encoding, _ = fit({"age": ["10", "30"]})
    found, notes = encode_cells(encoding, {"age": ["1e14", "-1e14", "120", "130"]})
    assert (found[:, 0].tolist(), notes) == ([10, -10, 10, 10], ())


def test_an_encoding_survives_json():
    encoding, _ = fit({"age": ["10.1", "30.7", None, "85+"], "site": ["ä", '"', "b", "b"]})
    assert tuple(json.loads(json.dumps(encoding))) == encoding


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1"] * 3, "holds one value only (1); leave it out of competition.metadata"),
        (["a", " a", "a"], "holds one value only (a); leave it out of competition.metadata"),
        ([None, "NA", ""], "is empty; leave it out of competition.metadata"),
        (
            [f"ISIC_{row:04}" for row in range(101)],
            "holds 101 words (ISIC_0000, ISIC_0001, ISIC_0002 ...), of which 100 can be given; leave it out of "
            "competition.metadata, or write numbers in it",
        ),
    ],
    ids=["number", "word", "empty", "ids"],
)
def test_a_column_that_says_nothing_is_refused(cells, expected):
    with pytest.raises(UserError) as caught:
        fit({"x": cells})
    assert str(caught.value) == f"train.csv: column 'x' {expected}"


def test_a_line_says_how_a_column_is_read():
    assert fit({"age": ["10", "85+", "20", "30", None]})[1] == (
        "train.csv: beside the image: age (number, 1 word, 1 missing)",
    )


def test_numbers_that_may_be_ids_are_noted():
    numbers = [str(row * 7) for row in range(101)]
    kind = "another whole number in each row: leave it out if that is an id"
    assert fit({"x": numbers})[1] == (f"train.csv: beside the image: x ({kind})",)
    for other in (numbers[:100], ["7", *numbers[1:]], [f"{one}.5" for one in numbers]):
        assert fit({"x": other})[1] == ("train.csv: beside the image: x (number)",)


CSV = "id,y,age,sex,patient\n001,0,10,m,p1\n002,1,20,f,p1\n010,1,30,,p2\n"
FILES = {f"{side}/{name}.png": PIXEL for side in ("train", "test") for name in ("001", "002", "010")}
SETTINGS = BASIC | {"test_image": "test/{id}.png", "metadata": ["age", "sex"]}


def test_both_tables_are_read_by_trainings_encoding(write_competition):
    test = "sex,id,age\nm,010,20\nx,001,\n"
    competition = write_competition(
        FILES | {"train.csv": CSV, "test.csv": test}, **SETTINGS, test_table="test.csv", group="patient"
    )
    table = load_train_table(competition)
    np.testing.assert_allclose(table.metadata, [[-ROOT3, 0, 1, 0], [0, 1, 0, 0], [ROOT3, 0, 0, 1]], rtol=1e-6)
    assert table.take([2, 0]).metadata.tolist() == table.metadata[[2, 0]].tolist()
    found = load_test_table(competition, table.target_names, table.encoding)
    assert found.metadata.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    assert "1 of 2 cells of column 'sex'" in found.notes[-1]
    other = table.encoding[1:]
    assert load_train_table(competition, encoding=other).metadata.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_rows_without_a_label_do_not_count(write_competition):
    csv = CSV + "011,,1000,other,p3\n"
    files = FILES | {"train/011.png": PIXEL, "train.csv": csv}
    table = load_train_table(write_competition(files, **SETTINGS, missing="drop"))
    np.testing.assert_allclose(table.metadata[:, 0], [-ROOT3, 0, ROOT3], rtol=1e-6)
    assert count_inputs(table.encoding) == 4


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"metadata": ["y"]}, "competition.metadata: 'y' is competition.targets already; leave it out of "),
        ({"metadata": ["id", "sex"]}, "competition.metadata: 'id' is competition.id already; leave it out of "),
        ({"metadata": ["patient"], "group": "patient"}, "competition.metadata: 'patient' is competition.group already"),
        ({"metadata": ["sex"], "auxiliary": ["sex"]}, "competition.metadata: 'sex' is competition.auxiliary already"),
        ({"metadata": ["sex"], "fold": "sex"}, "competition.metadata: 'sex' is competition.fold already"),
        ({"metadata": ["sex", "sex"]}, "competition.metadata: a name is there twice (sex, sex); name each once"),
        (
            {"metadata": ["gender"]},
            "ROOT/train.csv: no column 'gender' (found id, y, age, sex, patient); set competition.metadata to what the "
            "table has",
        ),
    ],
)
def test_columns_that_cannot_be_given_are_refused(write_competition, settings, expected):
    line = refusal(write_competition(FILES | {"train.csv": CSV}, **SETTINGS | settings))
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("header", "settings", "expected"),
    [
        (
            "id,age,site",
            {"test_table": "test.csv"},
            "ROOT/test.csv: no column 'sex' of competition.metadata (found id, age, site); set "
            "'competition.metadata=[age]'",
        ),
        (
            "id,site",
            {"test_table": "test.csv"},
            "ROOT/test.csv: no column 'age', 'sex' of competition.metadata (found id, site); leave it out",
        ),
        (
            "id,y",
            {"sample_submission": "test.csv"},
            "ROOT/test.csv: no column 'age', 'sex' of competition.metadata (found id, y); set competition.test_table "
            "to the CSV of test rows that has it",
        ),
    ],
)
def test_a_test_table_without_a_column_lists_those_that_it_has(write_competition, header, settings, expected):
    files = FILES | {"train.csv": CSV, "test.csv": f"{header}\n001" + ",1" * header.count(",") + "\n"}
    competition = write_competition(files, **SETTINGS, **settings)
    encoding = load_train_table(competition).encoding
    assert refusal(competition, load_test_table, ("y",), encoding) == expected
