"""Several images a row, from files to a checked submission: what one slice of eight shows, and not the middle one."""

import csv

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.files import load_json
from tests.launch import run_here

NUM_SLICES, SIDE = 8, 24
WORDS = ["competition=slices.yaml", "num_folds=2", "train.epochs=8", "image_size=24", "optimizer.lr=3e-3", "threads=1",
         "model.backbone=simple_cnn", "model.pretrained=false", "model.kwargs={widths: [8, 16, 32]}", "report=false",
         "normalize=dataset", "tracking=none", "precision=fp32", "augment.preset=light"]  # fmt: skip
FILE = """competition:
  root: .
  train_table: train.csv
  sample_submission: sample_submission.csv
  solution: solution.csv
  targets: [target]
  channels: 1
  train_image: train/{id}/*
"""


def write_slices(folder, kind, rows, rng):
    """Write each row's noisy slices, of those with a label a bright square in one that is not the middle one."""
    for name, label in rows:
        (folder / kind / name).mkdir(parents=True)
        slices = rng.integers(60, 140, (NUM_SLICES, SIDE, SIDE), dtype=np.uint8)
        place = rng.choice([one for one in range(NUM_SLICES) if one != NUM_SLICES // 2])
        top, left = rng.integers(2, SIDE - 10, 2)
        slices[place, top : top + 8, left : left + 8] = 230 if label else 100
        for number, pixels in enumerate(slices, 5):  # 5 to 12, of which 10 comes before 5 as text
            Image.fromarray(pixels).save(folder / kind / name / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("images_as", ["max", pytest.param("mean", marks=pytest.mark.nightly),
                                       pytest.param("attention", marks=pytest.mark.nightly)])  # fmt: skip
def test_one_slice_of_eight_has_the_signal(tmp_path, images_as):
    rng = np.random.default_rng(0)
    rows = {
        kind: [(f"{kind[:2]}{row:03}", row % 2) for row in range(count)]
        for kind, count in (("train", 96), ("test", 24))
    }
    for kind, pairs in rows.items():
        write_slices(tmp_path, kind, pairs, rng)
        pd.DataFrame(pairs, columns=["id", "target"]).to_csv(tmp_path / f"{kind}.csv", index=False)
    (tmp_path / "test.csv").rename(tmp_path / "solution.csv")
    pd.DataFrame({"id": [name for name, _ in rows["test"]], "target": 0.5}).to_csv(
        tmp_path / "sample_submission.csv", index=False
    )
    (tmp_path / "slices.yaml").write_text(FILE, encoding="utf-8")

    several = ["competition.images=train/{id}/*", f"competition.images_as={images_as}"]
    run_here("train.py", *WORDS, *several, "name=several", cwd=tmp_path)
    assert load_json(tmp_path / "outputs/several/scores.json")["pooled"] > 0.95
    run_here("infer.py", "run=outputs/several", "infer.tta=hflip", cwd=tmp_path)
    assert load_json(tmp_path / "outputs/several/test_score.json")["score"] > 0.95
    with open(tmp_path / "outputs/several/submission.csv", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [name for name, _ in rows["test"]]
    if images_as == "max":
        test_image = "competition.test_image=test/{id}/*"
        run_here("train.py", *WORDS, test_image, "train.epochs=4", "name=middle", cwd=tmp_path)
        assert load_json(tmp_path / "outputs/middle/scores.json")["pooled"] < 0.7
