"""Label safety: losses by hand, what is tried, and a trained run whose images are blackened."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.checkpointing.run_folder import RunFolder
from src.competition.demo import write_demo
from src.config.load import load_config, load_saved_config
from src.errors import UserError
from src.evaluation.metrics import build_metric
from tests.launch import TINY, run_here
from tools.doctor.competition_data import load_data
from tools.doctor.label_safety import (
    build_versions,
    check_label_safety,
    compare_scores,
    count_turned,
    describe_turned,
    predict_versions,
)


def judged(**scores):
    scores = {(name, not name.startswith("Vertical")): values for name, values in scores.items()}
    return compare_scores(scores, 3, build_metric("roc_auc", "binary"))


def test_a_sure_loss_is_a_finding_and_a_small_or_unsure_one_is_not():
    plain = [0.95, 0.96, 0.97]
    findings, [fact] = judged(
        plain=plain, Rotate=[0.93, 0.94, 0.95], Blur=[0.945, 0.955, 0.965], Noise=[0.99, 0.80, 0.96],
        VerticalFlip=[0.5, 0.5, 0.5],
    )  # fmt: skip
    assert [one.title for one in findings] == [
        "roc_auc of the run's held-out images falls from 0.9600 to 0.9400 under Rotate, which it was trained with"
    ]
    assert findings[0].severity == "warning"
    assert fact.lines == (
        "0.9600  plain, mean of 3 folds",
        "0.9400  Rotate",
        "0.9550  Blur",
        "0.9167  Noise",
        "0.5000  VerticalFlip of every image (not in training)",
    )


def test_the_title_says_what_the_run_was_not_trained_with():
    scores = {("plain", True): [0.9], ("Affine", True): [0.7]}
    [finding], _ = compare_scores(scores, 5, build_metric("roc_auc", "binary"), was_trained=False)
    assert finding.title.endswith("falls from 0.9000 to 0.7000 under Affine, which may be new to it")


def test_a_metric_that_should_be_low_is_worse_when_it_rises():
    scores = {("plain", True): [0.3, 0.31, 0.32], ("Rotate", True): [0.5, 0.51, 0.52], ("Blur", True): [0.1, 0.1, 0.1]}
    [finding], _ = compare_scores(scores, 3, build_metric("log_loss", "binary"))
    assert finding.title.startswith("log_loss of the run's held-out images rises from 0.3100 to 0.5100 under Rotate")


def judged_after(chances, rises, plain=0.9, metric="roc_auc", **others):
    scores = {("plain", True): [plain] * 2} | {(name, True): [value] * 2 for name, value in others.items()}
    findings, [fact] = compare_scores(scores, 2, build_metric(metric, "binary"), True, chances, rises)
    return len(findings), fact.lines[1]


def test_nothing_is_said_before_a_run_has_learned():
    assert judged_after([0.55, 0.56], [0.001, 0.002], Rotate=0.8) == (1, "0.8000  Rotate")
    assert judged_after([0.55, 0.56], [0.05, 0.15], Rotate=0.81) == (
        0,
        "0.1000  was added by the last epoch: train longer before a smaller drop below says much",
    )
    assert judged_after([0.55, 0.56], [0.05, 0.15], Rotate=0.79)[0] == 1
    learned_nothing = (0, "0.6200  by chance: the run has not learned, so nothing below says much")
    assert judged_after([0.61, 0.63], [0.0, 0.0], plain=0.61, Rotate=0.4) == learned_nothing
    assert judged_after([0.7, 0.7], [-0.05, -0.05], plain=0.5, metric="log_loss", Rotate=0.54)[0] == 0
    assert judged_after([0.7, 0.7], [-0.05, -0.05], plain=0.5, metric="log_loss", Rotate=0.56)[0] == 1
    assert judged_after([0.7, 0.7], [0.0, 0.0], plain=0.71, metric="log_loss", Rotate=0.99)[0] == 0


def test_a_class_that_is_taken_for_another_is_named():
    names, targets = ("six", "nine", "one"), np.eye(3)[[0] * 5 + [1] * 4 + [2] * 4]
    plain = np.eye(3)[[0] * 4 + [2] + [1] * 4 + [2] * 4]  # one six is not known as it is
    turned = np.eye(3)[[1] * 4 + [1] + [0] * 3 + [1] + [2, 2, 0, 0]]
    counts = count_turned(targets, plain, turned)
    assert counts.tolist() == [[0, 4, 0], [3, 1, 0], [2, 0, 2]]
    expected = "VerticalFlip: six -> nine (4 of 4), nine -> six (3 of 4)"  # two ones are too few
    assert describe_turned({"plain": count_turned(targets, plain, plain), "VerticalFlip": counts}, names) == (expected,)


def test_each_part_is_tried_alone_and_flips_in_any_case():
    config = load_config(["augment.preset=medium", "augment.flips=hflip"])
    versions = build_versions(config, True)
    assert {name: is_used for name, (_, is_used) in versions.items()} == {
        **dict.fromkeys(["plain", "all of it", "Affine", "HorizontalFlip", "RandomBrightnessContrast"], True),
        "VerticalFlip": False,
    }
    image = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32, 1)
    assert np.array_equal(versions["VerticalFlip"][0](image, 0), image[::-1])
    own = build_versions(load_config(["augment.transforms=[{Rotate: {limit: 9}}, Transpose]"]), True)
    assert list(own) == ["plain", "all of it", "Rotate", "Transpose", "HorizontalFlip", "VerticalFlip"]
    assert list(build_versions(load_config(["augment.preset=none", "augment.flips=none"]), True)) == [
        *("plain", "HorizontalFlip", "VerticalFlip")
    ]


@pytest.mark.slow
def test_a_run_of_one_epoch_gives_no_warning(tmp_path, monkeypatch):
    write_demo(tmp_path / "data/demo")
    table = tmp_path / "data/demo/train.csv"
    pd.read_csv(table, dtype=str)[:400].to_csv(table, index=False)
    run_here("train.py", *TINY, "train.epochs=1", "model.kwargs={}", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    run_folder = Path("outputs/demo_default")
    blackened = "augment.transforms=[{RandomGamma: {gamma_limit: [2000, 2000], p: 1}}]"
    data, _ = load_data(load_saved_config(run_folder, [blackened]))
    findings, [fact, *_] = check_label_safety(data, run_folder)
    assert findings == []
    assert "by chance" in fact.lines[1] or "was added by the last epoch" in fact.lines[1]
    (run_folder / "fold0/log.csv").write_text("epoch\n1\n")
    with pytest.raises(UserError, match="fold0/log.csv: damaged, it has no column val_score; train that fold again"):
        check_label_safety(data, run_folder)


@pytest.mark.slow
def test_a_trained_run_cannot_read_blackened_images(tiny_run, monkeypatch):
    folder, run_folder = tiny_run[0], Path("outputs/demo_default")
    monkeypatch.chdir(folder)
    config = load_saved_config(run_folder, ["augment.transforms=[{RandomGamma: {gamma_limit: [2000, 2000], p: 1}}]"])
    write_demo(config.competition.root)
    data, _ = load_data(config)
    _, [fact, *_] = check_label_safety(data, run_folder)
    scores = {line.split(maxsplit=1)[1]: float(line.split()[0]) for line in fact.lines}
    assert scores["RandomGamma"] < scores["plain, mean of 2 folds"] - 0.02
    held_out = data.train.take(np.arange(100))
    found = predict_versions(data, held_out, RunFolder(run_folder).fold(0))
    assert 0.5 < data.metric.score(held_out.targets, found["plain", True]) <= 1
    assert {name for name, _ in found} == {"plain", "all of it", "RandomGamma", "HorizontalFlip", "VerticalFlip"}
    assert all(probs.shape == (100, 10) for probs in found.values())
    assert np.array_equal(found["RandomGamma", True], found["all of it", True])


def test_a_run_of_other_rows_or_without_folds_is_refused(clinic, tmp_path):
    data, _ = clinic.load()
    run = tmp_path / "run"
    (run / "fold0").mkdir(parents=True)
    with pytest.raises(UserError, match="no fold is finished"):
        check_label_safety(data, run)
    (run / "fold0" / "meta.json").write_text("{}")
    (run / "folds.csv").write_text("id,fold\nsomeone,0\n")
    with pytest.raises(UserError, match="other rows"):
        check_label_safety(data, run)
