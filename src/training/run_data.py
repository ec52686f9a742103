"""The rows of a run: one table with its fold column, settled once, checked, and the same for all its folds."""

import os
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from src.checkpointing.run_folder import RunFolder
from src.competition.demo import write_demo
from src.competition.folds import check_folds, load_folds
from src.competition.image_files import JOIN, check_image_files
from src.competition.paths import word
from src.competition.predictions import join_columns
from src.competition.submission import check_sample, load_sample
from src.competition.tables import load_test_table, load_train_table, read_table
from src.config.load import load_saved_config
from src.data.scan import find_unreadable
from src.errors import UserError, listing
from src.files import load_json, save_json, save_table
from src.model.weights import find_weights


def load_run_data(config, metric):
    """Return the training table with the run's folds as its .folds, checked, and its test side checked too."""
    competition = config.competition
    if competition.name == "demo":
        write_demo(competition.root)
    table = load_train_table(competition)
    if config.unreadable == "error":
        check_image_files(table)
    sample = load_sample(competition)
    if sample is not None or competition.test_table:
        test = load_test_table(competition, table.target_names, table.encoding)
        num_test = len(test) if test.units is None else len(np.unique(test.units))
        notes = (*table.notes, *test.notes, *_compare_images(competition, table, test))
        if sample is not None:
            notes += tuple(check_sample(sample, competition, test, table.target_names))
        table = replace(table, notes=notes, num_test=num_test)
    table = replace(table, folds=load_folds(config, table))
    check_folds(table, table.folds, metric, config)
    return table


def _compare_images(competition, table, test):
    """Return lines about test rows that lead to training rows' images, or to fewer; other numbers are a UserError."""
    where, both = word(competition, "test_image"), ((table.paths, min), (test.paths, max))
    if (count := table.paths[0].count(JOIN)) != (found := test.paths[0].count(JOIN)):
        differ = f"training rows have {count + 1} images, test rows {found + 1}"
        advice = f"let competition.test_image find as many, or set competition.num_images={min(count, found) + 1}"
        raise UserError(f"{where}: {differ}; {advice}")
    least, most = (how(len({*path.split(JOIN)}) for path in paths) if count else 1 for paths, how in both)
    if least > most:
        differ = f"training rows have {least} different images or more, test rows {most} at most"
        yield f"{where}: {differ}; let competition.test_image find all of a row"
    if (is_shared := test.paths.isin(table.paths)).any():
        found = f"{is_shared.sum()} of {len(test)} test rows have the image of a training row"
        yield f"{where}: {found} (first: {test.ids[is_shared][0]}); check competition.test_image"


def list_folds(config, table):
    """Return the numbers of the folds that validate, config.fold among them unless it is all."""
    numbers = [int(fold) for fold in np.unique(table.folds) if fold >= 0]
    if config.fold not in (None, "all", *numbers):
        raise UserError(f"fold={config.fold}: this split has folds {listing(numbers)} to validate on")
    return numbers


def find_learned(weights, competition, ids):
    """Return (N,) bool: the ids of which the network of a run's fold has learned, by the path of its weights."""
    fold = Path(weights).absolute().parent
    run, number = RunFolder(fold.parent), re.fullmatch("fold([0-9]+|all)", fold.name)
    if not (number and run.config.is_file() and run.folds.is_file()):
        return np.zeros(len(ids), dtype=bool)
    saved, rows = load_saved_config(run.path).competition, read_table(run.folds)
    is_same = os.path.realpath(saved.root) == os.path.realpath(competition.root)
    return np.isin(ids, rows["id"][rows["fold"] != number[1]].to_numpy(dtype=str)) & is_same


def check_weights(config, table, folds):
    """Check that model.weights has learned of no row that one of the folds validates, which would be no score."""
    if (asked := config.model.weights) and not config.model.pretrained:
        raise UserError(f"model.weights={asked}: is not read with model.pretrained=false; set that to true")
    weights = find_weights(config.model.backbone, asked) if config.model.pretrained else None
    learned = find_learned(weights, config.competition, table.ids) if weights else False
    seen = {fold: int((learned & (table.folds == fold)).sum()) for fold in list_folds(config, table)}
    for fold in (fold for fold in folds if seen.get(fold)):
        others = [one for one, count in seen.items() if not count]
        advice = f"set fold={others[0]}, whose rows it has not seen" if others else "name weights of other rows"
        found = f"has learned {seen[fold]} of the {(table.folds == fold).sum()} rows that fold {fold} validates"
        raise UserError(f"model.weights: {weights} {found}; {advice}")


def leave_out_unreadable(config, table, path):
    """Return the table without the images that cannot be decoded; unreadable.csv at `path` lists them, once per run."""
    if config.unreadable == "skip" and not path.is_file():
        found = find_unreadable(table.paths, config.competition)
        found = pd.DataFrame([(table.ids[row], reason) for row, reason in found], columns=["id", "reason"])
        save_table(path, found)
        if len(found):
            print(f"{len(found)} of {len(table)} images cannot be decoded and are left out; {path} lists them")
    if not path.is_file():
        return table
    return table.take(~np.isin(table.ids, read_table(path)["id"].to_numpy(dtype=str)))


def save_folds(path, table, has_work):
    """Write a run's folds.csv: rows, folds, groups, targets; none may change once a fold has work done (UserError)."""
    groups = {} if table.groups is None else {"group": table.groups}
    rows = join_columns({"id": table.ids, "fold": table.folds} | groups, table.targets, table.target_names)
    if not (path.is_file() and has_work):
        save_table(path, rows)
        return
    try:  # a file of an older version holds no targets and groups
        saved, kinds = read_table(path), {"fold": np.int64} | dict.fromkeys(groups, str)
        types = {name: kinds.get(name, np.float32) for name in rows.columns[1:] if name in saved}
        saved = saved[["id", "fold", *(name for name in types if name != "fold")]].astype(types)
    except (KeyError, ValueError, UserError):
        raise UserError(f"{path}: damaged; delete it and run the same command again") from None
    advice = "choose name=ANOTHER or overwrite=true"
    if not saved[["id", "fold"]].equals(rows[["id", "fold"]]):
        raise UserError(f"{path}: this run was trained on other folds or rows; {advice}")
    known = rows[saved.columns]
    changed = ((saved != known) & ~(saved.isna() & known.isna())).any(axis=1)
    if changed.any():
        found = f"{changed.sum()} of {len(rows)} rows (first: {rows['id'][changed.idxmax()]})"
        raise UserError(f"{path}: this run was trained on other labels or groups in {found}; {advice}")
    save_table(path, rows)


def save_metadata(path, table, has_work):
    """Write a run's metadata.json; neither its encoding nor a cell may change once a fold has work done (UserError)."""
    if table.metadata is None:
        return
    content = {"columns": list(table.encoding), "checksum": zlib.crc32(table.metadata)}
    if path.is_file() and has_work and (saved := load_json(path, "columns")) != content:
        changed = listing([one["name"] for one in table.encoding if one not in saved["columns"]]) or "cells"
        found = f"this run was trained on other metadata ({changed} changed)"
        raise UserError(f"{path}: {found}; choose name=ANOTHER or overwrite=true")
    save_json(path, content)
