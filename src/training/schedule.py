"""The learning rate's curve over a fold, from torch's own schedulers; a new curve is a function and an entry below.

A curve counts moves: `schedule.per` says whether the rate moves after each optimizer step or each epoch; every length
given in epochs becomes so many moves.
"""

import warnings
from dataclasses import dataclass

from torch.optim import lr_scheduler

from src.config.registry import check_kwargs
from src.errors import UserError

_WARMUP_START = 0.01  # the warm-up's first rate, a share of the peak
_RANGES = {  # of keywords
    **{"gamma": (0, 1), "final_factor": (1e-6, 1), "power": (0.01, None), "restart_factor": (1, None)},
    **{"step_epochs": (0.01, None), "restart_epochs": (0.01, None), "patience_epochs": (0, None)},
    "threshold": (0, None),
    "on": ("loss", "score"),
}


@dataclass(frozen=True)
class Span:
    """How long a curve is: `warmup` moves of rise, then `moves` of the curve; an epoch has `per_epoch` of them."""

    warmup: int
    moves: int
    per_epoch: int

    @property
    def epochs(self):
        """Epochs of the whole fold."""
        return (self.warmup + self.moves) / self.per_epoch

    def count(self, epochs, key):
        """Return the moves in so many epochs, at least one; None: a third of the curve. key: their keyword."""
        if (epochs or 0) >= self.epochs > 1:
            raise UserError(f"schedule.kwargs.{key}={epochs:g}: never comes; train.epochs is {self.epochs:g}")
        return max(1, -(-self.moves // 3) if epochs is None else round(epochs * self.per_epoch))


def linear(optimizer, span, final_factor=0.01):
    """Falls in a line to final_factor of the peak."""
    return lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=final_factor, total_iters=span.moves)


def polynomial(optimizer, span, power=0.9):
    """(1 - t) ** power of the peak, for t from 0 to 1.

    Reference: Chen et al., DeepLab, 2017, arXiv:1606.00915, section 4.1.2 ("poly", power 0.9).
    """
    return lr_scheduler.PolynomialLR(optimizer, total_iters=span.moves, power=power)


def exponential(optimizer, span, final_factor=0.01, gamma=None):
    """Falls by the same factor each move: to final_factor of the peak, or by gamma an epoch, as torch's by epoch."""
    if gamma is not None and final_factor != 0.01:
        raise UserError("schedule.kwargs.gamma: final_factor also says how far the rate falls; give one of the two")
    factor = final_factor ** (1 / max(1, span.moves)) if gamma is None else gamma ** (1 / span.per_epoch)
    return lr_scheduler.ExponentialLR(optimizer, gamma=factor)


def step(optimizer, span, step_epochs=None, gamma=0.1):
    """Falls by gamma every step_epochs (null: a third of the curve), counted from the end of the warm-up."""
    return lr_scheduler.StepLR(optimizer, step_size=span.count(step_epochs, "step_epochs"), gamma=gamma)


def multistep(optimizer, span, milestone_epochs=(), gamma=0.1):
    """Falls by gamma at each milestone (none: at 1/2 and 3/4) from the start; one in the warm-up comes after it."""
    for epochs in milestone_epochs:
        if not isinstance(epochs, (int, float)) or not 0 < epochs < span.epochs:
            where = f"schedule.kwargs.milestone_epochs: {epochs}"
            raise UserError(f"{where} is outside the training; train.epochs is {span.epochs:g}")
    milestones = milestone_epochs or [span.epochs / 2, span.epochs * 3 / 4]
    milestones = [max(1, span.count(epochs, "milestone_epochs") - span.warmup) for epochs in milestones]
    return lr_scheduler.MultiStepLR(optimizer, sorted(milestones), gamma=gamma)


def cosine_restarts(optimizer, span, restart_epochs=None, restart_factor=1):
    """Periods of restart_epochs (null: a third of the curve), each restart_factor times the last, after the warm-up.

    Reference: Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983, eq. 5.
    """
    first = span.count(restart_epochs, "restart_epochs")
    return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=first, T_mult=restart_factor)


def onecycle(optimizer, span):
    """Rises over the warm-up from 1/25 of the peak, then falls in a cosine to nearly zero.

    Reference: Smith and Topin, Super-Convergence, 2018, arXiv:1708.07120.
    """
    total = span.warmup + span.moves
    peaks = [group["lr"] for group in optimizer.param_groups]
    share = (max(span.warmup, 1) + 1) / (total + 1) if total > 1 else 1.0  # torch peaks one step before the share
    return lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=total + 1, pct_start=share, cycle_momentum=False)


def plateau(optimizer, span, gamma=0.1, patience_epochs=1, on="loss", threshold=0.0):
    """Falls by gamma after more than patience_epochs without a better validation loss, or score (on="score").

    What is better by more than `threshold` counts, in the loss's or score's own units. Epochs that end inside the
    warm-up, which is by step, are not looked at.
    """
    if gamma == 1:
        raise UserError("schedule.kwargs.gamma=1: plateau would never lower the rate; set it below 1")
    # abs: a share of the best value, torch's own, is wrong for negative ones; eps 0: or small rates would stop first
    return lr_scheduler.ReduceLROnPlateau(optimizer, "min", gamma, patience_epochs, threshold, "abs", eps=0)


SCHEDULES = {
    "constant": lambda optimizer, span: lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0),
    "linear": linear,
    "polynomial": polynomial,
    "exponential": exponential,
    "step": step,
    "multistep": multistep,
    "cosine": lambda optimizer, span: lr_scheduler.CosineAnnealingLR(optimizer, T_max=span.moves),  # to zero
    "cosine_restarts": cosine_restarts,
    "onecycle": onecycle,
    "plateau": plateau,
}


class Schedule:
    """Moves an optimizer's rates: torch schedulers called after each step, and after each epoch's validation."""

    def __init__(self, by_step=None, by_epoch=None, plateau_on="loss"):
        self._by_step, self._by_epoch, self._plateau_on = by_step, by_epoch, plateau_on

    def step(self):
        """Called after each optimizer step."""
        if self._by_step is not None:
            self._by_step.step()

    def skip_steps(self, count):
        """Move as after so many optimizer steps; return the rates of the optimizer's groups then."""
        with warnings.catch_warnings(action="ignore"):  # that no optimizer step came before
            for _ in range(count):
                self.step()
        return [group["lr"] for group in self._by_step.optimizer.param_groups]

    def end_epoch(self, score, loss, greater_is_better=True):
        """Called after each epoch's validation."""
        rise, curve = self._by_step, self._by_epoch
        if not isinstance(curve, lr_scheduler.ReduceLROnPlateau):
            if curve is not None:
                curve.step()
        elif rise is None or rise.last_epoch >= rise.total_iters:  # else it is warming up
            curve.step(loss if self._plateau_on == "loss" else -score if greater_is_better else score)

    def state_dict(self):
        return {name: one.state_dict() for name, one in self._schedulers()}

    def load_state_dict(self, state):
        for name, one in self._schedulers():
            one.load_state_dict(state[name])

    def _schedulers(self):
        return [(name, one) for name, one in (("by_step", self._by_step), ("by_epoch", self._by_epoch)) if one]


def build_schedule(settings, optimizer, epochs, steps_per_epoch):
    """Build the Schedule of one fold from config.settings.Schedule; the optimizer's rates are its peaks.

    The warm-up rises linearly from a hundredth of the peak; by epoch it takes round(warmup_epochs) whole epochs, the
    first of them at that hundredth. Periods count from its end, milestones from the start of training.
    """
    name, function, kwargs = settings.name, SCHEDULES[settings.name], settings.kwargs
    check_kwargs("schedule.kwargs", function, kwargs, name, **_RANGES)
    if name == "plateau" and settings.per == "step":
        raise UserError("schedule.per=step: plateau looks at each epoch's validation; set schedule.per=auto")
    if name == "onecycle" and settings.per == "epoch" and epochs == 1:
        raise UserError("schedule.per=epoch: one epoch is no cycle; set schedule.per=step")
    per_epoch = 1 if settings.per == "epoch" and name != "plateau" else steps_per_epoch
    total = epochs * per_epoch
    warmup = min(round(settings.warmup_epochs * per_epoch), total - 1)  # at least one move is left for the curve
    has_rise = warmup >= 1 and name != "onecycle"  # which has one of its own
    rise = lr_scheduler.LinearLR(optimizer, _WARMUP_START, total_iters=warmup) if has_rise else None
    curve = function(optimizer, Span(warmup, total - warmup, per_epoch), **kwargs)
    if name == "plateau":
        return Schedule(by_step=rise, by_epoch=curve, plateau_on=kwargs.get("on", "loss"))
    if rise is not None:
        curve = lr_scheduler.SequentialLR(optimizer, [rise, curve], milestones=[warmup])
    return Schedule(by_epoch=curve) if settings.per == "epoch" else Schedule(by_step=curve)
