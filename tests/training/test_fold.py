"""One fold, trained: which epoch counts, when it stops, what averages do, and what a score that is none says."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import log_loss
from torch import nn

from src.checkpointing.serialization import load_network
from src.competition.predictions import load_predictions
from src.data.scan import compute_pixel_stats
from src.errors import UserError
from src.model.backbone import BACKBONES
from src.model.losses import probabilities
from src.training.engine import predict
from src.training.fold import evaluate, predict_validation, train_fold
from src.training.learner import build_learner
from src.training.oof import score_run

NUM_ROWS = 24
FOLDS = np.arange(NUM_ROWS) % 3
# random labels, so that the epochs' scores go up and down, and a metric whose lower score is better
WORDS = [
    "image_size=32", "competition.task=binary", "competition.classes=[a,b]", "competition.metric=log_loss",
    "train.epochs=4", "train.batch_size=4", "schedule.name=constant", "augment.preset=none",
]  # fmt: skip


@pytest.fixture
def table(make_table):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_ROWS, 8, 8), dtype=np.uint8)
    return make_table(images, rng.integers(0, 2, (NUM_ROWS, 1)), FOLDS)


@pytest.fixture
def train(make_run, table):
    """A function (folds, words) -> (Run, its scores) after those folds are trained."""

    def train_(folds, *words):
        run = make_run(table, *WORDS, *words)
        run.pixel_stats = compute_pixel_stats(table.paths, run.config)
        for fold in folds:
            train_fold(run, fold)
        return run, score_run(run)

    return train_


def predict_again(run, fold):
    """The validation predictions (N, K) of a fold's saved network."""
    network = load_network(run.config, run.folder.fold(fold)).place(torch.device("cpu"), run.config.train.channels_last)
    learner = build_learner(run, fold)
    to_probs = partial(probabilities, task=run.config.competition.task)
    return predict([network], learner.val_loader, to_probs, "fp32")[1][0]


def read_meta(run, fold):
    return json.loads(run.folder.fold(fold).meta.read_text())


OWN = ["model.backbone=simple_cnn", "model.kwargs={}", "seed=1"]


@pytest.mark.parametrize("words", [[], OWN], ids=["demo", "own backbone"])
def test_the_selected_epoch_is_that_of_val_csv_the_weights_and_the_scores(train, table, words):
    """By the metric, computed again from what is on disk, and by the network, opened again."""
    runs = {select: train([0, 1], *words, f"train.select={select}", f"name={select}") for select in ("best", "last")}
    metas = {select: [read_meta(run, fold) for fold in range(2)] for select, (run, _) in runs.items()}
    assert any(meta["best_epoch"] < meta["epoch"] == 4 for meta in metas["last"])  # or nothing is compared
    for select, (run, scores) in runs.items():
        other = {"best": "last", "last": "best"}[select]
        for fold, meta in enumerate(metas[select]):
            rows = fold == FOLDS
            log = pd.read_csv(run.folder.fold(fold).log)
            assert meta["best_score"] == log["val_score"].min()
            assert meta["best_epoch"] == log["val_score"].argmin() + 1
            assert meta["last_score"] == log["val_score"].iloc[-1]
            probs = load_predictions(run.folder.fold(fold).val, table.ids[rows], ["t0"])
            score = log_loss(table.targets[rows, 0], probs[:, 0])
            assert score == pytest.approx(meta[f"{select}_score"], rel=1e-6)
            assert scores["folds"][str(fold)] == meta[f"{select}_score"]
            assert scores[other]["folds"][str(fold)] == meta[f"{other}_score"]
            np.testing.assert_array_equal(predict_again(run, fold), probs.astype(np.float32))
            assert not run.folder.fold(fold).weights(other).exists()
        assert (scores["select"], scores["metric"]) == (select, "log_loss")
    for best, last in zip(metas["best"], metas["last"], strict=True):  # the training is the same
        assert {**best, "seconds": 0} == {**last, "seconds": 0}


class FailsInTraining(nn.Module):
    def __init__(self, channels, image_size, failing_call=1):
        super().__init__()
        self.layer, self.calls, self.failing_call = nn.Linear(channels, 4), 0, failing_call

    def forward(self, images):
        self.calls += self.training
        if self.training and self.calls == self.failing_call:
            raise LookupError  # without a text
        return self.layer(images.mean((2, 3)))


def test_what_a_network_raises_in_its_first_step_is_one_line(train, monkeypatch):
    monkeypatch.setitem(BACKBONES, "mine", FailsInTraining)
    words = ["model.backbone=mine", "model.kwargs={}"]
    with pytest.raises(UserError) as caught:
        train([0], *words)
    advice = "choose another backbone or other model.kwargs; --debug shows the traceback"
    assert str(caught.value) == f"model.backbone=mine: its first training step fails (LookupError); {advice}"
    with pytest.raises(LookupError):  # what comes later is a bug
        train([0], *words, "model.kwargs.failing_call=3")


def test_the_log_holds_the_mean_rate_of_each_epoch(train):
    words = ["schedule.name=linear", "schedule.warmup_epochs=0", "train.epochs=2", "optimizer.lr=0.1"]
    run, _ = train([0], *words)  # two epochs of four steps: the k-th of eight falls to 1 - .99 k / 8
    log = pd.read_csv(run.folder.fold(0).log)
    assert [name for name in log if name.startswith("gradient_")][-1] == "gradient_head"
    assert (log.filter(like="gradient_") > 0).all(axis=None)
    assert log["lr"].tolist() == pytest.approx([0.1 * (1 - 0.99 * 1.5 / 8), 0.1 * (1 - 0.99 * 5.5 / 8)])


def test_early_stopping_where_a_lower_score_is_better(train):
    run, _ = train([0], "train.select=best", "train.early_stopping_epochs=2", "train.epochs=30", "optimizer.lr=0.05")
    log, meta = pd.read_csv(run.folder.fold(0).log), read_meta(run, 0)
    assert meta["epoch"] == len(log) == meta["best_epoch"] + 2 < 30
    assert log["val_score"].argmin() + 1 == meta["best_epoch"]


def test_scores_and_predictions_that_are_nan_end_with_one_line(make_run, table):
    run = make_run(table, *WORDS, "normalize=none", "competition.metric=roc_auc")
    learner = build_learner(run, 0)
    probs = np.full((8, 1), 0.5)
    with pytest.raises(UserError) as caught:
        evaluate(learner, np.full((8, 1), np.nan), 2, 0)
    assert str(caught.value) == "fold 2, epoch 1: predictions are nan; lower optimizer.lr"
    learner.val_table = replace(learner.val_table, targets=np.ones((8, 1), np.float32))
    with pytest.raises(UserError) as caught:
        evaluate(learner, probs, 2, 4)
    assert str(caught.value) == (
        "fold 2, epoch 5: roc_auc is nan on the validation rows; check the targets, or set competition.metric=log_loss"
    )


def test_the_score_is_the_metric_s_and_the_loss_the_log_loss(make_run, table):
    learner = build_learner(make_run(table, *WORDS, "normalize=none", "competition.metric=accuracy"), 0)
    probs = np.random.default_rng(0).random((8, 1)).astype(np.float32)
    targets = learner.val_table.targets
    score, loss = evaluate(learner, probs, 0, 0)
    assert score == ((probs >= 0.5) == targets).mean()
    assert loss == pytest.approx(log_loss(targets[:, 0], probs[:, 0].astype(np.float64)), rel=1e-6)


def test_validation_predictions_are_in_the_table_s_order(make_run, table):
    learner = build_learner(make_run(table, *WORDS, "normalize=none", "infer.batch_size=3"), 0)
    probs = predict_validation(learner, learner.network)
    images = torch.cat([batch["inputs"]["image"] for batch in learner.val_loader.batches(0)])
    with torch.no_grad():
        network = learner.network.eval()
        expected = network(**network.normalize({"image": images})).sigmoid()
    assert probs.shape == (8, 1)
    np.testing.assert_allclose(probs, expected, atol=1e-6)


@pytest.mark.parametrize("lr", [0.004, 0.0])
def test_the_mean_of_the_best_epochs_counts_where_it_is_better(train, capsys, lr):
    words = ["train.average=soup", "train.average_kwargs.epochs=2", "train.select=best", f"optimizer.lr={lr}"]
    run, _ = train([0], *words)
    meta, log = read_meta(run, 0), pd.read_csv(run.folder.fold(0).log)
    best = sorted(log.sort_values(["val_score", "val_loss", "epoch"])["epoch"][:2].tolist())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" mean "))
    assert line.endswith(f" of epochs {best[0]}, {best[1]}")
    counts = "*" in line
    if lr == 0:
        assert not counts  # the mean of equal epochs is no better
    assert meta["averaged_epochs"] == (best if counts else [])
    assert bool(meta["best_score"] < log["val_score"].min()) is counts
    np.testing.assert_allclose(
        log_loss(run.table.targets[FOLDS == 0, 0], predict_again(run, 0)[:, 0].astype(np.float64)),
        meta["best_score"], rtol=1e-5,
    )  # fmt: skip
    assert not list(run.folder.fold(0).path.glob("epoch*"))


def test_swa_is_the_mean_of_the_last_epochs(train):
    """At a constant rate runs of 2 and 3 epochs share their path, and each leaves its last epoch's weights."""
    words = ["schedule.warmup_epochs=0"]
    two, three = (train([0], *words, f"train.epochs={n}", f"name=plain{n}")[0] for n in (2, 3))
    average = ["train.average=swa", "train.average_kwargs.epochs=2"]
    mean, _ = train([0], *words, *average, "train.epochs=3", "name=mean")
    two, three, mean = (load_file(run.folder.fold(0).weights("last")) for run in (two, three, mean))
    assert any(not torch.equal(two[name], three[name]) for name in mean)
    for name in mean:
        torch.testing.assert_close(mean[name], (two[name] + three[name]) / 2, msg=name)


def save_backbone(path, **kwargs):
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", in_chans=1, **kwargs).state_dict(), path)
    return ["model.pretrained=true", f"model.weights={path}"]


def test_swa_refreshes_batchnorm_of_stages_that_opened_late(train, tmp_path):
    """The mean of one epoch has its weights, and statistics of its own wherever BatchNorm learns."""
    words = [*save_backbone(tmp_path / "late.safetensors"), "model.kwargs={}", "model.freeze_batchnorm=false"]
    words += ["model.head_first_epochs=1", "train.epochs=2"]
    plain, _ = train([0], *words, "name=late")
    mean, _ = train([0], *words, "name=late_mean", "train.average=swa", "train.average_kwargs.epochs=1")
    plain, mean = (load_file(run.folder.fold(0).weights("last")) for run in (plain, mean))
    for name in plain:
        assert torch.equal(plain[name], mean[name]) is ("running_" not in name), name


def test_head_only_leaves_the_backbone_bit_identical(train, tmp_path):
    path = tmp_path / "batchnorm.safetensors"
    words = [*save_backbone(path), "model.kwargs={}", "model.freeze=head_only", "model.freeze_batchnorm=false"]
    run, _ = train([0], *words, "train.views=0", "train.epochs=1")
    first, last = load_file(path), load_file(run.folder.fold(0).weights("last"))
    shared = [name for name in first if f"backbone.{name}" in last]
    assert any("running_var" in name for name in shared)
    assert all(torch.equal(first[name], last[f"backbone.{name}"]) for name in shared)


def test_gradual_freezing_with_early_stopping(train, tmp_path, capsys):
    path = tmp_path / "groupnorm.safetensors"
    words = [*save_backbone(path, norm_layer="groupnorm1"), "model.freeze=gradual", "optimizer.lr=0", "train.epochs=9"]
    run, _ = train([0], *words, "train.early_stopping_epochs=1", "train.select=best")
    meta = read_meta(run, 0)
    assert (meta["epoch"], meta["best_epoch"]) == (2, 1)  # nothing moves at lr=0, so the second epoch is no better
    first, best = load_file(path), load_file(run.folder.fold(0).weights("best"))
    shared = [name for name in first if f"backbone.{name}" in best]
    assert len(shared) > 40
    assert all(torch.equal(first[name], best[f"backbone.{name}"]) for name in shared)
    assert "more of the backbone opens, " in capsys.readouterr().out
