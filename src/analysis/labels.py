"""Targets and probabilities of a row in words, for captions of images."""

import textwrap

import numpy as np


def list_class_names(competition, target_names):
    """Return what captions call the targets: their names, or of a binary label its two classes where they are known.

    competition: config.settings.Competition.
    """
    is_binary = len(target_names) == 1 and competition.task == "binary" and len(competition.classes) == 2
    return list(competition.classes if is_binary else target_names)


def describe_targets(values, names, task):
    """Return a row's targets or probabilities, (C,), as a caption: those that are not 0, the largest first.

    names: as `list_class_names` returns them; a binary column without classes is "dog=1", regression "weight=3.2".
    Values that are not known (nan) are left out.
    """
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).all():
        return "not known"
    if task == "regression":
        return ", ".join(f"{name}={one:.4g}" for name, one in zip(names, values, strict=True) if one == one)
    if len(names) == 1:
        return f"{names[0]}={values[0]:.2g}"
    values = values.tolist() if len(values) > 1 else [1 - values[0], values[0]]
    positive = sorted((-value, name) for value, name in zip(values, names, strict=True) if value >= 0.005)
    return ", ".join(name if value <= -0.995 else f"{name} {-value:.2f}" for value, name in positive) or "none"


def fit_caption(caption, num_letters):
    """Return at most two lines, each cut in its middle where it is too long: names differ at their ends."""
    lines, half = caption.split("\n"), num_letters // 2
    if len(lines) == 1 and len(lines := textwrap.wrap(caption, num_letters)) > 2:
        lines[1] += " …"  # more follows
    return "\n".join(line if len(line) <= num_letters else f"{line[: half - 1]}…{line[-half:]}" for line in lines[:2])
