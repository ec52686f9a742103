"""The stages of the first step add up, and a real one is timed."""

import json

import pytest

from benchmarks.startup import compute_stages, describe, main


def test_stages_add_up_to_the_first_step():
    moments = {"python": 0.1, "importing": 0.3, "imported": 4.3, "first step": 7.0}
    stages = compute_stages(moments | {"wandb started": 1.0, "demo written": 0.5, "precision timed": 0.25})
    assert stages["imports"] == pytest.approx(4.0)
    assert stages["own code"] == pytest.approx(7.0 - 0.1 - 4.0 - 1.75)
    assert stages["first step"] == 7.0


def test_targets_are_met_or_missed():
    lines = describe(
        [
            {"what": "train.py --help", "kind": "message", "seconds": [0.1, 0.2, 0.9]},
            {"what": "own code", "kind": "training", "seconds": [1.1]},
            {"what": "imports", "kind": "training", "seconds": [4.0]},
            {"what": "first step", "kind": "training", "seconds": [7.9]},
        ]
    ).splitlines()
    assert lines[1].endswith("0.20 (0.10..0.90)     0.5 met")
    assert lines[2].endswith("1.0 MISSED")
    assert lines[3].endswith("(4.00..4.00)")
    assert lines[4].endswith("8.0 met")


@pytest.mark.nightly
def test_a_real_start_is_timed(tmp_path):
    main(["repeats=1", "tracking=none", f"output={tmp_path}/report.json"])
    rows = {row["what"]: row["seconds"] for row in json.loads((tmp_path / "report.json").read_text())["rows"]}
    assert all(len(seconds) == 1 and seconds[0] >= 0 for seconds in rows.values())
    assert rows["first step"][0] > rows["imports"][0] > rows["train.py --help"][0]
