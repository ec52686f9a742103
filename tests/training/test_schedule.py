"""Every curve against torch's own scheduler or hand-computed rates."""

import io
import math

import pytest
import torch
from torch.optim import lr_scheduler

from src.config.settings import Schedule
from src.errors import UserError
from src.training.schedule import build_schedule

EPOCHS, STEPS = 30, 10
NO_VALUES = [(0.0, 0.0)] * 1000


def build(settings, epochs=EPOCHS, steps=STEPS, lr=1.0):
    """An optimizer over a backbone and a head at ten times its rate, and its schedule."""
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": one} for one in (lr, 10 * lr)], lr=lr
    )
    return optimizer, build_schedule(settings, optimizer, epochs, steps)


def follow(optimizer, schedule, epochs, steps=STEPS, values=NO_VALUES, **direction):
    """The rates (epochs * steps, groups) used at each step; `values` holds each epoch's (score, loss)."""
    seen = []
    for epoch in epochs:
        for _ in range(steps):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
        schedule.end_epoch(*values[epoch], **direction)
    return torch.tensor(seen, dtype=torch.float64)


def rates(settings, epochs=EPOCHS, steps=STEPS, values=NO_VALUES, **direction):
    return follow(*build(settings, epochs, steps), range(epochs), steps, values, **direction)


def reference(build_torchs, moves):
    """The rates of torch's own scheduler, moved so many times."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_torchs(optimizer, moves)
    seen = []
    for _ in range(moves):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(seen, dtype=torch.float64)


TORCHS = {
    "constant": lambda optimizer, n: lr_scheduler.LambdaLR(optimizer, lambda move: 1.0),
    "linear": lambda optimizer, n: lr_scheduler.LinearLR(optimizer, 1.0, 0.01, n),
    "polynomial": lambda optimizer, n: lr_scheduler.PolynomialLR(optimizer, n, 0.9),
    "exponential": lambda optimizer, n: lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / n)),
    "step": lambda optimizer, n: lr_scheduler.StepLR(optimizer, n // 3, 0.1),
    "multistep": lambda optimizer, n: lr_scheduler.MultiStepLR(optimizer, [round(n / 2), round(n * 3 / 4)], 0.1),
    "cosine": lambda optimizer, n: lr_scheduler.CosineAnnealingLR(optimizer, n),
    "cosine_restarts": lambda optimizer, n: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, n // 3),
    "onecycle": lambda optimizer, n: lr_scheduler.OneCycleLR(
        optimizer, 1.0, n + 1, pct_start=2 / (n + 1), cycle_momentum=False
    ),
}
CASES = [(name, per) for name in (*TORCHS, "plateau") for per in ("auto", "epoch")]


@pytest.mark.parametrize("name", TORCHS)
def test_each_curve_is_torchs_own_by_step(name):
    got = rates(Schedule(name=name, warmup_epochs=0))[:, 0]
    torch.testing.assert_close(got, reference(TORCHS[name], EPOCHS * STEPS), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", TORCHS)
def test_each_curve_is_torchs_own_by_epoch_and_flat_within_one(name):
    got = rates(Schedule(name=name, warmup_epochs=0, per="epoch"))[:, 0].reshape(EPOCHS, STEPS)
    torch.testing.assert_close(got[:, 0], reference(TORCHS[name], EPOCHS), rtol=1e-12, atol=0)
    assert (got == got[:, :1]).all()


@pytest.mark.parametrize(
    ("name", "kwargs", "build_torchs"),
    [
        ("linear", {"final_factor": 0.25}, lambda opt, n: lr_scheduler.LinearLR(opt, 1.0, 0.25, n)),
        ("polynomial", {"power": 2.0}, lambda opt, n: lr_scheduler.PolynomialLR(opt, n, 2.0)),
        ("exponential", {"final_factor": 0.25}, lambda opt, n: lr_scheduler.ExponentialLR(opt, 0.25 ** (1 / n))),
        ("exponential", {"gamma": 0.9}, lambda opt, n: lr_scheduler.ExponentialLR(opt, 0.9 ** (EPOCHS / n))),
        ("step", {"step_epochs": 4, "gamma": 0.5}, lambda opt, n: lr_scheduler.StepLR(opt, 4 * n // EPOCHS, 0.5)),
        ("multistep", {"milestone_epochs": [20, 5], "gamma": 0.3},
         lambda opt, n: lr_scheduler.MultiStepLR(opt, [5 * n // EPOCHS, 20 * n // EPOCHS], 0.3)),
        ("cosine_restarts", {"restart_epochs": 4, "restart_factor": 2},
         lambda opt, n: lr_scheduler.CosineAnnealingWarmRestarts(opt, 4 * n // EPOCHS, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_kwarg_reaches_torchs_scheduler(name, kwargs, build_torchs):
    got = rates(Schedule(name=name, kwargs=kwargs, warmup_epochs=0))[:, 0]
    torch.testing.assert_close(got, reference(build_torchs, EPOCHS * STEPS), rtol=1e-12, atol=0)
    got = rates(Schedule(name=name, kwargs=kwargs, warmup_epochs=0, per="epoch"))[::STEPS, 0]
    torch.testing.assert_close(got, reference(build_torchs, EPOCHS), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "per"), CASES)
def test_every_curve_is_preceded_by_its_warmup_and_keeps_the_groups_ratio(name, per):
    got = rates(Schedule(name=name, warmup_epochs=3, per=per))
    torch.testing.assert_close(got[:, 1], 10 * got[:, 0], rtol=1e-12, atol=0)
    warm = got[::STEPS, 0] if per == "epoch" and name != "plateau" else got[:, 0]
    moves = 3 * len(warm) // EPOCHS
    if name != "onecycle":
        rise = 0.01 + 0.99 * torch.arange(moves + 1, dtype=torch.float64) / moves
        torch.testing.assert_close(warm[: moves + 1], rise, rtol=1e-12, atol=0)
    assert (warm.diff()[: moves - 1] > 0).all()
    assert (warm.diff()[moves:] <= 0).all() or name == "cosine_restarts"


def test_the_curve_after_a_warmup_is_shorter_by_it():
    got = rates(Schedule(name="cosine", warmup_epochs=3))[:, 0]
    assert got[30 + 135] == pytest.approx(0.5 * (1 + math.cos(math.pi * 135 / 270)))


def test_periods_begin_after_the_warmup_and_milestones_at_the_start_of_training():
    step = rates(Schedule(name="step", kwargs={"step_epochs": 5}, warmup_epochs=2))[:, 0]
    assert (step[69].item(), step[70].item()) == (1.0, pytest.approx(0.1))
    multistep = rates(Schedule(name="multistep", kwargs={"milestone_epochs": [15]}, warmup_epochs=2))[:, 0]
    assert (multistep[149].item(), multistep[150].item()) == (1.0, pytest.approx(0.1))
    restarts = rates(Schedule(name="cosine_restarts", kwargs={"restart_epochs": 5}, warmup_epochs=2))[:, 0]
    assert restarts[69] < 0.01
    assert restarts[70] == 1.0


def test_a_milestone_inside_the_warmup_falls_right_after_it():
    got = rates(Schedule(name="multistep", kwargs={"milestone_epochs": [1]}, warmup_epochs=2))[:, 0]
    torch.testing.assert_close(got[20:22], torch.tensor([1.0, 0.1], dtype=torch.float64))


def test_onecycle_peaks_after_its_warmup_and_ends_near_zero():
    got = rates(Schedule(name="onecycle", warmup_epochs=3))
    assert got[:, 0].argmax() == 30
    assert got[30].tolist() == pytest.approx([1.0, 10.0])
    assert got[-1, 0] < 1e-3
    by_epoch = rates(Schedule(name="onecycle", warmup_epochs=3, per="epoch"))[::STEPS, 0]
    assert (by_epoch.argmax(), by_epoch[3].item()) == (3, pytest.approx(1.0))


# Better is less loss or more score. Each list has a best value at index 2 that is never met again.
FALLS = [5.0, 4.0, 3.0, 3.5, 3.0, 4.0, 3.2, 3.1, 3.3, 3.4]


def plateau(warmup_epochs=0, **kwargs):
    return Schedule(name="plateau", warmup_epochs=warmup_epochs, kwargs=kwargs)


@pytest.mark.parametrize(
    ("on", "sign", "greater_is_better"), [("loss", 1, True), ("score", -1, True), ("score", 1, False)]
)
def test_plateau_falls_after_more_than_patience_epochs_without_a_better_value(on, sign, greater_is_better):
    other = [-sign * epoch for epoch in range(10)]  # gets better by the other's measure, whichever it is
    values = [(one * sign, two) if on == "score" else (two, one) for one, two in zip(FALLS, other, strict=True)]
    got = rates(plateau(patience_epochs=1, on=on), 10, values=values, greater_is_better=greater_is_better)
    # no better value in epochs 3 and 4: the second is one too many, so it falls after 4, and again after 6 and 8
    expected = torch.tensor([1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001], dtype=torch.float64)
    torch.testing.assert_close(got[::STEPS, 0], expected)


def test_plateau_does_not_look_at_the_other_value():
    better = [(float(epoch), 1.0 - 0.01 * epoch) for epoch in range(10)]
    worse = [(-float(epoch), 1.0 - 0.01 * epoch) for epoch in range(10)]
    for values, ends in ((better, (1.0, 1.0)), (worse, (1.0, 0.01))):
        for on, end in zip(("loss", "score"), ends, strict=True):
            assert rates(plateau(patience_epochs=2, on=on), 10, values=values)[-1, 0] == pytest.approx(end)


def test_plateau_waits_for_the_warmup_and_the_warmup_does_not_undo_a_fall():
    values = [(0.0, 1.0)] + [(0.0, 2.0)] * 9  # the best value lies inside the warm-up and does not count
    got = rates(plateau(warmup_epochs=2.5, patience_epochs=0), 10, values=values)[:, 0]
    torch.testing.assert_close(got[25:40], torch.ones(15, dtype=torch.float64))
    # epoch 2 is the first to count, 3 to 9 are no better
    expected = 0.1 ** torch.arange(1, 7, dtype=torch.float64)
    torch.testing.assert_close(got[40:].reshape(6, STEPS), expected[:, None].expand(6, STEPS))


def test_plateau_counts_an_unchanged_score_below_zero_as_no_better():
    settings = plateau(patience_epochs=0, on="score")
    assert rates(settings, 2, values=[(-1.0, 0.0)] * 2)[-1, 0] == 1.0
    assert rates(settings, 3, values=[(-1.0, 0.0)] * 3)[-1, 0] == pytest.approx(0.1)


@pytest.mark.parametrize(("threshold", "falls_after"), [(0.0, 8), (0.009, 8), (0.021, 2)])
@pytest.mark.parametrize(("on", "sign"), [("loss", -1), ("score", 1)])
def test_plateau_counts_what_is_better_by_more_than_its_threshold(threshold, falls_after, on, sign):
    values = [(one, one) for one in (sign * 0.01 * min(epoch, 6) for epoch in range(10))]  # better by .01 up to epoch 6
    got = rates(plateau(patience_epochs=1, on=on, threshold=threshold), 10, values=values)[::STEPS, 0]
    assert int((got < 0.99).nonzero()[0]) == falls_after + 1


@pytest.mark.parametrize(("name", "per"), CASES)
@pytest.mark.parametrize("stopped_after", [1, 4, 13])
def test_it_resumes_bit_for_bit(name, per, stopped_after):
    settings = Schedule(name=name, per=per, warmup_epochs=2.5)
    values = [(one, one) for one in FALLS * 3]
    whole = rates(settings, values=values)

    optimizer, schedule = build(settings)
    first = follow(optimizer, schedule, range(stopped_after), values=values)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    optimizer, schedule = build(settings)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    second = follow(optimizer, schedule, range(stopped_after, EPOCHS), values=values)
    assert torch.equal(torch.cat([first, second]), whole)


@pytest.mark.parametrize(("name", "per"), CASES)
@pytest.mark.parametrize("warmup_epochs", [0, 0.5, 1])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 5), (2, 1)])
def test_a_fold_of_one_step_or_epoch_has_a_rate(name, per, warmup_epochs, epochs, steps):
    settings = Schedule(name=name, per=per, warmup_epochs=warmup_epochs)
    if (name, per, epochs) == ("onecycle", "epoch", 1):
        with pytest.raises(UserError, match="schedule.per=epoch: one epoch is no cycle; set schedule.per=step"):
            build(settings, epochs, steps)
        return
    got = rates(settings, epochs, steps)
    assert torch.isfinite(got).all()
    assert (got > 0).all()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"name": "step", "kwargs": {"step_epochs": 30}}, "kwargs.step_epochs=30: never comes; train.epochs is 30"),
        ({"name": "cosine_restarts", "kwargs": {"restart_epochs": 40}},
         "kwargs.restart_epochs=40: never comes; train.epochs is 30"),
        ({"name": "multistep", "kwargs": {"milestone_epochs": [5, 30]}},
         "kwargs.milestone_epochs: 30 is outside the training; train.epochs is 30"),
        ({"name": "multistep", "kwargs": {"milestone_epochs": ["x"]}},
         "kwargs.milestone_epochs: x is outside the training; train.epochs is 30"),
        ({"name": "multistep", "kwargs": {"milestone_epochs": [0]}},
         "kwargs.milestone_epochs: 0 is outside the training; train.epochs is 30"),
        ({"name": "plateau", "per": "step"},
         "per=step: plateau looks at each epoch's validation; set schedule.per=auto"),
        ({"name": "plateau", "kwargs": {"gamma": 1.0}},
         "kwargs.gamma=1: plateau would never lower the rate; set it below 1"),
        ({"name": "plateau", "kwargs": {"on": "los"}}, "kwargs.on=los: not one of loss, score; did you mean loss?"),
        ({"name": "plateau", "kwargs": {"threshold": -1}}, "kwargs.threshold=-1: must be at least 0"),
        ({"name": "exponential", "kwargs": {"gamma": 0.9, "final_factor": 0.5}},
         "kwargs.gamma: final_factor also says how far the rate falls; give one of the two"),
        ({"name": "polynomial", "kwargs": {"power": 0}}, "kwargs.power=0: must be at least 0.01"),
        ({"name": "linear", "kwargs": {"final_factor": 1.5}}, "kwargs.final_factor=1.5: must be from 1e-06 to 1"),
        ({"name": "cosine_restarts", "kwargs": {"restart_factor": 0}}, "kwargs.restart_factor=0: must be at least 1"),
    ],
)  # fmt: skip
def test_what_does_not_suit_a_curve_is_refused(settings, line):
    with pytest.raises(UserError) as caught:
        build(Schedule(**settings))
    assert str(caught.value) == f"schedule.{line}"


def test_an_unknown_kwarg_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"^schedule\.kwargs: step has no gama .*did you mean gamma\?$"):
        build(Schedule(name="step", kwargs={"gama": 0.5}))
    with pytest.raises(UserError, match=r"^schedule\.kwargs: cosine has no gamma"):
        build(Schedule(name="cosine", kwargs={"gamma": 0.5}))
