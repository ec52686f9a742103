"""A tiny competition, and weights that no network has trained."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tools.probe.__main__ import main

NUM_ROWS, NUM_TEST = 48, 6


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a competition `spots` of 48 images in 24 groups, and random weights of two backbones."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("train", NUM_ROWS), ("test", NUM_TEST)):
        (tmp_path / "data" / name).mkdir(parents=True)
        ids, is_bright = [f"{name}{row}" for row in range(count)], rng.random(count) < 0.5
        for one, bright in zip(ids, is_bright, strict=True):
            pixels = rng.integers(0, 120, (16, 16, 3)) + 4 * bright
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{one}.png")
        table = pd.DataFrame({"id": ids, "bright": is_bright.astype(int), "size": rng.normal(size=count)})
        table["patient"] = np.arange(count) // 2
        table.to_csv(tmp_path / "data" / f"{name}.csv", index=False)
    (tmp_path / "configs/competition").mkdir(parents=True)
    (tmp_path / "configs/competition/spots.yaml").write_text(
        "competition: {root: data, train_table: train.csv, test_table: test.csv, train_image: 'train/{id}.png', "
        "test_image: 'test/{id}.png', targets: [bright], group: patient}\nimage_size: 32\n"
    )
    (tmp_path / "weights").mkdir()
    for name in ("test_resnet", "test_vit"):
        torch.manual_seed(1)
        network = timm.create_model(name, num_classes=0, **({"img_size": 32} if "vit" in name else {}))
        save_file(network.state_dict(), tmp_path / "weights" / f"{name}.safetensors")
    return tmp_path


@pytest.fixture
def probe(place):
    """probe(*words): runs the command on the competition."""
    words = ["competition=spots", "model.weights=weights", "num_folds=3", "threads=1", "precision=fp32", "device=cpu"]
    return lambda *more: main([*words, *more])
