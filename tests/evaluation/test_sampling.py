"""Intervals of scores: DeLong against its double sum, the bootstrap against a formula, groups, and coverage."""

import numpy as np
import pytest

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
    assert high - low == pytest.approx(2 * 1.959963984540054 * np.sqrt(found.covariance[0, 0]))
    assert found.method == "DeLong"


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
        def score(self, targets, probs):
            seen.append(sorted(probs[:, 0].astype(int)))
            return 0.0

    _bootstrap(Rows(), np.zeros((6, 1)), [np.arange(6.0)[:, None]], units, 3, 200, 0)
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


def test_a_smaller_sample_varies_more():
    """A public leaderboard of 30 % of the rows: wider by 1 / sqrt(0.3)."""
    found = sample_scores(AUC, *draw(500, 7))
    assert np.ptp(found.interval(0, share=0.3)) == pytest.approx(np.ptp(found.interval(0)) / np.sqrt(0.3))


@pytest.mark.slow
def test_a_million_rows_take_seconds():
    import time

    targets, predictions = draw(1_000_000, 8, 1, share=0.02)
    began = time.process_time()
    sample_scores(AUC, targets, predictions)
    assert time.process_time() - began < 3
