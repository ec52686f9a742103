"""Networks and views that take time, against the members that fit by hand; all of them against predict.

The clock goes on only where a test says so: a real one would depend on what else runs.
"""

import numpy as np
import pytest
import torch
from torch import nn

from src.inference.time_budget import predict_in_time
from src.training.engine import predict

NUM_BATCHES = 8
FLIP, TURN = (lambda images: images.flip(3)), (lambda images: images.transpose(2, 3))


class Clock:
    """Stands in for the module time."""

    seconds = 0.0

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


time = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("src.inference.time_budget.time", time)


class Sleepy(nn.Module):
    """A linear layer that takes `seconds` a batch, and more for its first."""

    def __init__(self, seconds=0.0, first=0.0, std=255.0):
        super().__init__()
        self.layer, self.pixel_stats = nn.Linear(12, 2), (0.0, std)
        self.seconds, self.first = seconds, first

    def normalize(self, inputs):
        return {"image": inputs["image"].permute(0, 3, 1, 2).float() / self.pixel_stats[1]}

    def forward(self, image):
        time.sleep(self.seconds + self.first)
        self.first = 0.0
        return self.layer(image.flatten(1))


class Loader:
    """Batches of three images, the last one of two; each takes `seconds`."""

    num_images, world_size = 3 * NUM_BATCHES - 1, 1

    def __init__(self, seconds=0.0):
        self.images, self.seconds = torch.arange(self.num_images * 12).view(-1, 2, 2, 3) % 251, seconds

    def __len__(self):
        return NUM_BATCHES

    def batches(self, _):
        for rows in torch.arange(self.num_images).split(3):
            time.sleep(self.seconds)
            yield {"inputs": {"image": self.images[rows]}, "index": rows}


def predict_for(seconds, networks, loader=None, **how):
    """Predict with so much time; return the BudgetedProbs and the seconds that it took."""
    start = time.monotonic()
    how |= {"after_batch": lambda: None}
    found = predict_in_time(networks, loader or Loader(), torch.sigmoid, "fp32", start + seconds, **how)
    return found, time.monotonic() - start


def predict_all(networks, **how):
    return predict(networks, Loader(), torch.sigmoid, "fp32", **how)[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_enough_time_it_is_predict_bit_for_bit(precision):
    networks = [Sleepy(), Sleepy(std=100.0), Sleepy()]
    for weights in (None, [0.2, 0.0, 0.7], [0.0, 0.3, 0.1]):
        how = {"views": (FLIP, TURN), "weights": weights}
        found = predict_in_time(
            networks, Loader(), torch.sigmoid, precision, time.monotonic() + 60, after_batch=lambda: None, **how
        )
        index, probs = predict(networks, Loader(), torch.sigmoid, precision, **how)
        np.testing.assert_array_equal(found.probs, probs)
        np.testing.assert_array_equal(found.index, index)
        assert found.networks == [0, 1, 2]
        assert found.views == [view for view in range(3) if weights is None or weights[view]]


@pytest.mark.parametrize(
    ("seconds", "networks", "views"),  # a member takes 8 x 0.01 s: all take 0.48, plain images 0.24, one 0.08
    [(0.38, [0, 1, 2], [0]), (0.2, [0, 1], [0]), (0.12, [0], [0])],
)
def test_views_are_dropped_first_then_networks_and_what_is_left_counts_for_all_rows(seconds, networks, views):
    every = [Sleepy(0.01), Sleepy(0.01), Sleepy(0.01)]
    found, took = predict_for(seconds, every, views=(FLIP,))
    assert took <= seconds
    assert (found.networks, found.views) == (networks, views)
    assert found.seconds == pytest.approx(0.48, rel=0.1)  # the last batch has fewer images
    for network in every:
        network.seconds = 0.0
    np.testing.assert_array_equal(found.index, np.arange(Loader.num_images))
    np.testing.assert_array_equal(found.probs, predict_all([every[number] for number in networks]))


def test_a_slow_view_is_dropped_and_those_of_more_weight_stay():
    def slow(images):
        time.sleep(0.05)
        return images

    network = Sleepy()
    found, took = predict_for(0.3, [network], views=(slow, FLIP, TURN), weights=[1, 0.5, 3, 2])
    assert found.views == [0, 2, 3]
    assert took <= 0.3
    expected = predict_all([network], views=(FLIP, TURN), weights=[1, 3, 2])
    np.testing.assert_array_equal(found.probs, expected)


def test_a_slow_view_is_made_once_for_networks_that_normalise_alike():
    networks = [Sleepy(), Sleepy(), Sleepy()]
    found, took = predict_for(0.6, networks, views=(lambda images: time.sleep(0.05) or images,))
    assert (found.networks, found.views) == ([0, 1, 2], [0, 1])  # 8 x 0.05 s, not three times as long
    networks[1].pixel_stats, networks[2].pixel_stats = (0.0, 1.0), (0.0, 2.0)
    found, took = predict_for(0.6, networks, views=(lambda images: time.sleep(0.05) or images,))
    assert (found.networks, found.views) == ([0, 1, 2], [0])
    assert took <= 0.6


def test_the_first_batch_alone_may_be_slow():
    found, _ = predict_for(1.0, [Sleepy(0.005, first=0.15), Sleepy(0.005, first=0.15)], views=(FLIP,))
    assert (found.networks, found.views) == ([0, 1], [0, 1])  # each batch as the first would take 8 x 0.3 s


def test_what_becomes_slow_later_is_dropped_then():
    networks = [Sleepy(), Sleepy()]
    loader, seen = Loader(), []

    def slow_down():
        seen.append(None)
        networks[1].seconds = 0.06 * (len(seen) > 2)

    start = time.monotonic()
    found = predict_in_time(networks, loader, torch.sigmoid, "fp32", start + 0.2, views=(FLIP,), after_batch=slow_down)
    assert time.monotonic() - start <= 0.2
    assert (found.networks, found.views) == ([0], [0])
    np.testing.assert_array_equal(found.probs, predict_all(networks[:1]))


@pytest.mark.parametrize("where", ["network", "loader"])
def test_the_end_comes_in_time_even_where_one_member_is_too_slow(where):
    network, loader = Sleepy(0.05 * (where == "network")), Loader(0.05 * (where == "loader"))
    found, took = predict_for(0.23, [network, network], loader)
    assert took <= 0.23
    assert len(found.index) == 12
    assert found.networks == [0]
    network.seconds = 0.0
    np.testing.assert_array_equal(found.probs, predict_all([network])[:, : len(found.index)])


def test_without_any_time_the_first_batch_is_predicted():
    found, _ = predict_for(0.0, [Sleepy(0.01), Sleepy(0.01)], views=(FLIP,))
    assert (found.index.tolist(), found.networks, found.views) == ([0, 1, 2], [0], [0])
