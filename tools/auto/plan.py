"""What is worth its time: (Facts, speeds, seconds left) -> Members to train, by a model of the error; pure."""

import itertools
import math
from dataclasses import dataclass

REFERENCE = 128  # px at which Speeds are measured
SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384)
_EPOCH_SHARES = (0.35, 0.5, 0.7, 1.0, 1.5)
_OVERHEAD = 0.0012  # seconds an image for what is no network: loading, augmentation, 128 px
_SETUP = 3.0  # seconds a fold: table, network, saving
_START = 2.0  # seconds a program
WORST = 3.0  # times the least error; linear models are mostly better than such networks
_TWO_FOLDS = 1000  # training rows, of which a half is enough to learn from


@dataclass(frozen=True)
class Facts:
    """The competition in numbers; height, width: medians of image files; rarest: positives of the rarest column."""

    num_rows: int
    num_test: int
    num_targets: int
    task: str
    metric: str
    is_ranking: bool
    num_groups: int
    rarest: int
    height: int
    width: int
    num_images: int = 1  # a row
    is_pretrained: bool = True
    side: int = 0  # of image_size, epochs and number of folds where they are given; 0: to be decided
    epochs: int = 0
    num_folds: int = 0
    flips: bool = True  # whether the competition lets images be mirrored

    @property
    def most_folds(self):
        """As many as the rarest class and the groups allow."""
        return max(2, min(5, self.rarest or 5, self.num_groups or 5))


@dataclass(frozen=True)
class Speed:
    """Seconds an image of REFERENCE px on one lane, to train on it and to predict it, each in the faster precision.

    train_half: where the upper half of the stages learns, num_half of them; None: not measured.
    """

    train: float
    predict: float
    train_precision: str = "fp32"
    predict_precision: str = "fp32"
    train_half: float | None = None
    num_half: int = 0


@dataclass(frozen=True)
class Member:
    """A run of train.py: all folds of one backbone at one size."""

    backbone: str
    size: int  # px of the shorter side
    num_folds: int
    epochs: int
    has_flip: bool = False  # mirrored test images, too
    is_half: bool = False  # the upper half of the stages learns
    seed: int = 42


def image_size(facts, side):
    """Return (height, width) of which the shorter is about `side`, in steps of 32 px, as the files' shape has it."""
    scale = side / min(facts.height, facts.width)
    sides = [max(32, 32 * round(one * scale / 32)) for one in (facts.height, facts.width)]
    return [min(one, 2 * side) for one in sides]


def list_sizes(facts):
    """Return the sides worth training at: up to the files' own, but what is small is enlarged, to 4 times or 96 px."""
    if facts.side:
        return [facts.side]
    side = min(facts.height, facts.width)
    most = min(max(SIZES), max(side, min(224, max(96, 4 * side))))
    return [one for one in SIZES if one <= most * 1.15] or [SIZES[0]]


def count_epochs(num_rows, is_pretrained=True):
    """Return the epochs that a run of so many training rows wants: the fewer images, the more passes."""
    epochs = 300 / math.sqrt(max(num_rows, 1))
    return max(3, min(24, round(epochs if is_pretrained else 4 * epochs)))


def estimate_fold(member, facts, speed):
    """Return the seconds of one fold on one lane: training, validation, and its share of the test images."""
    rows, scale = facts.num_rows, math.prod(image_size(facts, member.size)) / REFERENCE**2
    train, overhead = speed.train_half if member.is_half else speed.train, _OVERHEAD * facts.num_images
    learned = rows * (member.num_folds - 1) / member.num_folds * member.epochs
    predicted = rows / member.num_folds * member.epochs + facts.num_test * (1 + member.has_flip)
    return (learned * (train + overhead) + predicted * (speed.predict + overhead / 2)) * scale + _SETUP


def estimate_features(facts, side, speed, views=2):
    """Return the seconds of a backbone's features, of all training and test rows."""
    scale = math.prod(image_size(facts, side)) / REFERENCE**2
    return (facts.num_rows + facts.num_test) * (views * speed.predict + _OVERHEAD * facts.num_images) * scale


def estimate_wall(members, facts, speeds, num_lanes):
    """Return the seconds until all members' folds are done on the lanes, longest first."""
    lanes = [0.0] * num_lanes
    folds = [estimate_fold(one, facts, speeds[one.backbone]) for one in members for _ in range(one.num_folds)]
    for seconds in sorted(folds, reverse=True):
        lanes[lanes.index(min(lanes))] += seconds
    return max(lanes) + _START


def estimate_error(members, facts, rank):
    """Return the error that a blend of members is expected to have, relative to the best; see docs/hands-off.md.

    rank: {backbone: 1 for the best of the probe, more for worse ones}.
    """
    errors = sorted(_member_error(one, facts, rank) for one in members)
    num_backbones = len({one.backbone for one in members})
    gain = {1: 1.0, 2: 0.85, 3: 0.78}[min(3, num_backbones)] * 0.96 ** (len(members) - num_backbones)
    mean = sum(errors) / len(errors)
    return (0.5 * errors[0] + 0.5 * mean) * gain


def _member_error(member, facts, rank):
    share = (member.num_folds - 1) / member.num_folds
    full = count_epochs(facts.num_rows * share, facts.is_pretrained)
    epochs = member.epochs / full
    error = rank.get(member.backbone, 1.0) * (min(member.size, 224) / 224) ** -0.8
    error *= epochs**-0.35 if epochs < 1 else epochs**-0.05
    error *= (share / 0.8) ** -0.6 * (1 - 0.12 * (1 - 1 / member.num_folds))
    return error * (0.98 if member.has_flip else 1.0) * (1.06 if member.is_half else 1.0)


def choose_members(facts, speeds, rank, seconds, num_lanes, done=(), flips=True, worst=WORST):
    """Return (the Members that promise the least error within `seconds`, that error); [] where none fits.

    flips: whether mirrored images keep their labels; done: Members that are there already, with which they are
    blended, and whose settings get another seed; worst: expected error that is not worth it where none is done.
    """
    best, lowest = [], math.inf
    names = sorted(speeds, key=lambda name: rank.get(name, 1.0))
    can_freeze = facts.is_pretrained and all(one.train_half for one in speeds.values())
    takes_two = facts.num_rows >= _TWO_FOLDS or facts.most_folds < 3 or not facts.is_pretrained
    folds = range(2 if takes_two else 3, facts.most_folds + 1)
    folds = [facts.num_folds] if facts.num_folds else folds
    flips, shares = flips and facts.flips, _EPOCH_SHARES if facts.is_pretrained else (0.12, *_EPOCH_SHARES)
    halves, views = (False, True) if can_freeze else (False,), (False, True) if flips else (False,)
    ways = itertools.product(list_sizes(facts), folds, shares, views, halves)
    for side, num_folds, share, has_flip, is_half in ways:
        full = count_epochs(facts.num_rows * (num_folds - 1) / num_folds, facts.is_pretrained)
        epochs = facts.epochs or max(2 if facts.is_pretrained else 3, round(share * full))
        for count in (1, 2, 3):
            for backbones in itertools.combinations(names, count):
                seeds = [42 + sum(one.backbone == name for one in done) for name in backbones]
                how = side, num_folds, epochs, has_flip, is_half
                members = [Member(name, *how, seed) for name, seed in zip(backbones, seeds, strict=True)]
                if estimate_wall(members, facts, speeds, num_lanes) > seconds:
                    continue
                if facts.is_pretrained and not done and estimate_error(members, facts, rank) > worst:
                    continue
                if (error := estimate_error([*done, *members], facts, rank)) < lowest * 0.995:
                    best, lowest = members, error
    return best, lowest


def describe_facts(facts):
    """Return the Facts in words."""
    groups = f", {facts.num_groups} groups" if facts.num_groups else ""
    rarest = f", rarest {facts.rarest}" if facts.task != "regression" else ""
    return (
        f"{facts.num_rows} training rows{groups}, {facts.num_test} test rows, {facts.num_targets} targets "
        f"({facts.task}{rarest}), images of {facts.width}x{facts.height}, {facts.metric}"
    )
