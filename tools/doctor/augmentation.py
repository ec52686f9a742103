"""A self-test of augmentation, through the loader that training uses: is what workers and epochs see distinct?

The idea to know: one picture stands in all rows, so that two samples are the same only where their random numbers are.
"""

import warnings
from hashlib import blake2b

import numpy as np

from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.errors import UserError
from src.training.learner import build_augmentations
from tools.doctor.findings import Fact, Finding, make_finding

_NUM_ROWS, _NUM_EPOCHS, _NUM_WORKERS = 8, 3, 2
_ENOUGH = 0.75  # share of the distinct pictures that independent random numbers give


def check_augmentation(case, row):
    """Return (findings, facts) about the augmentation of a `case.Case`, tried on one row of its training table."""
    config, path = case.config, str(case.train.paths[row])
    channels = config.competition.channels
    try:
        augmentation, plain = build_augmentations(config, case.train.take([row]))
    except UserError as error:
        return [make_finding(error, advice="correct the augmentation")], []
    table = case.train.take(np.full(_NUM_ROWS, row))
    image = decode_image(path, channels, augmentation.decode_size)
    expected = len({_digest(augmentation(image, seed)) for seed in range(_NUM_ROWS * _NUM_EPOCHS)})
    here, there = (
        collect_samples(table, channels, augmentation, config.seed, workers) for workers in (0, _NUM_WORKERS)
    )
    findings = judge_samples(here, there, expected)
    changed = float(np.mean([_differs(augmentation(image, seed), plain(image, 0)) for seed in range(_NUM_ROWS)]))
    seen = f"{len(set(there))} of {len(there)} samples of one picture are distinct"
    lines = [
        f"{seen} (epochs x workers x rows; independent seeds give {expected})",
        f"{changed:.0%} differ from the plain picture",
        *augmentation.describe(),
    ]
    return findings, [Fact("augmentation", tuple(lines))]


def collect_samples(table, channels, augmentation, seed, num_workers):
    """Return a digest of every sample of some epochs, in order, as the loader yields them.

    Raises:
        UserError: an image cannot be decoded.
    """
    dataset = ImageDataset(table, channels, augmentation, augmentation.decode_size, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # two are a test on one core too
        loader = build_loader(dataset, 2, num_workers)
        batches = (batch["image"].numpy() for epoch in range(_NUM_EPOCHS) for batch in loader.batches(epoch))
        samples = [_digest(image) for batch in batches for image in batch]
    loader.close()
    return samples


def judge_samples(here, there, expected):
    """Return the findings about samples of one picture.

    Args:
        here: digests of samples that this process made.
        there: of the same ones from several workers.
        expected: distinct pictures among as many that independent random numbers gave.
    """
    findings = []
    if here != there:
        differing = sum(one != other for one, other in zip(here, there, strict=True))
        findings.append(
            Finding(
                "error",
                f"{differing} of {len(here)} augmented samples differ between {_NUM_WORKERS} workers and one process",
                "a transform keeps random numbers of its own: seed it by data.augment.Augmentation, or leave it out",
            )
        )
    if len(set(there)) < _ENOUGH * expected:
        findings.append(
            Finding(
                "error",
                f"augmentation repeats itself: {len(set(there))} distinct samples of {len(there)} over epochs and "
                f"workers, where independent random numbers give {expected}",
                "each sample must be seeded from (seed, epoch, row, copy), as data.loader.ImageDataset does",
            )
        )
    return findings


def _digest(image):
    return blake2b(np.ascontiguousarray(image), digest_size=8).hexdigest()


def _differs(image, plain):
    return not np.array_equal(image[0] if image.ndim == 4 else image, plain)
