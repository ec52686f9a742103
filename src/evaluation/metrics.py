"""METRICS: what a score is, computed from targets and probs, and what a fold must hold to be scored."""

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import scipy  # its parts are imported when they are used

from src.config.registry import check_kwargs
from src.errors import UserError


@dataclass(frozen=True)
class Metric:
    """How a metric is computed: a function (targets, probs) -> float, nan where it is undefined.

    takes="probs": targets and probs (N, C). takes="classes": true and predicted labels as scikit-learn has them, (N,)
    class numbers, for multilabel (N, C) bool, for regression (N,) whole grades. takes="values": as probs, but for any
    numbers. With per_column, and in regression, one column (N,) at a time, its targets as bool (values: as they are),
    and the mean of those that have a score. Its keywords are competition.metric_kwargs; one named `task` is given the
    task.
    """

    function: Callable
    greater_is_better: bool = True
    takes: str = "probs"
    fold_needs: str = "rows"  # or "both": a positive and a negative of each column in training and in validation
    per_column: bool = False
    ranges: dict = field(default_factory=dict)  # {keyword: (lowest, highest)}
    bounds: tuple | Callable = (0, 1)  # lowest and highest score, or a function of its keywords that returns them
    is_ranking: bool = False  # only the order of a column's probabilities counts
    name: str = ""  # from here on what build_metric adds
    task: str = ""
    kwargs: dict = field(default_factory=dict)
    weights: list | None = None  # of each column in the mean, or as the function says; None: all alike

    @property
    def has_columns(self):
        is_by_column = self.takes != "classes" or self.task == "multilabel"
        return self.task == "regression" or (self.per_column and is_by_column)

    def is_better(self, new, old):
        """Whether a score is better than another; nan never is, and any other is better than nan."""
        return not math.isnan(new) and (math.isnan(old) or (new > old if self.greater_is_better else new < old))

    def score(self, targets, probs):
        """Return the score, float, of probs (N, C) against targets (N, C) in [0, 1] or any; nan where it is undefined.

        A target that is nan does not count; a function of probs without columns is given it.
        """
        is_known = ~np.isnan(targets)
        if not is_known.all():
            rows = is_known.any(axis=1)
            targets, probs, is_known = np.asarray(targets)[rows], np.asarray(probs)[rows], is_known[rows]
        assert not (np.isnan(probs) & is_known).any(), "a prediction that is nan would count as a label, or as no row"
        if not len(targets):
            return math.nan
        if self.has_columns:
            columns = self.score_columns(targets, probs)
            weights = np.where(np.isnan(columns), 0.0, 1.0 if self.weights is None else self.weights)
            return float(np.nansum(columns * weights) / weights.sum()) if weights.any() else math.nan
        if self.takes == "classes":  # in an unknown column both are negative, which is right and no error of F1's
            targets, probs = self._labels(targets), self._labels(np.where(is_known, probs, 0))
        return self._call(targets, probs)

    def score_columns(self, targets, probs):
        """Return the score of each column, (C,) float64; nan where it is undefined or there is none per column."""
        scores = np.full(np.shape(targets)[1], np.nan)
        if not self.has_columns:
            return scores if len(scores) > 1 else np.array([self.score(targets, probs)])
        is_known, truths, probs = ~np.isnan(targets), np.asarray(targets), np.asarray(probs)
        if self.task != "regression" and self.takes != "values":
            truths, probs = self.positives(truths), self.positives(probs) if self.takes == "classes" else probs
        for column in range(len(scores)):
            truth, values = truths[is_known[:, column], column], probs[is_known[:, column], column]
            if not len(truth) or (self.fold_needs == "both" and not 0 < truth.sum() < len(truth)):
                continue
            if self.task == "regression" and self.takes == "classes":
                truth, values = round_to_grades(truth, truth), round_to_grades(values, truth)
            scores[column] = self._call(truth, values)
        return scores

    def positives(self, targets):
        """Return (N, C) bool: which columns are true of a row."""
        return positives(targets, self.task == "multiclass")

    def _call(self, targets, probs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of an absent class
            return float(self.function(targets, probs, **self.kwargs))

    def _labels(self, values):
        is_positive = self.positives(values)
        return {"binary": is_positive[:, 0], "multiclass": is_positive.argmax(axis=1)}.get(self.task, is_positive)


def build_metric(name, task, /, **kwargs):
    """Return the Metric of a name and task; kwargs: its function's, and with columns their `weights` in the mean."""
    metric = replace(METRICS[name], name=name, task=task)
    if task == "regression" and metric.takes == "probs":
        raise UserError(f"competition.metric={name}: scores classes, a regression task has values; set it to rmse")
    parameters = inspect.signature(metric.function).parameters
    known = {key: one.default for key, one in parameters.items() if one.default is not one.empty}
    known |= {"weights": ()} if metric.has_columns else {}
    check_kwargs("competition.metric_kwargs", known, kwargs, name, **metric.ranges)
    weights = kwargs.get("weights") or None
    numbers = [1] if weights is None else weights
    if not any(numbers) or not all(type(one) in (int, float) and 0 <= one < math.inf for one in numbers):
        raise UserError(f"competition.metric_kwargs.weights={weights}: must be numbers of 0 or more, not all of them 0")
    bounds = metric.bounds(**kwargs) if callable(metric.bounds) else metric.bounds
    kwargs = {key: value for key, value in kwargs.items() if key in parameters}
    kwargs |= {"task": task} if "task" in parameters else {}
    return replace(metric, kwargs=kwargs, weights=weights, bounds=bounds)


def positives(targets, is_one_class):
    """Return (N, C) bool, which columns are true of a row: the largest where a row has one class, else all from 0.5."""
    targets = np.asarray(targets)
    if is_one_class and targets.shape[1] > 1:
        return targets.argmax(axis=1)[:, None] == np.arange(targets.shape[1])
    return targets >= 0.5


def round_to_grades(values, grades):
    """Return values (N,) rounded to whole grades, int64, at least the smallest and at most the largest of `grades`."""
    return np.rint(np.clip(values, np.min(grades), np.max(grades))).astype(np.int64)


def sklearn_metrics():
    from sklearn import metrics  # here, so that a report that scores nothing starts half a second sooner

    return metrics


def roc_auc(positive, probs):
    """Area under the ROC curve: how often a positive row scores above a negative one; guessing gives 0.5."""
    return count_below(positive, probs)[0].sum() / (positive.sum() * (~positive).sum())


def count_below(positive, probs):
    """Return how many negatives are below each positive, and how many positives below each negative; ties count half.

    The smaller side alone is sorted: of one of 1,000 classes it is a few rows.
    """
    sides = probs[positive], probs[~positive]
    few, many = sorted(sides, key=len)
    order = np.argsort(few)
    first, behind = (np.searchsorted(few[order], many, side) for side in ("left", "right"))
    below_few = np.empty(len(few))
    below_few[order] = sum(np.bincount(one, minlength=len(few) + 1) for one in (first, behind)).cumsum()[:-1] / 2
    below = below_few, (first + behind) / 2
    return below if few is sides[0] else below[::-1]


def partial_auc(positive, probs, min_tpr=0.8):
    """Area under the ROC curve above a true-positive rate, in [0, 1 - min_tpr] (kaggle.com, ISIC 2024 challenge)."""
    # flipped, it is the area below a false-positive rate; scikit-learn's is standardised to [0.5, 1] (McClish, 1989)
    max_fpr = 1 - min_tpr
    lowest = max_fpr**2 / 2
    return lowest + (max_fpr - lowest) * (2 * sklearn_metrics().roc_auc_score(~positive, -probs, max_fpr=max_fpr) - 1)


def average_precision(positive, probs):
    """Area under the precision-recall curve, as a sum of steps; guessing gives the share of positives."""
    return sklearn_metrics().average_precision_score(positive, probs)


def log_loss(targets, probs, task, weights=()):
    """Mean negative log-likelihood of soft targets (N, C): per value for sigmoid tasks, per row for multiclass.

    weights: of each column's values, or of the classes: a row weighs as its class (its targets' mean of them); (): 1.
    Reference: kaggle.com, RSNA 2019 (columns: "any" counts twice) and RSNA 2024 (classes: severe ones count 4 times).
    """
    targets = np.asarray(targets, dtype=np.float64)
    probs = np.clip(np.asarray(probs, dtype=np.float64), 1e-7, 1 - 1e-7)
    if task == "multiclass":
        losses = -(targets * np.log(probs)).sum(axis=1)
        weights = targets @ np.array(weights) if weights else 1.0
    else:
        losses = -(targets * np.log(probs) + (1 - targets) * np.log(1 - probs))
        weights = np.array(weights or 1.0)
    weights = np.where(np.isnan(losses), 0, weights)
    return float(np.nansum(losses * weights) / weights.sum())


def rmse(targets, values):
    """Root mean squared error."""
    return sklearn_metrics().root_mean_squared_error(targets.astype(np.float64), values)


def mae(targets, values):
    """Mean absolute error."""
    return sklearn_metrics().mean_absolute_error(targets.astype(np.float64), values)


def r2(targets, values):
    """Share of the targets' variance that is explained (coefficient of determination); undefined of one value alone."""
    return sklearn_metrics().r2_score(targets.astype(np.float64), values) if np.ptp(targets) > 0 else math.nan


def spearman(targets, values):
    """Spearman's rank correlation; undefined where all targets or all values are the same."""
    return scipy.stats.spearmanr(targets, values).statistic


def accuracy(labels, predicted):
    """Share of rows that are right; multilabel: right in every column."""
    return sklearn_metrics().accuracy_score(labels, predicted)


def balanced_accuracy(labels, predicted):
    """Mean recall of the classes."""
    return sklearn_metrics().balanced_accuracy_score(labels, predicted)


def f1_macro(labels, predicted):
    """Mean F1 of the classes (binary: of both); multilabel: of the columns that have a positive or a predicted one."""
    return sklearn_metrics().f1_score(labels, predicted, average="macro", zero_division=np.nan)


def f1_micro(labels, predicted):
    """F1 of all decisions together; binary and multiclass: the accuracy."""
    return sklearn_metrics().f1_score(labels, predicted, average="micro", zero_division=np.nan)


def fbeta_samples(labels, predicted, beta=1.0):
    """Mean F-beta of the rows (kaggle.com, Planet 2017); of one label a row: the accuracy."""
    if labels.ndim == 1:
        return accuracy(labels, predicted)
    return row_fbeta((labels & predicted).sum(axis=1), labels.sum(axis=1), predicted.sum(axis=1), beta).mean()


def row_fbeta(hits, num_true, num_predicted, beta):
    """Return F-beta of rows, from their counts (N,) of labels; 1 where none is true and none predicted."""
    total = beta**2 * num_true + num_predicted
    return np.where(total > 0, (1 + beta**2) * hits / np.maximum(total, 1e-12), 1.0)


def f1_probabilistic(positive, probs):
    """F1 in which a row counts as its probability (Yacouby and Axman, 2020, Eval4NLP; kaggle.com, RSNA 2022)."""
    return 2 * probs[positive].sum() / max(probs.sum() + positive.sum(), 1e-12)


def f1_best(positive, probs):
    """F1 of the positives at the threshold that is best for these rows."""
    precision, recall, _ = sklearn_metrics().precision_recall_curve(positive, probs)
    return (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1].max()  # without "none at all"


def quadratic_kappa(labels, predicted):
    """Agreement beyond chance, weighted by the squared distance of classes in the targets' order (Cohen, 1968)."""
    # without an absent class its neighbours would be closer
    classes = np.arange(min(0, labels.min(), predicted.min()), max(labels.max(), predicted.max()) + 1)
    return sklearn_metrics().cohen_kappa_score(labels, predicted, labels=classes, weights="quadratic")


METRICS = {
    "roc_auc": Metric(roc_auc, fold_needs="both", per_column=True, is_ranking=True),
    "partial_auc": Metric(partial_auc, fold_needs="both", per_column=True, is_ranking=True,
                          ranges={"min_tpr": (0, 0.99)}, bounds=lambda min_tpr=0.8, **_: (0, 1 - min_tpr)),
    "average_precision": Metric(average_precision, fold_needs="both", per_column=True, is_ranking=True),
    "log_loss": Metric(log_loss, greater_is_better=False, bounds=(0, math.inf)),
    "rmse": Metric(rmse, greater_is_better=False, takes="values", per_column=True, bounds=(0, math.inf)),
    "mae": Metric(mae, greater_is_better=False, takes="values", per_column=True, bounds=(0, math.inf)),
    "r2": Metric(r2, takes="values", per_column=True, bounds=(-math.inf, 1)),
    "spearman": Metric(spearman, takes="values", per_column=True, bounds=(-1, 1)),
    "accuracy": Metric(accuracy, takes="classes"),
    "balanced_accuracy": Metric(balanced_accuracy, takes="classes", per_column=True),
    "f1_macro": Metric(f1_macro, takes="classes"),
    "f1_micro": Metric(f1_micro, takes="classes"),
    "fbeta_samples": Metric(fbeta_samples, takes="classes", ranges={"beta": (0.01, 100)}),
    "f1_probabilistic": Metric(f1_probabilistic, fold_needs="both", per_column=True),
    "f1_best": Metric(f1_best, fold_needs="both", per_column=True),
    "quadratic_kappa": Metric(quadratic_kappa, takes="classes", per_column=True, bounds=(-1, 1)),
}  # fmt: skip
