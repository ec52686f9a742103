"""Findings as text: worst first, 80 columns, and no letter that moves the terminal's cursor."""

import pytest

from src.errors import UserError
from tools.doctor.findings import (
    Fact,
    Finding,
    format_facts,
    format_findings,
    make_finding,
    name_rows,
    sort_findings,
    summarize,
)


def test_the_worst_comes_first_and_lines_fit_a_terminal():
    note = Finding("note", "n " * 60, "nothing")
    error = Finding("error", "two are wrong", "correct them", ("a", "b", "c", "d", "e"), 7)
    assert sort_findings([note, error]) == [error, note]
    lines = format_findings([note, error]).splitlines()
    assert lines[:3] == [
        "error    two are wrong",
        "           a, b, c, d ... (7 in all)",
        "         -> correct them",
    ]
    assert lines[3].startswith("note     n n")
    assert max(map(len, lines)) <= 80


def test_names_that_hold_commas_are_parted_by_semicolons():
    lines = format_findings([Finding("note", "unusual", "look", ("a: 1, 2", "b"), 2)]).splitlines()
    assert lines[1] == "           a: 1, 2; b"


def test_facts_fit_a_terminal_and_keep_their_columns():
    long = " ".join(["number=0.90"] * 10)
    fact = Fact("a heading " + "of words " * 10, ("train   12 images", "      sizes 8x8", f"    {long}"))
    lines = format_facts([fact, Fact("next", ())]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2:4] == ["  train   12 images", "        sizes 8x8"]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 4, 2, 8, 6, 10, 0, 0]
    assert " ".join(line.strip() for line in lines[4:6]) == long


def test_names_cannot_write_to_the_terminal():
    text = format_findings([Finding("note", "unusual", "look", ("a\x1b[2Jb\nc",), 1)])
    assert r"a\x1b[2Jb\nc" in text
    assert r"a\x1bb" in format_facts([Fact("kinds", ("a\x1bb",))])


def test_the_summary_counts():
    found = [Finding("error", "", ""), Finding("note", "", ""), Finding("note", "", "")]
    assert summarize(found, "x/doctor.html") == "doctor: 1 error, 0 warnings, 2 notes; x/doctor.html"


def test_at_most_a_hundred_names_are_kept():
    kept = name_rows([str(number) for number in range(500)], range(300))
    assert kept == {"names": tuple(str(number) for number in range(100)), "num_names": 300}


def test_severities_are_known():
    with pytest.raises(AssertionError):
        Finding("fatal", "", "")


def test_a_line_becomes_a_finding_with_what_to_do():
    line = "train.csv: no column 'a'; found b; rename it"
    assert make_finding(UserError(line)) == Finding("error", "train.csv: no column 'a'; found b", "rename it")
    assert make_finding("it is unusual", "note", "look") == Finding("note", "it is unusual", "look")


def test_severities_have_colours_in_a_terminal_alone(monkeypatch):
    found = [Finding("error", "two are wrong", "correct them")]
    plain = format_findings(found)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert format_findings(found) == plain.replace("error", "\x1b[31merror\x1b[0m")
