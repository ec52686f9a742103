"""Leak features: neighbours, path components and columns."""

import numpy as np

from tools.doctor.leak_features import find_neighbours, list_columns, list_leak_features, list_path_parts


def test_neighbours_are_beside_a_row_in_the_order_of_values():
    values = np.array([30.0, 10.0, 50.0, 20.0, 40.0])
    assert find_neighbours(values, 2).tolist() == [[3, 4], [-1, 3], [4, -1], [1, 0], [0, 2]]
    assert sorted(find_neighbours(values, 4)[0].tolist()) == [1, 2, 3, 4]


def test_a_row_of_the_same_group_is_no_neighbour():
    groups = np.array(["p", "p", "q", "q", "q"])
    assert find_neighbours(np.arange(5.0), 2, groups).tolist() == [[-1, -1], [-1, 2], [1, -1], [-1, -1], [-1, -1]]


def test_rows_of_one_time_are_neighbours_at_random():
    neighbours = find_neighbours(np.zeros(1000), 2)
    assert np.mean(np.abs(neighbours - np.arange(1000)[:, None]) == 1) < 0.02
    assert np.array_equal(neighbours, find_neighbours(np.zeros(1000), 2))


def test_parts_of_paths_are_runs_of_letters_or_digits_that_few_values_fill():
    numbers = np.random.default_rng(0).permutation(1000)[:100]
    paths = [f"train/{'AB'[row % 2]}/img_{number:04}v{row // 2 % 3}" for row, number in enumerate(numbers)]
    parts = list_path_parts(paths)
    assert list(parts) == ["part 2 of the path (A, B)", "part 6 of the path (0, 1, 2)"]
    assert parts["part 2 of the path (A, B)"].tolist() == ["A", "B"] * 50
    sites = np.array(["north", "south"] * 50)
    assert list(list_path_parts(paths, [sites])) == ["part 6 of the path (0, 1, 2)"]


def test_random_ids_have_no_part():
    rng = np.random.default_rng(0)
    for count in (60, 300, 3000):
        assert list_path_parts([f"train/{number:016x}" for number in rng.integers(0, 2**63, count)]) == {}
        assert list_path_parts([f"train/{number:06}" for number in rng.permutation(10**6)[:count]]) == {}


def test_columns_are_neither_targets_nor_names(clinic):
    columns = list_columns(clinic.load()[0])
    assert list(columns) == ["site", "age"]
    assert columns["age"].dtype == float


def test_folders_have_no_order(clinic):
    features = list_leak_features(
        clinic.load(
            "competition.train_table=null",
            "competition.targets=[]",
            "competition.train_image={label}/*",
            "competition.label=label",
            "competition.group=null",
        )[0]
    )
    assert {kind for kind, _ in features.values()} == {"file"}
