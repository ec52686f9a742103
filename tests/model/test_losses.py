"""Losses against torch's own and against their equations, on hard and soft targets, with and without weights."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from src.config.settings import Competition, Config, Loss, Mix, Schedule, Train
from src.errors import UserError
from src.model import losses as module
from src.model.losses import LOSSES, consistency_loss, probabilities, resolve_class_weights

TASKS = ("binary", "multiclass", "multilabel")
NAMES = ("bce", "cross_entropy", "mse", "huber", "hinge", "focal", "asymmetric", "auc", "auc_bce")
ONLY_BINARY, ONLY_CLASSES = ("bce", "asymmetric"), ("cross_entropy",)
NAMES_AND_TASKS = [
    (name, task)
    for name in NAMES
    for task in TASKS
    if name not in (ONLY_BINARY if task == "multiclass" else ONLY_CLASSES)
]
WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 7.0])


def build_loss(name="auto", task="multilabel", class_weights=None, label_smoothing=0.0, **kwargs):
    settings = Loss(name=name, kwargs=kwargs, label_smoothing=label_smoothing)
    return module.build_loss(Config(loss=settings, competition=Competition(task=task)), class_weights)


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


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_auto_is_torchs_loss_of_the_task(kind, logits, request):
    targets = request.getfixturevalue(kind)
    for task in ("binary", "multilabel"):
        expected = functional.binary_cross_entropy_with_logits(logits, targets)
        torch.testing.assert_close(build_loss(task=task)(logits, targets), expected)
    expected = functional.cross_entropy(logits, targets)
    torch.testing.assert_close(build_loss(task="multiclass")(logits, targets), expected)


def test_cross_entropy_of_hard_targets_is_that_of_class_numbers(logits, hard):
    expected = functional.cross_entropy(logits, hard.argmax(dim=1))
    torch.testing.assert_close(build_loss("cross_entropy", "multiclass")(logits, hard), expected)


def test_label_smoothing(logits, hard):
    expected = functional.cross_entropy(logits, hard.argmax(dim=1), label_smoothing=0.2)
    torch.testing.assert_close(build_loss(task="multiclass", label_smoothing=0.2)(logits, hard), expected)
    spread = torch.where(hard == 1, 0.9, 0.1)
    expected = functional.binary_cross_entropy_with_logits(logits, spread)
    torch.testing.assert_close(build_loss(task="multilabel", label_smoothing=0.2)(logits, hard), expected)


@pytest.mark.parametrize("task", TASKS)
def test_focal_without_focus_is_plain_cross_entropy(task, logits, soft):
    plain = build_loss(task=task)(logits, soft)
    torch.testing.assert_close(build_loss("focal", task, gamma=0.0)(logits, soft), plain)


def test_focal_follows_its_equation(logits, hard):
    probs = torch.sigmoid(logits)
    correct = torch.where(hard == 1, probs, 1 - probs)
    expected = -((1 - correct) ** 1.5 * correct.log()).mean()
    torch.testing.assert_close(build_loss("focal", gamma=1.5)(logits, hard), expected)
    correct = (torch.softmax(logits, dim=1) * hard).sum(dim=1)
    expected = -((1 - correct) ** 1.5 * correct.log()).mean()
    torch.testing.assert_close(build_loss("focal", "multiclass", gamma=1.5)(logits, hard), expected)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("name", "kwargs"), [("auto", {}), *(("focal", {"gamma": one}) for one in (0.0, 0.5, 2.0))])
@pytest.mark.parametrize("size", [50.0, 200.0])
def test_loss_and_gradient_stay_finite(task, name, kwargs, size):
    logits = torch.tensor([[size, -size], [-size, size]], requires_grad=True)
    loss = build_loss(name, task, **kwargs)(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("task", TASKS)
def test_half_precision_logits_are_computed_in_float32(task, logits, soft):
    half = logits.bfloat16()
    loss = build_loss(task=task)(half, soft)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build_loss(task=task)(half.float(), soft))
    assert probabilities(half, task).dtype == torch.float32


def test_probabilities(logits):
    torch.testing.assert_close(probabilities(logits, "multiclass").sum(dim=1), torch.ones(16))
    torch.testing.assert_close(probabilities(logits, "multilabel"), 1 / (1 + (-logits).exp()))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_mse_is_the_brier_score(kind, logits, request):
    targets = request.getfixturevalue(kind)
    torch.testing.assert_close(build_loss("mse")(logits, targets), functional.mse_loss(torch.sigmoid(logits), targets))
    expected = functional.mse_loss(torch.softmax(logits, dim=1), targets)
    torch.testing.assert_close(build_loss("mse", "multiclass")(logits, targets), expected)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_huber_is_torchs_of_the_probabilities(kind, logits, request):
    targets = request.getfixturevalue(kind)
    for delta in (0.1, 0.5):
        expected = functional.huber_loss(torch.sigmoid(logits), targets, delta=delta)
        torch.testing.assert_close(build_loss("huber", delta=delta)(logits, targets), expected)
        expected = functional.huber_loss(torch.softmax(logits, dim=1), targets, delta=delta)
        torch.testing.assert_close(build_loss("huber", "multiclass", delta=delta)(logits, targets), expected)


def test_hinge_by_hand():
    logits = torch.tensor([[2.0, 0.5], [-0.5, -3.0]])
    targets = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(build_loss("hinge", margin=1.0)(logits, targets), torch.tensor((0 + 0.5 + 1.5 + 0) / 4))
    torch.testing.assert_close(build_loss("hinge", margin=4.0)(logits, targets), torch.tensor((2 + 3.5 + 4.5 + 1) / 4))


def test_hinge_of_classes_is_torchs(logits, hard):
    for margin in (0.5, 1.0):
        expected = functional.multi_margin_loss(logits, hard.argmax(dim=1), margin=margin)
        torch.testing.assert_close(build_loss("hinge", "multiclass", margin=margin)(logits, hard), expected)


def asymmetric(positive_gamma, negative_gamma, margin, weights=None):
    focus = {"positive_gamma": positive_gamma, "negative_gamma": negative_gamma}
    return build_loss("asymmetric", class_weights=weights, margin=margin, **focus)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_asymmetric_follows_its_equations(kind, logits, request):
    targets = request.getfixturevalue(kind)
    logits = logits.requires_grad_()
    probs = torch.sigmoid(logits)
    shifted = (probs - 0.05).clamp(min=0)
    losses = targets * (1 - probs) ** 1.5 * probs.log() + (1 - targets) * shifted**3 * (1 - shifted).log()
    loss, expected = asymmetric(1.5, 3.0, 0.05)(logits, targets), -losses.mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in (loss, expected)))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_asymmetric_without_its_asymmetry(kind, logits, request):
    targets = request.getfixturevalue(kind)
    torch.testing.assert_close(asymmetric(0.0, 0.0, 0.0)(logits, targets), build_loss("bce")(logits, targets))
    focal = build_loss("focal", gamma=2.0)(logits, targets)
    torch.testing.assert_close(asymmetric(2.0, 2.0, 0.0)(logits, targets), focal)
    weighted = asymmetric(0.0, 0.0, 0.0, WEIGHTS)(logits, targets)
    torch.testing.assert_close(weighted, build_loss("bce", class_weights=WEIGHTS)(logits, targets))


def test_asymmetric_forgets_the_negatives_below_its_margin():
    logits = torch.tensor([[-4.0], [-2.0]], requires_grad=True)  # probabilities 0.018 and 0.119
    asymmetric(0.0, 4.0, 0.05)(logits, torch.zeros(2, 1)).backward()
    assert logits.grad[0] == 0
    assert logits.grad[1] > 0


def test_auc_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.5, 1.0], [1.0, 1.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])  # nothing to compare in the second column
    torch.testing.assert_close(build_loss("auc", margin=1.0)(logits, targets), torch.tensor((0 + 0.25) / 2))
    torch.testing.assert_close(build_loss("auc", margin=2.0)(logits, targets), torch.tensor((0.25 + 2.25) / 2))
    targets[0, 1] = 0.0
    torch.testing.assert_close(build_loss("auc", margin=1.0)(logits, targets), torch.tensor((0.125 + 1.0) / 2))


def test_auc_bounds_what_it_stands_for(logits, hard):
    for scores in (logits, hard + logits):
        missed = 1 - roc_auc_score(hard.numpy(), scores.numpy(), average="macro")
        assert build_loss("auc")(scores, hard).item() >= missed
    assert build_loss("auc")(3 * hard, hard) == 0


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_auc_of_classes_compares_log_odds(scale, logits, hard):
    wide = scale * logits.double()
    others = torch.stack([wide[:, [k for k in range(4) if k != one]].logsumexp(dim=1) for one in range(4)], dim=1)
    expected = build_loss("auc")((wide - others).float(), hard)
    torch.testing.assert_close(build_loss("auc", "multiclass")(scale * logits, hard), expected)


def mixed_up(targets):
    """Targets as Mixup makes them of each row and the next one."""
    return 0.7 * targets + 0.3 * targets.roll(1, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mix", [False, True])
def test_auc_of_soft_targets_is_the_sum_over_pairs_by_their_shares(smoothing, mix, logits):
    targets = (torch.rand(16, 4, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    targets = mixed_up(targets) if mix else targets
    shares, expected = (targets * (1 - smoothing) + smoothing / 2).double(), 0
    for column in range(4):
        total = weight = 0
        for i, j in product(range(16), range(16)):
            share = shares[i, column] * (1 - shares[j, column])
            total += share * max(0, 1.5 - (logits[i, column] - logits[j, column]).item()) ** 2
            weight += share
        expected += total / weight / 4
    loss = build_loss("auc", label_smoothing=smoothing, margin=1.5)(logits, targets)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hinge_of_soft_targets_is_the_sum_over_the_sides_and_classes_by_their_shares(smoothing, weights, logits, hard):
    targets, kinds = mixed_up(hard), [1.0] * 4 if weights is None else weights.tolist()
    total, shares = 0, targets * (1 - smoothing) + smoothing / 2
    for row, column in product(range(16), range(4)):
        share, logit = shares[row, column].item(), logits[row, column].item()
        total += share * kinds[column] * max(0, 1.5 - logit) + (1 - share) * max(0, 1.5 + logit)
    loss = build_loss("hinge", "multilabel", weights, smoothing, margin=1.5)(logits, targets).item()
    assert loss == pytest.approx(total / 64, rel=1e-6)
    total = weight = 0
    shares = targets * (1 - smoothing) + smoothing / 4
    for row, right in product(range(16), range(4)):
        share = shares[row, right].item() * kinds[right]
        leads = [(logits[row, right] - logits[row, other]).item() for other in range(4) if other != right]
        total, weight = total + share * sum(max(0, 1.5 - lead) for lead in leads) / 4, weight + share
    loss = build_loss("hinge", "multiclass", weights, smoothing, margin=1.5)(logits, targets).item()
    assert loss == pytest.approx(total / weight, rel=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_two_parts_is_their_weighted_sum_and_so_is_its_gradient(task, smoothing, weights, logits, hard):
    targets, logits = mixed_up(hard), logits.requires_grad_()
    shares = {"auc_weight": 0.3, "bce_weight": 2.0}
    loss = build_loss("auc_bce", task, weights, smoothing, margin=1.5, **shares)(logits, targets)
    auc = build_loss("auc", task, None, smoothing, margin=1.5)(logits, targets)
    expected = 0.3 * auc + 2.0 * build_loss("auto", task, weights, smoothing)(logits, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in (loss, expected)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_of_two_parts_leaves_out_what_is_missing_in_both(weights, logits, hard):
    settings = {
        name: Config(loss=Loss(name=name), competition=Competition(task="multilabel", missing="drop"))
        for name in ("auc", "bce", "auc_bce")
    }
    gaps, logits = hard.clone(), logits.requires_grad_()
    gaps[:5, 1] = gaps[3:9, 2] = torch.nan
    loss = module.build_loss(settings["auc_bce"], weights)(logits, gaps)
    bce = module.build_loss(settings["bce"], weights)(logits, gaps)
    torch.testing.assert_close(loss, module.build_loss(settings["auc"])(logits, gaps) + bce)
    loss.backward()
    assert (logits.grad[gaps.isnan()] == 0).all()
    nothing = module.build_loss(settings["auc_bce"], weights)(logits, torch.full_like(logits, torch.nan))
    assert nothing.item() == 0


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_auc_of_a_batch_with_one_side_is_zero_and_can_go_backward(task, logits):
    logits = logits.requires_grad_()
    targets = functional.one_hot(torch.zeros(16, dtype=torch.int64), 4).float()
    loss = build_loss("auc", task)(logits, targets)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(("name", "task"), NAMES_AND_TASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_loss_and_gradient_stays_finite(name, task, dtype):
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [0.0, 1.0], [0.0, 0.0]])
    hard = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    kinds = [hard, 0.9 * hard + 0.05]
    some_weights = [None] if name == "auc" else [None, [0.5, 20.0]]
    cases = product(kinds, some_weights, (50.0, 200.0), (0.0, 0.5, 4.0), (0.0, 0.05))
    for targets, weights, size, gamma, margin in cases:
        every = {"focal": {"gamma": gamma}}
        every["asymmetric"] = {"positive_gamma": gamma, "negative_gamma": gamma, "margin": margin}
        logits = (size * signs).to(dtype).requires_grad_()
        loss = build_loss(name, task, weights, **every.get(name, {}))(logits, targets)
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert loss > 0
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "task"), NAMES_AND_TASKS)
def test_every_loss_pushes_to_the_right_side(name, task, hard):
    logits = torch.zeros(16, 4, requires_grad=True)
    build_loss(name, task)(logits, hard).backward()
    assert (logits.grad[hard == 1] < 0).all()
    assert (logits.grad[hard == 0] > 0).all()


@pytest.mark.parametrize(("name", "task"), NAMES_AND_TASKS)
def test_kwargs_reach_the_loss(name, task, logits, hard):
    keys = {
        "huber": ["delta"],
        "hinge": ["margin"],
        "auc": ["margin"],
        "auc_bce": ["auc_weight", "bce_weight", "margin"],
        "focal": ["gamma"],
        "asymmetric": ["positive_gamma", "negative_gamma", "margin"],
    }
    default = build_loss(name, task)(logits, hard)
    own = {key for some in keys.values() for key in some}
    for key in (*own, "weights", "is_multiclass"):
        if key in keys.get(name, []):
            assert build_loss(name, task, **{key: 0.3})(logits, hard) != default
        else:
            with pytest.raises(UserError, match=f"loss.kwargs: {name} has no {key} "):
                build_loss(name, task, **{key: 0.3})


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_weights_of_bce_are_torchs_pos_weight(kind, logits, request):
    targets = request.getfixturevalue(kind)
    expected = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=WEIGHTS)
    for task in ("binary", "multilabel"):
        torch.testing.assert_close(build_loss(task=task, class_weights=WEIGHTS)(logits, targets), expected)
    torch.testing.assert_close(build_loss("focal", task, WEIGHTS, gamma=0)(logits, targets), expected)


def test_weights_of_cross_entropy_are_torchs(logits, hard):
    expected = functional.cross_entropy(logits, hard.argmax(dim=1), weight=WEIGHTS)
    for given in (WEIGHTS, WEIGHTS.double().numpy(), WEIGHTS.tolist()):
        torch.testing.assert_close(build_loss(task="multiclass", class_weights=given)(logits, hard), expected)
    focal = build_loss("focal", "multiclass", WEIGHTS, gamma=0)
    torch.testing.assert_close(focal(logits, hard), expected)


def test_weighted_soft_targets_count_as_their_shares_of_hard_ones(logits, soft):
    shares = soft * WEIGHTS
    expected = -(shares * functional.log_softmax(logits, dim=1)).sum() / shares.sum()
    torch.testing.assert_close(build_loss("cross_entropy", "multiclass", WEIGHTS)(logits, soft), expected)
    torch.testing.assert_close(build_loss("focal", "multiclass", WEIGHTS, gamma=0.0)(logits, soft), expected)


@pytest.mark.parametrize("name", ["mse", "huber", "hinge", "focal", "asymmetric"])
def test_weights_multiply_the_positives_of_each_column(name, logits, hard):
    plain, weighted = build_loss(name, "multilabel"), build_loss(name, "multilabel", WEIGHTS)
    expected = 0
    for row in range(16):
        for column in range(4):
            entry = slice(row, row + 1), slice(column, column + 1)
            factor = WEIGHTS[column] if hard[entry] == 1 else 1.0
            expected += factor * plain(logits[entry], hard[entry]) / 64
    torch.testing.assert_close(weighted(logits, hard), expected)


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "huber", "hinge", "focal"])
def test_weights_make_a_weighted_mean_of_a_multiclass_tasks_rows(name, logits, hard):
    plain, weighted = build_loss(name, "multiclass"), build_loss(name, "multiclass", WEIGHTS)
    rows = torch.stack([plain(logits[row : row + 1], hard[row : row + 1]) for row in range(16)])
    factors = WEIGHTS[hard.argmax(dim=1)]
    torch.testing.assert_close(weighted(logits, hard), (factors * rows).sum() / factors.sum())


@pytest.mark.parametrize(("name", "task"), [pair for pair in NAMES_AND_TASKS if pair[0] != "auc"])
def test_equal_weights_change_nothing(name, task, logits, soft):
    plain, weighted = build_loss(name, task), build_loss(name, task, [1.0] * 4)
    torch.testing.assert_close(weighted(logits, soft), plain(logits, soft))


@pytest.mark.parametrize("name", ["mse", "huber"])
def test_weights_of_a_soft_error_weigh_the_whole_of_it(name, logits, soft):
    expected = 0
    for row in range(16):
        for column in range(4):
            entry = slice(row, row + 1), slice(column, column + 1)
            factor = soft[entry].item() * WEIGHTS[column] + 1 - soft[entry].item()
            expected += factor * build_loss(name, "multilabel")(logits[entry], soft[entry]) / 64
    torch.testing.assert_close(build_loss(name, "multilabel", WEIGHTS)(logits, soft), expected)
    plain = build_loss(name, "multiclass")
    rows = torch.stack([plain(logits[row : row + 1], soft[row : row + 1]) for row in range(16)])
    factors = (soft * WEIGHTS).sum(dim=1)
    expected = (factors * rows).sum() / factors.sum()
    torch.testing.assert_close(build_loss(name, "multiclass", WEIGHTS)(logits, soft), expected)


def test_weights_of_auc_are_refused():
    with pytest.raises(AssertionError, match="auc takes no class weights"):
        build_loss("auc", "binary", [2.0])


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


def make_config(task="binary", prob=0.0, schedule=None, stop=None, **loss):
    stopping = {"early_stopping_epochs": 2, "early_stopping_kwargs": {"on": stop}, "select": "best"} if stop else {}
    schedule = Schedule() if schedule is None else Schedule(name="plateau", kwargs=schedule)
    competition, train = Competition(task=task), Train(**stopping)
    return Config(loss=Loss(**loss), mix=Mix(prob=prob), schedule=schedule, train=train, competition=competition)


REFUSALS = [
    ({"name": "bce", "task": "multiclass"},
     "loss.name=bce: a multiclass task has one class a row; set loss.name=cross_entropy"),
    ({"name": "asymmetric", "task": "multiclass"},
     "loss.name=asymmetric: a multiclass task has one class a row; set loss.name=cross_entropy"),
    ({"name": "cross_entropy"}, "loss.name=cross_entropy: a binary task has yes/no targets; set loss.name=bce"),
    ({"name": "cross_entropy", "task": "multilabel"},
     "loss.name=cross_entropy: a multilabel task has yes/no targets; set loss.name=bce"),
    ({"name": "auc", "balance": True},
     "loss.name=auc: compares pairs, which weights do not change; leave out loss.balance and weights"),
    ({"name": "auc", "class_weights": [2.0]},
     "loss.name=auc: compares pairs, which weights do not change; leave out loss.balance and weights"),
    ({"name": "auc", "schedule": {"on": "loss"}},
     "schedule.kwargs.on=loss: is the log loss, which loss.name=auc does not lower; set schedule.kwargs.on=score"),
    ({"name": "auc", "schedule": {}},
     "schedule.kwargs.on=loss: is the log loss, which loss.name=auc does not lower; set schedule.kwargs.on=score"),
    ({"name": "auc", "stop": "loss"},
     "train.early_stopping_kwargs.on=loss: is the log loss, which loss.name=auc does not lower; "
     "set train.early_stopping_kwargs.on=score"),
    ({"name": "focal", "kwargs": {"gama": 2}}, "loss.kwargs: focal has no gama (it has gamma)"),
    ({"kwargs": {"gamma": 2}}, "loss.kwargs: bce has no gamma (it has none)"),
    ({"name": "focal", "kwargs": {"gamma": -1.0}}, "loss.kwargs.gamma=-1.0: must be at least 0"),
    ({"name": "huber", "kwargs": {"delta": 0}}, "loss.kwargs.delta=0: must be at least 0.001"),
    ({"name": "asymmetric", "kwargs": {"margin": 1}}, "loss.kwargs.margin=1: must be from 0 to 0.99"),
    ({"name": "asymmetric", "kwargs": {"negative_gamma": -1}}, "loss.kwargs.negative_gamma=-1: must be at least 0"),
    ({"name": "hinge", "kwargs": {"margin": math.inf}}, "loss.kwargs.margin=inf: must be a finite number at least 0"),
    ({"name": "auc", "kwargs": {"margin": "wide"}}, "loss.kwargs.margin=wide: must be a number"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), REFUSALS)
def test_what_does_not_go_with_a_loss(given, message):
    for refuse in (module.check_loss, module.build_loss):
        with pytest.raises(UserError) as error:
            refuse(make_config(**given))
        assert str(error.value) == message or ("kwargs" in given and str(error.value).startswith(message))


def test_a_loss_of_pairs_needs_two_images_a_batch():
    for name in ("auc", "auc_bce"):
        with pytest.raises(UserError) as error:
            module.check_loss(replace(make_config(name=name), train=Train(batch_size=1)))
        assert str(error.value) == (
            f"loss.name={name}: compares the images of a batch, of which train.batch_size=1 has one; raise it"
        )
        module.check_loss(replace(make_config(name=name), train=Train(batch_size=2)))


def test_what_goes_with_a_loss():
    for given in (
        {"prob": 0.5, "label_smoothing": 0.1, "balance": True, "schedule": {"on": "loss"}, "stop": "loss"},
        {"name": "auc", "schedule": {"on": "score"}, "stop": "score"},
        {"name": "hinge", "balance": True, "prob": 0.5, "label_smoothing": 0.1},
        {"name": "auc_bce", "balance": True, "prob": 0.5, "schedule": {"on": "loss"}, "stop": "loss"},
        *({"name": name, "task": task} for name, task in NAMES_AND_TASKS),
    ):
        module.check_loss(make_config(**given))


def test_a_loss_of_ones_own(monkeypatch, logits, hard):
    def plain(logits, targets):
        return (logits - targets).abs().mean()

    def full(logits, targets, weights, is_multiclass, power=2):
        return (weights * (logits - targets).abs().pow(power)).mean() + is_multiclass

    monkeypatch.setitem(LOSSES, "plain", plain)
    monkeypatch.setitem(LOSSES, "full", full)
    for task in TASKS:
        torch.testing.assert_close(build_loss("plain", task)(logits, hard), plain(logits, hard))
        found = build_loss("full", task, WEIGHTS, power=3)(logits, hard)
        torch.testing.assert_close(found, full(logits, hard, WEIGHTS, task == "multiclass", 3))
    with pytest.raises(UserError) as error:
        module.check_loss(make_config(name="plain", balance=True))
    assert str(error.value) == "loss.name=plain: takes no weights; leave out loss.balance and weights"


def test_balanced_weights_are_scikit_learns():
    numbers = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=numbers)
    weights = resolve_class_weights(Loss(balance=True), np.eye(3, dtype=np.float32)[numbers], "multiclass")
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32
    weights = resolve_class_weights(Loss(balance=True), np.eye(4)[numbers], "multiclass")
    np.testing.assert_allclose(weights, [10 / 20, 10 / 8, 10 / 12, 1], rtol=1e-6)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_balanced_weights_of_columns_are_negatives_by_positives(task):
    balance = Loss(balance=True)
    targets = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]], dtype=np.float32)
    np.testing.assert_allclose(resolve_class_weights(balance, targets[:, :2], task), [4, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(resolve_class_weights(balance, np.zeros((5, 1)), task), [1])
    np.testing.assert_allclose(resolve_class_weights(balance, targets[:, 2:], task), [1, 4], rtol=1e-6)


def test_balanced_weights_make_both_sides_weigh_the_same():
    targets = torch.tensor([[1.0], [0.0], [0.0], [0.0], [0.0]])
    logits = torch.zeros(5, 1, requires_grad=True)
    weights = resolve_class_weights(Loss(balance=True), targets.numpy(), "binary")
    build_loss(task="binary", class_weights=weights)(logits, targets).backward()
    torch.testing.assert_close(logits.grad.sum(), torch.tensor(0.0))


def test_given_weights_or_none():
    targets = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3, 3]]
    assert resolve_class_weights(Loss(), targets, "multiclass") is None
    given = resolve_class_weights(Loss(class_weights=[1, 2, 3, 4.5]), targets, "multiclass")
    np.testing.assert_array_equal(given, np.array([1, 2, 3, 4.5], dtype=np.float32), strict=True)


@pytest.mark.parametrize(("task", "what"), [("multiclass", "class"), ("multilabel", "target")])
def test_as_many_class_weights_as_columns(task, what):
    with pytest.raises(UserError) as caught:
        resolve_class_weights(Loss(class_weights=[1, 2.5]), np.eye(4), task)
    assert str(caught.value) == f"loss.class_weights=[1, 2.5]: 2 given, 4 needed; give one for each {what}"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONLY_CLASSES])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_targets_that_are_missing_change_no_loss_and_no_gradient(name, weights, logits, hard):
    if (name == "auc" and weights is not None) or name == "auc_bce":  # which has a test of its own
        return
    settings = Config(loss=Loss(name=name), competition=Competition(task="multilabel", missing="drop"))
    loss, plain = module.build_loss(settings, weights), build_loss(name, class_weights=weights)
    torch.testing.assert_close(loss(logits, hard), plain(logits, hard))
    is_known = torch.ones_like(hard, dtype=torch.bool)
    is_known[:5, 1] = is_known[3:9, 2] = False
    gaps, logits = hard.masked_fill(~is_known, torch.nan), logits.clone().requires_grad_()
    loss(logits, gaps).backward()
    assert (logits.grad[~is_known] == 0).all()
    if name == "auc":  # a mean over columns
        each = [build_loss(name)(logits[rows, c : c + 1], hard[rows, c : c + 1]) for c, rows in enumerate(is_known.T)]
        expected = torch.stack(each).mean()
    else:  # a mean over all that is known
        counts = is_known.sum(dim=0)
        each = [
            build_loss(name, class_weights=None if weights is None else weights[c : c + 1])(
                logits[rows, c : c + 1], hard[rows, c : c + 1]
            )
            for c, rows in enumerate(is_known.T)
        ]
        expected = (torch.stack(each) * counts).sum() / counts.sum()
    torch.testing.assert_close(loss(logits, gaps), expected)
    if name != "auc":
        assert loss(logits[:2], torch.full((2, 4), torch.nan)).item() == 0


def test_class_weights_count_the_known_targets_only():
    targets = np.array([[1, 0], [0, np.nan], [0, 1], [np.nan, 0]], np.float32)
    weights = resolve_class_weights(Loss(balance=True), targets, "multilabel")
    np.testing.assert_allclose(weights, [2, 2])


def build_regression_loss(name="auto", missing="error", scale=None, **kwargs):
    competition = Competition(task="regression", missing=missing)
    return module.build_loss(Config(loss=Loss(name=name, kwargs=kwargs), competition=competition), target_scale=scale)


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("auto", {}, (0.5**2 + 2**2 + 1**2) / 3),
        ("mse", {}, (0.5**2 + 2**2 + 1**2) / 3),
        ("mae", {}, (0.5 + 2 + 1) / 3),
        ("huber", {"delta": 1}, (0.125 + 1.5 + 0.5) / 3),
    ],
)
def test_regression_losses_are_errors_of_standardised_values(name, kwargs, expected):
    logits, targets = torch.tensor([[0.5], [-2.0], [3.0]]), torch.tensor([[100.0], [100.0], [120.0]])
    loss = build_regression_loss(name, scale=([100.0], [10.0]), **kwargs)  # standardised they are 0, 0 and 2
    torch.testing.assert_close(loss(logits, targets), torch.tensor(expected))


def test_a_missing_number_has_no_loss_and_no_gradient():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    targets = torch.tensor([[0.0, math.nan], [math.nan, 1.0]])
    loss = build_regression_loss(missing="drop", scale=([0.0, 0.0], [1.0, 1.0]))(logits, targets)
    loss.backward()
    assert (loss.item(), logits.grad.tolist()) == (5, [[1, 0], [0, 3]])


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"mse", "mae", "huber"}))
def test_losses_of_classes_are_refused_for_regression(name):
    with pytest.raises(UserError) as caught:
        build_regression_loss(name)
    expected = f"loss.name={name}: takes logits of classes, a regression task has values; set loss.name=mse"
    assert str(caught.value) == expected


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_values_alone_is_refused_for_classes(task):
    with pytest.raises(UserError) as caught:
        build_loss("mae", task)
    assert str(caught.value) == "loss.name=mae: takes the values of competition.task=regression; set loss.name=mse"


def test_auxiliary_columns_have_each_their_loss_and_words_weigh_as_one():
    names = ("share", "age", "site", "site")
    scales = [0, 40, 0, 0], [1, 10, 1, 1], [True, False, True, True]
    auxiliary = module.add_auxiliary_loss(lambda logits, targets: logits.sum(), 1, 0, names, *scales)
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[0.5, 30, 1, 0], [math.nan, 50, 0, 1], [1, math.nan, math.nan, math.nan]])
    bce = functional.binary_cross_entropy_with_logits
    share = bce(logits[[0, 2], 0], torch.tensor([0.5, 1.0]))
    age = ((logits[[0, 1], 1] - torch.tensor([-1.0, 1.0])) ** 2).mean()
    site = bce(logits[:2, 2:], targets[:2, 2:])
    loss = auxiliary(logits, targets)
    torch.testing.assert_close(loss, (share + age + site) / 3)
    loss.backward()
    assert (logits.grad == 0).tolist() == targets.isnan().tolist()
    assert auxiliary(logits, torch.full((3, 4), math.nan)).item() == 0


def test_the_joint_loss_adds_the_auxiliary_part_by_its_weight():
    joint = module.add_auxiliary_loss(lambda x, y: (x - y).sum(), 0.5, 1, ("age",), [1], [2], [False])
    assert joint(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 5.0]])).item() == 2 + 0.5 * (4 - (5 - 1) / 2) ** 2
