"""Find a learning rate: python -m tools.find_lr [key=value ...] [output=FILE.png]

A short training whose rate rises exponentially finds where to look; short trainings at a few rates there, each with the
run's own schedule, find what to propose. All use the loop of training: the same augmentation, mixing, clipping and
precision. The trained networks are discarded.
"""

import math
import operator
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from src.config.help import help_asked
from src.config.load import load_config
from src.errors import UserError, one_line_errors
from src.files import atomic_path, save_json, save_table

USAGE = """usage: python -m tools.find_lr [key=value ...] [output=FILE.png]

  python -m tools.find_lr                        the embedded competition
  python -m tools.find_lr competition=NAME recipe=finetune train.batch_size=64

It takes the words of train.py and trains on one fold's training rows: 100 steps
from a thousandth of optimizer.lr up to a thousand times of it, then at most 100
steps at each of four to nine rates, of which it prints the best, to paste. The
curve is outputs/lr_<competition>_<recipe>.png, with the same numbers in a .csv
and what is printed in a .json. A rate holds for its optimizer, batch size,
backbone and length of training. Settings, with defaults:
"""
NUM_STEPS = 100  # of the sweep
TRY_STEPS = 100  # optimizer steps of each rate that is tried; a shorter run is tried as a whole
_SPAN = 1000.0  # the sweep goes from a thousandth of optimizer.lr to a thousand times of it
_SMOOTHING = 0.8  # weight of the last smoothed loss in the next one
_STOP_FACTOR = 4  # the sweep ends when the smoothed loss is over so many times the best
_FACTOR = 10**0.5  # from one rate that is tried to the next
_MOST_TRIES = 8
_CLOSE = 0.002, 0.2  # shares of score and loss that a rate may be worse by where tries are shorter than the run
_MOST_IMAGES = 1000  # held-out images that a try is judged by


@dataclass(frozen=True)
class Proposal:
    """What is proposed: `lr` to train with; `lowest`, the rate at which the sweep's loss was lowest; the rates tried.

    tried: {rate: (score of held-out images, their log loss), inf where it exploded}; chance: the score of predicting
    each target's mean.
    """

    lr: float
    lowest: float
    tried: dict
    chance: float
    num_steps: int  # of each try
    num_held_out: int


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if (text := help_asked(words)) is not None:
            print(USAGE + text)
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
    counts = {"num_sweep_steps": len(sweep), "num_images": num_images, "lr_now": config.optimizer.lr}
    save_json(path.with_suffix(".json"), conditions | counts | {"proposal": proposal and asdict(proposal)})
    print(f"{title}: {len(sweep)} steps, {num_images} training images")
    print(*(path.with_suffix(suffix) for suffix in (".png", ".csv", ".json")), sep="\n")
    if proposal is None:
        raise UserError(f"{path}: the loss fell at no rate; look at the data, the loss and model.freeze")
    from src.evaluation.metrics import build_metric

    now, name = config.optimizer.lr, config.competition.metric
    loss_name = "squared error" if config.competition.task == "regression" else "log loss"
    print(f"tried for {proposal.num_steps} steps; {name} and {loss_name} of {proposal.num_held_out} held-out images")
    for lr, (score, loss) in sorted(proposal.tried.items()):
        print(f"  {lr:.1e}  {score:.5f}  {loss:.4f}{'  now' if lr == now else ''}")
    print(f"optimizer.lr={proposal.lr:.1e}   (now {now:.1e}; the sweep's loss was lowest at {proposal.lowest:.1e})")
    if not 0.1 <= proposal.lr / now <= 10:
        print(f"that is far from optimizer.lr={now:.1e}, which the settings have: try both")
    if not build_metric(name, config.competition.task).is_better(proposal.tried[proposal.lr][0], proposal.chance):
        print(f"no rate was better than chance ({proposal.chance:.5f}), so this is a guess")


def draw_sweep(path, sweep, proposal, lr_now, title):
    """Draw the losses over the rate as a PNG; arguments as in `report`, lr_now the config's rate."""
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(sweep["lr"], sweep["loss"], color="tab:blue", alpha=0.3, label="loss of each step")
    axes.plot(sweep["lr"], sweep["smoothed"], color="tab:blue", linewidth=2.5, label="smoothed")
    if proposal is not None:
        tried = {lr: loss for lr, (_, loss) in sorted(proposal.tried.items()) if loss < math.inf}
        label = f"held-out loss after {proposal.num_steps} steps"
        axes.plot(tried.keys(), tried.values(), "s--", color="tab:orange", label=label)
        place = (proposal.lr, proposal.tried[proposal.lr][1])
        axes.plot(*place, "o", color="tab:red", markersize=10, label=f"proposal {proposal.lr:.1e}")
    if lr_now > 0:
        axes.axvline(lr_now, color="black", linestyle="--", label=f"optimizer.lr {lr_now:.1e}")
    shown = [sweep["smoothed"].min(), sweep["smoothed"].iloc[0], *(tried.values() if proposal else ())]
    low, high = min(shown), sweep["smoothed"].iloc[0]
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
    from src.training.learner import build_learner
    from src.training.optimizer import build_optimizer
    from src.training.run import load_run, settle_precision, start_processes
    from src.training.schedule import Schedule

    run = load_run(config, start_processes(config))
    _leave_out_unreadable(run)
    settle_precision(run)
    fold = run.folds[0] if config.fold in (None, "all") else config.fold
    _prepare_inputs(run, fold, num_steps * config.train.batch_size * config.optimizer.accumulate_steps)
    own = {"average": "none", "average_kwargs": {}, "compile": False}
    run.config = replace(run.config, train=replace(run.config.train, **own))
    torch.manual_seed(derive_seed("weights", config.seed, fold))
    learner = build_learner(run, fold)
    learner.schedule, unit = Schedule(), replace(config.optimizer, lr=1.0)
    learner.optimizer = build_optimizer(unit, learner.network)
    learner.start_epoch(0, config.seed, fold, 0, run.accelerator.process_index)
    sweep = sweep_lr(learner, config.optimizer.lr / _SPAN, config.optimizer.lr * _SPAN, num_steps)
    learner.close()
    return sweep, propose_lr(run, fold, sweep), len(learner.train_table)


def propose_lr(run, fold, sweep):
    """Return the Proposal: of the rates tried from a tenth of where the sweep's loss was lowest, and today's, the best.

    A tenth is fastai's share. Alone it ruins some runs: the sweep warms untrained networks up far more
    slowly than training does, so that the lowest loss comes at rates that are 20 times too high for them, while for
    pretrained networks, whose heads learn faster, it comes early. The first tenth of the sweep is left out: its
    smoothed losses are means of a few batches.

    The competition's metric decides, and of equal scores the loss. Where tries are shorter than the run, which favours
    large rates, the lowest rate counts that is close to the best.

    Args:
        run: training.run.Run with its inputs prepared; its config's rate is replaced.
        fold: its number.
        sweep: table of `sweep_lr`.

    Returns:
        None where the sweep's loss fell at no rate.

    Reference: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv:1506.01186, section 3.3, for the
    sweep; Howard and Gugger, fastai, 2020, arXiv:2002.04688, for the tenth. That rates are then tried is ours.
    """
    start = len(sweep) // 10
    lowest = start + int(np.argmin(sweep["smoothed"].to_numpy()[start:]))
    if lowest == start:
        return None
    lowest, now = float(sweep["lr"][lowest]), run.config.optimizer.lr
    trial = Trial(run, fold)
    costs = climb(trial.compute_costs, lowest / 10)
    if now not in costs:
        costs[now] = trial.compute_costs(now)
    lr = choose_rate(costs, (0, 0) if trial.is_whole_run else _CLOSE)
    tried = {one: (trial.sign * score, loss) for one, (score, loss) in costs.items()}
    return Proposal(lr, lowest, tried, trial.chance, trial.num_steps, trial.num_held_out)


def choose_rate(costs, close):
    """Return the lowest rate of {rate: (cost, loss)} that is as good as the best but for two shares of its numbers."""
    best = min(costs.values())
    most = [value + share * abs(value) for value, share in zip(best, close, strict=True)]
    good = [lr for lr, cost in costs.items() if cost == best or all(map(operator.le, cost, most))]
    return min(good)


def climb(compute_costs, start):
    """Return {rate: (cost, loss)} of rates around `start`, each a half decade from the next: as far as the cost falls.

    First upwards, then, where that was no better, downwards; until two rates in a row are no better than the best, as
    short trainings are noisy, or one explodes on the way up.
    """
    costs = {0: compute_costs(_round(start))}
    for sign in (1, -1):
        step = 0
        while len(costs) < _MOST_TRIES:
            step += sign
            costs[step] = compute_costs(_round(start * _FACTOR**step))
            best = min(costs, key=costs.get)
            exploded = costs[step][1] == math.inf
            if (exploded and sign == 1) or (sign * (step - best) >= 2 and costs[best][1] < math.inf):
                break
        if best > 0:
            break
    return {_round(start * _FACTOR**step): costs[step] for step in sorted(costs)}


def _round(lr):
    return float(f"{lr:.1e}")


class Trial:
    """Trains a fold for a few steps at a rate, as many epochs as the run has but shorter ones; nothing is kept."""

    def __init__(self, run, fold):
        from src.data.dataset import ImageDataset, build_loader
        from src.data.transforms import build_resize
        from src.training.features import FeatureDataset
        from src.training.learner import choose_rows

        config = run.config
        train_rows, rows = choose_rows(config, fold, run.table.folds)
        if len(rows) > _MOST_IMAGES:
            rows = np.sort(np.random.default_rng(config.seed).choice(rows, _MOST_IMAGES, replace=False))
        table = run.table.take(rows)
        if run.features is None:
            dataset = ImageDataset(table, config.competition, build_resize(config), config.seed, run.caches)
        else:
            dataset = FeatureDataset(run.features, rows, table, is_training=False)
        self._loader = build_loader(dataset, config.eval_batch_size, num_workers=0)
        self._run, self._fold, self._targets, self.num_held_out = run, fold, table.targets, len(rows)
        self.sign = -1 if run.metric.greater_is_better else 1  # of a score, to make it a cost
        share = run.table.targets[train_rows].mean(axis=0, keepdims=True)
        self.chance = run.metric.score(table.targets, np.repeat(share, len(rows), axis=0))
        wanted = -(-TRY_STEPS * config.optimizer.accumulate_steps // config.train.epochs)
        full = config.train.batches_per_epoch or -(-len(train_rows) // config.train.batch_size)
        self.is_whole_run = wanted >= full
        self._num_batches = None if self.is_whole_run else wanted
        self.num_steps = config.train.epochs * -(-min(wanted, full) // config.optimizer.accumulate_steps)

    def compute_costs(self, lr):
        """Return (score, negative where greater is better, and log loss) of the held-out images; inf: it exploded."""
        import torch

        from src.data.samplers import derive_seed
        from src.model.losses import probabilities
        from src.training.engine import predict, train_one_epoch
        from src.training.fold import compute_loss
        from src.training.learner import build_learner

        run, config = self._run, self._run.config
        batches = self._num_batches or config.train.batches_per_epoch
        train, optimizer = replace(config.train, batches_per_epoch=batches), replace(config.optimizer, lr=lr)
        run.config = replace(config, train=train, optimizer=optimizer)
        torch.manual_seed(derive_seed("weights", config.seed, self._fold))
        learner = build_learner(run, self._fold)
        run.config = config
        try:
            for epoch in range(config.train.epochs):
                learner.start_epoch(epoch, config.seed, self._fold, epoch, run.accelerator.process_index)
                title = f"optimizer.lr={lr:.1e} {epoch + 1}/{config.train.epochs}"
                stats = train_one_epoch(learner, epoch, title=title)
                learner.schedule.end_epoch(score=-stats.loss, loss=stats.loss)
        except UserError:  # of a loss that is not finite: the sweep has decoded the images
            return math.inf, math.inf
        finally:
            learner.close()
        to_probs = partial(probabilities, task=config.competition.task)
        index, probs = predict([learner.network], self._loader, to_probs, config.precision)
        if not np.isfinite(probs).all():
            return math.inf, math.inf
        targets, task = self._targets[index], config.competition.task
        cost = self.sign * run.metric.score(targets, probs[0])
        return math.inf if math.isnan(cost) else cost, compute_loss(learner.network, targets, probs[0], task)


def _prepare_inputs(run, fold, num_reads):
    """Open or make what training would share between folds, where the sweep's reads, a number of images, pay for it."""
    from src.checkpointing.run_folder import RunFolder
    from src.training.learner import choose_rows
    from src.training.run import prepare_inputs

    config, folder, num_rows = run.config, run.folder, len(choose_rows(run.config, fold, run.table.folds)[0])
    views = config.train.views if num_reads > len(run.table) else 0
    run.config = replace(config, train=replace(config.train, epochs=-(-num_reads // num_rows), views=views))
    run.unfinished = [fold]
    with TemporaryDirectory() as temporary:  # no run folder is touched
        run.folder = RunFolder(temporary)
        prepare_inputs(run)
    run.config, run.folder = config, folder


def _leave_out_unreadable(run):
    """Take the images that cannot be decoded out of a run's table, where its config says skip."""
    from src.competition.folds import check_folds
    from src.data.scan import find_unreadable

    if run.config.unreadable == "skip":
        keep = np.ones(len(run.table), dtype=bool)
        keep[[row for row, _ in find_unreadable(run.table.paths, run.config.competition)]] = False
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

    world_size = 1

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


if __name__ == "__main__":
    main(sys.argv[1:])
