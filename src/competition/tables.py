"""A competition's tables -> ImageTable: which images there are, what they show, and which belong together.

Ids stay the strings that the CSV holds. All that the files on disk can tell to be wrong is said here, before training.
"""

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.competition.paths import Paths, find_images, list_images
from src.competition.targets import check_complete, check_known, check_settings, one_hot, read_label, read_targets
from src.errors import UserError, listing, nearest


@dataclass(frozen=True)
class ImageTable:
    """N images in table order."""

    ids: np.ndarray  # (N,) str of fixed width, as the table writes them
    paths: Paths  # of the N image files
    targets: np.ndarray | None  # (N, C) float32 in [0, 1]; None: no answers are known
    target_names: tuple[str, ...]  # C names, the columns of oof.csv
    groups: np.ndarray | None  # (N,) str; equal ones stay in one fold
    folds: np.ndarray | None  # (N,) int64, the table's own; None: competition.fold names no column

    def __len__(self):
        return len(self.ids)

    def take(self, rows):
        """Return the table of some rows: int indices or a bool mask."""
        parts = (self.ids, self.paths, self.targets, self.groups, self.folds)
        ids, paths, targets, groups, folds = (None if part is None else part[rows] for part in parts)
        return ImageTable(ids, paths, targets, self.target_names, groups, folds)


def load_train_table(competition, may_be_constant=False):
    """Read the training rows, their images and answers.

    Args:
        competition: src.config.settings.Competition.
        may_be_constant: a column of targets may hold one value only.

    Raises:
        UserError: settings, table, answers or images are wrong; the line says which and what to do.
    """
    check_settings(competition)
    where, rows, paths = _load_rows(competition, competition.train_table, "train_table", "train_image")
    ids = _check_ids(rows, competition.id, where)
    answers = [competition.label] if competition.label else competition.targets
    for name in answers:
        _check_column(rows, name, where, "label" if competition.label else "targets")
    if competition.label:
        target_names, targets = read_label(rows[competition.label], competition, where)
    else:
        target_names = tuple(competition.targets)
        targets = read_targets(rows, target_names, competition, where, may_be_constant)
    groups = _read_strings(rows, competition.group, where, "group") if competition.group else None
    folds = _read_folds(rows, competition.fold, where) if competition.fold else None
    if paths is None:
        paths = find_images(competition, "train_image", rows, ids)
    if taken := {"id", "fold"} & set(target_names):
        raise UserError(f"{where}: a target is named {taken.pop()!r}, which oof.csv uses itself; rename the column")
    return ImageTable(ids, paths, targets, target_names, groups, folds)


def load_test_table(competition, target_names):
    """Read the test rows and their images: of test_table, else of sample_submission, else the files of test_image.

    Args:
        competition: src.config.settings.Competition.
        target_names: those of the training table.

    Raises:
        UserError: table or images are wrong, or the table names a class that training never saw.
    """
    key = "test_table" if competition.test_table else "sample_submission"
    where, rows, paths = _load_rows(
        competition, competition.test_table or competition.sample_submission, key, "test_image"
    )
    ids = _check_ids(rows, competition.id, where)
    label = competition.label
    classes = competition.classes or (target_names if competition.task == "multiclass" else ())
    if competition.test_table and label in rows and classes:
        check_known(rows[label], classes, where, f"column {label!r}", "the classes of training")
    groups = None
    if competition.group in rows:
        groups = _read_strings(rows, competition.group, where, "group")
    if paths is None:
        paths = find_images(competition, "test_image", rows, ids)
    return ImageTable(ids, paths, None, tuple(target_names), groups, None)


def load_solution(competition, test):
    """Read the answers (N, C), float32, of the test table's rows; None where the competition has no solution.

    Raises:
        UserError: the solution is wrong or lacks a row of `test`.
    """
    if not competition.solution:
        return None
    where, rows, _ = _load_rows(competition, competition.solution, "solution", None)
    rows = rows.set_axis(_check_ids(rows, competition.id, where))
    if len(missing := test.ids[~pd.Index(test.ids, dtype=str).isin(rows.index)]):
        raise UserError(f"{where}: {len(missing)} of {len(test)} test ids are missing (first: {missing[0]}); add them")
    rows, label = rows.loc[test.ids], competition.label
    if not label or (label not in rows and set(test.target_names) <= set(rows)):
        for name in test.target_names:
            _check_column(rows, name, where, "targets")
        return read_targets(rows, test.target_names, competition, where, may_be_constant=True)
    _check_column(rows, label, where, "label")
    check_complete(rows[label], where, f"column {label!r}")
    if classes := competition.classes or (test.target_names if competition.task == "multiclass" else ()):
        check_known(rows[label], classes, where, f"column {label!r}", "the classes of training")
    return one_hot(rows[label], test.target_names)


def read_table(path):
    """Read a CSV, separated by comma, semicolon or tab, as a table of str; only an empty cell is missing.

    Raises:
        UserError: there is no such file, or it is no table.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: cannot be read (not a plain file); check competition.root and the name")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check competition.root and the name") from None
    if b"\0" in content:
        raise UserError(f"{path}: holds NUL bytes, so it is no UTF-8 text; save it as UTF-8 CSV")
    try:
        header = content.decode().lstrip().partition("\n")[0]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8 CSV") from None
    if not header:
        raise UserError(f"{path}: is empty; copy or download it again")
    separator = max(",;\t", key=header.count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            how = {"sep": separator, "dtype": str, "keep_default_na": False, "na_values": [""], "index_col": False}
            table = pd.read_csv(io.BytesIO(content), **how)
            names = pd.read_csv(io.BytesIO(content), header=None, nrows=1, **how).iloc[0].dropna()
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        reason = str(error).strip().splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path}: cannot be read as CSV ({reason}); correct its quotes and separators") from None
    if names.duplicated().any():  # which pandas renames
        raise UserError(f"{path}: two columns are named {names[names.duplicated()].iloc[0]!r}; rename one of them")
    return table


def _load_rows(competition, table, table_key, image_key):
    """Return (where, rows, paths): a table's rows, with None for paths, or those that the image files make."""
    if not os.path.isdir(competition.root):
        where = competition.root or "competition.root"
        raise UserError(f"{where}: no such folder; set competition.root to the folder of the data")
    if table is None:
        pattern = getattr(competition, image_key)
        if image_key == "train_image" and "{" not in pattern:
            raise UserError(
                f"competition.train_image={pattern}: without train_table the labels are read from the paths; "
                "write for example train/{label}/*"
            )
        return f"competition.{image_key}={pattern}", *list_images(competition, image_key)
    where = f"{competition.root}/{table}"
    if not os.path.isfile(where):  # unlike Path's, it takes any text
        raise UserError(f"{where}: no such file; check competition.{table_key}")
    rows = read_table(where)
    if not len(rows):
        raise UserError(f"{where}: has a header but no rows; copy or download it again")
    return where, rows, None


def _check_column(rows, name, where, key):
    if name not in rows:
        hint = nearest(name, rows.columns) or f"; set competition.{key} to what the table has"
        raise UserError(f"{where}: no column {name!r} (found {listing(rows.columns)}){hint}")


def _check_ids(rows, name, where):
    """Return the ids (N,), each there once."""
    ids = _read_strings(rows, name, where, "id")
    if (is_repeated := rows[name].duplicated().to_numpy()).any():
        count, first = is_repeated.sum(), ids[is_repeated][0]
        raise UserError(f"{where}: {count} of {len(rows)} rows repeat an id (first: {first}); keep one row per image")
    return ids


def _read_strings(rows, name, where, key):
    _check_column(rows, name, where, key)
    check_complete(rows[name], where, f"column {name!r}")
    return rows[name].to_numpy(dtype=str)


def _read_folds(rows, name, where):
    values = _read_strings(rows, name, where, "fold")
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=np.float64)
    is_whole = np.isfinite(numbers) & (np.mod(numbers, 1) == 0)
    if not is_whole.all():
        odd = values[~is_whole][0]
        raise UserError(f"{where}: column {name!r} holds '{odd}', no whole number; number the folds from 0")
    return numbers.astype(np.int64)
