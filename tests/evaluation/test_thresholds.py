"""Thresholds against every possible one, the labels that they make, and nested scores on noise and on rare labels."""

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import f1_score

from src.evaluation.metrics import METRICS, Metric, build_metric
from src.evaluation.thresholds import CRITERIA, Decision, find_thresholds, judge_thresholds, label_metric, read_decision


def draw(num_rows, num_columns, seed, share=0.2, gain=0.5):
    """Targets (N, C), and probabilities of two decimals, so that some are equal."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, num_columns)) < share).astype(float)
    return targets, np.round((rng.random(targets.shape) + gain * targets) / (1 + gain), 2)


def draw_classes(num_rows, num_classes, seed, gain=2.0):
    """Rare last classes, whose probabilities are too low to be the largest."""
    rng = np.random.default_rng(seed)
    prior = 0.5 ** np.arange(num_classes)
    truth = rng.choice(num_classes, num_rows, p=prior / prior.sum())
    values = gain * np.eye(num_classes)[truth] + rng.normal(size=(num_rows, num_classes)) + np.log(prior)
    return np.eye(num_classes)[truth], np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)


def score_at(metric, targets, probs, thresholds):
    return metric.score(targets, Decision(thresholds, metric.task).labels(probs))


def test_a_threshold_is_halfway_below_the_lowest_probability_that_the_best_f1_takes():
    targets = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, np.nan]])
    probs = np.array([[0.9, 0.1, 0.2], [0.6, 0.2, 0.2], [0.3, 0.3, 0.2], [0.1, 0.4, 0.9]])
    metric = label_metric(build_metric("f1_best", "multilabel"))
    np.testing.assert_allclose(find_thresholds(metric, targets, probs), [0.45, 0.5, 0.1])


@pytest.mark.parametrize(
    "name", ["accuracy", "f1_macro", "f1_micro", "balanced_accuracy", "quadratic_kappa", "f1_best"]
)
@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_no_other_threshold_of_one_column_is_better(name, gain):
    metric = label_metric(build_metric(name, "binary"))
    for seed in range(5):
        targets, probs = draw(60, 1, seed, gain=gain)
        found = score_at(metric, targets, probs, find_thresholds(metric, targets, probs))
        assert found == pytest.approx(max(score_at(metric, targets, probs, one) for one in [*np.unique(probs), 2]))


@pytest.mark.parametrize("name", ["f1_macro", "balanced_accuracy", "quadratic_kappa", "f1_best"])
def test_columns_whose_mean_counts_are_each_at_their_best(name):
    metric = label_metric(build_metric(name, "multilabel"))
    targets, probs = draw(200, 3, 0)
    thresholds = find_thresholds(metric, targets, probs)
    for column in range(3):
        best = 0
        for one in np.unique(probs[:, column]):
            tried = thresholds.copy()
            tried[column] = one
            best = max(best, score_at(metric, targets, probs, tried))
        assert score_at(metric, targets, probs, thresholds) >= best - 1e-12


@pytest.mark.parametrize("name", ["accuracy", "f1_micro", "fbeta_samples"])
def test_columns_that_count_together_are_as_good_as_any_pair_of_thresholds(name):
    metric = build_metric(name, "multilabel")
    for seed in range(3):
        targets, probs = draw(60, 2, seed, share=0.3, gain=0.3)
        targets[::9, 1] = np.nan
        steps = [[*np.unique(one)[::3], 2] for one in probs.T]
        best = max(score_at(metric, targets, probs, np.array(pair)) for pair in product(*steps))
        found = score_at(metric, targets, probs, find_thresholds(metric, targets, probs))
        assert found >= best - 0.01  # one column after the other may end on a lower hill
        assert found > score_at(metric, targets, probs, np.full(2, 0.5))


def test_f2_takes_more_labels_than_f1():
    targets, probs = draw(500, 4, 5, gain=0.2)
    counts = []
    for beta in (0.5, 1, 2):
        metric = build_metric("fbeta_samples", "multilabel", beta=beta)
        thresholds = find_thresholds(metric, targets, probs)
        counts.append((probs >= thresholds).sum())
        assert score_at(metric, targets, probs, thresholds) >= score_at(metric, targets, probs, np.full(4, 0.5))
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "f1_micro", "balanced_accuracy", "quadratic_kappa"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_what_a_criterion_makes_of_a_table_is_the_metric(name, num_classes):
    targets, probs = draw_classes(300, num_classes, 1)
    truth, predicted = targets.argmax(axis=1), probs.argmax(axis=1)
    table = np.zeros((1, num_classes, num_classes))
    np.add.at(table, (0, truth, predicted), 1)
    expected = build_metric(name, "multiclass").score(targets, probs)
    assert CRITERIA[name](table)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["f1_macro", "balanced_accuracy", "quadratic_kappa"])
def test_classes_are_never_worse_on_the_rows_that_they_were_found_on(name):
    metric = build_metric(name, "multiclass")
    targets, probs = draw_classes(600, 4, 2)
    thresholds = find_thresholds(metric, targets, probs)
    assert score_at(metric, targets, probs, thresholds) > metric.score(targets, probs) + 0.02
    assert score_at(metric, targets, probs, np.full(4, 0.5)) == metric.score(targets, probs)


def test_what_cannot_be_searched_keeps_one_half(monkeypatch):
    targets, probs = draw_classes(50, 51, 3)
    assert set(find_thresholds(build_metric("accuracy", "multiclass"), targets, probs)) == {0.5}
    monkeypatch.setitem(METRICS, "mine", Metric(lambda labels, predicted: 0.0, takes="classes"))
    assert set(find_thresholds(build_metric("mine", "binary"), *draw(50, 1, 0))) == {0.5}


def test_labels_are_asked_for_by_metrics_of_labels_or_by_the_submission():
    assert label_metric(build_metric("roc_auc", "multilabel")) is None
    f1 = label_metric(build_metric("roc_auc", "multilabel"), is_asked=True)
    targets, probs = draw(200, 2, 4)
    assert f1.score(targets, probs) == pytest.approx(f1_score(targets, probs >= 0.5, average="macro"))
    assert label_metric(build_metric("f1_best", "binary")).score(targets[:, :1], probs[:, :1]) == pytest.approx(
        f1_score(targets[:, 0], probs[:, 0] >= 0.5)
    )
    classes, values = draw_classes(100, 3, 0)
    found = label_metric(build_metric("f1_best", "multiclass")).score(classes, values)
    assert found == pytest.approx(f1_score(classes.argmax(axis=1), values.argmax(axis=1), average="macro"))
    accuracy = build_metric("accuracy", "binary")
    assert label_metric(accuracy) is accuracy


@pytest.mark.slow
@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_nested_scores_of_noise_are_unbiased_and_the_plain_thresholds_stay(task):
    """Of noise each threshold has a balanced accuracy of one half (a third of three classes) on rows of its own."""
    metric, gaps, in_sample, num_used = build_metric("balanced_accuracy", task), [], [], 0
    chance = {"multiclass": 1 / 3}.get(task, 0.5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        targets = np.eye(3)[rng.integers(0, 3, 150)] if task == "multiclass" else rng.integers(0, 2, (150, 1)) * 1.0
        probs = rng.random(targets.shape)
        decision, both = judge_thresholds(metric, targets, probs, np.arange(150) % 5, max_work=5e5)
        nested = both.scores[1]
        gaps.append(nested - chance)
        in_sample.append(score_at(metric, targets, probs, find_thresholds(metric, targets, probs)) - nested)
        num_used += not (decision.thresholds == 0.5).all()
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / np.sqrt(20)
    assert np.mean(in_sample) > 0.03
    assert num_used <= 3


def test_found_thresholds_are_used_where_they_pay():
    targets, probs = draw(1000, 2, 5, share=0.05, gain=0.5)
    metric = build_metric("f1_macro", "multilabel")
    decision, both = judge_thresholds(metric, targets, probs, np.arange(1000) % 4, max_work=5e5)
    plain, nested = both.scores
    assert plain == pytest.approx(metric.score(targets, probs))
    assert nested > plain + 0.05
    np.testing.assert_array_equal(decision.thresholds, find_thresholds(metric, targets, probs))
    assert nested <= score_at(metric, targets, probs, decision.thresholds)
    for place, score in enumerate(both.scores):
        low, high = both.interval(place)
        assert low < score < high


def test_a_folds_rows_have_no_part_in_their_own_threshold():
    """Two halves with opposite levels: each half's own threshold would be perfect, the other's is not."""
    targets = np.tile([0.0, 1.0], 40)[:, None]
    parts = np.repeat([0, 1], 40)
    probs = np.where(targets == 1, 0.4, 0.3) - 0.2 * parts[:, None]
    metric = build_metric("accuracy", "binary")
    assert judge_thresholds(metric, targets, probs, parts, max_work=5e5)[1].scores[1] == 0.5
    alone = judge_thresholds(
        metric, targets[:40], probs[:40], parts[:40], max_work=5e5
    )  # of one fold, rows are dealt into parts
    assert alone[1].scores[1] == 1
    assert alone[0].thresholds == pytest.approx([0.35])
    groups = np.repeat(np.arange(20), 2)
    assert judge_thresholds(metric, targets[:40], probs[:40], parts[:40], groups, max_work=5e5)[1].scores[1] == 1


def test_a_row_without_a_label_gets_its_largest_where_none_may_be_empty():
    probs, thresholds = np.array([[0.4, 0.1], [0.3, 0.29], [0.9, 0.8]]), np.array([0.4, 0.5])
    assert Decision(thresholds).labels(probs).tolist() == [[1, 0], [0, 0], [1, 1]]
    assert Decision(thresholds, may_be_none=False).labels(probs).tolist() == [[1, 0], [1, 0], [1, 1]]


def test_the_class_with_the_largest_share_of_its_threshold_wins():
    probs = np.array([[0.6, 0.4], [0.8, 0.2]])
    assert Decision(np.array([0.5, 0.25]), task="multiclass").labels(probs).tolist() == [[0, 1], [1, 0]]
    assert Decision(task="multiclass").labels(probs).tolist() == [[1, 0], [1, 0]]


def test_thresholds_between_grades_are_as_good_as_any():
    rng, metric = np.random.default_rng(0), build_metric("quadratic_kappa", "regression")
    truth = rng.integers(2, 5, (300, 1)) * 1.0
    values = 0.4 * truth + 1 + 0.1 * rng.normal(size=truth.shape)  # which the nearest grade reads as 2 or 3
    truth[::10] = np.nan
    [found] = find_thresholds(metric, truth, values)
    assert list(found) == [3, 4]
    assert found[3] == pytest.approx(2.0, abs=0.07)
    assert found[4] == pytest.approx(2.4, abs=0.07)
    steps = np.linspace(1.5, 3, 40)
    best = max(score_at(metric, truth, values, [{3: a, 4: b}]) for a, b in product(steps, steps) if a < b)
    assert score_at(metric, truth, values, [found]) >= best - 0.005
    decision, both = judge_thresholds(metric, truth, values, np.arange(300) % 5, max_work=5e5)
    assert both.scores[0] == pytest.approx(metric.score(truth, values))
    assert both.scores[1] > both.scores[0] + 0.1
    assert read_decision({"thresholds": {"y": {"3": 2.0, "4": 2.4}}}, ["y"], "regression").labels(
        np.array([[1.9], [2.0], [2.5]])
    ).tolist() == [[2], [3], [4]]
    assert read_decision({}, ["y"], "regression").labels(np.array([[1.9]])).tolist() == [[2]]
    assert decision.thresholds == [found]
    far = find_thresholds(metric, np.array([[0.0], [5.0]]), np.array([[0.1], [5.1]]))[0]
    assert list(far) == [1, 2, 3, 4, 5]  # where no value is near a step, it stays
    odd = np.array([[np.nan, 7, 0], [np.nan, 7, 1000]])  # nothing known, one grade, too many
    assert find_thresholds(metric, odd, odd) == [{}, {}, {}]
    assert Decision([{}, {}, {}], "regression").labels(np.full((1, 3), 6.6)).tolist() == [[7, 7, 7]]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "count"), [("multiclass", 5), ("multiclass", 50), ("multilabel", 20), ("multilabel", 300), ("binary", 1)]
)
@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "accuracy"])
def test_fifty_thousand_rows_take_seconds(task, count, name):
    import time

    targets, probs = (draw_classes if task == "multiclass" else draw)(50_000, count, 6)
    began = time.process_time()
    judge_thresholds(build_metric(name, task), targets, probs, np.arange(50_000) % 5, max_work=5e6)
    assert time.process_time() - began < 15
