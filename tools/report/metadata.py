"""Errors by group and by the columns of the training table: where the run is worse than elsewhere."""

import itertools

import numpy as np
import pandas as pd

from src.analysis import figures
from src.analysis.errors import compute_losses
from src.evaluation.sampling import sample_scores
from tools.report.elements import Drawing, Section, Table, number, plural, share, span

_MOST_COLUMNS, _MOST_VALUES, _NUM_RANGES = 12, 10, 5
_FEWEST = 5  # rows of a category, of classes positives and negatives, below which no score is told
_WORK = 2e5  # values that the bootstrap of one category scores


def build_groups(run):
    """The groups with the highest loss, and the score within each category of the table's other columns."""
    if run.oof is None:
        return None
    section = Section("groups", "Errors by group and metadata")
    if run.oof.groups is not None:
        _add_groups(run, section)
    columns, found = run.columns, {}
    if columns is not None:
        skipped = {run.config.competition.group, run.config.competition.fold}
        names = [name for name in columns if name not in skipped]
        for name in names:
            if len(found) < _MOST_COLUMNS and (kinds := _categorise(columns[name])) is not None:
                found[name] = _score(run, kinds)
    section.facts |= {"metadata": found}
    order = sorted(found, key=lambda name: -_spread(found[name]))
    for place, name in enumerate(order):
        known = {value: one for value, one in found[name].items() if one["score"] is not None}
        if place < 3 and len(known) > 1:
            scores, intervals = [one["score"] for one in known.values()], [one["interval"] for one in known.values()]
            label = f"{run.metric.name} by {name}"
            figure = figures.draw_intervals(list(known), scores, intervals, run.scores["pooled"], label)
            text = f"A bar that does not reach the line: rows of that {name} are harder, or easier, than most."
            section.drawings.append(Drawing(f"metadata_{place}", figure, text))
        rows = [[value, f"{one['rows']:,}", number(one["score"]), span(one["interval"]) if one["score"] is not None
                 else "too few"] for value, one in found[name].items()]  # fmt: skip
        header = [name, "rows", run.metric.name, "95 %"]
        section.tables.append(Table(header, rows, f"By {name}", is_open=False))
    if not section.tables:
        return None
    if found:
        section.sentences.append(
            f"{plural(len(found), 'column')} of the training table; of {_FEWEST - 1} rows or fewer (of classes: on "
            "either side) no score is told. Of many categories one differs by chance alone."
        )
    return section


def _add_groups(run, section):
    losses, groups = compute_losses(run.targets, run.probs, run.task), run.oof.groups
    table = pd.DataFrame({"group": groups, "loss": losses}).groupby("group")["loss"].agg(["size", "mean", "sum"])
    worst = table.sort_values("sum", ascending=False).head(15)
    section.facts["groups"] = {
        "number": len(table),
        "worst": [{"group": str(name), "rows": int(one["size"]), "loss": float(one["mean"])}
                  for name, one in worst.iterrows()],
    }  # fmt: skip
    part = worst["sum"].sum() / max(table["sum"].sum(), 1e-12)
    section.sentences.append(
        f"{plural(len(table), 'group')}; the {len(worst)} with the highest loss in sum make up {share(part)} of it."
    )
    rows = [[name, f"{int(one['size']):,}", number(one["mean"], 4)] for name, one in worst.iterrows()]
    section.tables.append(Table(["group", "rows", "mean loss"], rows, "Groups with the highest loss", is_open=False))


def _categorise(cells):
    """Return a Series of categories, nan where a cell is empty: values as they are, or ranges of numbers; or None."""
    values, numbers = cells.dropna(), pd.to_numeric(cells, errors="coerce")
    if values.nunique() < 2:
        return None
    if numbers.notna().sum() == len(values) and values.nunique() > _MOST_VALUES:
        edges = np.unique(np.quantile(numbers.dropna(), np.linspace(0, 1, _NUM_RANGES + 1)))
        if len(edges) < 3:
            return None
        labels = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
        if len(set(labels)) < len(labels):
            return None
        return pd.cut(numbers, edges, labels=labels, include_lowest=True).astype(object)
    if values.nunique() > max(_MOST_VALUES, min(50, len(values) / 20)):
        return None
    common = values.value_counts().index[:_MOST_VALUES]
    return cells.where(cells.isin(common) | cells.isna(), "(others)")


def _score(run, kinds):
    """Return {category: rows, score and interval}; the last two are None of too few rows."""
    found = {}
    for value in pd.unique(kinds.dropna()):
        rows = (kinds == value).to_numpy()
        targets, probs = run.targets[rows], run.probs[rows]
        one = {"rows": int(rows.sum()), "score": None, "interval": None}
        if _is_enough(targets, run.task):
            groups = None if run.oof.groups is None else run.oof.groups[rows]
            sampling = sample_scores(run.metric, targets, [probs], groups, max_work=_WORK)
            score, (low, high) = float(sampling.scores[0]), sampling.interval(0)
            if np.isfinite([score, low, high]).all():
                one |= {"score": score, "interval": [low, high]}
        found[str(value)] = one
    return dict(sorted(found.items(), key=lambda item: -item[1]["rows"]))


def _is_enough(targets, task):
    if task in ("regression", "multiclass"):
        return len(targets) >= 2 * _FEWEST
    counts = np.minimum((targets >= 0.5).sum(axis=0), (targets < 0.5).sum(axis=0))
    return len(targets) >= 2 * _FEWEST and counts.max() >= _FEWEST


def _spread(found):
    """How far the categories' scores lie apart, in widths of their intervals."""
    known = [
        (one["score"], one["interval"][1] - one["interval"][0]) for one in found.values() if one["score"] is not None
    ]
    if len(known) < 2:
        return 0.0
    scores, widths = np.array(known).T
    return float(np.ptp(scores) / max(widths.min(), 1e-12))
