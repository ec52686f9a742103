"""Predictions -> submission.csv: the sample's columns and rows, and nothing that the host would refuse.

`_fill_columns` holds the rules by which targets fill the sample's columns; `check_sample` tries them before training.
"""

import re

import numpy as np
import pandas as pd

from src.competition.tables import read_table
from src.competition.targets import check_complete
from src.errors import UserError, listing, nearest
from src.files import save_table


def load_sample(competition):
    """Read the sample submission as a table of str; None where the competition has none.

    Raises:
        UserError: it cannot be read, or lacks the id column, predictions or rows, or repeats an id.
    """
    if not competition.sample_submission:
        return None
    where, name = f"{competition.root}/{competition.sample_submission}", competition.id
    sample = read_table(where)
    if name not in sample:
        hint = nearest(name, sample.columns) or "; set competition.id to the column that names a row"
        raise UserError(f"{where}: no column {name!r} (found {listing(sample.columns)}){hint}")
    if len(sample.columns) < 2 or not len(sample):
        raise UserError(f"{where}: {len(sample)} rows of {listing(sample.columns)}; it needs an id and predictions")
    check_complete(sample[name], where, f"column {name!r}")
    if (is_repeated := sample[name].duplicated()).any():
        raise UserError(f"{where}: id {sample[name][is_repeated].iloc[0]} is there twice; download it again")
    return sample


def check_sample(sample, competition, test, target_names):
    """Check before training that the sample's rows are the test rows and its columns can be filled.

    Args:
        sample: what `load_sample` returned.
        competition: src.config.settings.Competition.
        test: competition.tables.ImageTable of the test rows.
        target_names: those of the training table.

    Raises:
        UserError: they are not, or cannot.
    """
    _fill_columns(sample, competition, np.zeros((0, len(target_names))), target_names)
    _rows_of(sample, competition, test.ids)


def build_submission(sample, competition, test_ids, probs, target_names):
    """Lay the predictions out as the sample asks.

    Args:
        sample: what `load_sample` returned; None: an id column and the targets, in the order of test_ids.
        competition: src.config.settings.Competition.
        test_ids: (N,) str.
        probs: (N, C) in [0, 1].
        target_names: C names.

    Returns: a table in the sample's order of columns and rows.

    Raises:
        UserError: the sample has other rows, or columns that the targets cannot fill.
    """
    if sample is None:
        ids, columns = test_ids, dict(zip(target_names, probs.T, strict=True))
        return pd.DataFrame({competition.id: ids, **columns})
    rows = _rows_of(sample, competition, test_ids)
    columns = _fill_columns(sample, competition, probs[rows], target_names)
    return pd.DataFrame({competition.id: sample[competition.id], **columns})[list(sample.columns)]


def check_submission(frame, sample, id_column):
    """Check that the host would take and be able to score a submission.

    Args:
        frame: the submission.
        sample: what `load_sample` returned; None: only the frame itself is looked at.
        id_column: the column that names a row.

    Raises:
        UserError: other columns or ids than the sample's; a prediction is nan, outside [0, 1] or the same in all rows.
            Of class names only the presence is checked.
    """
    where = "submission"
    if sample is not None and list(frame.columns) != list(sample.columns):
        raise UserError(f"{where}: columns are {listing(frame)}, the sample has {listing(sample)}; write the sample's")
    if (is_repeated := frame[id_column].duplicated()).any():
        raise UserError(f"{where}: id {frame[id_column][is_repeated].iloc[0]} is there twice; write each id once")
    if sample is not None:
        is_missing, is_extra = ~sample[id_column].isin(frame[id_column]), ~frame[id_column].isin(sample[id_column])
        if is_missing.any() or is_extra.any():
            first = (sample[id_column][is_missing] if is_missing.any() else frame[id_column][is_extra]).iloc[0]
            raise UserError(
                f"{where}: {is_missing.sum()} of the sample's {len(sample)} ids are missing and {is_extra.sum()} are "
                f"too many (first: {first}); write the sample's ids"
            )
    for name in frame.columns.drop(id_column):
        values, ids = frame[name], frame[id_column]
        if values.isna().any():
            raise UserError(
                f"{where}: column {name!r} is nan in {values.isna().sum()} of {len(frame)} rows "
                f"(first: {ids[values.isna()].iloc[0]}); train again with a lower optimizer.lr"
            )
        if not pd.api.types.is_numeric_dtype(values):
            continue
        if (is_outside := (values < 0) | (values > 1)).any():
            raise UserError(
                f"{where}: column {name!r} leaves 0 to 1 in {is_outside.sum()} of {len(frame)} rows "
                f"(first: {ids[is_outside].iloc[0]}, {values[is_outside].iloc[0]:g}); write probabilities"
            )
        if len(frame) > 1 and values.min() == values.max():
            raise UserError(
                f"{where}: column {name!r} is {values.iloc[0]:g} in every row; the model has learned nothing, "
                "look at the training log"
            )


def write_submission(path, sample, competition, test_ids, probs, target_names):
    """Build the submission, check it and write it as CSV; nothing is written when it is wrong.

    Args: as `build_submission`.

    Raises:
        UserError: as `build_submission` and `check_submission`.
    """
    frame = build_submission(sample, competition, test_ids, probs, target_names)
    check_submission(frame, sample, competition.id)
    save_table(path, frame)


def _rows_of(sample, competition, test_ids):
    """Return the test row of each of the sample's ids, (N,) int; both must hold the same ids."""
    wanted, test_ids = pd.Index(sample[competition.id], dtype=str), pd.Index(test_ids, dtype=str)
    rows, is_left_out = test_ids.get_indexer(wanted), wanted.get_indexer(test_ids) < 0
    if (rows < 0).any() or is_left_out.any():
        first = (wanted[rows < 0] if (rows < 0).any() else test_ids[is_left_out])[0]
        raise UserError(
            f"{competition.root}/{competition.sample_submission}: {(rows < 0).sum()} of {len(wanted)} ids are no test "
            f"rows and {is_left_out.sum()} test rows are missing (first: {first}); check competition.test_table"
        )
    return rows


def _fill_columns(sample, competition, probs, target_names):
    """Return {prediction column of the sample: values}."""
    columns = [name for name in sample.columns if name != competition.id]
    if found := _match_names(columns, target_names):
        return {name: probs[:, found[name]] for name in columns}
    if len(columns) == 1 and len(target_names) == 1:
        return {columns[0]: probs[:, 0]}
    if len(columns) == 1 and competition.task == "multiclass":
        return {columns[0]: np.array(target_names, dtype=object)[probs.argmax(axis=1)]}
    if len(target_names) == 1 and competition.classes and (found := _match_names(columns, competition.classes)):
        return {name: probs[:, 0] if found[name] else 1 - probs[:, 0] for name in columns}
    raise UserError(
        f"{competition.root}/{competition.sample_submission}: its columns {listing(columns)} cannot be filled from the "
        f"targets {listing(target_names)}; check competition.targets, label and classes"
    )


def _match_names(columns, names):
    """Return {column: place in names} when the columns are the names, maybe with one prefix and suffix; else None."""
    if len(columns) != len(names):
        return None
    for column in columns:
        for hit in re.finditer(f"(?={re.escape(names[0])})", column):
            prefix, suffix = column[: hit.start()], column[hit.start() + len(names[0]) :]
            found = {f"{prefix}{name}{suffix}": place for place, name in enumerate(names)}
            if set(found) == set(columns):
                return found
    return None
