"""The folder of a run: the names of its files, which run is the newest, and what two commands on it may differ in."""

import csv
import shutil
import time
from contextlib import suppress
from pathlib import Path

from src.config.help import as_word
from src.config.load import config_yaml, load_saved_config
from src.config.settings import settings, value_of
from src.errors import UserError, listing
from src.files import delete_unfinished, load_json, save_text

_HOW_IT_RUNS = (  # settings that do not change what is trained: two commands on one run folder may differ in them
    *("name", "fold", "device", "device_kwargs", "tracking", "overwrite", "output_dir", "unreadable", "cache"),
    *("checkpoint_minutes", "time_budget", "keep_checkpoints", "threads", "train.num_workers", "competition.root"),
    *("launcher", "ray_address", "report", "track_checkpoints", "cache_dir"),
    *("competition.predict_by", "competition.predict_with"),
)
_AT_INFERENCE = (  # settings that infer.py may change beside infer.*: where the files are and how it runs
    *("device", "device_kwargs", "precision", "threads", "unreadable", "output_dir", "train.num_workers", "report"),
    *(f"competition.{name}" for name in ("root", "test_table", "test_image", "sample_submission", "solution")),
    *("competition.predict_by", "competition.predict_with"),
)


class FoldFolder:
    """The files of one fold."""

    def __init__(self, path):
        self.path, number = Path(path), Path(path).name.removeprefix("fold")
        self.number = number if number == "all" else int(number)  # all: trained on every row, it has no val.csv
        self.log = self.path / "log.csv"  # a row per epoch
        self.val = self.path / "val.csv"  # validation predictions of the epoch that counts
        self.test = self.path / "test.csv"  # test predictions
        self.meta = self.path / "meta.json"  # epochs and scores; the fold is finished
        self.wandb_id = self.path / "wandb_id"  # of the fold that a command trains alone
        self.printed = self.path.with_suffix(".log")  # by the process that a launcher started for it

    def weights(self, select):
        """Return the path of the weights that count: best.safetensors or last.safetensors, as train.select says."""
        return self.path / f"{select}.safetensors"

    def epoch_weights(self, epoch):
        """Return the path of one epoch's weights, which are there until train.average=soup has used them."""
        return self.path / f"epoch{epoch}.safetensors"

    def state(self, epoch, num_batches):
        """Return the path of the state after `epoch` epochs and `num_batches` batches of the next."""
        return self.path / f"state_{epoch:04d}_{num_batches:06d}.pt"

    def states(self):
        """Return the paths of all states, the newest last."""
        paths = self.path.glob("state_*[0-9]_*[0-9].pt")  # no copies that a person has named
        return sorted(paths, key=lambda path: [int(part) for part in path.stem.split("_")[1:]])

    def is_finished(self):
        """Whether the fold is trained to its end."""
        return self.meta.is_file()

    def load_target_names(self):
        """Return the names of the targets that the fold predicts, tuple of str; it has finished an epoch."""
        if self.is_finished():
            return tuple(load_json(self.meta, "target_names")["target_names"])
        with open(self.val, encoding="utf-8", newline="") as file:
            return tuple(next(csv.reader(file))[1:])

    def delete_states(self):
        """Delete what a finished fold no longer needs."""
        for path in (*self.states(), *self.path.glob("epoch*.safetensors")):
            path.unlink(missing_ok=True)


class RunFolder:
    """The files of one run; infer.py's may lie in another folder, infer.output."""

    def __init__(self, path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"  # every setting, as it was asked for
        self.folds = self.path / "folds.csv"  # each row's fold and targets
        self.metadata = self.path / "metadata.json"  # how competition.metadata's columns become numbers
        self.oof = self.path / "oof.csv"  # out-of-fold predictions
        self.scores, self.submission = self.path / "scores.json", self.path / "submission.csv"
        self.submission_hash = self.path / "submission.sha256"  # of the submission as it was written
        self.probe, self.test = self.path / "probe.json", self.path / "test.csv"
        self.made_by = self.probe if self.probe.is_file() else self.path / "blend.json"  # by a tool that trains no fold
        self.soup = self.path / "soup.json"  # of tools.soup, whose folds are means of other runs' weights
        self.unreadable = self.path / "unreadable.csv"  # images that unreadable=skip leaves out
        self.pixel_stats = self.path / "pixel_stats.json"  # mean and std for normalize=dataset
        self.execution = self.path / "execution.json"  # precision and place of augmentation, by device
        self.wandb_id = self.path / "wandb_id"  # of a command that trains all folds
        self.tensorboard = self.path / "tensorboard"  # event files: a folder for each fold, and for their mean
        self.pictures = self.path / "pictures"  # the report's figures and worst images, of a run that is tracked
        self.report_images = self.path / ".report_images.json"  # on the page, kept for the page after infer.py
        self.provenance = self.path / "provenance.json"  # the code, versions, machine and tables it was made with
        self.parts = self.path / "parts"  # predictions of an infer.py that has not ended
        self.test_score = self.path / "test_score.json"  # of infer.py, where the test labels are known
        self.submitted = self.path / "submitted.json"  # the host's scores (tools.leaderboard), files sent (kaggle)

    def fold(self, number):
        """Return the FoldFolder of a fold's number, or of "all", whether it exists or not."""
        return FoldFolder(self.path / f"fold{number}")

    def finished_folds(self):
        """Return the FoldFolders of the finished folds, by name."""
        return [FoldFolder(path.parent) for path in sorted(self.path.glob("fold[0-9]*/meta.json"))]

    def started_folds(self):
        """Return the FoldFolders that have done an epoch, by name."""
        return [FoldFolder(path.parent) for path in sorted(self.path.glob("fold*/val.csv"))]

    def load_encoding(self, competition):
        """Return the encoding, see competition.metadata, that the run was trained with; of a blend ()."""
        if not competition.metadata or self.made_by.is_file():
            return ()
        if not self.metadata.is_file():
            raise UserError(f"{self.metadata}: no such file; copy it from where the run was trained")
        return tuple(load_json(self.metadata, "columns")["columns"])

    def has_work(self):
        """Whether it holds a finished fold or a state of one."""
        return any(self.path.glob("fold*/meta.json")) or any(self.path.glob("fold*/state_*.pt"))


def find_newest_run(output_dir="outputs"):
    """Return the path of the run whose last finished fold is the newest; without any, of those that have started."""
    folder = Path(output_dir)
    paths = [*folder.glob("*/fold*/meta.json")] or [*folder.glob("*/fold*/val.csv")]
    if not paths:
        raise UserError(f"{output_dir}: no run with a finished fold; train one with python train.py")
    when, path = max((path.stat().st_mtime, path) for path in paths)
    newer = {one.parent.parent for one in folder.glob("*/fold*/val.csv") if one.stat().st_mtime > when}
    for run in sorted(run for run in newer if not any(run.glob("fold*/meta.json"))):
        print(f"{run}: newer, but no fold is finished; run={run} uses its last saved epoch")
    if when > time.time() + 60:  # the clocks of two machines that share a disk may differ
        raise UserError(f"{path}: its time lies in the future (the clock was set back); name the run with run=FOLDER")
    return path.parent.parent


def load_run(words):
    """Read infer.py's command line; return (path of the run, or of the newest, its config with the words' changes)."""
    if bare := next((word for word in words if "=" not in word), None):
        raise UserError(f"command line: {bare!r} is not key=value; write run={bare}, or for example infer.tta=hflip")
    chosen = dict(word.partition("=")[::2] for word in words)
    folder = chosen.get("run") or find_newest_run(chosen.get("output_dir", "outputs"))
    if (made_by := RunFolder(folder).made_by).is_file():
        advice = "infer its runs, then" if made_by.stem == "blend" else "for new test predictions"
        command = load_json(made_by, "command")["command"]
        raise UserError(f"{folder}: is a {made_by.stem}; {advice} repeat {command} overwrite=true")
    config = load_saved_config(folder, [word for word in words if not word.startswith("run=")])
    for key in chosen:
        if key != "run" and not key.startswith("infer.") and key not in _AT_INFERENCE:
            advice = f"infer.py takes run=, infer.* and {listing(_AT_INFERENCE, 20)}"
            raise UserError(f"command line: {key} was decided when {folder} was trained; {advice}")
    return Path(folder), config


def open_run(config, is_busy=False):
    """Make the config's run folder, or check that the run in it has the same settings; overwrite=true deletes it.

    Call it last, when all else is known to be right. A folder in which nothing was trained yet takes any settings: a
    first command may have had a mistake. `is_busy`: another process trains some of the run's folds now.
    """
    run = RunFolder(config.run_folder)
    folder, is_run = run.path, run.config.is_file()
    delete_unfinished(folder)
    aside = folder.parent / ".deleted" / folder.name
    shutil.rmtree(aside, ignore_errors=True)  # a kill may have left it
    if folder.exists() and not is_run and any(folder.iterdir()):
        raise UserError(f"{folder}: exists and is not a run; choose name=ANOTHER")
    if run.made_by.is_file() and not config.overwrite:
        raise UserError(f"{folder}: is a {run.made_by.stem}; choose name=ANOTHER or overwrite=true")
    if is_run and config.overwrite:
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(folder.rename(aside))  # moved first, so that a kill leaves no half of it in its place
        with suppress(OSError):  # another process deletes a run there
            aside.parent.rmdir()
    elif is_run and (is_busy or run.has_work()) and (changes := describe_changes(load_saved_config(folder), config)):
        raise UserError(f"{folder}: trained with other settings: {changes}; choose name=ANOTHER or overwrite=true")
    save_text(run.config, config_yaml(config))


def describe_changes(saved, config):
    """Return how a config's training differs from the saved one: "optimizer.lr=0.5 (was 0.1), ..."; "": it does not."""
    keys = differing_settings(saved, config)
    words = {key: [as_word(value_of(one, key)) for one in (config, saved)] for key in keys}
    return listing([f"{key}={now} (was {before})" for key, (now, before) in words.items()], 4)


def differing_settings(one, other):
    """Return the keys of two configs' different settings, among those that change what is trained."""
    return [key for key in training_settings() if value_of(one, key) != value_of(other, key)]


def training_settings():
    """Return the keys of the settings that change what is trained."""
    return [key for key in settings() if key not in _HOW_IT_RUNS and not key.startswith("infer.")]
