"""This project as a user runs it: one fold of a competition, with default settings."""

import contextlib
import io
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import yaml

from benchmarks.systems.task import run_as_program
from src.checkpointing.run_folder import RunFolder
from src.config.help import as_word
from src.config.load import load_config
from src.files import load_json
from src.training.run import train_run


def run(task, timer):
    """Train with `train_run`; the fold's log has the speed of its batches, its printed lines mark the epochs' ends."""
    config = write_config(task)
    with contextlib.redirect_stdout(_EpochEnds(timer)):
        train_run(config)
    folder = RunFolder(config.run_folder)
    log = pd.read_csv(folder.fold(0).log)
    num_images = len(task.split()[0])
    timer.train_seconds = [num_images / rate for rate in log["images_per_second"]]
    [execution] = load_json(folder.execution).values()  # of the only kind of device
    return {"num_images": num_images, "auc": float(log["val_score"].iloc[-1]), **execution, "channels_last": True}


def write_config(task):
    """Make the current folder the task's competition, with its caches and runs, and return the Config."""
    shutil.copy(task.table, "train.csv")
    Path("train").symlink_to(task.images)
    competition = {
        "root": ".",
        "train_table": "train.csv",
        "train_image": "train/{id}",
        "targets": ["label"],
        "fold": "fold",
    }
    Path("competition.yaml").write_text(yaml.safe_dump({"competition": competition}), encoding="utf-8")
    words = {
        "competition": "competition.yaml",
        "folds": "column",
        "fold": 0,
        "image_size": task.image_size,
        "seed": task.seed,
        "device": task.device,
        "tracking": "none",
        "report": False,
        "model.backbone": task.backbone,
        "train.batch_size": task.batch_size,
        "train.epochs": task.epochs,
        "model.weights": task.weights,
        "model.pretrained": None if task.weights else False,
        "precision": task.precision,
        "train.channels_last": task.channels_last,
        "train.num_workers": task.num_workers,
    }
    return load_config([f"{key}={as_word(value)}" for key, value in words.items() if value is not None])


class _EpochEnds(io.TextIOBase):
    """A stdout that forwards everything and calls the timer at the line of each epoch."""

    def __init__(self, timer):
        self._timer, self._stream = timer, sys.stdout

    def write(self, text):
        if re.match(r" *\d+/\d+ ", text):
            self._timer.end_epoch()
        return self._stream.write(text)


if __name__ == "__main__":
    run_as_program(run)
