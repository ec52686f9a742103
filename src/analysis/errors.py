"""The rows that a run's out-of-fold predictions get most wrong; from its files alone, without torch and images."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.labels import describe_targets, list_class_names
from src.checkpointing.run_folder import RunFolder
from src.competition.targets import standardize
from src.config.load import load_saved_config
from src.errors import UserError
from src.evaluation.out_of_fold import load_out_of_fold
from src.evaluation.thresholds import read_decision
from src.files import load_json

_SMALLEST = 1e-7  # probability whose logarithm is taken, as in evaluation.metrics.log_loss


def find_errors(run, count=None, by="loss"):
    """Return a run's rows of the highest loss, or its most confidently wrong ones, the worst first.

    Args:
        run: a run's folder, or what has one as its `folder`: a blend and a run of some folds, too.
        count: at most so many rows; None: all.
        by: "loss", or "confidence": the rows whose predicted label is wrong, by the probability of that label; of
            several labels the surest of the wrong ones counts. Regression has none.

    Returns:
        A DataFrame: id, fold, loss, label and predicted (in words), confidence (nan where nothing is wrong), column and
        sign, then target_<name> and prob_<name>. loss is the log loss of the row, of several labels the mean over those
        that are known, of regression the squared error in units of the targets' variance. Rows without a known target
        are left out. column is the number of the target that is most wrong, of multiclass of the predicted class, and
        sign 1 where it is predicted (of regression: too high), else -1: what `saliency.compute_saliency` takes.

    Raises:
        UserError: the folder holds no run, or no out-of-fold predictions.
    """
    if by not in ("loss", "confidence"):
        raise UserError(f"by={by}: not an order of errors; write by='loss' or by='confidence'")
    folder = RunFolder(_path_of(run))
    competition = load_saved_config(folder.path).competition
    oof, task = load_out_of_fold(folder.oof, folder.folds), competition.task
    scores = load_json(folder.scores) if folder.scores.is_file() else {}
    decision = read_decision(scores, oof.target_names, task)
    losses, sureness = compute_losses(oof.targets, oof.probs, task), np.full(len(oof.ids), np.nan)
    if task != "regression":
        sureness = compute_wrong_confidences(oof.targets, oof.probs, decision.labels(oof.probs), task)
    order = losses if by == "loss" else sureness
    rows = np.argsort(-order, kind="stable")[: np.isfinite(order).sum()][:count]  # nan comes last
    oof, predicted = oof.take(rows), oof.probs[rows]
    if task != "regression":
        predicted = decision.labels(predicted).astype(float)
    columns, signs = _find_worst(oof, predicted, task)
    names = list_class_names(competition, oof.target_names)
    table = {"id": oof.ids, "fold": oof.folds, "loss": losses[rows]}
    table["label"] = [describe_targets(one, names, task) for one in oof.targets]
    table["predicted"] = [describe_targets(one, names, task) for one in predicted]
    table |= {"confidence": sureness[rows], "column": columns, "sign": signs}
    for prefix, values in (("target", oof.targets), ("prob", oof.probs)):
        table |= {f"{prefix}_{name}": column for name, column in zip(oof.target_names, values.T, strict=True)}
    return pd.DataFrame(table)


def _find_worst(oof, predicted, task):
    """Return each row's (column, sign), int64 (N,), as `find_errors` has them; predicted: (N, C) labels or numbers."""
    if task == "multiclass":
        return predicted.argmax(axis=1), np.ones(len(predicted), dtype=np.int64)
    columns = np.nan_to_num(np.abs(oof.targets - oof.probs), nan=-1).argmax(axis=1)
    if task == "regression":
        columns = np.nan_to_num(np.abs(oof.targets - oof.probs) / standardize(oof.targets)[1], nan=-1).argmax(axis=1)
    places = np.arange(len(columns)), columns
    is_high = predicted[places] > (oof.targets[places] if task == "regression" else 0.5)
    return columns, np.where(is_high, 1, -1)


def _path_of(run):
    """Return the path of a run that is given as one, as a RunFolder, or as what has a `folder`."""
    run = getattr(run, "folder", run)
    return Path(getattr(run, "path", run))


def compute_losses(targets, probs, task):
    """Return each row's loss (N,), nan where no target (N, C) is known; their mean is `log_loss` where all are.

    Of regression the squared error in units of the targets' variance.
    """
    targets = np.asarray(targets, np.float64)
    if task == "regression":
        losses = ((targets - probs) / standardize(targets)[1]) ** 2
    else:
        probs = np.clip(np.asarray(probs, np.float64), _SMALLEST, 1 - _SMALLEST)
        losses = -targets * np.log(probs)
        if task == "multiclass":
            return losses.sum(axis=1)
        losses -= (1 - targets) * np.log(1 - probs)
    is_known = ~np.isnan(losses)
    sums = np.where(is_known, losses, 0).sum(axis=1)
    return np.where(is_known.any(axis=1), sums / np.maximum(is_known.sum(axis=1), 1), np.nan)


def compute_wrong_confidences(targets, probs, labels, task):
    """Return the probability (N,) of what is wrongly predicted, nan where nothing is; labels (N, C) bool: predicted."""
    targets, labels = np.asarray(targets, np.float64), np.asarray(labels, bool)
    if task == "multiclass":
        is_known = ~np.isnan(targets).any(axis=1)
        true = np.where(is_known, np.nan_to_num(targets).argmax(axis=1), -1)
        chosen = labels.argmax(axis=1)
        return np.where(is_known & (true != chosen), probs[np.arange(len(probs)), chosen], np.nan)
    is_wrong = ~np.isnan(targets) & (labels != (targets >= 0.5))
    surest = np.where(is_wrong, np.where(labels, probs, 1 - np.asarray(probs)), -1.0).max(axis=1)
    return np.where(is_wrong.any(axis=1), surest, np.nan)
