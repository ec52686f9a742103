"""A competition's tables, targets, folds and images, as far as they can be read.

The loaders of training run first. Where they raise, their message becomes a finding, and the rows that are complete are
read without them, so that the other checks can still run.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import pandas as pd

from src.competition.folds import load_folds
from src.competition.image_files import JOIN, Paths
from src.competition.paths import find_present, list_images, locate, settle_num_images, word
from src.competition.submission import check_sample, load_sample
from src.competition.tables import (
    ImageTable,
    list_columns,
    load_test_table,
    load_train_table,
    read_groups,
    read_table,
)
from src.competition.targets import read_label, read_targets
from src.config.settings import Config
from src.errors import UserError
from src.evaluation.metrics import build_metric
from tools.doctor.findings import Finding, make_finding, name_rows
from tools.doctor.scan import Scan, scan_images


@dataclass(frozen=True)
class CompetitionData:
    """A competition, as far as it can be read; the scan's rows are the training images, then the test images."""

    config: Config
    train: ImageTable | None  # without the rows that have no image; .targets is None where they are wrong
    test: ImageTable | None
    folds: np.ndarray | None  # (N,) int64 of train; None: the split failed
    scan: Scan

    @property
    def num_train(self):
        """Number of training images, the first rows of the scan."""
        return 0 if self.train is None else len(self.train)

    @cached_property
    def metric(self):
        """The evaluation.metrics.Metric of the competition; load_folds has checked its settings."""
        competition = self.config.competition
        return build_metric(competition.metric, competition.task, **competition.metric_kwargs)

    @cached_property
    def is_test(self):
        """(N,) bool: whether a row of the scan is a test image."""
        return np.arange(len(self.scan)) >= self.num_train

    @cached_property
    def names(self):
        """(N,) str: the images' paths relative to the root, their names in findings."""
        names = [path.removeprefix(f"{self.config.competition.root}/").split(JOIN) for path in self.scan.paths]
        return np.array([f"{one[0]} and {len(one) - 1} more" if len(one) > 1 else one[0] for one in names], dtype=str)

    @cached_property
    def train_columns(self):
        """The training table's columns of str other than id, targets, group and fold; none without a table."""
        return self._other_columns(self.train, self.config.competition.train_table)

    @cached_property
    def test_columns(self):
        """The same of test_table; none of a sample submission, which holds placeholders."""
        return self._other_columns(self.test, self.config.competition.test_table)

    def _other_columns(self, table, file):
        competition = self.config.competition
        if table is None or not file:
            return pd.DataFrame(index=range(0 if table is None else len(table)))
        return table.columns.drop(columns=[competition.group, competition.fold], errors="ignore")

    def of_all(self, name):
        """Return an attribute of the tables that exist as one array (N,); None where one of them lacks it."""
        values = [getattr(table, name) for table in (self.train, self.test) if table is not None]
        return np.concatenate(values) if values and all(one is not None for one in values) else None


def load_data(config):
    """Read a competition and scan all its images; return (CompetitionData, findings)."""
    competition, findings = config.competition, []
    train = _load_side(competition, "train", (), findings)
    names = train.target_names if train is not None else ()
    num_before = len(findings)
    test = _load_side(competition, "test", names, findings, getattr(train, "encoding", ()))
    is_complete = len(findings) == num_before  # else rows may be missing that the sample has
    if test is not None and names and is_complete:
        try:
            sample = load_sample(competition)
            if sample is not None:
                check_sample(sample, competition, test, names)
        except UserError as error:
            _add_error(findings, error)
    folds = None
    if train is not None and train.targets is not None:
        try:
            folds = load_folds(config, train, keep=False)
        except UserError as error:
            _add_error(findings, error)
    if train is not None:
        config = settle_num_images(config, train.paths)
    paths = Paths.of(chain(*(table.paths for table in (train, test) if table is not None)))
    return CompetitionData(config, train, test, folds, scan_images(paths, competition)), findings


def _load_side(competition, side, target_names, findings, encoding=()):
    """Return the ImageTable of train or test, or None; append what is wrong to findings."""
    table = {"train": competition.train_table, "test": competition.test_table or competition.sample_submission}[side]
    try:
        if side == "train":
            loaded = load_train_table(competition, may_be_constant=True)  # check_labels reports constant columns
        else:
            loaded = load_test_table(competition, target_names, encoding)
        findings += [make_finding(note, "note", "nothing has to be done for training") for note in loaded.notes]
        return loaded
    except UserError as error:
        if side == "test" and not table:  # training needs no test images then
            findings.append(make_finding(error, "note"))
            return None
        _add_error(findings, error)
    try:
        rows = read_table(locate(competition.root, table)) if table else None
        return _salvage(competition, side, rows, target_names, findings)
    except UserError as error:
        _add_error(findings, error)
        return None


def _salvage(competition, side, rows, target_names, findings):
    """Return the ImageTable of the rows that have a unique id and an image, or None without such rows."""
    key = f"{side}_image"
    if rows is None:
        rows, paths = list_images(competition, key)
    else:
        if competition.id not in rows:
            return None
        is_unusable = rows[competition.id].isna() | rows[competition.id].duplicated()
        rows = rows[~is_unusable].reset_index(drop=True)
        ids = rows[competition.id].to_numpy(dtype=str)
        is_present, paths = find_present(competition, key, rows, ids)
        if not is_present.all():
            missing = np.flatnonzero(~is_present)
            replaced = f"{len(missing)} of {len(rows)} ids have no image"  # by the loader, which does not name them all
            findings[:] = [one for one in findings if replaced not in one.title]
            title = f"{len(missing)} of {len(rows)} {side} ids have no image"
            advice = f"copy them, remove their rows, or correct {word(competition, key)}"
            findings.append(Finding("error", title, advice, **name_rows(ids, missing)))
        rows = rows[is_present].reset_index(drop=True)
    ids = rows[competition.id].to_numpy(dtype=str)
    if not len(ids):
        return None
    names, targets = _salvage_targets(competition, rows, findings) if side == "train" else (target_names, None)
    group, groups = competition.group, None
    if group and set(columns := list_columns(competition, "group")) <= set(rows):
        for name in columns:
            rows[name] = rows[name].fillna(pd.Series([f"(no {name}, {one})" for one in ids]))
        groups = read_groups(rows, competition, "group", key)
    columns = rows.drop(columns=[competition.id, competition.label, *competition.targets], errors="ignore")
    return ImageTable(ids, paths, targets, tuple(names), groups, None, columns, competition.task)


def _salvage_targets(competition, rows, findings):
    """Return (target names, (N, C) float32 or None); a column may be constant."""
    where = f"{competition.root}/{competition.train_table or competition.train_image}"
    try:
        if competition.label in rows and competition.task != "regression":
            return read_label(rows, competition, where)
        names = tuple(name for name in competition.targets or [competition.label] if name in rows)
        if names:
            return names, read_targets(rows, names, competition, where, may_be_constant=True)
    except UserError as error:
        _add_error(findings, error)
    return (), None


def _add_error(findings, error):
    """Append a loader's message, unless a finding is about the same place."""
    finding = make_finding(error)
    if finding.title.partition(":")[0] not in {one.title.partition(":")[0] for one in findings}:
        findings.append(finding)
