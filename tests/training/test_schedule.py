"""Every curve against torch's own scheduler or hand-computed rates."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from src.config import Schedule
from src.training.schedule import build_schedule

EPOCHS, STEPS = 30, 10


def rates(settings, epochs=EPOCHS, steps=STEPS, lr=1.0):
    """The rate used at each step, for a backbone and a head at twice its rate."""
    weight = torch.nn.Parameter(torch.zeros(1))
    head = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": lr}, {"params": [head], "lr": 2 * lr}])
    schedule = build_schedule(settings, optimizer, epochs, steps)
    seen = []
    for _ in range(epochs * steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return torch.tensor(seen, dtype=torch.float64)


def reference(build):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = build(optimizer)
    seen = []
    for _ in range(EPOCHS * STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(seen, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("cosine", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS)),
        ("step", lambda optimizer: lr_scheduler.StepLR(optimizer, 100, 0.1)),
        ("exponential", lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / 300))),
        ("linear", lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 300)),
        ("constant", lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    ],
)
def test_curve_without_warmup_is_torchs_own(name, build):
    got = rates(Schedule(name=name, warmup_epochs=0))
    torch.testing.assert_close(got[:, 0], reference(build))
    torch.testing.assert_close(got[:, 1], 2 * got[:, 0])


def test_warmup_rises_linearly_and_then_the_curve_begins():
    got = rates(Schedule(name="cosine", warmup_epochs=3))[:, 0]
    assert got[0] == pytest.approx(0.01)
    assert got[15] == pytest.approx(0.01 + 0.99 * 15 / 30)
    assert got[30] == pytest.approx(1.0)
    assert got[30 + 135] == pytest.approx(0.5 * (1 + math.cos(math.pi * 135 / 270)))
    assert (got.diff()[:30] > 0).all()
    assert (got.diff()[30:] < 0).all()


def test_onecycle_peaks_after_its_warmup_and_ends_near_zero():
    got = rates(Schedule(name="onecycle", warmup_epochs=3))
    assert got[:, 0].argmax() == pytest.approx(30, abs=1)
    assert got[:, 0].max() == pytest.approx(1.0, rel=1e-3)
    assert got[:, 1].max() == pytest.approx(2.0, rel=1e-3)
    assert got[-1, 0] < 1e-3


@pytest.mark.parametrize("name", ["cosine", "constant", "linear", "step", "exponential", "onecycle"])
def test_a_fold_of_one_step_has_a_rate(name):
    got = rates(Schedule(name=name, warmup_epochs=0.5), epochs=1, steps=1)
    assert torch.isfinite(got).all()
    assert (got > 0).all()
