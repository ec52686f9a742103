"""The loop against plain torch: accumulation, clipping, bad losses; predictions in order, views averaged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from src.checkpointing.rng_state import read_random_state
from src.errors import UserError
from src.training.engine import iterate_images, predict, train_one_epoch


class FakeLoader:
    """Batches of given tensors, as data.loader.Loader yields them."""

    def __init__(self, images, targets, batch_size):
        self.images, self.targets, self.batch_size = images, targets, batch_size
        self.num_images = len(images)

    def __len__(self):
        return -(-self.num_images // self.batch_size)

    def batches(self, epoch, start=0):
        for rows in torch.arange(self.num_images).split(self.batch_size)[start:]:
            yield {"image": self.images[rows], "target": self.targets[rows], "index": rows, "share": 1.0}


class Linear(nn.Module):
    """One linear layer over the pixels."""

    def __init__(self, num_targets=2, std=255.0):
        super().__init__()
        self.layer = nn.Linear(12, num_targets)
        self.pixel_stats = ((0.0,) * 3, (std,) * 3)
        self.num_normalized = 0

    def normalize(self, images):
        self.num_normalized += 1
        return images.permute(0, 3, 1, 2).float() / self.pixel_stats[1][0]

    def forward(self, images):
        return self.layer(images.flatten(1))


def make(rows=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (rows, 2, 2, 3), dtype=torch.uint8, generator=generator)
    targets = torch.rand(rows, 2, generator=generator)
    torch.manual_seed(seed)
    return images, targets, Linear()


def train(accelerator, network, loader, lr=0.1, **kwargs):
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    loss = nn.functional.binary_cross_entropy_with_logits
    return train_one_epoch(
        network, loader, 0, loss, optimizer, schedule, accelerator, normalize=network.normalize, **kwargs
    )


def test_accumulated_batches_step_as_one_large_batch(accelerator):
    images, targets, one = make()
    _, _, two = make()
    train(accelerator, one, FakeLoader(images, targets, 6))
    train(accelerator, two, FakeLoader(images, targets, 2), accumulate_steps=3)
    torch.testing.assert_close(one.layer.weight, two.layer.weight)


def test_a_last_incomplete_step_is_the_mean_of_its_batches(accelerator):
    images, targets, network = make(rows=10)
    _, _, expected = make()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        logits = expected(expected.normalize(images[rows]))
        nn.functional.binary_cross_entropy_with_logits(logits, targets[rows]).backward()
        if rows.stop == 8:
            for parameter in expected.parameters():
                parameter.grad /= 2
        if rows.stop >= 8:
            optimizer.step()
            optimizer.zero_grad()
    steps = []
    train(accelerator, network, FakeLoader(images, targets, 4), accumulate_steps=2, after_step=steps.append)
    torch.testing.assert_close(network.layer.weight, expected.layer.weight)
    assert len(steps) == 2


def test_an_epoch_that_goes_on_in_its_midst_ends_as_a_whole_one(accelerator):
    """With dropout and mixing, both random, and one step of two batches done before."""

    def mixer(images, targets, generator):
        weight = torch.rand(1, generator=generator)
        return weight * images + (1 - weight) * images.flip(0), targets

    def build(seed):
        images, targets, network = make(rows=12)
        torch.manual_seed(seed)
        return FakeLoader(images, targets, 2), nn.Sequential(network, nn.Dropout(0.5)), network.normalize

    def run(seed, **kwargs):
        loader, network, normalize = build(seed)
        network.normalize, generator = normalize, torch.Generator().manual_seed(seed)
        if "weights" in kwargs:
            network.load_state_dict(kwargs.pop("weights"))
        kept = []

        def after_step(part):
            state = {name: one.clone() for name, one in network.state_dict().items()}
            random_state = read_random_state(torch.device("cpu"), generator)
            kept.append((state, replace(part, losses=list(part.losses), random_state=random_state)))

        stats = train(
            accelerator, network, loader, mixer=mixer, generator=generator, accumulate_steps=2,
            after_step=after_step, **kwargs,
        )  # fmt: skip
        return kept, stats

    whole, stats = run(seed=3)
    assert [part.num_batches for _, part in whole] == [2, 4, 6]
    weights, part = whole[0]
    rest, again = run(seed=99, weights=weights, part=part)
    assert [part.num_batches for _, part in rest] == [4, 6]
    for name, tensor in whole[-1][0].items():
        assert torch.equal(rest[-1][0][name], tensor), name
    assert again.loss == stats.loss
    nothing, end = run(seed=5, weights=whole[-1][0], part=whole[-1][1])
    assert (nothing, end.loss) == ([], stats.loss)


def test_clipping_bounds_the_step(accelerator):
    images, targets, network = make()
    before = network.layer.weight.detach().clone(), network.layer.bias.detach().clone()
    train(accelerator, network, FakeLoader(images, targets, 12), lr=1.0, clip_norm=0.01)
    moved = torch.cat([(network.layer.weight - before[0]).flatten(), network.layer.bias - before[1]])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_loss_is_the_mean_over_batches(accelerator):
    images, targets, network = make()
    with torch.no_grad():
        logits = network(network.normalize(images))
        expected = nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    stats = train(accelerator, network, FakeLoader(images, targets, 4), lr=0.0)
    assert stats.loss == pytest.approx(expected, rel=1e-5)
    assert stats.images_per_second > 0


def test_a_loss_that_is_not_finite_stops_with_its_step_and_rate(accelerator):
    images, targets, network = make()
    targets[5] = float("nan")
    with pytest.raises(UserError) as caught:
        train(accelerator, network, FakeLoader(images, targets, 2), lr=0.25)
    assert str(caught.value) == (
        "epoch 1, step 3: loss is nan (lr 2.5e-01, precision fp32); "
        "lower optimizer.lr, set optimizer.clip_norm=1 or precision=fp32"
    )


def test_predictions_are_in_order_and_averaged_over_views():
    images, targets, one = make()
    two = Linear()
    one.train()
    index, probs = predict(
        [one, two], FakeLoader(images, targets, 5), torch.device("cpu"), "fp32", torch.sigmoid,
        views=(lambda batch: batch.flip(3),),
    )  # fmt: skip
    assert index.tolist() == list(range(12))
    assert probs.shape == (2, 12, 2)
    assert one.training
    with torch.no_grad():
        plain = one.normalize(images)
        expected = (torch.sigmoid(one(plain)) + torch.sigmoid(one(plain.flip(3)))) / 2
    np.testing.assert_allclose(probs[0], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_are_those_of_one_network_one_view_at_a_time(precision):
    """Bitwise: what the networks share changes no result, be their pixel statistics alike or not."""
    images, targets, one = make()
    networks = [one, Linear(std=100.0), Linear()]
    views = (lambda batch: batch.transpose(2, 3), lambda batch: batch.flip(3))
    for chosen in ((), views):
        _, probs = predict(
            networks, FakeLoader(images, targets, 5), torch.device("cpu"), precision, torch.sigmoid, views=chosen
        )
        for network, found in zip(networks, probs, strict=True):
            batches = []
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                for rows in torch.arange(12).split(5):
                    plain = network.normalize(images[rows])
                    total = 0
                    for view in (None, *chosen):
                        total = total + torch.sigmoid(network(view(plain) if view else plain))
                    batches.append((total / (1 + len(chosen))).float())
            np.testing.assert_array_equal(found, torch.cat(batches).numpy())


def test_pixels_and_views_are_made_once_for_networks_that_normalise_alike():
    images, targets, one = make()
    networks, seen = [one, Linear(), Linear(std=100.0)], []

    def view(batch):
        seen.append(batch.amax().item())
        return batch.transpose(2, 3)

    given = []
    for network in networks:
        network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    predict(networks, FakeLoader(images, targets, 6), torch.device("cpu"), "fp32", torch.sigmoid, views=(view,))
    assert [network.num_normalized for network in networks] == [2, 0, 2]  # of two batches
    assert len(seen) == 4
    assert len(set(seen)) == 4  # each batch in two scales
    assert len(given) == 3 * 2 * 2
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in given)


def test_an_image_that_does_not_come_is_told():
    images, targets, network = make()
    loader = FakeLoader(images, targets, 5)
    loader.batches = lambda epoch: list(FakeLoader.batches(loader, epoch))[:-1]
    with pytest.raises(AssertionError, match="10 of 12"):
        predict([network], loader, torch.device("cpu"), "fp32", torch.sigmoid)


def test_views_are_one_batch_and_their_consistency_is_added(accelerator):
    """(N, V, H, W, C): the loss reads the first view, the consistency all, view by view."""
    images = torch.randint(0, 255, (3, 2, 2, 2, 3), dtype=torch.uint8)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    network, seen = Linear(), []

    def consistency(logits):
        seen.append(logits.detach())
        return 0.5 * logits.square().sum()

    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    stats = train_one_epoch(
        network, FakeLoader(images, targets, 3), 0, nn.functional.binary_cross_entropy_with_logits, optimizer,
        torch.optim.lr_scheduler.ConstantLR(optimizer), accelerator,
        normalize=network.normalize, consistency=consistency,
    )  # fmt: skip
    views = torch.stack([network(network.normalize(images[:, view])) for view in range(2)])
    torch.testing.assert_close(seen[0], views.detach())
    expected = nn.functional.binary_cross_entropy_with_logits(views[0], targets) + 0.5 * views.square().sum()
    assert stats.loss == pytest.approx(expected.item(), rel=1e-5)


def test_images_of_an_epoch_are_normalised_and_of_the_first_view():
    network, targets = Linear(), torch.zeros(3, 2)
    one = torch.randint(0, 255, (3, 2, 2, 3), dtype=torch.uint8)
    two = torch.stack([one, 255 - one], dim=1)
    for images in (one, two):
        seen = torch.cat(list(iterate_images(FakeLoader(images, targets, 2), 0, network.normalize, "cpu")))
        torch.testing.assert_close(seen, network.normalize(one))
