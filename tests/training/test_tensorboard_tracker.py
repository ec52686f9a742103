"""TensorBoard's event files, read back with its own reader."""

from functools import partial

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginEventAccumulator

from src.config.load import load_config
from src.files import save_json
from src.training.tensorboard_tracker import TensorBoardTracker
from src.training.tracking import Tracker
from tests.training.test_tracking import write_logs


def read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def read_curve(folder, tag):
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


@pytest.fixture
def config(tmp_path):
    return load_config([f"output_dir={tmp_path}", "name=run", "tracking=tensorboard"])


def test_a_resumed_fold_continues_its_curve_and_no_step_is_there_twice(config):
    first = TensorBoardTracker(config)
    for epoch in (1, 2, 3):
        first.log("fold0", epoch, {"val_score": epoch / 8})
    resumed = TensorBoardTracker(config)  # its state was saved after epoch 2
    for epoch, score in ((3, 0.5), (4, 0.5), (5, 0.625)):
        resumed.log("fold0", epoch, {"val_score": score})
    folder = config.run_folder / "tensorboard"
    assert read_curve(folder / "fold0", "val_score") == [(1, 0.125), (2, 0.25), (3, 0.5), (4, 0.5), (5, 0.625)]
    assert read(folder / "fold0").Tags()["scalars"] == ["val_score"]
    shown = PluginEventAccumulator(str(folder))  # what its pages read
    shown.Reload()
    (text,) = shown.Tensors("config/text_summary")
    assert b"    name: run\n" in text.tensor_proto.string_val[0]


def test_the_mean_over_more_folds_takes_the_place_of_that_over_fewer(config):
    folder, write = config.run_folder / "tensorboard/mean", partial(write_logs, config.run_folder)
    for logs, mean in (({"fold1": [0.5, 0.5]}, [(1, 0.25), (2, 0.75)]), ({"fold2": [1.0, 0.0]}, [(1, 0.5), (2, 0.5)])):
        Tracker({"one": TensorBoardTracker(config)}).finish(write(fold0=[0.0, 1.0], **logs), {"pooled": 0.5})
        assert read_curve(folder, "val_score") == mean


def test_pictures_of_the_report_are_images(config, tmp_path):
    Image.fromarray(np.full((3, 5, 3), 7, np.uint8)).save(tmp_path / "a.png")
    worst = [{"id": "x9", "picture": str(tmp_path / "a.png")}, {"id": "y", "picture": None}]
    save_json(tmp_path / "report.json", {"figures": {"roc": str(tmp_path / "a.png")}, "worst": worst})
    folder = write_logs(config.run_folder, fold0=[0.5])
    Tracker({"one": TensorBoardTracker(config)}).finish(folder, {"pooled": 0.25}, tmp_path / "report.html")
    found = read(config.run_folder / "tensorboard")
    assert sorted(found.Tags()["images"]) == ["report/roc", "worst/01 x9"]
    (image,) = found.Images("report/roc")
    assert (image.width, image.height, image.encoded_image_string) == (5, 3, (tmp_path / "a.png").read_bytes())
    assert read_curve(config.run_folder / "tensorboard", "pooled") == [(0, 0.25)]


def test_a_full_disk_is_one_line(config, capsys):
    tracker = Tracker({"tensorboard": TensorBoardTracker(config)})
    (config.run_folder / "tensorboard/fold0").write_text("in the way")
    for _ in range(2):
        tracker.log_epoch(0, {"epoch": 1, "val_score": 0.5})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tensorboard: off for this run (FileExistsError: ")
