"""scikit-learn's linear models with an L2 penalty, of several training sets, for a rising C."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from scipy import special
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

_TOLERANCE = 1e-4  # scikit-learn's own, of the loss's gradient
_NEVER = 1e-6  # about the probability of what a training set has no row of


class RegularizationPath:
    """Models of S training sets, for one C after another, each begun from the last.

    StandardScaler and LogisticRegression(C), or Ridge(1 / C), fitted on each training set: of multiclass one for all
    columns, else one for each column. A target between 0 and 1 counts as a row of each side, weighted.

    Args:
        features: (N, D).
        targets: (N, K), nan where unknown.
        weights: (S, N, K), of each cell in the loss of each training set; 0: not trained on.
        task: competition.task.
        threads: fits at once.
    """

    def __init__(self, features, targets, weights, task, threads=1):
        self._x, self._targets, self._weights, self._task, self._threads = features, targets, weights, task, threads
        self._scalers = [StandardScaler(copy=False).fit(features[one]) for one in weights.any(axis=2)]
        columns = [slice(None)] if task == "multiclass" else [slice(k, k + 1) for k in range(targets.shape[1])]
        kind, how = LogisticRegression, {"warm_start": True, "max_iter": 1000, "tol": _TOLERANCE}
        if task == "regression":
            kind, how = Ridge, {"solver": "lsqr", "tol": 1e-6}
        self._fits = [(number, one, kind(**how)) for number in range(len(weights)) for one in columns]
        self.num_fits = len(self._fits)
        self._coef = np.zeros((len(weights), features.shape[1], targets.shape[1]))
        self._bias = np.zeros((len(weights), targets.shape[1]))

    def solve(self, c):
        """Fit all models at a C; yield after each."""
        with ThreadPoolExecutor(self._threads) as pool:
            found = pool.map(partial(self._fit, c), self._fits)
            for (number, columns, _), (coef, bias) in zip(self._fits, found, strict=True):
                scaler = self._scalers[number]
                self._coef[number][:, columns] = coef / scaler.scale_[:, None]
                self._bias[number, columns] = bias - (scaler.mean_ / scaler.scale_) @ coef
                yield

    def model(self, number):
        """Return (coefficients (D, K), intercepts (K,)) of a set's models, for features as they are."""
        return self._coef[number].copy(), self._bias[number].copy()

    def _fit(self, c, fit):
        """Return (coefficients (D, k), intercepts (k,)) of some columns, for standardised features."""
        number, columns, model = fit
        truth, weights = self._targets[:, columns], self._weights[number][:, columns]
        rows = np.flatnonzero(weights.any(axis=1))
        if not len(rows):  # of a column that the set knows nothing of
            return np.zeros((self._x.shape[1], truth.shape[1])), np.zeros(truth.shape[1])
        truth, weights = truth[rows], weights[rows, 0]
        if self._task == "regression":
            x = self._scalers[number].transform(self._x[rows])
            model.set_params(alpha=1 / c).fit(x, truth[:, 0], weights)
            return model.coef_[:, None], np.array([model.intercept_])
        sides = truth if self._task == "multiclass" else np.concatenate([1 - truth, truth], axis=1)
        places, labels = np.nonzero(sides)
        known = np.unique(labels)
        coef, bias = np.zeros((self._x.shape[1], sides.shape[1])), np.zeros(sides.shape[1])
        if len(known) > 1:
            x = self._scalers[number].transform(self._x[rows[places]])
            model.set_params(C=c).fit(x, labels, weights[places] * sides[places, labels])
            is_pair = len(known) == 2  # of which scikit-learn has the second one's logit alone
            coef[:, known[-1:] if is_pair else known], bias[known[-1:] if is_pair else known] = (
                model.coef_.T, model.intercept_,
            )  # fmt: skip
        bias[np.setdiff1d(np.arange(len(bias)), known)] = bias.min() + np.log(_NEVER)
        return (coef, bias) if self._task == "multiclass" else (coef[:, 1:] - coef[:, :1], bias[1:] - bias[:1])


def predict(features, model, task):
    """Return predictions (N, K) of features (N, D) by (coefficients, intercepts)."""
    logits = features.astype(np.float64) @ model[0] + model[1]
    if task == "regression":
        return logits
    return special.softmax(logits, axis=1) if task == "multiclass" else special.expit(logits)
