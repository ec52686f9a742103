"""The honest score, by hand: of each fold the trial that is best on the others, and what pruning does to it."""

import numpy as np
import optuna
import pandas as pd
import pytest

from src.checkpointing.run_folder import RunFolder
from src.evaluation.metrics import build_metric
from src.evaluation.out_of_fold import OutOfFold
from tools.tune.results import judge_search, load_predictions
from tools.tune.search import score_trial

METRIC = build_metric("mae", "regression")
ERRORS = ((1, 1, 4), (2, 3, 0.5), (9, 9, 9))  # of a trial's two rows in each of three folds


@pytest.fixture
def trials(tmp_path):
    """Three complete trials whose predictions are off by ERRORS, scored as the search scores them."""
    study = optuna.create_study(direction="minimize")
    for number, errors in enumerate(ERRORS):
        folder = tmp_path / "trials" / f"trial_{number:04d}"
        folder.mkdir(parents=True)
        rows = [(f"{fold}{row}", fold, 7.0, 7 + error * (1 if row else -1))
                for fold, error in enumerate(errors) for row in (0, 1)]  # fmt: skip
        table = pd.DataFrame(rows, columns=["id", "fold", "target_y", "y"])
        table.to_csv(folder / "oof.csv", index=False)
        table[["id", "fold"]].to_csv(folder / "folds.csv", index=False)
        found = score_trial(METRIC, RunFolder(folder), [0, 1, 2])
        attributes = {key: found[key] for key in ("folds", "without")}
        study.add_trial(optuna.trial.create_trial(value=found["score"], user_attrs=attributes | {"host": "there"}))
    return study.trials


def test_a_trial_is_scored_on_all_folds_on_each_and_without_each(trials):
    assert [one.value for one in trials] == pytest.approx([2, 11 / 6, 9])
    assert trials[1].user_attrs["folds"] == {"0": 2, "1": 3, "2": 0.5}
    assert trials[1].user_attrs["without"] == {"0": 1.75, "1": 1.25, "2": 2.5}


def test_the_honest_score_pools_what_the_other_folds_choose(trials, tmp_path, few_samples):
    def judge(folds, is_pruned, load=lambda one: load_predictions(tmp_path, one, [0, 1, 2])):
        return judge_search(METRIC, trials, folds, is_pruned, load, trials[0])

    found = judge([0, 1, 2], is_pruned=False)
    assert found["chosen"] == {"0": 1, "1": 1, "2": 0}  # trial 1 is the best of all, but not without fold 2
    assert found["honest"] == pytest.approx((2 + 3 + 4) / 3)
    assert found["best_there"] == pytest.approx(11 / 6)
    assert found["gain"] == pytest.approx(3 - 2)  # over trial 0, whose error is 2
    low, high = found["honest_interval"]
    assert low <= found["honest"] <= high
    pruned = judge([0, 1, 2], is_pruned=True)  # by fold 0, which is left out
    assert (pruned["honest_folds"], pruned["chosen"]) == ([1, 2], {"1": 1, "2": 0})
    assert (pruned["honest"], pruned["best_there"]) == pytest.approx((3.5, 1.75))
    assert judge([0], is_pruned=False)["honest"] is None
    away = judge([0, 1, 2], False, lambda one: load_predictions(tmp_path, one, [0, 1, 2]) if one.number else None)
    assert (away["honest"], away["honest_interval"]) == (pytest.approx(3), None)
    assert away["note"] == "mean of the folds, as predictions of trials 0 are on there"


def test_ranks_are_pooled_where_different_trials_probabilities_do_not_agree(few_samples):
    """Each trial orders each fold rightly, one with probabilities below .1, the other with some above .9."""
    study, folds, targets = optuna.create_study(direction="maximize"), np.repeat([0, 1], 4), np.tile([0.0, 1], 4)
    for without in ({"0": 1.0, "1": 0.9}, {"0": 0.9, "1": 1.0}):
        attributes = {"without": without, "folds": {"0": 1.0, "1": 1.0}}
        study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs=attributes))

    def load(one):
        probs = (targets + 9 * one.number + np.arange(8) / 100)[:, None] / 11
        return OutOfFold(folds.astype(str), folds, targets[:, None], probs, ("y",), None)

    found = judge_search(build_metric("roc_auc", "binary"), study.trials, [0, 1], False, load, study.trials[0])
    assert found["chosen"] == {"0": 0, "1": 1}
    assert (found["honest"], found["best_there"], found["gain"]) == (1, 1, 0)
    assert found["note"].endswith("(as they are: 0.75000)")
