"""What is said of out-of-fold predictions: intervals by group, the leaderboard, ranks per fold, columns, labels."""

import json

import numpy as np
import pytest
from scipy import stats

from src.config.settings import Competition
from src.evaluation.judgement import describe_judgement, judge, judge_labels, judge_run
from src.evaluation.metrics import build_metric
from src.evaluation.out_of_fold import OutOfFold
from src.evaluation.sampling import sample_scores

AUC = build_metric("roc_auc", "binary")


def of(targets, probs, folds, names=("y",), groups=None):
    return OutOfFold(np.arange(len(folds)).astype(str), folds, targets, probs, tuple(names), groups)


def draw(num_rows=600, seed=0):
    """Targets (N, 1), probabilities and folds."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, 1)) < 0.3) * 1.0
    probs = 1 / (1 + np.exp(-(targets + rng.normal(size=targets.shape))))
    return targets, probs, np.arange(num_rows) % 3


def test_a_score_has_an_interval_and_so_has_each_fold():
    targets, probs, folds = draw()
    scores = judge(AUC, of(targets, probs, folds))
    assert scores["pooled"] == AUC.score(targets, probs)
    assert scores["interval"] == pytest.approx(sample_scores(AUC, targets, [probs]).interval(0))
    of_one = sample_scores(AUC, targets[folds == 1], [probs[folds == 1]]).interval(0)
    assert scores["fold_intervals"]["1"] == pytest.approx(of_one)
    assert scores["leaderboard"] is None
    assert json.loads(json.dumps(scores)) == scores
    assert describe_judgement(AUC, scores) == []


def test_copies_of_a_groups_rows_narrow_nothing():
    targets, probs, folds = draw()
    groups = np.arange(600)
    once = judge(AUC, of(targets, probs, folds, groups=groups), num_test=100)
    doubled = (np.repeat(one, 2, axis=0) for one in (targets, probs, folds))
    twice = judge(AUC, of(*doubled, groups=np.repeat(groups, 2)), num_test=200)
    assert twice["interval"] == pytest.approx(once["interval"])
    assert twice["fold_intervals"]["1"] == pytest.approx(once["fold_intervals"]["1"])
    assert twice["leaderboard"]["interval"] == pytest.approx(once["leaderboard"]["interval"])


def test_the_leaderboard_may_differ_by_the_error_of_both_samples():
    targets, probs, folds = draw()
    scores = judge(AUC, of(targets, probs, folds), num_test=1058, public_share=0.3)
    low, high = scores["leaderboard"]["interval"]
    assert (low, high) == pytest.approx(sample_scores(AUC, targets, [probs]).interval(0, share=317 / 600))
    assert scores["leaderboard"] == {"rows": 317, "share": 0.3, "interval": [low, high]}
    sentence = f"a public leaderboard of 317 rows (30 %) may show {low:.5f} to {high:.5f}"
    assert describe_judgement(AUC, scores) == [sentence]
    assert describe_judgement(AUC, scores, has_groups=True) == [f"{sentence}, rows of one group varying together"]


def test_folds_whose_probabilities_do_not_agree_are_told_from_those_that_do():
    targets, probs, folds = draw()
    shifted = probs / (1 + 3 * folds)[:, None]
    scores = judge(AUC, of(targets, shifted, folds))
    ranks = np.empty(600)
    for fold in range(3):
        ranks[folds == fold] = stats.rankdata(probs[folds == fold, 0]) / 200
    assert scores["rank_per_fold"] == pytest.approx(AUC.score(targets, ranks[:, None]))
    assert scores["rank_per_fold"] > scores["pooled"] + 0.1
    [sentence] = describe_judgement(AUC, scores)
    assert sentence == (
        f"{scores['rank_per_fold']:.5f} with each fold's probabilities replaced by their ranks: the folds' "
        "probabilities do not agree; infer.average=rank takes the mean of ranks"
    )
    losses = judge(build_metric("log_loss", "binary"), of(targets, shifted, folds))
    assert losses["rank_per_fold"] is None


def test_folds_with_unlike_shares_lose_by_ranks():
    rng = np.random.default_rng(1)
    folds = np.repeat([0, 1], 300)
    targets = (rng.random((600, 1)) < np.where(folds == 0, 0.1, 0.7)[:, None]) * 1.0
    probs = 1 / (1 + np.exp(-2 * (targets + rng.normal(size=targets.shape))))
    [sentence] = describe_judgement(AUC, judge(AUC, of(targets, probs, folds)))
    assert sentence.endswith("the probabilities say more than each fold's order; keep infer.average=mean")


def test_columns_without_a_score_are_named(few_samples):
    targets, probs, folds = draw()
    targets, probs = np.hstack([targets, np.zeros((600, 1))]), np.hstack([probs, probs])
    metric = build_metric("roc_auc", "multilabel")
    scores = judge(metric, of(targets, probs, folds, ["a", "b"]))
    assert scores["columns"] == {"a": scores["pooled"], "b": None}
    assert scores["unscored"] == ["b"]
    assert describe_judgement(metric, scores) == ["no score, and no part in the mean, has: b"]
    plain = judge(build_metric("accuracy", "multilabel"), of(targets, probs, folds, ["a", "b"]))
    assert (plain["columns"], plain["unscored"]) == ({"a": None, "b": None}, [])  # it scores rows, not columns
    nothing = judge(metric, of(targets[:, 1:], probs[:, 1:], folds, ["b"]))
    assert (nothing["interval"], nothing["unscored"], np.isnan(nothing["pooled"])) == (None, ["b"], True)


def test_labels_have_thresholds_and_the_sentences_say_which_are_used(few_samples):
    targets, probs, folds = draw()
    metric, lower = build_metric("f1_macro", "binary"), probs / 4
    found = judge_labels(metric, of(targets, lower, folds))
    assert found["nested"] > found["plain"] + 0.1
    assert 0.1 < found["thresholds"]["y"] < 0.2
    assert found["may_be_none"] is True
    board = judge_labels(metric, of(targets, lower, folds), num_test=600, public_share=0.5)["leaderboard"]
    ends = np.array(found["nested_interval"]) - found["nested"]  # of labels, as those of the submission
    assert board["rows"] == 300
    assert board["interval"] == pytest.approx(found["nested"] + ends * np.sqrt(3))
    scores = judge(metric, of(targets, lower, folds)) | found
    assert found["plain"] == scores["pooled"]
    plain, nested = describe_judgement(metric, scores)
    assert plain.startswith(f"f1_macro by thresholds of 0.5: {found['plain']:.5f}, 95 % ")
    assert nested.startswith(f"f1_macro by thresholds found on the other folds: {found['nested']:.5f}, 95 % ")
    assert nested.endswith("; these are used")
    scores = judge(metric, of(targets, probs, folds))
    scores |= judge_labels(metric, of(targets, targets * 0.8 + 0.1, folds))
    assert scores["thresholds"] == {"y": 0.5}
    assert describe_judgement(metric, scores)[1].endswith("; the submission takes thresholds of 0.5")
    assert judge_labels(AUC, of(targets, probs, folds)) == {}
    asked = judge_labels(build_metric("roc_auc", "multilabel"), of(targets, lower, folds), is_asked=True)
    assert asked["thresholds"]["y"] < 0.25
    assert asked["may_be_none"] is True  # as rows of the targets are
    both = np.hstack([targets, 1 - targets])
    asked = judge_labels(build_metric("roc_auc", "multilabel"), of(both, both, folds, ["y", "z"]), is_asked=True)
    assert asked["may_be_none"] is False


@pytest.mark.nightly
def test_a_million_rows_are_judged_in_seconds():
    import time

    targets, probs, folds = draw(1_000_000)
    began = time.process_time()
    judge(AUC, of(targets, probs, folds), num_test=100)
    print(time.process_time() - began)
    assert time.process_time() - began < 8


def test_rows_of_a_unit_are_judged_as_one():
    targets, probs, folds = draw(60)
    units = np.repeat(np.arange(20), 3).astype(str)
    targets, folds = np.repeat(targets[:20], 3, axis=0), np.repeat(folds[:20], 3)
    competition = Competition(predict_by="patient", predict_with="max", public_share=0.5)
    scores = judge_run(AUC, of(targets, probs, folds), competition, num_test=40, units=units)
    alone = judge(AUC, of(targets[::3], probs.reshape(20, 3).max(axis=1, keepdims=True), folds[::3]), 40, 0.5)
    assert scores["pooled"] == AUC.score(targets, probs)
    assert (scores["by_unit"], scores["by_unit_interval"]) == (alone["pooled"], alone["interval"])
    assert scores["leaderboard"] == alone["leaderboard"]
