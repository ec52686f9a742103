"""Tracking is safe: no mode prompts, and no failure passes through."""

import os
from types import SimpleNamespace

import pytest
import wandb
from accelerate.state import PartialState

from src.checkpointing.progress import Progress
from src.config.load import load_config
from src.evaluation.metrics import build_metric
from src.training.tracking import Tracker, build_tracker, log_epoch


class Recorder:
    """A run of wandb that keeps what it is given, or whose server is gone."""

    def __init__(self, is_gone=False):
        self.is_gone, self.rows = is_gone, []

    def log(self, values):
        self.rows.append(values)
        if self.is_gone:
            raise ConnectionError("server is gone")


def test_the_first_failure_is_reported_once_and_ends_tracking(capsys):
    run = Recorder(is_gone=True)
    tracker = Tracker(run)
    for _ in range(3):
        tracker.log({"epoch": 1})
    tracker.finish({"pooled": 0.5})
    assert len(run.rows) == 1
    assert capsys.readouterr().err == "wandb: off for this run (ConnectionError: server is gone); log.csv is written\n"


def test_none_tracks_nothing(tmp_path):
    build_tracker("none", load_config([f"output_dir={tmp_path}", "name=run"])).log({"epoch": 1})
    assert not (tmp_path / "run").exists()


def test_an_epoch_is_a_printed_line_and_a_row(capsys):
    metric, recorder, progress = build_metric("log_loss", "binary"), Recorder(), Progress()
    run = SimpleNamespace(
        config=load_config(["train.epochs=12"]), metric=metric, tracker=Tracker(recorder), processes=PartialState()
    )
    for score in (0.5, 0.75):
        is_best = progress.add((score, 0.25), 4.0, metric, lr=0.1, train_loss=0.125, images_per_second=80.0)
        log_epoch(run, 3, progress, is_best)
    assert capsys.readouterr().out == (
        " 1/12     0.1250     0.2500      0.50000*     80.0      4.0\n"
        " 2/12     0.1250     0.2500      0.75000      80.0      4.0\n"
    )
    assert recorder.rows[1] == {
        "epoch": 2, "fold3/lr": 0.1, "fold3/train_loss": 0.125, "fold3/images_per_second": 80.0,
        "fold3/val_loss": 0.25, "fold3/val_score": 0.75, "fold3/seconds": 8.0,
    }  # fmt: skip


@pytest.mark.slow
def test_commands_on_one_run_are_one_group_and_a_resumed_one_stays_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids, seen = [], []
    for words in (["fold=0"], ["fold=1"], ["fold=0"], [], []):
        tracker = build_tracker("wandb", load_config([f"output_dir={tmp_path}", "name=mine", *words]))
        run = tracker._run
        ids.append(run.id)
        seen.append((run.group, run.name))
        tracker.log({"epoch": len(ids)})
        tracker.finish({})
    assert seen == [("mine", name) for name in ("mine_fold0", "mine_fold1", "mine_fold0", "mine", "mine")]
    assert (ids[0], ids[3]) == (ids[2], ids[4])
    assert len(set(ids)) == 3
    files = [path.stem for path in (tmp_path / "mine/wandb").glob("offline-run-*/run-*.wandb")]
    assert {f"run-{one}" for one in ids} == set(files)
    wandb.teardown()


@pytest.mark.slow
def test_a_server_that_is_not_there_leaves_an_offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = build_tracker("auto", load_config([f"output_dir={tmp_path}", "name=run"]))
    tracker.log({"epoch": 1})
    tracker.finish({"pooled": 0.5})
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    wandb.teardown()  # or programs of later tests would find its process by an environment variable
    assert "WANDB_SERVICE" not in os.environ
