"""Adversarial validation: can a model tell test from train by simple numbers of the images and the shared columns?

The idea to know: no network is asked, only means, sizes and such; what they give away at 0.9, a network sees too, and
then a fold's score is no forecast of the test score.

Reference: Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, 2017, arXiv:1610.06545, section 3, with the AUC
in place of the accuracy.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from tools.doctor.findings import Fact, Finding
from tools.doctor.leaks import compute_auc, compute_category_auc, compute_chance

MIN_AUC = 0.6  # worth a finding, where it is no chance

_SIGNIFICANCE = 1e-4
_FEWEST = 30  # images on both sides
_MOST = 20_000  # images that are looked at, drawn at random
_NUM_FOLDS = 3
_NUM_DRIVERS = 4
_SHUFFLED = 2000  # held-out rows of a fold whose feature is shuffled
_GRID = 4  # parts of a side whose brightness is looked at


@dataclass(frozen=True)
class Shift:
    """How well test is told from train: the AUC, its chance if they were alike, and a row for each driver.

    `drivers` has the columns feature, drop (of the AUC when it is shuffled), alone (AUC of it alone, 0.5 or more),
    train and test (means; nan of a category).
    """

    auc: float
    chance: float
    drivers: pd.DataFrame


def check_shift(case):
    """Return (findings, facts): how far test is from train in a `case.Case`."""
    rows = np.flatnonzero(case.scan.is_read)
    is_test = case.is_test[rows]
    if min(is_test.sum(), (~is_test).sum()) < _FEWEST:
        return [], [Fact("test against train", (f"not tried: fewer than {_FEWEST} images on a side",))]
    if len(rows) > _MOST:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), _MOST, replace=False))
        rows, is_test = rows[chosen], is_test[chosen]
    groups = case.of_all("groups")
    shift = measure_shift(list_features(case, rows), is_test, None if groups is None else groups[rows])
    fact = Fact("test against train", (f"AUC {shift.auc:.3f} by gradient boosting on simple numbers; 0.5: alike",))
    if shift.auc < MIN_AUC or shift.chance > _SIGNIFICANCE:
        return [], [fact]
    drivers = shift.drivers[(shift.drivers["drop"] > 0.005) | (shift.drivers["alone"] >= MIN_AUC)].head(_NUM_DRIVERS)
    named = tuple(
        f"{row.feature}: AUC {row.alone:.2f} alone"
        + ("" if np.isnan(row.train) else f", {row.train:.4g} in train and {row.test:.4g} in test")
        for row in drivers.itertuples()
    )
    finding = Finding(
        "warning",
        f"test pictures are told from training ones with an AUC of {shift.auc:.3f} by simple numbers",
        "folds will not foretell the test score: augment over what drives it, or make both alike, and validate on the "
        "training pictures most like test",
        named,
        len(named),
    )
    return [finding], [fact]


def list_features(case, rows):
    """Return a table of numbers and categories of some rows of the scan: of pixels, files and shared columns."""
    scan = case.scan
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
        features[f"brightness of part {place[0] + 1}, {place[1] + 1} of {_GRID} x {_GRID}"] = cells[
            :, place[0], place[1]
        ]
    for name in case.other_columns:
        if name not in case.test_rows:
            continue
        values = pd.concat([case.train_rows[name], case.test_rows[name]], ignore_index=True).iloc[rows]
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.notna().any() and (numbers.notna() | values.isna()).all():
            features[f"column {name!r}"] = numbers.to_numpy()
        elif values.nunique() <= 200:  # scikit-learn's trees take 255 categories at most
            features[f"column {name!r}"] = pd.Categorical(values.fillna("(empty)"))
    return pd.DataFrame(features)


def measure_shift(features, is_test, groups=None):
    """Return the Shift between rows of train and of test, by cross-validated gradient boosting.

    The drivers of an AUC under MIN_AUC are not looked for: the table is empty then.

    Args:
        features: table of N rows; categories are pandas categories.
        is_test: (N,) bool.
        groups: (N,) str, kept on one side of each split; None: each row is its own.

    Reference: Breiman, Random Forests, 2001, Machine Learning 45, section 10, for the drop by shuffling one feature.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = list(splitter(_NUM_FOLDS, shuffle=True, random_state=0).split(features, is_test, groups))
    probs, models = np.zeros(len(features)), []
    # on so few rows OpenMP's threads only wait for each other, the longer the busier the machine is
    with threadpool_limits(limits=1):
        for fit, held_out in splits:
            model = HistGradientBoostingClassifier(
                max_iter=60, categorical_features="from_dtype", random_state=0, early_stopping=False
            )
            models.append(model.fit(features.iloc[fit], is_test[fit]))
            probs[held_out] = model.predict_proba(features.iloc[held_out])[:, 1]
        auc = float(compute_auc(is_test, probs))
        is_told = auc >= MIN_AUC
        drivers = [_measure_driver(name, features, is_test, models, splits, probs) for name in features if is_told]
    drivers = pd.DataFrame(drivers, columns=["feature", "drop", "alone", "train", "test"])
    chance = compute_chance(auc, int(is_test.sum()), int((~is_test).sum())) if auc > 0.5 else 1.0
    return Shift(auc, chance, drivers.sort_values("drop", ascending=False, ignore_index=True))


def _measure_driver(name, features, is_test, models, splits, probs):
    """Return (name, drop, alone, mean in train, mean in test) of one feature, as `Shift.drivers` has them."""
    drops, values = [], features[name]
    for model, (_, held_out) in zip(models, splits, strict=True):
        rows = held_out[:_SHUFFLED]
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
