"""Rows of each batch: every row once, so many batches, drawn by weight; copies are told apart."""

from collections import Counter

import numpy as np
import pytest

from src.data.samplers import Shuffled, balanced_weights


def rows(order, epoch=0):
    order.epoch = epoch
    return [row for batch in order for _, row, _ in batch]


def test_an_epoch_of_all_rows_has_each_once():
    order = Shuffled(10, 4, seed=0)
    assert sorted(rows(order)) == list(range(10))
    assert rows(order, 0) != rows(order, 1)
    assert rows(order, 1) == rows(order, 1)


@pytest.mark.parametrize(("num_batches", "expected"), [(1, {0, 1}), (5, {2}), (6, {2, 3})])
def test_batches_per_epoch(num_batches, expected):
    order = Shuffled(10, 4, seed=0, num_batches=num_batches)
    assert len(order) == num_batches
    assert [len(batch) for batch in order] == [4] * num_batches
    assert order.num_images == 4 * num_batches
    counts = Counter(rows(order))
    assert {counts[row] for row in range(10)} == expected


def test_a_row_that_comes_again_is_another_copy():
    order = Shuffled(3, 4, seed=0, num_batches=2)
    keys = [key for batch in order for key in batch]
    assert len(set(keys)) == len(keys) == 8
    assert sorted({copy for _, _, copy in keys}) == [0, 1, 2]


@pytest.mark.parametrize("weights", [None, np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])])
def test_processes_share_the_batches_of_one(weights):
    one = Shuffled(10, 4, seed=3, num_batches=3, weights=weights)
    two = [Shuffled(10, 2, 3, rank, 2, num_batches=3, weights=weights) for rank in range(2)]
    assert [first + second for first, second in zip(*two, strict=True)] == list(one)


def test_rows_come_as_often_as_their_weights_say():
    order = Shuffled(3, 100, seed=0, num_batches=300, weights=np.array([1.0, 2.0, 5.0]))
    counts = Counter(rows(order))
    assert [counts[row] / 30000 for row in range(3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.01)


def test_balanced_classes_come_equally_often():
    targets = np.eye(3, dtype=np.float32)[[0] * 90 + [1] * 9 + [2]]
    weights = balanced_weights(targets, "multiclass")
    np.testing.assert_allclose(weights @ targets, [1, 1, 1])
    binary = np.array([[1.0]] * 2 + [[0.0]] * 98, dtype=np.float32)
    weights = balanced_weights(binary, "binary")
    np.testing.assert_allclose([weights[:2].sum(), weights[2:].sum()], [1, 1])


def test_balanced_columns_by_hand():
    targets = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    third = 1 / 3
    np.testing.assert_allclose(balanced_weights(targets, "multilabel"), [1 + third, 2 * third, third + 1, 2 * third])
    assert np.isfinite(balanced_weights(np.zeros((3, 2)), "multilabel")).all()  # a column without positives
