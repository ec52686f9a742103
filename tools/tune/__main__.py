"""A search over settings: python -m tools.tune competition=NAME space=FILE.yaml [trials=20] [name=NAME] [key=value ...]

Optuna chooses the settings of each trial; a trial is a run of train.py, beside others where there is room.
"""

import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from src.errors import Stopped, UserError, nearest, one_line_errors

USAGE = """usage: python -m tools.tune competition=NAME space=FILE.yaml [trials=20]
                            [name=NAME] [key=value ...]

  python -m tools.tune competition=NAME recipe=finetune space=space.yaml

FILE.yaml has a line for each setting that is searched:

  optimizer.lr: {low: 1e-5, high: 1e-2, log: true}
  train.epochs: {low: 3, high: 10}
  augment.preset: [light, medium, heavy]
  augment.kwargs.rotate: {low: 0, high: 30, step: 5}

A trial trains fold 0 first. Once five trials are complete, one whose validation
score is below their median at the same share of its training, from a third on,
is stopped (pruned); the others train the other folds, and their score is the
pooled out-of-fold one. The first trial is the recipe itself, where the space
holds its settings.

Writes outputs/NAME: trials.csv, recipe.yaml (the best settings), report.html,
tune.json, and the trials' runs in trials/. Beside the best score, which is
optimistic as it is the best of many, it prints the honest one: for each fold
the trial is chosen by the other folds.

The same command resumes, and with more trials= it continues; on several
machines with one storage= (or one shared folder) it works on one search.

  trials=20           in all, those of other commands of this search included;
                      a space of no more points is tried whole, each once
  folds=N             folds a trial trains; left out: all (folds=FILE.csv and
                      other words are train.py's)
  pruner=median       or none: each trial trains all of its folds
  storage=URL         Optuna's: sqlite:///FILE, mysql://..., postgresql://...;
                      or a journal's FILE; left out: outputs/NAME/journal.log
  launcher=local|ray  trials in parallel, as train.py's folds
  time_budget=8.5h    ends then; the same command resumes
  overwrite=true      begins anew
  name=NAME           left out: <competition>_tune

All other words are settings of train.py for every trial (train.py --help all).
"""
PRUNERS = ("median", "none")
_ECHO_SECONDS = 0.5


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    config: object  # Config that all trials share, without what is searched
    words: list  # of train.py, for every trial
    folder: Path  # outputs/NAME
    space: Path
    parameters: dict  # {key: space.Parameter}
    trials: int
    folds: int | None  # that a trial trains; None: all
    storage: str | None
    pruner: str
    overwrite: bool
    seconds: float  # of this command
    next_words: list  # that name the competition


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        options = read_options(words)
        before = signal.signal(signal.SIGTERM, _End())
        try:
            from tools.tune.search import run_search  # here, as a typo does not wait for torch and Optuna

            run_search(options)
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            advice = "pip install -r requirements-scale.txt"
            raise UserError(f"tools.tune: Optuna is not installed; {advice}") from None
        finally:
            signal.signal(signal.SIGTERM, before)


def read_options(words):
    """Return the Options; a UserError for a wrong word, or a space that cannot be searched."""
    from src.config.load import load_config
    from src.config.settings import seconds_of, settings
    from tools.tune.space import load_space

    own = {"space": None, "trials": "20", "name": None, "storage": None, "pruner": "median", "overwrite": "false",
           "time_budget": None, "folds": None, "output_dir": None}  # fmt: skip
    others, known = [], [*settings(), *own, "competition"]
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not (key in known or any(key.startswith(f"{one}.") for one in settings())):
            raise UserError(f"command line: {word} is not known{nearest(key, known) or '; see tools.tune --help'}")
        if key in own and (key != "folds" or value.isdecimal()):
            own[key] = value
        else:
            others.append(word)
    given = dict(word.partition("=")[::2] for word in others)
    if "competition" not in given:
        raise UserError("command line: no competition; write competition=NAME, or adopt a folder: tools.adopt FOLDER")
    if own["space"] is None:
        raise UserError("command line: no space; write space=FILE.yaml, as python -m tools.tune --help shows")
    if "fold" in given:
        raise UserError(f"command line: fold={given['fold']}: trials train fold 0 first; leave it out, or set folds=1")
    if given.get("seed", "").strip().startswith("["):
        raise UserError(f"command line: seed={given['seed']}: trials share one seed; write for example seed=1")
    numbers = {}
    for key in ("trials", "folds"):
        if own[key] is not None and not (own[key].isdecimal() and int(own[key]) > 0):
            raise UserError(f"command line: {key}={own[key]}: not a whole number above 0; write for example {key}=20")
        numbers[key] = None if own[key] is None else int(own[key])
    if own["pruner"] not in PRUNERS:
        raise UserError(f"command line: pruner={own['pruner']}: not one of {', '.join(PRUNERS)}")
    if own["overwrite"] not in ("true", "false"):
        raise UserError(f"command line: overwrite={own['overwrite']} is neither true nor false; write overwrite=true")
    place = [] if own["output_dir"] is None else [f"output_dir={own['output_dir']}"]
    budget = [] if own["time_budget"] is None else [f"time_budget={own['time_budget']}"]
    name = own["name"] or f"{load_config(others).competition.name}_tune"
    config = load_config([*others, *place, *budget, f"name={name}"])
    extra = ("launcher", "ray_address")  # of this command; a trial is one program
    trial_words = [word for word in others if word.partition("=")[0] not in extra]
    trial_words += [f"{key}={value}" for key, value in (("tracking", "none"), ("report", "false")) if key not in given]
    path = Path(own["space"]).expanduser()
    seconds = seconds_of(own["time_budget"])
    return Options(
        config, trial_words, config.run_folder, path, load_space(path, others), numbers["trials"], numbers["folds"],
        own["storage"], own["pruner"], own["overwrite"] == "true", math.inf if seconds is None else seconds,
        [word for word in others if word.startswith("competition=")],
    )  # fmt: skip


class _End:
    """Ends the search at SIGTERM, once where `timeout` sends one to the process and at once one to its group."""

    def __init__(self):
        self._at = -math.inf

    def __call__(self, number, frame):
        if time.monotonic() - self._at > _ECHO_SECONDS:
            self._at = time.monotonic()
            raise Stopped("stopped by SIGTERM, all trials are saved; the same command resumes", 143)


if __name__ == "__main__":
    main(sys.argv[1:])
