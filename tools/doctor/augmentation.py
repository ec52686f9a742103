"""A self-test of augmentation with the loader of training: do workers and epochs get distinct random numbers?

All rows hold one image, so that two samples are equal only where their random numbers are.
"""

import warnings
from hashlib import blake2b

import numpy as np
import torch

from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.data.inspection import describe_transforms
from src.errors import UserError
from src.training.engine import load_inputs
from src.training.learner import build_transforms
from tools.doctor.findings import Fact, Finding, make_finding

_NUM_ROWS, _NUM_EPOCHS, _NUM_WORKERS = 8, 3, 2
_ENOUGH = 0.75  # share of the distinct samples that independent random numbers give


def check_augmentation(data, row):
    """Return (findings, facts) about the augmentation of a `CompetitionData`, tried on one training row."""
    config, path = data.config, str(data.train.paths[row])
    try:
        augmentation, plain = build_transforms(config, data.train.take([row]))
    except UserError as error:
        return [make_finding(error, advice="correct the augmentation")], []
    table = data.train.take(np.full(_NUM_ROWS, row))
    image = decode_image(path, config.competition, augmentation.decode_size)
    expected = len({_digest(augmentation(image, seed)) for seed in range(_NUM_ROWS * _NUM_EPOCHS)})
    alone, parallel = (
        collect_samples(table, config.competition, augmentation, config.seed, workers) for workers in (0, _NUM_WORKERS)
    )
    findings = compare_samples(alone, parallel, expected)
    changed = float(np.mean([_differs(augmentation(image, seed), plain(image, 0)) for seed in range(_NUM_ROWS)]))
    counts = f"{len(set(parallel))} of {len(parallel)} samples of one image are distinct"
    lines = [
        f"{counts} (epochs x workers x rows; independent seeds give {expected})",
        f"{changed:.0%} differ from the plain image",
        *describe_transforms(augmentation.transforms),
    ]
    return findings, [Fact("augmentation", tuple(lines))]


def collect_samples(table, competition, augmentation, seed, num_workers):
    """Return a digest of every sample of some epochs, in the sequence that the loader yields.

    Raises:
        UserError: an image cannot be decoded.
    """
    dataset = ImageDataset(table, competition, augmentation, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # on one core too
        loader = build_loader(dataset, 2, num_workers)
        batches = (batch for epoch in range(_NUM_EPOCHS) for batch in loader.batches(epoch))
        images = (load_inputs(batch, torch.device("cpu"))["image"].numpy() for batch in batches)
        samples = [_digest(image) for batch in images for image in batch]
    loader.close()
    return samples


def compare_samples(alone, parallel, expected):
    """Return the findings about samples of one image.

    Args:
        alone: digests of the samples, loaded in this process.
        parallel: digests of the same samples, loaded by several workers.
        expected: number of distinct samples that independent random numbers give.
    """
    findings = []
    if alone != parallel:
        differing = sum(one != other for one, other in zip(alone, parallel, strict=True))
        findings.append(
            Finding(
                "error",
                f"{differing} of {len(alone)} augmented samples differ between {_NUM_WORKERS} workers and one process",
                "a transform draws its own random numbers; seed it in src.data.transforms, or leave it out",
            )
        )
    if len(set(parallel)) < _ENOUGH * expected:
        findings.append(
            Finding(
                "error",
                f"augmentation repeats itself: {len(set(parallel))} distinct samples of {len(parallel)} over epochs "
                f"and workers, where independent random numbers give {expected}",
                "each sample must be seeded from (seed, epoch, row, copy), as src.data.dataset.ImageDataset does",
            )
        )
    return findings


def _digest(image):
    return blake2b(np.ascontiguousarray(image), digest_size=8).hexdigest()


def _differs(image, plain):
    return not np.array_equal(image[0] if image.ndim == 4 else image, plain)
