"""What is logged: a printed line per epoch, and what a run's trackers are told; log.csv depends on none of them."""

import contextlib
import importlib.util

import pandas as pd

from src.errors import UserError
from src.files import load_json
from src.terminal import format_epoch, warn


def build_wandb(config):
    from src.training.wandb_tracker import WandbTracker  # here, since importing it takes a second

    return WandbTracker(config)


def build_tensorboard(config):
    from src.training.tensorboard_tracker import TensorBoardTracker  # here, as above

    return TensorBoardTracker(config)


# Config -> an object with log(curve, epoch, values), for {name: number} of "fold<k>" or "mean", and with
# finish(scores, figures, worst, page): of scores.json, the report's {name: PNG}, its worst images as report.json has
# them, each with its "picture", and its page's path, None: there is none. The names are those of packages.
TRACKERS = {"wandb": build_wandb, "tensorboard": build_tensorboard}


class Tracker:
    """A run's trackers, {name: one}, maybe none: every call is safe; one that fails is reported and left out."""

    def __init__(self, trackers=None):
        self.trackers = trackers or {}

    def log_epoch(self, fold, row):
        """Log a fold's newest row of log.csv."""
        values = {name: value for name, value in row.items() if value is not None and name != "epoch"}
        self._tell(lambda tracker: tracker.log(f"fold{fold}", row["epoch"], values))

    def finish(self, folder, scores, page=None):
        """Log the finished folds' mean and a RunFolder's report, and end; page: the report's path, None: there is none.

        The mean is over the epochs that all folds have; that of one fold, or without scores, is not logged.
        """

        def end(tracker):
            logs = [pd.read_csv(fold.log, index_col="epoch") for fold in folder.finished_folds()]
            mean = pd.concat(logs, join="inner").groupby("epoch") if len(logs) > 1 and scores else ()
            for epoch, rows in mean:
                if len(rows) == len(logs):
                    tracker.log("mean", epoch, rows[["train_loss", "val_loss", "val_score"]].mean().to_dict())
            report = load_json(page.with_suffix(".json"), "figures", "worst") if page else {"figures": {}, "worst": []}
            tracker.finish(scores, report["figures"], [one for one in report["worst"] if one["picture"]], page)

        self._tell(end)
        self.trackers = {}

    def _tell(self, action):
        for name, tracker in list(self.trackers.items()):
            try:
                action(tracker)
            except Exception as error:  # whatever it raises, a run of hours must not end for it
                del self.trackers[name]
                _warn(name, error)


def log_epoch(run, fold, progress, is_best):
    """Print a fold's newest epoch, * for the best so far, and log it."""
    if not run.processes.is_main_process:
        return
    row, before = progress.log[-1], progress.log[-2]["seconds"] if len(progress.log) > 1 else 0.0
    num_epochs, scores = run.config.train.epochs, (row["val_loss"], row["val_score"])
    cells = (f"{row['epoch']}/{num_epochs}", row["train_loss"], *scores, row["images_per_second"])
    is_best = is_best and row["val_score"] is not None  # of fold=all each epoch is
    print(format_epoch((*cells, row["seconds"] - before), num_epochs, run.metric.name, is_best), flush=True)
    run.tracker.log_epoch(fold, row)


def import_early(names):
    """Import wandb before torch: its launch classes look through all loaded modules, up to 1 s after torch.

    A package that the config asks for, but auto, and that is missing is a UserError.
    """
    for name in (name for name in names if name != "auto" and importlib.util.find_spec(name) is None):
        raise UserError(f"tracking={name}: the package is missing; pip install {name}, or set tracking=none")
    if set(names) & {"auto", "wandb"}:
        with contextlib.suppress(ImportError):
            import wandb.sdk.launch  # noqa: F401


def build_tracker(config):
    """Return the Tracker of config.tracking: without those that cannot start, which is one line for each."""
    trackers = {}
    for name in dict.fromkeys("wandb" if name == "auto" else name for name in config.tracking):
        try:
            trackers[name] = TRACKERS[name](config)
        except Exception as error:  # as above
            _warn(name, error)
    return Tracker(trackers)


def _warn(name, error):
    warn(f"{name}: off for this run ({type(error).__name__}: {error}); log.csv is written")
