"""infer.py's memory and speed as its rows grow: measured on a real run, and flat."""

import json

import pytest

from benchmarks.inference_scaling import describe, main, make_competition
from src.competition.tables import load_test_table
from src.config.load import load_config


def test_images_and_the_sample_are_found(tmp_path):
    path = make_competition(tmp_path / "data", 30, 3)
    competition = load_config([f"competition={path}"]).competition
    table = load_test_table(competition, ("c0", "c1", "c2"))
    assert len(table) == 30
    lines = (tmp_path / "data/sample.csv").read_text().splitlines()
    assert lines[:2] == ["id,c0,c1,c2", f"{table.ids[0]},0.5,0.5,0.5"]
    row = {"rows": 30_000, "seconds": 10.0, "peak_mb": 900.4, "main_mb": 900.0, "submission_mb": 1.2}
    assert "30,000  10.0     3000    900" in describe([row])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("words", "most_mb"), [([], 150), (["infer.average=rank"], 150), (["classes=200", "folds=2"], 450)], ids=str
)
def test_memory_is_flat(tmp_path, words, most_mb):
    """100,000 rows beside 1,000; the predictions of 200 classes and two folds alone are 160 MB, their mean as much."""
    main(["rows=1000,100000", f"folder={tmp_path}", f"output={tmp_path}/report.json", *words])
    few, many = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert many["peak_mb"] < few["peak_mb"] + most_mb
