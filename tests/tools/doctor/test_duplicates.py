"""Copies: each kind is found with both names, and folds that keep them together are made."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from tools.doctor.checks import save_copies
from tools.doctor.duplicates import are_separated, check_copies, find_copies, make_joint_folds


def found_in(clinic, *words):
    data, findings = clinic.load(*words)
    assert findings == []
    pairs = find_copies(data)
    return data, pairs, check_copies(data, pairs, "joint.csv")


def partner(clinic, row, same_label, same_fold):
    """Return another training row with, or without, the same label and fold."""
    data, _ = clinic.load()
    labels, folds, rows = data.train.targets[:, 0], data.folds, np.arange(len(data.folds))
    fits = ((labels == labels[row]) == same_label) & ((folds == folds[row]) == same_fold) & (rows != row)
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
    ("same_label", "same_fold", "words"),
    [
        (True, True, {"training images, with one label and in one fold": "note"}),
        (True, False, {"images in two folds: each is validated by a model that was trained on it": "hard"}),
        (False, True, {"training images with different labels": "hard"}),
        (
            False,
            False,
            {
                "training images with different labels": "hard",
                "images in two folds: each is validated by a model that was trained on it": "hard",
            },
        ),
    ],
)
def test_copies_within_train(clinic, kind, same_label, same_fold, words):
    other = partner(clinic, 10, same_label, same_fold)
    copy(clinic, 10, other, kind)
    hard = "error" if kind == "the same" else "warning"
    data, pairs, findings = found_in(clinic)
    assert {one.title: one.severity for one in findings} == {
        f"1 pairs of {kind} {text}": hard if severity == "hard" else severity for text, severity in words.items()
    }
    first, second = sorted((10, other))
    names = f"train/{data.train.ids[first]}.jpg = train/{data.train.ids[second]}.jpg"
    assert all(one.names == (names,) and one.images == ((first, second),) for one in findings)
    assert are_separated(data, pairs) != same_fold


@pytest.mark.parametrize("kind", ["the same", "nearly the same"])
def test_copies_between_train_and_test(clinic, kind):
    copy(clinic, 10, 4, kind, "test")
    data, pairs, findings = found_in(clinic)
    [finding] = findings
    assert finding.severity == "warning"
    assert finding.title == f"1 pairs of {kind} images, one in train and one in test"
    assert finding.names == (f"train/{data.train.ids[10]}.jpg = test/{data.test.ids[4]}.jpg",)
    assert finding.images == ((10, 164),)
    assert not are_separated(data, pairs)


def test_copies_within_test(clinic):
    shutil.copy2(clinic.path(3, "test"), clinic.path(4, "test"))
    [finding] = found_in(clinic)[2]
    assert (finding.severity, finding.title) == ("note", "1 pairs of the same test images")


def test_blank_and_broken_images_are_no_copies(clinic):
    for row in range(8):
        clinic.draw(row, np.full((64, 64, 3), 90, np.uint8))
        clinic.path(20 + row).write_bytes(b"")
    assert len(found_in(clinic)[1]) == 0


def test_folds_that_keep_copies_and_groups_together(clinic):
    other = partner(clinic, 10, True, False)
    copy(clinic, 10, other, "the same")
    data, pairs, findings = found_in(clinic)
    assert "folds=joint.csv" in findings[0].advice
    folds = make_joint_folds(data, pairs)
    assert folds[10] == folds[other]
    assert pd.DataFrame({"group": data.train.groups, "fold": folds}).groupby("group")["fold"].nunique().max() == 1
    folder = clinic.folder / "outputs" / "doctor" / "clinic"
    save_copies(folder, data, pairs)
    copies = pd.read_csv(folder / "copies.csv")
    assert copies.loc[0].tolist() == [*findings[0].names[0].split(" = "), "same pixels"]
    joined, findings = clinic.load(f"folds={folder / 'folds.csv'}")
    assert findings == []
    assert not are_separated(joined, find_copies(joined))
    save_copies(folder, data, pairs.take(np.zeros(1, bool)))
    assert list(folder.iterdir()) == []
