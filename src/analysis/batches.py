"""What training sees: its images, from the dataset that it reads, resized, augmented and mixed, with their labels."""

from functools import partial

import numpy as np
import pandas as pd
import torch

from src.analysis.labels import describe_targets, list_class_names
from src.competition.paths import settle_num_images
from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.data.inspection import describe_transforms, tile_images
from src.data.mixup_cutmix import mix_batch
from src.data.transforms import build_augmentation, build_resize
from src.training.engine import load_inputs


def choose_rows(table, num_rows, seed):
    """Return rows (int) of an ImageTable in random order, of each class one before a second of any.

    A row counts as its rarest label; rows without a label are a class of their own, of regression ten ranges are the
    classes.
    """
    has_label = _find_labels(table.strata if table.task == "regression" else table.targets)
    rarest = np.where(has_label, has_label.sum(axis=0), np.inf).argmin(axis=1)
    classes = pd.Series(np.where(has_label.any(axis=1), rarest, -1)).sample(frac=1, random_state=seed)
    return classes.groupby(classes).cumcount().sort_values(kind="stable").index[:num_rows].to_numpy()


def count_classes(table, names):
    """Return how many rows of an ImageTable each class has, a Series; names: of `list_class_names`.

    Rows that are known to have none of several labels are "none".
    """
    targets = table.targets[~np.isnan(table.targets).all(axis=1)]
    if targets.shape[1] == 1:
        names = names if len(names) == 2 else [f"{names[0]}=0", f"{names[0]}=1"]
        targets = np.hstack([1 - targets, targets])
    has_label = _find_labels(targets)
    counts = pd.Series(has_label.sum(axis=0), index=[str(name) for name in names], name="images")
    if without := int((~has_label.any(axis=1)).sum()):
        counts["none"] = without
    return counts


def _find_labels(targets):
    """Return (N, C) bool: which labels a row counts as, from targets in [0, 1]: from 0.5 on, or its largest."""
    targets = np.nan_to_num(targets.astype(np.float64))
    return (targets > 0) & (targets >= np.minimum(0.5, targets.max(axis=1, keepdims=True)))


def compute_columns(config, table, num_augmented=7):
    """Return what training sees of a few rows, as columns of a grid, and a line for each transform.

    Returns:
        [(heading, images, captions), ...], the resized images first, then `num_augmented` others; images are (H, W, C)
        arrays, one for each row of the table (several images of a row side by side), captions their labels. Row k of
        epoch e is drawn with (config.seed, e, k).

    Raises:
        UserError: an image cannot be decoded, or the augmentation cannot be built.
    """
    config = settle_num_images(config, table.paths)
    competition, channels = config.competition, config.competition.channels
    is_uint8 = decode_image(str(table.paths[0]), competition).dtype == np.uint8
    augmentation = build_augmentation(config, is_uint8)
    datasets = [ImageDataset(table, competition, one, config.seed) for one in (build_resize(config), augmentation)]
    plain, augmented = (build_loader(dataset, len(table), num_workers=0) for dataset in datasets)

    names = list_class_names(competition, table.target_names)
    describe = partial(describe_targets, names=names, task=table.task)
    labels = [describe(targets) for targets in table.targets]
    ids = [f"{name}\n{label}" for name, label in zip(table.ids, labels, strict=True)]
    columns = [("resized", join_images(next(plain.batches(0))["inputs"], channels), ids)]
    mixer = partial(mix_batch, config.mix) if config.mix.prob else None
    for epoch in range(num_augmented):
        inputs, captions = load_inputs(next(augmented.batches(epoch)), torch.device("cpu")), labels
        if augmentation.num_views > 1:
            views = [f"epoch {epoch + 1}", *(f"epoch {epoch + 1}, AugMix {number}" for number in (1, 2))]
            columns += [(heading, join_images(inputs, channels)[:, view], labels) for view, heading in enumerate(views)]
            continue
        if mixer:
            inputs, targets = _mix(mixer, inputs, table.targets, config.seed + epoch)
            captions = [describe(row) for row in targets]
        columns.append((f"epoch {epoch + 1}", join_images(inputs, channels), captions))
    return columns[: 1 + num_augmented], describe_transforms(augmentation.transforms)


def join_images(inputs, channels):
    """Return the images (N, ..., H, W, C) of a batch as an array, several of a row in a grid or, by name, in a line."""
    return np.concatenate([tile_images(one.numpy(), channels) for one in inputs.values() if one.ndim >= 4], axis=-2)


def to_uint8(image):
    """Return an image (H, W, C) as (H, W, 3) or, of other numbers of channels, its first one as (H, W, 1), uint8.

    Numbers that are not 8-bit are scaled to their own range.
    """
    image = image if image.shape[2] == 3 else image[..., :1]
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    return np.uint8(np.rint((image - low) * (255 / (high - low)))) if high > low else np.zeros_like(image, np.uint8)


def _mix(mixer, inputs, targets, seed):
    """Mix the inputs {name: (N, ...) tensor} of one batch, and their targets."""
    generator = torch.Generator().manual_seed(seed)
    batch = {name: one.permute(0, 3, 1, 2).float() if one.ndim == 4 else one for name, one in inputs.items()}
    batch, targets = mixer(batch, torch.from_numpy(targets), generator)
    for name, one in inputs.items():
        if one.ndim == 4:
            mixed = batch[name].permute(0, 2, 3, 1)
            batch[name] = mixed if one.is_floating_point() else mixed.round().to(one.dtype)
    return batch, targets.numpy()
