"""A stack of predictions and columns of the tables: learners, what they are given, and whether a column helps at all.

Each fit looks, within its own rows, for the columns and the number of rounds that help on rows left out, whole groups
at a time; where none does, the stack is the predictions alone, with groups also relative to their groups.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pandas as pd
from scipy import special

from src.competition.paths import locate
from src.competition.tables import load_test_table, load_train_table, read_groups, read_ids, read_table
from src.competition.targets import match_ids
from src.errors import UserError, listing, nearest
from src.evaluation.blending import Candidate, to_space

_ROUNDS = (10, 20, 40, 80, 160, 320)
_NUM_INNER = 3
_HELPS_AT = 1.64  # standard errors by which rows left out must be predicted better with the columns; of one column 1
_MOST_CATEGORIES = 30
_MISSING = ("inf", "-inf", "", "NA", "N/A", "NaN", "nan", "<NA>", "null", "NULL", "None")


def load_metadata(names, competition, ids, target_names, kind="train"):
    """Return (columns of str, nan where missing; groups (N,) or None) of the rows with these ids, of a table."""
    key = f"{kind}_table"
    if getattr(competition, key):
        where = locate(competition.root, getattr(competition, key))
        rows = read_table(where)
        rows.columns = rows.columns.str.strip()
        found = read_ids(rows, competition.id, where)
    else:
        where = f"competition.{key}"
        table = load_train_table(competition) if kind == "train" else load_test_table(competition, target_names)
        rows, found = table.columns.assign(**{competition.id: table.ids}), table.ids
    if missing := [name for name in names if name not in rows]:
        hint = nearest(missing[0], rows.columns)
        both = "; a column must be in both tables, leave it out" if kind == "test" else ""
        raise UserError(
            f"{where}: has no column {missing[0]!r} of metadata= (found {listing(rows.columns)}){both or hint}"
        )
    places, absent, _ = match_ids(ids, found)
    if len(absent):
        raise UserError(
            f"{where}: {len(absent)} of {len(ids)} predicted ids are missing (first: {absent[0]}); add them"
        )
    groups = read_groups(rows, competition, "group", where, must=False) if competition.group else None
    columns = rows[names].iloc[places].reset_index(drop=True).apply(lambda one: one.str.strip())
    return columns.mask(columns.isin(_MISSING)), None if groups is None else groups[places]


@dataclass(frozen=True)
class Encoder:
    """How columns become numbers, as the training table has them: numbers as such, else the commonest categories."""

    means: dict  # {name: (mean, deviation)} of the columns of numbers
    categories: dict  # {name: list of str} of the others

    @classmethod
    def build(cls, columns):
        """Read the kinds of columns of str."""
        means, categories = {}, {}
        for name in columns:
            known = columns[name].dropna()
            numbers = pd.to_numeric(known, errors="coerce")
            if len(known) and numbers.notna().all():
                means[name] = float(numbers.mean()), float(numbers.std(ddof=0)) or 1.0
                continue
            counts = known.value_counts()
            if len(counts) > 20 and counts.iloc[0] == 1:
                found = f"holds another text in each row ({counts.index[0]!r} ...)"
                raise UserError(f"metadata={name}: {found}; leave it out, or write a date as a number")
            categories[name] = sorted(counts.index[:_MOST_CATEGORIES])
        return cls(means, categories)

    def numbers(self, columns):
        """Return {name: (N,) float64, nan where missing} of the columns of numbers."""
        return {name: pd.to_numeric(columns[name], errors="coerce").to_numpy(np.float64) for name in self.means}

    def codes(self, columns):
        """Return {name: (N,) int, -1 where missing or not seen in training} of the categories."""
        return {name: pd.Index(one).get_indexer(columns[name]) for name, one in self.categories.items()}


@dataclass(frozen=True)
class Rows:
    """What a stack is given of N rows."""

    values: np.ndarray  # (M, N, C)
    columns: pd.DataFrame  # N rows of str
    groups: np.ndarray | None  # (N,)

    def shuffle(self, rng, run=None, column=None):
        """Return the rows with one input's predictions, or one column, of other rows."""
        order = rng.permutation(len(self.columns))
        if run is not None:
            values = self.values.copy()
            values[run] = values[run][order]
            return replace(self, values=values)
        return replace(self, columns=self.columns.assign(**{column: self.columns[column].to_numpy()[order]}))


@dataclass(frozen=True)
class Features:
    """Rows -> features (N, F) of one target column."""

    encoder: Encoder
    is_regression: bool
    is_linear: bool  # for logistic: one-hot, standardised and without gaps; else codes and nan
    has_groups: bool
    target: int

    def predictions(self, rows):
        """Return the inputs' logits, or values of a regression, (N, M)."""
        return to_space(rows.values[:, :, self.target], "values" if self.is_regression else "logits").T

    def compute(self, rows, names):
        """Return (features (N, F), which are codes) of the predictions and of the columns `names`.

        With groups each number is there also less its group's mean, as in ISIC 2024's best solutions, and so is the
        group's size.
        """
        found = list(self.predictions(rows).T)
        codes = {name: one for name, one in self.encoder.codes(rows.columns).items() if name in names}
        numbers = {name: one for name, one in self.encoder.numbers(rows.columns).items() if name in names}
        if self.is_linear:
            numbers = {
                name: (one - self.encoder.means[name][0]) / self.encoder.means[name][1] for name, one in numbers.items()
            }
        found += numbers.values()
        if self.has_groups:
            grouped = pd.DataFrame(np.stack(found, axis=1)).groupby(rows.groups, sort=False)
            means, sizes = grouped.transform("mean").to_numpy(), grouped[0].transform("size").to_numpy()
            found += [*(np.stack(found, axis=1) - means).T, np.log(sizes)]
        if not self.is_linear:
            found += [np.where(one < 0, np.nan, one) for one in codes.values()]
            return np.stack(found, axis=1), np.arange(len(found)) >= len(found) - len(codes)
        found += [np.isnan(one).astype(float) for one in numbers.values()]
        found += [
            (one == k).astype(float) for name, one in codes.items() for k in range(len(self.encoder.categories[name]))
        ]
        return np.nan_to_num(np.stack(found, axis=1)), np.zeros(len(found), dtype=bool)


def fit_linear(x, y, offset, is_code, rounds, is_regression):
    """Return stages(x, offset), {rounds: raw predictions (N,)}, of a ridge or logistic regression."""
    from sklearn.linear_model import LogisticRegression, Ridge

    center, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    model = Ridge() if is_regression else LogisticRegression(max_iter=500)
    model.fit((x - center) / scale, y)
    raw = model.predict if is_regression else model.decision_function
    return lambda x, offset: {1: raw((x - center) / scale)}


def fit_lightgbm(x, y, offset, is_code, rounds, is_regression):
    """Return stages of LightGBM that starts from the offset, the raw predictions of the inputs alone."""
    import lightgbm

    settings = {
        "objective": "regression" if is_regression else "binary", "learning_rate": 0.05, "num_leaves": 15,
        "min_data_in_leaf": max(20, len(y) // 100), "feature_fraction": 0.7, "bagging_fraction": 0.8, "bagging_freq": 1,
        "lambda_l2": 10.0, "seed": 0, "deterministic": True, "force_row_wise": True, "verbosity": -1,
        "boost_from_average": False,
    }  # fmt: skip
    codes = [int(k) for k in np.flatnonzero(is_code)]
    data = lightgbm.Dataset(x, y, init_score=offset, categorical_feature=codes, params={"verbosity": -1})
    model = lightgbm.train(settings, data, num_boost_round=max(rounds))
    return lambda x, offset: {k: offset + model.predict(x, raw_score=True, num_iteration=k) for k in rounds}


def fit_gradient_boosting(x, y, offset, is_code, rounds, is_regression):
    """Return stages of scikit-learn's histogram gradient boosting, to which the offset is one more feature."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if is_regression else HistGradientBoostingClassifier
    how = {"learning_rate": 0.05, "max_leaf_nodes": 15, "l2_regularization": 10.0, "early_stopping": False}
    how |= {"min_samples_leaf": max(20, len(y) // 100), "random_state": 0, "max_features": 0.7}
    model = kind(max_iter=max(rounds), categorical_features=np.append(is_code, False), **how)
    model.fit(np.column_stack([x, offset]), y)
    raw = model.staged_predict if is_regression else model.staged_decision_function

    def stages(x, offset):
        found = enumerate(raw(np.column_stack([x, offset])), start=1)
        return {k: np.ravel(one) for k, one in found if k in rounds}

    return stages


LEARNERS = {"lightgbm": fit_lightgbm, "gradient_boosting": fit_gradient_boosting, "logistic": fit_linear}


@dataclass(frozen=True)
class Stack:
    """One fitted stack: for each target column its features, base, learner, rounds and the columns that it uses."""

    parts: tuple  # of (Features, base, stages or None, rounds, names)
    is_one_class: bool
    is_regression: bool
    test: Rows | None = None
    weights: np.ndarray | None = None  # (C, M), each input's share in the predictions
    details: dict = field(default_factory=dict)
    space: str = "values"

    def raw(self, rows):
        """Return logits, or values of a regression, (N, C)."""
        return np.stack([_raw(part, rows) for part in self.parts], axis=1)

    def combine(self, rows, like=None):
        """Return predictions (N, C) of Rows; like: logits, or values, (N, C), whose means and deviations they get."""
        found = self.raw(rows)
        if like is not None:
            scale = like.std(axis=0) / np.maximum(found.std(axis=0), 1e-12)
            found = like.mean(axis=0) + scale * (found - found.mean(axis=0))
        found = found if self.is_regression else special.expit(found)
        return found / found.sum(axis=1, keepdims=True) if self.is_one_class else found

    def predict(self, values):
        """Return predictions (N, C) of the test rows."""
        return self.combine(replace(self.test, values=values))


def judge_stack(inputs, oof, test, kept, options, competition):
    """Return (Candidate of the stack, lines about it); test: (ids, values (M, N, C)) or None, kept: its inputs used."""
    kind, names = options["stack"], list(dict.fromkeys(options["metadata"] or []))
    if kind == "lightgbm" and find_spec("lightgbm") is None:
        raise UserError("stack=lightgbm: not installed; pip install lightgbm, or set stack=gradient_boosting")
    if not inputs.are_probs:
        raise UserError(f"stack={kind}: an input has values outside 0 to 1, no probabilities; write probabilities")
    if wrong := [name for name in names if name in (competition.id, competition.label, *oof.target_names)]:
        raise UserError(f"metadata={wrong[0]}: is the id or a target; leave it out")
    columns, groups = load_metadata(names, competition, oof.ids, oof.target_names)
    groups = oof.groups if groups is None else groups
    if groups is None and not names:
        raise UserError(f"stack={kind}: has no columns to learn from; write metadata=[COLUMN,...]")
    test_rows, lines = None, []
    if test is not None:
        test_columns, test_groups = load_metadata(names, competition, test[0], oof.target_names, "test")
        if groups is not None and test_groups is None:
            groups = None
            lines.append("the test table has no groups, so that nothing is taken relative to them")
        test_rows = Rows(test[1][kept], test_columns, test_groups if groups is not None else None)
    rows = Rows(inputs.values, columns, groups)
    encoder = Encoder.build(columns)
    fit_rows = partial(_fit_stack, inputs, rows, encoder, kind, names)
    stack = fit_rows(np.arange(len(columns)))
    nested = np.empty(inputs.targets.shape)
    like = stack.raw(rows) if inputs.metric.is_ranking else None  # or a part with more positives would rank lower
    for number in np.unique(inputs.parts):
        own = inputs.parts == number
        nested[own] = fit_rows(np.flatnonzero(~own)).combine(rows, like)[own]
    weights, shares = _compute_shares(stack, rows, names, inputs.seed)
    used = sorted({name for part in stack.parts for name in part[4]}, key=names.index)
    if not used:
        takes_groups = any(stages is not None for _, _, stages, _, _ in stack.parts)
        more = f" and what {competition.group} adds: means and sizes of its groups" if takes_groups else " alone"
        lines.append(f"{'no column is shown to help; ' if names else ''}the stack is the predictions{more}")
    details = {"stack": kind, "metadata": shares, "metadata_used": used}
    stack = replace(stack, test=test_rows, weights=weights, details=details)
    return Candidate(stack, nested, stack.combine(rows)), lines


def _raw(part, rows):
    features, base, stages, rounds, names = part
    offset = base(features.predictions(rows))
    return offset if stages is None else stages(features.compute(rows, names)[0], offset)[rounds]


def _fit_stack(inputs, rows, encoder, kind, names, fitted):
    """Return the Stack that is fitted on some rows, (n,) int."""
    is_regression = inputs.metric.task == "regression"
    truth = inputs.targets if is_regression else inputs.metric.positives(inputs.targets).astype(float)
    parts = []
    for target in range(truth.shape[1]):
        known = fitted[~np.isnan(inputs.targets[fitted, target])]
        features = Features(encoder, is_regression, kind == "logistic", rows.groups is not None, target)
        learner = partial(LEARNERS[kind], is_regression=is_regression)
        parts.append(_fit_target(features, learner, rows, truth[:, target], known, inputs, list(names)))
    return Stack(tuple(parts), inputs.metric.task == "multiclass", is_regression)


def _fit_target(features, learner, rows, truth, known, inputs, names):
    """Return one target's (Features, base, stages, rounds, names): the columns that help on groups left out."""
    x_base, rng = features.predictions(rows), np.random.default_rng(inputs.seed)
    units = np.unique(inputs.units[known], return_inverse=True)[1]
    inner = rng.permutation(units.max() + 1)[units] % _NUM_INNER
    base_of = partial(_fit_base, is_regression=features.is_regression)
    base = base_of(x_base[known], truth[known])
    nothing = features, base, None, 0, []
    splits = [(known[inner != k], known[inner == k]) for k in range(_NUM_INNER)]
    if not features.is_regression and any(len(np.unique(truth[one])) < 2 for one, _ in splits):
        return nothing
    rounds = (1,) if features.is_linear else _ROUNDS
    bases = [base_of(x_base[train], truth[train]) for train, _ in splits]
    while names or features.has_groups:  # without columns the predictions relative to the group are left
        (x, is_code), found = features.compute(rows, names), []
        for (train, _), one in zip(splits, bases, strict=True):
            found.append(learner(x[train], truth[train], one(x_base[train]), is_code, rounds))
        losses = _losses(features, found, bases, splits, x, x_base, truth, rounds)
        best = min(rounds, key=lambda k: losses[k].mean())
        keep = []
        for name in names:
            shuffled = features.compute(rows.shuffle(rng, column=name), names)[0]
            without = _losses(features, found, bases, splits, shuffled, x_base, truth, (best,))[best]
            if _z(without - losses[best], units, inner) > 1:
                keep.append(name)
        if keep == names:
            alone = _losses(features, None, bases, splits, x, x_base, truth, (0,))[0]
            if _z(alone - losses[best], units, inner) >= _HELPS_AT:
                stages = learner(x[known], truth[known], base(x_base[known]), is_code, (best,))
                return features, base, stages, best, names
            if not names:
                break
            keep = []
        names = keep
    return nothing


def _fit_base(x, y, is_regression):
    """Return the function from the inputs' logits or values (n, M) to raw predictions (n,), of the inputs alone."""
    from sklearn.linear_model import LinearRegression, LogisticRegression

    if not is_regression and y.min() == y.max():
        return lambda x: x.mean(axis=1)
    model = LinearRegression() if is_regression else LogisticRegression(max_iter=200)
    model.fit(x, y)
    return model.predict if is_regression else model.decision_function


def _losses(features, found, bases, splits, x, x_base, truth, rounds):
    """Return {rounds: the loss of each row left out, part after part}; found: the parts' stages, None: the bases."""
    losses = {k: [] for k in rounds}
    for part, (_, out) in enumerate(splits):
        offset = bases[part](x_base[out])
        raws = dict.fromkeys(rounds, offset) if found is None else found[part](x[out], offset)
        for k in rounds:
            y, raw = truth[out], raws[k]
            losses[k].append((y - raw) ** 2 if features.is_regression else np.logaddexp(0, raw) - y * raw)
    return {k: np.concatenate(one) for k, one in losses.items()}


def _z(gains, units, inner):
    """Return the sum of gains in standard errors; rows of one unit count as one."""
    order = np.concatenate([np.flatnonzero(inner == k) for k in range(_NUM_INNER)])
    sums = np.bincount(units[order], gains)
    return sums.sum() / max(np.sqrt(len(sums)) * sums.std(), 1e-300)


def _compute_shares(stack, rows, names, seed):
    """Return (weights (C, M), {column: share}): how much predictions move when an input, or a column, is shuffled."""
    rng, raw = np.random.default_rng(seed), stack.raw(rows)
    runs = [np.abs(stack.raw(rows.shuffle(rng, run=k)) - raw).mean(axis=0) for k in range(len(rows.values))]
    columns = [np.abs(stack.raw(rows.shuffle(rng, column=name)) - raw).mean(axis=0) for name in names]
    runs, columns = np.stack(runs, axis=1), np.reshape(columns, (len(names), raw.shape[1])).T  # (C, M), (C, P)
    whole = np.maximum(runs.sum(axis=1) + columns.sum(axis=1), 1e-300)
    shares = (columns / whole[:, None]).mean(axis=0)
    return runs / np.maximum(runs.sum(axis=1, keepdims=True), 1e-300), dict(zip(names, shares.tolist(), strict=True))
