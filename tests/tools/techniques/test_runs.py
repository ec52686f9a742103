"""A study trains its runs once, skips them the second time, and refuses runs of other settings."""

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from src.competition.demo import write_demo
from src.config.settings import REPOSITORY
from src.errors import UserError
from src.evaluation.intervals import paired_interval
from src.files import load_json
from tests.launch import run_here
from tests.tools.techniques.conftest import save_scores
from tools.techniques.runs import is_finished
from tools.techniques.study import BASE, read_words


def test_runs_of_other_settings_are_not_taken_for_this_study(tmp_path):
    study = read_words(["seeds=1", f"output={tmp_path}", "only=Adam", "num_folds=2"])
    save_scores(study, BASE, {1: [0.90, 0.92]})
    other = read_words(["seeds=1", f"output={tmp_path}", "only=Adam", "num_folds=2", "train.epochs=9"])
    assert is_finished(study.config_of(BASE, 1))
    with pytest.raises(UserError, match=r"train\.epochs=9 \(was 6\); choose another output=FOLDER"):
        is_finished(other.config_of(BASE, 1))


@pytest.mark.slow
def test_a_study_trains_and_the_second_time_skips(tmp_path):
    words = ["only=constant rate,head only", "seeds=5,6", "output=runs", "num_folds=2", "train.epochs=1"]
    words += ["train.max_images=32", "image_size=16", "write=techniques.md"]

    write_demo(tmp_path / "data/demo")
    train = tmp_path / "data/demo/train.csv"
    pd.read_csv(train, dtype=str)[:240].to_csv(train, index=False)  # most of all 1,437 would only validate
    written, complained = run_here("tools.techniques.__main__", *words, cwd=tmp_path)
    printed = re.findall(r"^(\d+/6) (.+?)(?: seed (\d))?: ", complained, re.MULTILINE)
    assert printed == [
        ("1/6", "base", "5"),
        ("2/6", "base", "6"),
        ("3/6", "constant rate", "5"),
        ("4/6", "constant rate", "6"),
        ("6/6", "head only", ""),
    ]
    assert "- head only: not on this competition: model.freeze=head_only: random weights" in written
    table = pd.read_csv(tmp_path / "runs" / "techniques.csv").set_index("technique")
    scores = {
        name: [
            score
            for seed in (5, 6)
            for score in load_json(tmp_path / "runs" / f"{name}_seed{seed}" / "scores.json")["folds"].values()
        ]
        for name in ("base", "constant_rate")
    }
    differences = np.subtract(scores["constant_rate"], scores["base"])
    assert len(differences) == 4
    row = table.loc["constant rate"]
    assert row["score"] == pytest.approx(np.mean(scores["constant_rate"]))
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(paired_interval(differences, 2))

    before = (tmp_path / "techniques.md").read_text()
    _, complained = run_here("tools.techniques.__main__", *words, cwd=tmp_path)
    assert "seed" not in complained
    assert (tmp_path / "techniques.md").read_text() == before


@pytest.mark.nightly
def test_a_study_of_self_training_takes_the_base_as_teacher(tmp_path):
    words = ["only=self-training", "seeds=5", "output=runs", "num_folds=2", "train.epochs=1", "train.max_images=32"]
    command = [sys.executable, "-m", "tools.techniques", *words, "image_size=16"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "runs" / "techniques.csv").set_index("technique")
    assert table["score"].notna().all()
    assert set(table.index) >= {"self-distillation", "pseudo-labels", "sharpened pseudo-labels"}
    assert "pseudo: runs/base_seed5" in (tmp_path / "runs/sharpened_pseudo_labels_seed5/config.yaml").read_text()
