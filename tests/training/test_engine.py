"""The loop against plain torch: accumulation, clipping, bad losses; predictions in order, views averaged."""

import functools
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from src.checkpointing.progress import read_rng_state
from src.config.load import load_config
from src.config.settings import Schedule, Train
from src.errors import UserError
from src.training.averaging import build_average
from src.training.engine import (
    advise_on_nan,
    apply_view,
    first_step,
    iterate_inputs,
    predict,
    train_one_epoch,
)
from src.training.learner import Learner
from src.training.schedule import build_schedule

CPU = torch.device("cpu")
bce = nn.functional.binary_cross_entropy_with_logits


class FakeLoader:
    """Batches of given tensors, as data.dataset.Loader yields them."""

    def __init__(self, images, targets, batch_size, **others):
        self.inputs, self.targets, self.batch_size = {"image": images, **others}, targets, batch_size
        self.num_images, self.world_size = len(images), 1

    def __len__(self):
        return -(-self.num_images // self.batch_size)

    def batches(self, epoch, start=0):
        for rows in torch.arange(self.num_images).split(self.batch_size)[start:]:
            inputs = {name: value[rows] for name, value in self.inputs.items()}
            yield {"inputs": inputs, "target": self.targets[rows], "index": rows, "share": 1.0}


class Linear(nn.Module):
    """One linear layer over the pixels, with dropout where it is asked for."""

    def __init__(self, std=255.0, drop_rate=0.0):
        super().__init__()
        self.layer, self.dropout = nn.Linear(12, 2), nn.Dropout(drop_rate)
        self.pixel_stats = ((0.0,) * 3, (std,) * 3)
        self.num_normalized = 0

    def normalize(self, inputs):
        self.num_normalized += 1
        image = inputs["image"].permute(0, 3, 1, 2).float() / self.pixel_stats[1][0]
        return {**inputs, "image": image}

    def forward(self, image, shift=None):
        logits = self.dropout(self.layer(image.flatten(1)))
        return logits if shift is None else logits + shift


def make(rows=12, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (rows, 2, 2, 3), dtype=torch.uint8, generator=generator)
    targets = torch.rand(rows, 2, generator=generator)
    torch.manual_seed(seed)
    return images, targets, Linear(**kwargs)


def predict_plain(network, images, **others):
    return network(**network.normalize({"image": images, **others}))


def make_learner(accelerator, network, loader, *words, lr=0.1, consistency=None, mixer=None):
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    schedule = build_schedule(Schedule(name="constant", warmup_epochs=0), optimizer, 1, len(loader))
    return Learner(
        load_config(words), accelerator, metric=None, network=network, average=build_average(Train(), network),
        loss_function=bce, consistency=consistency, optimizer=optimizer, schedule=schedule, train_loader=loader,
        val_loader=None, train_table=None, val_table=None, model=network, mixer=mixer,
    )  # fmt: skip


def train(*arguments, progress=None, after_step=None, **kwargs):
    return train_one_epoch(make_learner(*arguments, **kwargs), 0, progress, after_step)


def test_accumulated_batches_step_as_one_large_batch(accelerator):
    images, targets, one = make()
    _, _, two = make()
    train(accelerator, one, FakeLoader(images, targets, 6))
    train(accelerator, two, FakeLoader(images, targets, 2), "optimizer.accumulate_steps=3")
    torch.testing.assert_close(one.layer.weight, two.layer.weight)


def test_a_last_incomplete_step_is_the_mean_of_its_batches(accelerator):
    images, targets, network = make(rows=10)
    _, _, expected = make()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        bce(predict_plain(expected, images[rows]), targets[rows]).backward()
        if rows.stop == 8:
            for parameter in expected.parameters():
                parameter.grad /= 2
        if rows.stop >= 8:
            optimizer.step()
            optimizer.zero_grad()
    steps, loader = [], FakeLoader(images, targets, 4)

    def after_step(progress):
        steps.append(progress.num_batches)

    train(accelerator, network, loader, "optimizer.accumulate_steps=2", after_step=after_step)
    torch.testing.assert_close(network.layer.weight, expected.layer.weight)
    assert steps == [2, 3]


def test_an_epoch_that_resumes_after_a_step_ends_as_a_whole_one(accelerator):
    """With dropout and mixing, both random, and one step of two batches done before."""

    def mixer(inputs, targets, generator):
        weight = torch.rand(1, generator=generator)
        return {"image": weight * inputs["image"] + (1 - weight) * inputs["image"].flip(0)}, targets

    def run(seed, weights=None, progress=None):
        images, targets, network = make(rows=12, drop_rate=0.5)
        torch.manual_seed(seed)
        if weights:
            network.load_state_dict(weights)
        loader, saved = FakeLoader(images, targets, 2), []
        learner = make_learner(accelerator, network, loader, "optimizer.accumulate_steps=2", mixer=mixer)
        learner.generator.manual_seed(seed)

        def after_step(progress):
            state = {name: one.clone() for name, one in network.state_dict().items()}
            rng_state = read_rng_state(CPU, learner.generator)
            saved.append((state, replace(progress, losses=list(progress.losses), rng_state=rng_state)))

        return saved, train_one_epoch(learner, 0, progress, after_step)

    whole, stats = run(seed=3)
    assert [progress.num_batches for _, progress in whole] == [2, 4, 6]
    rest, again = run(99, *whole[0])
    assert [progress.num_batches for _, progress in rest] == [4, 6]
    for name, tensor in whole[-1][0].items():
        assert torch.equal(rest[-1][0][name], tensor), name
    assert again.loss == stats.loss
    nothing, end = run(5, *whole[-1])
    assert (nothing, end.loss) == ([], stats.loss)


def test_clipping_bounds_the_step(accelerator):
    images, targets, network = make()
    before = network.layer.weight.detach().clone(), network.layer.bias.detach().clone()
    train(accelerator, network, FakeLoader(images, targets, 12), "optimizer.clip_norm=0.01", lr=1.0)
    moved = torch.cat([(network.layer.weight - before[0]).flatten(), network.layer.bias - before[1]])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_last_step_s_gradient_norms_are_those_before_clipping_by_stage(accelerator):
    images, targets, network = make()
    logits = predict_plain(network, images).detach().requires_grad_()
    bce(logits, targets).backward()
    pixels = network.normalize({"image": images})["image"].flatten(1)
    expected = {"weight": (logits.grad.T @ pixels).norm().item(), "bias": logits.grad.sum(dim=0).norm().item()}
    learner = make_learner(accelerator, network, FakeLoader(images, targets, 12), "optimizer.clip_norm=0.01")
    frozen = nn.Parameter(torch.ones(2))
    learner.stages = {"weight": [network.layer.weight], "bias": [network.layer.bias], "frozen": [frozen]}
    assert train_one_epoch(learner, 0).gradient_norms == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_the_mean_over_batches(accelerator):
    images, targets, network = make()
    with torch.no_grad():
        expected = bce(predict_plain(network, images), targets).item()
    stats = train(accelerator, network, FakeLoader(images, targets, 4), lr=0.0)
    assert stats.loss == pytest.approx(expected, rel=1e-5)
    assert stats.images_per_second > 0


def test_a_loss_that_is_not_finite_stops_with_its_step_and_rate(accelerator):
    images, targets, network = make()
    targets[5] = float("nan")
    with pytest.raises(UserError) as caught:
        train(accelerator, network, FakeLoader(images, targets, 2), lr=0.25)
    assert str(caught.value) == (
        "epoch 1, step 3: loss is nan (lr 2.5e-01, precision fp32); lower optimizer.lr or set optimizer.clip_norm=1"
    )


def test_advice_against_nan_leaves_out_what_is_set():
    assert advise_on_nan("bf16", "lower optimizer.lr") == "lower optimizer.lr or set precision=fp32"
    assert advise_on_nan("fp32", "lower optimizer.lr") == "lower optimizer.lr"


def test_views_are_one_batch_and_their_consistency_is_added(accelerator):
    """(N, V, H, W, C): the loss reads the first view, the consistency all, view by view; other inputs are repeated."""
    images = torch.randint(0, 255, (3, 2, 2, 2, 3), dtype=torch.uint8)
    targets, shift = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.randn(3, 2)
    network, seen = Linear(), []

    def consistency(logits):
        seen.append(logits.detach())
        return 0.5 * logits.square().sum()

    stats = train(accelerator, network, FakeLoader(images, targets, 3, shift=shift), lr=0.0, consistency=consistency)
    views = torch.stack([predict_plain(network, images[:, view], shift=shift) for view in range(2)])
    torch.testing.assert_close(seen[0], views.detach())
    expected = bce(views[0], targets) + 0.5 * views.square().sum()
    assert stats.loss == pytest.approx(expected.item(), rel=1e-5)


def test_predictions_are_in_order_and_averaged_over_views():
    images, targets, one = make()
    two = Linear()
    one.train()
    index, probs = predict(
        [one, two], FakeLoader(images, targets, 5), torch.sigmoid, "fp32", views=(lambda batch: batch.flip(3),)
    )
    assert index.tolist() == list(range(12))
    assert probs.shape == (2, 12, 2)
    assert one.training
    with torch.no_grad():
        plain = one.normalize({"image": images})["image"]
        expected = (torch.sigmoid(one(plain)) + torch.sigmoid(one(plain.flip(3)))) / 2
    np.testing.assert_allclose(probs[0], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_are_those_of_one_network_one_view_at_a_time(precision):
    """Bitwise: what the networks share changes no result, be their pixel statistics alike or not."""
    images, targets, one = make()
    networks, shift = [one, Linear(std=100.0), Linear()], torch.randn(12, 2)
    views = (lambda batch: batch.transpose(2, 3), lambda batch: batch.flip(3))
    for chosen in ((), views):
        loader = FakeLoader(images, targets, 5, shift=shift)
        _, probs = predict(networks, loader, torch.sigmoid, precision, views=chosen)
        for network, found in zip(networks, probs, strict=True):
            batches = []
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                for rows in torch.arange(12).split(5):
                    plain = network.normalize({"image": images[rows]})["image"]
                    total = 0
                    for view in (None, *chosen):
                        total = total + torch.sigmoid(network(view(plain) if view else plain, shift[rows]))
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
        network.register_forward_pre_hook(lambda _, words, inputs: given.append(inputs["image"]), with_kwargs=True)
    predict(networks, FakeLoader(images, targets, 6), torch.sigmoid, "fp32", views=(view,))
    assert [network.num_normalized for network in networks] == [2, 0, 2]  # of two batches
    assert len(seen) == 4
    assert len(set(seen)) == 4  # each batch in two scales
    assert len(given) == 3 * 2 * 2
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in given)


@pytest.mark.parametrize("weights", [[0.27, 0.66, 0.07], [0.66, 0.27, 0.07]])
def test_weighted_views_that_are_all_sure_stay_at_1(weights):
    loader, views = FakeLoader(torch.zeros(6, 2, 2, 3), torch.zeros(6, 2), 6), (torch.clone, torch.clone)
    _, probs = predict([Linear()], loader, torch.ones_like, "fp32", views=views, weights=weights)
    assert (probs == 1).all()


def test_an_image_that_does_not_come_is_an_error():
    images, targets, network = make()
    loader = FakeLoader(images, targets, 5)
    loader.batches = lambda epoch: list(FakeLoader.batches(loader, epoch))[:-1]
    with pytest.raises(AssertionError, match="10 of 12"):
        predict([network], loader, torch.sigmoid, "fp32")


def test_inputs_of_an_epoch_are_normalised_and_of_the_first_view():
    network, targets, shift = Linear(), torch.zeros(3, 2), torch.randn(3, 2)
    one = torch.randint(0, 255, (3, 2, 2, 3), dtype=torch.uint8)
    two = torch.stack([one, 255 - one], dim=1)
    for images in (one, two):
        loader = FakeLoader(images, targets, 2, shift=shift)
        batches = list(iterate_inputs(loader, 0, network.normalize, CPU))
        seen = {name: torch.cat([batch[name] for batch in batches]) for name in ("image", "shift")}
        torch.testing.assert_close(seen, network.normalize({"image": one, "shift": shift}))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_view_is_of_every_image_in_its_memory_format_and_of_nothing_else(memory_format):
    images = {name: torch.rand(2, 3, 4, 5).contiguous(memory_format=memory_format) for name in ("image", "other")}
    inputs = {**images, "age": torch.rand(2, 1), "site": torch.tensor([1, 2])}
    turned = apply_view(functools.partial(torch.rot90, k=1, dims=(2, 3)), inputs)
    assert turned.keys() == inputs.keys()
    for name, image in images.items():
        assert torch.equal(turned[name], torch.rot90(image, 1, (2, 3)))
        assert turned[name].is_contiguous(memory_format=memory_format)
    assert turned["age"] is inputs["age"]
    assert turned["site"] is inputs["site"]


def test_what_an_optimizer_raises_in_its_first_step_names_the_optimizer():
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=0.1, foreach=False, fused=False)
    optimizer.param_groups[0]["lr"] = "high"
    with pytest.raises(UserError) as caught, first_step(load_config(["optimizer.name=sgd"])):
        optimizer.step()
    assert str(caught.value).startswith("optimizer.name=sgd: its first training step fails (")
    assert str(caught.value).endswith("); check optimizer.kwargs; --debug shows the traceback")


def test_what_a_network_raises_is_not_what_images_and_losses_raise():
    code = compile("raise LookupError('x')", "/home/optim/network.py", "exec")
    with pytest.raises(UserError) as caught, first_step(load_config(["model.backbone=mine"])):
        exec(code, {"__name__": "network"})
    assert str(caught.value).startswith("model.backbone=mine: its first training step fails (x)")  # whatever its folder
    for module in ("src.data.dataset", "src.model.losses"):
        with pytest.raises(LookupError), first_step(load_config([])):
            exec(code, {"__name__": module})


def test_the_bar_counts_the_images_of_all_processes(monkeypatch):
    """Each of two reads four of eight."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    loader = FakeLoader(torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.zeros(4, 2), batch_size=1)
    loader.world_size = 2
    predict([Linear()], loader, torch.sigmoid, "fp32", title="validation")
    assert "validation" in terminal.getvalue()
    assert "0/8" in terminal.getvalue()
