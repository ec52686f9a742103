"""Files of predictions, an id column and one column of probabilities per target, and their score."""

import numpy as np
import pandas as pd

from src.errors import UserError
from src.evaluation.sampling import sample_scores
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


def save_test_score(path, metric, targets, probs, groups, decision, **more):
    """Write test_score.json, with `more`; return (the score, nan where it is not defined, a line about it).

    decision: that makes labels of the probs (N, C), or None; groups: (N,) of rows that belong together, or None.
    """
    probs = decision.labels(probs) if decision is not None and metric.takes == "classes" else probs
    sampling = sample_scores(metric, targets, [probs], groups)
    score, (low, high) = float(sampling.scores[0]), sampling.interval(0)
    is_defined = np.isfinite(score)
    known = {"score": score if is_defined else None, "interval": [low, high] if is_defined else None}
    save_json(path, {"metric": metric.name} | known | more)
    rest = f", 95 % {low:.5f} to {high:.5f}" if is_defined else ", not defined on these answers"
    return score, f"test {metric.name}: {score:.5f}{rest}"
