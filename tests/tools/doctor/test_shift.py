"""Adversarial validation: nothing where train and test are alike, and what drives it where they are not."""

import numpy as np
import pandas as pd

from tests.tools.doctor.conftest import NUM_TEST, NUM_TRAIN
from tools.doctor.shift import check_shift, list_features, measure_shift


def found_in(clinic, *words):
    return check_shift(clinic.load(*words)[0])


def test_clean(clinic):
    findings, [fact] = found_in(clinic)
    assert findings == []
    assert 0.3 < float(fact.lines[0].split()[1]) < 0.6


def test_a_darker_test_set(clinic):
    for row in range(NUM_TEST):
        clinic.draw(row, (clinic.pixels(row, "test") * 0.6).astype(np.uint8), "test")
    [finding] = found_in(clinic)[0]
    assert finding.severity == "warning"
    assert float(finding.title.split(" AUC of ")[1].split()[0]) > 0.9
    assert "in train and" in finding.names[0]
    assert any(name.startswith(("mean of the pixels", "std of the pixels")) for name in finding.names)


def test_a_column_that_is_shifted(clinic):
    clinic.save(clinic.read("test").assign(age=lambda table: table["age"].astype(int) + 40), "test")
    [finding] = found_in(clinic)[0]
    assert finding.names[0].startswith("column 'age': AUC 0.9")
    assert finding.names[0].endswith("in test")


def test_a_category_that_is_only_in_test(clinic):
    clinic.save(clinic.read("test").assign(site="east"), "test")
    [finding] = found_in(clinic)[0]
    assert finding.names[0] == "column 'site': AUC 1.00 alone"


def test_another_encoder_in_test(clinic):
    for row in range(NUM_TEST):
        clinic.draw(row, clinic.pixels(row, "test"), "test", quality=50)
    [finding] = found_in(clinic)[0]
    assert any(name.startswith("size of the file") for name in finding.names)


def test_targets_ids_and_groups_are_no_features(clinic):
    data, _ = clinic.load()
    features = list_features(data, np.arange(len(data.scan)))
    assert [name for name in features if name.startswith("column")] == ["column 'site'", "column 'age'"]
    assert len(features) == NUM_TRAIN + NUM_TEST
    ages = [*data.train_columns["age"], *data.test_columns["age"]]
    assert features["column 'age'"].tolist() == [*map(int, ages)]


def test_the_placeholders_of_a_sample_are_no_features(clinic):
    clinic.save(clinic.read().assign(b="0"))
    sample = pd.read_csv(clinic.root / "sample_submission.csv", dtype=str)
    sample.assign(b="0.5").to_csv(clinic.root / "sample_submission.csv", index=False)
    data, _ = clinic.load("competition.test_table=null", "competition.group=null")
    assert not [name for name in list_features(data, np.arange(len(data.scan))) if name.startswith("column")]


def test_groups_stay_on_one_side_of_each_split():
    """A group is on one side of train and test here, and its number is no feature for others."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    features = pd.DataFrame({"of the group": rng.random(60)[groups]})
    is_test = groups % 2 == 0
    assert measure_shift(features, is_test).auc > 0.8
    shift = measure_shift(features, is_test, groups.astype(str))
    assert shift.auc < 0.65


def test_too_few_images(clinic):
    clinic.save(clinic.read("test")[:20], "test")
    sample = pd.read_csv(clinic.root / "sample_submission.csv", dtype=str)
    sample[:20].to_csv(clinic.root / "sample_submission.csv", index=False)
    assert found_in(clinic)[1][0].lines == ("not tried: fewer than 30 images on a side",)
