"""Predictions that the figures and their bands are tried on."""

import numpy as np
import pytest


@pytest.fixture
def predictions():
    """(targets (300, 6) with missing ones in a column, probs of two decimals, so that some are equal)."""
    rng = np.random.default_rng(0)
    targets = (rng.random((300, 6)) < 0.3).astype(float)
    targets[::5, 1] = np.nan
    return targets, np.round(1 / (1 + np.exp(-2 * np.nan_to_num(targets) + rng.normal(size=targets.shape))), 2)
