"""Runs over tables that a test makes, with the embedded competition's settings, as `training.run` builds them."""

import numpy as np
from accelerate.state import PartialState
from PIL import Image

from src.checkpointing.interrupts import Interrupts
from src.checkpointing.run_folder import RunFolder
from src.competition.image_files import Paths
from src.competition.tables import ImageTable
from src.config.load import load_config
from src.evaluation.metrics import build_metric
from src.training.run import Run


def make_table(folder, images, targets, folds=None):
    """Write images (N, H, W[, 3]) uint8 as PNG files; return their ImageTable with targets (N, K) and folds (N,)."""
    paths = [str(folder / f"{row}.png") for row in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    targets = np.asarray(targets, np.float32)
    return ImageTable(
        ids=np.arange(len(images)).astype(str), paths=Paths.of(paths), targets=targets,
        target_names=tuple(f"t{column}" for column in range(targets.shape[1])), groups=None, folds=folds,
    )  # fmt: skip


def make_run(folder, accelerator, table, *words):
    """Return the Run of a table with its folds, on one process in fp32; it writes to <folder>/outputs."""
    config = load_config([f"output_dir={folder}/outputs", "precision=fp32", "train.channels_last=true", *words])
    competition = config.competition
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    folds = [] if table.folds is None else sorted({int(fold) for fold in table.folds if fold >= 0})
    run = Run(config, RunFolder(config.run_folder), metric, table, PartialState(), num_workers=0, folds=folds)
    run.accelerator, run.unfinished, run.interrupts = accelerator, list(folds), Interrupts(10, None)
    return run
