"""What out-of-fold predictions are worth: score and interval, the leaderboard's spread, ranks per fold, thresholds."""

import numpy as np
import scipy

from src.evaluation.sampling import sample_scores
from src.evaluation.thresholds import judge_thresholds, label_metric, plain_thresholds

_WORK = 5e6  # values that each bootstrap scores: below a second on one core


def judge_run(metric, oof, competition, num_test=None, units=None):
    """Return all that scores.json holds of out-of-fold predictions: also of units and of labels.

    units: (N,) str, rows of one get one prediction, which labels and the leaderboard are then of; None: each row its
    own. The other arguments are those of `judge`.
    """
    test = {"num_test": num_test, "public_share": competition.public_share}
    scores = judge(metric, oof, **test)
    if units is not None:
        oof = oof.pool(units, competition.predict_with)
        found = judge(metric, oof, **test)
        scores |= {"by_unit": found["pooled"], "by_unit_interval": found["interval"]}
        scores["leaderboard"] = found["leaderboard"]
    return scores | judge_labels(metric, oof, is_asked=competition.separator is not None, **test)


def judge(metric, oof, num_test=None, public_share=0.3):
    """Return what scores.json holds of out-of-fold predictions; beside `pooled`, what is not defined is None.

    Args:
        metric: evaluation.metrics.Metric.
        oof: out_of_fold.OutOfFold; rows of one group vary together.
        num_test: rows of the test set, of which the public leaderboard scores the share `public_share`; None: unknown.
    """
    targets, probs, folds, groups = oof.targets, oof.probs, oof.folds, oof.groups
    sampling = sample_scores(metric, targets, [probs], groups, max_work=_WORK)
    columns = dict(zip(oof.target_names, metric.score_columns(targets, probs), strict=True))
    has_columns = metric.has_columns or len(columns) == 1
    numbers, intervals = np.unique(folds), {}
    for fold in numbers:
        own = oof.take(folds == fold)
        one = sample_scores(metric, own.targets, [own.probs], own.groups, max_work=_WORK / 2 / len(numbers))
        intervals[str(fold)] = _list(one.interval(0))
    return {
        "pooled": float(sampling.scores[0]),
        "interval": _list(sampling.interval(0)),
        "fold_intervals": intervals,
        "rank_per_fold": _score_ranks(metric, targets, probs, folds),
        "columns": {name: _number(value) for name, value in columns.items()},
        "unscored": [name for name, value in columns.items() if has_columns and np.isnan(value)],
        "leaderboard": _leaderboard(sampling, 0, len(targets), num_test, public_share) if num_test else None,
    }


def judge_labels(metric, oof, is_asked=False, num_test=None, public_share=0.3):
    """Return what scores.json holds of thresholds, {} for a metric that takes none; the arguments are those of `judge`.

    is_asked: the submission holds labels, whatever the metric takes; their thresholds are then those of F1, and a row
        without any is one only where the targets have such rows.
    """
    if (judged := label_metric(metric, is_asked)) is None:
        return {}
    may_be_none = not is_asked or bool((oof.targets == 0).all(axis=1).any())
    own = oof.targets, oof.probs, oof.folds, oof.groups
    decision, sampling = judge_thresholds(judged, *own, may_be_none, _WORK)
    are_found = bool(np.any(decision.thresholds != plain_thresholds(judged, oof.targets)))  # or they are the plain ones
    thresholds = [dict(zip(map(str, one), one.values(), strict=True)) if isinstance(one, dict) else float(one)
                  for one in decision.thresholds]  # fmt: skip
    found = {
        "thresholds": dict(zip(oof.target_names, thresholds, strict=True)),
        "are_found": are_found,
        "may_be_none": may_be_none,
        "plain": _number(sampling.scores[0]),  # by thresholds of 0.5, the largest class or the nearest grade
        "plain_interval": _list(sampling.interval(0)),
        "nested": _number(sampling.scores[1]),
        "nested_interval": _list(sampling.interval(1)),
    }
    if are_found and num_test and judged is metric and found["nested_interval"]:  # the leaderboard's score is of labels
        found["leaderboard"] = _leaderboard(sampling, 1, len(oof.targets), num_test, public_share)
    return found


def describe_judgement(metric, scores, has_groups=False):
    """Return sentences about what `judge` found, beside the score itself."""
    low, high = scores["interval"] or (np.nan, np.nan)
    ranked, found = scores["rank_per_fold"], []
    if ranked is not None and abs(ranked - scores["pooled"]) > (high - low) / 10:
        why = "the folds' probabilities do not agree; infer.average=rank takes the mean of ranks"
        if ranked < scores["pooled"]:
            why = "the probabilities say more than each fold's order; keep infer.average=mean"
        found.append(f"{ranked:.5f} with each fold's probabilities replaced by their ranks: {why}")
    if board := scores["leaderboard"]:
        rows = f"a public leaderboard of {board['rows']:,} rows ({100 * board['share']:g} %)"
        units = ", rows of one group varying together" if has_groups else ""
        found.append(f"{rows} may show {describe_interval(board['interval'])}{units}")
    if "thresholds" in scores:
        texts = {}
        for key in ("plain", "nested"):
            score = np.nan if scores[key] is None else scores[key]
            texts[key] = f"{score:.5f}, 95 % {describe_interval(scores[f'{key}_interval'])}"
        name = metric.name if metric.takes == "classes" else "F1"
        rules = {"multiclass": "the largest probability", "regression": "the nearest grade"}
        rule = rules.get(metric.task, "thresholds of 0.5")
        used = "these are used" if scores["are_found"] else f"the submission takes {rule}"
        found.append(f"{name} by {rule}: {texts['plain']}")
        found.append(f"{name} by thresholds found on the other folds: {texts['nested']}; {used}")
    if scores["unscored"]:
        found.append(f"no score, and no part in the mean, has: {', '.join(scores['unscored'])}")
    return found


def describe_interval(interval):
    """Return an interval in words."""
    return "no interval" if interval is None else f"{interval[0]:.5f} to {interval[1]:.5f}"


def _leaderboard(sampling, index, num_rows, num_test, public_share):
    """The leaderboard's rows, and the scores that it may show of one prediction of a Sampling of `num_rows`."""
    num_public = max(1, round(num_test * public_share))
    interval = _list(sampling.interval(index, share=num_public / num_rows))
    return {"rows": num_public, "share": public_share, "interval": interval}


def _score_ranks(metric, targets, probs, folds):
    """The pooled score of each fold's ranks, in [0, 1]; None where the metric takes more than the order."""
    if not metric.is_ranking:
        return None
    ranks = np.empty(probs.shape)
    for fold in np.unique(folds):
        own = folds == fold
        ranks[own] = (scipy.stats.rankdata(probs[own], axis=0) - 0.5) / own.sum()
    return _number(metric.score(targets, ranks))


def _number(value):
    return None if np.isnan(value) else float(value)


def _list(interval):
    return None if np.isnan(interval).any() else list(interval)
