"""Predictions -> submission.csv: the sample's columns and rows, and nothing that the host would refuse."""

import hashlib
import re

import numpy as np
import pandas as pd

from src.competition.paths import locate
from src.competition.tables import is_count, read_ids, read_table
from src.competition.targets import find_ids, match_ids, split_labels
from src.errors import UserError, listing
from src.evaluation.thresholds import Decision, label_metric
from src.files import save_table, save_text

_TRUTHS = {"True": "1", "False": "0"}
_VALUES_AT_ONCE = 2**21  # that are written at once


def load_sample(competition):
    """Read the sample submission as a table of str; None where the competition has none.

    A first column that only counts rows is the table's index, which submission.csv gets again.
    """
    if not competition.sample_submission:
        return None
    where = locate(competition.root, competition.sample_submission)
    sample = read_table(where, is_compact=True)
    if competition.id in sample:
        read_ids(sample, competition.id, where)
        if sample.columns[0] != competition.id and is_count(sample.iloc[:, 0]):
            sample = sample.set_index(sample.columns[0])
    if len(sample.columns) < 2 or not len(sample):
        found = f"has {len(sample)} rows and the columns {listing(sample.columns)}"
        raise UserError(f"{where}: {found}; it needs a row for each test image, with its id and a prediction")
    return sample


def check_sample(sample, competition, test, target_names):
    """Check before training that the sample has the rows of `test`, an ImageTable, and columns that can be filled.

    Returns lines about what is read otherwise than it is named.
    """
    ids = test.ids if test.units is None else np.unique(test.units)
    if _name_long(sample, competition, ids, target_names) is not None:
        return ()
    if (id_column := find_ids(sample, competition.id, ids)) in sample:
        _plan_columns(sample, id_column, competition, target_names)
    _match_rows(sample, competition, ids, test)
    where = locate(competition.root, competition.sample_submission)
    return (f"{where}: the ids are in column {id_column!r}, by their values",) if id_column != competition.id else ()


def asks_for_names(sample, competition, target_names, test_ids):
    """Whether the sample has one column for a row's class name, or names, instead of probabilities."""
    is_one = sample is not None and len(sample.columns) == 2 and len(target_names) > 1
    is_one = is_one and (competition.task == "multiclass" or competition.separator is not None)
    return is_one and _name_long(sample, competition, test_ids, target_names) is None


def asks_for_labels(sample, competition, target_names, metric, test_ids):
    """Whether it holds names or, where the metric takes labels, only 0 and 1, True and False (regression: grades)."""
    if sample is None or asks_for_names(sample, competition, target_names, test_ids):
        return sample is not None or (competition.task == "regression" and label_metric(metric) is not None)
    columns = sample.columns.drop(find_ids(sample, competition.id, test_ids), errors="ignore")
    cells = pd.Series([*{cell for name in columns for cell in sample[name].unique()}], dtype=object)
    cells = pd.to_numeric(cells.replace(_TRUTHS), errors="coerce")
    is_label = cells % 1 == 0 if competition.task == "regression" else cells.isin((0, 1))
    return bool(is_label.all() and label_metric(metric) is not None)


def build_submission(sample, competition, test_ids, probs, target_names, decision=None):
    """Yield tables, some rows at a time, of probs (N, C) in the sample's columns; without one of ids and targets.

    decision: of a sample that asks for labels; None: columns of 0 and 1 get probabilities, names the plain decision.
    """
    takes_labels = decision is not None and not asks_for_names(sample, competition, target_names, test_ids)
    convert = (lambda some: decision.labels(some).astype(np.int64)) if takes_labels else (lambda some: some)
    at_once = max(1, _VALUES_AT_ONCE // len(target_names))
    pieces = [slice(first, first + at_once) for first in range(0, max(len(test_ids), 1), at_once)]
    if sample is None:
        for some in pieces:
            columns = dict(zip(target_names, convert(probs[some]).T, strict=True))
            yield pd.DataFrame({competition.id: test_ids[some], **columns})
    elif (long := _name_long(sample, competition, test_ids, target_names)) is not None:
        values = pd.Series(convert(np.asarray(probs)).ravel(), index=long.ravel()).loc[sample[competition.id]]
        yield sample.assign(**{name: values.to_numpy() for name in sample.columns if name != competition.id})
    else:
        id_column, rows = _match_rows(sample, competition, test_ids)
        fill = _plan_columns(sample, id_column, competition, target_names, decision)
        is_truth = decision is not None and sample.isin([*_TRUTHS]).any(axis=None)
        for some in pieces:
            columns = fill(convert(probs[rows[some]]))
            if is_truth:
                names = {0: "False", 1: "True"}
                columns = {name: pd.Series(one).replace(names).to_numpy() for name, one in columns.items()}
            yield pd.DataFrame({id_column: sample[id_column].iloc[some], **columns})[list(sample.columns)]


def check_submission(frame, sample, id_column, lowest=0.0, highest=1.0):
    """Check that the host would take a submission: the sample's columns and ids, if any, and values, labels or names.

    lowest, highest: of the values; infinite for regression, whose values must be finite.
    """
    for _ in _check_pieces([frame], sample, id_column, lowest, highest):
        pass


def _check_pieces(frames, sample, id_column, lowest, highest):
    """Yield the tables that a submission consists of; after the last one it is checked, see `check_submission`."""
    ids, faults, ends = [], {}, {}  # ends: of columns of numbers that are no labels, of which a rare one may be nowhere
    for frame in frames:
        ids.append(own := frame[id_column])
        for name in frame.columns.drop(id_column):
            values, is_number = frame[name], pd.api.types.is_numeric_dtype(frame[name])
            found = {"bad": ~np.isfinite(values) if is_number and np.isinf(highest) else values.isna()}
            if is_number:
                found["outside"] = (values < lowest) | (values > highest)
                if not pd.api.types.is_integer_dtype(values):
                    ends.setdefault(name, []).extend((values.min(), values.max()))
            for kind, rows in found.items():
                if rows.any():
                    faults.setdefault((name, kind), [own[rows].iloc[0], values[rows].iloc[0], 0])[2] += rows.sum()
        yield frame
    ids = pd.concat(ids)
    if (is_repeated := ids.duplicated()).any():
        raise UserError(f"submission: id {ids[is_repeated].iloc[0]} is there twice; write each id once")
    if sample is not None:
        if list(frame.columns) != list(sample.columns):
            found = f"columns are {listing(frame)}, the sample has {listing(sample)}"
            raise UserError(f"submission: {found}; write the sample's")
        _, missing, extra = match_ids(sample[id_column], ids)
        if len(missing) or len(extra):
            found = f"{len(missing)} of the sample's {len(sample)} ids are missing and {len(extra)} are too many"
            raise UserError(f"submission: {found} (first: {[*missing, *extra][0]}); write the sample's ids")
    for (name, kind), (first, value, count) in faults.items():
        where, rows = f"submission: column {name!r}", f"in {count} of {len(ids)} rows (first: {first}"
        if kind == "bad":
            raise UserError(f"{where} is {value} {rows}); train again with a lower optimizer.lr")
        raise UserError(f"{where} leaves 0 to 1 {rows}, {value:g}); write probabilities")
    for name, values in ends.items():
        if len(ids) > 1 and min(values) == max(values):
            advice = "the model has learned nothing (look at its log.csv), or the images are all alike"
            raise UserError(f"submission: column {name!r} is {values[0]:g} in every row; {advice}")


def write_submission(path, sample, competition, test_ids, probs, target_names, decision=None):
    """Build the submission, check it and write it as CSV, and its SHA-256; nothing is written when it is wrong."""
    id_column = competition.id if sample is None else find_ids(sample, competition.id, test_ids)
    limits = (-np.inf, np.inf) if competition.task == "regression" else (0.0, 1.0)

    def build(one):
        frames = build_submission(sample, competition, test_ids, probs, target_names, one)
        for frame in _check_pieces(frames, sample, id_column, *limits):
            # pandas calls a column without a name so
            yield frame if frame.index.name is None else frame.reset_index().rename(columns={"Unnamed: 0": ""})

    if decision is not None:  # labels that are all alike do not tell that nothing was learned
        for _ in build(None):
            pass
    save_table(path, build(decision))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    save_text(path.with_suffix(".sha256"), f"{digest}  {path.name}\n")  # as sha256sum -c reads it


def _name_long(sample, competition, test_ids, target_names):
    """Return the sample's ids as (N, C) str, where it has a row <id>_<target> of each row and target; else None."""
    is_named = competition.id in sample and len(sample.columns) == 2
    if is_named and len(sample) == len(test_ids) * len(target_names) > len(test_ids):
        for sign in "_-|:. /":
            names = np.array([f"{sign}{name}" for name in target_names])
            ids = np.char.add(np.array(test_ids, dtype=str)[:, None], names)
            if set(ids.ravel()) == set(sample[competition.id]):
                return ids
    return None


def _match_rows(sample, competition, test_ids, test=None):
    """Return (id column, the test row of each of the sample's ids, (N,) int); both must hold the same ids.

    test: the ImageTable, in which the sample's ids are looked for where they are no test ids.
    """
    where = locate(competition.root, competition.sample_submission)
    id_column = find_ids(sample, competition.id, test_ids)
    ids = read_ids(sample, id_column, where) if id_column in sample or test is None else ()
    rows, missing, extra = match_ids(ids, test_ids)
    if len(missing) or len(extra):
        found = f"{len(missing)} of {len(rows)} ids are no test rows and {len(extra)} test rows are missing"
        advice = "check competition.test_table"
        if test is not None and (by := _find_units(sample, test)):
            advice = f"each of them is several test rows: set competition.predict_by={by}"
        elif not len(ids):
            read_ids(sample, competition.id, where)
        raise UserError(f"{where}: {found} (first: {[*missing, *extra][0]}); {advice}")
    return id_column, rows


def _find_units(sample, test):
    """Return what competition.predict_by makes the sample's ids of: a column, two joined, or the id's beginning."""
    columns = {} if test.columns is None else {name: test.columns[name].fillna("") for name in list(test.columns)[:12]}
    units = dict(columns) | {"re:^(.+)[_-][^_-]+$": pd.Series(test.ids).str.extract("^(.+)[_-][^_-]+$")[0]}
    units |= {f"{{{a}}}_{{{b}}}": columns[a] + "_" + columns[b] for a in columns for b in columns if a != b}
    wanted = [set(sample[name].str.strip()) for name in sample]
    return next((by for by, values in units.items() if set(values) in wanted), None)


def _plan_columns(sample, id_column, competition, target_names, decision=None):
    """Return a function of probs (N, C) -> {prediction column of the sample: values}, by the rules below."""
    columns = [name for name in sample.columns if name != id_column]
    where = locate(competition.root, competition.sample_submission)
    if len(columns) == 1 and len(target_names) == 1:
        cells = sample[columns[0]].replace(_TRUTHS)[sample[columns[0]].fillna("") != ""]
        if competition.label and len(cells) and pd.to_numeric(cells, errors="coerce").isna().all():
            found = f"column {columns[0]!r} holds names ({listing(cells.unique(), 3)}), task=binary gives probabilities"
            raise UserError(f"{where}: {found}; set competition.task=multiclass, which writes the class")
        return lambda probs: {columns[0]: probs[:, 0]}
    if found := match_names([name.strip() for name in columns], target_names):
        return lambda probs: {name: probs[:, found[name.strip()]] for name in columns}
    if len(columns) == 1 and (competition.task == "multiclass" or competition.separator is not None):
        names, cells = np.array(target_names, dtype=object), set(sample[columns[0]].str.strip())
        if not cells & set(names) and all(re.fullmatch(r"-?\d+\.0+", one) for one in names):
            names[:] = [one.partition(".")[0] for one in names]  # a table that has passed through floats
        decide = (decision or Decision(task=competition.task)).labels
        if competition.task == "multiclass":
            return lambda probs: {columns[0]: names[decide(probs).argmax(axis=1)]}
        usual, cells = (competition.separator, " ", ",", "|", ";"), sample[columns[0]]  # else all joined are one name
        separator = next((one for one in usual if split_labels(cells, one).isin(names).all()), usual[0])
        return lambda probs: {columns[0]: [separator.join(names[one]) for one in decide(probs)]}
    if len(target_names) == 1 and competition.classes and (found := match_names(columns, competition.classes)):
        return lambda probs: {name: probs[:, 0] if found[name] else 1 - probs[:, 0] for name in columns}
    found = f"its columns {listing(columns)} cannot be filled from the targets {listing(target_names)}"
    raise UserError(f"{where}: {found}; check competition.targets, label and classes")


def match_names(columns, names):
    """Return {column: index in names} when the columns are the names, maybe with one prefix and suffix; else None."""
    if len(columns) != len(names):
        return None
    for column in columns:
        for hit in re.finditer(f"(?={re.escape(names[0])})", column):
            prefix, suffix = column[: hit.start()], column[hit.start() + len(names[0]) :]
            found = {f"{prefix}{name}{suffix}": index for index, name in enumerate(names)}
            if set(found) == set(columns):
                return found
    return None
