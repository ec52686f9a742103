"""What an examination writes: the folds that it advises outlive the next examination, which is given them."""

import os

import numpy as np
import pandas as pd
import pytest

from tools.doctor.duplicates import find_copies
from tools.doctor.examination import examine, name_joint_folds, save_copies


@pytest.fixture
def torn(clinic):
    """The clinic with one picture in two patients' rows that have one answer and two folds."""
    case, _ = clinic.case()
    answers = case.train.targets[:, 0]
    other = int(np.flatnonzero((case.folds != case.folds[0]) & (answers == answers[0]))[0])
    clinic.path(other).write_bytes(clinic.path(0).read_bytes())
    return clinic


def test_the_advised_folds_stay_when_they_are_used(torn):
    [finding] = [one for one in examine(torn.config()) if one.severity == "error"]
    path = torn.folder / "outputs" / "doctor" / "clinic" / "folds.csv"
    assert finding.advice.endswith(f"folds={path}")
    before = path.read_bytes()
    other_name = os.path.relpath(path)
    findings = examine(torn.config(f"folds={other_name}"))
    assert "error" not in [one.severity for one in findings]
    assert path.read_bytes() == before
    assert sorted(one.name for one in path.parent.iterdir()) == ["copies.csv", "doctor.html", "folds.csv"]


def test_given_folds_that_part_copies_are_not_written_over(torn):
    folder = torn.folder / "outputs" / "doctor" / "clinic"
    folder.mkdir(parents=True)
    parting = pd.DataFrame({"id": torn.read()["id"], "fold": torn.case()[0].folds})
    parting.to_csv(folder / "folds.csv", index=False)
    config = torn.config(f"folds={folder / 'folds.csv'}")
    assert name_joint_folds(folder, config) == folder / "folds2.csv"
    [finding] = [one for one in examine(config) if one.severity == "error"]
    assert finding.advice.endswith(f"folds={folder / 'folds2.csv'}")
    assert pd.read_csv(folder / "folds.csv", dtype={"id": str}).equals(parting)
    assert pd.read_csv(folder / "folds2.csv")["fold"].tolist() != parting["fold"].tolist()


def test_without_copies_old_files_go_but_for_given_folds(torn):
    case, _ = torn.case()
    pairs, folder = find_copies(case), torn.folder / "doctor"
    none = pairs.take(np.zeros(len(pairs), bool))
    save_copies(folder, case, pairs)
    given, _ = torn.case(f"folds={folder / 'folds.csv'}")
    save_copies(folder, given, none)
    assert [one.name for one in folder.iterdir()] == ["folds.csv"]
    save_copies(folder, case, none)
    assert list(folder.iterdir()) == []
