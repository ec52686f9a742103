"""The report is started as a program, and whatever happens to it, the run that asked for it goes on."""

import subprocess
from dataclasses import replace
from pathlib import Path

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
    assert "not written (0.01 s are not enough)" in capsys.readouterr().err


@pytest.fixture
def write_tool(tmp_path, monkeypatch):
    """Return what writes the code of another tools/report, which is started in place of the project's."""

    def write(code, folder=tmp_path / "project"):
        package = folder / "tools" / "report"
        package.mkdir(parents=True)
        for one in (package, package.parent):
            (one / "__init__.py").touch()
        (package / "__main__.py").write_text(code)
        monkeypatch.setattr(src.report, "REPOSITORY", tmp_path / "project")

    return write


def test_a_report_that_dies_with_bytes_that_are_no_text_ends_no_run(config, tmp_path, capsys, write_tool):
    write_tool(r"import os, sys; os.write(2, b'\xff\xfe no text'); sys.exit(1)")
    assert write_report(config, tmp_path / "a run") is None
    assert capsys.readouterr().err == (
        f"{tmp_path}/a run/report.html: not written (\ufffd\ufffd no text); "
        f"python -m tools.report '{tmp_path}/a run' tries again\n"
    )


def test_a_folder_tools_of_the_working_directory_is_not_taken(config, tmp_path, write_tool, monkeypatch):
    write_tool("raise SystemExit('another')", tmp_path / "here")
    write_tool("import sys; open(sys.argv[1], 'w').write('ours')")
    monkeypatch.chdir(tmp_path / "here")
    assert write_report(config, "run", "page.html") == Path("page.html")
    assert Path("run").read_text() == "ours"


@pytest.mark.parametrize("is_wanted", [True, False])
def test_nothing_is_started_without_the_setting_or_the_tool(config, tmp_path, capsys, monkeypatch, is_wanted):
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **keywords: pytest.fail("a program was started"))
    if is_wanted:
        monkeypatch.setattr(src.report, "REPOSITORY", tmp_path)
    assert write_report(replace(config, report=is_wanted), tmp_path) is None
    assert capsys.readouterr() == ("", "")
