"""What tells the answer without the picture: the AUC against scikit-learn's, and each planted leak by name."""

import os

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from src.doctor.leaks import check_leaks, compute_auc, compute_category_auc, compute_chance, list_clues, measure_clues


def found_in(clinic, *words):
    return check_leaks(clinic.case(*words)[0])


def test_the_auc_is_scikit_learns():
    rng = np.random.default_rng(0)
    is_positive, values = rng.random(300) < 0.3, rng.integers(0, 20, 300)
    assert compute_auc(is_positive, values) == pytest.approx(roc_auc_score(is_positive, values))


def test_the_chance_of_an_auc_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    is_positive = np.arange(100) < 30
    aucs = np.array([compute_auc(is_positive, rng.random(100)) for _ in range(3000)])
    assert np.mean(np.abs(aucs - 0.5) >= 0.1) == pytest.approx(compute_chance(0.6, 30, 70), abs=0.02)


def test_categories_tell_only_what_other_rows_of_theirs_answer():
    rng = np.random.default_rng(0)
    is_positive = rng.random(2000) < 0.4
    assert compute_category_auc(is_positive, np.arange(2000).astype(str)) == 0.5  # ids, each its own
    assert compute_category_auc(is_positive, rng.choice(["a", "b", "c"], 2000)) == pytest.approx(0.5, abs=0.05)
    assert compute_category_auc(is_positive, np.where(is_positive, "x", "y")) == 1
    patients = np.cumsum(np.diff(is_positive, prepend=0) != 0).astype(str)  # runs of equal answers
    assert compute_category_auc(is_positive, patients) > 0.7


def test_clean(clinic):
    findings, [fact] = found_in(clinic)
    assert findings == []
    assert all(0.5 <= float(line.split()[0]) < 0.65 for line in fact.lines)


def test_answers_in_the_order_of_rows(clinic):
    clinic.save(clinic.read().sort_values("sick"))
    [finding] = found_in(clinic)[0]
    assert finding.severity == "note"
    assert finding.title == "the order of the table's rows alone tells 'sick' with an AUC of 1.000"


def rename(clinic, names):
    table = clinic.read()
    for old, new in zip(table["id"], names, strict=True):
        os.rename(clinic.root / "train" / f"{old}.jpg", clinic.root / "train" / f"{new}.jpg")
    clinic.save(table.assign(id=names))


def test_answers_in_the_order_of_ids(clinic):
    is_sick = clinic.read()["sick"] == "1"
    numbers = np.where(is_sick, 8002, 2000) + np.random.default_rng(0).permutation(2000)[:160] * 4
    rename(clinic, [f"x{number}" for number in numbers])
    auc = compute_auc(is_sick.to_numpy(), numbers)
    assert 0.9 < auc < 1
    [finding] = [one for one in found_in(clinic)[0] if "order of the ids" in one.title]
    assert finding.severity == "warning"
    assert finding.title == f"the order of the ids alone tells 'sick' with an AUC of {auc:.3f}"


def test_answers_in_the_letters_of_names(clinic):
    table = clinic.read()
    letters = np.where(table["sick"] == "1", "scan", "view")
    rename(clinic, [f"{one}_{word}" for one, word in zip(table["id"], letters, strict=True)])
    [finding] = found_in(clinic)[0]
    assert finding.title == "the letters of the file's name alone tells 'sick' with an AUC of 1.000"


def test_answers_in_the_length_of_names(clinic):
    table = clinic.read()
    rename(clinic, [f"0{one}" if sick == "1" else one for one, sick in zip(table["id"], table["sick"], strict=True)])
    assert "the length of the file's name alone tells 'sick' with an AUC of 1.000" in [
        one.title for one in found_in(clinic)[0]
    ]


def test_answers_in_the_times_of_files(clinic):
    for row, sick in enumerate(clinic.read()["sick"]):
        os.utime(clinic.path(row), (0, 1.6e9 + row + 1000 * (sick == "1")))
    [finding] = found_in(clinic)[0]
    assert finding.severity == "warning"
    assert finding.title == "the time of the file alone tells 'sick' with an AUC of 1.000"


def test_answers_in_the_size_of_files_of_another_encoder(clinic):
    for row, sick in enumerate(clinic.read()["sick"]):
        clinic.draw(row, clinic.pixels(row), quality=95 if sick == "1" else 60)
    [finding] = found_in(clinic)[0]
    assert finding.title.startswith("the size of the file alone tells 'sick' with an AUC of 0.9") or "1.000" in (
        finding.title
    )


def test_a_small_file_of_a_plain_picture_is_no_leak(clinic):
    """The disc of the sick ones makes their files larger: that is what they show."""
    case, _ = clinic.case()
    is_sick = case.train.targets[:, 0] == 1
    for row in np.flatnonzero(~is_sick):
        clinic.draw(row, (clinic.pixels(row) // 8) * 4 + 60)
    case, _ = clinic.case()
    assert compute_auc(is_sick, case.scan.num_bytes[:160]) > 0.9
    found = measure_clues({"size": list_clues(case)["the size of the file"]}, case.train.targets)
    assert found["auc"][0] < 0.65


def test_answers_in_the_shape_of_pictures(clinic):
    for row, sick in enumerate(clinic.read()["sick"]):
        clinic.draw(row, clinic.pixels(row)[: 60 if sick == "1" else 64])
    titles = [one.title for one in found_in(clinic)[0]]
    assert "the picture's height alone tells 'sick' with an AUC of 1.000" in titles
    assert "the picture's width / height alone tells 'sick' with an AUC of 1.000" in titles


def test_a_column_that_contains_the_answer(clinic):
    table = clinic.read()
    clinic.save(table.assign(finding=table["sick"].map({"0": "clear", "1": "opaque"})))
    [finding] = found_in(clinic)[0]
    assert finding.severity == "note"
    assert finding.title == "column 'finding' alone tells 'sick' with an AUC of 1.000"
    assert "contains the answer" in finding.advice
    clinic.save(clinic.read("test").assign(finding="clear"), "test")
    [finding] = found_in(clinic)[0]
    assert finding.severity == "warning"


def test_a_number_that_contains_the_answer(clinic):
    table = clinic.read()
    score = np.random.default_rng(0).random(160) + 2 * (table["sick"] == "1")
    clinic.save(table.assign(score=score))
    assert found_in(clinic)[0][0].title == "column 'score' alone tells 'sick' with an AUC of 1.000"


def test_a_column_of_patients_is_proposed_as_group(clinic):
    table = clinic.read().sort_values("sick").reset_index(drop=True)
    table["patient"] = [f"P{row // 4:03}" for row in range(160)]  # four pictures with one answer each
    clinic.save(table.sample(frac=1, random_state=1))
    [finding] = found_in(clinic, "competition.group=null")[0]
    assert finding.severity == "warning"
    assert finding.advice.endswith("set competition.group=patient")
    assert found_in(clinic)[0] == []


def test_folders_of_classes_betray_them_by_design(clinic):
    table = clinic.read()
    for name, sick in zip(table["id"], table["sick"], strict=True):
        place = clinic.root / "train" / ("yes" if sick == "1" else "no")
        place.mkdir(exist_ok=True)
        os.rename(clinic.root / "train" / f"{name}.jpg", place / f"{name}.jpg")
    words = (
        *("competition.train_table=null", "competition.train_image=train/{label}/*", "competition.label=label"),
        *("competition.targets=[]", "competition.group=null"),
    )
    case, _ = clinic.case(*words)
    assert len(case.train) == 160
    assert check_leaks(case)[0] == []


def test_few_answers_are_not_measured():
    clues = {"order": ("order", np.arange(50.0))}
    targets = (np.arange(50) < 4).astype(float)[:, None]
    assert len(measure_clues(clues, targets)) == 0
    assert len(measure_clues(clues, (np.arange(50) < 5).astype(float)[:, None])) == 1
