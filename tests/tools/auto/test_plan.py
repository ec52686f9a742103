"""Members and their seconds, against sums by hand."""

from dataclasses import replace

import pytest

from tools.auto.plan import (
    REFERENCE,
    Facts,
    Member,
    Speed,
    choose_members,
    count_epochs,
    describe_facts,
    estimate_error,
    estimate_features,
    estimate_fold,
    estimate_wall,
    image_size,
    list_sizes,
)

FACTS = Facts(
    num_rows=600, num_test=300, num_targets=1, task="binary", metric="roc_auc", is_ranking=True, num_groups=0,
    rarest=90, height=224, width=224,
)  # fmt: skip
FAST = Speed(0.01, 0.002, train_half=0.006, num_half=4)
SPEEDS = {"fast": FAST, "slow": Speed(0.04, 0.01, train_half=0.03, num_half=4)}
RANK = {"fast": 1.3, "slow": 1.0}


def test_a_fold_takes_its_training_validation_and_test_images_in_proportion_to_their_pixels():
    member = Member("fast", 2 * REFERENCE, num_folds=3, epochs=5, has_flip=True)
    train, predict = 400 * 5 * (0.01 + 0.0012), (200 * 5 + 2 * 300) * (0.002 + 0.0006)
    assert estimate_fold(member, FACTS, FAST) == pytest.approx(4 * (train + predict) + 3)
    half = 400 * 5 * (0.006 + 0.0012)
    assert estimate_fold(replace(member, is_half=True), FACTS, FAST) == pytest.approx(4 * (half + predict) + 3)
    more = 7 * 0.0012 * (400 * 5 + (200 * 5 + 2 * 300) / 2)  # the backbone was timed on all images of a row
    assert estimate_fold(member, replace(FACTS, num_images=8), FAST) == pytest.approx(4 * (train + predict + more) + 3)


def test_features_take_one_look_at_training_and_test_rows_each_way():
    assert estimate_features(FACTS, REFERENCE, SPEEDS["slow"], views=2) == pytest.approx(900 * (0.02 + 0.0012))


def test_folds_are_spread_over_the_lanes():
    member = Member("fast", REFERENCE, num_folds=3, epochs=5)
    fold = estimate_fold(member, FACTS, FAST)
    assert estimate_wall([member], FACTS, SPEEDS, num_lanes=2) == pytest.approx(2 * fold + 2)
    assert estimate_wall([member], FACTS, SPEEDS, num_lanes=3) == pytest.approx(fold + 2)
    assert estimate_wall([member, member], FACTS, SPEEDS, num_lanes=2) == pytest.approx(3 * fold + 2)


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [(128, 128, 96, [96, 96]), (128, 256, 128, [128, 256]), (100, 1000, 64, [64, 128]), (300, 200, 128, [192, 128])],
)
def test_a_size_has_the_files_shape_in_steps_of_32(height, width, side, expected):
    assert image_size(replace(FACTS, height=height, width=width), side) == expected


def test_small_images_are_enlarged_at_most_four_times():
    assert max(list_sizes(replace(FACTS, height=32, width=32))) == 128
    assert max(list_sizes(replace(FACTS, height=16, width=16))) == 96
    assert max(list_sizes(replace(FACTS, height=2000, width=3000))) == 384
    assert list_sizes(FACTS)[0] == 64


def test_few_rows_want_many_epochs():
    assert [count_epochs(num_rows) for num_rows in (10, 150, 600, 6000, 100_000)] == [24, 24, 12, 4, 3]
    assert count_epochs(6000, is_pretrained=False) == 15


@pytest.mark.parametrize("num_rows", [150, 600, 5000])
def test_more_time_promises_no_more_error_and_what_is_chosen_fits(num_rows):
    facts, before = replace(FACTS, num_rows=num_rows), float("inf")
    for seconds in (5, 20, 60, 180, 600, 3600):
        members, error = choose_members(facts, SPEEDS, RANK, seconds, num_lanes=2)
        assert error <= before
        assert not members or estimate_wall(members, facts, SPEEDS, 2) <= seconds
        before = error
    assert len(members) == 2  # of the hour
    assert min(one.size for one in members) >= 192


def test_folds_are_no_more_than_rows_of_the_rarest_class_and_groups():
    for facts in (replace(FACTS, rarest=3), replace(FACTS, num_groups=3), replace(FACTS, num_folds=3)):
        members, _ = choose_members(facts, SPEEDS, RANK, 3600, num_lanes=2)
        assert {one.num_folds for one in members} == {3}
    assert replace(FACTS, rarest=1).most_folds == 2


def test_random_weights_are_never_frozen_and_learn_for_three_epochs_at_least():
    facts = replace(FACTS, is_pretrained=False, num_rows=100_000, side=32)
    for seconds in (100, 500, 3000, 10_000):
        members, _ = choose_members(facts, SPEEDS, {}, seconds, num_lanes=2)
        assert not any(one.is_half for one in members)
        assert all(one.epochs >= 3 and one.size == 32 for one in members)
    assert members


def test_where_nothing_fits_nothing_is_chosen():
    assert choose_members(FACTS, SPEEDS, RANK, 5, num_lanes=2) == ([], float("inf"))


def test_networks_that_would_be_worse_than_linear_models_are_not_trained():
    members, _ = choose_members(FACTS, SPEEDS, RANK, 30, num_lanes=2)
    assert all(estimate_error([one], FACTS, RANK) <= 3 for one in members)


def test_mirrored_test_images_are_left_out_where_labels_forbid_them():
    for facts, flips in ((FACTS, False), (replace(FACTS, flips=False), True)):
        members, _ = choose_members(facts, SPEEDS, RANK, 3600, num_lanes=2, flips=flips)
        assert members
        assert not any(one.has_flip for one in members)


def test_what_is_there_already_gets_another_seed():
    members, _ = choose_members(FACTS, SPEEDS, RANK, 3600, num_lanes=2)
    again, _ = choose_members(FACTS, SPEEDS, RANK, 3600, num_lanes=2, done=members)
    assert again
    assert {one.seed for one in members} == {42}
    assert {one.seed for one in again} == {43}


def test_a_second_backbone_helps_and_a_worse_one_less():
    one, other = (Member(name, 224, 5, 12) for name in ("slow", "fast"))
    alone, both = estimate_error([one], FACTS, RANK), estimate_error([one, other], FACTS, RANK)
    assert both < alone
    assert both < estimate_error([one, other], FACTS, {"slow": 1.0, "fast": 2.0})
    equal = {"slow": 1.0, "fast": 1.0}
    assert estimate_error([one, other], FACTS, equal) < estimate_error([one, replace(one, seed=43)], FACTS, equal)


def test_facts_in_words():
    text = "600 training rows, 300 test rows, 1 targets (binary, rarest 90), images of 224x224, roc_auc"
    assert describe_facts(FACTS) == text
    assert describe_facts(replace(FACTS, num_groups=7)).startswith("600 training rows, 7 groups, 300 test rows")
