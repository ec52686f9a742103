"""Find a learning rate: python -m tools.find_lr [key=value ...] [output=FILE.png]

A short training whose rate rises exponentially. It is the loop of training, one optimizer step at a time: the same
augmentation, mixing, clipping and precision. The trained network is discarded.
"""

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from src.config.help import help_text
from src.config.load import load_config
from src.errors import UserError, one_line_errors
from src.files import atomic_path, save_json, save_table

USAGE = """usage: python -m tools.find_lr [key=value ...] [output=FILE.png]

  python -m tools.find_lr                        the embedded competition
  python -m tools.find_lr competition=NAME recipe=finetune train.batch_size=64

It takes the words of train.py and trains 200 steps on one fold's training rows,
from a thousandth of optimizer.lr up to a thousand times of it. It prints a rate
to paste, and draws the curve in outputs/lr_<competition>_<recipe>.png; the same
numbers are in the .csv, what it prints is in the .json. A rate holds for its
optimizer, batch size and backbone. All settings, with defaults:
"""
NUM_STEPS = 200
_SPAN = 1000.0  # the sweep goes from a thousandth of optimizer.lr to a thousand times of it
_SMOOTHING = 0.9  # weight of the last smoothed loss in the next one
_STOP_FACTOR = 4  # the sweep ends when the smoothed loss is over so many times the best
_HALF_WINDOW = 0.5  # decades to either side of a rate from which its slope is computed
_CLEAR_FALL = 0.1  # share of the loss; it falls by less at random too


@dataclass(frozen=True)
class Proposal:
    """What a sweep proposes: `lr` to train with, `lowest`, the rate of the lowest loss, and `fall` down to it.

    The fall is a share of the loss before it. Where it is small, the proposal is a guess among noise.
    """

    lr: float
    lowest: float
    fall: float


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE + help_text())
            return
        outputs = [word.removeprefix("output=") for word in words if word.startswith("output=")]
        config = load_config([word for word in words if not word.startswith("output=")])
        default = Path(config.output_dir) / f"lr_{config.competition.name}_{config.recipe}.png"
        path = Path(outputs[-1]) if outputs else default
        if path.suffix != ".png":
            raise UserError(f"output={path}: not a PNG; choose a name that ends in .png")
        try:
            import matplotlib  # noqa: F401  checked before the sweep, which takes minutes
        except ImportError:
            raise UserError("tools.find_lr: draws with matplotlib; pip install matplotlib") from None
        report(config, *find_lr(config), path)


def report(config, sweep, proposal, num_images, path):
    """Write the sweep's image, CSV and JSON, and print the proposal as a word to paste.

    Args:
        config: src.config.settings.Config.
        sweep: table of `sweep_lr`.
        proposal: Proposal; None: the loss fell at no rate.
        num_images: training images of the fold.
        path: pathlib.Path of the image; the others lie beside it.

    Raises:
        UserError: there is no proposal; the files are written all the same.
    """
    batch_size = config.train.batch_size * config.optimizer.accumulate_steps
    title = f"{config.model.backbone}, batch size {batch_size}"
    save_table(path.with_suffix(".csv"), sweep)
    draw_sweep(path, sweep, proposal, config.optimizer.lr, title)
    conditions = {"backbone": config.model.backbone, "batch_size": batch_size, "optimizer": config.optimizer.name}
    counts = {"num_steps": len(sweep), "num_images": num_images, "lr_now": config.optimizer.lr}
    save_json(path.with_suffix(".json"), conditions | counts | {"proposal": proposal and asdict(proposal)})
    print(f"{title}: {len(sweep)} steps, {num_images} training images")
    print(*(path.with_suffix(suffix) for suffix in (".png", ".csv", ".json")), sep="\n")
    if proposal is None:
        raise UserError(f"{path}: the loss fell at no rate; look at the data, the loss and model.freeze")
    now = f"now {config.optimizer.lr:.1e}; the loss was lowest at {proposal.lowest:.1e}"
    print(f"optimizer.lr={proposal.lr:.1e}   ({now})")
    if proposal.fall < _CLEAR_FALL:
        print(f"the loss fell by {proposal.fall:.0%} only, so this is a guess: look at the curve")


def draw_sweep(path, sweep, proposal, lr_now, title):
    """Draw the losses over the rate as a PNG; arguments as in `report`, lr_now the config's rate."""
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(sweep["lr"], sweep["loss"], color="tab:blue", alpha=0.3, label="loss of each step")
    axes.plot(sweep["lr"], sweep["smoothed"], color="tab:blue", linewidth=2.5, label="smoothed")
    if proposal is not None:
        height = sweep["smoothed"][(sweep["lr"] - proposal.lr).abs().idxmin()]
        axes.plot(proposal.lr, height, "o", color="tab:red", markersize=10, label=f"proposal {proposal.lr:.1e}")
    if lr_now > 0:
        axes.axvline(lr_now, color="black", linestyle="--", label=f"optimizer.lr {lr_now:.1e}")
    low, high = sweep["smoothed"].min(), sweep["smoothed"].iloc[0]
    margin = 0.2 * (high - low) or 1.0
    axes.set(xscale="log", xlabel="learning rate of the backbone", ylabel="training loss", title=title)
    axes.set_ylim(low - margin, high + 3 * margin)  # or the explosion at the end flattens all that matters
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def find_lr(config, num_steps=NUM_STEPS):
    """Sweep the rate on the training rows of the config's fold (null: the first) as training would begin.

    From a thousandth of optimizer.lr to a thousand times of it. Layers that are frozen in the first epoch stay frozen.
    No run folder is created or changed.

    Returns:
        (table of `sweep_lr`, Proposal or None, number of training images).

    Raises:
        UserError: as `run.train_run`, before the first epoch.
    """
    if config.optimizer.lr == 0:
        raise UserError("optimizer.lr=0: the sweep is centred on this rate; leave it out, or set for example 1e-3")
    import torch  # here, since these imports take seconds and a typo should not

    from src.data.samplers import derive_seed
    from src.data.scan import compute_pixel_stats
    from src.training.learner import build_learner
    from src.training.optimizer import build_optimizer
    from src.training.run import load_run, settle_execution, start_processes
    from src.training.schedule import Schedule

    run = load_run(config, start_processes(config))
    _leave_out_unreadable(run)
    settle_execution(run)
    if config.normalize in ("dataset", "center"):
        channels = config.competition.channels
        run.pixel_stats = compute_pixel_stats(run.table.paths, channels, config.image_size, seed=config.seed)
    fold = run.folds[0] if config.fold is None else config.fold
    torch.manual_seed(derive_seed("weights", config.seed, fold))
    run.config = replace(run.config, train=replace(run.config.train, average="none", average_kwargs={}))
    learner = build_learner(run, fold)
    learner.schedule, unit = Schedule(), replace(config.optimizer, lr=1.0)
    learner.optimizer = build_optimizer(unit, learner.network)
    learner.start_epoch(0, config.seed, fold, 0, run.accelerator.process_index)
    sweep = sweep_lr(learner, config.optimizer.lr / _SPAN, config.optimizer.lr * _SPAN, num_steps)
    learner.close()
    return sweep, propose_lr(sweep["lr"], sweep["smoothed"]), len(learner.train_table)


def _leave_out_unreadable(run):
    """Take the images that cannot be decoded out of a run's table, where its config says skip."""
    from src.competition.folds import check_folds
    from src.data.scan import find_unreadable

    if run.config.unreadable == "skip":
        keep = np.ones(len(run.table), dtype=bool)
        keep[[row for row, _ in find_unreadable(run.table.paths, run.config.competition.channels)]] = False
        run.table = run.table.take(keep)
        check_folds(run.table, run.table.folds, run.metric)


def sweep_lr(learner, first, last, num_steps=NUM_STEPS):
    """Train `num_steps` optimizer steps while the rate rises exponentially; stop when the loss explodes.

    Args:
        learner: training.learner.Learner whose first epoch has started; its schedule does nothing, and its optimizer's
            lr are multiples of the rate, so that a head at 10 learns ten times as fast. The loader's epochs are
            repeated.
        first, last: rates of the first and last step.

    Returns:
        pandas table with the columns lr, loss (of the step's batches, before the step) and smoothed (exponential mean
        without its bias towards zero); at least one row, all finite.

    Raises:
        UserError: the first loss is not finite, or an image cannot be decoded.
    """
    import pandas as pd

    from src.training.engine import train_one_epoch

    factors = [group["lr"] for group in learner.optimizer.param_groups]
    num_batches = learner.config.optimizer.accumulate_steps
    batches, rows, mean, best = _repeat(learner.train_loader), [], 0.0, math.inf
    for number, lr in enumerate(np.geomspace(first, last, num_steps).tolist(), start=1):
        for group, factor in zip(learner.optimizer.param_groups, factors, strict=True):
            group["lr"] = lr * factor
        step = replace(learner, train_loader=_OneStep([next(batches) for _ in range(num_batches)]))
        try:
            stats = train_one_epoch(step, 0, title=f"learning rate {number}/{num_steps}")
        except UserError:  # of a loss that is not finite: the batches are decoded before
            if not rows:
                raise
            break
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * stats.loss
        smoothed = mean / (1 - _SMOOTHING**number)
        rows.append((lr, stats.loss, smoothed))
        best = min(best, smoothed)
        if smoothed > _STOP_FACTOR * best:
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smoothed"])


class _OneStep:
    """The batches of one optimizer step, as a loader that yields nothing else."""

    def __init__(self, batches):
        self._batches = batches
        self.num_images = sum(len(batch["index"]) for batch in batches)

    def __len__(self):
        return len(self._batches)

    def batches(self, epoch, start=0):
        yield from self._batches[start:]


def _repeat(loader):
    """Yield a loader's batches, epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.batches(epoch)
        epoch += 1


def propose_lr(lrs, losses):
    """Return the Proposal of a sweep: the geometric middle between where the loss begins to fall and an upper end.

    The upper end is where the loss falls most steeply, but at most a tenth of the lowest loss's rate. Alone it is too
    high for networks without pretrained weights: the sweep warms them up far more slowly than training does. The loss
    begins to fall where it has come a tenth of the way down. The first tenth of the sweep is left out: its smoothed
    losses are means of a few batches.

    Args:
        lrs: (N,) rising rates.
        losses: (N,) smoothed losses.

    Returns:
        None where the loss fell at no rate.

    Reference: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv:1506.01186, section 3.3, for the
    sweep and its lower end; Howard and Gugger, fastai, 2020, arXiv:2002.04688, for the two rules of the upper end. The
    middle, and slopes from a decade of losses instead of two neighbours, are ours.
    """
    decades, losses = np.log10(np.asarray(lrs, dtype=float)), np.asarray(losses, dtype=float)
    start = len(losses) // 10
    end = start + int(np.argmin(losses[start:]))
    if end == start:
        return None
    slopes = [_compute_slope(decades, losses, step) for step in range(start, end + 1)]
    steepest = decades[start + int(np.argmin(slopes))]
    begin = decades[start + int(np.argmax(losses[start:] <= 0.9 * losses[start] + 0.1 * losses[end]))]
    upper = min(steepest, decades[end] - 1)
    fall = 1 - losses[end] / losses[start]
    return Proposal(float(10 ** ((min(begin, upper) + upper) / 2)), float(10 ** decades[end]), float(fall))


def _compute_slope(decades, losses, step):
    """Return the slope per decade of the least-squares line through the losses around a step."""
    near = np.abs(decades - decades[step]) <= _HALF_WINDOW
    x, y = decades[near], losses[near]
    return np.sum((x - x.mean()) * y) / np.sum((x - x.mean()) ** 2) if len(x) > 1 else 0.0


if __name__ == "__main__":
    main(sys.argv[1:])
