"""The scaling benchmark: its images are real and found, its ids distinct, its sums right."""

import json

import pytest

from benchmarks.scaling import add_up, describe, main, make_competition, make_ids
from src.competition.tables import load_train_table
from src.config.settings import Competition
from src.data.decode import decode_image


def test_ids_are_distinct_unordered_and_spread():
    ids = make_ids(20_000)
    assert len(set(ids)) == 20_000
    assert {len(one) for one in ids} == {10}
    assert ids != sorted(ids)
    per_folder = [sum(one[:2] == f"{folder:02x}" for one in ids) for folder in (0, 7, 255)]
    assert all(60 < count < 100 for count in per_folder)  # 78 each


def test_images_are_real_and_found(tmp_path):
    competition = make_competition(tmp_path / "data", 50)
    table = load_train_table(competition)
    assert len(table) == 50
    assert table.groups is not None
    assert decode_image(table.paths[49], Competition()).shape == (32, 32, 3)


def test_the_peak_of_a_sum_is_on_top_of_what_is_kept():
    first = {"stage": "a", "seconds": 1.0, "cpu_seconds": 0.5, "kept_mb": 100.0, "peak_mb": 120.0}
    second = {"stage": "b", "seconds": 2.0, "cpu_seconds": 1.5, "kept_mb": 10.0, "peak_mb": 30.0}
    both = add_up("both", first, second)
    assert both == {"stage": "both", "seconds": 3.0, "cpu_seconds": 2.0, "kept_mb": 110.0, "peak_mb": 130.0}
    assert add_up("both", first, second | {"peak_mb": 10.0})["peak_mb"] == 120.0
    text = describe([{"rows": 1000, "stages": [both], "workers_mb": [13.2]}])
    assert "1,000  both      3.00" in text
    assert "worker 1" in text


@pytest.mark.nightly
def test_a_small_size_is_measured(tmp_path):
    main(["rows=300", f"folder={tmp_path}", f"output={tmp_path}/report.json"])
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    stages = {one["stage"]: one for one in row["stages"]}
    assert {"table: CSV read, images found", "both", "folds: stratified_group", "no image is empty"} <= set(stages)
    assert len(row["workers_mb"]) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "report.json"]  # the images are gone
