"""The self-test: our augmentation passes; one that repeats or depends on workers, and ignored arguments, do not."""

import random

import numpy as np
import pytest

from src.config.settings import Competition
from tools.doctor import augmentation
from tools.doctor.augmentation import check_augmentation, collect_samples, compare_samples


class Shifted:
    """An augmentation that takes its random numbers from somewhere, as tests need."""

    decode_size = (32, 32)
    num_views = 1
    transforms = ()

    def __init__(self, numbers):
        self.numbers = numbers
        self.calls = 0

    def __call__(self, image, seed):
        self.calls += 1
        number = {"seed": seed, "calls": self.calls, "own": random.getrandbits(30), "none": 0}[self.numbers]
        shown = np.zeros((8, 8, 3), np.uint8)
        shown[0, :2] = np.frombuffer(np.uint64(number).tobytes()[:6], np.uint8).reshape(2, 3)
        return shown


def judged(clinic, numbers):
    data, _ = clinic.load()
    table = data.train.take(np.zeros(8, int))
    here, there = (collect_samples(table, Competition(), Shifted(numbers), 0, workers) for workers in (0, 2))
    return len(set(there)), [one.title for one in compare_samples(here, there, 24)]


def test_ours_passes(clinic):
    findings, [fact] = check_augmentation(clinic.load("augment.preset=heavy")[0], 0)
    assert findings == []
    assert fact.lines[0].startswith("24 of 24 samples of one image are distinct")
    assert any("RandomResizedCrop" in line for line in fact.lines)


def test_one_that_does_nothing_or_little_is_no_repetition(clinic):
    findings, [fact] = check_augmentation(clinic.load("augment.preset=none", "augment.flips=none")[0], 0)
    assert findings == []
    assert fact.lines[0].startswith("1 of 24 samples")
    flips = "augment.transforms=[HorizontalFlip]"
    assert check_augmentation(clinic.load(flips)[0], 0)[0] == []


def test_seeded_samples_pass_and_others_do_not(clinic):
    assert judged(clinic, "seed") == (24, [])
    count, titles = judged(clinic, "calls")  # each worker counts for itself: 2 see the same numbers
    assert count < 18
    assert titles[0].endswith("augmented samples differ between 2 workers and one process")
    assert titles[1].startswith(f"augmentation repeats itself: {count} distinct samples of 24")
    assert len(judged(clinic, "own")[1]) >= 1
    assert judged(clinic, "none")[1] == [
        "augmentation repeats itself: 1 distinct samples of 24 over epochs and workers, where independent random "
        "numbers give 24"
    ]


@pytest.mark.parametrize(
    ("transforms", "words"),
    [
        ("[{CoarseDropout: {max_holes: 3}}]", "CoarseDropout has no max_holes"),
        ("[{GaussNoise: {var_limit: 3}}]", "GaussNoise has no var_limit"),
        ("[Rotat]", "albumentations has no Rotat"),
    ],
)
def test_ignored_arguments_are_errors(clinic, transforms, words):
    [finding], facts = check_augmentation(clinic.load(f"augment.transforms={transforms}")[0], 0)
    assert finding.severity == "error"
    assert words in finding.title
    assert facts == []


def test_pixels_that_the_backbone_cannot_normalise(clinic):
    for name in clinic.read()["id"]:
        np.save(clinic.root / "train" / f"{name}.npy", np.random.default_rng(0).random((64, 64, 3)))
    words = "competition.train_image=train/{id}.npy"
    [finding], _ = check_augmentation(clinic.load(words)[0], 0)
    assert (finding.severity, finding.advice) == ("error", "set normalize=dataset")
    assert check_augmentation(clinic.load(words, "normalize=dataset")[0], 0)[0] == []


def test_the_whole_check_uses_the_workers(clinic, monkeypatch):
    monkeypatch.setattr(augmentation, "build_transforms", lambda *_: (Shifted("calls"), Shifted("none")))
    findings, _ = check_augmentation(clinic.load()[0], 0)
    assert [one.severity for one in findings] == ["error", "error"]
