"""Which rows a run has and which fold validates each: loaded, checked, and the same as long as the run lives."""

import numpy as np
import pandas as pd

from src.checkpointing.run_folder import has_work
from src.competition.demo import write_demo
from src.competition.folds import check_folds, load_folds
from src.competition.paths import check_not_empty
from src.competition.predictions import join_columns
from src.competition.submission import check_sample, load_sample
from src.competition.tables import load_test_table, load_train_table, read_table
from src.data.unreadable import find_unreadable
from src.errors import UserError, listing
from src.files import save_table


def load_rows(config, processes):
    """Return (table, folds, numbers of the folds that validate), all checked.

    Args:
        processes: accelerate's PartialState; the main process goes first, as it may write.
    """
    with processes.main_process_first():
        table = load_checked_table(config)
        folds = load_folds(config, table)
    check_folds(table, folds, config.competition.task)
    return table, folds, list_folds(config, folds)


def list_folds(config, folds):
    """Return the numbers of the folds that validate.

    Raises:
        UserError: the fold that the config asks for is none of them.
    """
    numbers = [int(fold) for fold in np.unique(folds) if fold >= 0]
    if config.fold is not None and config.fold not in numbers:
        raise UserError(f"fold={config.fold}: this split has folds {listing(numbers)} to validate on")
    return numbers


def load_checked_table(config):
    """Return the training table, after checking that the test side will be able to use what it teaches."""
    competition = config.competition
    if competition.name == "demo":
        write_demo(competition.root)
    table = load_train_table(competition)
    if config.unreadable == "error":
        check_not_empty(table.paths)
    sample = load_sample(competition)
    if sample is not None or competition.test_table:
        test = load_test_table(competition, table.target_names)
        if sample is not None:
            check_sample(sample, competition, test, table.target_names)
    return table


def leave_out_unreadable(config, table, folds):
    """Return (table, folds) without the images that cannot be decoded; unreadable.csv lists them, once per run."""
    path = config.run_folder / "unreadable.csv"
    if config.unreadable == "skip" and not path.is_file():
        found = find_unreadable(table, config.competition.channels)
        found = pd.DataFrame([(table.ids[row], reason) for row, reason in found], columns=["id", "reason"])
        save_table(path, found)
        if len(found):
            print(f"{len(found)} of {len(table)} images cannot be decoded and are left out; {path} names them")
    if not path.is_file():
        return table, folds
    keep = ~np.isin(table.ids, read_table(path)["id"].to_numpy(dtype=str))
    return table.take(keep), folds[keep]


def keep_folds(run_folder, table, folds, is_busy=False):
    """Write the run's folds.csv: rows, folds and targets, which must not change while its folds are trained one by one.

    Args:
        is_busy: another process trains some of the run's folds now.

    Raises:
        UserError: they have changed, or what is kept of them is damaged.
    """
    path = run_folder / "folds.csv"
    rows = join_columns({"id": table.ids, "fold": folds}, table.targets, table.target_names)
    if path.is_file() and (is_busy or has_work(run_folder)):
        _check_same(path, rows)
    save_table(path, rows)


def _check_same(path, rows):
    """Check that a run's folds.csv holds these rows; one of an older version holds no targets."""
    kept = _load_kept(path, rows.columns)
    another = "choose name=ANOTHER or overwrite=true"
    if not kept[["id", "fold"]].equals(rows[["id", "fold"]]):
        raise UserError(f"{path}: this run was trained on other folds or rows; {another}")
    changed = (kept != rows[kept.columns]).any(axis=1)
    if changed.any():
        raise UserError(
            f"{path}: this run was trained on other answers in {changed.sum()} of {len(rows)} rows "
            f"(first: {rows['id'][changed.idxmax()]}); {another}"
        )


def _load_kept(path, names):
    try:
        kept = read_table(path)
        types = {name: np.int64 if name == "fold" else np.float32 for name in names[1:] if name in ("fold", *kept)}
        return kept[["id", *types]].astype(types)
    except (KeyError, ValueError, UserError):
        raise UserError(f"{path}: damaged; delete it and run the same command again") from None
