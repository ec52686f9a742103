"""Self-training: what a fold learns from the predictions of an earlier run, its teacher.

train.teacher mixes a row's target with the teacher's out-of-fold prediction; train.pseudo adds test rows that the
teacher's network of the same fold has labelled, as its others have seen this fold's validation rows.

Reference: Furlanello et al., Born-Again Neural Networks, 2018, arXiv:1805.04770; Xie et al., Self-training with Noisy
Student, 2020, arXiv:1911.04252. Out-of-fold predictions in place of those on rows that the teacher has seen are ours.
"""

from dataclasses import replace
from hashlib import sha256
from itertools import chain

import numpy as np
import pandas as pd

from src.checkpointing.run_folder import RunFolder
from src.competition.image_files import JOIN, Paths
from src.competition.predictions import load_predictions
from src.competition.tables import load_test_table, read_table
from src.competition.targets import match_ids
from src.config.load import load_saved_config
from src.containers import read_file, stat_file
from src.data.scan import find_unreadable, map_images
from src.errors import UserError, listing
from src.evaluation.out_of_fold import load_out_of_fold


def build_train_table(run, fold, rows):
    """Return (table, rows) of what a fold of a run.Run trains on: its rows, then test rows with pseudo-labels.

    The rows (int indices) are those of run.table, and after them those of run.test. Rows that no fold validates (-1)
    have no out-of-fold prediction and keep their labels.
    """
    train, table = run.config.train, run.table.take(rows)
    if train.teacher:
        probs, weight = _load_out_of_fold(run, "teacher", fold, table), train.teacher_weight
        targets = np.where(np.isnan(probs), table.targets, (1 - weight) * table.targets + weight * probs)
        table = replace(table, targets=targets.astype(np.float32))
    if train.pseudo:
        places, probs = load_pseudo_labels(run, fold, **train.pseudo_kwargs)
        table = join_tables(table, replace(run.test.take(places), targets=probs.astype(np.float32)))
        rows = np.append(rows, len(run.table) + places)
    return table, rows


def join_tables(table, test):
    """Return an ImageTable of both tables' rows; of the second no fold validates any, and auxiliary columns are nan."""
    joined = {"targets": None if test.targets is None else np.append(table.targets, test.targets, axis=0)}
    if table.auxiliary is not None:
        joined["auxiliary"] = np.pad(table.auxiliary, ((0, len(test)), (0, 0)), constant_values=np.nan)
    if table.metadata is not None:
        joined["metadata"] = np.append(table.metadata, test.metadata, axis=0)
    if table.columns is not None:
        joined["columns"] = pd.concat([table.columns, test.columns], ignore_index=True)
    ids, folds = np.append(table.ids, test.ids), np.append(table.folds, np.full(len(test), -1))
    paths = Paths.of(chain(table.paths, test.paths))
    return replace(table, ids=ids, paths=paths, folds=folds, groups=None, units=None, **joined)


def load_test_rows(run):
    """Return a run's test rows, an ImageTable; those with the image of a training row, which may validate, are not."""
    config, names = run.config, run.table.target_names
    test = load_test_table(config.competition, names, run.table.encoding)
    unreadable = find_unreadable(test.paths, config.competition) if config.unreadable == "skip" else ()
    test = test.take(np.setdiff1d(np.arange(len(test)), [row for row, _ in unreadable]))
    measure = lambda path: sum(stat_file(file)[0] for file in path.split(JOIN))  # noqa: E731
    sizes, other = (np.array([*map(measure, paths)]) for paths in (test.paths, run.table.paths))
    is_unknown = min([*sizes, *other], default=0) < 0  # as over http
    is_copy, is_original = (np.isin(a, b) | is_unknown for a, b in ((sizes, other), (other, sizes)))  # of one size
    compute_hash = lambda path: sha256(b"".join(map(read_file, path.split(JOIN)))).hexdigest()  # noqa: E731
    both = test.paths[is_copy], run.table.paths[is_original]
    hashes, other = ([*map_images(compute_hash, paths, "comparing")] for paths in both)
    is_copy[is_copy] = np.isin(hashes, other)
    if is_copy.any() and run.processes.is_main_process:
        found = f"{is_copy.sum()} of {len(test)} test images are copies of training images and get no pseudo-label"
        print(f"train.pseudo: {found} (first: {test.ids[is_copy][0]})")
    return test.take(~is_copy)


def load_pseudo_labels(run, fold, weight=1.0, power=1.0, limit=0.0):
    """Return (places in run.test, probs (M, C)) of the test rows that a fold trains on; of "all" the folds' mean.

    A row's confidence is its largest prob, or the mean over columns of max(p, 1 - p); build_learner gives the weight.
    """
    path, task, every = run.config.train.pseudo, run.config.competition.task, []
    if (tool := RunFolder(path).made_by).is_file():
        raise UserError(f"train.pseudo={path}: is a {tool.stem}, which has no network of one fold; name a trained run")
    numbers = run.folds if fold == "all" else [fold]
    _load_out_of_fold(run, "pseudo", fold, run.table.take(np.isin(run.table.folds, numbers)))
    for file in (RunFolder(path).fold(number).test for number in numbers):
        try:
            every.append(load_predictions(file, run.test.ids, run.table.target_names))
        except (OSError, UserError):
            found = f"{file} is not there, or lacks some of the {len(run.test)} test rows"
            raise UserError(f"train.pseudo={path}: {found}; run python infer.py run={path} first") from None
    probs = np.mean(every, axis=0)
    if task == "regression":
        return np.arange(len(probs)), probs
    confidence = probs.max(axis=1) if task == "multiclass" else np.maximum(probs, 1 - probs).mean(axis=1)
    if not (is_used := confidence >= limit).any():
        found = f"no test row of fold {fold} is as sure (the surest: {confidence.max(initial=0):.3f})"
        raise UserError(f"train.pseudo_kwargs.limit={limit}: {found}; lower it")
    raised, other = probs[is_used] ** power, (1 - probs[is_used]) ** power
    total = raised.sum(axis=1, keepdims=True) if task == "multiclass" else raised + other
    return np.flatnonzero(is_used), raised / total


def _load_out_of_fold(run, key, fold, table):
    """Return the teacher's predictions (N, C) of a table's rows, which it validates in the same folds; nan: in none."""
    path, competition = getattr(run.config.train, key), run.config.competition
    where, folder = f"train.{key}={path}", RunFolder(path)
    if (task := load_saved_config(path).competition.task) != competition.task:
        raise UserError(f"{where}: its competition.task is {task}, here {competition.task}; name a run of this task")
    if not folder.oof.is_file():
        raise UserError(f"{where}: has no {folder.oof.name}; train it first, a fold of it at least")
    oof = load_out_of_fold(folder.oof, folder.folds)
    if oof.target_names != tuple(table.target_names):
        found = f"its targets are {listing(oof.target_names)}, here {listing(table.target_names)}"
        raise UserError(f"{where}: {found}; name a run of these targets")
    places, _, _ = match_ids(table.ids, oof.ids)
    folds, probs = oof.folds[places], np.where(places[:, None] < 0, np.nan, oof.probs[places])
    is_known = ~np.isnan(probs).any(axis=1)
    is_missing = ~is_known & (table.folds >= 0)
    if run.config.unreadable == "skip" and folder.unreadable.is_file():  # which will be left out here, too
        is_missing &= ~np.isin(table.ids, read_table(folder.unreadable)["id"].to_numpy(dtype=str))
    if is_missing.any() or not is_known.any():
        found = f"predicts {is_known.sum()} of the {len(table)} rows that fold {fold} takes from it"
        raise UserError(f"{where}: {found}; train its remaining folds on these rows, or leave it out")
    if (differ := (places >= 0) & (folds != table.folds)).any():
        found = f"{differ.sum()} of {len(table)} rows are in other folds there (first: {table.ids[differ][0]})"
        is_same = set(read_table(folder.folds)["id"]) == set(run.table.ids)
        raise UserError(f"{where}: {found}; {f'set folds={folder.folds}' if is_same else 'train it on this table'}")
    return probs
