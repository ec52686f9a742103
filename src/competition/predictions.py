"""Files of predictions: an id column and one column of probabilities per target."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.errors import UserError, first_line
from src.files import save_table


def save_predictions(path, table, probs):
    """Write the probabilities (N, C) of an ImageTable's rows, in its order, as CSV."""
    save_table(path, join_columns({"id": table.ids}, probs, table.target_names))


def join_columns(first, values, names):
    """Return a table of the columns `first`, {name: (N,)}, and after them of `values` (N, C) under C names."""
    return pd.concat([pd.DataFrame(first), pd.DataFrame(values, columns=list(names))], axis=1)


def pool_rows(units, values, how):
    """Return (ids (M,), values (M, C)) of the distinct units, (N,) str, in order: their rows' mean or max of (N, C)."""
    pooled = pd.DataFrame(values).groupby(units, sort=False).agg(how)
    return pooled.index.to_numpy(dtype=str), pooled.to_numpy()


def load_predictions(path, ids, names):
    """Read what `save_predictions` wrote: the probabilities (N, C) of the ids, float64."""
    try:
        rows = pd.read_csv(path, dtype={"id": str}, keep_default_na=False).set_index("id")
        return rows.loc[ids, list(names)].to_numpy(dtype=np.float64)
    except (KeyError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(f"{path}: damaged ({reason[:80]}); delete {path.parent} and train that fold again") from None


def load_target_names(path):
    """Return the targets (tuple of str) of what `save_predictions` wrote."""
    return tuple(pd.read_csv(path, nrows=0).columns[1:])


@dataclass(frozen=True)
class OutOfFold:
    """What a run predicts for rows that it did not learn from, in the training table's order."""

    ids: np.ndarray  # (N,) str
    folds: np.ndarray  # (N,) int64
    targets: np.ndarray  # (N, C)
    probs: np.ndarray  # (N, C)
    target_names: tuple[str, ...]
    groups: np.ndarray | None  # (N,) str, where the competition has a group

    def take(self, rows):
        """Return the predictions of some rows: int indices or a bool mask."""
        arrays = (None if one is None else one[rows] for one in (self.ids, self.folds, self.targets, self.probs))
        return OutOfFold(*arrays, self.target_names, None if self.groups is None else self.groups[rows])


def load_oof(oof_path, folds_path):
    """Read a run's oof.csv, with the groups of its folds.csv; a UserError where they are not there or damaged."""
    try:
        rows = pd.read_csv(oof_path, dtype={"id": str}, keep_default_na=False)
        names = tuple(name.removeprefix("target_") for name in rows.columns[2:] if name.startswith("target_"))
        targets, probs = (rows[[f"{prefix}{name}" for name in names]] for prefix in ("target_", ""))
        groups = pd.read_csv(folds_path, dtype=str, keep_default_na=False).set_index("id")
        groups = groups.loc[rows["id"], "group"].to_numpy(dtype=str) if "group" in groups else None
        numbers = (targets.to_numpy(dtype=np.float64), probs.to_numpy(dtype=np.float64))
        return OutOfFold(rows["id"].to_numpy(dtype=str), rows["fold"].to_numpy(), *numbers, names, groups)
    except OSError:
        raise UserError(f"{oof_path}: no such file; train the run, a fold of it at least") from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{oof_path}: damaged ({first_line(error)[:80]}); repeat the command that trained it") from None
