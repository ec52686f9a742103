"""wandb: a run of a command, in one group with all that train folds of the same run."""

import logging
import netrc
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

from src.checkpointing.run_folder import RunFolder
from src.files import save_text
from src.terminal import warn

_SERVER = "api.wandb.ai"
_ANSWER_SECONDS, _START_SECONDS, _END_SECONDS = 5, 30, 60  # to wait for wandb's server
_MOST_BYTES = 5_000_000  # of a page that is logged


class WandbTracker:
    """Online with a key, else offline. fold<k>/<column of log.csv> over epoch, mean/<column> at the end."""

    def __init__(self, config):
        modes = ["online", "offline"] if _has_key() else ["offline"]
        if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
            modes = [os.environ["WANDB_MODE"]]
        elif "online" in modes and (reason := _why_silent()):
            modes = ["offline"]
            warn(f"wandb: {reason}; this run is tracked offline; wandb sync sends it later")
        if "online" not in modes:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which it would send to a server that hangs
        self._config, self._folder, self._run = config, RunFolder(config.run_folder), None
        for mode in modes:
            try:
                self._run = _start(mode, config)
                break
            except Exception:
                if mode == modes[-1]:
                    raise

    def log_epoch(self, fold, log):
        row = {name: value for name, value in log[-1].items() if value is not None}
        self._run.log({f"fold{fold}/{name}" if name != "epoch" else name: value for name, value in row.items()})

    def end_fold(self, logs, mean):
        """Show the folds' validation scores and their mean so far in one chart."""
        if len(logs) > 1:
            lines = {f"fold {number}": log.set_index("epoch") for number, log in logs.items()} | {"mean": mean}
            curves = [line["val_score"].tolist() for line in lines.values()], list(lines)
            epochs = [line.index.tolist() for line in lines.values()]
            self._run.log({"folds": wandb.plot.line_series(epochs, *curves, title="val_score", xname="epoch")})

    def finish(self, logs, mean, scores, report):
        """Log the mean curves, the report, its worst images as a table and, with track_checkpoints, the weights."""
        self._run.summary.update(scores)
        try:
            self._log_files(logs, mean, report)
        finally:
            self._run.finish()
        folder = Path(self._run.settings.sync_dir)
        if self._run.settings._offline and list(folder.glob("*.wandb")):
            print(f"wandb sync {shlex.quote(os.path.relpath(folder))}")

    def _log_files(self, logs, mean, report):
        for epoch, row in mean.iterrows() if len(logs) > 1 else ():
            self._run.log({"epoch": epoch} | {f"mean/{name}": value for name, value in row.items()})
        files = {f"report/{name}": wandb.Image(file) for name, file in report.get("figures", {}).items()}
        if worst := [one for one in report.get("worst", ()) if one["picture"]]:
            files["worst"] = _build_table(worst)
        if report and report["page"].stat().st_size <= _MOST_BYTES:
            files["report/page"] = wandb.Html(report["page"].read_text(encoding="utf-8"), inject=False)
        if files:
            self._run.log(files)
        if self._config.track_checkpoints:
            self._log_weights()

    def _log_weights(self):
        """Log what infer.py needs of the run as one artifact."""
        artifact = wandb.Artifact(re.sub("[^A-Za-z0-9_.-]", "_", self._run.group)[:128], type="model")
        folds = [*self._folder.finished_folds(), self._folder.fold("all")]
        for path in (path for fold in folds for path in (fold.meta, fold.weights(self._config.train.select))):
            if path.is_file():
                artifact.add_file(path, name=path.relative_to(self._folder.path).as_posix())
        for path in (self._folder.config, self._folder.folds, self._folder.oof, self._folder.scores):
            if path.is_file():
                artifact.add_file(path)
        self._run.log_artifact(artifact)


def _build_table(worst):
    targets, probs = list(worst[0]["targets"]), list(worst[0]["probs"])
    names = ["id", "fold", "image", "loss", *(f"target {name}" for name in targets), *probs]
    table = wandb.Table(columns=names)
    for one in worst:
        image, numbers = wandb.Image(one["picture"]), (*one["targets"].values(), *one["probs"].values())
        table.add_data(one["id"], one["fold"], image, one["loss"], *numbers)
    return table


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
    run.define_metric("fold*", step_metric="epoch")
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
