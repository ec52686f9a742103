"""Adversarial validation: a classifier of train against test, on simple statistics of images and shared columns.

Where it reaches an AUC of 0.9 on means, sizes and the like, a network sees the difference too, and a fold's score does
not predict the test score.

Reference: Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, 2017, arXiv:1610.06545, section 3, with the AUC
in place of the accuracy.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from tools.doctor.findings import Fact, Finding
from tools.doctor.leaks import compute_auc, compute_category_auc, compute_p_value

MIN_AUC = 0.6  # worth a finding, if significant

_SIGNIFICANCE = 1e-4
_MIN_IMAGES = 30  # of train and of test
_MAX_IMAGES = 20_000  # in all, drawn at random
_NUM_FOLDS = 3
_NUM_DRIVERS = 4
_NUM_SHUFFLED = 2000  # held-out rows of a fold in which a feature is shuffled
_GRID = 4  # cells a side whose brightness is a feature


@dataclass(frozen=True)
class Shift:
    """The AUC of the classifier, its p-value if train and test were alike, and a row for each driver of the shift.

    `drivers` has the columns feature, drop (of the AUC when it is shuffled), alone (its own AUC, 0.5 or more), train
    and test (means; nan of a category).
    """

    auc: float
    p_value: float
    drivers: pd.DataFrame


def check_shift(data):
    """Return (findings, facts): how much test differs from train in a `CompetitionData`."""
    rows = np.flatnonzero(data.scan.is_read)
    is_test = data.is_test[rows]
    if min(is_test.sum(), (~is_test).sum()) < _MIN_IMAGES:
        return [], [Fact("test against train", (f"not tried: fewer than {_MIN_IMAGES} images on a side",))]
    if len(rows) > _MAX_IMAGES:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), _MAX_IMAGES, replace=False))
        rows, is_test = rows[chosen], is_test[chosen]
    groups = data.of_all("groups")
    shift = measure_shift(list_features(data, rows), is_test, None if groups is None else groups[rows])
    fact = Fact("test against train", (f"AUC {shift.auc:.3f} by gradient boosting on simple statistics; 0.5: alike",))
    if shift.auc < MIN_AUC or shift.p_value > _SIGNIFICANCE:
        return [], [fact]
    drivers = shift.drivers[(shift.drivers["drop"] > 0.005) | (shift.drivers["alone"] >= MIN_AUC)].head(_NUM_DRIVERS)
    named = tuple(
        f"{row.feature}: AUC {row.alone:.2f} alone"
        + ("" if np.isnan(row.train) else f", {row.train:.4g} in train and {row.test:.4g} in test")
        for row in drivers.itertuples()
    )
    finding = Finding(
        "warning",
        f"simple statistics separate test from training images with an AUC of {shift.auc:.3f}",
        "folds do not predict the test score: augment over what drives the shift, or make both alike, and validate on "
        "the training images most like test",
        named,
        len(named),
    )
    return [finding], [fact]


def list_features(data, rows):
    """Return a table of numbers and categories of some rows of the scan, from pixels, files and shared columns."""
    scan = data.scan
    cells = scan.thumbnails[rows].reshape(len(rows), _GRID, 32 // _GRID, _GRID, 32 // _GRID).mean(axis=(2, 4))
    features = {
        "mean of the pixels": scan.means[rows],
        "std of the pixels": scan.stds[rows],
        "smallest pixel": scan.lows[rows],
        "largest pixel": scan.highs[rows],
        "sharpness": scan.sharpness[rows],
        "width": scan.widths[rows],
        "height": scan.heights[rows],
        "width / height": scan.widths[rows] / scan.heights[rows],
        "size of the file": np.log(scan.num_bytes[rows] / np.maximum(scan.encoded[rows], 1)),
        "kind of the file": pd.Categorical(scan.kinds[rows]),
    }
    for place in np.ndindex(_GRID, _GRID):
        name = f"brightness of cell {place[0] + 1}, {place[1] + 1} of {_GRID} x {_GRID}"
        features[name] = cells[:, place[0], place[1]]
    for name, column in data.train_columns.items():
        if name not in data.test_columns:
            continue
        values = pd.concat([column, data.test_columns[name]], ignore_index=True).iloc[rows]
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.notna().any() and (numbers.notna() | values.isna()).all():
            features[f"column {name!r}"] = numbers.to_numpy()
        elif values.nunique() <= 200:  # scikit-learn's trees take 255 categories at most
            features[f"column {name!r}"] = pd.Categorical(values.fillna("(empty)"))
    return pd.DataFrame(features)


def measure_shift(features, is_test, groups=None):
    """Return the Shift between rows of train and of test, by cross-validated gradient boosting.

    The table of drivers is empty below an AUC of MIN_AUC.

    Args:
        features: table of N rows; categories are pandas categories.
        is_test: (N,) bool.
        groups: (N,) str, kept in one fold of the classifier; None: each row is its own.

    Reference: Breiman, Random Forests, 2001, Machine Learning 45, section 10, for the drop by shuffling one feature.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = list(splitter(_NUM_FOLDS, shuffle=True, random_state=0).split(features, is_test, groups))
    probs, models = np.zeros(len(features)), []
    # on so few rows several threads are slower, above all on a busy machine
    with threadpool_limits(limits=1):
        for fit, held_out in splits:
            model = HistGradientBoostingClassifier(
                max_iter=60, categorical_features="from_dtype", random_state=0, early_stopping=False
            )
            models.append(model.fit(features.iloc[fit], is_test[fit]))
            probs[held_out] = model.predict_proba(features.iloc[held_out])[:, 1]
        auc = float(compute_auc(is_test, probs))
        names = list(features) if auc >= MIN_AUC else []
        drivers = [_measure_driver(name, features, is_test, models, splits, probs) for name in names]
    drivers = pd.DataFrame(drivers, columns=["feature", "drop", "alone", "train", "test"])
    p_value = compute_p_value(auc, int(is_test.sum()), int((~is_test).sum())) if auc > 0.5 else 1.0
    return Shift(auc, p_value, drivers.sort_values("drop", ascending=False, ignore_index=True))


def _measure_driver(name, features, is_test, models, splits, probs):
    """Return a row of `Shift.drivers`: (name, drop, alone, mean in train, mean in test)."""
    drops, values = [], features[name]
    for model, (_, held_out) in zip(models, splits, strict=True):
        rows = held_out[:_NUM_SHUFFLED]
        shuffled = features.iloc[rows].copy()
        shuffled[name] = shuffled[name].to_numpy()[np.random.default_rng(0).permutation(len(rows))]
        shuffled[name] = shuffled[name].astype(values.dtype)
        aucs = [compute_auc(is_test[rows], one) for one in (probs[rows], model.predict_proba(shuffled)[:, 1])]
        drops.append(aucs[0] - aucs[1])
    if values.dtype == "category":
        alone, means = compute_category_auc(is_test, values), [np.nan, np.nan]
    else:
        alone = compute_auc(is_test, values.fillna(values.median()).to_numpy(dtype=float))
        means = [float(values[side].mean()) for side in (~is_test, is_test)]
    return name, float(np.mean(drops)), max(alone, 1 - alone), *means
