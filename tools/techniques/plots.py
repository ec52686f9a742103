"""The two plots of the study: the learning rate of every schedule, and validation scores over training time."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.checkpointing.run_folder import RunFolder
from src.config.load import load_saved_config
from src.config.registry import list_names
from src.config.settings import Schedule
from src.errors import UserError
from src.files import atomic_path, save_json

# Okabe and Ito's colours, which the colour-blind can distinguish; lines differ in style too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
EPOCHS, STEPS_PER_EPOCH, WARMUP_EPOCHS = 30, 100, 2
_STALLS = ((0, 8, -0.1), (8, 10, 0.0), (10, 18, -0.05), (18, 20, 0.0), (20, 30, -0.01))  # from, to, change an epoch
_WIDTH, _DPI = 8, 100  # inches: 800 px


def plot(kind, words):
    """Draw schedules or transfer by the words of its command line; write the image and its numbers as JSON.

    Raises:
        UserError: a word is wrong, or matplotlib is missing.
    """
    if bare := next((word for word in words if "=" not in word), None):
        raise UserError(f"command line: {bare!r} is not key=value; write RUN=label or output=FILE.png")
    runs = dict(word.rsplit("=", 1) for word in words)
    path = Path(runs.pop("output", f"outputs/{kind}.png"))
    if path.suffix != ".png":
        raise UserError(f"output={path}: not a PNG; write for example output=outputs/{kind}.png")
    if kind == "schedules" and runs:
        raise UserError(f"command line: schedules takes output=FILE.png, not {next(iter(runs))}")
    if kind == "transfer" and not runs:
        raise UserError("command line: no run to draw; write for example outputs/demo_default=label")
    try:
        figure, numbers = draw_schedules() if kind == "schedules" else draw_transfer(runs)
    except ModuleNotFoundError as error:
        raise UserError(f"tools.techniques: {error.name} is missing; pip install {error.name}") from None
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")
    save_json(path.with_suffix(".json"), numbers)
    print(f"{path}\n{path.with_suffix('.json')}")


def draw_schedules():
    """Return a figure with a panel for each schedule's curve, and {schedule: [rate at each epoch's start]}."""
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    names = list_names("training/schedule.py", "SCHEDULES")
    num_columns = 2
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(_WIDTH, 1.6 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True)
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
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
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


def draw_transfer(runs):
    """Return a figure of validation scores over seconds of training, and {label: {"seconds": [...], "score": [...]}}.

    Each run has a bold line, the mean of its folds, and a thin line for each fold.

    Args:
        runs: {run folder: label}.

    Raises:
        UserError: a folder is no run, or none of its folds has an epoch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 5), layout="constrained")
    panel, numbers = figure.subplots(), {}
    for number, (folder, label) in enumerate(runs.items()):
        logs = read_logs(folder)
        colour = COLOURS[number % len(COLOURS)]
        for log in logs:
            panel.plot(log["seconds"], log["val_score"], color=colour, lw=0.8, alpha=0.35)
        num_shared = min(len(log) for log in logs)  # folds that stopped early have fewer epochs
        seconds = np.mean([log["seconds"][:num_shared] for log in logs], axis=0)
        score = np.mean([log["val_score"][:num_shared] for log in logs], axis=0)
        numbers[label] = {"seconds": seconds.tolist(), "score": score.tolist()}
        panel.plot(seconds, score, STYLES[number % len(STYLES)], color=colour, lw=2.5, marker="o", ms=5, label=label)
    metric = load_saved_config(next(iter(runs))).competition.metric
    panel.set(xlabel="seconds of training and validation, one fold", ylabel=f"validation {metric}")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="lower right", frameon=False, title="bold: mean of the folds")
    return figure, numbers


def read_logs(folder):
    """Return the log.csv of each of a run's folds as a pandas table.

    Raises:
        UserError: there is none.
    """
    logs = [pd.read_csv(fold.log) for fold in RunFolder(folder).started_folds()]
    if not logs:
        raise UserError(f"{folder}: no fold has finished an epoch; train one with python train.py")
    return logs
