"""From a competition and a time to a submission: python -m tools.auto competition=NAME time_budget=15m [key=value ...]

Looks, plans, probes, trains, blends and checks; each step is a program of this project that can be run by hand.
"""

import math
import os
import shlex
import shutil
import subprocess
import sys

from src.errors import UserError, nearest, one_line_errors

USAGE = """usage: python -m tools.auto competition=NAME time_budget=15m
                                                    [key=value ...]

  python -m tools.auto competition=NAME time_budget=15m model.weights=FOLDER
  python -m tools.auto competition=NAME time_budget=9h name=night

Looks at the competition, the machine and the weights at hand, says what it
plans and why, and then runs the other programs: the doctor first, linear models
on frozen features (tools.probe), then networks that learn (train.py), their
test predictions (infer.py) and a blend by out-of-fold predictions
(tools.blend). A checked submission is there early and is improved until the
time is used; it ends within the time and a tenth.

Writes outputs/NAME, a folder like a run's: oof.csv, scores.json, blend.json,
submission.csv, report.html, plan.json (what was decided and why, and the
commands that make the same submission again) and recipe.yaml (the best single
run, to go on by hand: train.py recipe=outputs/NAME/recipe.yaml). The runs it
blends are in outputs/NAME_members.

The same command again resumes; with a longer time_budget it goes on improving.

  time_budget=15m     15m, 2h, 90s: of all commands of this name together
  candidates=[...]    backbones of timm; left out: those that have a file in
                      model.weights, the packages of weights that are
                      installed, else a few small ones from timm's hub
  name=NAME           left out: <competition>_auto
  overwrite=true      begins anew

All other words are settings as train.py takes them, for every run, and are
not decided: image_size, num_folds, train.epochs, augment.flips, device ...
(train.py --help all).
"""
# what is decided from run to run, or written by this tool
_REFUSED = (
    "fold", "seed", "recipe", "train.select", "train.views", "model.backbone", "model.freeze", "precision", "threads",
    "tracking", "track_checkpoints", "report", "infer.output", "infer.folds",
)  # fmt: skip
_LEAST = 20  # seconds


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        options, others = read_options(words)
        from tools.auto.programs import Lanes  # here, as help and a typo do not wait for joblib

        config = options["config"]
        lanes = Lanes(options["gpus"], is_single=config.device not in ("auto", "cuda", "cpu"))
        from tools.auto.command import run_auto

        run_auto(options, others, lanes)


def read_options(words):
    """Return ({key: value} of this tool's own words, the words that all runs get).

    Raises:
        UserError: a word is wrong, or names what is decided here.
    """
    from src.config.load import load_config
    from src.config.settings import seconds_of, settings

    own = {"time_budget": None, "candidates": None, "name": None, "overwrite": "false"}
    others, known = [], [*settings(), *own, "competition", "recipe"]
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in known:
            near = nearest(key, known) or "; see python -m tools.auto --help"
            raise UserError(f"command line: {word} is not known{near}")
        if key in _REFUSED:
            raise UserError(f"command line: {word}: is decided from run to run; leave it out, or use train.py")
        if key in own:
            own[key] = value
        else:
            others.append(word)
    if not any(word.startswith("competition=") for word in others):
        raise UserError("command line: no competition; write competition=NAME, or adopt a folder: tools.adopt FOLDER")
    seconds = seconds_of(own["time_budget"])
    if seconds is None or math.isnan(seconds) or seconds < _LEAST:
        found = "none" if seconds is None else own["time_budget"]
        raise UserError(f"time_budget: {found}; write how long it may take, at least {_LEAST}s: time_budget=15m")
    if own["overwrite"] not in ("true", "false"):
        raise UserError(f"command line: overwrite={own['overwrite']} is neither true nor false; write overwrite=true")
    config = load_config(others)
    name = own["name"] or f"{config.competition.name}_auto"
    load_config([*others, f"name={name}"])  # refuses what is no folder's name
    names = [one.strip(" '\"") for one in (own["candidates"] or "").strip("[] ").split(",")]
    options = {
        "seconds": seconds, "name": name, "overwrite": own["overwrite"] == "true", "config": config,
        "candidates": [one for one in names if one], "gpus": list_gpus(config.device),
        "command": shlex.join(["python", "-m", "tools.auto", *(one for one in words if "overwrite=" not in one)]),
    }  # fmt: skip
    return options, others


def list_gpus(device):
    """Return the ids of NVIDIA's GPUs that may be used; without torch, which takes seconds to load."""
    if device not in ("auto", "cuda") or not shutil.which("nvidia-smi"):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one for one in visible.split(",") if one]
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


if __name__ == "__main__":
    main(sys.argv[1:])
