"""Leaks: the AUC against scikit-learn's, and each planted leak by name."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tools.doctor.leak_features import find_neighbours, list_leak_features
from tools.doctor.leaks import (
    check_leaks,
    compute_auc,
    compute_category_auc,
    compute_design_effect,
    compute_p_value,
    measure_features,
)


def found_in(clinic, *words):
    return check_leaks(clinic.load(*words)[0])


def test_the_auc_is_scikit_learns():
    rng = np.random.default_rng(0)
    is_positive, values = rng.random(300) < 0.3, rng.integers(0, 20, 300)
    assert compute_auc(is_positive, values) == pytest.approx(roc_auc_score(is_positive, values))


def test_the_chance_of_an_auc_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    is_positive = np.arange(100) < 30
    aucs = np.array([compute_auc(is_positive, rng.random(100)) for _ in range(3000)])
    assert np.mean(np.abs(aucs - 0.5) >= 0.1) == pytest.approx(compute_p_value(0.6, 30, 70), abs=0.02)


def test_categories_predict_only_by_the_labels_of_other_rows():
    rng = np.random.default_rng(0)
    is_positive = rng.random(2000) < 0.4
    assert compute_category_auc(is_positive, np.arange(2000).astype(str)) == 0.5  # ids, each its own
    assert compute_category_auc(is_positive, rng.choice(["a", "b", "c"], 2000)) == pytest.approx(0.5, abs=0.05)
    assert compute_category_auc(is_positive, np.where(is_positive, "x", "y")) == 1
    patients = np.cumsum(np.diff(is_positive, prepend=0) != 0).astype(str)  # runs of equal labels
    assert compute_category_auc(is_positive, patients) > 0.7


def test_the_chance_of_categories_and_neighbours_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    features = {
        "category": ("name", rng.integers(0, 10, 300).astype(str)),
        "few": ("order", find_neighbours(np.arange(300.0), 2)),
        "many": ("order", find_neighbours(np.arange(300.0), 20)),
    }
    labels = np.array([rng.permutation(300) < 120 for _ in range(1500)]).T.astype(float)
    found = measure_features(features, labels)
    for feature, rows in found.groupby("feature"):
        assert np.mean((rows["p_value"] < 0.01) & (rows["auc"] > 0.5)) <= 0.012, feature


def test_rows_of_a_group_with_one_label_count_once():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 4).astype(str)
    assert compute_design_effect(np.repeat(rng.permutation(100) < 30, 4), groups) == pytest.approx(4, abs=0.05)
    assert compute_design_effect(rng.permutation(400) < 120, groups) == pytest.approx(1, abs=0.3)
    assert compute_design_effect(rng.permutation(400) < 120, None) == 1
    order = {"order": ("order", np.arange(400.0))}  # of the rows, which are group by group
    labels = np.array([np.repeat(rng.permutation(100) < 30, 4) for _ in range(1500)]).T.astype(float)
    assert np.mean(measure_features(order, labels, groups)["p_value"] < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(measure_features(order, labels)["p_value"] < 0.05) > 0.2


def test_random_labels_never_leak(clinic):
    """Half of the time a patient's images have one label."""
    data, _ = clinic.load()
    patients = np.unique(data.train.groups, return_inverse=True)[1]
    for seed in range(200):
        labels = np.random.default_rng(seed).random(160) < (0.5, 0.2)[seed // 2 % 2]
        labels = labels[patients] if seed % 2 else labels
        drawn = replace(data, train=replace(data.train, targets=labels[:, None].astype(np.float32)))
        assert check_leaks(drawn)[0] == [], seed


def test_clean(clinic):
    findings, [fact] = found_in(clinic)
    assert findings == []
    assert all(0.5 <= float(line.split()[0]) < 0.65 for line in fact.lines)


def test_labels_in_the_order_of_rows(clinic):
    clinic.save(clinic.read().sort_values("sick"))
    [finding] = found_in(clinic)[0]
    assert finding.severity == "note"
    assert finding.title == "the order of the table's rows alone predicts 'sick' with an AUC of 1.000"


def rename(clinic, names):
    table = clinic.read()
    for old, new in zip(table["id"], names, strict=True):
        os.rename(clinic.root / "train" / f"{old}.jpg", clinic.root / "train" / f"{new}.jpg")
    clinic.save(table.assign(id=names))


def test_labels_in_the_order_of_ids(clinic):
    is_sick = clinic.read()["sick"] == "1"
    numbers = np.where(is_sick, 8002, 2000) + np.random.default_rng(0).permutation(2000)[:160] * 4
    rename(clinic, [f"x{number}" for number in numbers])
    auc = compute_auc(is_sick.to_numpy(), numbers)
    assert 0.9 < auc < 1
    [finding] = [one for one in found_in(clinic)[0] if "order of the ids" in one.title]
    assert finding.severity == "warning"
    assert finding.title == f"the order of the ids alone predicts 'sick' with an AUC of {auc:.3f}"


def test_labels_in_the_letters_of_names(clinic):
    table = clinic.read()
    letters = np.where(table["sick"] == "1", "scan", "view")
    rename(clinic, [f"{one}_{word}" for one, word in zip(table["id"], letters, strict=True)])
    [finding] = found_in(clinic)[0]
    assert finding.title == "the letters of the file's name alone predicts 'sick' with an AUC of 1.000"


def test_labels_in_a_number_within_names(clinic):
    is_sick = clinic.read()["sick"] == "1"
    kinds = np.where(np.random.default_rng(0).random(160) < 0.1, 3, np.where(is_sick, 1, 2))
    rename(clinic, [f"img_{kind}_{one}" for one, kind in zip(clinic.read()["id"], kinds, strict=True)])
    [finding] = [one for one in found_in(clinic)[0] if "part 3 of the path (1, 2, 3)" in one.title]
    assert finding.severity == "warning"
    assert finding.title.startswith("part 3 of the path (1, 2, 3) alone predicts 'sick' with an AUC of 0.9")


def test_labels_in_odd_and_even_ids(clinic):
    is_sick = clinic.read()["sick"] == "1"
    numbers = 2 * np.random.default_rng(0).permutation(5000)[:160] + is_sick
    rename(clinic, [f"{number:04}" for number in numbers])
    [finding] = found_in(clinic)[0]
    assert finding.title == "the last letter or digit of the file's name alone predicts 'sick' with an AUC of 1.000"


def test_a_folder_that_a_column_names_is_reported_once(clinic):
    table = clinic.read()
    table["ward"] = np.where(table["sick"] == "1", "W1", "W2")
    for name, ward in zip(table["id"], table["ward"], strict=True):
        place = clinic.root / "train" / ward
        place.mkdir(exist_ok=True)
        os.rename(clinic.root / "train" / f"{name}.jpg", place / f"{name}.jpg")
    clinic.save(table)
    [finding] = found_in(clinic, "competition.train_image=train/{ward}/{id}.jpg")[0]
    assert finding.title == "column 'ward' alone predicts 'sick' with an AUC of 1.000"
    assert "no test row has it" in finding.advice
    clinic.save(table.drop(columns="ward"))
    [finding] = found_in(clinic, "competition.train_image=train/*/{id}.jpg")[0]
    assert finding.title == "part 3 of the path (1, 2) alone predicts 'sick' with an AUC of 1.000"


def test_labels_in_the_length_of_names(clinic):
    table = clinic.read()
    rename(clinic, [f"0{one}" if sick == "1" else one for one, sick in zip(table["id"], table["sick"], strict=True)])
    assert "the length of the file's name alone predicts 'sick' with an AUC of 1.000" in [
        one.title for one in found_in(clinic)[0]
    ]


def test_labels_in_the_times_of_files(clinic):
    for row, sick in enumerate(clinic.read()["sick"]):
        os.utime(clinic.path(row), (0, 1.6e9 + row + 1000 * (sick == "1")))
    [finding] = found_in(clinic)[0]
    assert finding.severity == "warning"
    assert finding.title == "the time of the file alone predicts 'sick' with an AUC of 1.000"


def test_labels_in_one_window_of_time(clinic):
    places = np.argsort(np.argsort(clinic.read()["sick"], kind="stable"))
    for row, place in enumerate(places):  # the sick ones come last: turned by a quarter they are in the middle
        os.utime(clinic.path(row), (0, 1.6e9 + (place + 120) % 160))
    [finding] = found_in(clinic)[0]
    assert finding.severity == "warning"
    assert finding.title.startswith("the label of 2")
    assert " neighbours by the time of the file alone predicts 'sick' with an AUC of 0.99" in finding.title
    assert "competition.group" in finding.advice


def test_an_order_is_reported_in_place_of_its_neighbours_unless_they_predict_much_better(clinic):
    table, order = clinic.read(), np.arange(160.0)
    features = {"order": ("order", order), "neighbours": ("order", find_neighbours(order, 2))}
    sick, well = table[table["sick"] == "1"], table[table["sick"] == "0"]
    for num_first, is_much_more in ((3, False), (30, True)):
        table = pd.concat([sick[:num_first], well, sick[num_first:]])
        plain, near = measure_features(features, (table["sick"] == "1").to_numpy()[:, None])["auc"]
        assert plain < near
        assert (near > plain + 0.05) == is_much_more
        clinic.save(table)
        [finding] = found_in(clinic, "competition.group=null")[0]
        assert finding.title.startswith("the label of 2" if is_much_more else "the order of the table's rows")
        assert finding.severity == ("warning" if is_much_more else "note")


def test_labels_that_take_turns_in_the_order_of_rows(clinic):
    table = clinic.read().groupby("sick").head(70)
    clinic.save(table.iloc[np.argsort(table.groupby("sick").cumcount() * 2 + (table["sick"] == "1"))])
    [finding] = found_in(clinic, "competition.group=null")[0]
    assert finding.severity == "note"
    assert finding.title == (
        "the opposite of the label of 2 neighbours by the order of the table's rows alone predicts 'sick' with an AUC "
        "of 1.000"
    )


def test_neighbours_of_one_patient_tell_of_it_until_it_is_the_group(clinic):
    patients = np.repeat(np.arange(40), 4)
    is_sick = np.random.default_rng(2).permutation(np.arange(40) < 20)[patients]
    names = [f"v{number:03}" for number in range(160)]
    rename(clinic, names)
    table = clinic.read().assign(sick=is_sick.astype(int), patient=[f"P{one:03}" for one in patients])
    clinic.save(table.sample(frac=1, random_state=0))
    found = [one.title for one in found_in(clinic, "competition.group=null")[0]]
    assert any(title.startswith("the label of 2 neighbours by the order of the ids alone predicts") for title in found)
    assert found_in(clinic)[0] == []


def test_labels_in_the_size_of_files_of_another_encoder(clinic):
    for row, sick in enumerate(clinic.read()["sick"]):
        clinic.draw(row, clinic.pixels(row), quality=95 if sick == "1" else 60)
    [finding] = found_in(clinic)[0]
    assert finding.title.startswith("the size of the file alone predicts 'sick' with an AUC of 0.9") or "1.000" in (
        finding.title
    )


def test_a_small_file_of_a_plain_image_is_no_leak(clinic):
    """The disc of the sick ones makes their files larger: that is what they show."""
    data, _ = clinic.load()
    is_sick = data.train.targets[:, 0] == 1
    for row in np.flatnonzero(~is_sick):
        clinic.draw(row, (clinic.pixels(row) // 8) * 4 + 60)
    data, _ = clinic.load()
    assert compute_auc(is_sick, data.scan.num_bytes[:160]) > 0.9
    found = measure_features({"size": list_leak_features(data)["the size of the file"]}, data.train.targets)
    assert found["auc"][0] < 0.65


def test_labels_in_the_shape_of_images(clinic):
    for row, sick in enumerate(clinic.read()["sick"]):
        clinic.draw(row, clinic.pixels(row)[: 60 if sick == "1" else 64])
    titles = [one.title for one in found_in(clinic)[0]]
    assert "the image's height alone predicts 'sick' with an AUC of 1.000" in titles
    assert "the image's width / height alone predicts 'sick' with an AUC of 1.000" in titles


def test_a_column_that_contains_the_label(clinic):
    table = clinic.read()
    clinic.save(table.assign(finding=table["sick"].map({"0": "clear", "1": "opaque"})))
    [finding] = found_in(clinic)[0]
    assert finding.severity == "note"
    assert finding.title == "column 'finding' alone predicts 'sick' with an AUC of 1.000"
    assert "no network reads it" in finding.advice
    assert "targets" not in finding.advice
    clinic.save(clinic.read("test").assign(finding="clear"), "test")
    [finding] = found_in(clinic)[0]
    assert finding.severity == "warning"
    assert finding.advice.startswith("the test table has it too")


def test_a_number_that_contains_the_label(clinic):
    table = clinic.read()
    score = np.random.default_rng(0).random(160) + 2 * (table["sick"] == "1")
    clinic.save(table.assign(score=score))
    assert found_in(clinic)[0][0].title == "column 'score' alone predicts 'sick' with an AUC of 1.000"


def test_a_column_of_patients_is_proposed_as_group(clinic):
    table = clinic.read().sort_values("sick").reset_index(drop=True)
    table["patient"] = [f"P{row // 4:03}" for row in range(160)]  # four images with one label each
    clinic.save(table.sample(frac=1, random_state=1))
    [finding] = found_in(clinic, "competition.group=null")[0]
    assert finding.severity == "warning"
    assert finding.advice.endswith("set competition.group=patient")
    assert found_in(clinic)[0] == []


def test_folders_of_classes_reveal_them_by_design(clinic):
    table = clinic.read()
    for name, sick in zip(table["id"], table["sick"], strict=True):
        place = clinic.root / "train" / ("yes" if sick == "1" else "no")
        place.mkdir(exist_ok=True)
        os.rename(clinic.root / "train" / f"{name}.jpg", place / f"{name}.jpg")
    words = (
        *("competition.train_table=null", "competition.train_image=train/{label}/*", "competition.label=label"),
        *("competition.targets=[]", "competition.group=null"),
    )
    data, _ = clinic.load(*words)
    assert len(data.train) == 160
    assert check_leaks(data)[0] == []


def test_few_labels_are_not_measured():
    features = {"order": ("order", np.arange(50.0))}
    targets = (np.arange(50) < 4).astype(float)[:, None]
    assert len(measure_features(features, targets)) == 0
    assert len(measure_features(features, (np.arange(50) < 5).astype(float)[:, None])) == 1
