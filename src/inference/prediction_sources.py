"""What runs, blends and other programs' CSVs predict for training and test rows, read and aligned; no torch."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from src.checkpointing.run_folder import RunFolder
from src.competition.submission import match_names
from src.competition.tables import read_table
from src.competition.targets import match_ids
from src.config.load import load_saved_config
from src.config.settings import Config
from src.errors import UserError, first_line, listing
from src.evaluation.out_of_fold import OutOfFold, load_out_of_fold
from src.inference.ensemble import ENSEMBLES


class NoTestPredictions(UserError):
    """An input that predicts out-of-fold rows alone; the message says how it comes by test predictions."""


@dataclass(frozen=True)
class PredictionSource:
    """The predictions of a run, of a blend, or of another program."""

    path: str  # as the command line has it
    name: str  # the folder's, or the file's without .csv
    oof: OutOfFold
    config: Config | None  # None: another program's
    test: Path | None = None  # another program's, where there is one

    @property
    def is_run(self):
        """Whether it was trained here, so that its config says how."""
        folder = RunFolder(self.path)
        return self.config is not None and not (folder.made_by.is_file() or folder.soup.is_file())

    @property
    def is_taught(self):
        """Whether train.teacher, of itself or of a blend's input, has seen the labels of the rows that it predicts."""
        return self.config is not None and self.config.train.teacher is not None

    def load_test(self):
        """Return (ids (N,) str, predictions (N, C), notes) of the test rows; NoTestPredictions without any."""
        names = self.oof.target_names
        if self.config is None:
            if self.test is None:
                advice = f"write {self.path}+TEST.csv" if Path(self.path).is_file() else "add test.csv"
                raise NoTestPredictions(f"{self.path}: has no test predictions; {advice}")
            return *_read_csv(self.test, self.config, names), ()
        folder = RunFolder(self.path)
        if folder.made_by.is_file():
            if not folder.test.is_file():
                advice = {"blend": "infer its runs, then blend them", "probe": "set competition.test_table, then probe"}
                found = f"is a {folder.made_by.stem} without test predictions; {advice[folder.made_by.stem]} again"
                raise NoTestPredictions(f"{self.path}: {found}")
            return *_read_csv(folder.test, self.config, names), ()
        which = self.config.infer.folds
        finished = [] if which == "all" else folder.finished_folds()
        finished += [] if which == "folds" else [folder.fold("all")]
        done = [fold for fold in finished if fold.test.is_file()]
        if not done:
            raise NoTestPredictions(f"{self.path}: has no test predictions; python infer.py run={self.path}")
        read = [_read_csv(fold.test, self.config, names) for fold in done]
        ids, probs = read[0][0], [read[0][1]]
        for fold, (other, values) in zip(done[1:], read[1:], strict=True):
            rows, missing, extra = match_ids(ids, other)
            if len(missing) or len(extra):
                found = f"has other test rows than {done[0].test} (first: {[*missing, *extra][0]})"
                raise UserError(f"{fold.test}: {found}; repeat python infer.py run={self.path}")
            probs.append(values[rows])
        notes = ()
        if len(done) < len(finished):
            notes = (
                f"{self.path}: test predictions of {len(done)} of {len(finished)} folds; infer.py adds the others",
            )
        return ids, ENSEMBLES[self.config.infer.average](np.stack(probs)), notes


def load_sources(paths, words=()):
    """Read runs, blends and CSVs; words: key=value changes of the runs' settings, such as where the data is.

    A CSV holds out-of-fold rows: OOF.csv, or OOF.csv+TEST.csv, or a folder of oof.csv and test.csv (or
    submission.csv). Targets and folds of its rows are those of the first run.
    """
    paths = [str(path).rstrip("/") or "/" for path in paths]
    is_other = [_is_csv(path) for path in paths]
    if all(is_other):
        raise UserError(f"{listing(paths)}: are no runs; name one at least, whose targets and folds score the others")
    runs = {}
    for path, other in zip(paths, is_other, strict=True):
        if not other:
            config, folder = load_saved_config(path, words), RunFolder(path)
            oof = load_out_of_fold(folder.oof, folder.folds)
            runs[path] = PredictionSource(path, Path(path).resolve().name, oof, config)
    first = next(iter(runs.values()))
    found = [runs[path] if path in runs else _load_csv(path, first) for path in paths]
    names = [one.name for one in found]
    return [replace(one, name=one.path) if names.count(one.name) > 1 else one for one in found]


def check_one_competition(predicted, verb):
    """Check that all runs have one task and metric; return the first one's competition. verb: of the advice."""
    runs = [one for one in predicted if one.config is not None]
    competition = runs[0].config.competition
    for one in runs:
        for key in ("task", "metric", "metric_kwargs"):
            if getattr(one.config.competition, key) != getattr(competition, key):
                found = f"{getattr(one.config.competition, key)}, but {getattr(competition, key)} in {runs[0].path}"
                raise UserError(f"{one.path}: competition.{key} is {found}; {verb} runs of one metric")
    return competition


def align(predicted, verb):
    """Return (the OutOfFolds cut to the rows that all have, in one order; how many the largest loses by it)."""
    runs = [one.oof for one in predicted]
    ids = set(_strip(runs[0].ids)).intersection(*(_strip(run.ids) for run in runs[1:]))
    if not ids:
        where = listing([one.path for one in predicted])
        raise UserError(f"{where}: have no row in common; {verb} runs of one competition")
    first = runs[0].take([one in ids for one in _strip(runs[0].ids)])
    aligned = []
    for one, run in zip(predicted, runs, strict=True):
        if set(run.target_names) != set(first.target_names):
            found = f"{listing(run.target_names)}, not {listing(first.target_names)}"
            raise UserError(f"{one.path}: predicts {found}; {verb} runs of the same targets")
        run = run.take(match_ids(first.ids, run.ids)[0])
        if run.target_names != first.target_names:
            order = [run.target_names.index(name) for name in first.target_names]
            names = first.target_names
            run = replace(run, targets=run.targets[:, order], probs=run.probs[:, order], target_names=names)
        is_known = ~np.isnan(run.targets) & ~np.isnan(first.targets)
        if not np.isclose(run.targets, first.targets, rtol=1e-6)[is_known].all():
            raise UserError(f"{one.path}: has other targets than {predicted[0].path}; {verb} runs of the same tables")
        aligned.append(run)
    return aligned, max(len(run.ids) for run in runs) - len(ids)


def align_test(predicted):
    """Return (ids (N,) str, predictions (M, N, C), notes) of the test rows, which must be the same for all."""
    found, notes, names = [], [], predicted[0].oof.target_names
    for one in predicted:
        ids, probs, said = one.load_test()
        notes += said
        probs = probs[:, [one.oof.target_names.index(name) for name in names]]
        if found:
            rows, missing, extra = match_ids(found[0][0], ids)
            if len(missing) or len(extra):
                what = f"{len(missing)} missing, {len(extra)} too many; first: {[*missing, *extra][0]}"
                advice = "infer both with the same tables"
                raise UserError(f"{one.path}: has other test rows than {predicted[0].path} ({what}); {advice}")
            probs = probs[rows]
        found.append((ids, probs))
    return found[0][0], np.stack([probs for _, probs in found]), tuple(notes)


def _strip(ids):
    return pd.Index(ids, dtype=str).str.strip()


def _is_csv(path):
    """Whether a path is another program's predictions, and no run or blend."""
    folder = Path(path)
    if RunFolder(folder).config.is_file():
        return False
    return path.endswith(".csv") or (folder.is_dir() and RunFolder(folder).oof.is_file())


def _load_csv(path, like):
    """Read another program's predictions of the rows of a run, `like`."""
    if Path(path).is_dir():
        folder = RunFolder(path)
        oof, name = folder.oof, Path(path).resolve().name
        test = next((one for one in (folder.test, folder.submission) if one.is_file()), None)
    else:
        first, _, second = path.partition("+")
        oof, test, name = Path(first), Path(second) if second else None, Path(first).stem
    ids, probs = _read_csv(oof, like.config, like.oof.target_names)
    rows, _, _ = match_ids(like.oof.ids, ids)
    if not (rows >= 0).any():
        found = f"none of its {len(ids)} ids is a row of {like.path} (first: {ids[0]}, not {like.oof.ids[0]})"
        raise UserError(f"{oof}: {found}; write the ids of the training table and out-of-fold predictions")
    known = like.oof.take(rows >= 0)
    return PredictionSource(path, name, replace(known, probs=probs[rows[rows >= 0]]), None, test)


def _read_csv(path, config, target_names):
    """Return (ids (N,) str, predictions (N, C)): by the competition's id column, `id`, or the first.

    The other columns are the targets, maybe with one prefix and suffix; of one target any single column.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; write the path of a run's folder, or of a CSV of predictions")
    rows = read_table(str(path))
    rows.columns = rows.columns.str.strip()
    if not len(rows):
        raise UserError(f"{path}: holds no rows; write an id and the predictions in each")
    named = "id" if config is None else config.competition.id
    by = next((name for name in (named, "id") if name in rows), rows.columns[0])
    ids = rows[by].fillna("").str.strip()
    if (is_wrong := ids.duplicated() | (ids == "")).any():
        found = f"column {by!r} repeats or lacks an id in {is_wrong.sum()} of {len(ids)} rows"
        raise UserError(f"{path}: {found} (first: line {np.flatnonzero(is_wrong)[0] + 2}); write each id once")
    left = [name for name in rows if name != by]
    if set(target_names) <= set(left):
        names = list(target_names)
    else:
        own = {"fold", "group", "Unnamed: 0", *(f"target_{name}" for name in target_names)}  # as oof.csv has them
        left = [name for name in left if name not in own]
        places = match_names(left, target_names)
        if places is None and not (len(left) == len(target_names) == 1):
            found = f"its columns {listing(left) or '(none)'} are not the targets {listing(target_names)}"
            raise UserError(f"{path}: {found}; name one column for each, maybe with a prefix")
        names = left if places is None else sorted(left, key=lambda name: places[name])
    if rows[names].stack().str.fullmatch(r"-?\d+,\d+(e-?\d+)?", case=False).any():  # as Excel writes in much of Europe
        rows[names] = rows[names].apply(lambda one: one.str.replace(",", "."))
    try:
        probs = rows[names].astype(np.float64).to_numpy()
    except ValueError as error:
        raise UserError(f"{path}: holds no number ({first_line(error)[:80]}); write predictions") from None
    if (is_wrong := ~np.isfinite(probs).all(axis=1)).any():
        found = f"{is_wrong.sum()} of {len(ids)} rows are empty, nan or infinite (first: id {ids[is_wrong].iloc[0]})"
        raise UserError(f"{path}: {found}; write a prediction for each")
    return ids.to_numpy(dtype=str), probs
