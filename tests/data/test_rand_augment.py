"""RandAugment and AugMix: what each operation does, by hand, within its bound; the same from the same stream."""

import pickle
import random

import numpy as np
import pytest

from src.config.settings import Augment
from src.data import rand_augment
from src.data.augmentations import Cutout, RandomErasing
from src.data.rand_augment import AugMix, RandAugment
from src.data.transforms import build_augmentation

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(40) * 3, np.arange(48) * 2 + shift) for shift in (0, 10, 20)], axis=2)
SMOOTH = SMOOTH.astype(np.uint8)
ALL_TRANSFORMS = (RandAugment(7), AugMix(3), Cutout(0.4, p=1), RandomErasing(p=1))


def apply(transform, image, seed):
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform(image=image)["image"]


def operate(name, image, share, table=rand_augment._RANDAUGMENT, sign=1):
    function, weakest, strongest, has_sign = table[name]
    return function(image, (sign if has_sign else 1) * (weakest + share * (strongest - weakest)))


@pytest.mark.parametrize("transform", ALL_TRANSFORMS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_all_that_is_random_comes_from_the_transforms_own_stream(transform, channels):
    image = np.ascontiguousarray(IMAGE[..., :channels])
    before = image.copy()
    first = [apply(transform, image, seed) for seed in range(30)]
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    copy = pickle.loads(pickle.dumps(transform))
    for seed in reversed(range(30)):
        assert np.array_equal(apply(copy, image, seed), first[seed])
    assert len({one.tobytes() for one in first}) >= 25
    assert {(one.shape, str(one.dtype)) for one in first} == {(image.shape, "uint8")}
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", ["rand_augment", "augmix", "erasing", "cutout"])
def test_a_pipeline_of_one_transform_depends_on_the_seed_and_not_on_earlier_calls(name):
    """The pipeline hands its one stream to the transform; a transform with a stream of its own would fail."""
    augment = build_augmentation(Augment(preset="none", kwargs={name: 1}), IMAGE.shape[:2], 3, True)
    found = [augment(IMAGE, seed).tobytes() for seed in (3, 4, 3, 5, 4)]
    assert found[0] == found[2]
    assert found[1] == found[4]
    assert len(set(found)) >= 2


def test_randaugment_has_the_papers_fourteen_operations_and_augmix_its_nine():
    assert len(rand_augment._RANDAUGMENT) == 14
    paper = {"autocontrast", "equalize", "posterize", "rotate", "solarize"}
    assert set(rand_augment._AUGMIX) == paper | {"shear_x", "shear_y", "translate_x", "translate_y"}


@pytest.mark.parametrize("name", sorted(rand_augment._RANDAUGMENT.keys() - {"autocontrast", "equalize"}))
@pytest.mark.parametrize("channels", [1, 3])
def test_an_operation_does_nothing_at_magnitude_0_and_more_at_10_than_at_5(name, channels):
    image = SMOOTH[..., :channels]
    nothing, half, full = (operate(name, image, share).astype(float) for share in (0, 0.5, 1))
    assert np.array_equal(nothing, image)
    if name == "identity" or (name == "colour" and channels == 1):
        assert np.array_equal(full, image)
    else:
        assert np.abs(full - image).sum() > np.abs(half - image).sum() > 0


def test_operations_on_pixels_by_hand():
    ramp = np.array([[[10, 100, 200]], [[60, 100, 150]]], np.uint8)
    assert operate("autocontrast", ramp, 1).tolist() == [[[0, 100, 255]], [[255, 100, 0]]]
    assert operate("solarize", ramp, 0.25).tolist() == [[[10, 100, 55]], [[60, 100, 150]]]  # from 192 on
    assert operate("solarize", ramp, 1).tolist() == (255 - ramp).tolist()
    assert operate("posterize", ramp, 1).tolist() == [[[0, 96, 192]], [[48, 96, 144]]]  # the four high bits
    assert operate("posterize", ramp, 0, rand_augment._AUGMIX).tolist() == operate("posterize", ramp, 1).tolist()
    assert operate("posterize", ramp, 0.99, rand_augment._AUGMIX).tolist() == (ramp & 0b10000000).tolist()
    assert operate("brightness", ramp, 1).tolist() == [[[19, 190, 255]], [[114, 190, 255]]]
    assert operate("brightness", ramp, 1, sign=-1).tolist() == [[[1, 10, 20]], [[6, 10, 15]]]
    grey = ramp[..., 1:2]  # its mean is 100
    assert operate("contrast", np.concatenate([grey - 20, grey + 20]), 0.5, sign=-1)[:, 0, 0].tolist() == [
        89,
        89,
        111,
        111,
    ]
    [colourless] = operate("colour", np.array([[[200, 0, 0]]], np.uint8), 1, sign=-1)[0].tolist()
    assert colourless == [74, 54, 54]  # a tenth of the colour and nine tenths of its grey, 60


def test_equalize_makes_the_levels_equally_frequent():
    dark = (RNG.integers(0, 256, (64, 64, 3)) / 16).astype(np.uint8)
    counts = np.histogram(operate("equalize", dark, 0), bins=4, range=(0, 256))[0]
    assert counts.min() > 0.15 * dark.size


def test_sharpness_moves_away_from_the_smoothed_image():
    dot = np.zeros((5, 5, 1), np.uint8)
    dot[2, 2] = 130
    softer, sharper = operate("sharpness", dot, 1, sign=-1), operate("sharpness", dot, 1)
    assert softer[1:4, 1:4, 0].tolist() == [[9, 9, 9], [9, 58, 9], [9, 9, 9]]  # .9 of 130 * (1 or 5) / 13, .1 of 130
    assert sharper[2, 2, 0] == 202
    assert sharper[1, 1, 0] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_operations_that_move_the_image_go_as_far_as_they_say(sign):
    def found(name, row, column, share=1.0, table=rand_augment._RANDAUGMENT):
        image = np.zeros((101, 101, 1), np.uint8)
        image[row - 1 : row + 2, column - 1 : column + 2] = 255
        weight = operate(name, image, share, table, sign)[..., 0].astype(float)
        rows, columns = np.mgrid[:101, :101]
        return (weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()

    near = pytest.approx
    assert found("translate_x", 50, 50) == near((50, 50 + sign * 45.45), abs=0.1)
    assert found("translate_y", 50, 50, 0.5) == near((50 + sign * 22.7, 50), abs=0.1)
    assert found("translate_y", 50, 50, 1, rand_augment._AUGMIX) == near((50 + sign * 33.7, 50), abs=0.1)
    assert found("shear_x", 20, 50) == near((20, 50 - sign * 9), abs=0.5)
    assert found("shear_y", 50, 80) == near((50 + sign * 9, 80), abs=0.5)
    for name in ("shear_x", "shear_y", "rotate"):
        assert found(name, 50, 50) == near((50, 50), abs=0.01)
    assert found("rotate", 50, 80) == near((50 - sign * 15, 50 + 30 * 3**0.5 / 2), abs=0.1)


def test_randaugment_draws_two_operations_of_all_with_both_signs(monkeypatch):
    drawn = []
    table = {
        name: (lambda image, amount, name=name: drawn.append((name, amount)) or image, *rest)
        for name, (_, *rest) in rand_augment._RANDAUGMENT.items()
    }
    monkeypatch.setattr(rand_augment, "_RANDAUGMENT", table)
    for seed in range(300):
        apply(RandAugment(5), IMAGE, seed)
    assert len(drawn) == 600
    names = [name for name, _ in drawn]
    assert min(names.count(name) for name in table) > 600 / 14 / 2
    for name, (_, weakest, strongest, has_sign) in table.items():
        half = weakest + 0.5 * (strongest - weakest)
        assert {amount for other, amount in drawn if other == name} == ({half, -half} if has_sign else {half})


def test_augmix_draws_its_chains_and_their_strength(monkeypatch):
    depths, levels = [], []

    def operation(image, amount):
        levels.append(amount)
        return image

    monkeypatch.setattr(rand_augment, "_AUGMIX", {"count": (operation, 0, 10, False)})
    for seed in range(200):
        before = len(levels)
        assert np.array_equal(apply(AugMix(4), IMAGE, seed), IMAGE)  # chains that change nothing are blended to nothing
        depths.append(len(levels) - before)
    assert (min(depths), max(depths)) == (3, 9)
    assert np.mean(depths) == pytest.approx(6, abs=0.3)
    assert 0.1 <= min(levels) < 0.2
    assert 3.9 < max(levels) <= 4


def test_augmix_blends_with_a_uniform_share(monkeypatch):
    """Beta(1, 1) is uniform: chains that all turn black into white leave the share itself as a grey."""
    monkeypatch.setattr(rand_augment, "_AUGMIX", {"white": (lambda image, _: np.full_like(image, 255), 0, 0, False)})
    greys = [apply(AugMix(3), np.zeros((8, 8, 1), np.uint8), seed) for seed in range(400)]
    assert all(len(np.unique(one)) == 1 for one in greys)
    shares = np.sort([one[0, 0, 0] / 255 for one in greys])
    assert np.abs(shares - (np.arange(400) + 0.5) / 400).max() < 0.07  # Kolmogorov's distance, critical at 1 %: .08


class Drawn:
    """A generator whose draws are known."""

    def __init__(self, weights, share):
        self.weights, self.share, self.operation = weights, share, -1

    def dirichlet(self, alpha):
        assert alpha.tolist() == [1, 1, 1]
        return np.array(self.weights)

    def beta(self, *alpha):
        assert alpha == (1, 1)
        return self.share

    def integers(self, low, high=None):
        if high is not None:
            return low  # each chain has one operation
        self.operation += 1
        return self.operation % low

    def uniform(self, low, high):
        return high


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_augmix_is_the_share_of_the_weighted_chains(monkeypatch, share):
    fills = {str(fill): (lambda image, _, fill=fill: np.full_like(image, fill), 0, 0, False) for fill in (0, 100, 250)}
    monkeypatch.setattr(rand_augment, "_AUGMIX", fills)
    transform = AugMix(3)
    transform.random_generator = Drawn([0.2, 0.3, 0.5], share)
    expected = (1 - share) * IMAGE + share * (0.3 * 100 + 0.5 * 250)
    assert np.abs(transform.apply(IMAGE).astype(float) - expected).max() <= 0.5


@pytest.mark.parametrize("severity", [0.05, 3, 10])
def test_augmix_takes_any_severity(severity):
    assert len({apply(AugMix(severity), SMOOTH, seed).tobytes() for seed in range(10)}) >= 9


def test_augmix_changes_more_with_severity():
    def change(severity):
        found = [apply(AugMix(severity), SMOOTH, seed).astype(float) for seed in range(100)]
        return np.mean([np.abs(one - SMOOTH).mean() for one in found])

    assert change(10) > change(5) > change(1)
