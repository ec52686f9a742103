"""A small clean competition on disk, in which each test plants one fault."""

import os
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from src.config.load import load_config
from tools.doctor.competition_data import load_data

NUM_TRAIN, NUM_TEST, SIDE = 160, 60, 64

YAML = """\
competition:
  root: "{root}"
  train_table: train.csv
  test_table: test.csv
  sample_submission: sample_submission.csv
  train_image: train/{{id}}.jpg
  test_image: test/{{id}}.jpg
  targets: [sick]
  group: patient
image_size: 32
model: {{backbone: test_resnet, pretrained: false, kwargs: {{norm_layer: groupnorm1}}}}
num_folds: 2
seed: 1
fold_seed: 1
"""


class Clinic:
    """The competition's folder, and ways to plant faults in it."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "data"

    def write_settings(self):
        (self.folder / "clinic.yaml").write_text(YAML.format(root=self.root))

    def words(self, *more):
        return [f"competition={self.folder / 'clinic.yaml'}", f"output_dir={self.folder / 'outputs'}", *more]

    def config(self, *more):
        return load_config(self.words(*more))

    def load(self, *more):
        """Return the CompetitionData and the findings of reading it."""
        return load_data(self.config(*more))

    def read(self, side="train"):
        return pd.read_csv(self.root / f"{side}.csv", dtype=str)

    def save(self, table, side="train"):
        table.to_csv(self.root / f"{side}.csv", index=False)

    def path(self, row, side="train"):
        return self.root / side / f"{self.read(side)['id'][row]}.jpg"

    def pixels(self, row, side="train"):
        return cv2.imread(str(self.path(row, side)))

    def draw(self, row, pixels, side="train", quality=92):
        """Write pixels as a row's image; its time stays."""
        path = self.path(row, side)
        status = path.stat() if path.exists() else None
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if status:
            os.utime(path, (status.st_atime, status.st_mtime))


def draw_image(rng, is_sick):
    """Smooth random colours; in sick ones a bright disc somewhere, so that there is something to learn."""
    image = cv2.resize(rng.normal(size=(7, 7, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) * 40 + 120
    if is_sick:
        centre = tuple(int(one) for one in rng.integers(16, 48, 2))
        cv2.circle(image, centre, 6, (230, 230, 230), -1)
    return np.clip(image + rng.normal(size=image.shape) * 3, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def clean_folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("clean"), np.random.default_rng(5)
    numbers = rng.permutation(1000)[: NUM_TRAIN + NUM_TEST]
    table = pd.DataFrame({"id": [f"{number:04}" for number in numbers]})
    patients = np.repeat(rng.permutation((NUM_TRAIN + NUM_TEST) // 2), 2)
    table["patient"] = [f"P{patient:03}" for patient in patients]
    table["sick"] = rng.permutation([0, 1] * (len(table) // 2))
    table["site"] = rng.choice(["north", "south", "west"], len(table))
    table["age"] = rng.integers(20, 80, len(table))
    for side, rows in (("train", table[:NUM_TRAIN]), ("test", table[NUM_TRAIN:])):
        (folder / "data" / side).mkdir(parents=True)
        for name, is_sick in zip(rows["id"], rows["sick"], strict=True):
            path = folder / "data" / side / f"{name}.jpg"
            cv2.imwrite(str(path), draw_image(rng, is_sick), [cv2.IMWRITE_JPEG_QUALITY, 92])
            os.utime(path, (0, 1.6e9 + rng.integers(1e6)))
        (rows if side == "train" else rows.drop(columns="sick")).to_csv(folder / "data" / f"{side}.csv", index=False)
    sample = table[NUM_TRAIN:][["id"]].assign(sick=0.5)
    sample.to_csv(folder / "data" / "sample_submission.csv", index=False)
    return folder


@pytest.fixture
def clinic(clean_folder, tmp_path):
    """A copy of the clean competition."""
    shutil.copytree(clean_folder / "data", tmp_path / "data")
    clinic = Clinic(tmp_path)
    clinic.write_settings()
    return clinic
