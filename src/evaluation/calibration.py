"""CALIBRATIONS: out-of-fold targets and probs (N, C) -> (a function of probs, what it is in words)."""

import numpy as np
import scipy

from src.errors import listing
from src.evaluation.metrics import log_loss


def temperature(targets, probs, task):
    """Divide logits by the number, within 1/50 to 50, of the lowest log loss; above 1 every row becomes less sure.

    Multiclass: softmax(log p / T); else sigmoid(logit(p) / T), which keeps a column's order.

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599, section 4.2.
    """

    def scale(values, number):
        values = np.clip(np.asarray(values, dtype=np.float64), 1e-12, 1 - 1e-12)
        if task == "multiclass":
            return scipy.special.softmax(np.log(values) / number, axis=1)
        return scipy.special.expit(scipy.special.logit(values) / number)

    loss = lambda power: log_loss(targets, scale(probs, np.exp(power)), task)  # noqa: E731
    number = np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-np.log(50), np.log(50)), method="bounded").x)
    return lambda values: scale(values, number), f"temperature {number:.3f}"


def temperature_per_column(targets, probs, task):
    """Find a temperature for each column, which classes of a row do not have."""
    assert task != "multiclass"
    return _fit_columns(lambda known, values: temperature(known, values, task), targets, probs)


def isotonic(targets, probs, task):
    """Replace each column by the rising steps that fit best; of multiclass, rows are then divided by their sums.

    Steps stay 1 / (n + 2) from 0 and 1, since n rows do not show rarer cases. Values on one step are ties from then on.

    Reference: Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates, 2002.
    """
    from sklearn.isotonic import IsotonicRegression  # here, as it takes half a second

    def fit(known, values):
        rest = 1 / (len(known) + 2)
        steps = IsotonicRegression(y_min=rest, y_max=1 - rest, out_of_bounds="clip").fit(values, known)
        return steps.predict, f"isotonic in {len(np.unique(steps.y_thresholds_))} steps"

    apply, words = _fit_columns(fit, targets, probs)
    if task != "multiclass":
        return apply, words
    return lambda values: apply(values) / apply(values).sum(axis=1, keepdims=True), words


def _fit_columns(fit, targets, probs):
    columns = [(known, values, ~np.isnan(known)) for known, values in zip(targets.T, probs.T, strict=True)]
    maps, words = zip(*(fit(known[rows], values[rows]) for known, values, rows in columns), strict=True)
    join = np.column_stack
    return lambda values: join([one(column) for one, column in zip(maps, values.T, strict=True)]), listing(words)


CALIBRATIONS = {"temperature": temperature, "temperature_per_column": temperature_per_column, "isotonic": isotonic}
