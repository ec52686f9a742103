"""Run folders: which is the newest, whose settings they hold, and what may change between two commands on one."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from src.config.help import as_word
from src.config.load import config_yaml, load_saved_config
from src.config.settings import settings, value_of
from src.errors import UserError, listing
from src.files import delete_unfinished, save_text

# Settings that do not change what is trained, so that two commands on one run folder may differ in them.
_HOW_IT_RUNS = (
    *("fold", "device", "tracking", "overwrite", "output_dir", "unreadable", "cache", "cache_dir"),
    *("checkpoint_minutes", "time_budget", "keep_checkpoints"),
    *("train.num_workers", "competition.root"),
)

_CLOCK_SECONDS = 60  # by which the clocks of two machines that share a disk may differ

# Settings that infer.py may change: besides infer.*, where the files are now and how it runs.
_AT_INFERENCE = (
    *("device", "precision", "unreadable", "output_dir", "train.num_workers"),
    *(f"competition.{name}" for name in ("root", "test_table", "test_image", "sample_submission", "solution")),
)


def find_newest_run(output_dir="outputs"):
    """Return the run folder whose last finished fold is the newest; where none is finished, of those that are begun.

    Raises:
        UserError: there is no run, or the clock was set back since, so that none is the newest.
    """
    folder = Path(output_dir)
    paths = [*folder.glob("*/fold*/meta.json")] or [*folder.glob("*/fold*/val.csv")]
    if not paths:
        raise UserError(f"{output_dir}: no run with a finished fold; train one with python train.py")
    when, path = max((path.stat().st_mtime, path) for path in paths)
    newer = {one.parent.parent for one in folder.glob("*/fold*/val.csv") if one.stat().st_mtime > when}
    for run in sorted(run for run in newer if not any(run.glob("fold*/meta.json"))):
        print(f"{run}: newer, but no fold is finished; run={run} takes its best epoch so far")
    if when > time.time() + _CLOCK_SECONDS:
        raise UserError(f"{path}: is from the future, as if the clock had been set back; say which run with run=FOLDER")
    return path.parent.parent


def load_run(words):
    """Read an inference command line; return (run folder, the run's config with the words' changes).

    Args:
        words: run=FOLDER (left out: the newest run) and key=value words that inference may change.

    Raises:
        UserError: no such run, or a word that training decided for good.
    """
    if bare := next((word for word in words if "=" not in word), None):
        raise UserError(f"command line: {bare!r} is not key=value; write run={bare}, or for example infer.tta=hflip")
    chosen = dict(word.partition("=")[::2] for word in words)
    folder = chosen.get("run") or find_newest_run(chosen.get("output_dir", "outputs"))
    words = [word for word in words if not word.startswith("run=")]
    config = load_saved_config(folder, words)
    for key in chosen:
        if key != "run" and not key.startswith("infer.") and key not in _AT_INFERENCE:
            raise UserError(
                f"command line: {key} was decided when {folder} was trained; infer.py takes run=, infer.* and "
                f"{listing(_AT_INFERENCE, 20)}"
            )
    return Path(folder), config


def open_run(config, is_busy=False):
    """Make the config's run folder, or check that what is there was trained with the same settings.

    Call it when all else is known to be right: with overwrite=true a run that is there is deleted. A folder in which
    nothing was trained yet, as a first command with a mistake leaves it, takes any settings.

    Args:
        is_busy: another process trains some of the run's folds now.

    Raises:
        UserError: the folder is no run, or holds one with other settings.
    """
    folder = config.run_folder
    delete_unfinished(folder)
    aside = folder.parent / ".deleted" / folder.name
    shutil.rmtree(aside, ignore_errors=True)  # what a kill has left of an earlier one
    is_run = (folder / "config.yaml").is_file()
    if folder.exists() and not is_run and any(folder.iterdir()):
        raise UserError(f"{folder}: is there already and is not a run; choose name=ANOTHER")
    if is_run and config.overwrite:
        _delete(folder, aside)
    elif is_run and (is_busy or has_work(folder)):
        saved = load_saved_config(folder)
        if changes := describe_changes(saved, config):
            raise UserError(f"{folder}: trained with other settings: {changes}; choose name=ANOTHER or overwrite=true")
    save_text(folder / "config.yaml", config_yaml(config))


def _delete(folder, aside):
    """Delete a run, as a whole: it is moved aside first, so that a kill leaves no part of it in its place."""
    aside.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder.rename(aside))
    with suppress(OSError):  # another run is on its way out
        aside.parent.rmdir()


def has_work(folder):
    """Whether a run folder holds a finished fold or a part of one."""
    return any(folder.glob("fold*/meta.json")) or any(folder.glob("fold*/state_*.pt"))


def describe_changes(saved, config):
    """Say what a config would train otherwise than the saved one: "optimizer.lr=0.5 (was 0.1), ..."; "": nothing."""
    keys = differing_settings(saved, config)
    words = {key: [as_word(value_of(one, key)) for one in (config, saved)] for key in keys}
    return listing([f"{key}={now} (was {before})" for key, (now, before) in words.items()], 4)


def differing_settings(one, other):
    """Return the keys of two configs' different settings, among those that change what is trained."""
    keys = (key for key in settings() if key not in _HOW_IT_RUNS and not key.startswith("infer."))
    return [key for key in keys if value_of(one, key) != value_of(other, key)]
