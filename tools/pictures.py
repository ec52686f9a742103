"""Draw the textbooks' pictures from this project's own code and runs: python -m tools.pictures [NAME ...]"""

import contextlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config
from src.config.registry import list_names
from src.config.settings import Augment, Optimizer, Schedule
from src.errors import UserError, listing, one_line_errors
from src.files import atomic_path, save_json

USAGE = """usage: python -m tools.pictures [NAME ...] [output=FOLDER]

  optimizers   eight optimizers' steps in a valley and on a saddle
  activations  the activation functions and their slopes
  schedules    the learning rate of every schedule over 30 epochs
  curves       training and validation loss: dropout and batch norm, with and
               without (four short runs on the embedded competition)
  turned       which digit turns into which when images are mirrored or turned
               (one short run)

Without NAME all of them. Each is a PNG in docs or in output=FOLDER; the runs,
and the numbers as JSON, are in outputs/pictures; finished runs are kept.
"""
# Okabe and Ito's colours, which the colour-blind can distinguish; lines differ in style too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
NUM_STEPS = 60
RATES = {  # for the valley, found by hand: a rate that suits one optimizer ruins another
    "sgd": 0.95, "momentum": 0.1, "nesterov": 0.1, "adagrad": 1.5, "rmsprop": 0.2, "adadelta": 60.0, "adam": 0.3,
    "nadam": 0.3,
}  # fmt: skip
SURFACES = {  # loss of (x, y), first point, half the width and height that is drawn
    "valley": (lambda x, y: x**2 / 20 + y**2, (-7.0, 2.0), (8.0, 3.0)),
    "saddle": (lambda x, y: (x**2 - y**2) / 4, (-7.0, 0.01), (8.0, 3.0)),
}
EPOCHS, STEPS_PER_EPOCH, WARMUP_EPOCHS = 30, 100, 2
_STALLS = ((0, 8, -0.1), (8, 10, 0.0), (10, 18, -0.05), (18, 20, 0.0), (20, 30, -0.01))  # from, to, change an epoch
_RUNS = (
    "tracking=none report=false fold=0 train.num_workers=0 precision=fp32 train.channels_last=true "
    "output_dir=outputs/pictures"
)
_FEW = (
    "model.kwargs={} augment.preset=none train.max_images=150 train.batch_size=16 train.epochs=30 optimizer.lr=0.001 "
    "threads=1"
)
CURVES = {  # {panel: {label: words}}
    "dropout": {
        "without dropout": f"{_FEW} model.head_kwargs.widths=[256]",
        "model.drop_rate=0.5": f"{_FEW} model.head_kwargs.widths=[256] model.drop_rate=0.5",
    },
    "batch norm": {
        "model.norm=none": f"{_FEW} model.norm=none",
        "model.norm=batch": f"{_FEW} model.norm=batch",
    },
}
TRAINED = "model.kwargs={} optimizer.lr=0.01 train.epochs=4 threads=1"
TURNS = {"mirrored left to right": ["HorizontalFlip"], "mirrored top to bottom": ["VerticalFlip"]}
TURNS["turned by 180 degrees"] = ["HorizontalFlip", "VerticalFlip"]
_WIDTH, _DPI = 8, 100  # inches: 800 px


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        folder = Path(next((word[7:] for word in words if word.startswith("output=")), "docs"))
        names = [word for word in words if not word.startswith("output=")] or list(DRAWN)
        if unknown := next((name for name in names if name not in DRAWN), None):
            raise UserError(f"tools.pictures: no picture {unknown!r}; choose among {listing(DRAWN, 9)}")
        for name in names:
            try:
                figure, numbers = DRAWN[name]()
            except ModuleNotFoundError as error:
                raise UserError(f"tools.pictures: {error.name} is missing; pip install {error.name}") from None
            with atomic_path(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=_DPI, format="png")
            save_json(Path(f"outputs/pictures/{name}.json"), numbers)
            print(folder / f"{name}.png")


def draw_optimizers():
    """Return a figure with a panel for each optimizer and surface, and {surface: {optimizer: [[x, y], ...]}}."""
    figure, axes = build_figure(4, 4, 8.5, sharex=True, sharey=True)
    numbers = {}
    for (surface, (loss, start, (right, top))), rows in zip(SURFACES.items(), (axes[:2], axes[2:]), strict=True):
        x, y = np.meshgrid(np.linspace(-right, right, 200), np.linspace(-top, top, 200))
        numbers[surface] = {name: compute_path(name, loss, start).tolist() for name in RATES}
        for (name, path), panel in zip(numbers[surface].items(), rows.flat, strict=True):
            path = np.array(path)
            panel.contour(x, y, loss(x, y), 12, colors="0.8", linewidths=0.8)
            panel.plot(*path.T, "-", color=COLOURS[0], lw=1.2, marker="o", ms=2.5)
            panel.plot(*start, "o", color=COLOURS[1], ms=6)
            if surface == "valley":
                panel.plot(0, 0, "+", color="black", ms=9)
            panel.set_title(f"{name}, lr={RATES[name]:g}\n{surface}", fontsize=10)
            panel.set(xlim=(-right, right), ylim=(-top, top))
    text = f"{NUM_STEPS} steps from the orange point; + is the lowest point; the saddle falls upwards and downwards"
    figure.supxlabel(text, fontsize=10)
    return figure, numbers


def compute_path(name, loss, start):
    """Return the points (NUM_STEPS + 1, 2) that an optimizer of src.training.optimizer visits from `start`."""
    import torch

    from src.training.optimizer import build_optimizer

    network = torch.nn.Module()
    network.backbone = torch.nn.Module()
    network.backbone.point = point = torch.nn.Parameter(torch.tensor(start))
    optimizer, points = build_optimizer(Optimizer(name=name, lr=RATES[name]), network), [start]
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        loss(*point).backward()
        optimizer.step()
        points.append(tuple(point.tolist()))
    return np.array(points)


def draw_activations():
    """Return a figure with a panel for each activation and its slope, and {name: {"value": [...], "slope": [...]}}."""
    import torch

    from src.model.head import ACTIVATIONS

    figure, axes = build_figure(-(-len(ACTIVATIONS) // 3), 3, 5, sharex=True, sharey=True)
    numbers = {}
    for (name, activation), panel in zip(ACTIVATIONS.items(), axes.flat, strict=False):
        x = torch.linspace(-4, 4, 401, requires_grad=True)
        value = activation()(x)
        [slope] = torch.autograd.grad(value.sum(), x)
        numbers[name] = {"x": x.tolist(), "value": value.tolist(), "slope": slope.tolist()}
        panel.plot(numbers[name]["x"], numbers[name]["value"], color=COLOURS[0], lw=2, label="value")
        panel.plot(numbers[name]["x"], numbers[name]["slope"], "--", color=COLOURS[1], lw=1.5, label="slope")
        panel.set_title(name, fontsize=11)
        panel.set_ylim(-1.3, 2.2)
    axes.flat[0].legend(loc="upper left", frameon=False)
    return figure, numbers


def draw_schedules():
    """Return a figure with a panel for each schedule's curve, and {schedule: [rate at each epoch's start]}."""
    names = list_names("training/schedule.py", "SCHEDULES")
    num_rows = -(-len(names) // 2)
    figure, axes = build_figure(num_rows, 2, 1.6 * num_rows, sharex=True, sharey=True)
    epochs, numbers = np.arange(EPOCHS * STEPS_PER_EPOCH) / STEPS_PER_EPOCH, {}
    for name, panel in zip(names, axes.flat, strict=False):
        rates = compute_rates(Schedule(name=name, warmup_epochs=WARMUP_EPOCHS))
        numbers[name] = rates[::STEPS_PER_EPOCH].tolist()
        panel.plot(epochs, rates, color=COLOURS[0], lw=2)
        if name == "plateau":
            for first, last, change in _STALLS:
                if change == 0:
                    panel.axvspan(first, last, color="0.85", label="the loss stalls" if first == 8 else None)
            panel.legend(loc="upper right", frameon=False)
        panel.set_title(f"schedule.name={name}", fontsize=11)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel(f"epoch ({WARMUP_EPOCHS} of warm-up)")
    figure.supylabel("learning rate, a share of its peak")
    return figure, numbers


def compute_rates(schedule):
    """Return (EPOCHS * STEPS_PER_EPOCH,) rates of a schedule (src.config.settings.Schedule) whose peak is 1.

    plateau is shown with an invented validation loss: it falls, but for two stalls of two epochs.
    """
    import torch

    from src.training.schedule import build_schedule

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_schedule(schedule, optimizer, EPOCHS, STEPS_PER_EPOCH)
    rates, loss = [], 2.0
    for epoch in range(EPOCHS):
        for _ in range(STEPS_PER_EPOCH):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        loss += next(change for first, last, change in _STALLS if first <= epoch < last)
        scheduler.end_epoch(score=-loss, loss=loss)
    return np.array(rates)


def draw_curves():
    """Return a figure with a panel for each pair of CURVES, and {label: {"train_loss": [...], "val_loss": [...]}}."""
    figure, axes = build_figure(1, len(CURVES), 4, sharey=True)
    numbers = {}
    for panel, (title, runs) in zip(axes.flat, CURVES.items(), strict=True):
        for colour, (label, words) in zip(COLOURS, runs.items(), strict=False):
            log = pd.read_csv(train(label, words).fold(0).log)
            numbers[label] = {name: log[name].tolist() for name in ("train_loss", "val_loss")}
            panel.plot(log["epoch"], log["val_loss"], color=colour, lw=2, label=f"{label}: validation")
            panel.plot(log["epoch"], log["train_loss"], "--", color=colour, lw=1.5, label=f"{label}: training")
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("epoch")
        panel.legend(loc="upper right", frameon=False, fontsize=9)
    axes.flat[0].set_ylabel("loss")
    return figure, numbers


def draw_turned():
    """Return a figure of which digit is taken for which, and {turn: [[images of class i taken for j]]}.

    Counted over the held-out images that the network knows as they are.
    """
    run = train("turned", TRAINED)
    numbers = count_turned(run)
    figure, axes = build_figure(1, len(numbers), 3.3)
    for panel, (turn, counts) in zip(axes.flat, numbers.items(), strict=True):
        counts = np.array(counts)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(shares >= 0.3):
            colour = "white" if shares[row, column] > 0.6 else "black"
            share = f"{100 * shares[row, column]:.0f}"
            panel.text(column, row, share, ha="center", va="center", color=colour, fontsize=8)
        panel.set(xticks=range(len(counts)), yticks=range(len(counts)), xlabel="is taken for")
        panel.set_title(turn, fontsize=11)
        panel.grid(False)
    axes.flat[0].set_ylabel("digit (numbers: % of its images)")
    return figure, numbers


def count_turned(run):
    """Return {turn: counts (K, K) as lists} of a run's first fold: images of class i that are taken for class j."""
    from src.checkpointing.serialization import load_network
    from src.competition.tables import load_train_table, read_table
    from src.config.load import load_saved_config
    from src.data.dataset import ImageDataset, build_loader
    from src.data.transforms import build_augmentation, build_resize
    from src.device import resolve_device
    from src.model.losses import probabilities
    from src.training.engine import predict

    config = load_saved_config(run.path)
    table = load_train_table(config.competition)
    table = table.take(read_table(run.folds)["fold"].to_numpy(int) == 0)
    network = load_network(config, run.fold(0)).place(resolve_device(config.device), True)
    taken = {}
    for turn, transforms in {"plain": [], **TURNS}.items():
        augment = Augment(preset="none", transforms=[{name: {"p": 1.0}} for name in transforms])
        transform = build_augmentation(replace(config, augment=augment), True) if transforms else build_resize(config)
        dataset = ImageDataset(table, config.competition, transform, 0)
        loader = build_loader(dataset, config.eval_batch_size, num_workers=0)
        index, probs = predict([network], loader, partial(probabilities, task=config.competition.task), "fp32")
        taken[turn] = np.empty(len(table), int)
        taken[turn][index] = probs[0].argmax(axis=1)
    truth, counts = table.targets.argmax(axis=1), {}
    is_known = taken.pop("plain") == truth
    for turn, found in taken.items():
        pairs = np.zeros((len(table.target_names),) * 2, int)
        np.add.at(pairs, (truth[is_known], found[is_known]), 1)
        counts[turn] = pairs.tolist()
    return counts


def train(label, words):
    """Train a run of the embedded competition unless it is finished; return its RunFolder."""
    name = "".join(one if one.isalnum() else "_" for one in label)
    config = load_config([*_RUNS.split(), *words.split(), f"name={name}"])
    run = RunFolder(config.run_folder)
    if not run.scores.is_file():
        from src.training.run import train_run

        with contextlib.redirect_stdout(sys.stderr):
            train_run(config)
    return run


def build_figure(num_rows, num_columns, height, **kwargs):
    """Return a figure at README's width and its axes (num_rows, num_columns), height in inches."""
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, **kwargs)
    for panel in axes.flat:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


DRAWN = {
    "optimizers": draw_optimizers,
    "activations": draw_activations,
    "schedules": draw_schedules,
    "curves": draw_curves,
    "turned": draw_turned,
}

if __name__ == "__main__":
    main(sys.argv[1:])
