"""train.py and infer.py leave report.html, whose last words before the next command say where it is."""

import json

import pytest

from tests.launch import TINY, run_here


@pytest.mark.slow
def test_a_run_has_its_report_and_infer_adds_the_test_predictions(tiny_run):
    folder, _ = tiny_run
    words = [*TINY, "report=true", "name=reported", "num_folds=2"]
    printed, complained = run_here("train.py", *words, cwd=folder)
    assert printed.splitlines()[-2:] == ["outputs/reported/report.html", "next: python infer.py run=outputs/reported"]
    assert complained == ""
    path = folder / "outputs/reported/report.html"
    scores = json.loads((folder / "outputs/reported/scores.json").read_text())
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["score"] == scores["pooled"]
    assert f"{scores['pooled']:.5f}" in path.read_text()
    assert facts["command"] == "python infer.py run=outputs/reported"
    printed, complained = run_here("infer.py", "run=outputs/reported", cwd=folder)
    assert "outputs/reported/report.html" in printed.splitlines()
    assert json.loads(path.with_suffix(".json").read_text())["command"] != facts["command"]
    before = path.read_bytes()
    run_here("infer.py", "run=outputs/reported", "report=false", cwd=folder)
    assert path.read_bytes() == before
