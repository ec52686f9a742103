"""Intervals of scores: DeLong against its double sum, the bootstrap against a formula, groups, and coverage."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit

from src.evaluation.metrics import build_metric
from src.evaluation.sampling import _bootstrap, sample_scores

AUC = build_metric("roc_auc", "binary")


def draw(num_rows, seed, num_models=2, gain=0.8, share=0.3):
    """Targets (N, 1), and predictions of models that share half of their noise and are equally good."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(num_rows) < share).astype(np.float64)
    shared = rng.normal(size=num_rows)
    values = [gain * targets + np.sqrt(0.5) * (shared + rng.normal(size=num_rows)) for _ in range(num_models)]
    return targets[:, None], [np.round(one, 1)[:, None] for one in values]  # rounded, so that some are equal


def delong_by_pairs(targets, predictions):
    """The covariance by the definition: every positive beside every negative (DeLong et al., 1988, eq. 4 to 6)."""
    is_positive = targets[:, 0] == 1
    of_positives, of_negatives = [], []
    for one in predictions:
        high, low = one[is_positive], one[~is_positive].T
        psi = (high > low) + 0.5 * (high == low)
        of_positives.append(psi.mean(axis=1))
        of_negatives.append(psi.mean(axis=0))
    return np.cov(of_positives) / is_positive.sum() + np.cov(of_negatives) / (~is_positive).sum()


def test_delong_is_the_definition():
    targets, predictions = draw(300, 0)
    found = sample_scores(AUC, targets, predictions)
    np.testing.assert_allclose(found.covariance, delong_by_pairs(targets, predictions), rtol=1e-12)
    low, high = found.interval(0)
    error = np.sqrt(found.covariance[0, 0]) / (found.scores[0] * (1 - found.scores[0]))
    ends = logit(np.array([low, high])) - logit(found.scores[0])  # the delta method's normal interval of the logit
    assert ends == pytest.approx([-1.96 * error, 1.96 * error], rel=0.02)
    assert found.method == "DeLong"


def test_an_auc_near_one_or_of_few_units_is_covered():
    """Of 200 samples each; an interval of 1.96 errors on either side held the truth of the first in 158."""
    for num_rows, share, distance, size in ((300, 0.1, 3.5, 1), (200, 0.3, 1.0, 10)):
        truth, inside = stats.norm.cdf(distance / np.sqrt(2)), 0
        for seed in range(200):
            rng = np.random.default_rng(seed)
            targets = np.repeat(rng.random((num_rows // size, 1)) < share, size, axis=0).astype(float)
            common = 0.8 * np.repeat(rng.normal(size=(num_rows // size, 1)), size, axis=0) if size > 1 else 0
            values = common + (0.6 if size > 1 else 1) * rng.normal(size=targets.shape) + distance * targets
            low, high = sample_scores(AUC, targets, [values], np.arange(num_rows) // size).interval(0)
            inside += not low > truth and not high < truth
        assert inside >= 178


def test_one_positive_tells_little():
    targets, values = np.eye(60)[:, :1], np.random.default_rng(0).random((60, 1))
    low, high = sample_scores(AUC, targets, [values]).interval(0)
    assert high - low > 0.9


def test_columns_are_averaged_with_their_weights():
    """Of independent columns the variances add up; a column without a positive has no part."""
    targets, predictions = zip(*(draw(4000, seed, 1) for seed in (1, 2)), strict=True)
    metric = build_metric("roc_auc", "multilabel", weights=[3, 1, 5])
    targets = np.hstack([*targets, np.zeros((4000, 1))])
    probs = np.hstack([*(one[0] for one in predictions), np.zeros((4000, 1))])
    found = sample_scores(metric, targets, [probs]).covariance[0, 0]
    each = [sample_scores(AUC, targets[:, [k]], [probs[:, [k]]]).covariance[0, 0] for k in (0, 1)]
    assert found == pytest.approx(each[0] * 0.75**2 + each[1] * 0.25**2, rel=0.1)


@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
def test_copies_of_a_groups_rows_narrow_nothing(name):
    targets, predictions = draw(300, 3)
    predictions = [1 / (1 + np.exp(-one)) for one in predictions]
    metric, groups = build_metric(name, "binary"), np.arange(300)
    once = sample_scores(metric, targets, predictions, groups)
    targets_2, *predictions_2 = (np.repeat(one, 2, axis=0) for one in (targets, *predictions))
    twice = sample_scores(metric, targets_2, predictions_2, np.repeat(groups, 2))
    np.testing.assert_allclose(twice.interval(0), once.interval(0), rtol=1e-9)
    np.testing.assert_allclose(twice.difference(0, 1), once.difference(0, 1), atol=1e-12)
    alone = sample_scores(metric, targets_2, predictions_2)
    assert np.ptp(alone.interval(0)) < 0.8 * np.ptp(twice.interval(0))
    assert (twice.num_units, alone.num_units) == (300, 600)


def test_the_bootstrap_draws_whole_groups():
    units, seen = np.array([2, 0, 1, 0, 2, 2]), []

    class Rows:
        has_columns = False

        def score(self, targets, probs):
            seen.append(sorted(probs[:, 0].astype(int)))
            return 0.0

    _bootstrap(Rows(), np.zeros((6, 1)), [np.arange(6.0)[:, None]], units, 3, 200, 0, 1e7)
    members = {0: [1, 3], 1: [2], 2: [0, 4, 5]}
    for rows in seen:
        counts = {unit: {rows.count(row) for row in members[unit]} for unit in members}
        assert all(len(one) == 1 for one in counts.values())
        assert sum(min(one) for one in counts.values()) == 3


def test_the_bootstrap_of_a_mean_has_the_means_error():
    rng = np.random.default_rng(4)
    targets, probs = rng.integers(0, 2, (2000, 1)).astype(float), rng.random((2000, 1))
    losses = -np.log(np.where(targets == 1, probs, 1 - probs))
    low, high = sample_scores(build_metric("log_loss", "binary"), targets, [probs]).interval(0)
    assert (high - low) / 2 == pytest.approx(1.96 * losses.std() / np.sqrt(2000), rel=0.1)


@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
def test_a_run_against_itself_has_no_difference(name):
    targets, predictions = draw(200, 5, 1)
    probs = 1 / (1 + np.exp(-predictions[0]))
    assert sample_scores(build_metric(name, "binary"), targets, [probs, probs]).difference(0, 1) == (0, 0, 0, 1)


@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
def test_of_pairs_without_a_difference_few_are_called_different(name):
    metric, called = build_metric(name, "binary"), 0
    for seed in range(200):
        targets, predictions = draw(250, seed)
        found = sample_scores(metric, targets, [1 / (1 + np.exp(-one)) for one in predictions], num_samples=200)
        _, low, high, _ = found.difference(0, 1)
        called += not low <= 0 <= high
    assert 0.02 <= called / 200 <= 0.09


def test_a_difference_that_is_there_is_found():
    targets, (one, other) = draw(2000, 6)
    better = other + 0.5 * targets
    value, low, high, p = sample_scores(AUC, targets, [one, better]).difference(0, 1)
    assert low > 0.05
    assert low < value < high
    assert p < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
@pytest.mark.parametrize("num_public", [120, 2000])
def test_a_public_leaderboard_lies_in_its_interval(name, num_public):
    """Both samples vary: of 200 pairs about 95 % of the public scores lie inside."""
    metric, inside = build_metric(name, "binary"), 0
    for seed in range(200):
        targets, [values] = draw(400 + num_public, seed, 1)
        probs = 1 / (1 + np.exp(-values))
        found = sample_scores(metric, targets[:400], [probs[:400]], num_samples=200)
        low, high = found.interval(0, share=num_public / 400)
        inside += low <= metric.score(targets[400:], probs[400:]) <= high
    assert 0.91 <= inside / 200 <= 0.985


def test_the_errors_of_both_samples_add_up():
    targets, predictions = draw(500, 7)
    found = sample_scores(build_metric("rmse", "binary"), targets, predictions, num_samples=200)
    assert np.ptp(found.interval(0, share=0.3)) == pytest.approx(np.ptp(found.interval(0)) * np.sqrt(1 + 1 / 0.3))


@pytest.mark.parametrize(("name", "bounds"), [("roc_auc", (0, 1)), ("partial_auc", (0, 0.2)), ("accuracy", (0, 1)),
                                              ("quadratic_kappa", (-1, 1)), ("average_precision", (0, 1))])  # fmt: skip
def test_an_interval_stays_within_what_the_metric_can_be(name, bounds):
    targets, [values] = draw(100, 8, 1, gain=4)
    metric = build_metric(name, "binary")
    for probs in (1 / (1 + np.exp(2 - values)), 1 / (1 + np.exp(values - 2))):
        low, high = sample_scores(metric, targets, [probs], num_samples=100).interval(0, share=0.02)
        assert bounds[0] <= low < high <= bounds[1]
    assert sample_scores(metric, targets, [targets], num_samples=100).interval(0)[1] == pytest.approx(bounds[1])


def test_a_perfect_score_is_not_sure():
    """Of 40 right rows of 40, Clopper and Pearson's lower end; of ROC AUC the smaller side's rows count."""
    targets = np.repeat([0.0, 1.0], [25, 15])[:, None]
    found = sample_scores(build_metric("accuracy", "binary"), targets, [targets])
    assert found.interval(0) == pytest.approx((0.025 ** (1 / 40), 1))
    assert sample_scores(AUC, targets, [targets]).interval(0) == pytest.approx((0.025 ** (1 / 15), 1))
    assert sample_scores(AUC, targets, [1 - targets]).interval(0) == pytest.approx((0, 1 - 0.025 ** (1 / 15)))
    assert np.isnan(sample_scores(AUC, targets[:5], [targets[:5]]).interval(0)).all()
    classes = np.eye(3)[np.arange(60) % 3]  # all 60 rows have a part in the mean over columns
    auc = build_metric("roc_auc", "multiclass")
    assert sample_scores(auc, classes, [classes]).interval(0) == pytest.approx((0.025 ** (1 / 60), 1))
    unequal = np.stack([np.arange(60) < 2, np.arange(60) >= 30], axis=1)  # of 2 and 30 rows, as 7.5 of each
    auc = build_metric("roc_auc", "multilabel")
    assert sample_scores(auc, unequal * 1.0, [unequal]).interval(0) == pytest.approx((0.025 ** (1 / 7), 1))


@pytest.mark.parametrize("name", ["log_loss", "f1_macro"])
def test_few_and_small_bootstrap_samples_say_the_same(name):
    targets, [values] = draw(20_000, 9, 1)
    probs, metric = 1 / (1 + np.exp(1 - values)), build_metric(name, "binary")
    many = sample_scores(metric, targets, [probs], num_samples=300, max_work=1e9)
    few = sample_scores(metric, targets, [probs], max_work=5e4)  # 25 samples of a tenth of the rows
    assert few.samples is None
    assert np.ptp(few.interval(0)) == pytest.approx(np.ptp(many.interval(0)), rel=0.4)
    groups = np.arange(20_000) // 2
    assert sample_scores(metric, targets, [probs], groups, max_work=5e4).num_units == 10_000


@pytest.mark.nightly
def test_a_million_rows_take_seconds():
    import time

    targets, predictions = draw(1_000_000, 8, 1, share=0.02)
    began = time.process_time()
    sample_scores(AUC, targets, predictions)
    assert time.process_time() - began < 3


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "task", "num_rows", "num_columns"), [
    ("log_loss", "multiclass", 50_000, 1000), ("accuracy", "multiclass", 50_000, 1000),
    ("f1_macro", "multiclass", 50_000, 1000), ("average_precision", "multilabel", 5000, 30),
    ("average_precision", "binary", 1_000_000, 1), ("f1_macro", "binary", 1_000_000, 1),
])  # fmt: skip
def test_the_bootstrap_is_bounded(name, task, num_rows, num_columns):
    """Beside the score itself."""
    import time

    rng, metric = np.random.default_rng(10), build_metric(name, task)
    probs = rng.random((num_rows, num_columns), dtype=np.float32)
    targets = (rng.random((num_rows, num_columns)) < 0.1).astype(np.float32)
    if task == "multiclass":
        targets, probs = (
            np.eye(1000, dtype=np.float32)[rng.integers(0, 1000, num_rows)],
            probs / probs.sum(axis=1)[:, None],
        )
    began = time.process_time()
    metric.score(targets, probs)
    once = time.process_time() - began
    sample_scores(metric, targets, [probs], max_work=5e6)
    print(name, task, num_rows, num_columns, once, time.process_time() - began - 2 * once)
    assert time.process_time() - began - 2 * once < 4


def test_a_difference_to_what_never_has_a_score_is_nan():
    metric, targets = build_metric("spearman", "regression"), np.arange(8.0)[:, None]
    found = sample_scores(metric, targets, [targets, np.zeros((8, 1))])  # all alike: no rank correlation
    assert np.isnan(found.difference(0, 1)).all()
    found = sample_scores(AUC, np.ones((8, 1)), [targets, -targets])  # whose difference was said to be sure, p = 0
    assert np.isnan(found.difference(0, 1)).all()
