"""Tracking is safe: no failure passes through, and what is told to the trackers is what log.csv holds."""

from types import SimpleNamespace

import pandas as pd
import pytest
from accelerate.state import PartialState

from src.checkpointing.progress import Progress
from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config
from src.errors import UserError
from src.evaluation.metrics import build_metric
from src.files import save_json, save_table
from src.training.tracking import Tracker, build_tracker, import_early, log_epoch


class Recorder:
    """A tracker that keeps what it is told, or whose server is gone."""

    def __init__(self, is_gone=False):
        self.is_gone, self.told = is_gone, []

    def __getattr__(self, name):
        def tell(*values):
            self.told.append((name, *values))
            if self.is_gone:
                raise ConnectionError("server is gone")

        return tell


def write_logs(folder, **scores):
    """Write log.csv of finished folds: {fold<k>: val_score of each epoch}; return the RunFolder."""
    folder = RunFolder(folder)
    for name, values in scores.items():
        fold = folder.fold(int(name.removeprefix("fold")))
        epochs = range(1, len(values) + 1)
        save_table(fold.log, pd.DataFrame({"epoch": epochs, "train_loss": 1.0, "val_loss": 0.5, "val_score": values}))
        save_json(fold.meta, {})
    return folder


def test_the_first_failure_is_a_line_and_ends_that_tracker_alone(capsys, tmp_path):
    gone, other = Recorder(is_gone=True), Recorder()
    tracker = Tracker({"wandb": gone, "tensorboard": other})
    for _ in range(3):
        tracker.log_epoch(0, {"epoch": 1})
    tracker.finish(RunFolder(tmp_path), {"pooled": 0.5})
    assert len(gone.told) == 1
    assert [one[0] for one in other.told] == ["log"] * 3 + ["finish"]
    assert capsys.readouterr().err == "wandb: off for this run (ConnectionError: server is gone); log.csv is written\n"


def test_the_mean_is_of_the_finished_folds_and_the_epochs_that_all_have(tmp_path):
    recorder = Recorder()
    folder = write_logs(tmp_path, fold0=[0.5, 0.75, 1.0], fold1=[0.25, 0.25])
    Tracker({"one": recorder}).finish(folder, {"pooled": 0.5})
    rest = {"train_loss": 1.0, "val_loss": 0.5}
    assert recorder.told == [
        ("log", "mean", 1, {"val_score": 0.375} | rest),
        ("log", "mean", 2, {"val_score": 0.5} | rest),
        ("finish", {"pooled": 0.5}, {}, [], None),
    ]


def test_the_mean_of_one_fold_is_that_fold(tmp_path):
    Tracker({"one": (recorder := Recorder())}).finish(write_logs(tmp_path, fold0=[0.5]), {})
    assert [one[0] for one in recorder.told] == ["finish"]


def test_a_report_that_cannot_be_read_ends_no_run(tmp_path, capsys):
    (tmp_path / "report.json").write_text("{")
    Tracker({"one": Recorder()}).finish(RunFolder(tmp_path), {}, tmp_path / "report.html")
    assert "one: off for this run (UserError: " in capsys.readouterr().err


def test_none_tracks_nothing(tmp_path):
    build_tracker(load_config([f"output_dir={tmp_path}", "name=run", "tracking=none"])).log_epoch(0, {"epoch": 1})
    assert not (tmp_path / "run").exists()


def test_what_is_asked_for_and_missing_is_one_line_before_training():
    with pytest.raises(UserError) as caught:
        import_early(["nosuchtracker"])
    line = "tracking=nosuchtracker: the package is missing; pip install nosuchtracker, or set tracking=none"
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("tracking=wadnb", "tracking=wadnb: not one of auto, wandb, tensorboard; did you mean wandb?"),
        ("tracking=[wandb,none]", "tracking=none: not one of auto, wandb, tensorboard"),
        ("tracking={wandb: 1}", "command line: tracking={wandb: 1} is not a list; for example tracking=[auto]"),
    ],
)
def test_other_trackers_are_refused(word, line):
    with pytest.raises(UserError) as caught:
        load_config([word])
    assert str(caught.value) == line
    assert load_config(["tracking=[wandb,tensorboard]"]).tracking == ["wandb", "tensorboard"]


def test_checkpoints_go_to_wandb_only():
    with pytest.raises(UserError, match="track_checkpoints=true: is wandb's, which tracking leaves out"):
        load_config(["track_checkpoints=true", "tracking=tensorboard"])


def test_an_epoch_is_a_printed_line_and_a_row(capsys):
    metric, recorder, progress = build_metric("log_loss", "binary"), Recorder(), Progress()
    run = SimpleNamespace(
        config=load_config(["train.epochs=12"]), metric=metric, tracker=Tracker({"one": recorder}),
        processes=PartialState(),
    )  # fmt: skip
    for score in (0.5, 0.75):
        is_best = progress.add((score, 0.25), 4.0, metric, lr=0.1, train_loss=0.125, images_per_second=80.0)
        log_epoch(run, 3, progress, is_best)
    assert capsys.readouterr().out == (
        " 1/12     0.1250     0.2500      0.50000*     80.0      4.0\n"
        " 2/12     0.1250     0.2500      0.75000      80.0      4.0\n"
    )
    values = {name: value for name, value in progress.log[1].items() if name != "epoch"}
    assert recorder.told[1] == ("log", "fold3", 2, values)
    assert progress.log[1] == {
        "epoch": 2, "lr": 0.1, "train_loss": 0.125, "images_per_second": 80.0, "val_loss": 0.25, "val_score": 0.75,
        "seconds": 8.0,
    }  # fmt: skip
