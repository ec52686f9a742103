"""Files of predictions, an id column and one column of probabilities per target; of the test set also their score."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from src.competition.submission import asks_for_labels, write_submission
from src.competition.tables import ImageTable, load_solution
from src.config.settings import Competition
from src.errors import UserError
from src.evaluation.metrics import Metric
from src.evaluation.out_of_fold import pool_rows
from src.evaluation.sampling import sample_scores
from src.evaluation.thresholds import read_decision
from src.files import save_json, save_table


def save_predictions(path, table, probs):
    """Write the probabilities (N, C) of an ImageTable's rows, in its order, as CSV.

    probs: or an iterable of (slice of the rows, (1, n, C)), of which one at a time is in memory.
    """
    blocks = [(slice(None), probs[None])] if isinstance(probs, np.ndarray) else probs
    save_table(path, (join_columns({"id": table.ids[rows]}, one, table.target_names) for rows, (one,) in blocks))


def join_columns(first, values, names):
    """Return a table of the columns `first`, {name: (N,)}, and after them of `values` (N, C) under C names."""
    return pd.concat([pd.DataFrame(first), pd.DataFrame(values, columns=list(names))], axis=1)


def load_predictions(path, ids, names):
    """Read what `save_predictions` wrote: the probabilities (N, C) of the ids, float64."""
    try:
        rows = pd.read_csv(path, dtype={"id": str}, keep_default_na=False).set_index("id")
        return rows.loc[ids, list(names)].to_numpy(dtype=np.float64)
    except (KeyError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(f"{path}: damaged ({reason[:80]}); delete {path.parent} and train that fold again") from None


@dataclass(frozen=True)
class TestSet:
    """The test rows that a host wants predicted, in the columns of its sample, and what it scores them by."""

    competition: Competition
    metric: Metric
    table: ImageTable  # of which ids, target_names, groups and units are read
    sample: pd.DataFrame | None  # of `load_sample`

    @cached_property
    def ids(self):
        """(N,) str of the submission: those of the rows or, see competition.predict_by, of the units."""
        units = self.table.units
        return self.table.ids if units is None else pd.Index(units).unique().to_numpy(dtype=str)

    @cached_property
    def takes_labels(self):
        """Whether the sample asks for labels instead of probabilities."""
        return asks_for_labels(self.sample, self.competition, self.table.target_names, self.metric, self.ids)

    @cached_property
    def targets(self):
        """(M, C) known labels of the ids; None where the competition has no solution."""
        return load_solution(self.competition, self.table, self.ids)

    def write(self, folder, probs, scores, **more):
        """Write a RunFolder's submission and, where the test labels are known, test_score.json with `more`.

        probs: (N, C) of the table's rows; scores: what scores.json holds, by whose thresholds labels are written.
        Returns (the score: nan where it is not defined, None where no labels are known; a line about it, or None).
        """
        competition, metric, names, groups = self.competition, self.metric, self.table.target_names, self.table.groups
        decision = None
        if self.takes_labels:
            decision = read_decision(scores, names, competition.task, may_be_none=not competition.separator)
        if self.table.units is not None:
            groups, probs = None, pool_rows(self.table.units, probs, competition.predict_with)[1]
        write_submission(folder.submission, self.sample, competition, self.ids, probs, names, decision)
        if self.targets is None:
            return None, None
        probs = decision.labels(probs) if decision is not None and metric.takes == "classes" else probs
        sampling = sample_scores(metric, self.targets, [probs], groups)
        score, (low, high) = float(sampling.scores[0]), sampling.interval(0)
        known, rest = {"score": score, "interval": [low, high]}, f"95 % {low:.5f} to {high:.5f}"
        if not np.isfinite(score):
            known, rest = {"score": None, "interval": None}, "not defined on these answers"
        save_json(folder.test_score, {"metric": metric.name} | known | more)
        return score, f"test {metric.name}: {score:.5f}, {rest}"
