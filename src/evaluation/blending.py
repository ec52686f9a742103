"""Predictions of the same N rows by M inputs -> one: weights by METHODS, judged by nested cross-validation."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from scipy import linalg, optimize, special, stats

from src.evaluation.metrics import Metric
from src.evaluation.sampling import draw_units, number_units

_NUM_BAGS, _MOST_ROWS = 10, 6000
_NUM_STEPS, _PATIENCE = 25, 8  # of hill climbing: additions in all, and without a better score
_EXPONENTS = (0.0, 0.5, 2.0, 4.0)  # 0: the geometric mean
_CLIP = 1e-6  # of probabilities, before their logits
_FITTED = ("power", "hill", "nnls", "logistic", "linear")


@dataclass(frozen=True)
class Inputs:
    """The out-of-fold predictions of M inputs for the same N rows, and by what they are judged."""

    metric: Metric
    targets: np.ndarray  # (N, C), nan where unknown
    values: np.ndarray  # (M, N, C)
    parts: np.ndarray  # (N,) int: rows of one part are predicted by weights of the others
    groups: np.ndarray | None = None  # (N,); equal ones are one unit of the bags
    ranked_by: np.ndarray | None = None  # (N,) int: ranks are taken among rows of one number; None: among all
    per_column: bool = False  # weights for each column of its own
    drops_chance: bool = True  # inputs that are no better than chance weigh nothing
    exponent: float | None = None  # of the power mean; None: the best of four
    seed: int = 0

    @cached_property
    def units(self):
        """(N,) int, equal for rows of one group."""
        return number_units(self.groups, len(self.targets))

    @property
    def are_probs(self):
        """Whether the predictions are probabilities, or values of a regression, which need not be."""
        is_inside = (self.values >= 0) & (self.values <= 1)
        return self.metric.task == "regression" or bool(is_inside.all())

    @cached_property
    def _spaces(self):
        return {"values": self.values}

    def in_space(self, space):
        """Return the predictions (M, N, C) as values, ranks or logits."""
        if space not in self._spaces:
            self._spaces[space] = to_space(self.values, space, self.ranked_by)
        return self._spaces[space]

    @property
    def space(self):
        """What weights of hill climbing and least squares are of."""
        return "ranks" if self.metric.is_ranking else "values"

    @property
    def column_sets(self):
        """The columns that share weights."""
        columns = range(self.targets.shape[1])
        return [[column] for column in columns] if self.per_column else [list(columns)]


@dataclass(frozen=True)
class Blend:
    """Weights, and how they make one prediction of M."""

    method: str
    space: str  # values, ranks or logits
    weights: np.ndarray  # (C, M), 0 or more, a row's sum is 1
    exponent: float = 1.0
    scale: np.ndarray | None = None  # (C,), of logistic and linear
    intercept: np.ndarray | None = None  # (C,)
    is_one_class: bool = False  # rows are brought back to a sum of 1
    details: dict = field(default_factory=dict)

    def combine(self, stack):
        """Return (N, C) of the inputs' predictions (M, N, C), which are in the blend's space."""
        if self.exponent == 0:
            found = np.exp(np.einsum("mnc,cm->nc", np.log(np.maximum(stack, 1e-12)), self.weights))
        elif self.exponent != 1:
            found = np.einsum("mnc,cm->nc", stack**self.exponent, self.weights) ** (1 / self.exponent)
        else:
            found = np.einsum("mnc,cm->nc", stack, self.weights)
        found = np.clip(found, stack.min(axis=0), stack.max(axis=0))  # rounding alone takes a mean of ones above 1
        if self.scale is not None:
            found = found * self.scale + self.intercept
        if self.space == "logits":
            found = special.expit(found)
        if self.is_one_class and self.space != "ranks":
            found = found / np.maximum(found.sum(axis=1, keepdims=True), 1e-12)
        return found

    def predict(self, values):
        """Return (N, C) of other rows' predictions (M, N, C), such as the test rows', which are ranked among them."""
        return self.combine(to_space(values, self.space))


@dataclass(frozen=True)
class Candidate:
    """A method, what it chose on all rows, and what it predicts for each part of them from the other parts."""

    blend: Blend
    nested: np.ndarray  # (N, C)
    in_sample: np.ndarray  # (N, C)


def to_space(values, space, ranked_by=None):
    """Return predictions (M, N, C) as they are, as logits, or as ranks in (0, 1] among rows of one number."""
    if space == "logits":
        return special.logit(np.clip(values, _CLIP, 1 - _CLIP))
    if space == "ranks":
        ranks = np.empty(values.shape)
        numbers = np.zeros(values.shape[1], dtype=int) if ranked_by is None else ranked_by
        for number in np.unique(numbers):
            rows = numbers == number
            ranks[:, rows] = stats.rankdata(values[:, rows], axis=1) / rows.sum()
        return ranks
    return values


def list_methods(inputs):
    """Return the methods that fit the metric, the task and the predictions; [] where none does."""
    is_regression, takes_ranks = inputs.metric.task == "regression", inputs.metric.is_ranking
    methods = ["mean"] if inputs.are_probs else []
    methods += ["rank"] if takes_ranks else []
    methods += ["power"] if inputs.are_probs and not is_regression else []
    methods += ["hill", "nnls"] if inputs.are_probs or takes_ranks else []
    return methods + (["linear" if is_regression else "logistic"] if inputs.are_probs else [])


def find_copies(inputs, threshold):
    """Return {input: the better one that it is like}: rank correlation above a threshold in every column.

    Where a metric looks at the values, these must correlate as much.
    """
    count = len(inputs.values)
    scores = [inputs.metric.score(inputs.targets, one) for one in inputs.values]
    sign = 1 if inputs.metric.greater_is_better else -1
    order = sorted(range(count), key=lambda k: -sign * scores[k] if scores[k] == scores[k] else np.inf)
    alike = np.ones((count, count))
    for space in {"ranks", inputs.space}:
        for column in range(inputs.targets.shape[1]):
            with np.errstate(invalid="ignore"):  # of a constant input
                found = np.atleast_2d(np.corrcoef(inputs.in_space(space)[:, :, column]))
            alike = np.minimum(alike, np.nan_to_num(found))
    kept, copies = [], {}
    for one in order:
        like = next((other for other in kept if alike[one, other] > threshold), None)
        if like is None:
            kept.append(one)
        else:
            copies[one] = like
    return copies


def find_skill(inputs, rows):
    """Return (M,) bool: which inputs are better than chance on some rows, or not clearly worse than the best.

    Better than chance: the rank correlation with a target is above 0 at 1 %, one-sided, corrected for the columns.
    """
    known = ~np.isnan(inputs.targets[rows])
    z = np.zeros((len(inputs.values), known.shape[1]))
    size = np.sqrt(len(np.unique(inputs.units[rows])))
    for column in range(known.shape[1]):
        own = rows[known[:, column]]
        if len(own) > 2:
            truth, found = stats.rankdata(inputs.targets[own, column]), inputs.in_space("ranks")[:, own, column]
            truth, found = truth - truth.mean(), found - found.mean(axis=1, keepdims=True)
            scale = np.sqrt((found**2).sum(axis=1) * (truth**2).sum())
            z[:, column] = found @ truth / np.maximum(scale, 1e-300) * size
    best, bound = z.max(axis=1), stats.norm.isf(0.01 / z.shape[1])
    return (best > bound) | (best.max() - best < bound)


def fit(method, inputs, rows):
    """Return the Blend that a method makes of some rows, int indices."""
    count = len(inputs.values)
    runs = np.flatnonzero(find_skill(inputs, rows)) if inputs.drops_chance else np.arange(count)
    found = METHODS[method](inputs, rows, runs)
    weights = np.zeros((inputs.targets.shape[1], count))
    weights[:, runs] = found.pop("weights")
    return Blend(method, weights=weights, is_one_class=inputs.metric.task == "multiclass", **found)


def judge(method, inputs):
    """Return a method's Candidate; rows of one part alone are predicted by weights that were fitted on them."""
    blend = fit(method, inputs, np.arange(len(inputs.targets)))
    stack = inputs.in_space(blend.space)
    in_sample = nested = blend.combine(stack)
    numbers = np.unique(inputs.parts)
    if len(numbers) > 1 and (method in _FITTED or inputs.drops_chance):
        nested = np.empty_like(in_sample)
        for number in numbers:
            rows = inputs.parts == number
            nested[rows] = fit(method, inputs, np.flatnonzero(~rows)).combine(stack[:, rows])
    return Candidate(blend, nested, in_sample)


def fit_mean(inputs, rows, runs):
    """Equal weights."""
    return {"space": "values", "weights": _equal(inputs, runs)}


def fit_rank(inputs, rows, runs):
    """Equal weights of ranks, so that inputs which are calibrated differently count the same."""
    return {"space": "ranks", "weights": _equal(inputs, runs)}


def fit_power(inputs, rows, runs):
    """Equal weights of p**e, then the e-th root: above 1 the sure predictions count more; e is the best of four."""
    weights, scores = _equal(inputs, runs), {}
    for exponent in _EXPONENTS if inputs.exponent is None else (inputs.exponent,):
        blend = Blend("power", "values", weights, exponent, is_one_class=inputs.metric.task == "multiclass")
        scores[exponent] = inputs.metric.score(inputs.targets[rows], blend.combine(inputs.values[runs][:, rows]))
    sign = 1 if inputs.metric.greater_is_better else -1
    best = max(scores, key=lambda one: np.nan_to_num(sign * scores[one], nan=-np.inf))
    return {"space": "values", "weights": weights, "exponent": best, "details": {"exponent": best}}


def fit_hill(inputs, rows, runs):
    """Weights by hill climbing, averaged over bags of groups.

    From the best input on, the one is added, again and again and with replacement, whose addition scores best; the
    best of these ensembles counts.

    Reference: Caruana et al., Ensemble Selection from Libraries of Models, 2004, ICML, sections 2 and 2.1 to 2.3,
    from which we depart by bagging rows instead of models, and by starting from one input.
    """
    stack, weights = inputs.in_space(inputs.space)[runs], _equal(inputs, runs)
    for columns in inputs.column_sets:
        score = _build_scorer(inputs, columns)
        found = [_climb(partial(score, bag), stack[:, bag][:, :, columns]) for bag in _bags(inputs, rows)]
        weights[columns] = np.mean(found, axis=0)
    return {"space": inputs.space, "weights": weights}


def fit_nnls(inputs, rows, runs):
    """Weights of least squares, none below 0, averaged over bags of groups.

    Of values their sum is held at 1; of ranks, which have no scale, they are brought to it afterwards.

    Reference: Breiman, Stacked Regressions, 1996, Machine Learning 24, section 2, for the constraint.
    """
    stack, weights = inputs.in_space(inputs.space)[runs], _equal(inputs, runs)
    is_free = inputs.space == "ranks"
    for columns in inputs.column_sets:
        found = []
        for bag in _bags(inputs, rows):
            truth, known = inputs.targets[bag][:, columns], ~np.isnan(inputs.targets[bag][:, columns])
            x, y = stack[:, bag][:, :, columns], np.where(known, truth, 0.0)
            if is_free:
                if inputs.metric.task == "regression":
                    y = stats.rankdata(np.where(known, truth, np.inf), axis=0)
                count = np.maximum(known.sum(axis=0), 1)
                x = x - (x * known).sum(axis=1, keepdims=True) / count
                y = y - (y * known).sum(axis=0) / count
            if inputs.metric.weights is not None:
                known = known * np.sqrt(np.asarray(inputs.metric.weights)[columns])
            x, y = (x * known).reshape(len(runs), -1), (y * known).ravel()
            found.append(_solve(x @ x.T, x @ y, is_free))
        weights[columns] = np.mean(found, axis=0)
    return {"space": inputs.space, "weights": weights}


def fit_logistic(inputs, rows, runs):
    """Weights of logits by logistic regression, column by column, none below 0, averaged over bags of groups.

    An input whose coefficient is negative is left out and the others are fitted again, as often as needed.
    """
    from sklearn.linear_model import LogisticRegression  # here, as it takes most of a second

    stack, is_positive = inputs.in_space("logits")[runs], inputs.metric.positives(inputs.targets)

    def fit_bag(x, y):
        if y.min() == y.max():
            return None
        model = LogisticRegression(max_iter=200).fit(x, y)
        return model.coef_[0], model.intercept_[0]

    return {"space": "logits", **_fit_stack(inputs, rows, stack, is_positive, fit_bag)}


def fit_linear(inputs, rows, runs):
    """Weights of values by least squares with an intercept and any scale, column by column, none below 0."""
    from sklearn.linear_model import LinearRegression

    def fit_bag(x, y):
        model = LinearRegression().fit(x, y)
        return model.coef_, model.intercept_

    return {"space": "values", **_fit_stack(inputs, rows, inputs.values[runs], inputs.targets, fit_bag)}


METHODS = {
    "mean": fit_mean,
    "rank": fit_rank,
    "power": fit_power,
    "hill": fit_hill,
    "nnls": fit_nnls,
    "logistic": fit_logistic,
    "linear": fit_linear,
}


def _equal(inputs, runs):
    return np.full((inputs.targets.shape[1], len(runs)), 1 / len(runs))


def _bags(inputs, rows, count=_NUM_BAGS):
    """Return bootstrap samples of whole units, as indices among all rows; of many rows each is a smaller sample."""
    units = np.unique(inputs.units[rows], return_inverse=True)[1]
    num_drawn = max(1, round((units.max() + 1) * min(1, _MOST_ROWS / len(rows))))
    return [rows[drawn] for drawn in draw_units(units, num_drawn, count, inputs.seed)]


def _build_scorer(inputs, columns):
    """Return score(rows, probs of these rows and columns), higher is better; nan counts as the worst."""
    metric, sign = inputs.metric, 1 if inputs.metric.greater_is_better else -1
    if metric.weights is not None:
        metric = replace(metric, weights=[metric.weights[column] for column in columns])
    if inputs.per_column:
        metric = replace(metric, weights=None)

    def score(rows, probs):
        return np.nan_to_num(sign * metric.score(inputs.targets[rows][:, columns], probs), nan=-np.inf)

    return score


def _climb(score, stack):
    """Return weights (M,) of predictions (M, N, C)."""
    scores = [score(one) for one in stack]
    start = int(np.argmax(scores))
    counts, total, best = np.eye(len(stack))[start], stack[start].copy(), scores[start]
    found, best_size = counts.copy(), 1
    for size in range(2, _NUM_STEPS + 1):
        if size - best_size > _PATIENCE:
            break
        scores = [score((total + one) / size) for one in stack]
        added = int(np.argmax(scores))
        total += stack[added]
        counts[added] += 1
        if scores[added] > best:
            best, found, best_size = scores[added], counts.copy(), size
    return found / found.sum()


def _solve(gram, moment, is_free):
    """Return the w >= 0, sum 1, that make w'Gw - 2 w'm least, G = `gram`; is_free: the sum is made 1 after that."""
    size = max(np.trace(gram) / len(gram), 1e-300)
    if not is_free:  # one more equation of large weight: sum(w) = 1
        gram, moment = gram + 1e4 * size, moment + 1e4 * size
    lower = linalg.cholesky(gram + 1e-9 * size * np.eye(len(gram)), lower=True)
    weights = optimize.nnls(lower.T, linalg.solve_triangular(lower, moment, lower=True))[0]
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(gram), 1 / len(gram))


def _fit_stack(inputs, rows, stack, truth, fit_bag):
    """Return weights, scale and intercept of `fit_bag`, (x (n, m), y) -> (coefficients, intercept) or None."""
    num_inputs, num_columns = len(stack), truth.shape[1]
    weights = np.full((num_columns, num_inputs), 1 / num_inputs)
    scale, intercept = np.ones(num_columns), np.zeros(num_columns)
    bags = _bags(inputs, rows, int(np.clip(_NUM_BAGS * 2 / num_columns, 2, _NUM_BAGS)))
    for column in range(num_columns):
        found = []
        for bag in bags:
            own = bag[~np.isnan(inputs.targets[bag, column])]
            x, y = stack[:, own, column].T, truth[own, column]
            used = np.arange(num_inputs)
            while len(own) and len(used) and (fitted := fit_bag(x[:, used], y)) is not None:
                if (fitted[0] >= 0).all():
                    found.append(np.append(np.zeros(num_inputs), fitted[1]))
                    found[-1][used] = fitted[0]
                    break
                used = used[fitted[0] >= 0] if len(used) > 1 else used[:0]
        if found and (mean := np.mean(found, axis=0))[:-1].sum() > 0:
            scale[column], intercept[column] = mean[:-1].sum(), mean[-1]
            weights[column] = mean[:-1] / scale[column]
    if inputs.metric.is_ranking:  # they would differ by part, as its targets do
        return {"weights": weights}
    return {"weights": weights, "scale": scale, "intercept": intercept}
