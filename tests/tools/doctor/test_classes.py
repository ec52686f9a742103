"""The classes of the page: one label, several, none, many, numbers, and labels that are not known."""

import numpy as np
import pandas as pd

from tools.doctor.classes import count_ranges, describe_label, list_classes

NO_SAMPLE = ("competition.sample_submission=null", "competition.test_table=test.csv")
NUMBERS = ("competition.task=regression", "competition.metric=rmse")


def load(clinic, columns, *words):
    """The clinic with other columns in place of its target."""
    clinic.save(clinic.read().drop(columns="sick", errors="ignore").assign(**columns))
    return clinic.load(*NO_SAMPLE, *words)[0]


def test_a_binary_column_has_two_classes_and_the_test_images_follow(clinic):
    labels = clinic.read()["sick"].astype(int).to_numpy()
    clinic.path(int(np.flatnonzero(labels)[0])).write_bytes(b"")
    data, _ = clinic.load()
    classes, left_out = list_classes(data)
    assert [(one.name, one.count, one.share) for one in classes] == [
        ("sick: 1", labels.sum(), labels.sum() / 160),
        ("sick: 0", 160 - labels.sum(), 1 - labels.sum() / 160),
        ("test images", 0, 0),
    ]
    assert left_out == ""
    for one, label in zip(classes, (1, 0), strict=False):
        assert len(one.rows) == 8
        assert (labels[list(one.rows)] == label).all()
    assert np.flatnonzero(labels)[0] not in classes[0].rows  # it cannot be read
    assert data.is_test[list(classes[2].rows)].all()
    assert [describe_label(data, row) for row in (0, 1, 160)] == [f"sick: {labels[0]}", f"sick: {labels[1]}", "test"]


def test_class_names_of_a_label(clinic):
    words = ("competition.targets=[]", "competition.label=animal")
    data = load(clinic, {"animal": ["cat", "dog"] * 80}, *words, "competition.classes=[cat,dog]")
    assert [one.name for one in list_classes(data)[0]] == ["dog", "cat", "test images"]
    data = load(clinic, {"animal": ["cat", "dog"] * 80}, *words)
    assert [describe_label(data, row) for row in (0, 1)] == ["not dog", "dog"]


def test_rows_of_no_label_are_a_class(clinic):
    columns = {"a": [0, 1, 0, 1] * 40, "b": [0, 0, 1, 1] * 40}
    words = ("competition.targets=[a,b]", "competition.task=multilabel")
    data = load(clinic, columns, *words)
    assert [(one.name, one.count) for one in list_classes(data)[0][:3]] == [("a", 80), ("b", 80), ("none", 40)]
    assert [describe_label(data, row) for row in range(4)] == ["none", "a", "b", "a, b"]


def test_of_many_classes_the_most_frequent_and_the_rarest_are_shown(clinic):
    labels = np.repeat([f"class {number}" for number in range(30)], [9] * 12 + [4] * 11 + [3] + [1] * 6)[:160]
    words = ("competition.targets=[]", "competition.label=label", "competition.task=multiclass")
    data = load(clinic, {"label": labels}, *words, "competition.metric=accuracy")
    classes, left_out = list_classes(data)
    counts = pd.Series(data.train.positives.sum(axis=0)).sort_values(ascending=False).to_numpy()
    assert sorted((one.count for one in classes[:-1]), reverse=True) == [*counts[:12], *counts[-12:]]
    between = counts[12:-12]
    assert left_out == (
        f"The 12 most frequent and the 12 rarest of {len(counts)} classes; the {len(between)} between them have "
        f"{between.min()} to {between.max()} images each."
    )


def test_numbers_are_shown_low_middle_and_high(clinic):
    age = np.random.default_rng(0).permutation(160) / 2
    data = load(clinic, {"age": age}, "competition.targets=[age]", *NUMBERS)
    classes, _ = list_classes(data)
    assert [one.name for one in classes] == [
        "age, lowest: 0 to 3.5", "age, middle: 38 to 41.5", "age, highest: 76 to 79.5", "test images",
    ]  # fmt: skip
    assert age[list(classes[1].rows)].tolist() == [38, 38.5, 39, 39.5, 40, 40.5, 41, 41.5]
    assert describe_label(data, 3) == f"age {age[3]:g}"
    [ranges] = count_ranges(data).values()
    assert ranges[0] == ("0 to 7.95", 16, 0.1)
    assert sum(count for _, count, _ in ranges) == 160


def test_few_numbers_are_counted_one_by_one(clinic):
    data = load(clinic, {"grade": [0, 1, 1, 2] * 40}, "competition.targets=[grade]", *NUMBERS)
    assert count_ranges(data) == {"grade": [("0", 40, 0.25), ("1", 80, 0.5), ("2", 40, 0.25)]}


def test_labels_that_are_not_known(clinic):
    data = load(clinic, {"other": 1})
    assert data.train.targets is None
    assert [one.name for one in list_classes(data)[0]] == ["train, no label known", "test images"]
    assert describe_label(data, 0) == ""
    assert count_ranges(data) == {}
