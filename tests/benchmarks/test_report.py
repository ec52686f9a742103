"""Reports hold the conditions of their numbers; words are read or refused in one line."""

import json

import pytest

from benchmarks import inference, scaling, startup
from benchmarks.report import describe_machine, read_words, save_report, spread, summarize, table_text
from src.errors import UserError

DEFAULTS = {"repeats": "5", "rows": "1000", "output": "x.json"}


def test_numbers_are_summarized_by_median_and_spread():
    assert spread([3, 1, 2, 10]) == {"median": 2.5, "min": 1, "max": 10}
    assert summarize([1.234, 1.2, 1.3]) == "1.23 (1.20..1.30)"
    assert summarize([0.98765], 3) == "0.988 (0.988..0.988)"
    assert table_text([("a", "b"), ("long", 1), ("x", "")]) == "a     b\nlong  1\nx"


def test_a_report_holds_numbers_command_and_machine(tmp_path):
    save_report(tmp_path / "new" / "report.json", [{"seconds": [1.5]}], ["python", "-m", "x", "a b=1"], target=2)
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["rows"] == [{"seconds": [1.5]}]
    assert report["command"] == "python -m x 'a b=1'"
    assert report["target"] == 2
    assert report["made_by"].keys() == describe_machine().keys()
    assert report["made_by"]["versions"]["numpy"]
    assert report["made_by"]["cores"] >= 1


def test_words_replace_defaults():
    words = ["repeats=3", "rows=0,7", "output=a=b.json"]
    found = read_words(words, DEFAULTS, "benchmarks.x", whole_numbers=["repeats"], lists=["rows"])
    assert found == {"repeats": 3, "rows": [0, 7], "output": "a=b.json"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("fast", "command line: 'fast' is not key=value; see python -m benchmarks.x --help"),
        ("repeat=1", "command line: unknown repeat=1; did you mean repeats?"),
        ("zzz=1", "command line: unknown zzz=1; the keys are repeats, rows, output"),
        ("repeats=0", "repeats=0: not a whole number from 1; write for example repeats=5"),
        ("rows=1,x", "rows=1,x: not whole numbers from 0, with commas; write for example rows=1000"),
    ],
)
def test_wrong_words_are_refused(word, expected):
    with pytest.raises(UserError) as caught:
        read_words([word], DEFAULTS, "benchmarks.x", whole_numbers=["repeats"], lists=["rows"])
    assert str(caught.value) == expected


@pytest.mark.parametrize("benchmark", [inference, scaling, startup])
def test_benchmarks_explain_themselves_and_refuse_in_one_line(benchmark, capsys):
    benchmark.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{key}=" in text for key in benchmark.DEFAULTS)
    with pytest.raises(SystemExit):
        benchmark.main(["outptu=x"])
    assert capsys.readouterr().err == "error: command line: unknown outptu=x; did you mean output?\n"
