"""What each class, or each column's positives, weighs in the loss: given, or from the counts of the training rows."""

import numpy as np

from src.errors import UserError


def compute_class_weights(targets, task):
    """Return float32 (C,): weights under which classes count the same, or a column's positives as its negatives.

    Args:
        targets: numpy (N, C), of all training rows.
        task: multiclass gives N / (C * rows of the class), scikit-learn's "balanced"; binary and multilabel give
            negatives / positives of each column. 1 where a class has no row, or a column only one side.
    """
    counts = targets.sum(axis=0, dtype=np.float64)
    if task == "multiclass":
        wanted, found = np.full_like(counts, len(targets) / len(counts)), counts
    else:
        wanted, found = len(targets) - counts, counts
    return np.divide(wanted, found, out=np.ones_like(counts), where=(wanted > 0) & (found > 0)).astype(np.float32)


def resolve_class_weights(settings, targets, task):
    """Return numpy float32 (C,) as the settings (config.Loss) say, given or counted; None: no weights.

    Args:
        settings: config.Loss.
        targets: numpy (N, C), of all training rows.
        task: see compute_class_weights.

    Raises:
        UserError: loss.class_weights are not as many as the columns of targets.
    """
    given, needed = settings.class_weights, targets.shape[1]
    if given and len(given) != needed:
        what = "class" if task == "multiclass" else "column of answers"
        raise UserError(
            f"loss.class_weights=[{', '.join(f'{weight:g}' for weight in given)}]: {len(given)} given, {needed} "
            f"needed; give one for each {what}"
        )
    if given:
        return np.array(given, dtype=np.float32)
    return compute_class_weights(targets, task) if settings.balance else None
