"""Best epochs, ties and early stopping against hand-computed cases."""

import pytest

from src.checkpointing.progress import Progress


def test_a_tie_in_score_is_decided_by_the_loss():
    progress = Progress()
    bests = [
        progress.add(score, loss, 1.0) for score, loss in [(0.9, 0.5), (0.9, 0.4), (0.9, 0.4), (0.8, 0.1), (0.95, 0.9)]
    ]
    assert bests == [True, True, False, False, True]
    assert (progress.best_epoch, progress.best_score, progress.best_loss, progress.seconds) == (5, 0.95, 0.9, 5.0)


def test_early_stopping_at_the_hand_computed_epoch():
    progress, scores = Progress(), [0.5, 0.7, 0.6, 0.7, 0.65, 0.9]
    for score in scores:
        if progress.is_over(epochs=6, patience=3):
            break
        progress.add(score, 1.0, 1.0)
    assert progress.epoch == 5  # best at epoch 2; epochs 3, 4 and 5 were no better
    assert not progress.is_over(epochs=6, patience=None)
    assert progress.is_over(epochs=5, patience=None)


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
def test_early_stopping_counts_what_is_named(min_delta, on, last):
    epochs = [(0.5, 1.0), (0.7, 0.8), (0.6, 0.5), (0.7, 0.6), (0.65, 0.9), (0.6, 0.9), (0.9, 0.1)]
    progress = Progress()
    for score, loss in epochs:
        if progress.is_over(7, 3, min_delta, on):
            break
        progress.add(score, loss, 1.0)
    assert progress.epoch == last


def test_the_best_epochs_in_order():
    progress = Progress()
    for score, loss in [(0.5, 1.0), (0.7, 0.8), (0.9, 0.5), (0.7, 0.6), (0.6, 0.9)]:
        progress.add(score, loss, 1.0)
    assert progress.best_epochs(3) == [3, 4, 2]
    assert progress.best_epochs(9) == [3, 4, 2, 5, 1]


def test_it_survives_as_plain_containers():
    progress = Progress()
    progress.add(0.5, 1.0, 2.0, lr=0.1)
    assert Progress(**vars(progress)) == progress
