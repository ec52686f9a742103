"""Copies: each kind is found with both names, and folds that keep them together are made."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from tools.doctor.duplicates import check_copies, find_copies, is_torn, make_joint_folds
from tools.doctor.examination import save_copies


def found_in(clinic, *words):
    case, findings = clinic.case(*words)
    assert findings == []
    pairs = find_copies(case)
    return case, pairs, check_copies(case, pairs, "joint.csv")


def partner(clinic, row, same_answer, same_fold):
    """Return another training row with, or without, the same answer and fold."""
    case, _ = clinic.case()
    answers, folds, rows = case.train.targets[:, 0], case.folds, np.arange(len(case.folds))
    fits = ((answers == answers[row]) == same_answer) & ((folds == folds[row]) == same_fold) & (rows != row)
    return int(np.flatnonzero(fits)[0])


def copy(clinic, row, other, kind, side="train"):
    if kind == "the same":
        shutil.copy2(clinic.path(row), clinic.path(other, side))
    else:
        smaller = cv2.resize(clinic.pixels(row), (56, 56), interpolation=cv2.INTER_AREA)
        clinic.draw(other, cv2.resize(smaller, (64, 64)), side, quality=80)


def test_clean(clinic):
    _, pairs, findings = found_in(clinic)
    assert len(pairs) == 0
    assert findings == []


@pytest.mark.parametrize("kind", ["the same", "nearly the same"])
@pytest.mark.parametrize(
    ("same_answer", "same_fold", "words"),
    [
        (True, True, {"training pictures, with one answer and in one fold": "note"}),
        (True, False, {"pictures in two folds, which are validated on what they learned": "hard"}),
        (False, True, {"training pictures with different answers": "hard"}),
        (
            False,
            False,
            {
                "training pictures with different answers": "hard",
                "pictures in two folds, which are validated on what they learned": "hard",
            },
        ),
    ],
)
def test_copies_within_train(clinic, kind, same_answer, same_fold, words):
    other = partner(clinic, 10, same_answer, same_fold)
    copy(clinic, 10, other, kind)
    hard = "error" if kind == "the same" else "warning"
    case, pairs, findings = found_in(clinic)
    assert {one.title: one.severity for one in findings} == {
        f"1 pairs of {kind} {text}": hard if severity == "hard" else severity for text, severity in words.items()
    }
    first, second = sorted((10, other))
    names = f"train/{case.train.ids[first]}.jpg = train/{case.train.ids[second]}.jpg"
    assert all(one.names == (names,) and one.pictures == ((first, second),) for one in findings)
    assert is_torn(case, pairs) != same_fold


@pytest.mark.parametrize("kind", ["the same", "nearly the same"])
def test_copies_between_train_and_test(clinic, kind):
    copy(clinic, 10, 4, kind, "test")
    case, pairs, findings = found_in(clinic)
    [finding] = findings
    assert finding.severity == "warning"
    assert finding.title == f"1 pairs of {kind} pictures, one in train and one in test"
    assert finding.names == (f"train/{case.train.ids[10]}.jpg = test/{case.test.ids[4]}.jpg",)
    assert finding.pictures == ((10, 164),)
    assert not is_torn(case, pairs)


def test_copies_within_test(clinic):
    shutil.copy2(clinic.path(3, "test"), clinic.path(4, "test"))
    [finding] = found_in(clinic)[2]
    assert (finding.severity, finding.title) == ("note", "1 pairs of the same test pictures")


def test_blank_and_broken_images_are_no_copies(clinic):
    for row in range(8):
        clinic.draw(row, np.full((64, 64, 3), 90, np.uint8))
        clinic.path(20 + row).write_bytes(b"")
    assert len(found_in(clinic)[1]) == 0


def test_folds_that_keep_copies_and_groups_together(clinic):
    other = partner(clinic, 10, True, False)
    copy(clinic, 10, other, "the same")
    case, pairs, findings = found_in(clinic)
    assert "folds=joint.csv" in findings[0].advice
    folds = make_joint_folds(case, pairs)
    assert folds[10] == folds[other]
    assert pd.DataFrame({"group": case.train.groups, "fold": folds}).groupby("group")["fold"].nunique().max() == 1
    folder = clinic.folder / "outputs" / "doctor" / "clinic"
    save_copies(folder, case, pairs)
    copies = pd.read_csv(folder / "copies.csv")
    assert copies.loc[0].tolist() == [*findings[0].names[0].split(" = "), "same pixels"]
    healed, findings = clinic.case(f"folds={folder / 'folds.csv'}")
    assert findings == []
    assert not is_torn(healed, find_copies(healed))
    save_copies(folder, case, pairs.take(np.zeros(1, bool)))
    assert list(folder.iterdir()) == []
