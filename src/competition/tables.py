"""A competition's tables -> ImageTable. What the files on disk can tell to be wrong raises a UserError here."""

import codecs
import io
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from src.competition.image_files import Paths
from src.competition.metadata import encode, fit_encoding
from src.competition.paths import fill_pattern, find_images, find_present, list_images, list_places, locate, word
from src.competition.targets import (
    check_settings,
    find_ids,
    list_labels,
    match_ids,
    read_auxiliary,
    read_column,
    read_label,
    read_targets,
    split_ranges,
)
from src.containers import is_file, list_folder, read_file, read_parquet, split_path
from src.errors import UserError
from src.evaluation.metrics import positives
from src.remote import is_url

_MANY_COLUMNS, _ROWS_AT_ONCE = 16, 4096


@dataclass(frozen=True)
class ImageTable:
    """N images in table order."""

    ids: np.ndarray  # (N,) str of fixed width, as the table writes them
    paths: Paths  # of the N image files
    targets: np.ndarray | None  # (N, C) float32 in [0, 1], of regression any; nan where missing; None: not known
    target_names: tuple[str, ...]  # C names, the columns of oof.csv
    groups: np.ndarray | None  # (N,) str; equal ones stay in one fold
    folds: np.ndarray | None  # (N,) int64, the table's own; None: competition.fold names no column
    columns: pd.DataFrame | None = None  # N rows of str, nan where empty: all but id, label and targets
    task: str = "binary"  # competition.task; of multiclass a row has one class: the largest of its targets
    notes: tuple[str, ...] = ()  # lines about what was changed in reading
    units: np.ndarray | None = None  # (N,) str; equal ones get one prediction; None: each row its own
    auxiliary_names: tuple[str, ...] = ()  # A names, equal ones for the columns that one of words has become
    auxiliary: np.ndarray | None = None  # (N, A) float32, nan where missing: learned beside the targets
    metadata: np.ndarray | None = None  # (N, M) float32, what competition.metadata gives the network beside the image
    encoding: tuple = ()  # that made it, see competition.metadata
    num_test: int | None = None  # predictions that the competition asks for; None: not known

    def __len__(self):
        return len(self.ids)

    def take(self, rows):
        """Return the table of some rows: int indices or a bool mask."""
        names = ("ids", "paths", "targets", "groups", "folds", "units", "auxiliary", "metadata")
        given = {name: value[rows] for name in names if (value := getattr(self, name)) is not None}
        columns = None if self.columns is None else self.columns.iloc[rows].reset_index(drop=True)
        return replace(self, **given, columns=columns)

    @property
    def positives(self):
        """(N, C) bool: which columns are true of a row, by the rule of the metrics; of regression, above the mean."""
        if self.task == "regression":
            return self.targets > np.nanmean(self.targets, axis=0)
        return positives(self.targets, self.task == "multiclass")

    @property
    def strata(self):
        """(N, S) bool: what each fold gets its share of, the positives, or of regression one of up to 10 ranges."""
        return split_ranges(self.targets) if self.task == "regression" else self.positives

    @cached_property
    def training_targets(self):
        """(N, C + A) float32: what the loss is given, the targets and after them the auxiliary columns."""
        return self.targets if self.auxiliary is None else np.concatenate([self.targets, self.auxiliary], axis=1)


def load_train_table(competition, may_be_constant=False, encoding=None):
    """Read the training rows, their images and targets; may_be_constant: a target may have one value only.

    encoding: a run's, of its metadata; None: as these rows have it.
    """
    check_settings(competition)
    where, rows, paths, notes = _load_rows(competition, "train_table", "train_image")
    read_ids(rows, competition.id, where)
    is_regression = competition.task == "regression"
    if competition.label and not is_regression:
        names, targets = read_label(rows, competition, where)
        if competition.task == "binary" and not competition.classes:
            other = rows[competition.label][targets[:, 0] == 0].iloc[0]
            notes += (f"{where}: {names[0]!r} is positive, {other!r} is not; competition.classes can swap them",)
    else:
        names = tuple(competition.targets or [competition.label])
        targets = read_targets(rows, names, competition, where, may_be_constant)
    is_nan = np.isnan(targets)
    if is_nan.any():  # which competition.missing=drop allows
        by_cell = is_regression or competition.task == "multilabel"
        has_label = ~is_nan.all(axis=1) if by_cell else ~is_nan.any(axis=1)
        notes += (f"{where}: {(~has_label).sum()} of {len(rows)} rows have no label and are left out",)
        if cells := int(is_nan[has_label].sum()):
            notes += (f"{where}: {cells} labels of other rows are missing; no loss and no score counts them",)
        rows, targets = rows[has_label], targets[has_label]
        paths = None if paths is None else paths[has_label]
    ids = rows[competition.id].to_numpy(dtype=str)
    groups = read_groups(rows, competition, "group", where)
    if groups is not None and competition.group.startswith("re:") and (groups == ids).all():
        raise UserError(f"{where}: competition.group={competition.group} fits no id (first: {ids[0]}); correct it")
    units = read_groups(rows, competition, "predict_by", where, must=False)
    folds = read_folds(rows, competition.fold, where, "number the folds from 0") if competition.fold else None
    if paths is None:
        paths = find_images(competition, "train_image", rows, ids)
    used = {"id", "fold", *(f"target_{name}" for name in names)} | ({"group"} if competition.group else set())
    if taken := used & set(names):
        raise UserError(f"{where}: a target is named {min(taken)!r}, a column of a run's files; call it otherwise")
    auxiliary_names, auxiliary = read_auxiliary(rows, competition, where)
    if encoding is None:
        encoding, more = fit_encoding(rows, competition, where)
        notes += more
    return ImageTable(
        ids, paths, targets, names, groups, folds, _other_columns(rows, competition), competition.task, notes=notes,
        units=units, auxiliary_names=auxiliary_names, auxiliary=auxiliary, encoding=encoding,
        metadata=encode(encoding, rows, where)[0],
    )  # fmt: skip


def load_test_table(competition, target_names, encoding=()):
    """Read the test rows and their images: of test_table, else of sample_submission, else the files of test_image.

    encoding: training's, of their metadata.
    """
    key = "test_table" if competition.test_table or competition.predict_by else "sample_submission"
    where, rows, paths, notes = _load_rows(competition, key, "test_image")
    if competition.id not in rows and (name := _find_id(rows, competition)):
        notes += (f"{where}: the ids are in column {name!r}, which leads to the images",)
        rows = rows.rename(columns={name: competition.id})
    ids, label = read_ids(rows, competition.id, where), competition.label
    if competition.test_table and label in rows and competition.task != "regression":  # training has seen all
        list_labels(rows, competition, where, target_names)
    groups, units = (read_groups(rows, competition, key, where, key == "predict_by") for key in ("group", "predict_by"))
    if paths is None:
        paths = find_images(competition, "test_image", rows, ids)
    columns, task = _other_columns(rows, competition), competition.task
    advice = None if competition.test_table else "set competition.test_table to the CSV of test rows that has it"
    metadata, more = encode(encoding, rows, where, advice)
    return ImageTable(
        ids, paths, None, tuple(target_names), groups, None, columns, task, notes=(*notes, *more), units=units,
        metadata=metadata, encoding=encoding,
    )  # fmt: skip


def load_solution(competition, test, ids=None):
    """Read the targets (N, C), float32, of the test table's rows, or of other ids; None where there is no solution."""
    if not competition.solution:
        return None
    where, rows, _, _ = _load_rows(competition, "solution", None)
    ids = test.ids if ids is None else ids
    places, missing, _ = match_ids(ids, read_ids(rows, find_ids(rows, competition.id, ids), where))
    if len(missing):
        raise UserError(f"{where}: {len(missing)} of {len(ids)} test ids are missing (first: {missing[0]}); add them")
    rows, label = rows.iloc[places], competition.label
    if not label or competition.task == "regression" or (label not in rows and set(test.target_names) <= set(rows)):
        return read_targets(rows, test.target_names, competition, where, may_be_constant=True)
    return read_label(rows, competition, where, test.target_names)[1]


def read_table(path, is_compact=False):
    """Read a table of str from a CSV, separated by comma, semicolon, tab or |; only an empty cell is missing.

    The CSV may be alone in a zip; a parquet file is read as the CSV that pandas makes of it. is_compact: columns of few
    values are categories where there are many columns and rows, which takes a byte a cell instead of eleven.
    """
    if str(path).lower().endswith(".parquet") and not is_url(str(path)):
        text = read_parquet(str(path))
    else:
        text, _ = decode_table(read_content(str(path)), path)
    header, second = [*text.lstrip().split("\n", 2), ""][:2]
    skipped = int(re.fullmatch(r'"?sep=."?', header.strip()) is not None)  # a line for Excel
    header = second if skipped else header
    if not header:
        raise UserError(f"{path}: is empty; copy or download it again")
    sep = max(",;\t|", key=re.sub(r'"[^"]*"', "", header).count)
    how = {"sep": sep, "dtype": str, "keep_default_na": False, "na_values": [""], "index_col": False}
    how["skiprows"] = skipped
    is_large = is_compact and header.count(sep) > _MANY_COLUMNS and text.count("\n") > 2 * _ROWS_AT_ONCE
    file = io.BytesIO(text.encode())  # a StringIO takes four bytes a letter
    del text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if is_large:  # columns whose values are not alike in all pieces become str again
                pieces = pd.read_csv(file, chunksize=_ROWS_AT_ONCE, **how)
                table = pd.concat([one.astype("category") for one in pieces], ignore_index=True)
            else:
                table = pd.read_csv(file, **how)
            file.seek(0)
            names = pd.read_csv(file, header=None, nrows=1, **how).iloc[0].dropna().str.strip()
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        reason = str(error).strip().splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path}: cannot be read as CSV ({reason}); correct its quotes and separators") from None
    if names.duplicated().any():  # which pandas renames
        raise UserError(f"{path}: two columns are named {names[names.duplicated()].iloc[0]!r}; rename one of them")
    return table


def read_content(path):
    """Return the bytes of a text file, which may be inside a container, or the one table of a zip."""
    try:
        if (member := split_path(path)[1]) is not None or is_url(path):
            return read_file(f"{path}/{_find_table(path)}" if member == "" else path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(0, "not a plain file")
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check competition.root and the name") from None


def _find_table(path):
    tables = sorted(name for name in list_folder(path)[0] if name.lower().endswith((".csv", ".tsv")))
    if len(tables) != 1:
        advice = f"name a file in it, as {os.path.basename(path)}/{(tables or ['train.csv'])[0]}"
        raise UserError(f"{path}: holds {len(tables)} CSV files, one is read; {advice}")
    return tables[0]


def decode_table(content, path):
    """Return (text, encoding) of bytes: UTF-8, UTF-16 with its mark, else Windows-1252, as Excel writes it."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in content and not is_utf16:
        raise UserError(f"{path}: holds NUL bytes, so it is no text; save it as UTF-8 CSV")
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    with suppress(UnicodeDecodeError):
        return content.decode(encoding), encoding
    words = [word for word in re.findall(b"[a-z\x80-\xff]+", content) if not word.isascii()]
    num_foreign = sum(len(word) > 1 and min(word) > 127 for word in words)  # as of EUC-KR, GBK and Windows-1251
    if not is_utf16 and 2 * num_foreign < len(words) and b"\x83" not in content:  # which Shift-JIS has in katakana
        with suppress(UnicodeDecodeError):
            return content.decode("cp1252"), "cp1252"
    raise UserError(f"{path}: neither UTF-8 nor Windows-1252 text; save it as UTF-8 CSV")


def is_count(values):
    """Whether a column only counts the rows, from 0 or 1: the index that a program has written."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy()
    return len(numbers) > 2 and any(np.array_equal(numbers, np.arange(len(numbers)) + first) for first in (0, 1))


def _load_rows(competition, table_key, image_key):
    """Return (where, rows, paths, notes): a table's rows, with None for paths, or those that the image files make."""
    table = getattr(competition, table_key)
    if not (os.path.isdir(competition.root) or is_url(competition.root)):
        where = competition.root or "competition.root"
        raise UserError(f"{where}: no such folder; set competition.root to the folder of the data")
    if table is None:
        where = word(competition, image_key)
        if image_key == "train_image" and "{" not in where:
            advice = "write for example train/{label}/*"
            raise UserError(f"{where}: without train_table the labels are read from the paths; {advice}")
        rows, paths = list_images(competition, image_key)
        return where, rows, paths, _trim(rows, competition, where)
    where = locate(competition.root, table)
    if not is_file(where):
        raise UserError(f"{where}: no such file; check competition.{table_key}")
    rows = read_table(where)
    if not len(rows):
        raise UserError(f"{where}: has a header but no rows; copy or download it again")
    return where, rows, None, _trim(rows, competition, where)


def _trim(rows, competition, where):
    """Take outer blanks off the header, ids, labels and groups of a table; return a line about each that had some."""
    notes, names = [], rows.columns.str.strip()
    if count := int((names != rows.columns).sum()):
        notes.append(f"{where}: {count} column names had outer blanks; removed")
        rows.columns = names
    keys = [key for key in ("group", "predict_by") if getattr(competition, key)]
    named = [name for key in keys for name in list_columns(competition, key)]
    for name in dict.fromkeys((competition.id, competition.label, *named)):
        if name in rows:
            trimmed = rows[name].str.strip()
            if count := int((trimmed.ne(rows[name]) & rows[name].notna()).sum()):
                notes.append(f"{where}: {count} of {len(rows)} values of column {name!r} had outer blanks; removed")
                rows[name] = trimmed.where(trimmed != "")
    return tuple(notes)


def _find_id(rows, competition):
    """Return the column, of another name than competition.id, whose values all lead to test images; None: none does."""
    for name in rows:
        if rows[name].notna().all() and rows[name].is_unique:
            with suppress(UserError):
                named = rows.rename(columns={name: competition.id})
                if find_present(competition, "test_image", named, rows[name].to_numpy(dtype=str))[0].all():
                    return name
    return None


def list_columns(competition, key):
    """Return the columns that competition.<key>, as `read_groups` reads it, is made of."""
    named = getattr(competition, key)
    return [competition.id] if named.startswith("re:") else list_places(named) or [named]


def read_groups(rows, competition, key, where, must=True):
    """Return what competition.<key> makes of each row, (N,) str: a column, {a}_{b} of columns, or re: of the id.

    An id that the regular expression does not fit stays as it is. None where the setting is null or, if it need not be
    (must=False), a column is not there.
    """
    named = getattr(competition, key)
    if not named or not (must or set(list_columns(competition, key)) <= set(rows)):
        return None
    columns = {name: read_column(rows, name, where, key) for name in list_columns(competition, key)}
    if named.startswith("re:"):
        ids = columns[competition.id]
        return ids.str.extract(named[3:]).iloc[:, 0].fillna(ids).to_numpy(dtype=str)
    if list_places(named):
        return np.array(list(fill_pattern(named, f"competition.{key}", rows)), dtype=str)
    return columns[named].to_numpy(dtype=str)


def _other_columns(rows, competition):
    names = [competition.id, competition.label, *competition.targets]
    return rows.drop(columns=names, errors="ignore").reset_index(drop=True)


def read_folds(rows, name, where, advice):
    """Return a column of fold numbers, (N,) int64."""
    folds = pd.to_numeric(read_column(rows, name, where, "fold"), errors="coerce").to_numpy(np.float64)
    if (is_odd := ~((np.abs(folds) < 2**31) & (np.rint(folds) == folds))).any():  # of nan, too
        raise UserError(f"{where}: column {name!r} holds '{rows[name][is_odd].iloc[0]}', no whole number; {advice}")
    return folds.astype(np.int64)


def read_ids(rows, name, where):
    """Return the ids (N,) str, each there once."""
    ids = read_column(rows, name, where, "id").to_numpy(dtype=str)
    if (is_repeated := rows[name].duplicated().to_numpy()).any():
        count, first = is_repeated.sum(), ids[is_repeated][0]
        raise UserError(f"{where}: {count} of {len(rows)} rows repeat an id (first: {first}); keep one row per image")
    return ids
