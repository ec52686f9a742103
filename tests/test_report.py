"""The report is started as a program, and whatever happens to it, the run that asked for it goes on."""

import subprocess
from dataclasses import replace

import pytest

import src.report
from src.config.load import load_config
from src.report import write_report


@pytest.fixture
def config():
    return load_config([])


def test_what_is_no_run_is_one_line_on_stderr(config, tmp_path, capsys):
    assert write_report(config, tmp_path) is None
    printed, complained = capsys.readouterr()
    assert printed == ""
    assert complained.splitlines() == [
        f"{tmp_path}/report.html: not written (error: {tmp_path}: not a run (no config.yaml); train one with python "
        f"train.py); python -m tools.report {tmp_path} tries again"
    ]


def test_a_report_that_takes_too_long_is_ended(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(src.report, "_SECONDS", 0.01)
    assert write_report(config, tmp_path) is None
    assert "not written (it took more than 0.01 s)" in capsys.readouterr().err


@pytest.mark.parametrize("is_wanted", [True, False])
def test_nothing_is_started_without_the_setting_or_the_tool(config, tmp_path, capsys, monkeypatch, is_wanted):
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **keywords: pytest.fail("a program was started"))
    if is_wanted:
        monkeypatch.setattr(src.report, "REPOSITORY", tmp_path)
    assert write_report(replace(config, report=is_wanted), tmp_path) is None
    assert capsys.readouterr() == ("", "")
