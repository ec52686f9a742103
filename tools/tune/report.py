"""The page of a search: the best settings, what each setting does to the score, all trials, the honest score."""

import math
import shlex

from markupsafe import Markup
from optuna.trial import TrialState

from src.analysis.figures import save_svg
from src.files import save_text
from tools.page import render
from tools.tune.figures import draw_history, draw_importances, draw_slice

_MOST_ROWS = 100


def save_report(options, search, metric, found, rows, lines):
    """Write report.html; found: what tune.json holds, rows: of trials.csv, lines: the scores in words."""
    parameters, best = options.parameters, found["best"]["number"]
    drawn = [(one, one.value if one.state == TrialState.COMPLETE else last_value(one))
             for one in search.trials("COMPLETE", "PRUNED")]  # fmt: skip
    drawn = [(one, score) for one, score in drawn if score is not None and math.isfinite(score)]
    points = [(one.number, score, one.state == TrialState.COMPLETE) for one, score in drawn]
    slices = []
    for key, one in parameters.items():
        values = [(trial.params[key], score, trial.state == TrialState.COMPLETE) for trial, score in drawn]
        own = next(trial.params[key] for trial, _ in drawn if trial.number == best)
        slices.append((key, svg(draw_slice(key, values, own, metric.name, one.log, one.choices))))
    sign = -1 if metric.greater_is_better else 1
    order = {"complete": 0, "pruned": 1, "failed": 2}
    ranked = sorted(rows, key=lambda row: (order[row["state"]], sign * (row["score"] or 0), row["number"]))
    header = ["trial", "state", metric.name, *parameters, "seconds", "reason"]
    cells = [
        [row["number"], row["state"], number(row["score"]), *(row[key] for key in parameters),
         number(row["seconds"], 1), row["reason"]] for row in ranked[:_MOST_ROWS]
    ]  # fmt: skip
    folds = {one.number: one.user_attrs.get("folds", {}) for one in search.trials("COMPLETE")}
    chosen = [(fold, one, number(folds[one].get(fold))) for fold, one in found["chosen"].items()]
    big, counts = found["best"]["score"] if found["honest"] is None else found["honest"], found["trials"]
    facts = [("trials", sum(counts.values())), *counts.items(), ("folds", len(found["folds"])),
             ("training", f"{found['seconds'] / 60:.1f} min"), ("seed", found["seed"])]  # fmt: skip
    recipe = shlex.quote(str(options.folder / "recipe.yaml"))
    page = render(
        "tune/report.html.jinja", name=options.folder.name, lines=lines, facts=facts, next=found["next"],
        big=f"{number(big)} {'best' if found['honest'] is None else 'honest'} {metric.name}", best=found["best"],
        settings=[(key, found["best"]["settings"][key], one.describe()) for key, one in parameters.items()],
        importances=svg(draw_importances(found["importances"])) if found["importances"] else None,
        train=" ".join(["python train.py", *map(shlex.quote, options.next_words), f"recipe={recipe}"]),
        history=svg(draw_history(points, best, metric.name, metric.greater_is_better)), folds=found["folds"],
        slices=slices, header=header, rows=cells, num_hidden=len(ranked) - len(cells), chosen=chosen,
        num_pruned=counts.get("pruned", 0),
    )  # fmt: skip
    save_text(options.folder / "report.html", page)


def last_value(trial):
    """Return the last score that a trial of Optuna has reported; None without any."""
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def number(value, digits=5):
    """Return a number in words, a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def svg(figure):
    """Return a figure as markup."""
    return Markup(save_svg(figure))
