"""Rows of each batch: every row once, so many batches, drawn by chance; copies are counted."""

from collections import Counter

import numpy as np
import pytest

from src.data.samplers import SAMPLERS, Ordered, Shuffled, derive_seed

balanced = SAMPLERS["balanced"]


def rows(sampler, epoch=0):
    sampler.epoch = epoch
    return [row for batch in sampler for _, row, _ in batch]


def test_an_epoch_of_all_rows_has_each_once():
    sampler = Shuffled(10, 4, seed=0)
    assert sorted(rows(sampler)) == list(range(10))
    assert rows(sampler, 0) != rows(sampler, 1)
    assert rows(sampler, 1) == rows(sampler, 1)


@pytest.mark.parametrize(("num_batches", "expected"), [(1, {0, 1}), (5, {2}), (6, {2, 3})])
def test_batches_per_epoch(num_batches, expected):
    sampler = Shuffled(10, 4, seed=0, num_batches=num_batches)
    assert len(sampler) == num_batches
    assert [len(batch) for batch in sampler] == [4] * num_batches
    assert sampler.num_images == 4 * num_batches
    counts = Counter(rows(sampler))
    assert {counts[row] for row in range(10)} == expected


def test_a_row_that_comes_again_is_another_copy():
    sampler = Shuffled(3, 4, seed=0, num_batches=2)
    keys = [key for batch in sampler for key in batch]
    assert len(set(keys)) == len(keys) == 8
    assert sorted({copy for _, _, copy in keys}) == [0, 1, 2]


@pytest.mark.parametrize("chances", [None, np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])])
def test_processes_share_the_batches_of_one(chances):
    one = Shuffled(10, 4, seed=3, num_batches=3, chances=chances)
    two = [Shuffled(10, 2, 3, rank, 2, num_batches=3, chances=chances) for rank in range(2)]
    assert [first + second for first, second in zip(*two, strict=True)] == list(one)


def test_rows_come_as_often_as_their_chances_say():
    sampler = Shuffled(3, 100, seed=0, num_batches=300, chances=np.array([1.0, 2.0, 5.0]))
    counts = Counter(rows(sampler))
    assert [counts[row] / 30000 for row in range(3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.01)


def test_balanced_classes_come_equally_often():
    targets = np.eye(3, dtype=np.float32)[[0] * 90 + [1] * 9 + [2]]
    chances = balanced(targets, "multiclass")
    np.testing.assert_allclose(chances @ targets, [1, 1, 1])
    binary = np.array([[1.0]] * 2 + [[0.0]] * 98, dtype=np.float32)
    chances = balanced(binary, "binary")
    np.testing.assert_allclose([chances[:2].sum(), chances[2:].sum()], [1, 1])


def test_balanced_columns_by_hand():
    targets = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    third = 1 / 3
    np.testing.assert_allclose(balanced(targets, "multilabel"), [1 + third, 2 * third, third + 1, 2 * third])
    assert np.isfinite(balanced(np.zeros((3, 2)), "multilabel")).all()  # a column without positives


def test_shuffle_draws_permutations():
    assert SAMPLERS["shuffle"](np.eye(3), "multiclass") is None


def test_both_resume_within_an_epoch():
    for sampler in (Ordered(11, 4), Shuffled(11, 4, seed=1)):
        sampler.epoch = 3
        whole = list(sampler)
        sampler.start = 2
        assert list(sampler) == whole[2:]
        assert {epoch for batch in whole for epoch, _, _ in batch} == {3}


def test_seeds_of_other_purposes_counts_and_orders_differ():
    words = [(), (0,), (42, 1), (1, 42), (42, 1, 0), (42, 1, 0, 0), (42, 1, 0, 0, 1)]
    seeds = {derive_seed(purpose, *numbers) for purpose in ("image", "epoch") for numbers in words}
    assert len(seeds) == 2 * len(words)
    assert derive_seed("image", 42, 1) == derive_seed("image", 42, 1)


@pytest.mark.parametrize(
    ("num_rows", "world_size", "at_least", "expected"),
    [(3, 1, 1, [2, 1]), (3, 1, 2, [3]), (5, 1, 2, [3, 2]), (1, 1, 2, [1]), (7, 2, 1, [4, 3]), (7, 2, 2, [7])],
)
def test_a_row_that_would_be_alone_comes_to_the_batch_before(num_rows, world_size, at_least, expected):
    each = [Shuffled(num_rows, 2, 0, rank, world_size, at_least=at_least) for rank in range(world_size)]
    assert [sum(map(len, batches)) for batches in zip(*each, strict=True)] == expected
    assert {one.smallest for one in each} == {min(expected) // world_size}
    assert sorted(row for one in each for row in rows(one)) == list(range(num_rows))


def test_rows_of_missing_targets_are_drawn_by_those_that_are_known():
    targets = np.array([[1, np.nan], [0, 1], [0, 0], [np.nan, 0]])
    # column 1: one positive, two negatives; column 2: one positive, two negatives
    assert SAMPLERS["balanced"](targets, "multilabel").tolist() == [1, 1.5, 1, 0.5]
