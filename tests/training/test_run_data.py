"""A run's rows, folds and answers stay the same as long as it lives."""

import numpy as np
import pytest

from src.competition.tables import ImageTable
from src.errors import UserError
from src.training.run_data import keep_folds

FOLDS, TARGETS = np.array([0, 1, -1]), np.array([[1, 0], [0, 0.1], [1, 1]], np.float32)


def table_of(targets=TARGETS, ids=("007", "NA", "a,b")):
    ids = np.array(ids)
    return ImageTable(ids, ids, np.asarray(targets, np.float32), ("a", "b c"), None, None)


def refusal(folder, *arguments):
    with pytest.raises(UserError) as caught:
        keep_folds(folder, *arguments, is_busy=True)
    return str(caught.value).replace(str(folder / "folds.csv"), "FILE")


def test_they_are_kept_as_a_table(tmp_path):
    keep_folds(tmp_path, table_of(), FOLDS)
    text = 'id,fold,a,b c\n007,0,1.0,0.0\nNA,1,0.0,0.1\n"a,b",-1,1.0,1.0\n'
    assert (tmp_path / "folds.csv").read_text() == text
    keep_folds(tmp_path, table_of(), FOLDS, is_busy=True)
    assert (tmp_path / "folds.csv").read_text() == text


def test_what_has_changed_is_refused_while_the_run_has_work(tmp_path):
    keep_folds(tmp_path, table_of(), FOLDS)
    another = "choose name=ANOTHER or overwrite=true"
    line = f"FILE: this run was trained on other folds or rows; {another}"
    assert refusal(tmp_path, table_of(), FOLDS[::-1]) == line
    assert refusal(tmp_path, table_of(ids=("007", "NA", "a")), FOLDS) == line
    assert refusal(tmp_path, table_of(TARGETS[:2], ids=("007", "NA")), FOLDS[:2]) == line
    line = f"FILE: this run was trained on other answers in 2 of 3 rows (first: NA); {another}"
    assert refusal(tmp_path, table_of([[1, 0], [0, 0.2], [0, 0]]), FOLDS) == line
    keep_folds(tmp_path, table_of(), FOLDS[::-1])  # nothing was trained yet
    keep_folds(tmp_path, table_of(), FOLDS[::-1], is_busy=True)


def test_a_file_of_an_older_version_holds_no_answers(tmp_path):
    (tmp_path / "folds.csv").write_text('id,fold\n007,0\nNA,1\n"a,b",-1\n')
    keep_folds(tmp_path, table_of(), FOLDS, is_busy=True)


@pytest.mark.parametrize("content", ["", "id\n007\n", "id,fold\n007,x\nNA,1\nb,1\n", 'id,fold\n007,"0\n'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "folds.csv").write_text(content)
    assert refusal(tmp_path, table_of(), FOLDS) == "FILE: damaged; delete it and run the same command again"
