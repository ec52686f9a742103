"""Ensembles against hand-computed values."""

import numpy as np

from src.inference.ensemble import ENSEMBLES


def test_mean_and_rank_mean_by_hand():
    probs = np.array([[[0.1], [0.2], [0.9]], [[0.8], [0.6], [0.7]]])
    np.testing.assert_allclose(ENSEMBLES["mean"](probs), [[0.45], [0.4], [0.8]])
    np.testing.assert_allclose(ENSEMBLES["rank"](probs), [[(1 + 3) / 6], [(2 + 1) / 6], [(3 + 2) / 6]])


def test_ties_share_their_rank_and_all_stays_in_range():
    ranks = ENSEMBLES["rank"](np.array([[[0.5], [0.5], [0.9]]]))
    np.testing.assert_allclose(ranks, [[1.5 / 3], [1.5 / 3], [1.0]])
