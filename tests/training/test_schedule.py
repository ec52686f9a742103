"""Every curve against torch's own scheduler or hand-computed rates."""

import io
import math

import pytest
import torch
from torch.optim import lr_scheduler

from src.config.settings import Schedule
from src.training.schedule import build_schedule

EPOCHS, STEPS = 30, 10
NAMES = Schedule.__dataclass_fields__["name"].metadata["choices"]
CASES = [(name, per) for name in NAMES for per in ("step", "epoch") if (name, per) != ("plateau", "step")]
NO_VALUES = [(0.0, 0.0)] * 1000


def build(settings, epochs=EPOCHS, steps=STEPS, lr=1.0):
    """An optimizer over a backbone and a head at ten times its rate, and its schedule."""
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": one} for one in (lr, 10 * lr)], lr=lr
    )
    return optimizer, build_schedule(settings, optimizer, epochs, steps)


def follow(optimizer, schedule, epochs, steps=STEPS, values=NO_VALUES):
    """The rates (epochs * steps, groups) used at each step; `values` holds each epoch's (score, loss)."""
    seen = []
    for epoch in epochs:
        for _ in range(steps):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
        schedule.end_epoch(*values[epoch])
    return torch.tensor(seen, dtype=torch.float64)


def rates(settings, epochs=EPOCHS, steps=STEPS, values=NO_VALUES):
    return follow(*build(settings, epochs, steps), range(epochs), steps, values)


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
    ("settings", "build_torchs"),
    [
        ({"name": "linear", "final_factor": 0.25}, lambda opt, n: lr_scheduler.LinearLR(opt, 1.0, 0.25, n)),
        ({"name": "polynomial", "power": 2.0}, lambda opt, n: lr_scheduler.PolynomialLR(opt, n, 2.0)),
        ({"name": "exponential", "final_factor": 0.25}, lambda o, n: lr_scheduler.ExponentialLR(o, 0.25 ** (1 / n))),
        ({"name": "step", "step_epochs": 4, "gamma": 0.5}, lambda o, n: lr_scheduler.StepLR(o, 4 * n // EPOCHS, 0.5)),
        (
            {"name": "multistep", "milestone_epochs": [20, 5], "gamma": 0.3},
            lambda opt, n: lr_scheduler.MultiStepLR(opt, [5 * n // EPOCHS, 20 * n // EPOCHS], 0.3),
        ),
        (
            {"name": "cosine_restarts", "restart_epochs": 4, "restart_factor": 2},
            lambda opt, n: lr_scheduler.CosineAnnealingWarmRestarts(opt, 4 * n // EPOCHS, 2),
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_each_setting_reaches_torchs_scheduler(settings, build_torchs):
    got = rates(Schedule(**settings, warmup_epochs=0))[:, 0]
    torch.testing.assert_close(got, reference(build_torchs, EPOCHS * STEPS), rtol=1e-12, atol=0)
    got = rates(Schedule(**settings, warmup_epochs=0, per="epoch"))[::STEPS, 0]
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
    step = rates(Schedule(name="step", step_epochs=5, warmup_epochs=2))[:, 0]
    assert (step[69].item(), step[70].item()) == (1.0, pytest.approx(0.1))
    multistep = rates(Schedule(name="multistep", milestone_epochs=[15], warmup_epochs=2))[:, 0]
    assert (multistep[149].item(), multistep[150].item()) == (1.0, pytest.approx(0.1))
    restarts = rates(Schedule(name="cosine_restarts", restart_epochs=5, warmup_epochs=2))[:, 0]
    assert restarts[69] < 0.01
    assert restarts[70] == 1.0


def test_a_milestone_inside_the_warmup_falls_right_after_it():
    got = rates(Schedule(name="multistep", milestone_epochs=[1], warmup_epochs=2))[:, 0]
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


@pytest.mark.parametrize(("on", "sign"), [("loss", 1), ("score", -1)])
def test_plateau_falls_after_more_than_patience_epochs_without_a_better_value(on, sign):
    other = [-sign * epoch for epoch in range(10)]  # gets better by the other's measure, whichever it is
    values = [(one * sign, two) if on == "score" else (two, one) for one, two in zip(FALLS, other, strict=True)]
    got = rates(Schedule(name="plateau", warmup_epochs=0, patience_epochs=1, plateau_on=on), 10, values=values)
    # no better value in epochs 3 and 4: the second is one too many, so it falls after 4, and again after 6 and 8
    expected = torch.tensor([1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001], dtype=torch.float64)
    torch.testing.assert_close(got[::STEPS, 0], expected)


def test_plateau_does_not_look_at_the_other_value():
    better = [(float(epoch), 1.0 - 0.01 * epoch) for epoch in range(10)]
    worse = [(-float(epoch), 1.0 - 0.01 * epoch) for epoch in range(10)]
    for values, ends in ((better, (1.0, 1.0)), (worse, (1.0, 0.01))):
        for on, end in zip(("loss", "score"), ends, strict=True):
            settings = Schedule(name="plateau", warmup_epochs=0, patience_epochs=2, plateau_on=on)
            assert rates(settings, 10, values=values)[-1, 0] == pytest.approx(end)


def test_plateau_waits_for_the_warmup_and_the_warmup_does_not_undo_a_fall():
    values = [(0.0, 1.0)] + [(0.0, 2.0)] * 9  # the best value lies inside the warm-up and does not count
    got = rates(Schedule(name="plateau", warmup_epochs=2.5, patience_epochs=0), 10, values=values)[:, 0]
    torch.testing.assert_close(got[25:40], torch.ones(15, dtype=torch.float64))
    # epoch 2 is the first to count, 3 to 9 are no better
    expected = 0.1 ** torch.arange(1, 7, dtype=torch.float64)
    torch.testing.assert_close(got[40:].reshape(6, STEPS), expected[:, None].expand(6, STEPS))


def test_plateau_counts_an_unchanged_score_below_zero_as_no_better():
    settings = Schedule(name="plateau", warmup_epochs=0, patience_epochs=0, plateau_on="score")
    assert rates(settings, 2, values=[(-1.0, 0.0)] * 2)[-1, 0] == 1.0
    assert rates(settings, 3, values=[(-1.0, 0.0)] * 3)[-1, 0] == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "per"), CASES)
@pytest.mark.parametrize("stopped_after", [1, 4, 13])
def test_a_restart_goes_on_bit_for_bit(name, per, stopped_after):
    settings = Schedule(name=name, per=per, warmup_epochs=2.5, patience_epochs=1)
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
    got = rates(Schedule(name=name, per=per, warmup_epochs=warmup_epochs), epochs, steps)
    assert torch.isfinite(got).all()
    assert (got > 0).all()
