"""Sections of one run's page that its out-of-fold predictions fill."""

import numpy as np

from src.analysis import figures
from src.analysis.curve_bands import sample_rows
from src.evaluation.calibration_error import expected_calibration_error
from src.evaluation.metrics import round_to_grades
from tools.report.elements import Drawing, Section, Table, number, share, short

_MOST_CLASSES = 30  # that a confusion table is drawn of
_MOST_COLUMNS = 200  # whose quantiles are found
_MOST_ROWS = 40  # of a table on the page; report.json has all
_MOST_CELLS = 300_000  # that the calibration error's bootstrap reads


def build_ranking(run):
    """ROC and precision-recall of each column, of classes only."""
    if run.oof is None or run.task == "regression":
        return None
    targets, probs, names, groups = run.targets, run.probs, run.column_names, run.oof.groups
    positives, known = (targets >= 0.5).sum(axis=0).tolist(), (~np.isnan(targets)).sum(axis=0).tolist()
    facts = {
        name: {"positives": positives[k], "negatives": known[k] - positives[k], "auc": auc, "average_precision": ap}
        for k, (name, (auc, ap)) in enumerate(zip(names, run.areas.tolist(), strict=True))
    }
    section = Section("ranking", "Ranking: ROC and precision", facts={"columns": facts})
    if len(run.rows_of_areas) < len(targets):
        section.sentences.append(f"These areas are of {len(run.rows_of_areas):,} rows, drawn at random.")
    if left_out := [name for k, name in enumerate(names) if k not in set(run.order)]:
        which = ", ".join(left_out[:5]) + (" ..." if len(left_out) > 5 else "")
        section.sentences.append(f"Without a positive and a negative there is no curve: {which}.")
    if run.order:
        units = "groups" if groups is not None else "rows"
        band = f"The band holds 95 % of bootstrap samples of {units}."
        which = " The columns with the lowest AUC are shown." if len(run.order) > 4 else ""
        figure = figures.draw_roc(targets, probs, names, groups, run.order)
        text = f"The nearer the upper left corner, the better; the dotted line is guessing.{which} {band}"
        section.drawings.append(Drawing("roc", figure, text))
        figure = figures.draw_precision_recall(targets, probs, names, groups, run.order)
        text = f"Of what is called positive, how much is (precision), while more of them are found (recall). {band}"
        section.drawings.append(Drawing("precision_recall", figure, text))
    left_out = [k for k in range(len(names)) if k not in set(run.order)]
    order = [names[k] for k in (*run.order, *left_out)]
    rows = [
        [name, *(f"{facts[name][key]:,}" for key in ("positives", "negatives")),
         *(number(facts[name][key]) for key in ("auc", "average_precision"))] for name in order[:_MOST_ROWS]
    ]  # fmt: skip
    title = (
        "By column" if len(order) <= _MOST_ROWS else f"The {_MOST_ROWS} of {len(order):,} columns with the lowest AUC"
    )
    header = ["column", "positives", "negatives", "AUC", "average precision"]
    section.tables.append(Table(header, rows, title, is_open=len(order) <= 3))
    return section


def build_calibration(run):
    """Whether probabilities come true."""
    if run.oof is None or run.task == "regression":
        return None
    targets, probs, groups = run.targets, run.probs, run.oof.groups
    if not (~np.isnan(targets)).any():
        return None
    values_a_row = 1 if run.task == "multiclass" else targets.shape[1]
    rows = sample_rows(len(targets), max(1000, _MOST_CELLS // values_a_row))
    found = expected_calibration_error(
        targets[rows], probs[rows], run.task, None if groups is None else groups[rows], num_samples=400
    )
    facts = {"ece": found.ece, "chance": found.chance, "interval": found.interval, "rows": len(rows)}
    bins = {"confidence": found.confidences, "share": found.shares, "count": found.sizes}
    section = Section("calibration", "Calibration", facts={"calibration": facts | {"bins": bins}})
    of_what = "the most probable class" if run.task == "multiclass" else "a probability"
    drawn = f" ({len(rows):,} rows, drawn at random)" if len(rows) < len(targets) else ""
    section.sentences.append(
        f"On average {of_what} is off by {share(found.ece)} (calibration error, 95 % {share(found.interval[0])} to "
        f"{share(found.interval[1])}; perfect probabilities would show {share(found.chance)}){drawn}."
    )
    figure = figures.draw_calibration(found.confidences, found.shares, found.sizes)
    text = "On the dotted line a prediction of 80 % comes true 8 times of 10; below it the network is too sure. "
    text += f"Each dot holds about {found.sizes.mean():,.0f} predictions."
    section.drawings.append(Drawing("calibration", figure, text))
    rows = [
        [number(one, 3), number(other, 3), f"{int(size):,}"]
        for one, other, size in zip(found.confidences, found.shares, found.sizes, strict=True)
    ]
    section.tables.append(Table(["mean probability", "came true", "predictions"], rows, "The numbers", is_open=False))
    return section


def build_confusion(run):
    """What is taken for what, at the thresholds that the submission would use."""
    if run.oof is None or (run.task == "regression" and run.metric.takes != "classes"):
        return None
    if run.task == "regression":
        return _confuse_grades(run)
    section = Section("confusion", "Confusion")
    if run.task == "multiclass":
        section.sentences.append(
            "A row's label is its most probable class, by the thresholds that were found out of fold."
            if run.scores.get("are_found") else "A row's label is its most probable class."
        )  # fmt: skip
        return _confuse_classes(run, section)
    return _confuse_columns(run, section)


def _confuse_classes(run, section):
    is_known = ~np.isnan(run.targets).any(axis=1)
    truth, predicted = run.targets[is_known].argmax(axis=1), run.labels[is_known].argmax(axis=1)
    names, size = run.column_names, len(run.column_names)
    pairs, counts = np.unique(truth * size + predicted, return_counts=True)
    correct, total = int(counts[pairs // size == pairs % size].sum()), int(counts.sum())
    of_class = np.bincount(truth, minlength=size)
    wrong = [(int(count), int(pair // size), int(pair % size)) for pair, count in zip(pairs, counts, strict=True)
             if pair // size != pair % size]  # fmt: skip
    wrong.sort(key=lambda one: (-one[0], one[1:]))
    listed = [{"true": names[a], "predicted": names[b], "rows": count, "share": count / of_class[a]}
              for count, a, b in wrong]  # fmt: skip
    section.facts = {"confusion": {"correct": correct, "rows": total, "pairs": listed[:1000]}}
    section.sentences.append(f"{correct:,} of {total:,} rows are right ({share(correct / max(1, total))}).")
    if size <= _MOST_CLASSES:
        table = np.bincount(truth * size + predicted, minlength=size**2).reshape(size, size)
        section.facts["confusion"]["table"] = table
        text = "Rows are true classes. Off the diagonal are mistakes: the darker, the larger their share of the class."
        section.drawings.append(Drawing("confusion", figures.draw_confusion(table, names), text, size > 16))
    if listed:
        rows = [[one["true"], one["predicted"], f"{one['rows']:,}", share(one["share"])] for one in listed[:15]]
        title = "What is taken for what most often"
        section.tables.append(Table(["true", "predicted", "rows", "of the class"], rows, title, is_text=(1,)))
    return section


def _confuse_columns(run, section):
    facts, names, thresholds = {}, run.column_names, np.broadcast_to(run.decision.thresholds, run.probs.shape[1])
    for column, name in enumerate(names):
        known = ~np.isnan(run.targets[:, column])
        truth, label = run.targets[known, column] >= 0.5, run.labels[known, column]
        tp, fp = int((truth & label).sum()), int((~truth & label).sum())
        fn, tn = int((truth & ~label).sum()), int((~truth & ~label).sum())
        facts[name] = {
            "threshold": float(thresholds[column]), "tp": tp, "fp": fp, "fn": fn, "tn": tn,
            "precision": tp / (tp + fp) if tp + fp else None, "recall": tp / (tp + fn) if tp + fn else None,
            "f1": 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else None,
        }  # fmt: skip
    section.facts = {"confusion": facts}
    if "thresholds" not in run.scores:
        section.sentences.append(f"At a threshold of 0.5, as {run.metric.name} asks for none.")
    elif run.scores["are_found"]:
        section.sentences.append("At the thresholds that were found out of fold, which the submission uses.")
    else:
        section.sentences.append("At a threshold of 0.5: thresholds found out of fold are not shown to be better.")
    if len(names) == 1:
        one = facts[names[0]]
        table = np.array([[one["tn"], one["fp"]], [one["fn"], one["tp"]]])
        shown = run.config.competition.classes if len(run.config.competition.classes) == 2 else ["no", "yes"]
        text = "Rows are the truth: upper right are false alarms, lower left what was missed."
        section.drawings.append(Drawing("confusion", figures.draw_confusion(table, shown), text))
    order = sorted(facts, key=lambda name: (facts[name]["f1"] is None, facts[name]["f1"]))
    rows = [
        [name, short(one["threshold"]), *(f"{one[key]:,}" for key in ("tp", "fp", "fn", "tn")),
         *(number(one[key], 3) for key in ("precision", "recall", "f1"))]
        for name, one in ((name, facts[name]) for name in order[:_MOST_ROWS])
    ]  # fmt: skip
    header = ["column", "threshold", "found", "false alarms", "missed", "rightly not", "precision", "recall", "F1"]
    title = "" if len(order) <= _MOST_ROWS else f"The {_MOST_ROWS} of {len(order):,} columns with the lowest F1"
    section.tables.append(Table(header, rows, title))
    return section


def _confuse_grades(run):
    section, column = Section("confusion", "Confusion"), 0
    known = ~np.isnan(run.targets[:, column])
    truth = round_to_grades(run.targets[known, column], run.targets[known, column])
    label = np.clip(run.labels[known, column], truth.min(), truth.max())
    size = int(truth.max() - truth.min()) + 1
    if size > _MOST_CLASSES:
        return None
    table = np.bincount((truth - truth.min()) * size + label - truth.min(), minlength=size**2).reshape(size, size)
    names = [str(grade) for grade in range(truth.min(), truth.max() + 1)]
    section.facts = {"confusion": {"table": table, "grades": names}}
    found = "found out of fold" if run.scores.get("are_found") else "halfway between grades"
    section.sentences.append(f"{run.column_names[0]} in grades, by thresholds {found}.")
    text = "Rows are true grades. Far from the diagonal are the mistakes that cost most."
    section.drawings.append(Drawing("confusion", figures.draw_confusion(table, names), text))
    return section


def build_distributions(run):
    """How probabilities are distributed, by the truth; of regression predicted against true values and residuals."""
    if run.oof is None:
        return None
    if run.task == "regression":
        return _build_residuals(run)
    section = Section("distributions", "Distributions")
    many = "" if len(run.column_names) == 1 else (
        "The dot is the median, the thick line the middle half, the thin one 5 to 95 %"
        + (", of the columns with the lowest AUC. " if len(run.column_names) > 12 else ". ")
    )  # fmt: skip
    text = f"{many}The less the two colours overlap, the better the column is told from the rest."
    if not run.order:
        return None
    figure = figures.draw_distributions(run.targets, run.probs, run.column_names, run.order)
    section.drawings.append(Drawing("distributions", figure, text))
    facts, rows = {}, []
    for column in run.order[:_MOST_COLUMNS]:
        name = run.column_names[column]
        known = ~np.isnan(run.targets[:, column])
        for side, chosen in (("positive", run.targets[:, column] >= 0.5), ("negative", run.targets[:, column] < 0.5)):
            values = run.probs[known & chosen, column]
            if len(values):
                quantiles = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
                facts.setdefault(name, {})[side] = dict(zip(("q05", "median", "q95"), quantiles, strict=True))
                rows.append([name, side, f"{len(values):,}", *(number(one, 4) for one in quantiles)])
    section.facts = {"distributions": facts}
    header = ["column", "truth", "rows", "5 %", "median", "95 %"]
    section.tables.append(Table(header, rows[:_MOST_ROWS], "The numbers", is_open=False, is_text=(1,)))
    return section


def _build_residuals(run):
    section, facts = Section("distributions", "Predicted and true"), {}
    for column, name in enumerate(run.column_names):
        known = ~np.isnan(run.targets[:, column])
        truth, predicted = run.targets[known, column], run.probs[known, column]
        if not len(truth):
            continue
        errors = predicted - truth
        facts[name] = {
            "rows": len(truth), "mean_error": float(errors.mean()), "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())), "deviation_of_targets": float(truth.std()),
        }  # fmt: skip
        if column < 3:
            text = "On the dotted line the prediction is right. A flatter cloud: it keeps to the middle."
            section.drawings.append(
                Drawing(f"predicted_{column}", figures.draw_predicted(truth, predicted, name), text)
            )
            text = "A peak at 0 is good; a mean apart from 0 says that all predictions are too high or too low."
            section.drawings.append(
                Drawing(f"residuals_{column}", figures.draw_residuals(truth, predicted, name), text)
            )
    section.facts = {"residuals": facts}
    keys = ("mean_error", "mae", "rmse", "deviation_of_targets")
    rows = [[name, f"{one['rows']:,}", *(short(one[key]) for key in keys)] for name, one in facts.items()]
    header = ["column", "rows", "mean error", "MAE", "RMSE", "deviation of the targets"]
    section.tables.append(Table(header, rows[:_MOST_ROWS]))
    return section
