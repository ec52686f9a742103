"""Files of predictions: an id column and one column of probabilities per target."""

import pandas as pd

from src.files import save_table


def save_predictions(path, table, probs):
    """Write the probabilities (N, C) of an ImageTable's rows, in its order, as CSV."""
    ids = pd.DataFrame({"id": table.ids})
    save_table(path, pd.concat([ids, pd.DataFrame(probs, columns=list(table.target_names))], axis=1))


def load_predictions(path):
    """Read what `save_predictions` wrote; ids stay strings."""
    return pd.read_csv(path, dtype={"id": str}, keep_default_na=False)


def load_target_names(path):
    """Return the targets (tuple of str) of what `save_predictions` wrote."""
    return tuple(pd.read_csv(path, nrows=0).columns[1:])
