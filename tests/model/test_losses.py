"""Losses against torch's own, on hard and soft targets."""

import pytest
import torch
from torch.nn import functional

from src.config import Loss, settings
from src.model.losses import LOSSES, build_loss, focal_loss, probabilities

TASKS = ("binary", "multiclass", "multilabel")


@pytest.fixture
def logits():
    return 3 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def soft():
    """Targets as after Mixup: each row sums to one."""
    return torch.rand(16, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


@pytest.fixture
def hard():
    return functional.one_hot(torch.arange(16) % 4, 4).float()


def test_names_are_the_settings():
    assert {"auto", *LOSSES} == set(settings()["loss.name"].metadata["choices"])


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_auto_is_torchs_loss_of_the_task(kind, logits, request):
    targets = request.getfixturevalue(kind)
    for task in ("binary", "multilabel"):
        expected = functional.binary_cross_entropy_with_logits(logits, targets)
        torch.testing.assert_close(build_loss(Loss(), task)(logits, targets), expected)
    torch.testing.assert_close(
        build_loss(Loss(), "multiclass")(logits, targets), functional.cross_entropy(logits, targets)
    )


def test_cross_entropy_of_hard_targets_is_that_of_class_numbers(logits, hard):
    expected = functional.cross_entropy(logits, hard.argmax(dim=1))
    torch.testing.assert_close(build_loss(Loss(name="cross_entropy"), "multiclass")(logits, hard), expected)


def test_label_smoothing(logits, hard):
    smooth = Loss(label_smoothing=0.2)
    expected = functional.cross_entropy(logits, hard.argmax(dim=1), label_smoothing=0.2)
    torch.testing.assert_close(build_loss(smooth, "multiclass")(logits, hard), expected)
    spread = torch.where(hard == 1, 0.9, 0.1)
    expected = functional.binary_cross_entropy_with_logits(logits, spread)
    torch.testing.assert_close(build_loss(smooth, "multilabel")(logits, hard), expected)


@pytest.mark.parametrize("task", TASKS)
def test_focal_without_focus_is_plain_cross_entropy(task, logits, soft):
    plain = build_loss(Loss(), task)(logits, soft)
    torch.testing.assert_close(build_loss(Loss(name="focal", focal_gamma=0.0), task)(logits, soft), plain)


def test_focal_follows_its_equation(logits, hard):
    probs = torch.sigmoid(logits)
    correct = torch.where(hard == 1, probs, 1 - probs)
    torch.testing.assert_close(focal_loss(logits, hard, 1.5), -((1 - correct) ** 1.5 * correct.log()).mean())
    correct = (torch.softmax(logits, dim=1) * hard).sum(dim=1)
    expected = -((1 - correct) ** 1.5 * correct.log()).mean()
    torch.testing.assert_close(focal_loss(logits, hard, 1.5, is_multiclass=True), expected)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("extreme", [Loss(), *(Loss(name="focal", focal_gamma=gamma) for gamma in (0.0, 0.5, 2.0))])
@pytest.mark.parametrize("size", [50.0, 200.0])
def test_loss_and_gradient_stay_finite(task, extreme, size):
    logits = torch.tensor([[size, -size], [-size, size]], requires_grad=True)
    loss = build_loss(extreme, task)(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("task", TASKS)
def test_half_precision_logits_are_computed_in_float32(task, logits, soft):
    half = logits.bfloat16()
    loss = build_loss(Loss(), task)(half, soft)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build_loss(Loss(), task)(half.float(), soft))
    assert probabilities(half, task).dtype == torch.float32


def test_probabilities(logits):
    torch.testing.assert_close(probabilities(logits, "multiclass").sum(dim=1), torch.ones(16))
    torch.testing.assert_close(probabilities(logits, "multilabel"), 1 / (1 + (-logits).exp()))
