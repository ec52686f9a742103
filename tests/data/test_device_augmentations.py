"""augment.place=device: each image looks as the loader would make it, whatever batch, worker or process it comes in."""

import cv2
import numpy as np
import pytest
import torch

from src.config.settings import Augment, Competition, Config
from src.data import augmentations
from src.data.dataset import ImageDataset, build_loader
from src.data.transforms import build_augmentation
from src.errors import UserError
from src.training.engine import load_inputs
from tests.data.building import IMAGE, augmentation

CPU = torch.device("cpu")
STILL = {"rotate": 0, "translate": 0, "scale": [1, 1]}
NO_FLIPS = {"preset": "light", "flips": "none"}
SIX = np.concatenate([IMAGE, IMAGE[::-1]], axis=2)
FLOAT = SIX.astype(np.float32) - 300


def build(size=(40, 56), channels=3, is_uint8=True, place="device", **settings):
    return augmentation(Augment(place=place, **settings), size, channels, is_uint8)


def compute_differences(image=IMAGE, size=(40, 56), num_seeds=40, **settings):
    """Return the mean absolute differences of a device's and a loader's images of the same seeds, in grey levels."""
    channels, is_uint8 = image.shape[2], image.dtype == np.uint8
    one, other = (build(size, channels, is_uint8, place, **settings) for place in ("device", "loader"))
    assert (one.num_views, one.decode_size) == (1, other.decode_size)
    differences, seen = [], set()
    for seed in range(num_seeds):
        found, expected = one(image, seed), other(image, seed)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.flags.c_contiguous
        differences.append(np.abs(found.astype(float) - expected.astype(float)).mean())
        seen.add(expected.tobytes())
    assert len(seen) > 1
    return np.array(differences)


@pytest.mark.parametrize(
    ("most", "settings"),
    [
        (0, {"preset": "light", "flips": "hflip", "kwargs": STILL}),
        (0, {"preset": "light", "flips": "hvflip", "kwargs": STILL}),
        (0, {"preset": "light", "flips": "d4", "kwargs": STILL, "size": (40, 40)}),
        (0, {"preset": "none", "kwargs": {"cutout": 0.4}}),
        (0.1, {"preset": "light", "flips": "hvflip"}),
        (0.1, {"preset": "light", "flips": "d4", "size": (40, 40), "kwargs": {"rotate": 180, "scale": [0.3, 2]}}),
        (0.1, {"preset": "none", "kwargs": {"stretch": 1.5}}),
        (1, {"preset": "none", "kwargs": {"crop": 0.3}}),  # OpenCV averages areas where it shrinks
        (2, {"preset": "light", "flips": "hvflip", "kwargs": {"crop": 0.3, "stretch": 1.5}}),
        (1, {"preset": "none", "kwargs": {"brightness": 0.5}}),  # albumentations cuts off what is behind the point
        (3, {"preset": "none", "kwargs": {"colour": 0.1}}),  # OpenCV's hue has 180 values
        (1, {"preset": "medium", "image": IMAGE[..., :1]}),
        (3, {"preset": "heavy", "flips": "vflip", "kwargs": {"blur": 0, "noise": 0}}),
        (1, {"preset": "heavy", "image": FLOAT, "kwargs": {"crop": 1, "cutout": 0.4, "stretch": 1.2}}),
        (1, {"preset": "heavy", "image": SIX}),
    ],
)
def test_a_seed_gives_nearly_the_image_that_the_loader_makes(most, settings):
    """Of each of 40 draws: the same warp, flip, colour and rectangle with the same probability, in the same order."""
    assert compute_differences(**settings).max() <= most


def test_what_stays_in_the_loader_draws_its_own_numbers_and_leaves_those_of_the_device_alone():
    heavy, without = build(preset="heavy"), build(preset="heavy", kwargs={"blur": 0, "noise": 0})
    draws = np.array([heavy.on_device.draw(seed) for seed in range(400)])
    np.testing.assert_array_equal(draws, [without.on_device.draw(seed) for seed in range(400)])
    names = [type(one).__name__ for one in heavy.transforms]
    assert names[:3] == ["OneOf", "RandomResizedCrop", "Affine"]
    is_blurred = [not np.array_equal(heavy.load(IMAGE, seed), without.load(IMAGE, seed)) for seed in range(400)]
    has_colour = (draws[:, 14:17] != 0).any(axis=1)
    assert np.mean(is_blurred) == pytest.approx(0.3, abs=0.07)
    assert np.mean(has_colour) == pytest.approx(0.5, abs=0.08)
    assert np.corrcoef(is_blurred, has_colour)[0, 1] == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("image", [IMAGE, FLOAT])
def test_erased_pixels_are_noise_of_their_own_in_the_loaders_rectangle(image):
    settings = {"channels": image.shape[2], "is_uint8": image.dtype == np.uint8, "preset": "none"}
    erased = [build(place=place, kwargs={"erasing": 1}, **settings) for place in ("device", "loader")]
    plain = build(size=(40, 56), **settings)(image, 0)
    noise = []
    for seed in range(12):
        found, expected = (one(image, seed) for one in erased)
        is_inside = (expected != plain).any(axis=2)
        rows, columns = np.flatnonzero(is_inside.any(axis=1)), np.flatnonzero(is_inside.any(axis=0))
        inside = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        noise.append(found[inside].ravel().astype(float))
        found[inside] = plain[inside]
        np.testing.assert_allclose(found, plain, atol=1e-4)
    together = np.concatenate(noise)
    shares = np.histogram(together, bins=8)[0] / len(together)
    np.testing.assert_allclose(shares, 1 / 8, atol=0.02)
    assert np.corrcoef(together[1:], together[:-1])[0, 1] == pytest.approx(0, abs=0.03)
    shortest = min(map(len, noise))
    assert len({tuple(one[:shortest]) for one in noise}) == 12
    if image.dtype == np.uint8:
        assert (together.min(), together.max()) == (0, 255)


def make_batch():
    """A DeviceAugmentation that does everything, and images and draws of a batch."""
    heavy = build(preset="heavy", kwargs={"erasing": 1, "stretch": 1.2}).on_device
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 50, 70, 3), dtype=np.uint8))
    return heavy, images, torch.from_numpy(np.stack([heavy.draw(seed) for seed in range(6)]))


def test_an_image_is_the_same_in_any_batch():
    heavy, images, draws = make_batch()
    together = heavy(images, draws)
    assert (together.shape, together.dtype) == ((6, 40, 56, 3), torch.uint8)
    alone = [heavy(images[one : one + 1], draws[one : one + 1]) for one in range(6)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.nightly  # torch loads the shapes of all its operators, a second
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_nothing_waits_for_the_device_or_comes_from_another(dtype):
    """Tensors without values refuse whoever asks for one, or mixes in one of the CPU."""
    heavy, images, draws = make_batch()
    found = heavy(images.to("meta", dtype), draws.to("meta"))
    assert (found.shape, found.dtype, found.is_contiguous()) == ((6, 40, 56, 3), dtype, True)


def test_all_images_of_a_row_get_the_same_draw():
    settings = Augment(place="device", preset="heavy", kwargs={"erasing": 1})
    competition = Competition(images="{id}/*", num_images=3, images_as="max")
    augment = build_augmentation(Config(augment=settings, image_size=(48, 48), competition=competition), True)
    other = IMAGE[::-1].copy()
    found = augment(np.concatenate([IMAGE, other, IMAGE], axis=2), seed=5)
    expected = [augment(one, seed=5) for one in (IMAGE, other, IMAGE)]
    np.testing.assert_array_equal(found, np.concatenate(expected, axis=-1))


class TwoImages(ImageDataset):
    """A fork's: two images of a row, and a number."""

    def read(self, row):
        return super().read(row) | {"next": str(self.table.paths[(row + 1) % len(self)]), "age": row / 10}


def test_samples_are_the_same_for_any_workers_processes_and_restarts(tmp_path, make_table):
    rng = np.random.default_rng(0)
    for row in range(11):
        cv2.imwrite(str(tmp_path / f"{row}.png"), rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    table = make_table([tmp_path / f"{row}.png" for row in range(11)])
    dataset = TwoImages(table, Competition(), build((16, 16), preset="heavy"), 5)

    def collect(num_workers=0, batch_size=4, start=0, **processes):
        loader = build_loader(dataset, batch_size, num_workers, shuffle_seed=5, **processes)
        found = {}
        for epoch in (1, 2):
            for batch in loader.batches(epoch, start if epoch == 1 else 0):
                inputs = load_inputs(batch, CPU)
                assert inputs.keys() == {"image", "next", "age"}
                torch.testing.assert_close(inputs["age"], batch["index"].float() / 10)
                for place, row in enumerate(batch["index"].tolist()):
                    found[epoch, row] = [inputs[name][place].numpy().tobytes() for name in ("image", "next")]
        loader.close()
        return found

    whole = collect()
    assert len(whole) == 22
    assert len({image for images in whole.values() for image in images}) == 44  # each is augmented on its own
    assert collect(num_workers=2) == whole
    shares = [collect(batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert shares[0] | shares[1] == whole
    rest = collect(num_workers=2, start=2)
    assert len(rest) == 14
    assert rest.items() <= whole.items()


def test_an_augmentation_of_ones_own_stays_where_it_is(monkeypatch):
    own = {"own": lambda most: augmentations.A.Posterize(most)}
    monkeypatch.setattr(augmentations, "AUGMENTATIONS", augmentations.AUGMENTATIONS | own)
    with pytest.raises(UserError) as refusal:
        build(kwargs={"own": 3})
    found = "Posterize is not known on the device, nor may it come before what is"
    assert str(refusal.value) == f"augment.place=device: {found}; set augment.place=loader"
    assert build(kwargs={"own": 3}, place="loader").on_device is None
    assert build(preset="none").on_device is None  # nothing is left to do there
