"""A run's folder -> what its page is made of: settings, predictions, logs; whatever is not there is None or empty."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.curve_bands import compute_areas, sample_rows
from src.checkpointing.run_folder import FoldFolder, RunFolder
from src.competition.paths import locate
from src.competition.tables import read_table
from src.competition.targets import match_ids
from src.config.load import load_saved_config
from src.config.settings import Config
from src.errors import UserError
from src.evaluation.metrics import Metric, build_metric
from src.evaluation.out_of_fold import OutOfFold, load_out_of_fold
from src.evaluation.thresholds import read_decision
from src.files import load_json

_MOST_VALUES = 1e7  # rows x columns whose areas are found
_MOST_TEST_ROWS = 50_000  # that are read of one fold
_NEEDED = ("metric", "pooled", "interval", "folds", "rank_per_fold", "leaderboard", "unscored")  # of scores.json


@dataclass(frozen=True)
class RunFiles:
    """What a run, a blend or a soup has left."""

    folder: RunFolder
    config: Config
    metric: Metric
    kind: str  # run, blend (or probe: no network was trained) or soup
    scores: dict  # {}: no fold is finished
    oof: OutOfFold | None
    log: pd.DataFrame  # all folds' log.csv, with a column fold; without rows where there is none
    metas: dict  # {number of a finished fold, or "all": what its meta.json holds}
    provenance: dict
    output: Path  # where infer.py may have written, beside the run's folder

    @property
    def name(self):
        return self.folder.path.resolve().name

    @property
    def task(self):
        return self.config.competition.task

    @property
    def targets(self):
        return self.oof.targets

    @property
    def probs(self):
        return self.oof.probs

    @cached_property
    def column_names(self):
        """What the page calls the columns: their names, or of a binary label its positive class."""
        return [str(name) for name in self.oof.target_names]

    @cached_property
    def decision(self):
        return read_decision(self.scores, self.oof.target_names, self.task)

    @cached_property
    def labels(self):
        """(N, C) bool: which labels are predicted; of regression grades."""
        return self.decision.labels(self.probs)

    @cached_property
    def rows_of_areas(self):
        """The rows that `areas` are of: all, or of many values some drawn at random."""
        return sample_rows(len(self.targets), max(2000, int(_MOST_VALUES / len(self.column_names))))

    @cached_property
    def areas(self):
        """(ROC AUC, average precision) of each column, (C, 2), nan where it has not both sides; of classes."""
        rows, columns = self.rows_of_areas, range(len(self.column_names))
        return np.array([compute_areas(self.targets[rows, one], self.probs[rows, one]) for one in columns])

    @cached_property
    def order(self):
        """The columns that have both sides, those with the lowest AUC first."""
        aucs = self.areas[:, 0]
        return np.argsort(aucs, kind="stable")[: np.isfinite(aucs).sum()].tolist()

    @cached_property
    def num_folds(self):
        """Folds that validate, by folds.csv, or None where it cannot be read."""
        try:
            folds = pd.read_csv(self.folder.folds, usecols=["fold"])["fold"].to_numpy()
        except (OSError, ValueError):
            return None
        return int((np.unique(folds) >= 0).sum())

    @cached_property
    def test_folds(self):
        """{"fold0": (ids, predictions (N, C))} of infer.py, or {"test": ...} of a blend; {} without any."""
        for place in (self.folder.path, self.output):
            files = [FoldFolder(path.parent) for path in sorted(place.glob("fold*/test.csv"))]
            found = {one.path.name: _read_test(one.test, self.oof.target_names) for one in files} if self.oof else {}
            if self.kind == "blend" and self.oof and self.folder.test.is_file():
                found = {"test": _read_test(self.folder.test, self.oof.target_names)}
            found = {name: one for name, one in found.items() if one is not None}
            if found:
                return found
        return {}

    @property
    def has_test(self):
        places = {self.folder.path, self.output}
        return any(RunFolder(place).submission.is_file() for place in places)

    @cached_property
    def columns(self):
        """The training table's other columns for the out-of-fold rows, a DataFrame of str, or None."""
        competition = self.config.competition
        if self.oof is None or not competition.train_table:
            return None
        try:
            table = read_table(locate(competition.root, competition.train_table))
            table.columns = table.columns.str.strip()
            rows, missing, _ = match_ids(self.oof.ids, table[competition.id].fillna(""))
        except (UserError, OSError, KeyError):  # the data may be elsewhere by now
            return None
        if len(missing):
            return None
        left_out = {competition.id, competition.label, *competition.targets, *self.oof.target_names}
        return table.iloc[rows].drop(columns=[name for name in table if name in left_out]).reset_index(drop=True)


def load_run_files(path, output=None):
    """Read a run's folder; a UserError where it is none, or holds neither a score nor an epoch.

    output: folder in which infer.py may have written its test predictions, beside the run's own.
    """
    folder = RunFolder(path)
    config = load_saved_config(path)
    competition = config.competition
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    kind = "blend" if folder.made_by.is_file() else "soup" if folder.soup.is_file() else "run"
    scores = load_json(folder.scores, *_NEEDED) if folder.scores.is_file() else {}
    oof = load_out_of_fold(folder.oof, folder.folds) if scores else None
    started = [FoldFolder(one.parent) for one in sorted(folder.path.glob("fold*/log.csv"))]
    finished = [FoldFolder(one.parent) for one in sorted(folder.path.glob("fold*/meta.json"))]
    log = pd.concat([_read_log(fold) for fold in started]) if started else pd.DataFrame({"fold": [], "epoch": []})
    metas = {fold.number: load_json(fold.meta) for fold in finished}
    if oof is None and not len(log) and not metas:
        command = _read_provenance(folder).get("command", "python train.py and its words")
        raise UserError(f"{path}: no epoch is finished, so there is nothing to report; train it: {command}")
    output = folder.path if output is None else Path(output)
    return RunFiles(folder, config, metric, kind, scores, oof, log, metas, _read_provenance(folder), output)


def _read_provenance(folder):
    try:
        found = load_json(folder.provenance) if folder.provenance.is_file() else {}
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _read_log(fold):
    try:
        rows = pd.read_csv(fold.log)
        rows = rows.apply(pd.to_numeric, errors="coerce")
        return rows.assign(fold=str(fold.number), epoch=rows["epoch"].astype(int))
    except (ValueError, KeyError) as error:
        raise UserError(f"{fold.log}: damaged; delete {fold.path} and train that fold again") from error


def _read_test(path, names):
    """Return (ids, predictions (N, C)) of a file of test predictions; None where it has other columns."""
    try:
        rows = pd.read_csv(path, dtype={"id": str}, nrows=_MOST_TEST_ROWS)
        values = rows[list(names)].to_numpy(dtype=np.float64)
    except (OSError, ValueError, KeyError):
        return None
    return (rows["id"].to_numpy(), values) if len(rows) and np.isfinite(values).all() else None
