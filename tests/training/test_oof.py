"""oof.csv and scores.json against hand-made folds."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from src.competition.predictions import save_predictions
from src.files import save_json
from src.training.oof import print_next, score_run

FOLDS = np.array([1, 0, 1, 0, -1, 2])
TARGETS = np.array([[0], [1], [1], [0], [1], [1]])
PROBS = np.array([[0.2], [0.9], [0.6], [0.1], [0.5], [0.7]])
WORDS = ["competition.task=binary", "competition.metric=log_loss", "competition.classes=[a,b]"]


@pytest.fixture
def make(make_table, make_run):
    """A function (select) -> Run whose folds 0 and 1 are finished."""

    def make_(select):
        table = make_table(np.zeros((6, 8, 8), np.uint8), TARGETS, FOLDS)
        run = make_run(table, *WORDS, f"train.select={select}")
        for fold, (best, last) in {0: (0.25, 0.5), 1: (0.125, 0.25)}.items():
            folder = run.folder.fold(fold)
            save_predictions(folder.val, table.take(fold == FOLDS), PROBS[fold == FOLDS])
            numbers = {"best_epoch": 2, "epoch": 4, "best_score": best, "last_score": last, "seconds": 10.0 + fold}
            save_json(folder.meta, numbers | {"target_names": ["t0"]})
        return run

    return make_


@pytest.mark.parametrize(
    ("select", "other", "folds", "others", "epoch"),
    [("best", "last", [0.25, 0.125], [0.5, 0.25], 2), ("last", "best", [0.5, 0.25], [0.25, 0.125], 4)],
)
def test_the_selected_epochs_are_scored_and_the_others_listed(make, capsys, select, other, folds, others, epoch):
    run = make(select)
    scores = score_run(run)
    assert scores == json.loads(run.folder.scores.read_text())
    rows = [0, 1, 2, 3]  # of folds 0 and 1
    pooled = log_loss(TARGETS[rows, 0], PROBS[rows, 0])
    intervals = {key: scores.pop(key) for key in ("interval", "fold_intervals")}
    assert scores == {
        "metric": "log_loss", "select": select, "pooled": pytest.approx(pooled), "mean": np.mean(folds),
        "folds": {"0": folds[0], "1": folds[1]}, "rank_per_fold": None, "leaderboard": None, "unscored": [],
        other: {"mean": np.mean(others), "folds": {"0": others[0], "1": others[1]}},
        "columns": {"t0": pytest.approx(pooled)}, "seconds": 21.0, "seconds_per_fold": {"0": 10.0, "1": 11.0},
    }  # fmt: skip
    losses = -np.log(1 - np.abs(TARGETS - PROBS)[rows, 0])  # .22, .11, .51, .11: what samples of them can be
    low, high = intervals["interval"]
    assert losses.min() <= low < pooled < high <= losses.max()
    assert [len(one) for one in intervals["fold_intervals"].values()] == [2, 2]
    oof = pd.read_csv(run.folder.oof)
    assert oof.columns.tolist() == ["id", "fold", "target_t0", "t0"]
    assert oof["target_t0"].tolist() == TARGETS[rows, 0].tolist()
    assert oof["id"].tolist() == rows
    assert oof["fold"].tolist() == FOLDS[rows].tolist()
    np.testing.assert_allclose(oof["t0"], PROBS[rows, 0])
    printed = capsys.readouterr().out.splitlines()
    of_0 = intervals["fold_intervals"]["0"]
    assert printed[1].split() == ["fold", "images", "epoch", "log_loss", "95", "%", "seconds"]
    assert printed[2].split() == [
        "0",
        "2",
        str(epoch),
        f"{folds[0]:.5f}",
        f"{of_0[0]:.5f}",
        "to",
        f"{of_0[1]:.5f}",
        "10.0",
    ]
    assert printed[4:] == [
        f"out-of-fold log_loss: {pooled:.5f} pooled, 95 % {low:.5f} to {high:.5f}",
        f"{np.mean(folds):.5f} mean of 2 of 3 folds, 21 s",
        f"{run.folder.oof}: 4 predictions",
    ]
    print_next(run)
    assert capsys.readouterr().out == f"next: python infer.py run={run.folder.path}\n"


def test_without_a_finished_fold_nothing_is_written(make_table, make_run, capsys):
    run = make_run(make_table(np.zeros((6, 8, 8), np.uint8), TARGETS, FOLDS), *WORDS)
    assert score_run(run) == {}
    print_next(run)
    assert capsys.readouterr().out == ""
    assert not run.folder.path.exists()


def test_predictions_of_units_are_scored_too(make, capsys):
    run = make("last")
    run.table = replace(run.table, units=np.array(["p", "p", "q", "r", "s", "t"]), num_test=10)
    run.config = replace(run.config, competition=replace(run.config.competition, predict_by="patient"))
    scores = score_run(run)
    expected = -np.mean([0.5 * np.log(0.55) + 0.5 * np.log(0.45), np.log(0.6), np.log(0.9)])
    assert scores["by_unit"] == pytest.approx(expected)
    low, high = scores["by_unit_interval"]
    printed = capsys.readouterr().out
    assert f"log_loss of the mean of the rows of a patient: {expected:.5f}, 95 % {low:.5f} to {high:.5f}" in printed
    assert scores["leaderboard"]["rows"] == 3  # 30 % of 10 units, beside 3 units out of fold
    width = np.sqrt(2) * (high - expected)
    assert scores["leaderboard"]["interval"][1] == pytest.approx(expected + width)


def test_thresholds_of_labels_are_kept_for_the_submission(make, capsys):
    run = make("last")
    run.config = replace(run.config, competition=replace(run.config.competition, separator=" "))
    scores = score_run(run)
    assert scores["thresholds"] == {"t0": 0.5}  # which is right in all four rows
    assert (scores["plain"], scores["may_be_none"]) == (1, True)
    assert "F1 by thresholds of 0.5: 1.00000" in capsys.readouterr().out
