"""Probabilities -> labels: thresholds that a metric of labels asks for, found on out-of-fold predictions and judged."""

from dataclasses import dataclass, replace

import numpy as np
from sklearn import metrics

from src.evaluation.metrics import Metric, build_metric
from src.evaluation.sampling import sample_scores

_MOST_CLASSES, _MOST_CELLS, _NUM_CANDIDATES = 50, 2e7, 64  # of the search over classes: rows x classes^2 a sweep
_MOST_VALUES = 2e6  # rows x columns of that over columns


@dataclass(frozen=True)
class Decision:
    """How probabilities (N, C) become labels: a column is true from its threshold on."""

    thresholds: np.ndarray | list | float = 0.5  # (C,); regression: a column's {grade: lowest value}, but the lowest
    task: str = "binary"  # multiclass: that class is true whose probability is most times its threshold
    may_be_none: bool = True  # False: a row without any label gets its largest

    def labels(self, probs):
        """Return (N, C) bool; of regression the grades, int64."""
        probs = np.asarray(probs)
        if self.task == "regression":
            grades = np.rint(probs).astype(np.int64)
            for column, one in enumerate([] if isinstance(self.thresholds, float) else self.thresholds):
                if one:
                    grades[:, column] = min(one) - 1 + np.searchsorted([*one.values()], probs[:, column], "right")
            return grades
        if self.task == "multiclass":
            return (probs / self.thresholds).argmax(axis=1)[:, None] == np.arange(probs.shape[1])
        is_label = probs >= self.thresholds
        if not self.may_be_none:
            is_label[np.arange(len(probs)), probs.argmax(axis=1)] |= ~is_label.any(axis=1)
        return is_label


def read_decision(scores, target_names, task, may_be_none=True):
    """Return the Decision that scores.json, a dict, holds; the plain one where it has no thresholds."""
    if "thresholds" not in scores:
        return Decision(task=task, may_be_none=may_be_none)
    thresholds = [scores["thresholds"][name] for name in target_names]
    if task == "regression":
        thresholds = [{int(grade): value for grade, value in one.items()} for one in thresholds]
        return Decision(thresholds, task)
    return Decision(np.array(thresholds), task, scores["may_be_none"])


def _f1(labels, predicted):
    return metrics.f1_score(labels, predicted, zero_division=0)


def label_metric(metric, is_asked=False):
    """Return the Metric of labels that thresholds are found for; is_asked: labels are, whatever the metric takes."""
    if metric.takes == "classes":
        return metric
    if metric.name == "f1_best" and metric.task == "multiclass":
        return build_metric("f1_macro", metric.task)
    if metric.name == "f1_best" or is_asked:
        f1 = Metric(_f1, takes="classes", fold_needs="both", per_column=True, name="f1_best", task=metric.task)
        return replace(f1, weights=metric.weights if metric.has_columns else None)
    return None


def judge_thresholds(metric, targets, probs, parts, groups=None, may_be_none=True, max_work=2e7):
    """Find thresholds for a metric of labels, and score those of each part's rows that the other parts' rows give.

    Args:
        metric: of `label_metric`.
        targets, probs: (N, C).
        parts: (N,), the folds; of a single one its rows, or groups, are dealt into five.
        groups, max_work: of `sample_scores`.

    Returns:
        (Decision, plain, nested): the one to use, and the (score, interval) of the plain thresholds and of the nested
        ones. Found thresholds are used where nested is better by more than noise: one-sided, at 95 %.
    """
    if len(np.unique(parts)) == 1:
        units = np.arange(len(parts)) if groups is None else np.unique(groups, return_inverse=True)[1]
        parts = np.random.default_rng(0).permutation(units.max() + 1)[units] % 5
    plain = Decision(plain_thresholds(metric, targets), metric.task, may_be_none)
    nested = np.empty(probs.shape)
    for part in np.unique(parts):
        own = parts == part
        found = replace(plain, thresholds=find_thresholds(metric, targets[~own], probs[~own]))
        nested[own] = found.labels(probs[own])
    both = sample_scores(metric, targets, [plain.labels(probs), nested], groups, max_work=max_work)
    gain, low, high, _ = both.difference(0, 1)
    is_better = (gain if metric.greater_is_better else -gain) > 1.645 / 1.96 * (high - low) / 2 and gain != 0
    decision = replace(plain, thresholds=find_thresholds(metric, targets, probs)) if is_better else plain
    return decision, *((float(both.scores[k]), both.interval(k)) for k in (0, 1))


def plain_thresholds(metric, targets):
    """Return thresholds of 0.5; of regression those halfway between the grades of each column, {} of more than 50."""
    if metric.task != "regression":
        return np.full(np.shape(targets)[1], 0.5)
    found = []
    for column in np.asarray(targets).T:
        grades = np.rint(column[~np.isnan(column)]).astype(np.int64)
        low, high = (int(grades.min()), int(grades.max())) if len(grades) else (0, 0)
        found.append({grade: grade - 0.5 for grade in range(low + 1, high + 1) if high - low < _MOST_CLASSES})
    return found


def find_thresholds(metric, targets, probs):
    """Return thresholds (C,) of a `Decision` that make a metric of labels best on targets and probs (N, C).

    They lie halfway between the lowest probability that is taken and the next one below, 0 if there is none. Metrics
    that are means over columns, and those of one column, have the best of all thresholds, in O(N log N); F1 and
    accuracy of several columns together, and metrics of classes, are climbed one column after the other. A metric that
    is not among CRITERIA, and more than 50 classes, keep 0.5.
    """
    if metric.task == "regression":
        return _search_grades(CRITERIA.get(metric.name), targets, probs, plain_thresholds(metric, targets))
    targets, probs, name = np.asarray(targets), np.asarray(probs, dtype=np.float64), metric.name
    criterion, count = CRITERIA.get(name), targets.shape[1]
    thresholds = np.full(count, 0.5)
    if criterion is None or not len(targets):
        return thresholds
    if metric.task == "multiclass":
        return _search_classes(criterion, metric.positives(targets).argmax(axis=1), probs)
    targets, probs = _draw(max(1000, int(_MOST_VALUES / count)), targets, probs)
    is_positive, is_known = metric.positives(targets), ~np.isnan(targets)
    is_joint = count > 1 and name in ("accuracy", "f1_micro")  # a column's best threshold depends on the others'
    if count > 1 and name.startswith("f1"):
        criterion = CRITERIA["f1_best"]
    is_wrong = ((probs >= 0.5) != is_positive) & is_known
    tables = np.array([_tabulate(*one) for one in zip(is_positive.T, (probs >= 0.5).T, is_known.T, strict=True)])
    num_wrong = is_wrong.sum(axis=1)
    for _ in range(2 if is_joint else 1):
        for column in range(count):
            rows, rest = is_known[:, column], 0
            if is_joint and name == "accuracy":  # the column decides about the rows that are right elsewhere
                rows = rows & (num_wrong == is_wrong[:, column])
            elif is_joint:
                rest = tables.sum(axis=0) - tables[column]
            truth, values = is_positive[rows, column], probs[rows, column]
            if len(truth) and (is_joint or truth.any()):
                thresholds[column] = _search_column(criterion, truth, values, rest)
                is_label = probs[:, column] >= thresholds[column]
                num_wrong -= is_wrong[:, column]
                is_wrong[:, column] = (is_label != is_positive[:, column]) & is_known[:, column]
                num_wrong += is_wrong[:, column]
                tables[column] = _tabulate(is_positive[:, column], is_label, is_known[:, column])
    return thresholds


def _draw(most, *arrays):
    """Return the arrays, or so many of their rows, which bounds the search."""
    if len(arrays[0]) <= most:
        return arrays
    rows = np.random.default_rng(0).choice(len(arrays[0]), most, replace=False)
    return tuple(one[rows] for one in arrays)


def _tabulate(is_positive, is_label, is_known):
    """The confusion table (2, 2) of one column: true side, then predicted side."""
    return np.bincount(2 * is_positive[is_known] + is_label[is_known], minlength=4).reshape(2, 2)


def _search_column(criterion, is_positive, probs, rest):
    """The threshold of one column, (N,), whose table plus `rest` is the best; of several the nearest to 0.5."""
    order = np.argsort(-probs, kind="stable")
    ordered = probs[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True)  # of equal ones, which are taken together
    taken = np.append(0, np.flatnonzero(is_last) + 1)
    hits = np.append(0, np.cumsum(is_positive[order])[is_last])
    misses, false_alarms = hits[-1] - hits, taken - hits
    tables = np.stack([false_alarms[-1] - false_alarms, false_alarms, misses, hits], axis=1).reshape(-1, 2, 2)
    steps = np.append(ordered[is_last], 0)
    highest = (steps[0] + 1) / 2 if steps[0] < 1 else np.nextafter(steps[0], 2)  # takes none
    return _pick(criterion(tables + rest), np.append(highest, (steps[:-1] + steps[1:]) / 2), 0.5)


def _pick(values, thresholds, preferred):
    values = np.nan_to_num(values, nan=-np.inf)
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return thresholds[best[np.abs(thresholds[best] - preferred).argmin()]]


def _search_classes(criterion, truth, probs):
    """Thresholds (K,) of K classes, climbed one class after the other over quantiles of where it begins to win."""
    count = probs.shape[1]
    thresholds, most = np.full(count, 0.5), int(max(1000, _MOST_CELLS / count**2))
    if count > _MOST_CLASSES:
        return thresholds
    truth, probs = _draw(most, truth, probs)
    totals, quantiles = np.bincount(truth, minlength=count), np.linspace(0, 1, _NUM_CANDIDATES)
    for _ in range(2):
        for one in range(count):
            others = probs / thresholds
            others[:, one] = -1
            other = others.argmax(axis=1)
            wins_below = probs[:, one] / np.maximum(others.max(axis=1), 1e-12)  # a row is of this class below it
            candidates = np.unique(np.append(np.quantile(wins_below, quantiles), thresholds[one]))
            candidates = candidates[candidates > 0]
            bins = np.searchsorted(candidates, wins_below)  # candidates that leave the row to this class
            shape = (len(candidates) + 1, count, count)
            cells = np.bincount(np.ravel_multi_index((bins, truth, other), shape), minlength=np.prod(shape))
            tables = cells.reshape(shape).cumsum(axis=0)[:-1]  # of the rows that other classes keep
            tables[:, :, one] = totals - tables.sum(axis=2)
            thresholds[one] = _pick(criterion(tables), candidates, thresholds[one])
    return thresholds


def _search_grades(criterion, targets, values, thresholds):
    """Move each column's thresholds between grades, one after the other, over quantiles of the values around it.

    Reference: the optimised rounding of kaggle.com's Crowdflower 2015 and APTOS 2019.
    """
    found = []
    for truth, own, steps in zip(np.asarray(targets).T, np.asarray(values).T, thresholds, strict=True):
        if criterion is None or not steps:
            found.append(steps)
            continue
        grades, is_known = list(steps), ~np.isnan(truth)
        own, cuts, count = own[is_known], np.array([*steps.values()]), len(steps) + 1
        truth = np.rint(truth[is_known]).astype(np.int64) - grades[0] + 1
        for cut in [*range(len(cuts))] * 3:
            given = np.searchsorted(cuts, own, "right")
            is_near = (given == cut) | (given == cut + 1)  # which get one of the two grades beside it
            if not is_near.any():
                continue
            candidates = np.append(np.quantile(own[is_near], np.linspace(0, 1, _NUM_CANDIDATES)), cuts[cut])
            candidates = np.unique(candidates)
            base = np.bincount(truth[~is_near] * count + given[~is_near], minlength=count**2).reshape(count, count)
            cells = np.searchsorted(candidates, own[is_near], "right") * count + truth[is_near]
            cells = np.bincount(cells, minlength=(len(candidates) + 1) * count).reshape(-1, count)
            tables = np.repeat(base[None], len(candidates), axis=0)
            tables[:, :, cut] += cells.cumsum(axis=0)[:-1]  # below the candidate
            tables[:, :, cut + 1] += cells.sum(axis=0) - cells.cumsum(axis=0)[:-1]
            cuts[cut] = _pick(criterion(tables), candidates, cuts[cut])
        found.append(dict(zip(grades, cuts.tolist(), strict=True)))
    return found


def _accuracy(tables):
    return np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2))


def _recall(tables):
    with np.errstate(invalid="ignore"):
        return np.nanmean(np.diagonal(tables, axis1=1, axis2=2) / tables.sum(axis=2), axis=1)


def _each_f1(tables):
    counts = tables.sum(axis=1) + tables.sum(axis=2)
    return 2 * np.diagonal(tables, axis1=1, axis2=2) / np.where(counts, counts, np.nan)


def _kappa(tables):
    distances = np.subtract.outer(*2 * [np.arange(tables.shape[1])]) ** 2
    expected = np.einsum("ti,tj,ij->t", tables.sum(axis=2), tables.sum(axis=1), distances) / tables.sum(axis=(1, 2))
    return 1 - (tables * distances).sum(axis=(1, 2)) / np.where(expected, expected, np.nan)


CRITERIA = {  # what a metric of labels makes of confusion tables (T, K, K), the true class first: (T,)
    "accuracy": _accuracy,
    "f1_micro": _accuracy,  # of one column or of classes
    "balanced_accuracy": _recall,
    "quadratic_kappa": _kappa,
    "f1_macro": lambda tables: np.nanmean(_each_f1(tables), axis=1),
    "f1_best": lambda tables: np.nan_to_num(_each_f1(tables)[:, 1]),  # of the positives
}
