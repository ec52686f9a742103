"""Linear models with an L2 penalty for a rising C: all training sets of a cross-validation as one problem."""

import numpy as np
from scipy import optimize, special
from sklearn.utils.extmath import randomized_svd

_NUM_DIRECTIONS = 256  # of the features, along which the problem is rescaled
_MOST_EXACT = 200_000  # values of features that are computed in double precision; more take half the time in single
_MOST_LOGITS = 20_000_000  # of training sets that are solved at once


class RegularizationPath:
    """Penalised models of N rows on S training sets, for one C after another, each begun from the last.

    As scikit-learn's StandardScaler and LogisticRegression(C), or Ridge(alpha=1 / C), fitted on each training set: it
    minimises C times the summed loss plus half the squared weights; the intercept is free. multiclass: softmax over
    the columns; binary and multilabel: a sigmoid for each; regression: squared error.

    Args:
        features: (N, D) float32.
        targets: (N, K), nan where unknown.
        weights: (S, N, K), of each cell in the loss of each training set; 0: not trained on.
        task: competition.task.
    """

    def __init__(self, features, targets, weights, task):
        dtype = np.float64 if features.size <= _MOST_EXACT else np.float32
        x = np.asarray(features, dtype=np.float64)
        mean, std = x.mean(axis=0), x.std(axis=0)
        self._mean, self._std = mean, np.where(std > 0, std, 1)
        x = (x - self._mean) / self._std
        rows = weights.any(axis=2).astype(np.float64)
        means = rows @ x / rows.sum(axis=1, keepdims=True)  # (S, D), of the training rows
        spreads = rows @ (x * x) / rows.sum(axis=1, keepdims=True) - means**2
        spreads = np.sqrt(np.where(spreads > 1e-10, spreads, 1))  # in double precision, or a constant would have one
        self._x = x.astype(dtype)
        most = min(*x.shape, _NUM_DIRECTIONS)
        _, singular, basis = randomized_svd(self._x, most, n_iter=2, random_state=0)
        variances = singular.astype(np.float64) ** 2 / len(x)
        size, self._problems = max(1, _MOST_LOGITS // targets.size), []
        for first in range(0, len(weights), size):
            of_sets = [one[first : first + size] for one in (weights, means, spreads)]
            self._problems.append(_Problem(self._x, targets, task, basis, variances, *of_sets))

    def solve(self, c):
        """Fit all sets at a C."""
        for problem in self._problems:
            problem.solve(c)

    def predict(self):
        """Return what each set's model predicts for all rows, (S, N, K)."""
        return np.concatenate([problem.predict(self._x) for problem in self._problems])

    def model(self, number):
        """Return (coefficients (D, K), intercepts (K,)) of a set's model, for features as they are."""
        size = self._problems[0].num_sets
        coef, bias = self._problems[number // size].model(number % size)
        coef = coef / self._std[:, None]
        return coef, bias - self._mean @ coef


class _Problem:
    """The training sets that are solved at once; variables are rescaled so that each direction curves alike."""

    def __init__(self, x, targets, task, basis, variances, weights, means, spreads):
        self._x, self._task, self._basis, self._variances, self.num_sets = x, task, basis, variances, len(weights)
        self._truth = np.nan_to_num(targets)
        self._weights = weights.transpose(1, 0, 2)  # (N, S, K)
        self._mean, self._std = means.T, spreads.T  # (D, S)
        self._sizes = self._weights.sum(axis=0)  # (S, K)
        share = (self._weights * self._truth[:, None]).sum(axis=0) / np.maximum(self._sizes, 1e-300)
        self._shape, self._unit = (len(basis[0]), *share.shape), np.ones(share.shape)
        if task == "regression":
            self._bias = share
            spread = (self._weights * (self._truth[:, None] - share) ** 2).sum(axis=0) / np.maximum(self._sizes, 1e-300)
            self._unit = np.where(spread > 0, np.sqrt(spread), 1)  # the loss is of targets in these units
        else:
            share = np.clip(share, 1e-6, 1 - 1e-6)
            self._bias = np.log(share) if task == "multiclass" else special.logit(share)
        self._coef = np.zeros(self._shape)  # (D, S, K), of features standardised on the training rows

    def solve(self, c):
        curvature = self._curvature()
        along = 1 / np.sqrt(c * curvature * self._variances[:, None, None] + 1)  # (k, S, K)
        rest = along[-1] if len(self._basis) < self._shape[0] else np.ones(curvature.shape)
        intercept = 1 / np.sqrt(c * curvature + 1e-12)
        gain, basis = along - rest, self._basis
        split = self._coef.size

        def rescale(z):
            return rest * z + np.tensordot(basis.T, gain * np.tensordot(basis, z, 1), 1)

        start = self._coef, self._bias

        def evaluate(z):
            step = rescale(z[:split].reshape(self._shape))
            coef = start[0] + step
            bias = start[1] + intercept * z[split:].reshape(intercept.shape)
            loss, slope, slope_bias = self._loss(coef, bias)
            slope = rescale(c * slope + coef)
            gradient = np.concatenate([slope.ravel(), (c * intercept * slope_bias).ravel()])
            return c * loss + 0.5 * (coef**2).sum(), gradient, (coef, bias)

        found = optimize.minimize(
            lambda z: evaluate(z)[:2], np.zeros(split + intercept.size), jac=True, method="L-BFGS-B",
            options={"maxiter": 500, "maxfun": 1000, "ftol": 1e-15, "gtol": self._tolerance(c, curvature)},
        )  # fmt: skip
        self._coef, self._bias = evaluate(found.x)[2]

    def _tolerance(self, c, curvature):
        exact = 1e-7 if self._x.dtype == np.float64 else 1e-3
        return exact * np.sqrt(c * curvature.mean() + 1e-12)

    def model(self, number):
        coef = self._coef[:, number] * (self._unit[number] / self._std[:, number, None])
        return coef, self._bias[number] - self._mean[:, number] @ coef

    def predict(self, x):
        return activate(self._logits(x, self._coef, self._bias), self._task).transpose(1, 0, 2)

    def _logits(self, x, coef, bias):
        """Return (N, S, K): raw scores, of regression values in the targets' units."""
        inner = coef * (self._unit / self._std[:, :, None])
        shift = np.einsum("dsk,ds->sk", inner, self._mean)
        logits = x @ inner.reshape(len(inner), -1).astype(x.dtype)
        return logits.astype(np.float64).reshape(len(x), *bias.shape) + (bias - shift)

    def _curvature(self):
        """Return (S, K): the sum over training rows of the loss's second derivative, as the models are now."""
        if self._task == "regression":
            return np.maximum(self._sizes, 1e-300)
        probs = activate(self._logits(self._x, self._coef, self._bias), self._task)
        return np.maximum((self._weights * probs * (1 - probs)).sum(axis=0), 1e-12)

    def _loss(self, coef, bias):
        """Return (loss, its slopes by coef and by bias), summed over rows and sets."""
        logits, truth = self._logits(self._x, coef, bias), self._truth[:, None]
        if self._task == "regression":
            error = (logits - truth) / self._unit
            loss, slope = 0.5 * self._weights * error**2, self._weights * error
        elif self._task == "multiclass":
            norm = special.logsumexp(logits, axis=2, keepdims=True)
            loss = self._weights * truth * (norm - logits)
            slope = self._weights * (np.exp(logits - norm) * truth.sum(axis=2, keepdims=True) - truth)
        else:
            loss = self._weights * (np.logaddexp(0, logits) - truth * logits)
            slope = self._weights * (special.expit(logits) - truth)
        total = slope.sum(axis=0)  # (S, K)
        of_x = self._x.T @ slope.reshape(len(slope), -1).astype(self._x.dtype)
        of_x = of_x.astype(np.float64).reshape(coef.shape) - self._mean[:, :, None] * total
        return loss.sum(), of_x / self._std[:, :, None], total / self._unit


def activate(logits, task):
    """Return predictions of raw scores (..., K)."""
    if task == "regression":
        return logits
    return special.softmax(logits, axis=-1) if task == "multiclass" else special.expit(logits)
