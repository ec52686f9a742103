"""Target columns that are constant, rare, nearly equal, or follow from the others."""

import numpy as np
import pandas as pd
import pytest

from src.competition.submission import build_submission
from tools.doctor.folds import check_split
from tools.doctor.labels import check_labels, compute_correlations
from tools.doctor.leaks import check_leaks

MULTILABEL = ("competition.task=multilabel", "competition.targets=[sick,b,c]")


@pytest.fixture
def several(clinic):
    """The clinic with three independent target columns."""
    rng = np.random.default_rng(3)
    clinic.save(clinic.read().assign(b=rng.integers(0, 2, 160), c=rng.permutation([0, 1] * 80)))
    return clinic


def found_in(clinic, *words):
    return check_labels(clinic.load(*words)[0])


def test_clean(several):
    assert found_in(several) == []
    assert found_in(several, *MULTILABEL) == []


def test_correlations_are_those_of_numpy():
    is_positive = np.random.default_rng(0).random((50, 4)) < 0.3
    is_positive[:, 3] = False
    found = compute_correlations(is_positive)
    assert found[:3, :3] == pytest.approx(np.corrcoef(is_positive[:, :3].T.astype(float)))
    assert found[3].tolist() == [0] * 4


def test_a_constant_column(several):
    several.save(several.read().assign(b="1"))
    [finding] = found_in(several, *MULTILABEL)
    assert finding.severity == "error"
    assert finding.title == "1 of 3 target columns are the same in all 160 rows"
    assert finding.names == ("b",)
    assert check_split(several.load(*MULTILABEL)[0])[0] == []


def test_leaving_a_constant_column_out_ends_in_a_submission(several):
    """As the finding advises it: targets and a copy of the sample without the column, which is added by hand."""
    several.save(several.read().assign(b="1"))
    pd.read_csv(several.root / "sample_submission.csv", dtype=str).assign(b=0.5, c=0.5).to_csv(
        several.root / "sample_submission.csv", index=False
    )
    [finding] = found_in(several, *MULTILABEL)
    assert "out of competition.targets, and out of a copy of the sample" in finding.advice
    words = ("competition.task=multilabel", "competition.targets=[sick,c]")
    assert "cannot be filled" in several.load(*words)[1][0].title
    sample = pd.read_csv(several.root / "sample_submission.csv", dtype=str).drop(columns="b")
    sample.to_csv(several.root / "without.csv", index=False)
    data, findings = several.load(*words, "competition.sample_submission=without.csv")
    assert findings + check_labels(data) == []
    [frame] = build_submission(sample, data.config.competition, data.test.ids, np.zeros((60, 2)), ("sick", "c"))
    assert list(frame.columns) == ["id", "sick", "c"]


def test_where_all_columns_are_constant_others_are_asked_for(clinic):
    clinic.save(clinic.read().assign(sick="1"))
    [finding] = found_in(clinic)
    assert finding.advice.endswith("name other columns in competition.targets")
    assert check_split(clinic.load()[0])[0] == []


def test_a_rare_column(several):
    several.save(several.read().assign(b=["1"] * 3 + ["0"] * 157))
    [finding] = found_in(several, *MULTILABEL)
    assert (finding.severity, finding.names) == ("warning", ("b (3 of 160)",))


def test_nearly_equal_and_opposite_columns(several):
    table = several.read()
    several.save(table.assign(b=table["sick"].where(table.index != 7, "1"), c=1 - table["sick"].astype(int)))
    changed = table["sick"][7] != "1"
    agree = "99.4%" if changed else "100.0%"
    findings = found_in(several, *MULTILABEL)
    assert findings[0].title == "3 pairs of target columns are nearly equal or opposite"
    assert findings[0].names == (
        f"sick and b: {agree} of rows agree",
        "sick and not c: 100.0% of rows agree",
        f"b and not c: {agree} of rows agree",
    )


@pytest.mark.parametrize(
    ("rule", "words"), [(lambda any_other: any_other, "any of"), (lambda any_other: ~any_other, "none of")]
)
def test_a_column_that_follows_from_the_others(several, rule, words):
    table = several.read()
    any_other = (table["b"] == "1") | (table["c"] == "1")
    several.save(table.assign(sick=rule(any_other).astype(int)))
    [finding] = found_in(several, *MULTILABEL)
    assert (finding.severity, finding.names) == ("note", (f"sick: {words} the others",))


def test_one_class_in_several_spellings(clinic):
    kinds = np.array(["Cat", "cat", "dog fish", "dog_fish", "1", "1.0", "eel", "2"])[np.arange(160) % 8]
    clinic.save(clinic.read().assign(kind=kinds))
    words = ("competition.targets=[]", "competition.label=kind", "competition.task=multiclass")
    [finding] = [one for one in check_labels(clinic.load(*words)[0]) if "several ways" in one.title]
    assert finding.severity == "warning"
    assert finding.title == "3 class names are written in several ways"
    assert set(finding.names) == {"'1' and '1.0'", "'Cat' and 'cat'", "'dog fish' and 'dog_fish'"}


@pytest.mark.parametrize("words", [("task=multiclass",), ("task=multilabel", "separator=,")])
def test_classes_that_are_others_joined(clinic, words):
    kinds = np.array(["scab", "frog eye", "rust", "rust scab"])[np.arange(160) % 4]
    clinic.save(clinic.read().assign(kind=kinds))
    words = ("competition.targets=[]", "competition.label=kind", *(f"competition.{word}" for word in words))
    [finding] = [one for one in check_labels(clinic.load(*words)[0]) if "joined" in one.title]
    assert (finding.severity, finding.names) == ("warning", ("rust scab",))
    assert finding.advice.endswith("set competition.task=multilabel 'competition.separator= '")


REGRESSION = ("competition.task=regression", "competition.metric=rmse", "competition.targets=[weight,height,gap]")


@pytest.fixture
def measured(clinic):
    """The clinic with columns of numbers, in one of them a gap."""
    rng = np.random.default_rng(3)
    weight, height = rng.normal(60, 10, 160), rng.normal(170, 10, 160)
    gap = pd.Series(rng.normal(size=160).round(3)).astype(str)
    gap[5] = "NA"
    clinic.save(clinic.read().assign(weight=weight, height=height, gap=gap))
    return clinic


def test_numbers_that_are_well_measured_have_no_finding(measured):
    words = (*REGRESSION, "competition.missing=drop")
    assert found_in(measured, *words) == []
    findings, [fact] = check_split(measured.load(*words)[0])
    assert [finding for finding in findings if finding.severity == "error"] == []
    assert fact.title == "folds: mean of each column"
    assert fact.lines[0].split() == ["fold", "rows", "groups", "weight", "height", "gap"]
    check_leaks(measured.load(*words)[0])


def test_numbers_that_are_slips_constants_or_copies(measured):
    table = measured.read()
    weight = table["weight"].astype(float)
    weight[7] = 6000
    measured.save(table.assign(weight=weight, height=(weight * 2.2 + 3).round(6), gap="1"))
    constant, slips, equal = found_in(measured, *REGRESSION)
    assert (constant.severity, constant.names) == ("error", ("gap",))
    assert slips.title == "2 numbers lie more than 8 standard deviations from their column's mean"
    assert slips.names[0] == f"{table['id'][7]}: weight 6000"
    assert equal.names == ("weight and height",)


def test_grades_of_a_label_column_are_numbers_too(measured):
    measured.save(measured.read().assign(grade=np.arange(160) % 5))
    words = ("competition.task=regression", "competition.metric=quadratic_kappa", "competition.targets=[]")
    data, findings = measured.load(*words, "competition.label=grade")
    assert findings == []
    assert data.train.targets[:5, 0].tolist() == [0, 1, 2, 3, 4]
    assert check_labels(data) == []
