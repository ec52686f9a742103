"""What is logged: a printed line per epoch, and wandb where it is wanted and works; log.csv does not depend on it."""

import contextlib
import logging
import netrc
import os
import ssl
import sys
import urllib.error
import urllib.request
import uuid
from dataclasses import asdict

from src.checkpointing.run_folder import RunFolder
from src.files import save_text
from src.terminal import format_epoch

_SERVER = "api.wandb.ai"
_ANSWER_SECONDS, _START_SECONDS, _END_SECONDS = 5, 30, 60  # to wait for wandb's server


class Tracker:
    """A wandb run that may be absent: every call is safe; the first failure is reported and ends the tracking."""

    def __init__(self, run=None):
        self._run = run

    def log(self, values):
        self._try(lambda run: run.log(values))

    def finish(self, summary):
        self._try(lambda run: (run.summary.update(summary), run.finish()))
        self._run = None

    def _try(self, action):
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # whatever wandb raises, a run of hours must not end for it
            self._run = None
            _warn(error)


def log_epoch(run, fold, progress, is_best):
    """Print a fold's newest epoch, * for the best so far, and send its row of log.csv to wandb as fold<k>/<column>."""
    if not run.processes.is_main_process:
        return
    row, before = progress.log[-1], progress.log[-2]["seconds"] if len(progress.log) > 1 else 0.0
    num_epochs, scores = run.config.train.epochs, (row["val_loss"], row["val_score"])
    cells = (f"{row['epoch']}/{num_epochs}", row["train_loss"], *scores, row["images_per_second"])
    is_best = is_best and row["val_score"] is not None  # of fold=all each epoch is
    print(format_epoch((*cells, row["seconds"] - before), num_epochs, run.metric.name, is_best), flush=True)
    known = {name: value for name, value in row.items() if value is not None}
    run.tracker.log({f"fold{fold}/{name}" if name != "epoch" else name: value for name, value in known.items()})


def import_early(mode):
    """Import wandb before torch: its launch classes look through all loaded modules, up to 1 s after torch."""
    if mode != "none":
        with contextlib.suppress(ImportError):
            import wandb.sdk.launch  # noqa: F401


def build_tracker(mode, config):
    """Return the Tracker of a wandb run, online with a key, else offline; an empty one for mode none or a failure."""
    if mode == "none":
        return Tracker()
    modes = ["online", "offline"] if _has_key() else ["offline"]
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        modes = [os.environ["WANDB_MODE"]]
    elif "online" in modes and (reason := _why_silent()):
        modes = ["offline"]
        print(f"wandb: {reason}; this run is tracked offline; wandb sync sends it later", file=sys.stderr)
    if "online" not in modes:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which it would send to a server that hangs
    for mode in modes:
        try:
            return Tracker(_start(mode, config))
        except Exception as error:  # as above
            failure = error
    _warn(failure)
    return Tracker()


def _start(mode, config):
    import wandb

    logging.raiseExceptions = False  # on a full disk wandb's own log would fill the terminal with tracebacks
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    seconds = {"init_timeout": _START_SECONDS}
    if hasattr(wandb.Settings(), "finish_timeout"):  # older ones wait as long as it takes
        seconds["finish_timeout"] = _END_SECONDS
    project = os.environ.get("WANDB_PROJECT", config.competition.name)
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, **seconds)
    run_id, name = _load_id(config)
    run = wandb.init(
        project=project, group=folder.name, name=name, id=run_id, resume="allow" if mode == "online" else None,
        allow_val_change=True, dir=folder, config=asdict(config), mode=mode, settings=settings,
    )  # fmt: skip
    run.define_metric("epoch")
    run.define_metric("fold*", step_metric="epoch")
    return run


def _load_id(config):
    """Return (id, name) of the run at wandb: one for all folds, and one for each that a command trains alone.

    Kept in the run's or the fold's folder, so that resuming continues the same run.
    """
    run = RunFolder(config.run_folder)
    path, name = run.wandb_id, run.path.name
    if config.fold is not None:
        path, name = run.fold(config.fold).wandb_id, f"{name}_fold{config.fold}"
    if not path.is_file():
        save_text(path, uuid.uuid4().hex[:8])
    return path.read_text(encoding="utf-8"), name


def _has_key():
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(_SERVER) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _why_silent():
    """Return why wandb's server takes no run, or an empty string; wandb itself would try for a minute."""
    address = os.environ.get("WANDB_BASE_URL", f"https://{_SERVER}")
    server = address.rpartition("@")[2]  # before it may stand a password
    try:
        urllib.request.urlopen(address, timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:  # below 500 it is there, and wandb knows the right page
        return f"{server} answers {error.code}" if error.code >= 500 else ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # wandb may trust what Python does not
            return f"{server} does not answer ({reason})"
    return ""


def _warn(error):
    print(f"wandb: off for this run ({type(error).__name__}: {error}); log.csv is written", file=sys.stderr)
