"""Tracking is safe: no mode prompts, and no failure passes through."""

import os

import pytest
import wandb

from src.training.tracking import Tracker, build_tracker

SETTINGS = {"competition": {"name": "demo"}, "seed": 1}


class Failing:
    """A run whose server is gone."""

    def __init__(self):
        self.calls = 0

    def log(self, values):
        self.calls += 1
        raise ConnectionError("server is gone")


def test_the_first_failure_is_told_once_and_ends_tracking(capsys):
    run = Failing()
    tracker = Tracker(run)
    for _ in range(3):
        tracker.log({"epoch": 1})
    tracker.finish({"pooled": 0.5})
    assert run.calls == 1
    assert capsys.readouterr().err == "wandb: off for this run (ConnectionError: server is gone); log.csv goes on\n"


def test_none_tracks_nothing(tmp_path):
    build_tracker("none", tmp_path / "run", SETTINGS).log({"epoch": 1})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_server_that_is_not_there_leaves_an_offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = build_tracker("auto", tmp_path / "run", SETTINGS)
    tracker.log({"epoch": 1})
    tracker.finish({"pooled": 0.5})
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    wandb.teardown()  # or programs of later tests would find its process by an environment variable
    assert "WANDB_SERVICE" not in os.environ
