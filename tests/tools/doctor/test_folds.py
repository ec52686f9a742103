"""Folds: torn groups, columns that cannot be scored, and the standard error of an AUC against simulation and paper."""

import numpy as np
import pandas as pd
import pytest

from tools.doctor.folds import check_split, compute_auc_error, compute_fold_errors, propose_group
from tools.doctor.leaks import compute_auc


def found_in(clinic, *words):
    data, findings = clinic.load(*words)
    assert findings == []
    return data, *check_split(data)


def test_the_standard_error_by_hand():
    # A = .9, 20 positives, 80 negatives: Q1 = .9 / 1.1, Q2 = 1.62 / 1.9
    variance = (0.09 + 19 * (0.9 / 1.1 - 0.81) + 79 * (1.62 / 1.9 - 0.81)) / 1600
    assert compute_auc_error(0.9, 20, 80) == pytest.approx(variance**0.5)
    # A = 1/2 gives the variance (m + n + 1) / (12 m n) of no skill
    assert compute_auc_error(0.5, 30, 50) == pytest.approx((81 / (12 * 30 * 50)) ** 0.5)
    assert compute_auc_error(1.0, 30, 50) == 0
    assert compute_auc_error(0.9, np.array([20, 20]), 80).shape == (2,)


def test_the_standard_error_is_that_of_many_draws():
    """The formula's own model: exponential scores, of which the positives' are slower to fall."""
    rng, aucs = np.random.default_rng(0), []
    is_positive = np.arange(120) < 30
    for _ in range(2000):
        scores = rng.exponential(np.where(is_positive, 9.0, 1.0))
        aucs.append(compute_auc(is_positive, scores))
    assert np.mean(aucs) == pytest.approx(0.9, abs=0.003)
    assert np.std(aucs) == pytest.approx(compute_auc_error(0.9, 30, 90), rel=0.06)


def test_errors_of_every_fold_and_column_that_can_be_scored():
    targets = np.zeros((40, 2))
    targets[:10, 0] = targets[::4, 1] = 1
    folds = np.arange(40) // 20
    folds[39] = -1
    errors = compute_fold_errors(targets, folds)
    assert errors[["fold", "column", "positives"]].to_numpy().tolist() == [[0, 0, 10], [0, 1, 5], [1, 1, 5]]
    assert errors["error"][0] == pytest.approx(float(compute_auc_error(0.9, 10, 10)))
    assert errors["error"][2] == pytest.approx(float(compute_auc_error(0.9, 5, 14)))


def test_clean_folds_are_described(clinic):
    data, findings, [fact, precision] = found_in(clinic)
    assert findings == []
    counts = [int(data.train.targets[data.folds == fold].sum()) for fold in (0, 1)]
    assert fact.lines[1].split() == ["0", str((data.folds == 0).sum()), "40", str(counts[0])]
    assert fact.table[0] == ("fold", "rows", "groups", "sick")
    assert fact.table[1] == ("0", str((data.folds == 0).sum()), "40", str(counts[0]))
    errors = [f"{compute_auc_error(0.9, one, 80 - one):.3f}" for one in counts]
    assert precision.lines == (f"sick: {' '.join(errors)}",)
    assert precision.table == (("", "fold 0", "fold 1"), ("sick", *errors))


def test_groups_in_two_folds_are_named(clinic):
    table, path = clinic.read(), clinic.folder / "mine.csv"
    pd.DataFrame({"id": table["id"], "fold": (np.arange(160) + 1) // 2 % 2}).to_csv(path, index=False)
    finding = found_in(clinic, f"folds={path}")[1][0]
    assert finding.severity == "error"
    assert finding.title == "80 groups (patient) are in two folds"
    assert finding.names == tuple(sorted(table["patient"].unique()))
    assert "folds=auto" in finding.advice


def test_a_fold_without_positives_is_a_finding(clinic):
    table, path = clinic.read(), clinic.folder / "mine.csv"
    pd.DataFrame({"id": table["id"], "fold": table["sick"]}).to_csv(path, index=False)
    findings = found_in(clinic, f"folds={path}", "competition.group=null")[1]
    assert findings[0].severity == "error"
    assert findings[0].title == "fold 0: target 'sick' has no positive in validation (89 in all)"


def test_a_fold_that_cannot_tell_models_apart_is_a_note(clinic):
    findings = found_in(clinic, "num_folds=8")[1]
    [finding] = findings
    assert finding.severity == "note"
    assert finding.title.startswith("8 of 8 AUCs of a fold and column have a standard error over 0.05")
    assert finding.names[0].startswith("fold ")


def test_groups_of_train_that_are_in_test(clinic):
    test = clinic.read("test")
    test.loc[[2, 5], "patient"] = clinic.read()["patient"][0]
    clinic.save(test, "test")
    [finding] = found_in(clinic)[1]
    assert (finding.severity, finding.num_names) == ("note", 1)
    assert finding.title == "1 groups (patient) are in train and in test"


@pytest.mark.parametrize(
    ("template", "group"),
    [
        ("{0}_{1}", "12"), ("{0}{1[0]}", "12"), ("p{0}_img{2}", "p12"), ("IM-{0:04}-{2:04}", "IM-0012"),
        ("p{0}/{1}_{2}.png", "p12"), ("train_{0}_{1}", "train_12"), ("{0}-{1}-{2}_x", "12"),
    ],
)  # fmt: skip
def test_ids_that_begin_alike_are_proposed_as_groups(template, group):
    ids = np.array([template.format(row // 2, ("left", "right")[row % 2], row % 2) for row in range(60)])
    setting, groups = propose_group(ids, np.arange(60) % 3, 5)
    assert setting.startswith("re:")
    assert groups[24] == groups[25] == group
    assert groups[26] != group
    assert len(np.unique(groups)) == 30


@pytest.mark.parametrize("template", ["d{0:04}", "train_{0}", "{0:x}a-{0:x}", "class{1}_{0}", "{2}-{3}"])
def test_ids_of_one_beginning_or_of_classes_are_no_groups(template):
    ids = np.array([template.format(row, row % 12, row // 20, row % 20) for row in range(60)])
    assert propose_group(ids, np.arange(60) % 12, 5) is None


def test_patients_two_eyes_without_a_group_are_a_warning_and_the_advice_works(clinic):
    for side, count in (("train", 160), ("test", 60)):
        table, names = clinic.read(side), []
        for row, image_id in enumerate(table["id"]):
            names.append(f"{side}{row // 2}_{('left', 'right')[row % 2]}")
            (clinic.root / side / f"{image_id}.jpg").rename(clinic.root / side / f"{names[-1]}.jpg")
        assert len(names) == count
        clinic.save(table.assign(id=names), side)
    clinic.save(clinic.read("test")[["id"]].assign(sick=0.5), "sample_submission")
    [finding, *_] = found_in(clinic, "competition.group=null")[1]
    assert finding.severity == "warning"
    assert finding.title == (
        "160 of 160 ids begin alike in groups, as train0_left, train0_right do, and no group is set"
    )
    word = "competition.group=" + finding.advice.partition("competition.group=")[2].rstrip("'")
    data = found_in(clinic, word)[0]
    assert data.train.groups[:3].tolist() == ["train0", "train0", "train1"]
    assert all(len(np.unique(data.folds[data.train.groups == one])) == 1 for one in data.train.groups)
