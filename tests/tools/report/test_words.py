"""The words of a page: what a metric says of itself, and those of the sections that are there."""

from functools import partial
from types import SimpleNamespace

import pytest

from src.evaluation.metrics import Metric, roc_auc
from tools.report.elements import Section
from tools.report.words import list_words


def documented(targets, probs):
    """share of rows
    that are right.

    More."""


@pytest.mark.parametrize(
    ("function", "meaning"),
    [
        (documented, ["Share of rows that are right"]),
        (lambda targets, probs: 0.0, []),
        (partial(documented, 1), []),
    ],
)
def test_a_metric_is_explained_by_its_own_sentence(function, meaning):
    run = SimpleNamespace(metric=Metric(function, name="own"), scores={})
    assert list_words(run, []) == [("own", one) for one in meaning]


def test_only_words_of_what_is_shown_are_explained():
    run = SimpleNamespace(metric=Metric(roc_auc, name="roc_auc"), scores={"interval": [0.5, 0.9], "leaderboard": None})
    assert [word for word, _ in list_words(run, [Section("errors", "Errors")])] == ["roc_auc", "95 %", "confidence"]
