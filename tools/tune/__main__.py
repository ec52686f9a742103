"""A search over settings: python -m tools.tune competition=NAME space=FILE.yaml [trials=20] [name=NAME] [key=value ...]

Optuna chooses the settings of each trial; a trial is a run of train.py, beside others where there is room.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError, nearest, one_line_errors

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
_OF_THE_SEARCH = ("name", "output_dir", "overwrite", "time_budget", "launcher", "ray_address")  # words, not of a trial


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    config: object  # Config that all trials share, without what is searched; its name, overwrite ... are the search's
    words: list  # of train.py, for every trial
    space: Path
    parameters: dict  # {key: space.Parameter}
    trials: int
    folds: int | None  # that a trial trains; None: all
    storage: str | None
    pruner: str

    @property
    def folder(self):
        """outputs/NAME."""
        return self.config.run_folder

    @property
    def next_words(self):
        """The words that name the competition."""
        return [word for word in self.words if word.startswith("competition=")]


def main(words):
    """Run the command line `words`."""
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        options = read_options(words)
        try:
            from tools.tune.search import run_search  # here, as a typo does not wait for torch and Optuna
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            advice = "pip install -r requirements-scale.txt"
            raise UserError(f"tools.tune: Optuna is not installed; {advice}") from None
        run_search(options)


def read_options(words):
    """Return the Options; a UserError for a wrong word, or a space that cannot be searched."""
    from src.config.load import load_config
    from src.config.settings import settings
    from tools.tune.space import load_space

    own = {"space": None, "trials": "20", "folds": None, "storage": None, "pruner": "median"}
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
    for key in ("trials", "folds"):
        if own[key] is not None and not (own[key].isdecimal() and int(own[key]) > 0):
            raise UserError(f"command line: {key}={own[key]}: not a whole number above 0; write for example {key}=20")
    if own["pruner"] not in PRUNERS:
        raise UserError(f"command line: pruner={own['pruner']}: not one of {', '.join(PRUNERS)}")
    named = [] if "name" in given else [f"name={load_config(others).competition.name}_tune"]
    config = load_config([*others, *named])
    trial_words = [word for word in others if word.partition("=")[0] not in _OF_THE_SEARCH]
    path, numbers = Path(own["space"]).expanduser(), (own[key] and int(own[key]) for key in ("trials", "folds"))
    parameters = load_space(path, trial_words)
    trial_words += [f"{key}={value}" for key, value in (("tracking", "none"), ("report", "false")) if key not in given]
    return Options(config, trial_words, path, parameters, *numbers, own["storage"], own["pruner"])


if __name__ == "__main__":
    main(sys.argv[1:])
