"""Competitions in miniature for benchmarks.auto: real and made images, split anew, with the answers apart."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from src.config.settings import REPOSITORY
from src.errors import UserError


@dataclass(frozen=True)
class Case:
    """How a competition is cut from a source.

    source: pneumonia, flowers or tiny of SHARED/competitions; digits, textures or shapes, which are made.
    layout: binary (the second class), one_hot, names, or pairs: two images beside each other, a column for each class
    that one of them shows, grouped by the pool that both are drawn from.
    """

    source: str
    num_train: int
    num_test: int = 800
    layout: str = "binary"
    size: int | None = None  # px of the stored files; None: the source's
    positives: float | None = None  # share of the positive class in both tables; None: the source's
    noise: float = 0.0  # share of the training labels that are wrong


CASES = {
    "xrays": Case("pneumonia", 3000, 1100),
    "xrays_200": Case("pneumonia", 200, 1200),
    "xrays_noise": Case("pneumonia", 600, 1000, noise=0.1, size=128),
    "flowers": Case("flowers", 2400, layout="one_hot"),
    "flowers_150": Case("flowers", 150, 1200, layout="names"),
    "flowers_pairs": Case("flowers", 1000, layout="pairs"),
    "tiny": Case("tiny", 6000, 1500),
    "tiny_1in20": Case("tiny", 1500, 1500, positives=0.05),
    "tiny_500": Case("tiny", 500, 1500),
    "digits_300": Case("digits", 300, 1000, layout="one_hot", size=32),
    "textures": Case("textures", 600, layout="names", size=128),
    "shapes": Case("shapes", 400, layout="one_hot", size=224),
}


def build_case(case, folder, seed=0):
    """Write a case's images, train.csv and sample_submission.csv into `folder`, and the answers beside it.

    Returns:
        the path of the answers, a CSV with the sample's columns.
    """
    folder, solution = Path(folder), Path(f"{folder}_solution.csv")
    if solution.is_file():
        return solution
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(seed)
    images, labels, groups, names = SOURCES[case.source](case, rng)
    if case.layout == "pairs":
        images, targets, groups = _pair(images, labels, len(names), 2 * (case.num_train + case.num_test), rng)
    else:
        targets = np.eye(len(names), dtype=int)[labels]
    is_test = _split(len(targets), groups, case, rng)
    if case.layout == "binary":
        targets, names = targets[:, 1:2], [names[1]]
    rows = {
        which: _draw(np.flatnonzero(is_test == which), targets, count, case.positives, rng)
        for which, count in ((False, case.num_train), (True, case.num_test))
    }
    answers = None
    for which, places in rows.items():
        ids = [f"{'test' if which else 'train'}_{number}" for number in range(len(places))]
        place = folder / ("test" if which else "train")
        place.mkdir(parents=True)
        for name, number in zip(ids, places, strict=True):
            image = images(number)
            if case.size and image.shape[0] != case.size:
                image = cv2.resize(image, (case.size, case.size), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(place / f"{name}.png"), image)
        table, own = pd.DataFrame({"id": ids}), targets[places].copy()
        if not which and case.noise:
            wrong = rng.random(len(own)) < case.noise
            own[wrong] = np.roll(own[wrong], 1, axis=1) if own.shape[1] > 1 else 1 - own[wrong]
        if which or case.layout != "names":
            table[names] = own
        else:
            table["label"] = np.array(names)[own.argmax(axis=1)]
        if not which:
            if groups is not None:
                table["group"] = groups[places]
            table.to_csv(folder / "train.csv", index=False)
        else:
            answers = table
            table.assign(**dict.fromkeys(names, 0.5)).to_csv(folder / "sample_submission.csv", index=False)
    answers.to_csv(solution, index=False)
    return solution


def _split(num_rows, groups, case, rng):
    """Return bool (N,), whether a row may be tested; no group is on both sides."""
    groups = np.arange(num_rows) if groups is None else groups
    known = rng.permutation(np.unique(groups))
    share = case.num_test / (case.num_test + case.num_train)
    return np.isin(groups, known[: round(share * len(known))])


def _draw(places, targets, count, positives, rng):
    places = rng.permutation(places)
    if positives is not None:
        is_positive = targets[places, 0] == 1
        wanted = round(count * positives)
        places = rng.permutation(np.r_[places[is_positive][:wanted], places[~is_positive][: count - wanted]])
    return places[:count]


def _pair(images, labels, num_classes, count, rng):
    """Return (number -> two images of one of 40 pools beside each other, (count, K) of either, (count,) pool)."""
    pools = rng.integers(_NUM_POOLS, size=len(labels))
    left = rng.integers(len(labels), size=count)
    right = np.array([rng.choice(np.flatnonzero(pools == pools[one])) for one in left])
    targets = np.zeros((count, num_classes), dtype=int)
    targets[np.arange(count), labels[left]] = targets[np.arange(count), labels[right]] = 1
    return (lambda number: np.hstack([images(left[number]), images(right[number])])), targets, pools[left]


def _competition(case, rng):
    """Return (number -> image, labels (N,), groups (N,) or None, class names) of SHARED/competitions/<source>."""
    root = Path(os.environ.get("SHARED", REPOSITORY.parent / "shared")) / "competitions" / case.source
    if not root.is_dir():
        raise UserError(f"{root}: is not there; set SHARED to the folder that holds competitions/{case.source}")
    table = pd.read_csv(root / "train.csv", dtype={"id": str})
    names = [name for name in table.columns[1:] if name != "patient"]
    labels = table[names].to_numpy().argmax(axis=1) if len(names) > 1 else table[names[0]].to_numpy()
    folder, suffix = ("images", ".jpg") if (root / "images").is_dir() else ("train", "")
    suffix = suffix if not Path(table.iloc[0, 0]).suffix else ""
    paths = [str(root / folder / f"{one}{suffix}") for one in table.iloc[:, 0]]
    return (
        lambda number: cv2.imread(paths[number]),
        labels,
        table["patient"].to_numpy() if "patient" in table else None,
        names if len(names) > 1 else ["other", names[0]],
    )


def _digits(case, rng):
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images * 15.9).astype(np.uint8)

    def image(number):
        large = cv2.resize(images[number], (case.size, case.size), interpolation=cv2.INTER_CUBIC)
        return cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)

    return image, found.target, None, [f"digit_{one}" for one in range(10)]


def _made(draw, names):
    """Return a source of endless images, draw(label, rng, size) -> (size, size, 3) uint8."""

    def build(case, rng):
        count = 2 * (case.num_train + case.num_test)
        labels, seeds = rng.integers(len(names), size=count), rng.integers(2**31, size=count)
        return (
            lambda number: draw(labels[number], np.random.default_rng(seeds[number]), case.size),
            labels, None, names,
        )  # fmt: skip

    return build


def _draw_texture(label, rng, size):
    """Noise that was filtered: classes differ by its scale and direction, slightly."""
    noise = rng.standard_normal((size, size, 3)).astype(np.float32)
    long, short = [(2.0, 2.0), (2.6, 1.6), (3.2, 1.3), (2.0, 1.4), (1.4, 2.0)][label]
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=long, sigmaY=short)
    angle = rng.normal(0, 10)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), angle, rng.uniform(1.0, 1.3))
    noise = cv2.warpAffine(noise, turn, (size, size), borderMode=cv2.BORDER_REFLECT_101)
    noise = noise / noise.std() * rng.uniform(15, 50) + rng.uniform(90, 160, size=3)
    return noise.clip(0, 255).astype(np.uint8)


def _draw_shape(label, rng, size):
    """Outlines of 3 to 7 corners on speckled ground, of any colour, place, size and angle."""
    ground = rng.uniform(0, 255, 3) + 40 * rng.standard_normal((size, size, 3))
    image = cv2.GaussianBlur(ground.clip(0, 255).astype(np.uint8), (0, 0), rng.uniform(0.5, 2))
    for _ in range(rng.integers(3)):
        ends = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(image, *ends, rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    radius = rng.uniform(0.1, 0.3) * size
    center = rng.uniform(radius, size - radius, 2)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(3 + label) + rng.uniform(-0.15, 0.15)) / (3 + label)
    corners = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    color, width = rng.uniform(0, 255, 3).tolist(), int(rng.integers(2, 5))
    cv2.polylines(image, [corners.astype(np.int32)], True, color, width, cv2.LINE_AA)
    return image


_NUM_POOLS = 40
SOURCES = {
    "pneumonia": _competition,
    "flowers": _competition,
    "tiny": _competition,
    "digits": _digits,
    "textures": _made(_draw_texture, ["even", "flat", "flatter", "fine_flat", "fine_tall"]),
    "shapes": _made(_draw_shape, ["three", "four", "five", "six", "seven"]),
}
