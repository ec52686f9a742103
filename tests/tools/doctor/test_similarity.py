"""Pairs of copies: against all pairs by brute force, what re-encoding does, and 100,000 images in minutes."""

import io
import time

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from src.data.decode import resize_image
from tools.doctor import similarity
from tools.doctor.similarity import MAX_DISTANCE, MIN_CORRELATION, Pairs, connect, find_near, find_pairs

BITS = 1 << np.arange(64, dtype=np.uint64)


def draw_thumbnails(count, share_alike, num_copies, seed=0):
    """Return hashes, thumbnails and, for the last num_copies, the rows that they are noisy copies of.

    The first share_alike are variations of one image, as X-rays are: their hashes lie near each other.
    """
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(count, 8, 8)).astype(np.float32)
    alike = int(count * share_alike)
    low[:alike] = low[:alike] * 0.6 + rng.normal(size=(8, 8)) * 3
    thumbnails, hashes = np.empty((count, 32, 32), np.uint8), np.empty(count, np.uint64)
    sources = rng.choice(count - num_copies, num_copies, replace=False)
    for row in range(count):
        if row < count - num_copies:
            image = cv2.resize(low[row], (32, 32), interpolation=cv2.INTER_CUBIC) + rng.normal(size=(32, 32)) * 0.3
            thumbnails[row] = np.clip(128 + 40 * image / image.std(), 0, 255)
        else:
            copied = thumbnails[sources[row - count + num_copies]].astype(int) + rng.integers(-2, 3, (32, 32))
            thumbnails[row] = np.clip(copied, 0, 255)
        waves = cv2.dct(thumbnails[row].astype(np.float32))[:8, :8].ravel()
        hashes[row] = BITS[waves > np.median(waves)].sum()
    return hashes, thumbnails, sources


def blur(thumbnail):
    return cv2.pyrDown(thumbnail.astype(np.float32)).ravel()


def test_the_same_pairs_as_by_brute_force(monkeypatch):
    monkeypatch.setattr(similarity, "_MAX_PAIRS", 64 * 500)
    monkeypatch.setattr(similarity, "_NUM_GATHERED", 50)
    hashes, thumbnails, sources = draw_thumbnails(500, 0.3, 40)
    blurred = [blur(one) for one in thumbnails]
    expected = {
        (one, other)
        for one in range(500)
        for other in range(one + 1, 500)
        if bin(int(hashes[one]) ^ int(hashes[other])).count("1") <= MAX_DISTANCE
        and np.corrcoef(blurred[one], blurred[other])[0, 1] >= MIN_CORRELATION
    }
    assert expected == {(int(source), 460 + place) for place, source in enumerate(sources)}
    for dense in (0.0, 1.0):  # by matrix product in every block, or in none
        monkeypatch.setattr(similarity, "_DENSE", dense)
        first, second = find_near(hashes, thumbnails)
        assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected


@pytest.mark.parametrize(("bits", "is_found"), [(0, True), (MAX_DISTANCE, True), (MAX_DISTANCE + 1, False)])
def test_hashes_may_differ_by_ten_bits(bits, is_found):
    hashes, thumbnails, _ = draw_thumbnails(1, 0, 0)
    hashes = np.array([hashes[0], hashes[0] ^ BITS[:bits].sum(dtype=np.uint64)])
    assert len(find_near(hashes, np.repeat(thumbnails, 2, axis=0))[0]) == is_found


@pytest.mark.parametrize(("correlation", "is_found"), [(0.9965, True), (0.9935, False)])
def test_thumbnails_must_correlate(correlation, is_found):
    rng, (_, thumbnails, _) = np.random.default_rng(1), draw_thumbnails(1, 0, 0)
    waves = cv2.resize(rng.normal(size=(8, 8)), (32, 32), interpolation=cv2.INTER_CUBIC)  # which the blur keeps
    noise = waves * blur(thumbnails[0]).std() / blur(waves).std() * np.sqrt(1 / correlation**2 - 1)
    pair = np.stack([thumbnails[0], np.clip(np.rint(thumbnails[0] + noise), 0, 255).astype(np.uint8)])
    assert np.corrcoef(*map(blur, pair))[0, 1] == pytest.approx(correlation, abs=0.001)
    assert len(find_near(np.zeros(2, np.uint64), pair)[0]) == is_found


def test_exact_copies_are_chained_and_their_first_stands_for_all():
    hashes, thumbnails, _ = draw_thumbnails(60, 0, 0)
    digests = np.arange(60, dtype=np.uint64)
    digests[[5, 20, 40]] = 999
    thumbnails[[20, 40]], hashes[[20, 40]] = thumbnails[5], hashes[5]
    thumbnails[50], hashes[50] = thumbnails[5], hashes[5]  # alike, but of other pixels
    pairs = find_pairs(digests, hashes, thumbnails, np.arange(60))
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.is_exact.tolist(), strict=True))
    assert found == [(5, 20, True), (20, 40, True), (5, 50, False)]
    left = find_pairs(digests, hashes, thumbnails, np.array([20, 21, 50]))
    assert list(zip(left.first.tolist(), left.second.tolist(), strict=True)) == [(20, 50)]
    assert len(find_pairs(digests, hashes, thumbnails, np.zeros(0, int))) == 0


def test_an_image_is_the_first_of_32_pairs_at_most():
    thumbnails = np.repeat(draw_thumbnails(1, 0, 0)[1], 100, axis=0)
    first, second = find_near(np.zeros(100, np.uint64), thumbnails)
    counts = np.bincount(first, minlength=100)
    assert counts.max() == 32
    assert counts.sum() == len(second) == 68 * 32 + 32 * 31 // 2
    assert len(set(connect(100, Pairs(first, second, first > 0)))) == 1


def test_clusters_are_chains():
    pairs = Pairs(np.array([0, 1, 4]), np.array([1, 3, 5]), np.array([True, False, True]))
    clusters = connect(7, pairs)
    assert clusters[0] == clusters[1] == clusters[3]
    assert clusters[4] == clusters[5]
    assert len(set(clusters.tolist())) == 4


def look(pixels):
    thumbnail = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA)
    return int(str(imagehash.phash(Image.fromarray(thumbnail))), 16), thumbnail


CHANGES = {
    "quality 50": lambda image: decode(image, 50),
    "half the size": lambda image: cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA),
    "twice the size": lambda image: cv2.resize(image, (448, 448)),
    "brighter": lambda image: np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8),
    "less contrast": lambda image: (image * 0.8).astype(np.uint8),
    "noise": lambda image: np.clip(image + np.random.default_rng(1).normal(size=image.shape) * 8, 0, 255).astype(
        np.uint8
    ),
}


def decode(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_image_is_found_and_another_one_is_not(change):
    rng = np.random.default_rng(2)
    images = [
        np.clip(cv2.resize(rng.normal(size=(9, 9)), (224, 224), interpolation=cv2.INTER_CUBIC) * 40 + 120, 0, 220)
        for _ in range(30)
    ]
    images = [image.astype(np.uint8) for image in images]
    hashes, thumbnails = zip(*(look(one) for one in [*images, change(images[17])]), strict=True)
    first, second = find_near(np.array(hashes, dtype=np.uint64), np.stack(thumbnails))
    assert list(zip(first, second, strict=True)) == [(17, 30)]


def shift_tone(image, shift):
    return np.clip(image.astype(int) + shift, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda photo: cv2.resize(photo, None, fx=0.8, fy=0.8), 0.98),
        (lambda photo: decode(photo, 30), 0.9),
        (lambda photo: decode(shift_tone(cv2.resize(photo, None, fx=0.7, fy=0.7), 15), 60), 0.9),
        (lambda photo: shift_tone(photo, 60), 0.75),
        (lambda photo: (255 * (photo / 255) ** 0.7).astype(np.uint8), 0.75),
    ],
    ids=["80 % of the size", "quality 30", "70 % of the size, brighter, quality 60", "saturated", "gamma 0.7"],
)
def test_most_changed_photos_are_found(change, share):
    """Parts of two photos of 128 pixels a side, of which some are even sky; other parts of them are not taken for them.

    Only such parts count as others that do not overlap.
    """
    rng, photos = np.random.default_rng(0), load_sample_images().images
    corners = [(number % 2, rng.integers(299), rng.integers(512)) for number in range(200)]
    parts = [np.ascontiguousarray(photos[one][top : top + 128, left : left + 128]) for one, top, left in corners]
    hashes, thumbnails = zip(*(look_at_photo(one) for one in [*parts, *map(change, parts)]), strict=True)
    first, second = find_near(np.array(hashes, dtype=np.uint64), np.stack(thumbnails))
    found = {(one % 200, other % 200) for one, other in zip(first.tolist(), second.tolist(), strict=True)}
    assert np.mean([(one, one) in found for one in range(200)]) >= share
    for one, other in found:
        (photo, top, left), (other_photo, other_top, other_left) = corners[one], corners[other]
        assert photo == other_photo
        assert abs(top - other_top) < 128
        assert abs(left - other_left) < 128


def look_at_photo(pixels):
    thumbnail = np.rint(resize_image(pixels, (32, 32)).astype(float).mean(axis=2)).astype(np.uint8)
    return int(str(imagehash.phash(Image.fromarray(thumbnail))), 16), thumbnail


@pytest.mark.nightly
def test_100_000_images_take_less_than_five_minutes():
    """A fifth of them all alike, so that 4 % of the 5,000 million pairs are proposed; 12 s of the test draw them."""
    hashes, thumbnails, sources = draw_thumbnails(100_000, 0.2, 1000)
    began = time.process_time()
    pairs = find_pairs(np.arange(100_000, dtype=np.uint64), hashes, thumbnails, np.arange(100_000))
    assert time.process_time() - began < 300
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found == {(int(source), 99_000 + place) for place, source in enumerate(sources)}
