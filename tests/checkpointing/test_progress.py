"""Best epochs, ties and early stopping against hand-computed cases, for both directions of a metric; random numbers."""

import math

import pytest
import torch

from src.checkpointing.progress import Progress, is_better, read_rng_state, write_rng_state
from src.evaluation.metrics import build_metric

AUC, LOG_LOSS = build_metric("roc_auc", "binary"), build_metric("log_loss", "binary")
CPU = torch.device("cpu")
SCORES_AND_LOSSES = [(0.5, 1.0), (0.7, 0.8), (0.9, 0.5), (0.7, 0.6), (0.6, 0.9)]


def add_all(epochs, metric, sign=1):
    """A Progress of epochs (score, loss), whose scores count `sign` times, and which of them were the best so far."""
    progress = Progress()
    return progress, [progress.add((sign * score, loss), 1.0, metric) for score, loss in epochs]


@pytest.mark.parametrize(("metric", "sign"), [(AUC, 1), (LOG_LOSS, -1)], ids=["greater", "lower"])
def test_a_tie_in_score_is_decided_by_the_loss(metric, sign):
    epochs = [(0.9, 0.5), (0.9, 0.4), (0.9, 0.4), (0.8, 0.1), (0.95, 0.9)]
    progress, bests = add_all(epochs, metric, sign)
    assert bests == [True, True, False, False, True]
    best = (progress.best_epoch, progress.best_score, progress.best_loss, progress.seconds)
    assert best == (5, sign * 0.95, 0.9, 5.0)


def test_the_lowest_score_is_the_best_where_lower_is_better():
    progress, bests = add_all([(0.5, 1.0), (0.7, 0.8), (0.4, 2.0)], LOG_LOSS)
    assert bests == [True, False, True]
    assert (progress.best_epoch, progress.best_score) == (3, 0.4)
    assert is_better((0.3, 1.0), (0.4, 0.1), LOG_LOSS)
    assert not is_better((0.3, 1.0), (0.4, 0.1), AUC)
    assert not is_better((math.nan, 0.1), (0.4, 1.0), LOG_LOSS)


@pytest.mark.parametrize(("metric", "sign"), [(AUC, 1), (LOG_LOSS, -1)], ids=["greater", "lower"])
@pytest.mark.parametrize(
    ("min_delta", "on", "last"),
    [
        (0.0, "score", 5),  # the best, .70, comes in epoch 2, an equal one in epoch 4: epochs 3, 4, 5 are no better
        (0.15, "score", 5),  # .70 is .2 above the first
        (0.25, "score", 4),  # nothing is so much better than the first
        (0.0, "loss", 6),  # the lowest, .5, comes in epoch 3
        (0.3, "loss", 6),  # .8 is .2 below the first and does not count, .5 in epoch 3 does
    ],
)
def test_early_stopping_counts_what_is_named(min_delta, on, last, metric, sign):
    progress = Progress()
    for score, loss in [(0.5, 1.0), (0.7, 0.8), (0.6, 0.5), (0.7, 0.6), (0.65, 0.9), (0.6, 0.9), (0.9, 0.1)]:
        if progress.stops_early(3, metric, min_delta, on):
            break
        progress.add((sign * score, loss), 1.0, metric)
    assert progress.epoch == last


def test_without_patience_nothing_stops_early():
    progress, _ = add_all([(0.5, 1.0)] * 9, AUC)
    assert not progress.stops_early(None, AUC)
    assert progress.stops_early(8, AUC)
    assert not progress.stops_early(9, AUC)
    assert not Progress().stops_early(1, AUC)


@pytest.mark.parametrize(("metric", "sign"), [(AUC, 1), (LOG_LOSS, -1)], ids=["greater", "lower"])
def test_the_best_epochs_in_order(metric, sign):
    progress, _ = add_all(SCORES_AND_LOSSES, metric, sign)
    assert progress.best_epochs(3, metric) == [3, 4, 2]
    assert progress.best_epochs(9, metric) == [3, 4, 2, 5, 1]


def test_it_survives_as_plain_containers():
    progress = Progress()
    progress.add((0.5, 1.0), 2.0, AUC, lr=0.1)
    assert Progress(**vars(progress)) == progress
    assert progress.log == [{"epoch": 1, "lr": 0.1, "val_loss": 1.0, "val_score": 0.5, "seconds": 2.0}]


def test_random_numbers_resume_where_they_were():
    generator = torch.Generator().manual_seed(1)
    state = read_rng_state(CPU, generator)
    expected = torch.rand(3), torch.rand(3, generator=generator)
    torch.manual_seed(5)
    other = torch.Generator()
    write_rng_state(state, CPU, other)
    assert torch.equal(torch.rand(3), expected[0])
    assert torch.equal(torch.rand(3, generator=other), expected[1])
