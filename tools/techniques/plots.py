"""The two pictures every book draws, from this project's own code and runs."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from src.config.settings import Schedule, settings
from src.errors import UserError, one_line_errors
from src.files import atomic_path

USAGE = """usage: python -m benchmarks.pictures schedules [output=docs/schedules.png]
       python -m benchmarks.pictures transfer RUN=label RUN=label ... [output=docs/transfer.png]

  schedules   the learning rate of every schedule, over 30 epochs of 100 steps with 2 epochs of warm-up
  transfer    the validation score of runs over the seconds they trained; RUN is a run's folder
"""

# Okabe and Ito's colours, which the colour-blind can tell apart; lines differ in style too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
EPOCHS, STEPS_PER_EPOCH, WARMUP_EPOCHS = 30, 100, 2
_STALLS = (
    (0, 8, -0.1),
    (8, 10, 0.0),
    (10, 18, -0.05),
    (18, 20, 0.0),
    (20, 30, -0.01),
)  # from epoch, to epoch, loss gained in each
_WIDTH, _DPI = 8, 100  # inches, so that a picture is 800 px wide


def learning_rates(settings):
    """Return (EPOCHS * STEPS_PER_EPOCH,) rates of a schedule (config.Schedule) whose peak is 1.

    plateau is shown with a made-up validation loss: it falls, but for two stalls of two epochs.
    """
    import torch

    from src.training.schedule import build_schedule

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(settings, optimizer, EPOCHS, STEPS_PER_EPOCH)
    rates, loss = [], 2.0
    for epoch in range(EPOCHS):
        for _ in range(STEPS_PER_EPOCH):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        loss += next(gain for first, last, gain in _STALLS if first <= epoch < last)
        schedule.end_epoch(score=-loss, loss=loss)
    return np.array(rates)


def draw_schedules(path):
    """Draw every schedule's curve, one small panel each."""
    names = settings()["schedule.name"].metadata["choices"]
    num_columns = 2
    num_rows = -(-len(names) // num_columns)
    figure, axes = plt.subplots(
        num_rows, num_columns, figsize=(_WIDTH, 1.6 * num_rows), sharex=True, sharey=True, layout="constrained"
    )
    epochs = np.arange(EPOCHS * STEPS_PER_EPOCH) / STEPS_PER_EPOCH
    for name, panel in zip(names, axes.flat, strict=False):
        panel.plot(epochs, learning_rates(Schedule(name=name, warmup_epochs=WARMUP_EPOCHS)), color=COLOURS[0], lw=2)
        if name == "plateau":
            for first, last, gain in _STALLS:
                if gain == 0:
                    panel.axvspan(first, last, color="0.85", label="the loss stalls" if first == 8 else None)
            panel.legend(loc="upper right", frameon=False)
        panel.set_title(f"schedule.name={name}", fontsize=11)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel(f"epoch ({WARMUP_EPOCHS} of warm-up)")
    figure.supylabel("learning rate, a share of its peak")
    _save(figure, path)


def draw_transfer(runs, path):
    """Draw the validation score over the seconds of training: each run's mean over its folds, thin lines for the folds.

    Args:
        runs: {run folder: label}.

    Raises:
        UserError: a folder is no run, or none of its folds has an epoch.
    """
    figure, panel = plt.subplots(figsize=(_WIDTH, 5), layout="constrained")
    for number, (folder, label) in enumerate(runs.items()):
        logs = read_logs(folder)
        colour = COLOURS[number % len(COLOURS)]
        for log in logs:
            panel.plot(log["seconds"], log["val_score"], color=colour, lw=0.8, alpha=0.35)
        shared = min(len(log) for log in logs)  # folds that stopped early have fewer epochs
        seconds = np.mean([log["seconds"][:shared] for log in logs], axis=0)
        score = np.mean([log["val_score"][:shared] for log in logs], axis=0)
        panel.plot(seconds, score, STYLES[number % len(STYLES)], color=colour, lw=2.5, marker="o", ms=5, label=label)
    panel.set_xlabel("seconds of training and validation, one fold")
    panel.set_ylabel(f"validation {_metric_of(next(iter(runs)))}")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="lower right", frameon=False, title="bold: mean of the folds")
    _save(figure, path)


def read_logs(folder):
    """Return the log.csv of each of a run's folds as a pandas table.

    Raises:
        UserError: there is none.
    """
    logs = [pd.read_csv(path) for path in sorted(Path(folder).glob("fold*/log.csv"))]
    if not logs:
        raise UserError(f"{folder}: no run with an epoch (no fold*/log.csv); train one with python train.py")
    return logs


def _metric_of(folder):
    from src.config.load import load_saved_config

    return load_saved_config(folder).competition.metric


def _save(figure, path):
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")
    plt.close(figure)
    print(path)


def main(words):
    """Run the command line `words`."""
    if not words or {"--help", "-h"} & set(words):
        print(USAGE)
        return
    with one_line_errors():
        kind, *rest = words
        if kind not in ("schedules", "transfer"):
            raise UserError(
                f"command line: {kind!r} is neither schedules nor transfer; --help shows how they are drawn"
            )
        if bare := next((word for word in rest if "=" not in word), None):
            raise UserError(f"command line: {bare!r} is not key=value; write RUN=label or output=FILE.png")
        runs = dict(word.rsplit("=", 1) for word in rest)
        output = Path(runs.pop("output", f"docs/{kind}.png"))
        if output.suffix != ".png":
            raise UserError(f"output={output}: not a picture's name; write for example output=docs/{kind}.png")
        if kind == "schedules" and runs:
            raise UserError(f"command line: schedules takes output=FILE.png, not {next(iter(runs))}")
        if kind == "transfer" and not runs:
            raise UserError("command line: no run to draw; write for example outputs/demo_default=label")
        draw_schedules(output) if kind == "schedules" else draw_transfer(runs, output)


if __name__ == "__main__":
    main(sys.argv[1:])
