"""Weights are those of a reference, or of a brute search; copies and noise are found."""

import numpy as np
import pytest
from scipy import optimize
from sklearn import metrics

from src.evaluation.blending import (
    Blend,
    Inputs,
    find_copies,
    find_skill,
    fit,
    judge,
    list_methods,
    to_space,
)
from src.evaluation.metrics import METRICS, build_metric


def draw(num_rows, gains, seed=0, num_columns=1):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, num_columns)) < 0.4).astype(float)
    values = [1 / (1 + np.exp(-(gain * (targets - 0.4) + rng.normal(size=targets.shape)))) for gain in gains]
    return targets, np.stack(values)


def build(metric, targets, values, task="binary", **kwargs):
    return Inputs(build_metric(metric, task), targets, values, np.arange(len(targets)) % 5, **kwargs)


def test_least_squares_find_the_weights_that_made_the_targets():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 500, 1))
    inputs = build("rmse", 0.7 * values[0] + 0.3 * values[1], values, "regression", drops_chance=False)
    np.testing.assert_allclose(fit("nnls", inputs, np.arange(500)).weights, [[0.7, 0.3, 0]], atol=1e-3)


def test_least_squares_of_one_bag_are_the_constrained_optimum(monkeypatch):
    targets, values = draw(300, [1, 2, 3])
    rows = np.arange(300)
    monkeypatch.setattr("src.evaluation.blending._bags", lambda inputs, rows: [rows])
    found = fit("nnls", build("log_loss", targets, values, drops_chance=False), rows).weights[0]
    problem = {"bounds": [(0, 1)] * 3, "constraints": {"type": "eq", "fun": lambda w: w.sum() - 1}}
    wanted = optimize.minimize(
        lambda w: ((targets - np.einsum("mnc,m->nc", values, w)) ** 2).sum(), [1 / 3] * 3, **problem
    )
    np.testing.assert_allclose(found, wanted.x, atol=1e-3)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_hill_climbing_of_one_bag_is_as_good_as_a_search_of_all_weights(metric, monkeypatch):
    targets, values = draw(400, [1, 2])
    rows = np.arange(400)
    monkeypatch.setattr("src.evaluation.blending._bags", lambda inputs, rows: [rows])
    inputs = build(metric, targets, values)
    ranks = to_space(values, "ranks")
    score = {"roc_auc": metrics.roc_auc_score, "average_precision": metrics.average_precision_score}[metric]
    wanted = max(score(targets, w * ranks[0] + (1 - w) * ranks[1]) for w in np.linspace(0, 1, 201))
    found = fit("hill", inputs, rows)
    assert score(targets, found.combine(ranks)) == pytest.approx(wanted, abs=5e-4)


def test_logistic_weights_are_those_of_scikit_learn(monkeypatch):
    from scipy.special import expit, logit
    from sklearn.linear_model import LogisticRegression

    targets, values = draw(300, [2, 3])
    rows = np.arange(300)
    monkeypatch.setattr("src.evaluation.blending._bags", lambda inputs, rows, count=1: [rows])
    found = fit("logistic", build("log_loss", targets, values), rows)
    model = LogisticRegression(max_iter=200).fit(logit(values[:, :, 0]).T, targets[:, 0])
    assert (model.coef_ > 0).all()
    np.testing.assert_allclose(
        found.predict(values)[:, 0], model.predict_proba(logit(values[:, :, 0]).T)[:, 1], atol=1e-6
    )
    np.testing.assert_allclose(found.weights[0], model.coef_[0] / model.coef_.sum())
    assert expit(found.intercept[0]) != 0.5


def test_the_power_mean():
    weights, stack = np.array([[0.5, 0.5]]), np.array([[[0.2]], [[0.8]]])
    for exponent, wanted in ((0.0, 0.4), (1.0, 0.5), (2.0, np.sqrt(0.34))):
        assert Blend("power", "values", weights, exponent).combine(stack)[0, 0] == pytest.approx(wanted)


def test_ranks_among_all_rows_or_those_of_a_fold():
    values = np.array([0.1, 0.9, 0.8, 0.2]).reshape(1, 4, 1)
    np.testing.assert_allclose(to_space(values, "ranks").ravel(), [0.25, 1, 0.75, 0.5])
    np.testing.assert_allclose(to_space(values, "ranks", np.array([0, 0, 1, 1])).ravel(), [0.5, 1, 1, 0.5])


def test_copies_are_found_and_the_better_one_stays():
    targets, values = draw(200, [1, 2])
    worse = np.clip(values[1] + np.random.default_rng(1).normal(scale=0.01, size=targets.shape), 0, 1)
    inputs = build("roc_auc", targets, np.stack([values[0], worse, values[1]]))
    order = [metrics.roc_auc_score(targets, one) for one in (worse, values[1])]
    assert find_copies(inputs, 0.99) == ({1: 2} if order[1] > order[0] else {2: 1})
    assert find_copies(inputs, 0.999999) == {}


def test_of_a_loss_the_values_must_be_alike_too():
    targets, values = draw(200, [2])
    both = np.stack([values[0], values[0] ** 8])
    assert find_copies(build("roc_auc", targets, both), 0.999) != {}
    assert find_copies(build("log_loss", targets, both), 0.999) == {}


def test_noise_has_no_skill_and_one_good_column_is_enough():
    targets, values = draw(300, [2, 2], num_columns=4)
    rng = np.random.default_rng(3)
    noise = rng.random(targets.shape)
    partly = np.where(np.arange(4) == 2, values[1], rng.random(targets.shape))
    inputs = build("roc_auc", targets, np.stack([values[0], noise, partly]), "multilabel")
    assert find_skill(inputs, np.arange(300)).tolist() == [True, False, True]


def test_where_none_is_better_than_chance_all_stay():
    targets, _ = draw(100, [1])
    noise = np.random.default_rng(5).random((3, 100, 1))
    assert find_skill(build("roc_auc", targets, noise), np.arange(100)).all()


def test_rows_of_one_group_are_drawn_together():
    from src.evaluation.blending import _bags

    targets, values = draw(60, [1, 1])
    groups = np.arange(60) // 3
    for bag in _bags(build("roc_auc", targets, values, groups=groups), np.arange(30)):
        assert set(bag) <= set(range(30))
        counts = np.bincount(bag, minlength=60).reshape(-1, 3)
        assert (counts == counts[:, :1]).all()


def test_nested_predictions_do_not_see_their_own_part():
    targets, values = draw(200, [1, 1])
    inputs = build("log_loss", targets, values)
    before = judge("logistic", inputs).nested[inputs.parts == 0]
    changed = np.where((inputs.parts == 0)[:, None], 1 - targets, targets)
    after = judge("logistic", build("log_loss", changed, values)).nested[inputs.parts == 0]
    np.testing.assert_array_equal(before, after)


def test_unknown_cells_count_for_nothing():
    targets, values = draw(300, [1, 2], num_columns=2)
    targets[::3, 0] = np.nan
    changed = values.copy()
    changed[:, ::3, 0] = 0.5
    for method in ("nnls", "logistic", "hill"):
        two = [fit(method, build("log_loss", targets, one, "multilabel"), np.arange(300)) for one in (values, changed)]
        np.testing.assert_allclose(two[0].weights, two[1].weights)


@pytest.mark.parametrize("name", METRICS)
def test_ranks_are_averaged_where_the_order_alone_counts(name):
    task = "regression" if METRICS[name].takes == "values" and name != "rmse" else "binary"
    metric = build_metric(name, task)
    targets, values = draw(200, [1])
    scores = [metric.score(targets, one) for one in (values[0], values[0] ** 9)]
    inputs = Inputs(metric, targets, values, np.arange(200) % 5)
    has_ranks = "rank" in list_methods(inputs)
    assert has_ranks == (name in ("roc_auc", "partial_auc", "average_precision"))
    assert not has_ranks or scores[0] == pytest.approx(scores[1], abs=1e-12)


@pytest.mark.parametrize(("space", "exponent"), [("ranks", 1.0), ("values", 1.0), ("values", 3.0), ("values", 0.0)])
def test_a_mean_stays_among_what_it_is_of(space, exponent):
    rng = np.random.default_rng(0)
    weights = rng.random((300, 3))
    weights /= weights.sum(axis=1, keepdims=True)
    for value in (1.0, 0.0, 0.7):
        found = Blend("hill", space, weights, exponent).combine(np.full((3, 2, 300), value))
        assert (found == value).all()
    assert np.einsum("mnc,cm->nc", np.ones((3, 2, 300)), weights).max() > 1  # as sums of floats are
