"""The proposals' benchmark: its table by hand, and the words that are refused; its runs take twenty minutes."""

import math

import pytest

from benchmarks.find_lr import CASES, OWN, main, place_competition, report_text
from src.config.load import load_config


def test_a_proposal_is_met_within_two_thousandths_of_the_best():
    scores = {0.001: 0.95, 0.01: 0.98, 0.1: math.nan}
    rows = [
        {"case": "near", "now": 0.001, "proposal": 0.02, "scores": {**scores, 0.02: 0.979}},
        {"case": "far", "now": 0.01, "proposal": 0.001, "scores": scores},
        {"case": "exploded", "now": 0.01, "proposal": 0.1, "scores": scores},
        {"case": "better", "now": 0.01, "proposal": 0.02, "scores": {**scores, 0.02: 0.985}},
    ]
    lines = report_text(rows).splitlines()[1:]
    assert [line.split()[-2:] for line in lines] == [
        ["0.0010", "met"],
        ["0.0300", "MISSED"],
        ["0.9800", "MISSED"],
        ["0.0000", "met"],
    ]
    assert lines[0].split()[1:6] == ["1.0e-03", "2.0e-02", "0.9790", "1.0e-02", "0.9800"]


@pytest.mark.parametrize("name", CASES)
def test_the_settings_are_right(name, tmp_path, monkeypatch):
    for folder in ("pneumonia", "flowers"):
        (tmp_path / "competitions" / folder).mkdir(parents=True)
    monkeypatch.setenv("SHARED", str(tmp_path))
    config = load_config([*place_competition(CASES[name], tmp_path), *OWN.split()])
    assert config.competition.name in ("demo", "pneumonia", "flowers")
    assert config.fold == 0


def test_mistakes_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SHARED", str(tmp_path))
    for word, message in (
        ("cases=demo_adamw", "cases=demo_adamw: not one of demo_adam, demo_sgd, "),
        ("case=demo_sgd", "command line: unknown case=demo_sgd; did you mean cases?"),
        ("cases=xrays_finetune", f"{tmp_path}/competitions/pneumonia: no such folder; set the environment variable"),
    ):
        with pytest.raises(SystemExit):
            main([word, f"output={tmp_path}"])
        assert capsys.readouterr().err.startswith(f"error: {message}")
