"""Losses against torch's own and against their equations, on hard and soft targets, with and without weights."""

import math
from itertools import product

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from src.config.settings import Loss, checks, settings
from src.model.losses import (
    LOSSES,
    asymmetric_loss,
    auc_loss,
    bce_loss,
    build_loss,
    consistency_loss,
    cross_entropy_loss,
    focal_loss,
    hinge_loss,
    huber_loss,
    mse_loss,
    probabilities,
)

TASKS = ("binary", "multiclass", "multilabel")
HARD_LOSSES = ("hinge", "auc")
ONLY_ANSWERS, ONLY_CLASSES = ("bce", "asymmetric"), ("cross_entropy",)
NAMES_AND_TASKS = [
    (name, task)
    for name in LOSSES
    for task in TASKS
    if name not in (ONLY_ANSWERS if task == "multiclass" else ONLY_CLASSES)
]
WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 7.0])


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


def test_the_two_that_need_hard_targets_are_those_that_the_checks_refuse():
    assert checks._HARD_LOSSES == HARD_LOSSES


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_mse_is_the_brier_score(kind, logits, request):
    targets = request.getfixturevalue(kind)
    torch.testing.assert_close(mse_loss(logits, targets), functional.mse_loss(torch.sigmoid(logits), targets))
    expected = functional.mse_loss(torch.softmax(logits, dim=1), targets)
    torch.testing.assert_close(mse_loss(logits, targets, is_multiclass=True), expected)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_huber_is_torchs_of_the_probabilities(kind, logits, request):
    targets = request.getfixturevalue(kind)
    for delta in (0.1, 0.5):
        expected = functional.huber_loss(torch.sigmoid(logits), targets, delta=delta)
        torch.testing.assert_close(huber_loss(logits, targets, delta), expected)
        expected = functional.huber_loss(torch.softmax(logits, dim=1), targets, delta=delta)
        torch.testing.assert_close(huber_loss(logits, targets, delta, is_multiclass=True), expected)


def test_hinge_by_hand():
    logits = torch.tensor([[2.0, 0.5], [-0.5, -3.0]])
    targets = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(hinge_loss(logits, targets, 1.0), torch.tensor((0 + 0.5 + 1.5 + 0) / 4))
    torch.testing.assert_close(hinge_loss(logits, targets, 4.0), torch.tensor((2 + 3.5 + 4.5 + 1) / 4))


def test_hinge_of_classes_is_torchs(logits, hard):
    for margin in (0.5, 1.0):
        expected = functional.multi_margin_loss(logits, hard.argmax(dim=1), margin=margin)
        torch.testing.assert_close(hinge_loss(logits, hard, margin, is_multiclass=True), expected)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_asymmetric_follows_its_equations(kind, logits, request):
    targets = request.getfixturevalue(kind)
    logits = logits.requires_grad_()
    probs = torch.sigmoid(logits)
    shifted = (probs - 0.05).clamp(min=0)
    losses = targets * (1 - probs) ** 1.5 * probs.log() + (1 - targets) * shifted**3 * (1 - shifted).log()
    loss, expected = asymmetric_loss(logits, targets, 1.5, 3.0, 0.05), -losses.mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in (loss, expected)))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_asymmetric_without_its_asymmetry(kind, logits, request):
    targets = request.getfixturevalue(kind)
    torch.testing.assert_close(asymmetric_loss(logits, targets, 0.0, 0.0, 0.0), bce_loss(logits, targets))
    torch.testing.assert_close(asymmetric_loss(logits, targets, 2.0, 2.0, 0.0), focal_loss(logits, targets, 2.0))
    weighted = asymmetric_loss(logits, targets, 0.0, 0.0, 0.0, WEIGHTS)
    torch.testing.assert_close(weighted, bce_loss(logits, targets, WEIGHTS))


def test_asymmetric_forgets_the_negatives_below_its_margin():
    logits = torch.tensor([[-4.0], [-2.0]], requires_grad=True)  # probabilities 0.018 and 0.119
    asymmetric_loss(logits, torch.zeros(2, 1), 0.0, 4.0, 0.05).backward()
    assert logits.grad[0] == 0
    assert logits.grad[1] > 0


def test_auc_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.5, 1.0], [1.0, 1.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])  # nothing to compare in the second column
    torch.testing.assert_close(auc_loss(logits, targets, 1.0), torch.tensor((0 + 0.25) / 2))
    torch.testing.assert_close(auc_loss(logits, targets, 2.0), torch.tensor((0.25 + 2.25) / 2))
    targets[0, 1] = 0.0
    torch.testing.assert_close(auc_loss(logits, targets, 1.0), torch.tensor((0.125 + 1.0) / 2))


def test_auc_bounds_what_it_stands_for(logits, hard):
    for scores in (logits, hard + logits):
        missed = 1 - roc_auc_score(hard.numpy(), scores.numpy(), average="macro")
        assert auc_loss(scores, hard).item() >= missed
    assert auc_loss(3 * hard, hard) == 0


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_auc_of_classes_compares_log_odds(scale, logits, hard):
    wide = scale * logits.double()
    others = torch.stack([wide[:, [k for k in range(4) if k != one]].logsumexp(dim=1) for one in range(4)], dim=1)
    expected = auc_loss((wide - others).float(), hard)
    torch.testing.assert_close(auc_loss(scale * logits, hard, is_multiclass=True), expected)


@pytest.mark.parametrize("is_multiclass", [False, True])
def test_auc_of_a_batch_with_one_side_is_zero_and_can_go_backward(is_multiclass, logits):
    logits = logits.requires_grad_()
    targets = functional.one_hot(torch.zeros(16, dtype=torch.int64), 4).float()
    loss = auc_loss(logits, targets, is_multiclass=is_multiclass)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(("name", "task"), NAMES_AND_TASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_loss_and_gradient_stays_finite(name, task, dtype):
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [0.0, 1.0], [0.0, 0.0]])
    hard = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    kinds = [hard] if name in HARD_LOSSES else [hard, 0.9 * hard + 0.05]
    some_weights = [None] if name == "auc" else [None, [0.5, 20.0]]
    cases = product(kinds, some_weights, (50.0, 200.0), (0.0, 0.5, 4.0), (0.0, 0.05))
    for targets, weights, size, gamma, margin in cases:
        chosen = Loss(name=name, focal_gamma=gamma, positive_gamma=gamma, negative_gamma=gamma, negative_margin=margin)
        logits = (size * signs).to(dtype).requires_grad_()
        loss = build_loss(chosen, task, weights)(logits, targets)
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert loss > 0
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "task"), NAMES_AND_TASKS)
def test_every_loss_pushes_to_the_right_side(name, task, hard):
    logits = torch.zeros(16, 4, requires_grad=True)
    build_loss(Loss(name=name), task)(logits, hard).backward()
    assert (logits.grad[hard == 1] < 0).all()
    assert (logits.grad[hard == 0] > 0).all()


@pytest.mark.parametrize(("name", "task"), NAMES_AND_TASKS)
def test_settings_reach_the_loss(name, task, logits, hard):
    keys = {
        "huber": ["huber_delta"],
        "hinge": ["margin"],
        "auc": ["margin"],
        "focal": ["focal_gamma"],
        "asymmetric": ["positive_gamma", "negative_gamma", "negative_margin"],
    }
    default = build_loss(Loss(name=name), task)(logits, hard)
    for key in ("huber_delta", "margin", "focal_gamma", "positive_gamma", "negative_gamma", "negative_margin"):
        changed = build_loss(Loss(**{"name": name, key: 0.3}), task)(logits, hard)
        assert (changed != default) == (key in keys.get(name, []))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_weights_of_bce_are_torchs_pos_weight(kind, logits, request):
    targets = request.getfixturevalue(kind)
    expected = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=WEIGHTS)
    for task in ("binary", "multilabel"):
        torch.testing.assert_close(build_loss(Loss(), task, WEIGHTS)(logits, targets), expected)
    torch.testing.assert_close(build_loss(Loss(name="focal", focal_gamma=0), task, WEIGHTS)(logits, targets), expected)


def test_weights_of_cross_entropy_are_torchs(logits, hard):
    expected = functional.cross_entropy(logits, hard.argmax(dim=1), weight=WEIGHTS)
    for given in (WEIGHTS, WEIGHTS.double().numpy(), WEIGHTS.tolist()):
        torch.testing.assert_close(build_loss(Loss(), "multiclass", given)(logits, hard), expected)
    focal = build_loss(Loss(name="focal", focal_gamma=0), "multiclass", WEIGHTS)
    torch.testing.assert_close(focal(logits, hard), expected)


def test_weighted_soft_targets_count_as_their_shares_of_hard_ones(logits, soft):
    shares = soft * WEIGHTS
    expected = -(shares * functional.log_softmax(logits, dim=1)).sum() / shares.sum()
    torch.testing.assert_close(cross_entropy_loss(logits, soft, WEIGHTS), expected)
    torch.testing.assert_close(focal_loss(logits, soft, 0.0, is_multiclass=True, weights=WEIGHTS), expected)


@pytest.mark.parametrize("name", ["mse", "huber", "hinge", "focal", "asymmetric"])
def test_weights_multiply_the_positives_of_each_column(name, logits, hard):
    plain, weighted = build_loss(Loss(name=name), "multilabel"), build_loss(Loss(name=name), "multilabel", WEIGHTS)
    expected = 0
    for row in range(16):
        for column in range(4):
            entry = slice(row, row + 1), slice(column, column + 1)
            factor = WEIGHTS[column] if hard[entry] == 1 else 1.0
            expected += factor * plain(logits[entry], hard[entry]) / 64
    torch.testing.assert_close(weighted(logits, hard), expected)


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "huber", "hinge", "focal"])
def test_weights_make_a_weighted_mean_of_a_multiclass_tasks_rows(name, logits, hard):
    plain, weighted = build_loss(Loss(name=name), "multiclass"), build_loss(Loss(name=name), "multiclass", WEIGHTS)
    rows = torch.stack([plain(logits[row : row + 1], hard[row : row + 1]) for row in range(16)])
    factors = WEIGHTS[hard.argmax(dim=1)]
    torch.testing.assert_close(weighted(logits, hard), (factors * rows).sum() / factors.sum())


@pytest.mark.parametrize(("name", "task"), [pair for pair in NAMES_AND_TASKS if pair[0] != "auc"])
def test_equal_weights_change_nothing(name, task, logits, hard, soft):
    targets = hard if name in HARD_LOSSES else soft
    plain, weighted = build_loss(Loss(name=name), task), build_loss(Loss(name=name), task, [1.0] * 4)
    torch.testing.assert_close(weighted(logits, targets), plain(logits, targets))


@pytest.mark.parametrize("name", ["mse", "huber"])
def test_weights_of_a_soft_error_weigh_the_whole_of_it(name, logits, soft):
    expected = 0
    for row in range(16):
        for column in range(4):
            entry = slice(row, row + 1), slice(column, column + 1)
            factor = soft[entry].item() * WEIGHTS[column] + 1 - soft[entry].item()
            expected += factor * build_loss(Loss(name=name), "multilabel")(logits[entry], soft[entry]) / 64
    torch.testing.assert_close(build_loss(Loss(name=name), "multilabel", WEIGHTS)(logits, soft), expected)
    plain = build_loss(Loss(name=name), "multiclass")
    rows = torch.stack([plain(logits[row : row + 1], soft[row : row + 1]) for row in range(16)])
    factors = (soft * WEIGHTS).sum(dim=1)
    expected = (factors * rows).sum() / factors.sum()
    torch.testing.assert_close(build_loss(Loss(name=name), "multiclass", WEIGHTS)(logits, soft), expected)


def test_weights_of_auc_are_refused():
    with pytest.raises(AssertionError, match="auc takes no class weights"):
        build_loss(Loss(name="auc"), "binary", [2.0])


@pytest.fixture
def views():
    return 3 * torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(2))


def entropy(probs):
    return -(probs * probs.log()).sum(dim=-1)


@pytest.mark.parametrize("task", TASKS)
def test_consistency_is_the_entropy_of_the_mixture_less_that_of_the_views(task, views):
    probs = torch.softmax(views, dim=2)
    if task != "multiclass":
        probs = torch.stack([torch.sigmoid(views), torch.sigmoid(-views)], dim=-1)
    expected = (entropy(probs.mean(dim=0)) - entropy(probs).mean(dim=0)).mean()
    torch.testing.assert_close(consistency_loss(views, task), expected)


@pytest.mark.parametrize("task", TASKS)
def test_consistency_of_equal_views_is_zero(task, views):
    same = views[:1].expand(3, -1, -1).clone().requires_grad_()
    loss = consistency_loss(same, task)
    loss.backward()
    assert 0 <= loss.item() < 1e-6
    torch.testing.assert_close(same.grad, torch.zeros_like(same), atol=1e-6, rtol=0)
    assert consistency_loss(views, task) > 0.01


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [50.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_consistency_of_opposite_views_is_finite(task, size, dtype):
    views = torch.tensor([[[size, -size]], [[-size, size]]], dtype=dtype, requires_grad=True)
    loss = consistency_loss(views, task)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))
    assert torch.isfinite(views.grad).all()


@pytest.mark.parametrize("task", TASKS)
def test_consistency_draws_the_views_together(task, views):
    views = views.requires_grad_()
    before = consistency_loss(views, task)
    before.backward()
    assert consistency_loss(views - views.grad, task) < before
