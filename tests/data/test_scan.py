"""Files that cannot be decoded are all found, with their reasons; pixel mean and std against numpy on all pixels."""

import time

import cv2
import numpy as np
import pytest

from src import remote
from src.competition.image_files import Paths
from src.config.settings import Competition, Config
from src.data.scan import compute_pixel_stats, find_unreadable, map_images
from src.errors import UserError
from tests.http_server import Server


@pytest.fixture
def table(tmp_path, make_table):
    rng = np.random.default_rng(0)
    for row in range(12):
        pixels = np.uint8(rng.integers(0, 200, (16, 24, 3)) + row)
        pixels[..., 0] = 7  # blue
        cv2.imwrite(str(tmp_path / f"{row}.png"), pixels)
    return make_table(sorted(tmp_path.iterdir()))


def test_mean_and_std_of_all_pixels(table):
    pixels = np.stack([cv2.imread(path)[..., ::-1] for path in table.paths]).astype(np.float64)
    mean, std = compute_pixel_stats(table.paths, Config(image_size=(16, 24)))
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std[:2], pixels.std(axis=(0, 1, 2))[:2])
    assert std[2] == 1.0  # blue is constant


def test_pixels_are_those_of_the_resized_image(table):
    halves = np.stack(
        [cv2.resize(cv2.imread(path)[..., 2], (12, 8), interpolation=cv2.INTER_AREA) for path in table.paths]
    )
    mean, std = compute_pixel_stats(table.paths, Config(image_size=(8, 12)))
    assert mean[0] == pytest.approx(halves.mean())
    assert std[0] == pytest.approx(halves.std())


def test_a_share_of_the_images_is_drawn_by_seed(table):
    configs = [Config(image_size=(16, 24), seed=seed) for seed in (0, 0, 1, 2)]
    means = [compute_pixel_stats(table.paths, config, max_images=4)[0][0] for config in configs]
    assert means[0] == means[1]
    assert len(set(means)) == 3
    images = [cv2.imread(path)[..., 2].mean() for path in table.paths]
    assert min(images) < means[0] < max(images)
    np.testing.assert_allclose(
        compute_pixel_stats(table.paths, Config(image_size=(16, 24)), max_images=12)[0][0], np.mean(images), rtol=1e-12
    )


def test_large_offsets_lose_no_digits(tmp_path):
    rng = np.random.default_rng(1)
    arrays = (1e6 + rng.integers(0, 4, (5, 8, 8, 2))).astype(np.float32)
    for row, array in enumerate(arrays):
        np.save(tmp_path / f"{row}.npy", array)
    config = Config(competition=Competition(channels=2), image_size=(8, 8))
    mean, std = compute_pixel_stats(Paths.of(map(str, sorted(tmp_path.iterdir()))), config)
    np.testing.assert_allclose(mean, arrays.astype(np.float64).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, arrays.astype(np.float64).std(axis=(0, 1, 2)), rtol=1e-9)


def test_every_unreadable_row_is_found(tmp_path):
    paths = [tmp_path / f"{row:02}.png" for row in range(40)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    paths[3].write_bytes(b"")
    paths[37].write_bytes(b"text")
    assert find_unreadable(Paths.of(map(str, paths)), Competition()) == [
        (3, f"{paths[3]}: cannot be decoded as an image (0 bytes)"),
        (37, f"{paths[37]}: cannot be decoded as an image (4 bytes)"),
    ]
    assert find_unreadable(Paths.of(map(str, paths[:3])), Competition(channels=1)) == []


def test_images_of_which_none_can_be_decoded_are_one_line(tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path in paths:
        path.write_bytes(b"<html>")
    with pytest.raises(UserError) as caught:
        find_unreadable(Paths.of(map(str, paths)), Competition())
    assert str(caught.value) == (
        f"none of 3 images can be decoded (first: {paths[0]}: cannot be decoded as an image (6 bytes)); copy them again"
    )
    assert find_unreadable(Paths.of([]), Competition()) == []


def test_results_come_in_order_from_many_threads():
    def wait(path):
        time.sleep(0.002 * (int(path[:-4]) % 3))
        return path

    paths = Paths.of(f"{row}.png" for row in range(40))
    assert list(map_images(wait, paths, "")) == paths.tolist()


def test_a_server_that_is_down_makes_no_image_unreadable(make_table, monkeypatch):
    monkeypatch.setattr(remote, "_PAUSE", 0.001)
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    with Server({"0": png, "1": png, "2": b"odd"}, {"1": [503] * 5}) as server:
        paths = Paths.of(f"{server.url}/{row}" for row in range(4))
        with pytest.raises(UserError, match=rf"^{server.url}/1: cannot be read in 5 tries \(503 "):
            find_unreadable(paths, Competition())
        assert [row for row, _ in find_unreadable(paths, Competition())] == [2, 3]
