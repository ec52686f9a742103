"""Out-of-fold: a run's finished folds -> oof.csv, scores.json and the printed table of folds."""

import shlex
import textwrap

import numpy as np
import pandas as pd

from src.competition.predictions import join_columns, load_predictions
from src.evaluation.judgement import describe_interval, describe_judgement, judge_run
from src.evaluation.out_of_fold import OutOfFold
from src.files import load_json, save_json, save_table
from src.terminal import paint


def score_run(run):
    """Join the finished folds' validation predictions of a run.Run; return what scores.json holds, {} without any."""
    folder, table, metric, select = run.folder, run.table, run.metric, run.config.train.select
    done = [fold for fold in run.folds if folder.fold(fold).is_finished()]
    if not done:
        return {}
    names, rows = list(table.target_names), np.isin(table.folds, done)
    probs = np.empty(table.targets.shape)
    for fold in done:
        own = table.folds == fold
        probs[own] = load_predictions(folder.fold(fold).val, table.ids[own], names)
    groups, units = (None if one is None else one[rows] for one in (table.groups, table.units))
    oof = OutOfFold(table.ids[rows], table.folds[rows], table.targets[rows], probs[rows], table.target_names, groups)
    known = {f"target_{name}": column for name, column in zip(names, oof.targets.T, strict=True)}
    save_table(folder.oof, join_columns({"id": oof.ids, "fold": oof.folds} | known, oof.probs, names))

    metas = {fold: load_json(folder.fold(fold).meta, "best_score", "last_score", "seconds") for fold in done}
    per_fold = {key: {str(fold): meta[f"{key}_score"] for fold, meta in metas.items()} for key in ("best", "last")}
    other = "last" if select == "best" else "best"
    scores = {
        "metric": metric.name,
        "select": select,
        **judge_run(metric, oof, run.config.competition, table.num_test, units),
        "mean": float(np.mean(list(per_fold[select].values()))),
        "folds": per_fold[select],
        other: {"mean": float(np.mean(list(per_fold[other].values()))), "folds": per_fold[other]},
        "seconds": round(sum(meta["seconds"] for meta in metas.values()), 2),
        "seconds_per_fold": {str(fold): round(meta["seconds"], 2) for fold, meta in metas.items()},
    }
    save_json(folder.scores, scores)
    _print_scores(run, metas, scores)
    return scores


def _print_scores(run, metas, scores):
    """Print a line per fold, {number: what its meta.json holds}, and the scores of all."""
    competition, table, is_best = run.config.competition, run.table, run.config.train.select == "best"
    summary = {
        "fold": list(metas),
        "images": [int((table.folds == fold).sum()) for fold in metas],
        "epoch": [meta["best_epoch" if is_best else "epoch"] for meta in metas.values()],
        run.metric.name: [f"{value:.5f}" for value in scores["folds"].values()],
        "95 %": [describe_interval(value) for value in scores["fold_intervals"].values()],
        "seconds": [f"{meta['seconds']:.1f}" for meta in metas.values()],
    }
    print(f"\n{pd.DataFrame(summary).to_string(index=False)}")
    line = f"out-of-fold {run.metric.name}: {scores['pooled']:.5f} pooled, 95 % {describe_interval(scores['interval'])}"
    print(paint(line, "bold"))
    print(f"{scores['mean']:.5f} mean of {len(metas)} of {len(run.folds)} folds, {scores['seconds']:.0f} s")
    if run.config.train.teacher:
        line = "this score is optimistic: networks of train.teacher have seen the labels of the rows that it is of"
        print(paint(line, "yellow"))
    if "by_unit" in scores:
        how = f"{competition.predict_with} of the rows of a {competition.predict_by}"
        interval = describe_interval(scores["by_unit_interval"])
        print(f"{run.metric.name} of the {how}: {scores['by_unit']:.5f}, 95 % {interval}")
    for sentence in describe_judgement(run.metric, scores, table.groups is not None):
        print(textwrap.fill(sentence, 80, subsequent_indent="  "))
    print(f"{run.folder.oof}: {np.isin(table.folds, list(metas)).sum()} predictions")


def print_next(run):
    """Print the command that follows a run.Run's training, where a fold of it is finished: a command's last line."""
    folder, of_all = run.folder, ""
    if run.config.fold == "all" and folder.fold("all").is_finished():
        of_all = " infer.folds=all"
        print(f"{folder.fold('all').path}: alone with infer.folds=all, beside the folds with infer.folds=both")
    if of_all or folder.finished_folds():
        print(f"next: python infer.py run={shlex.quote(str(folder.path))}{of_all}")
