"""Best epochs, ties and early stopping against hand-computed cases."""

from src.training.progress import Progress


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


def test_it_survives_as_plain_containers():
    progress = Progress()
    progress.add(0.5, 1.0, 2.0, lr=0.1)
    assert Progress(**vars(progress)) == progress
