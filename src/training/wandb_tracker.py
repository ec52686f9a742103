"""wandb: a run of a command, in one group with all that train folds of the same run."""

import logging
import os
import re
import shlex
import ssl
import urllib.error
import urllib.request
import uuid
from dataclasses import asdict
from pathlib import Path

import wandb
from requests.utils import get_netrc_auth  # wandb depends on it

from src.checkpointing.run_folder import RunFolder
from src.files import save_text
from src.terminal import warn

_ANSWER_SECONDS, _START_SECONDS, _END_SECONDS = 5, 30, 60  # to wait for wandb's server
_MOST_BYTES = 5_000_000  # of a page that is logged


class WandbTracker:
    """Online with a key, else offline. fold<k>/<column of log.csv> and mean/<column> over the epochs."""

    def __init__(self, config):
        mode, has_key = os.environ.get("WANDB_MODE"), os.environ.get("WANDB_API_KEY") or get_netrc_auth(_find_server())
        mode = mode if mode in ("offline", "disabled") else "online" if has_key else "offline"
        if mode == "online" and (reason := _why_silent()):
            mode = "offline"
            warn(f"wandb: {reason}; this run is tracked offline; wandb sync sends it later")
        if mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which it would send to a server that hangs
        self._config = config
        try:
            self._run = _start(mode, config)
        except Exception:
            if mode != "online":
                raise
            self._run = _start("offline", config)

    def log(self, curve, epoch, values):
        self._run.log({"epoch": epoch} | {f"{curve}/{name}": value for name, value in values.items()})

    def finish(self, scores, figures, worst, page):
        """Log the report, its worst images as a table and, with track_checkpoints, the weights."""
        self._run.summary.update(scores)
        try:
            files = {f"report/{name}": wandb.Image(file) for name, file in figures.items()}
            if worst:
                files["worst"] = _build_table(worst)
            if page and page.stat().st_size <= _MOST_BYTES:
                files["report/page"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
            if files:
                self._run.log(files)
            if self._config.track_checkpoints:
                self._log_weights(RunFolder(self._config.run_folder))
        finally:
            self._run.finish()
        files = sorted(Path(self._run.settings.sync_dir).parent.glob(f"offline-run-*-{self._run.id}/*.wandb"))
        if self._run.settings._offline and files:  # of each command that resumed one; they are sent in order of time
            print(f"wandb sync {shlex.join(os.path.relpath(file.parent) for file in files)}")

    def _log_weights(self, folder):
        """Log what infer.py needs of a RunFolder as one artifact."""
        artifact = wandb.Artifact(re.sub("[^A-Za-z0-9_.-]", "_", self._run.group)[:128], type="model")
        folds, select = [*folder.finished_folds(), folder.fold("all")], self._config.train.select
        files = [path for fold in folds for path in (fold.meta, fold.weights(select))]
        for path in (*files, folder.config, folder.folds, folder.oof, folder.scores):
            if path.is_file():
                artifact.add_file(path, name=path.relative_to(folder.path).as_posix())
        self._run.log_artifact(artifact)


def _build_table(worst):
    rows = []
    for one in worst:
        targets = {f"target {name}": value for name, value in one["targets"].items()}
        probs = {f"prob {name}": value for name, value in one["probs"].items()}
        image = wandb.Image(one["picture"])
        rows.append({"id": one["id"], "fold": one["fold"], "image": image, "loss": one["loss"]} | targets | probs)
    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])


def _start(mode, config):
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
    for curve in ("fold*", "mean*"):
        run.define_metric(curve, step_metric="epoch")
    return run


def _load_id(config):
    """Return (id, name) of the run at wandb: one for all folds, and one for each that a command trains alone.

    Kept in the run's or the fold's folder, so that resuming continues the same run.
    """
    run = RunFolder(config.run_folder)
    path, name = run.wandb_id, run.path.name
    if os.environ.get("WANDB_SWEEP_ID"):
        return os.environ["WANDB_RUN_ID"], name
    if config.fold is not None:
        path, name = run.fold(config.fold).wandb_id, f"{name}_fold{config.fold}"
    if not path.is_file():
        save_text(path, uuid.uuid4().hex[:8])
    return path.read_text(encoding="utf-8"), name


def _find_server():
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _why_silent():
    """Return why wandb's server takes no run, or an empty string; wandb itself would try for a minute."""
    address = _find_server()
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
