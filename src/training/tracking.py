"""What is logged: a printed line per epoch, and what a run's trackers are told; log.csv depends on none of them."""

import contextlib
import importlib.util

import pandas as pd

from src.errors import UserError
from src.files import load_json
from src.terminal import format_epoch, warn

_MEANS = ["train_loss", "val_loss", "val_score"]  # the columns of log.csv that have a mean over the folds


class Tracker:
    """A run's trackers, {name: one}, maybe none: every call is safe; one that fails is reported and left out.

    Each has log_epoch(fold, log), where log holds the fold's rows of log.csv; end_fold(logs, mean), of the finished
    folds: {number: DataFrame} and, of the epochs that all have, their mean; and finish(logs, mean, scores, report),
    with what scores.json and report.json hold, and the page's path as "page"; {}: there is none.
    """

    def __init__(self, trackers=None):
        self.trackers = trackers or {}

    def log_epoch(self, fold, log):
        self._tell("log_epoch", lambda: (fold, log))

    def end_fold(self, folder):
        self._tell("end_fold", lambda: _load_logs(folder))

    def finish(self, folder, scores, page=None):
        """End the tracking of a RunFolder; page: its report's path, None: there is none."""
        parts = ("figures", "worst")  # of the report
        load = (lambda: load_json(page.with_suffix(".json"), *parts) | {"page": page}) if page else dict
        self._tell("finish", lambda: (*_load_logs(folder), scores, load()))
        self.trackers = {}

    def _tell(self, method, load):
        for name, tracker in list(self.trackers.items()):
            try:
                getattr(tracker, method)(*load())
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
    run.tracker.log_epoch(fold, progress.log)


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
            if name == "wandb":
                from src.training.wandb_tracker import WandbTracker as Chosen  # here, since importing it takes a second
            else:
                from src.training.tensorboard_tracker import TensorBoardTracker as Chosen
            trackers[name] = Chosen(config)
        except Exception as error:  # as above
            _warn(name, error)
    return Tracker(trackers)


def _load_logs(folder):
    logs = {fold.number: pd.read_csv(fold.log) for fold in folder.finished_folds()}
    num_epochs = min((len(log) for log in logs.values()), default=0)
    rows = [log[:num_epochs] for log in logs.values()]
    return logs, pd.concat(rows).groupby("epoch")[_MEANS].mean() if rows else pd.DataFrame()


def _warn(name, error):
    warn(f"{name}: off for this run ({type(error).__name__}: {error}); log.csv is written")
