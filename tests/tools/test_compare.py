"""Runs are compared by the predictions that they left: on the same rows, by group, with a sentence that is true."""

import json

import numpy as np
import pandas as pd
import pytest

from src.config.load import config_yaml, load_config
from tools.compare import main


@pytest.fixture
def runs(tmp_path):
    """write(name, probs (N, C), targets, groups=None, words=()): a run's folder with what train.py leaves."""

    def write(name, probs, targets, groups=None, words=(), rows=None):
        folder = tmp_path / name
        folder.mkdir()
        config = load_config([f"name={name}", "competition.task=binary", *words])
        (folder / "config.yaml").write_text(config_yaml(config))
        ids, folds = [f"{row:05d}" for row in range(len(targets))], np.arange(len(targets)) % 5
        names = [f"c{k}" for k in range(targets.shape[1])]
        table = pd.DataFrame({"id": ids, "fold": folds})
        known = pd.DataFrame(targets, columns=[f"target_{one}" for one in names])
        oof = pd.concat([table, known, pd.DataFrame(probs, columns=names)], axis=1)
        (oof if rows is None else oof.iloc[rows]).to_csv(folder / "oof.csv", index=False)
        if groups is not None:
            table["group"] = groups
        table.to_csv(folder / "folds.csv", index=False)
        return str(folder)

    return write


def draw(num_rows, gains, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, 1)) < 0.4).astype(float)
    shared = rng.normal(size=targets.shape)
    return targets, [1 / (1 + np.exp(-(gain * targets + shared + rng.normal(size=targets.shape)))) for gain in gains]


def compare(tmp_path, *folders):
    main([*folders, f"output={tmp_path}/found.json"])
    return json.loads((tmp_path / "found.json").read_text())


def test_a_run_against_itself(runs, tmp_path, capsys):
    targets, (probs,) = draw(200, [1])
    one = runs("one", probs, targets)
    found = compare(tmp_path, one, one)
    assert (found["difference"], found["interval"], found["correlation"]) == (0, [0, 0], 1)
    assert "no evidence that" in capsys.readouterr().out


def test_the_better_run_is_named_with_its_difference(runs, tmp_path, capsys):
    targets, (weak, strong) = draw(1000, [0.5, 2])
    found = compare(tmp_path, runs("weak", weak, targets), runs("strong", strong, targets, words=["optimizer.lr=0.1"]))
    assert found["score_b"] - found["score_a"] == pytest.approx(found["difference"])
    assert found["interval"][0] > 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/strong is better: {found['difference']:+.5f}" in printed.replace("\n", " ")
    assert "settings: optimizer.lr=0.1 (was 0.004)" in printed
    reverse = compare(tmp_path, str(tmp_path / "strong"), str(tmp_path / "weak"))
    assert reverse["interval"][1] < 0
    assert reverse["pairs"][0]["sentence"] == found["pairs"][0]["sentence"]


def test_a_score_that_a_teacher_has_helped_is_called_optimistic(runs, tmp_path):
    targets, (weak, strong) = draw(300, [0.5, 2])
    first = runs("first", weak, targets)
    taught = runs("taught", strong, targets, words=["train.teacher=outputs/first"])
    line = f"; the score of {taught} is optimistic: its train.teacher has seen these labels"
    assert compare(tmp_path, first, taught)["pairs"][0]["sentence"].endswith(line)
    assert "optimistic" not in compare(tmp_path, first, first)["pairs"][0]["sentence"]


def test_of_a_loss_less_is_better(runs, tmp_path, capsys):
    targets, (weak, strong) = draw(1000, [0.5, 2])
    words = ["competition.metric=log_loss"]
    found = compare(tmp_path, runs("weak", weak, targets, words=words), runs("strong", strong, targets, words=words))
    assert found["method"] == "bootstrap"
    assert found["difference"] < 0
    assert "strong is better" in capsys.readouterr().out.replace("\n", " ")


def test_copies_of_a_patients_rows_narrow_nothing(runs, tmp_path):
    targets, probs = draw(200, [1, 1.3])
    once = [runs(f"once{k}", one, targets, groups=np.arange(200)) for k, one in enumerate(probs)]
    twice = [
        runs(f"twice{k}", np.repeat(one, 2, axis=0), np.repeat(targets, 2, axis=0), groups=np.repeat(np.arange(200), 2))
        for k, one in enumerate(probs)
    ]
    assert compare(tmp_path, *twice)["interval"] == pytest.approx(compare(tmp_path, *once)["interval"])


def test_rows_that_one_run_lacks_are_left_out(runs, tmp_path, capsys):
    targets, (one, other) = draw(100, [1, 1])
    found = compare(tmp_path, runs("one", one, targets), runs("other", other, targets, rows=np.arange(79, -1, -1)))
    assert (found["rows"], found["rows_left_out"]) == (80, 20)
    assert "20 that not all runs have are left out" in capsys.readouterr().out


def test_constant_predictions_and_a_soup(runs, tmp_path, capsys, recwarn):
    targets, (probs,) = draw(100, [1])
    one, constant = runs("one", probs, targets), runs("constant", np.full_like(probs, 0.5), targets)
    (tmp_path / "constant/soup.json").write_text("{}")
    assert compare(tmp_path, one, constant)["correlation"] is None
    printed = capsys.readouterr().out
    assert "  rank correlation of the predictions: none, as one is constant\n" in printed
    assert "settings:" not in printed  # a soup's are its best member's
    assert not recwarn.list


def test_of_many_runs_p_is_holms(runs, tmp_path):
    targets, probs = draw(300, [1, 1, 1.2])
    found = compare(tmp_path, *(runs(f"r{k}", one, targets) for k, one in enumerate(probs)))
    p = np.array([pair["p"] for pair in found["pairs"]])
    expected = np.maximum.accumulate(np.sort(p) * [3, 2, 1]).clip(max=1)
    assert sorted(pair["p_holm"] for pair in found["pairs"]) == pytest.approx(sorted(expected))


def test_a_csv_of_another_program_and_a_regression_are_compared(runs, tmp_path, capsys):
    rng = np.random.default_rng(0)
    targets = rng.normal(50, 10, size=(200, 1))
    values = [targets + rng.normal(0, scale, size=targets.shape) for scale in (2, 4)]
    run = runs("a", values[0], targets, words=["competition.task=regression", "competition.metric=rmse"])
    ids = [f"{row:05d}" for row in range(200)]
    pd.DataFrame({"id": ids, "c0": values[1][:, 0]}).to_csv(tmp_path / "other.csv", index=False)
    found = compare(tmp_path, run, f"{tmp_path}/other.csv")
    assert found["difference"] == pytest.approx(
        np.sqrt(np.mean((values[1] - targets) ** 2)) - np.sqrt(np.mean((values[0] - targets) ** 2))
    )
    assert found["interval"][0] > 0
    assert "a is better" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["one"], "command line: 1 runs, wanted are 2 or more; write RUN_A RUN_B, folders of runs"),
        (["one", "outptu=x"], "command line: outptu=x is not known; write RUN_A RUN_B ... [output=FILE.json]"),
        (["one", "none"], "none: not a run (no config.yaml); train one with python train.py"),
        (["one", "loss"], "loss: competition.metric is log_loss, but roc_auc in one; compare runs of one metric"),
        (["one", "two"], "two: predicts c0, c1, not c0; compare runs of the same targets"),
        (["one", "empty"], "empty/oof.csv: no such file; train the run, a fold of it at least"),
        (["one", "changed"], "changed: has other targets than one; compare runs of the same tables"),
    ],
)
def test_refusals(words, line, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    targets, (probs,) = draw(50, [1])
    runs("one", probs, targets)
    runs("loss", probs, targets, words=["competition.metric=log_loss"])
    runs("two", np.hstack([probs, probs]), np.hstack([targets, targets]))
    (tmp_path / runs("empty", probs, targets) / "oof.csv").unlink()
    runs("changed", probs, 1 - targets)
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err == f"error: {line}\n"


def test_lines_fit_eighty_columns(runs, tmp_path, capsys):
    targets, probs = draw(100, [1, 1])
    words = ["optimizer.lr=0.1", "train.epochs=7", "mix.prob=0.5", "augment.preset=heavy"]
    main([runs("one", probs[0], targets), runs("other", probs[1], targets, words=words)])
    assert max(len(line) for line in capsys.readouterr().out.replace(str(tmp_path), "outputs").splitlines()) <= 80
