"""The benchmark of one and two processes: its sums, its refusals, and by night one real round."""

import json

import pytest

from benchmarks.processes import CASES, describe, main, read_speed


def test_the_first_epoch_does_not_count_and_efficiency_is_of_twice_one_process(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("epoch,images_per_second\n1,5\n2,100\n3,120\n4,110\n")
    assert read_speed(tmp_path / "log.csv") == 110
    rows = [{"case": "one process", "images_per_second": [90, 100, 110]}, {"case": "two", "images_per_second": [150]}]
    lines = describe(rows).splitlines()
    assert lines[1].split()[-3:] == ["100", "(90..110)", "1.00"]
    assert lines[2].split()[-2:] == ["1.50", "0.75"]
    with pytest.raises(SystemExit):
        main(["train.epochs=1"])
    assert capsys.readouterr().err.startswith("error: train.epochs=1: the first epoch does not count")


@pytest.mark.nightly
def test_every_case_runs(tmp_path):
    words = ["model.backbone=test_resnet", "image_size=16", "train.max_images=96", "train.epochs=2", "repeats=1"]
    main([*words, f"folder={tmp_path}", f"output={tmp_path}/report.json"])
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["case"] for row in rows] == list(CASES)
    assert all(row["images_per_second"][0] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.json"]  # the runs are gone
