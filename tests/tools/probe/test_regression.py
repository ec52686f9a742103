"""Models of several training sets against scikit-learn's of each."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tools.probe.regression
from tools.probe.regression import RegularizationPath, predict

N, D = 90, 7


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    monkeypatch.setattr(tools.probe.regression, "_TOLERANCE", 1e-10)


def draw(task):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) * 3 + 5
    raw = (x - 5) @ rng.normal(size=(D, 2)) + rng.normal(size=(N, 2)) * 5
    targets = {
        "binary": raw[:, :1] > 0, "multilabel": raw > 0, "regression": raw * 100,
        "multiclass": np.eye(3)[np.digitize(raw[:, 0], [-10, 10])],
    }[task].astype(float)  # fmt: skip
    if task == "multilabel":
        targets[::7, 1] = np.nan
    return x, targets


def fit(task, x, targets, c):
    """Return scikit-learn's predictions, (N, K), as a function of features."""
    if task == "regression":
        model = make_pipeline(StandardScaler(), Ridge(1 / c)).fit(x, targets)
        return lambda rows: model.predict(rows).reshape(len(rows), -1)
    how = {"C": c, "tol": 1e-10, "max_iter": 10_000}
    if task == "multiclass":
        model = make_pipeline(StandardScaler(), LogisticRegression(**how)).fit(x, targets.argmax(axis=1))
        return model.predict_proba
    scaler, known = StandardScaler().fit(x), [~np.isnan(column) for column in targets.T]
    models = [LogisticRegression(**how).fit(scaler.transform(x)[rows], column[rows])
              for rows, column in zip(known, targets.T, strict=True)]  # fmt: skip
    return lambda rows: np.stack([one.predict_proba(scaler.transform(rows))[:, 1] for one in models], axis=1)


def fit_all(x, targets, weights, task, *grid, threads=1):
    """Return predictions of each set, (S, N, K), at the last C."""
    path = RegularizationPath(x, targets, weights, task, threads)
    for c in grid:
        assert len(list(path.solve(c))) == path.num_fits
    return np.stack([predict(x, path.model(number), task) for number in range(len(weights))])


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "regression"])
def test_each_set_has_scikit_learns_model_at_each_c(task):
    x, targets = draw(task)
    sets = np.stack([np.arange(N) % 3 != fold for fold in range(3)])
    weights = sets[:, :, None] * ~np.isnan(targets).astype(bool)
    scale = np.nanstd(targets, axis=0) if task == "regression" else 1
    for grid in ([1e-3], [1e-3, 1e-1, 10]):
        found = fit_all(x, targets, weights, task, *grid, threads=2)
        for one, rows in zip(found, sets, strict=True):
            expected = fit(task, x[rows], targets[rows], grid[-1])(x)
            np.testing.assert_allclose(one / scale, expected / scale, atol=2e-6)


def test_a_target_between_0_and_1_is_a_row_of_each_side():
    x, targets = draw("binary")
    soft, twice = targets * 0.5 + 0.25, np.concatenate([x, x])
    labels, weights = np.repeat([0.0, 1.0], N)[:, None], np.concatenate([1 - soft, soft])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-10))
    model.fit(twice, labels[:, 0], logisticregression__sample_weight=weights[:, 0])
    found = fit_all(x, soft, np.ones((1, N, 1)), "binary", 0.1)[0]
    np.testing.assert_allclose(found[:, 0], model.predict_proba(x)[:, 1], atol=2e-6)


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "regression"])
def test_what_a_set_has_no_row_of_is_not_predicted_there(task):
    x, targets = draw(task)
    rows = targets[:, 0] == 0 if task != "regression" else np.arange(N) > 0
    weights = np.repeat(rows[None, :, None], targets.shape[1], axis=2).astype(float)
    if task == "regression":
        weights[:, :, 0] = 0
    found = fit_all(x, targets, weights * ~np.isnan(targets), task, 0.1)[0]
    assert np.isfinite(found).all()
    assert (np.abs(found[:, 0]) < 1e-5).all()


def test_a_feature_that_is_constant_in_a_training_set_says_nothing_there():
    x, targets = draw("binary")
    x[:, 0], x[0, 0] = 0.1, 1000  # an outlier of the rows that the set leaves out
    rows = np.arange(N) > 0
    found = fit_all(x, targets, rows[None, :, None].astype(float), "binary", 0.1)[0]
    expected = fit("binary", x[rows], targets[rows], 0.1)(x[rows])
    np.testing.assert_allclose(found[rows], expected, atol=2e-6)
