"""A run's finished folds -> oof.csv, scores.json and the printed table of folds."""

import numpy as np
import pandas as pd

from src.checkpointing.checkpointer import is_done
from src.competition.predictions import join_columns, load_predictions
from src.evaluation.metrics import score, score_columns
from src.files import load_json, save_json, save_table


def score_run(config, table, folds, numbers):
    """Join the finished folds' validation predictions; write oof.csv and scores.json; print the table of folds.

    Args:
        table: competition.tables.ImageTable of all rows.
        folds: (N,) int64.
        numbers: of the folds that validate.

    Returns: what scores.json holds; {} where no fold is finished, and nothing is written.
    """
    run_folder, metric = config.run_folder, config.competition.metric
    done = [fold for fold in numbers if is_done(run_folder / f"fold{fold}")]
    if not done:
        return {}
    names, rows = list(table.target_names), np.isin(folds, done)
    probs = np.empty(table.targets.shape)
    for fold in done:
        own = folds == fold
        probs[own] = load_predictions(run_folder / f"fold{fold}" / "val.csv", table.ids[own], names)
    targets, probs = table.targets[rows], probs[rows]
    save_table(run_folder / "oof.csv", join_columns({"id": table.ids[rows], "fold": folds[rows]}, probs, names))

    metas = {fold: load_json(run_folder / f"fold{fold}" / "meta.json") for fold in done}
    per_fold = {fold: metas[fold]["best_score"] for fold in done}
    scores = {
        "metric": metric,
        "pooled": score(targets, probs, metric),
        "mean": float(np.mean(list(per_fold.values()))),
        "folds": {str(fold): value for fold, value in per_fold.items()},
        "columns": dict(zip(names, score_columns(targets, probs, metric).tolist(), strict=True)),
        "seconds": round(sum(meta["seconds"] for meta in metas.values()), 2),
        "seconds_per_fold": {str(fold): round(metas[fold]["seconds"], 2) for fold in done},
    }
    save_json(run_folder / "scores.json", scores)
    summary = pd.DataFrame(
        {
            "fold": done,
            "images": [int((folds == fold).sum()) for fold in done],
            "best epoch": [metas[fold]["best_epoch"] for fold in done],
            metric: [f"{per_fold[fold]:.5f}" for fold in done],
            "seconds": [f"{metas[fold]['seconds']:.1f}" for fold in done],
        }
    )
    print(f"\n{summary.to_string(index=False)}")
    print(
        f"out-of-fold {metric}: {scores['pooled']:.5f} pooled, {scores['mean']:.5f} mean of {len(done)} of "
        f"{len(numbers)} folds, {scores['seconds']:.0f} s"
    )
    print(f"{run_folder / 'oof.csv'}; next: python infer.py run={run_folder}")
    return scores
