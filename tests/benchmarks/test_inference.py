"""The inference benchmark times forward passes of the same batches, views and networks, and no others."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.inference import build_forwards, describe, main, make_competition, write_test_table
from src.errors import UserError

SHARED = Path(os.environ.get("SHARED", "../shared"))


class Counting(nn.Module):
    """Records the size and memory format of its inputs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def normalize(self, inputs):
        return {name: images.permute(0, 3, 1, 2).float() for name, images in inputs.items()}

    def forward(self, image):
        assert not self.training
        self.seen.append((len(image), image.is_contiguous(memory_format=torch.channels_last)))
        return image.mean((2, 3))


class Batches:
    """Seven images in batches of three."""

    num_images = 7

    def batches(self, epoch):
        for rows in torch.arange(7).split(3):
            yield {"inputs": {"image": torch.zeros(len(rows), 4, 4, 3, dtype=torch.uint8)}, "index": rows}


def test_forwards_are_all_batches_times_views_times_networks():
    networks = [Counting(), Counting()]
    views = (lambda images: images.transpose(2, 3),)
    run = build_forwards(networks, Batches(), torch.device("cpu"), "fp32", views)
    run(warm_up=True)
    for network in networks:
        assert sorted(size for size, _ in network.seen) == [1, 1, 3, 3]
        network.seen.clear()
    run()
    for network in networks:
        assert [size for size, _ in network.seen] == [3, 3, 3, 3, 1, 1]
        assert all(is_last for _, is_last in network.seen)


def test_a_test_table_repeats_files_but_no_id(tmp_path):
    write_test_table(tmp_path, ["a.png", "b.png"], 5)
    rows = pd.read_csv(tmp_path / "test.csv", dtype=str)
    assert rows["image"].tolist() == ["a.png", "b.png", "a.png", "b.png", "a.png"]
    assert rows["id"].is_unique


def test_missing_images_are_an_error(tmp_path):
    with pytest.raises(UserError, match="no images there; set the environment variable SHARED"):
        make_competition(tmp_path / "data", tmp_path, 5, 10)


def test_the_ratio_is_reported_with_its_spread():
    speed = {"kind": "speed", "num_images": 10, "num_networks": 2, "num_views": 3, "around_seconds": 1.0}
    speed |= {"predict_seconds": [2.0, 2.0], "forward_seconds": [1.9, 1.8], "ratios": [0.95, 0.9]}
    text = describe([speed | {"decodes_per_image": 1.0}, {"kind": "memory", "num_images": 9, "peak_mb": 700.2}])
    assert "forward passes / prediction" in text
    assert "0.925 (0.900..0.950)" in text
    assert "700" in text
    assert "passes a second" in text
    assert " 30\n" in text  # 60 passes in 2 seconds


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "competitions" / "pneumonia").is_dir(), reason="real images are missing")
def test_a_tiny_run_decodes_each_image_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARED", str(SHARED.resolve()))
    words = ["images=6", "memory_images=4", "folds=2", "tta=hflip", "size=64", "batch_size=4", "repeats=1"]
    main([*words, "device=cpu", f"output={tmp_path}/report.json"])
    speed, memory = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert (speed["num_images"], speed["num_networks"], speed["num_views"]) == (6, 2, 2)
    assert speed["decodes_per_image"] in (1.0, None)
    assert np.isfinite(speed["ratios"]).all()
    assert memory["num_images"] == 4
    assert memory["peak_mb"] > 100
