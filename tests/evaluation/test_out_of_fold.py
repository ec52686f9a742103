"""oof.csv is read as it was written: ids keep their zeros, unknown targets are nan, groups come from folds.csv."""

import numpy as np
import pytest

from src.errors import UserError
from src.evaluation.out_of_fold import load_out_of_fold, pool_rows

OOF = "id,fold,target_a,target_b,a,b\n007,1,1,,0.25,0.5\nNA,0,0,1,0.75,0.125\n"


def test_what_a_run_leaves(tmp_path):
    (tmp_path / "oof.csv").write_text(OOF)
    (tmp_path / "folds.csv").write_text("id,fold,group\nNA,0,p1\n007,1,01\n")
    found = load_out_of_fold(tmp_path / "oof.csv", tmp_path / "folds.csv")
    assert found.ids.tolist() == ["007", "NA"]
    assert found.folds.tolist() == [1, 0]
    np.testing.assert_array_equal(found.targets, [[1, np.nan], [0, 1]])
    np.testing.assert_array_equal(found.probs, [[0.25, 0.5], [0.75, 0.125]])
    assert found.target_names == ("a", "b")
    assert found.groups.tolist() == ["01", "p1"]
    assert found.take([1]).ids.tolist() == ["NA"]
    (tmp_path / "folds.csv").write_text("id,fold\nNA,0\n007,1\n")
    assert load_out_of_fold(tmp_path / "oof.csv", tmp_path / "folds.csv").groups is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (OOF.replace("0.75", "x"), "damaged (.*x.*); repeat the command that trained it"),
        (OOF.replace("0.75", ""), "damaged (1 of 2 rows lack a prediction); repeat the command that trained it"),
        (OOF.replace("0.75", "nan"), "damaged (1 of 2 rows lack a prediction); repeat the command that trained it"),
        (OOF.partition("\n")[0], "damaged (no predictions); repeat the command that trained it"),
        (None, "no such file; train the run, a fold of it at least"),
    ],
)
def test_a_damaged_file_is_one_line(text, line, tmp_path):
    if text is not None:
        (tmp_path / "oof.csv").write_text(text)
    (tmp_path / "folds.csv").write_text("id,fold\nNA,0\n007,1\n")
    pattern = line.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=f"oof.csv: {pattern}$"):
        load_out_of_fold(tmp_path / "oof.csv", tmp_path / "folds.csv")


def test_a_file_of_folds_that_is_not_there_is_named(tmp_path):
    (tmp_path / "oof.csv").write_text(OOF)
    with pytest.raises(UserError, match=r"folds.csv: no such file"):
        load_out_of_fold(tmp_path / "oof.csv", tmp_path / "folds.csv")


def test_rows_of_a_unit_are_pooled_in_the_order_of_their_first():
    units, values = np.array(["b", "a", "b"]), np.array([[0.2, 1.0], [0.5, 0.5], [0.4, 0.0]])
    for how, expected in (("mean", [[0.3, 0.5], [0.5, 0.5]]), ("max", [[0.4, 1.0], [0.5, 0.5]])):
        ids, pooled = pool_rows(units, values, how)
        assert ids.tolist() == ["b", "a"]
        np.testing.assert_allclose(pooled, expected)
