"""The learning rate's curve over a fold's steps, built from torch's own schedulers."""

from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

_FLOOR = 0.01  # where linear and exponential curves end, and a warm-up begins, as a share of the peak


def _cosine(optimizer, steps):
    """Reference: Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983, eq. 5, one period."""
    return CosineAnnealingLR(optimizer, T_max=steps)


def _constant(optimizer, steps):
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _linear(optimizer, steps):
    return LinearLR(optimizer, start_factor=1.0, end_factor=_FLOOR, total_iters=steps)


def _step(optimizer, steps):
    """A tenth of the rate after each third of the steps."""
    return StepLR(optimizer, step_size=max(1, -(-steps // 3)), gamma=0.1)


def _exponential(optimizer, steps):
    return ExponentialLR(optimizer, gamma=_FLOOR ** (1 / max(1, steps)))


CURVES = {
    "cosine": _cosine,
    "constant": _constant,
    "linear": _linear,
    "step": _step,
    "exponential": _exponential,
}


def build_schedule(settings, optimizer, epochs, steps_per_epoch):
    """Build the scheduler to be stepped once after every optimizer step.

    Args:
        settings: config.Schedule.
        optimizer: its groups' lr are the peaks.
        epochs: of the whole fold.
        steps_per_epoch: optimizer steps in one epoch.

    Reference for onecycle: Smith and Topin, Super-Convergence, 2018, arXiv:1708.07120; its rise takes warmup_epochs.
    """
    steps = epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), steps - 1)
    if settings.name == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        share = max(warmup, 1) / steps
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=steps + 1, pct_start=share, cycle_momentum=False)
    if warmup < 1:
        return CURVES[settings.name](optimizer, steps)
    rise = LinearLR(optimizer, start_factor=_FLOOR, total_iters=warmup)
    curve = CURVES[settings.name](optimizer, steps - warmup)
    return SequentialLR(optimizer, [rise, curve], milestones=[warmup])
