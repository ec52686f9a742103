"""A run's out-of-fold predictions, as files of evaluation: read here, without torch, images or the competition."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.errors import UserError, first_line


@dataclass(frozen=True)
class OutOfFold:
    """What a run predicts for N rows that it did not learn from, in the training table's order."""

    ids: np.ndarray  # (N,) str
    folds: np.ndarray  # (N,) int64
    targets: np.ndarray  # (N, C), nan where unknown
    probs: np.ndarray  # (N, C)
    target_names: tuple[str, ...]
    groups: np.ndarray | None  # (N,) str, where folds.csv has a column `group`

    def take(self, rows):
        """Return the predictions of some rows: int indices or a bool mask."""
        arrays = (None if one is None else one[rows] for one in (self.ids, self.folds, self.targets, self.probs))
        return OutOfFold(*arrays, self.target_names, None if self.groups is None else self.groups[rows])

    def pool(self, units, how):
        """Return a row for each distinct unit, (N,) str: its rows' mean or max, with fold and group of the first."""
        (ids, targets), (_, probs) = (pool_rows(units, one, how) for one in (self.targets, self.probs))
        rows = pd.DataFrame({"fold": self.folds, "group": self.groups}).groupby(units, sort=False).first()
        groups = None if self.groups is None else rows["group"].to_numpy()
        return OutOfFold(ids, rows["fold"].to_numpy(), targets, probs, self.target_names, groups)


def pool_rows(units, values, how):
    """Return (ids (M,), values (M, C)) of the distinct units, (N,) str, in order: their rows' mean or max of (N, C)."""
    pooled = pd.DataFrame(values).groupby(units, sort=False).agg(how)
    return pooled.index.to_numpy(dtype=str), pooled.to_numpy()


def load_out_of_fold(oof_path, folds_path):
    """Read a run's oof.csv, with the groups of its folds.csv; a UserError where they are not there or damaged."""
    try:
        rows = pd.read_csv(oof_path, dtype={"id": str}, keep_default_na=False, na_values={})
        names = tuple(name.removeprefix("target_") for name in rows.columns[2:] if name.startswith("target_"))
        targets = rows[[f"target_{name}" for name in names]].replace("", np.nan).to_numpy(dtype=np.float64)
        probs = rows[list(names)].replace("", np.nan).to_numpy(dtype=np.float64)
        if (num_wrong := int((~np.isfinite(probs)).any(axis=1).sum())) or not probs.size:
            raise ValueError(f"{num_wrong} of {len(rows)} rows lack a prediction" if probs.size else "no predictions")
        groups = pd.read_csv(folds_path, dtype=str, keep_default_na=False).set_index("id")
        has_groups = "group" in groups and "group" not in names
        groups = groups.loc[rows["id"], "group"].to_numpy(dtype=str) if has_groups else None
        return OutOfFold(rows["id"].to_numpy(dtype=str), rows["fold"].to_numpy(), targets, probs, names, groups)
    except OSError as error:
        raise UserError(f"{error.filename}: no such file; train the run, a fold of it at least") from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{oof_path}: damaged ({first_line(error)[:80]}); repeat the command that trained it") from None
