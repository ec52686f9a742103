"""The cases of the throughput benchmark: their images, settings and targets."""

import dataclasses
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from src.config.settings import REPOSITORY
from src.errors import UserError
from src.files import atomic_path

SHARED = Path(os.environ.get("SHARED", REPOSITORY.parent / "shared")).resolve()
SYSTEMS = {  # module of benchmarks.systems, and the package without which it is left out
    "ours": ("ours", "torch"),
    "lightning": ("lightning_torchvision", "lightning"),
    "fastai": ("fastai_learner", "fastai"),
    "pure_compute": ("pure_compute", "torch"),
    "our_loader": ("our_loader", "torch"),
    "torchvision_loader": ("torchvision_loader", "torchvision"),
    "timm_script": ("timm_script", "timm"),  # of benchmarks.gpu
}


@dataclasses.dataclass(frozen=True)
class Target:
    """How many times better than `system` ours should be in a measure of throughput_report; None: reported only."""

    system: str
    measure: str
    at_least: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: the same images and settings for several systems, ours first."""

    images: str  # pneumonia or photographs
    num_train: int
    num_val: int
    settings: dict  # fields of systems.task.Task
    targets: tuple
    is_pretrained: bool = False  # by the file of the backbone's name in SHARED/weights
    needs_cuda: bool = False

    @property
    def systems(self):
        """Names of SYSTEMS: ours, then those it is compared with."""
        ours = "our_loader" if self.num_val == 0 else "ours"
        return (ours, *dict.fromkeys(target.system for target in self.targets))


CASES = {
    "pneumonia": Case(
        "pneumonia",
        1600,
        400,
        {"backbone": "mobilenetv2_100", "image_size": 128, "batch_size": 32, "epochs": 2},
        (
            Target("lightning", "seconds", 1.5),
            Target("fastai", "seconds", 2.0),
            Target("lightning", "auc", 1.0),
            Target("fastai", "auc", 1.0),
            Target("pure_compute", "images_per_second", 0.93),
        ),
        is_pretrained=True,
    ),
    "datapath": Case(
        "photographs",
        300,
        0,
        {"backbone": "mobilenetv2_050", "image_size": 224, "batch_size": 32, "epochs": 3},
        (Target("torchvision_loader", "first_epoch", 3.0), Target("torchvision_loader", "later_epoch", 20.0)),
    ),
    "large": Case(
        "photographs",
        240,
        60,
        {"backbone": "mobilenetv2_050", "image_size": 128, "batch_size": 32, "epochs": 3},
        (Target("lightning", "first_epoch", 2.0), Target("lightning", "later_epoch", 4.0)),
    ),
    "gpu": Case(
        "pneumonia",
        3600,
        512,
        {"backbone": "resnet50", "image_size": 224, "batch_size": 256, "epochs": 6, "precision": "bf16"},
        (
            Target("pure_compute", "later_images_per_second"),
            Target("our_loader", "later_images_per_second"),
        ),
        needs_cuda=True,
    ),
}


def prepare(case, num_images, folder):
    """Return the fields of a Task about the case's images; the table of their rows is written into `folder`.

    Args:
        num_images: to train on; None: the case's number. Images to validate are in proportion.

    Raises:
        UserError: the images or weights are missing.
    """
    num_train = num_images or case.num_train
    num_val = -(-case.num_val * num_train // case.num_train)
    if case.images == "pneumonia":
        rows, images = _choose_pneumonia(num_train, num_val)
    else:
        rows, images = _draw_photographs(num_train, num_val)
    for name in rows["id"]:
        (images / name).read_bytes()  # so that no system waits for the disk
    table, weights = folder / "train.csv", None
    rows.to_csv(table, index=False)
    if case.is_pretrained:
        weights = SHARED / "weights" / f"{case.settings['backbone']}.safetensors"
        if not weights.is_file():
            raise UserError(f"{weights}: no such weights; set the environment variable SHARED")
    return {"table": str(table), "images": str(images), "weights": str(weights) if weights else None}


def _choose_pneumonia(num_train, num_val):
    """Patients are shuffled: the first images validate, the next train, and no patient is in both."""
    folder = SHARED / "competitions" / "pneumonia"
    if not (folder / "train.csv").is_file():
        raise UserError(f"{folder}: no such folder; set the environment variable SHARED")
    rows = pd.read_csv(folder / "train.csv", dtype=str)
    patients = np.random.default_rng(0).permutation(rows["patient"].unique())
    rows = rows.set_index("patient").loc[patients].reset_index()
    val, rest = rows[:num_val], rows[num_val:]
    train = rest[~rest["patient"].isin(val["patient"])][:num_train]
    chosen = pd.concat([val.assign(fold=0), train.assign(fold=1)])
    return chosen.rename(columns={"pneumonia": "label"})[["id", "label", "fold"]], folder / "train"


def _draw_photographs(num_train, num_val):
    """JPEGs of 2048x1365 that compress like photographs; drawn once, into outputs/benchmarks/photographs."""
    folder, number = Path("outputs/benchmarks/photographs").resolve(), num_train + num_val
    names = [f"{row:04}.jpg" for row in range(number)]
    for row, name in enumerate(names):
        if not (folder / name).is_file():
            _, data = cv2.imencode(".jpg", draw_photograph(row), [cv2.IMWRITE_JPEG_QUALITY, 90])
            with atomic_path(folder / name) as path:
                path.write_bytes(data.tobytes())
    labels, folds = np.arange(number) % 2, (np.arange(number) >= num_val).astype(int)
    return pd.DataFrame({"id": names, "label": labels, "fold": folds}), folder


def draw_photograph(seed, height=1365, width=2048):
    """Return (height, width, 3) uint8: smooth noise of several scales, and fine texture; odd seeds are brighter."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 110.0 + 20 * (seed % 2), np.float32)
    for cells, strength in ((3, 40), (12, 25), (48, 15), (200, 9), (700, 5)):
        noise = random.normal(0, strength, (cells * height // width + 2, cells + 2, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image += random.normal(0, 3, (height, width, 1)).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8)
