"""What the parts of the GPU benchmark share: its images and sizes, a learner of the pipeline, and timers."""

import gc
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import spread
from src.config.load import load_config
from src.data.dataset import ImageDataset, build_loader
from src.files import save_text
from src.training import run as runs
from src.training.engine import load_inputs, to_device
from src.training.learner import build_learner, build_transforms

COMPETITION = """competition:
  name: gpu
  root: {root}
  train_table: train.csv
  id: id
  train_image: train/{{id}}
  label: label
  task: multiclass
  metric: accuracy
  fold: fold
"""


class LeftOut(Exception):
    """A figure that cannot be had here, and why."""


@dataclass(frozen=True)
class Sizes:
    """How large the figures are."""

    models: tuple  # that are timed
    small: tuple  # that are compared with the CPU: a ResNet, a ConvNeXt, a ViT
    image_size: int
    num_images: int
    height: int  # of the files
    width: int
    batch_size: int  # the largest that is tried
    small_batch: int  # of comparisons with the CPU
    steps: int  # of a timed epoch
    repeats: int
    seconds: float  # of a timed loader


SIZES = {
    "cuda": Sizes(
        ("resnet50", "convnext_nano", "vit_small_patch16_224"), ("resnet18", "convnext_atto", "vit_tiny_patch16_224"),
        224, 4096, 375, 500, 128, 16, 60, 3, 2.0,
    ),
    "cpu": Sizes(
        ("test_resnet", "test_convnext", "test_vit"), ("test_resnet", "test_convnext", "test_vit"),
        32, 64, 60, 80, 8, 4, 3, 2, 0.1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Where and how large; ends_at (time.monotonic): when the part's share is over."""

    device: torch.device
    folder: Path
    sizes: Sizes
    ends_at: float

    @classmethod
    def of(cls, given, ends_at):
        return cls(torch.device(given["device"]), Path(given["folder"]), SIZES[given["device"]], ends_at)

    @property
    def is_cuda(self):
        return self.device.type == "cuda"

    @property
    def seconds_left(self):
        return self.ends_at - time.monotonic()

    def check_can_compile(self, seconds):
        """Raise LeftOut where a compiled network cannot be had within the time that it needs."""
        if not self.is_cuda:
            raise LeftOut("compiling takes a CPU a minute")
        if self.seconds_left < seconds:
            raise LeftOut(f"compiling needs {seconds} s")
        if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang", "cc")))):
            raise LeftOut("compiling needs a C compiler (gcc), which is not installed")

    def config(self, model, *words):
        """Return the Config of a network on the drawn images; words come last."""
        how = [
            f"competition={self.folder}/competition.yaml", "folds=column", "fold=0", f"output_dir={self.folder}/runs",
            f"cache_dir={self.folder}/cache", "cache=on", "tracking=none", "report=false", "model.pretrained=false",
            f"model.backbone={model}", f"image_size={self.sizes.image_size}", f"device={self.device}",
            f"train.batch_size={self.sizes.batch_size}", f"train.batches_per_epoch={self.sizes.steps}",
            "train.epochs=100",
        ]  # fmt: skip
        on_cpu = ("threads=1", "train.num_workers=1", "precision=fp32")  # of which nothing is timed
        return load_config([*how, *(() if self.is_cuda else on_cpu), *words])

    def run(self, model, *words):
        """Return the training.run.Run of `config`, its precision settled and its caches open."""
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)  # of the learner before
        config = self.config(model, *words)
        run = runs.load_run(config, runs.start_processes(config))
        runs.settle_precision(run)
        run.unfinished = [0]
        runs.prepare_inputs(run)
        return run

    def learner(self, model, *words):
        """Return the training.learner.Learner of fold 0, at the start of its first epoch."""
        run = self.run(model, *words)
        learner = build_learner(run, 0)
        learner.start_epoch(0, run.config.seed, 0, 0, 0)
        return learner

    def train_data(self, *words):
        """Return (Config, ImageDataset) of all rows, augmented as in training, from the cache unless cache=off."""
        run = self.run(self.sizes.models[0], *words)
        transform, _ = build_transforms(run.config, run.table)
        return run.config, ImageDataset(run.table, run.config.competition, transform, run.config.seed, run.caches)

    def resident_batch(self, learner):
        """Return a batch of the learner's loader on the device, augmented."""
        loader = learner.train_loader
        batches = loader.batches(0)
        batch = next(batches)
        batches.close()
        moved = {"inputs": load_inputs(batch, self.device), "target": to_device(batch["target"], self.device)}
        self.synchronize()
        return moved

    def synchronize(self):
        if self.is_cuda:
            torch.cuda.synchronize()

    def time(self, function, *arguments):
        """Return the seconds of a call, until the device has done what it began."""
        self.synchronize()
        began = time.perf_counter()
        function(*arguments)
        self.synchronize()
        return time.perf_counter() - began

    def time_by_turns(self, functions, repeats=None):
        """Return the seconds of each function, repeated by turns, each round beginning with another; all are warm."""
        seconds = [[] for _ in functions]
        for repeat in range(repeats or self.sizes.repeats):
            for number in range(len(functions)):
                place = (number + repeat) % len(functions)
                seconds[place].append(self.time(functions[place]))
        return seconds


def build_step(learner, batch):
    """Return () -> one training step on a batch that is on the device: what no loop can leave out."""
    network, accelerator = learner.network, learner.accelerator

    def step():
        inputs, targets = network.normalize(batch["inputs"]), batch["target"]
        if learner.mixer:
            inputs, targets = learner.mixer(inputs, targets, learner.generator)
        with accelerator.autocast():
            logits = learner.model(**inputs)
        accelerator.backward(learner.loss_function(logits, targets))
        learner.optimizer.step()
        learner.optimizer.zero_grad()

    learner.model.train()
    return step


def repeat(function, count):
    """Return () -> the function called so often."""

    def run():
        for _ in range(count):
            function()

    return run


def halve_until_it_fits(attempt, batch_size, least=1):
    """Return (what attempt(batch_size) returns, batch_size), halved while the device is out of memory."""
    while True:
        try:
            return attempt(batch_size), batch_size
        except torch.OutOfMemoryError:
            if batch_size // 2 < least:
                raise
        batch_size //= 2
        free()


def free():
    """Give the device's memory back."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def rates(num_images, seconds):
    """Return the spread of images/s."""
    return spread(num_images / one for one in seconds)


def shown(values, digits=0, unit=""):
    """Return "1,234 (1,200..1,300) unit" of a spread."""
    return "{median:,.{d}f} ({min:,.{d}f}..{max:,.{d}f}){unit}".format(**values, d=digits, unit=unit)


def time_loader(loader, seconds, warm_up):
    """Return images/s of a Loader alone over about so many seconds, after warm_up batches; it is closed."""
    began, count, batches = None, 0, loader.batches(0)
    for number, batch in enumerate(batches):
        if began is not None:
            count += len(batch["index"])
            if time.perf_counter() - began > seconds:
                break
        elif number + 1 >= warm_up:
            began = time.perf_counter()
    took = time.perf_counter() - began
    batches.close()
    loader.close()
    return count / took


def endless_loader(dataset, batch_size, num_workers):
    """Return a shuffled Loader of more batches than anybody times."""
    return build_loader(dataset, batch_size, num_workers, shuffle_seed=0, num_batches=2_000)


def write_competition(folder, num_rows):
    """Write the competition's table and settings; its images are train/0000.jpg and on."""
    rows = np.arange(num_rows)
    lines = [f"{row:04}.jpg,{row % 10},{int(row >= max(20, num_rows // 8))}" for row in rows]
    save_text(folder / "train.csv", "\n".join(["id,label,fold", *lines]) + "\n")
    peers = [f"{row:04}.jpg,{row % 2},{int(row >= 8)}" for row in rows]
    save_text(folder / "peers.csv", "\n".join(["id,label,fold", *peers]) + "\n")
    save_text(folder / "competition.yaml", COMPETITION.format(root=json.dumps(str(folder))))
