"""The hardest rows of a run, from its files alone: losses by hand, order, missing targets, each task."""

import json
import subprocess
import sys
from math import log

import numpy as np
import pandas as pd
import pytest

from src.analysis.errors import compute_losses, find_errors
from src.checkpointing.run_folder import RunFolder
from src.config.load import config_yaml, load_config
from src.config.settings import REPOSITORY
from src.errors import UserError
from src.evaluation.metrics import log_loss


@pytest.fixture
def make_files(tmp_path):
    """Write what find_errors reads; targets and probs are {name: column}, words the settings."""

    def write(task, targets, probs, scores=None, words=()):
        config = load_config([f"output_dir={tmp_path}", "name=run", f"competition.task={task}", *words])
        folder = RunFolder(config.run_folder)
        folder.path.mkdir()
        folder.config.write_text(config_yaml(config))
        rows = pd.DataFrame({"id": [f"00{row}" for row in range(len(next(iter(probs.values()))))], "fold": 0})
        rows.to_csv(folder.folds, index=False)
        rows = rows.assign(**{f"target_{name}": column for name, column in targets.items()}, **probs)
        rows.to_csv(folder.oof, index=False)
        if scores:
            folder.scores.write_text(json.dumps(scores))
        return folder.path

    return write


def test_binary_rows_by_loss_and_by_confidence(make_files):
    words = ["competition.label=kind", "competition.classes=[cat,dog]"]
    run = make_files("binary", {"dog": [1, 0, 1, 0]}, {"dog": [0.1, 0.3, 0.8, 0.95]}, words=words)
    found = find_errors(run, 3)
    assert found["id"].tolist() == ["003", "000", "001"]
    assert found["loss"].to_numpy() == pytest.approx([-log(0.05), -log(0.1), -log(0.7)])
    assert found["label"].tolist() == ["cat", "dog", "cat"]
    assert found["predicted"].tolist() == ["dog", "cat", "cat"]
    assert found["confidence"].tolist()[:2] == pytest.approx([0.95, 0.9])
    assert np.isnan(found["confidence"][2])
    assert (found["column"].tolist(), found["sign"].tolist()) == ([0, 0, 0], [1, -1, -1])
    assert found["target_dog"].tolist() == [0, 1, 0]
    assert found["prob_dog"].tolist() == [0.95, 0.1, 0.3]
    assert find_errors(run, by="confidence")["id"].tolist() == ["003", "000"]


def test_the_surest_mistake_need_not_be_the_highest_loss(make_files):
    probs = {"a": [0.01, 0.30, 0.1], "b": [0.50, 0.65, 0.1], "c": [0.49, 0.05, 0.8]}
    run = make_files("multiclass", {"a": [1, 1, 0], "b": [0, 0, 0], "c": [0, 0, 1]}, probs)
    assert find_errors(run)["id"].tolist() == ["000", "001", "002"]
    sure = find_errors(run, by="confidence")
    assert sure["id"].tolist() == ["001", "000"]
    assert sure["confidence"].tolist() == [0.65, 0.5]
    assert (sure["column"].tolist(), sure["sign"].tolist()) == ([1, 1], [1, 1])
    assert (sure["label"].tolist(), sure["predicted"].tolist()) == (["a", "a"], ["b", "b"])


def test_of_several_labels_those_that_are_known_count(make_files):
    targets = {"a": [1, "", "", 0], "b": [0, 1, "", 0]}
    run = make_files("multilabel", targets, {"a": [0.9, 0.5, 0.1, 0.6], "b": [0.8, 0.9, 0.1, 0.7]})
    found = find_errors(run).set_index("id")
    assert found.index.tolist() == ["003", "000", "001"]
    assert found["loss"]["000"] == pytest.approx(-(log(0.9) + log(0.2)) / 2)
    assert found["loss"]["001"] == pytest.approx(-log(0.9))
    assert found["predicted"]["000"] == "a, b"
    assert found[["column", "sign"]].to_numpy().tolist() == [[1, 1], [1, 1], [1, 1]]
    assert find_errors(run, by="confidence")["confidence"].tolist() == [0.8, 0.7]


def test_labels_are_decided_by_the_thresholds_that_were_found(make_files):
    scores = {"thresholds": {"a": 0.2, "b": 0.5}, "may_be_none": True}
    run = make_files("multilabel", {"a": [0, 1], "b": [0, 1]}, {"a": [0.3, 0.3], "b": [0.1, 0.9]}, scores)
    found = find_errors(run, by="confidence")
    assert (found["id"].tolist(), found["predicted"].tolist()) == (["000"], ["a"])


def test_regression_is_in_units_of_the_targets_deviation(make_files):
    run = make_files("regression", {"w": [0, 10, 20, ""], "age": [1, 1, "", ""]}, {"w": [1, 10, 40, 0], "age": [1] * 4})
    found = find_errors(run)
    assert found["id"].tolist() == ["002", "000", "001"]
    variance = np.var([0, 10, 20])
    assert found["loss"].tolist() == pytest.approx([400 / variance, 1 / variance / 2, 0])
    assert found["predicted"][0] == "w=40, age=1"
    assert found[["column", "sign"]].to_numpy().tolist() == [[0, 1], [0, 1], [0, -1]]
    assert len(find_errors(run, by="confidence")) == 0


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_the_mean_loss_is_the_metrics(task):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), 50)
    targets = np.eye(4)[rng.integers(0, 4, 50)]
    if task == "binary":
        targets, probs = targets[:, :1], probs[:, :1]
    assert compute_losses(targets, probs, task).mean() == pytest.approx(log_loss(targets, probs, task))


def test_other_words_and_other_folders_are_refused(make_files, tmp_path):
    run = make_files("binary", {"a": [1]}, {"a": [0.5]})
    with pytest.raises(UserError, match="by=size: not an order of errors; write by='loss' or by='confidence'"):
        find_errors(run, by="size")
    with pytest.raises(UserError, match="not a run"):
        find_errors(tmp_path / "none")


@pytest.mark.slow
def test_no_torch_is_imported():
    code = "import sys, src.analysis.errors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
