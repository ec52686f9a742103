"""Models of several training sets, solved together, against scikit-learn's of each."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tools.probe.regression
from tools.probe.regression import RegularizationPath

N, D = 90, 7


def draw(task):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) * 3 + 5).astype(np.float32)
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


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "regression"])
def test_each_set_has_scikit_learns_model_at_each_c(task, monkeypatch):
    monkeypatch.setattr(tools.probe.regression, "_MOST_LOGITS", 2 * N * 2)  # so that sets are solved by twos, or ones
    x, targets = draw(task)
    sets = np.stack([np.arange(N) % 3 != fold for fold in range(3)])
    path = RegularizationPath(x, targets, sets[:, :, None] * ~np.isnan(targets).astype(bool), task)
    scale = np.nanstd(targets, axis=0) if task == "regression" else 1
    for c in (1e-3, 1e-1, 10):
        path.solve(c)
        for number, rows in enumerate(sets):
            expected = fit(task, x[rows].astype(float), targets[rows], c)(x.astype(float))
            np.testing.assert_allclose(path.predict()[number] / scale, expected / scale, atol=2e-6)
    coef, bias = path.model(2)
    raw = x.astype(float) @ coef + bias
    found = tools.probe.regression.activate(raw, task)
    np.testing.assert_allclose(found / scale, path.predict()[2] / scale, atol=1e-9)


def test_a_feature_that_is_constant_in_a_training_set_says_nothing_there(monkeypatch):
    x, targets = draw("binary")
    x[:, 0], x[0, 0] = 0.1, 1000  # an outlier of the rows that the set leaves out
    rows = np.arange(N) > 0
    for most in (10**9, 0):  # in double and in single precision
        monkeypatch.setattr(tools.probe.regression, "_MOST_EXACT", most)
        path = RegularizationPath(x, targets, rows[None, :, None].astype(float), "binary")
        path.solve(0.1)
        expected = fit("binary", x[rows].astype(float), targets[rows], 0.1)(x[rows].astype(float))
        np.testing.assert_allclose(path.predict()[0][rows], expected, atol=2e-6 if most else 1e-3)


def test_more_features_than_rows_and_directions(monkeypatch):
    monkeypatch.setattr(tools.probe.regression, "_NUM_DIRECTIONS", 4)
    rng = np.random.default_rng(1)
    x, targets = rng.normal(size=(30, 50)), (rng.random((30, 1)) < 0.5).astype(float)
    path = RegularizationPath(x, targets, np.ones((1, 30, 1)), "binary")
    path.solve(0.1)
    np.testing.assert_allclose(path.predict()[0], fit("binary", x, targets, 0.1)(x), atol=2e-6)
