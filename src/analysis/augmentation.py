"""What augmentation does to a network's predictions: which class turns into which, and the transform that does it."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from src.analysis.labels import list_class_names
from src.competition.targets import standardize
from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.data.inspection import describe_transforms
from src.data.transforms import Augmentation, build_augmentation, build_resize
from src.evaluation.metrics import positives
from src.model.losses import probabilities
from src.training.engine import iterate_inputs

_BATCH = 32


@dataclass(frozen=True)
class AugmentationEffect:
    """Predictions of the same images, plain and augmented as in training; of regression without classes.

    Attributes:
        class_names: C names; of several labels, the last is "none", for rows of which none is predicted.
        matrix: (C, C) int64, images by the class predicted plain (row) and augmented (column); None: regression. Of
            several labels the most probable one is the class.
        num_images, num_flips: images, and those of which another label is predicted once they are augmented.
        change: mean difference of the probabilities, from 0 to 1 (total variation; of several labels the mean over
            them); of regression the mean absolute difference in deviations of the targets.
        transforms: a DataFrame, a row for each transform applied alone and always, the strongest first: transform (as
            tools.preview writes it, without its probability), images, flips, change; empty: there was no time.
    """

    class_names: list[str]
    matrix: np.ndarray | None
    num_images: int
    num_flips: int
    change: float
    transforms: pd.DataFrame

    @property
    def flip_rate(self):
        """The share of images of which another label is predicted."""
        return self.num_flips / self.num_images

    def list_flips(self, count=None):
        """Return the most frequent changes of class as a DataFrame: plain, augmented, images."""
        off = np.where(np.eye(len(self.class_names), dtype=bool), 0, self.matrix)
        places = np.argsort(-off, axis=None, kind="stable")[: (off > 0).sum()][:count]
        plain, augmented = np.unravel_index(places, off.shape)
        names = np.array(self.class_names, dtype=object)
        return pd.DataFrame({"plain": names[plain], "augmented": names[augmented], "images": off[plain, augmented]})


def compute_augmentation_effect(config, network, table, max_images=200, seconds=None):
    """Predict images of an ImageTable plain and as an epoch of training augments them; return an AugmentationEffect.

    Mixup and CutMix, which change the labels too, are left out.

    Args:
        config: the run's; network: model.network.Network, in evaluation mode on its device.
        table: the rows, best those that the network has not learned from; at most `max_images` are drawn from it.
        seconds: after which no further batch of 32 and no further transform is begun; None: all are.

    Raises:
        UserError: an image cannot be decoded, or the augmentation cannot be built.
    """
    ends = time.perf_counter() + (np.inf if seconds is None else seconds)
    rows = np.random.default_rng(config.seed).permutation(len(table))[:max_images]
    table, task = table.take(np.sort(rows)), table.task
    is_uint8 = decode_image(str(table.paths[0]), config.competition).dtype == np.uint8
    augmentation, resize = build_augmentation(config, is_uint8), build_resize(config)
    plain, augmented = [], []
    for start in range(0, len(table), _BATCH):
        if start and time.perf_counter() > ends:
            break
        part = table.take(slice(start, start + _BATCH))
        for transform, probs in ((resize, plain), (augmentation, augmented)):
            probs.append(_predict(config, network, part, transform))
    found = [np.concatenate(one) for one in (plain, augmented)]
    columns, few = ["transform", "images", "flips", "change"], table.take(slice(0, _BATCH))
    scale = standardize(table.targets)[1] if task == "regression" else None
    alone = []
    for transform in augmentation.transforms:
        if time.perf_counter() > ends:
            alone = []  # the strongest of some would not be the strongest
            break
        probs = _predict(config, network, few, _take_alone(augmentation, transform))
        name = describe_transforms([transform])[0].partition(" ")[2]
        alone.append([name, len(few), *_compare(found[0][: len(few)], probs, task, scale)])
    transforms = pd.DataFrame(alone, columns=columns).sort_values(["change"], ascending=False, ignore_index=True)
    names, matrix = _count_changes(*found, task, list_class_names(config.competition, table.target_names))
    return AugmentationEffect(names, matrix, len(found[0]), *_compare(*found, task, scale), transforms)


def _take_alone(augmentation, transform):
    """Return an Augmentation of one transform of another's, which is then always applied."""
    always = copy.deepcopy(transform)
    always.p = 1.0
    size, source, resize = augmentation.image_size, augmentation.source_size, augmentation.resize
    return Augmentation(size, [always], source, resize=resize)


@torch.inference_mode()
def _predict(config, network, table, transform):
    """Return probabilities (N, C) of a table's rows."""
    loader = build_loader(ImageDataset(table, config.competition, transform, config.seed), _BATCH, num_workers=0)
    inputs = iterate_inputs(loader, 0, network.normalize, network.pixel_mean.device)
    probs = [probabilities(network(**one), config.competition.task).float().cpu().numpy() for one in inputs]
    return np.concatenate(probs).astype(np.float64)


def _compare(plain, augmented, task, scale):
    """Return (number of rows with other labels, mean change) of probabilities (N, C)."""
    if task == "regression":
        return 0, float(np.mean(np.abs(plain - augmented) / scale))
    labels = [positives(one, task == "multiclass") for one in (plain, augmented)]
    change = np.abs(plain - augmented).sum(axis=1) / (2 if task == "multiclass" else plain.shape[1])
    return int((labels[0] != labels[1]).any(axis=1).sum()), float(change.mean())


def _count_changes(plain, augmented, task, names):
    """Return (class names, (C, C) counts) of two predictions (N, C) of the same rows."""
    if task == "regression":
        return names, None
    if task == "binary":
        names = names if len(names) == 2 else [f"{names[0]}=0", f"{names[0]}=1"]
        classes = [(one[:, 0] >= 0.5).astype(int) for one in (plain, augmented)]
    else:
        classes = [one.argmax(axis=1) for one in (plain, augmented)]
    if task == "multilabel":
        names = [*names, "none"]
        classes = [np.where(probs.max(axis=1) >= 0.5, one, len(names) - 1)
                   for probs, one in zip((plain, augmented), classes, strict=True)]  # fmt: skip
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(matrix, tuple(classes), 1)
    return list(names), matrix
