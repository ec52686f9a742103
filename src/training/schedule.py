"""The learning rate's curve over a fold, built from torch's own schedulers.

The idea to know: a curve is counted in moves. `schedule.per` says whether the rate moves after each optimizer step or
after each epoch; every length given in epochs is turned into so many moves, and the rest is the same for both.
"""

from dataclasses import dataclass

from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

_WARMUP_START = 0.01  # where a warm-up begins, as a share of the peak


@dataclass(frozen=True)
class _Span:
    """How long a curve is: `warmup` moves of rise, then `moves` of the curve; an epoch has `per_epoch` of them."""

    warmup: int
    moves: int
    per_epoch: int

    def count(self, epochs):
        """Return the moves in so many epochs, at least one; None is a third of the curve."""
        return max(1, -(-self.moves // 3) if epochs is None else round(epochs * self.per_epoch))


def _constant(settings, optimizer, span):
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _linear(settings, optimizer, span):
    return LinearLR(optimizer, start_factor=1.0, end_factor=settings.final_factor, total_iters=span.moves)


def _polynomial(settings, optimizer, span):
    """(1 - t) ** power of the peak, for t from 0 to 1.

    Reference: Chen et al., DeepLab, 2017, arXiv:1606.00915, section 4.1.2 ("poly", power 0.9).
    """
    return PolynomialLR(optimizer, total_iters=span.moves, power=settings.power)


def _exponential(settings, optimizer, span):
    return ExponentialLR(optimizer, gamma=settings.final_factor ** (1 / max(1, span.moves)))


def _step(settings, optimizer, span):
    """Falls by gamma every step_epochs, counted from the end of the warm-up."""
    return StepLR(optimizer, step_size=span.count(settings.step_epochs), gamma=settings.gamma)


def _multistep(settings, optimizer, span):
    """Falls by gamma at each milestone, counted from the start of training; one inside the warm-up falls after it."""
    total = (span.warmup + span.moves) / span.per_epoch
    milestones = settings.milestone_epochs or [total / 2, total * 3 / 4]
    milestones = [max(1, span.count(epochs) - span.warmup) for epochs in milestones]
    return MultiStepLR(optimizer, sorted(milestones), gamma=settings.gamma)


def _cosine(settings, optimizer, span):
    """Reference: Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983, eq. 5, one period."""
    return CosineAnnealingLR(optimizer, T_max=span.moves)


def _cosine_restarts(settings, optimizer, span):
    """Periods of restart_epochs, each restart_factor times the last, counted from the end of the warm-up.

    Reference: Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983, eq. 5.
    """
    return CosineAnnealingWarmRestarts(
        optimizer, T_0=span.count(settings.restart_epochs), T_mult=settings.restart_factor
    )


CURVES = {
    "constant": _constant,
    "linear": _linear,
    "polynomial": _polynomial,
    "exponential": _exponential,
    "step": _step,
    "multistep": _multistep,
    "cosine": _cosine,
    "cosine_restarts": _cosine_restarts,
}


class Schedule:
    """Moves the rates of an optimizer's groups after its steps and at the end of epochs; see `build_schedule`.

    Args:
        by_step, by_epoch: torch schedulers that move after each step and after each epoch; None: neither does.
        plateau: a ReduceLROnPlateau; None: the rate does not look at the validation.
        plateau_on: "loss" or "score", what `plateau` looks at.
    """

    def __init__(self, by_step=None, by_epoch=None, plateau=None, plateau_on="loss"):
        self._schedulers = {"by_step": by_step, "by_epoch": by_epoch, "plateau": plateau}
        self._schedulers = {name: one for name, one in self._schedulers.items() if one is not None}
        self._plateau_on = plateau_on

    def step(self):
        """Call after each optimizer step."""
        if "by_step" in self._schedulers:
            self._schedulers["by_step"].step()

    def end_epoch(self, score, loss):
        """Call after each epoch's validation; of `score` higher is better, of `loss` lower."""
        if "by_epoch" in self._schedulers:
            self._schedulers["by_epoch"].step()
        if "plateau" in self._schedulers and not self._is_warming_up():
            self._schedulers["plateau"].step({"score": score, "loss": loss}[self._plateau_on])

    def state_dict(self):
        """Return what a restart needs besides the optimizer's own state, as plain containers."""
        return {name: one.state_dict() for name, one in self._schedulers.items()}

    def load_state_dict(self, state):
        """Take over what `state_dict` returned, in a schedule of the same settings; load the optimizer's state too."""
        for name, one in self._schedulers.items():
            one.load_state_dict(state[name])

    def _is_warming_up(self):
        """Whether a rise that precedes the plateau is still under way."""
        rise = self._schedulers.get("by_step")
        return rise is not None and rise.last_epoch < rise.total_iters


def build_schedule(settings, optimizer, epochs, steps_per_epoch):
    """Build the Schedule of one fold.

    The warm-up rises linearly from a hundredth of the peak; by epoch it takes round(warmup_epochs) whole epochs, the
    first of them at that hundredth. Periods are counted from its end, milestones from the start of training.
    A plateau's warm-up is by step, and epochs that end inside it are not looked at; any better value counts.

    Args:
        settings: config.Schedule.
        optimizer: its groups' lr are the peaks; their ratios stay.
        epochs: of the whole fold.
        steps_per_epoch: optimizer steps in one epoch.

    Reference for onecycle: Smith and Topin, Super-Convergence, 2018, arXiv:1708.07120; its rise takes warmup_epochs.
    """
    if settings.name == "plateau":
        return _build_plateau(settings, optimizer, epochs * steps_per_epoch, steps_per_epoch)
    per_epoch = 1 if settings.per == "epoch" else steps_per_epoch
    total = epochs * per_epoch
    warmup = _count_warmup(settings, total, per_epoch)
    if settings.name == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        share = (max(warmup, 1) + 1) / (total + 1) if total > 1 else 1.0  # torch peaks one step before the share
        curve = OneCycleLR(optimizer, max_lr=peaks, total_steps=total + 1, pct_start=share, cycle_momentum=False)
    elif warmup < 1:
        curve = CURVES[settings.name](settings, optimizer, _Span(0, total, per_epoch))
    else:
        rise = LinearLR(optimizer, start_factor=_WARMUP_START, total_iters=warmup)
        curve = CURVES[settings.name](settings, optimizer, _Span(warmup, total - warmup, per_epoch))
        curve = SequentialLR(optimizer, [rise, curve], milestones=[warmup])
    return Schedule(by_epoch=curve) if settings.per == "epoch" else Schedule(by_step=curve)


def _build_plateau(settings, optimizer, total, steps_per_epoch):
    warmup = _count_warmup(settings, total, steps_per_epoch)
    rise = LinearLR(optimizer, start_factor=_WARMUP_START, total_iters=warmup) if warmup >= 1 else None
    # threshold 0: torch's, a share of the best value, would call an unchanged score below zero a better one
    plateau = ReduceLROnPlateau(
        optimizer,
        mode="max" if settings.plateau_on == "score" else "min",
        factor=settings.gamma,
        patience=settings.patience_epochs,
        threshold=0,
        eps=0,  # or groups whose rate is small would stop falling before the others
    )
    return Schedule(by_step=rise, plateau=plateau, plateau_on=settings.plateau_on)


def _count_warmup(settings, total, per_epoch):
    """Return the moves of the warm-up; at least one is left for the curve."""
    return min(round(settings.warmup_epochs * per_epoch), total - 1)
