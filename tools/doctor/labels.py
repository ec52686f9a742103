"""Target columns: constant or rare ones, nearly equal ones, and those that follow from the others."""

import numpy as np

from src.competition.targets import standardize
from tools.doctor.findings import Finding, name_rows

_EQUAL = 0.95  # correlation of two columns that are nearly equal
_NEARLY_EQUAL_NUMBERS = 0.999  # correlation of two columns of numbers
_FAR = 8  # deviations from the mean, beyond which a number may be a slip of the pen
_MIN_ROWS = 5  # positives or negatives, below which a network can hardly learn a column


def check_labels(data):
    """Return the findings about the target columns of a `CompetitionData`."""
    table = data.train
    if table is None or table.targets is None:
        return []
    if table.task == "regression":
        return _check_numbers(table)
    is_positive, names = table.positives, table.target_names
    findings, counts = _find_alike(data.config.competition, names), is_positive.sum(axis=0)
    findings += _find_joined(data.config.competition, names)
    num_known = (~np.isnan(table.targets)).sum(axis=0)
    constant = np.flatnonzero((counts == 0) | (counts == num_known))
    if len(constant):
        findings.append(
            Finding(
                "error",
                f"{len(constant)} of {len(names)} target columns are the same in all {len(table)} rows",
                _advise_constant(data.config.competition, len(constant) == len(names)),
                **name_rows(names, constant),
            )
        )
    is_rare = np.minimum(counts, num_known - counts) < _MIN_ROWS
    rare = np.flatnonzero(is_rare & (counts > 0) & (counts < num_known))
    if len(rare):
        named = [f"{names[column]} ({counts[column]} of {num_known[column]})" for column in rare]
        findings.append(
            Finding(
                "warning",
                f"{len(rare)} of {len(names)} target columns have fewer than {_MIN_ROWS} rows of one kind",
                "few folds can score them: merge them with another class, or set competition.metric=log_loss",
                **name_rows(named),
            )
        )
    if data.config.competition.task != "multilabel":
        return findings
    return findings + _find_equal(is_positive, names) + _find_implied(is_positive, names)


def _check_numbers(table):
    """Return the findings about columns of regression: constant ones, numbers far off, and nearly equal ones."""
    targets, names, findings = table.targets.astype(np.float64), table.target_names, []
    mean, deviation = standardize(targets)
    constant = np.flatnonzero(np.nanmax(targets, axis=0) == np.nanmin(targets, axis=0))
    if len(constant):
        title = f"{len(constant)} of {len(names)} target columns hold one number in all {len(table)} rows"
        advice = "nothing can be learned from them: leave them out of competition.targets"
        findings.append(Finding("error", title, advice, **name_rows(names, constant)))
    if len(far := np.argwhere(np.abs(targets - mean) > _FAR * deviation)):
        named = [f"{table.ids[row]}: {names[column]} {targets[row, column]:g}" for row, column in far]
        title = f"{len(far)} numbers lie more than {_FAR} standard deviations from their column's mean"
        advice = "correct those that are slips; where they are right, loss.name=huber or mae minds them less"
        findings.append(Finding("warning", title, advice, **name_rows(named)))
    filled = np.where(np.isnan(targets), mean, targets)
    pairs = np.argwhere(np.triu(np.abs(compute_correlations(filled)) >= _NEARLY_EQUAL_NUMBERS, 1))
    if len(pairs):
        named = [f"{names[one]} and {names[other]}" for one, other in pairs]
        title = f"{len(pairs)} pairs of target columns hold nearly the same numbers, but for their units"
        findings.append(Finding("note", title, "a mean over columns counts them twice", **name_rows(named)))
    return findings


def _find_alike(competition, names):
    """Find class names that are one in another spelling: Cat and cat, 1 and 1.0."""
    if not competition.label:
        return []
    spellings = {}
    for name in dict.fromkeys((*names, *competition.classes)):
        try:
            key = float(name)
        except ValueError:
            key = " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
        spellings.setdefault(key, []).append(name)
    alike = [" and ".join(map(repr, some)) for some in spellings.values() if len(some) > 1]
    if not alike:
        return []
    advice = f"each is a class of its own: if they are one, write them alike in column {competition.label!r}"
    return [Finding("warning", f"{len(alike)} class names are written in several ways", advice, **name_rows(alike))]


def _find_joined(competition, names):
    """Find class names that are others of them joined: "a b" beside "a" and "b"."""
    if not competition.label:
        return []
    joined = {}
    for name in names:
        for separator in (" ", ",", "|", ";"):
            parts = {part.strip() for part in name.split(separator)}
            if len(parts) > 1 and parts <= set(names):
                joined[name] = separator
    if not joined:
        return []
    separator = max(joined.values(), key=list(joined.values()).count)
    advice = f"where a cell holds several labels, set competition.task=multilabel 'competition.separator={separator}'"
    title = f"{len(joined)} class names are several others joined"
    return [Finding("warning", title, advice, **name_rows(list(joined)))]


def _advise_constant(competition, are_all):
    advice = "nothing can be learned from them, and their ROC AUC is not defined: "
    if are_all:
        return advice + "name other columns in competition.targets"
    advice += "leave them out of competition.targets"
    if competition.sample_submission:
        advice += (
            ", and out of a copy of the sample that competition.sample_submission then names; add their columns to "
            "submission.csv by hand"
        )
    return advice


def compute_correlations(is_positive):
    """Return (C, C) float64: the correlation (of bool: phi) of each two columns of (N, C); 0 for a constant column.

    Reference: Yule, On the Methods of Measuring Association between Two Attributes, 1912, JRSS 75, p. 596.
    """
    centred = is_positive - is_positive.mean(axis=0)
    lengths = np.sqrt(np.square(centred).sum(axis=0))
    centred = centred / np.where(lengths > 0, lengths, 1)
    return centred.T @ centred


def _find_equal(is_positive, names):
    correlations = compute_correlations(is_positive)
    pairs = np.argwhere(np.triu(np.abs(correlations) >= _EQUAL, 1))
    if not len(pairs):
        return []
    named = [
        f"{names[one]} and {'not ' if correlations[one, other] < 0 else ''}{names[other]}: "
        f"{np.mean(is_positive[:, one] == (is_positive[:, other] != (correlations[one, other] < 0))):.1%} of rows agree"
        for one, other in pairs
    ]
    return [
        Finding(
            "warning",
            f"{len(pairs)} pairs of target columns are nearly equal or opposite",
            "check that none was copied by mistake; a mean over columns counts it twice",
            **name_rows(named),
        )
    ]


def _find_implied(is_positive, names):
    """Find columns that are positive exactly where any other is, or where no other is."""
    counts, total = is_positive.sum(axis=0), is_positive.sum(axis=1)
    found = []
    for column, name in enumerate(names):
        others = total - is_positive[:, column] > 0
        if len(names) < 3 or counts[column] in (0, len(total)) or others.all() or not others.any():
            continue
        if (is_positive[:, column] == others).all():
            found.append(f"{name}: any of the others")
        elif (is_positive[:, column] != others).all():
            found.append(f"{name}: none of the others")
    if not found:
        return []
    return [
        Finding(
            "note",
            f"{len(found)} target columns follow from the others in every row",
            "keep their probabilities consistent with the others, or compute them from the others",
            **name_rows(found),
        )
    ]
