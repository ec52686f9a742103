"""Test predictions against validation's: whether the test set looks to the networks as the training set does."""

import numpy as np

from src.analysis import figures
from src.analysis.curve_bands import compute_areas, sample_rows
from tools.report.elements import Drawing, Section, Table, number, share

_MOST_COLUMNS, _MOST_DRAWN = 20, 3


def build_shift(run):
    """Distributions of single networks' test and validation predictions, by column."""
    if run.oof is None or run.kind == "soup":
        return None
    section = Section("shift", "Test against validation")
    if not run.test_folds:
        if run.kind == "blend":
            return None
        section.sentences.append("No test predictions yet; this command makes them, and adds them here:")
        section.commands.append(("", f"python infer.py run={run.folder.path}"))
        return section
    names = [name for name in run.test_folds if name != "foldall"] or list(run.test_folds)
    test = np.concatenate([run.test_folds[name][1] for name in names])
    count = len(run.test_folds[names[0]][1])
    facts = {}
    for column in run.order[:_MOST_COLUMNS] if run.task != "regression" else range(min(_MOST_COLUMNS, test.shape[1])):
        val, own = run.probs[:, column], test[:, column]
        rows = sample_rows(len(own), 200_000)
        truth = np.append(np.zeros(len(val)), np.ones(len(rows)))
        auc = compute_areas(truth, np.append(val, own[rows]))[0]
        facts[run.column_names[column]] = {
            "val_mean": float(val.mean()), "test_mean": float(own.mean()), "auc": auc,
            "ks": _kolmogorov_smirnov(val, own[rows]),
        }  # fmt: skip
    if not facts:
        return None
    order = sorted(facts, key=lambda name: -facts[name]["ks"])
    worst, largest = order[0], max((facts[name]["auc"] for name in facts), key=lambda auc: abs(auc - 0.5))
    section.facts = {"shift": {"columns": facts, "largest_auc": largest, "test_rows": count, "folds": names}}
    ks = facts[worst]["ks"]
    limit = 1.36 * np.sqrt(1 / len(run.probs) + 1 / count)  # of chance alone, 5 % (Smirnov, 1948)
    word = "No shift is seen" if ks < limit else "A small shift" if ks < max(0.1, 2 * limit) else "A clear shift"
    apart = f"{share(ks)} apart at most (Kolmogorov-Smirnov; by chance up to {share(limit)})"
    larger = f"a test prediction is the larger one {share(facts[worst]['auc'])} of the time (50 % where they are alike)"
    section.sentences.append(f"{word}: the two distributions of {worst} are {apart}, and {larger}.")
    for place, name in enumerate(order[: 1 if ks < limit else _MOST_DRAWN]):
        column = run.column_names.index(name)
        figure = figures.draw_shift(run.probs[:, column], test[:, column], name, run.task != "regression")
        text = "Two like curves: the test images look to the networks as those they were scored on."
        section.drawings.append(Drawing(f"shift_{place}", figure, text))
    rows = [[name, *(number(facts[name][key], 4) for key in ("val_mean", "test_mean", "ks", "auc"))] for name in order]
    header = ["column", "validation mean", "test mean", "KS", "AUC between"]
    title = "The numbers: each fold's network on the rows it did not learn from, and on the test images"
    section.tables.append(Table(header, rows, title, is_open=False))
    return section


def _kolmogorov_smirnov(first, second):
    """Return how far the two samples' distribution functions are apart at most."""
    first, second = np.sort(first), np.sort(second)
    values = np.concatenate([first, second])
    shares = (np.searchsorted(one, values, side="right") / len(one) for one in (first, second))
    return float(np.abs(np.subtract(*shares)).max())
