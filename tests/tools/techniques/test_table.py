"""The table is what the runs' scores say, and only its part of a document is replaced."""

import json

import pytest

from src.evaluation.intervals import paired_interval
from src.files import save_text
from tests.tools.techniques.conftest import save_scores
from tools.techniques.study import BASE, find, read_words
from tools.techniques.table import compute_rows, format_table, save_tables


@pytest.mark.slow
def test_the_table_by_hand(tmp_path):
    study = read_words(["seeds=1,2", f"output={tmp_path}", "only=SiLU in the head,zero first weights", "num_folds=2"])
    save_scores(study, BASE, {1: [0.90, 0.92], 2: [0.91, 0.93]})
    save_scores(study, find("zero first weights"), {1: [0.95, 0.97], 2: [0.96, 0.98]})
    save_scores(study, find("hidden layer"), {1: [0.80, 0.81], 2: [0.82, 0.83]})
    save_scores(study, find("SiLU in the head"), {1: [0.81, 0.80], 2: [0.84, 0.82]})
    rows = compute_rows(study, {}).set_index("technique")
    zero, silu = rows.loc["zero first weights"], rows.loc["SiLU in the head"]
    assert zero["difference"] == pytest.approx(0.05)
    assert zero["is_beyond_chance"]
    assert silu["against"] == "hidden layer"
    assert silu["difference"] == pytest.approx((0.01 - 0.01 + 0.02 - 0.01) / 4)
    assert (silu["low"], silu["high"]) == pytest.approx(paired_interval([0.01, -0.01, 0.02, -0.01], 2)[1:])
    assert not silu["is_beyond_chance"]
    text = format_table(study, compute_rows(study, {}), {})
    assert "| .96500 | **+.05000 [+.05000, +.05000]** | 2.0 |" in text
    assert "`model.head_kwargs.activation=silu`, against hidden layer" in text


def test_only_the_part_between_the_marks_is_written(tmp_path):
    document = tmp_path / "techniques.md"
    study = read_words(["seeds=1", f"output={tmp_path}/runs", "only=Adam", "num_folds=2", f"write={document}"])
    save_scores(study, BASE, {1: [0.90, 0.92]})
    save_text(document, "before\n<!-- techniques:demo -->\nlast week\n<!-- /techniques:demo -->\nafter\n")
    save_tables(study, {"Adam": "already in the base"})
    text = document.read_text()
    assert text.startswith("before\n<!-- techniques:demo -->\n`python -m tools.techniques num_folds=2 seeds=1`")
    assert text.endswith("- Adam: already in the base.\n<!-- /techniques:demo -->\nafter\n")
    assert "last week" not in text
    assert str(tmp_path) not in text
    saved = json.loads((tmp_path / "runs" / "techniques.json").read_text())
    assert saved["left_out"] == {"Adam": "already in the base"}
    assert [(row["technique"], row["score"], row["seeds"]) for row in saved["rows"]] == [("base", 0.91, 1)]
