"""The files that the doctor writes: doctor.json holds what it prints, folds that are in use are kept."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from tools.doctor.checks import name_joint_folds, run_checks, save_copies
from tools.doctor.duplicates import find_copies


@pytest.fixture
def separated(clinic):
    """The clinic with one image in two patients' rows that have one label and two folds."""
    data, _ = clinic.load()
    labels = data.train.targets[:, 0]
    other = int(np.flatnonzero((data.folds != data.folds[0]) & (labels == labels[0]))[0])
    clinic.path(other).write_bytes(clinic.path(0).read_bytes())
    return clinic


def output(clinic):
    return clinic.folder / "outputs" / "doctor" / "clinic"


def test_the_advised_folds_stay_when_they_are_used(separated):
    [finding] = [one for one in run_checks(separated.config(), output(separated)) if one.severity == "error"]
    path = output(separated) / "folds.csv"
    assert finding.advice.endswith(f"folds={path}")
    before = path.read_bytes()
    other_name = os.path.relpath(path)
    findings = run_checks(separated.config(f"folds={other_name}"), path.parent)
    assert "error" not in [one.severity for one in findings]
    assert path.read_bytes() == before
    names = {one.name for one in path.parent.iterdir()}
    assert names == {"copies.csv", "doctor.html", "doctor.json", "folds.csv"}
    saved = json.loads((path.parent / "doctor.json").read_text())
    assert [one["title"] for one in saved["findings"]] == [one.title for one in findings]
    assert saved["facts"][0]["title"] == "images (width x height)"


def test_given_folds_that_separate_copies_are_not_overwritten(separated):
    folder = output(separated)
    folder.mkdir(parents=True)
    given = pd.DataFrame({"id": separated.read()["id"], "fold": separated.load()[0].folds})
    given.to_csv(folder / "folds.csv", index=False)
    config = separated.config(f"folds={folder / 'folds.csv'}")
    assert name_joint_folds(folder, config) == folder / "folds2.csv"
    [finding] = [one for one in run_checks(config, folder) if one.severity == "error"]
    assert finding.advice.endswith(f"folds={folder / 'folds2.csv'}")
    assert pd.read_csv(folder / "folds.csv", dtype={"id": str}).equals(given)
    assert pd.read_csv(folder / "folds2.csv")["fold"].tolist() != given["fold"].tolist()


def test_without_copies_old_files_are_removed_but_for_given_folds(separated):
    data, _ = separated.load()
    pairs, folder = find_copies(data), separated.folder / "doctor"
    none = pairs.take(np.zeros(len(pairs), bool))
    save_copies(folder, data, pairs)
    given, _ = separated.load(f"folds={folder / 'folds.csv'}")
    save_copies(folder, given, none)
    assert [one.name for one in folder.iterdir()] == ["folds.csv"]
    save_copies(folder, data, none)
    assert list(folder.iterdir()) == []
