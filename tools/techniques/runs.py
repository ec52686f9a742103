"""Trains the runs of a study, each an ordinary run folder; the table is computed from their scores.json alone."""

import contextlib
import math
import re
import shlex
import sys
import time
import traceback

import numpy as np

from src.checkpointing.run_folder import RunFolder, describe_changes
from src.config.load import load_saved_config
from src.errors import UserError, first_line
from src.files import load_json
from tools.techniques.study import BASE, differs
from tools.techniques.table import format_score, save_tables


def run_study(study):
    """Train what is not finished, technique after technique, and save the table after each; return how many crashed."""
    reasons, progress, num_crashed, num_saved = {}, _Progress(study), 0, 0
    for technique in study.techniques:
        for seed in study.seeds:
            reason = reasons.get(technique.against, "")
            if not reason or reason.startswith("already"):
                reason = _train_if_needed(study, technique, seed, progress)
            if reason:
                reasons[technique.name] = reason
                progress.skip(technique, reason)
                if technique is BASE:
                    raise UserError(f"the base: {reason}; its output is in {study.output / 'log.txt'}")
                break
        num_crashed += reasons.get(technique.name, "").startswith("crashed")
        if len(progress.seconds) > num_saved or technique is study.techniques[-1]:  # a table of all takes a second
            num_saved = len(progress.seconds)
            save_tables(study, reasons)
    return num_crashed


def _train_if_needed(study, technique, seed, progress):
    """Train one run unless it is finished; return why it cannot be trained, or None."""
    try:
        config = study.config_of(technique, seed)
    except UserError as error:
        return f"not on this competition: {error}"
    reference = None if technique is BASE else study.reference_of(technique)
    if reference and not differs(config, study.config_of(reference, seed)):
        return f"already in {'the base' if reference is BASE else reference.name}"
    is_new = not is_finished(config)
    began = time.perf_counter()
    if is_new:
        from src.training.run import train_run  # here, since torch takes seconds and a typo should not

        study.output.mkdir(parents=True, exist_ok=True)
        with open(study.output / "log.txt", "a", encoding="utf-8") as log:
            try:
                with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                    words = shlex.join(study.words_of(technique))
                    print(f"\n== {technique.name}, seed {seed}: python train.py {words}")
                    _predict_with_teacher(config)
                    train_run(config)
            except UserError as error:
                is_result = re.search(r"loss is|predictions are nan", str(error))
                return f"diverged: {error}" if is_result else f"not on this competition: {error}"
            except Exception as error:  # one technique must not end the study, whose exit status is 1 then
                traceback.print_exc(file=log)
                return f"crashed: {type(error).__name__}: {first_line(error)}"
    progress.count_run(technique, seed, config, time.perf_counter() - began if is_new else None)
    return None


def _predict_with_teacher(config):
    """Have the run that labels the test images for another predict them."""
    if config.train.pseudo and not RunFolder(config.train.pseudo).fold(0).test.is_file():
        from src.inference.predict import infer_run  # here, as above

        infer_run(load_saved_config(config.train.pseudo), config.train.pseudo)


def is_finished(config):
    """Whether the config's run exists, complete and scored.

    Raises:
        UserError: it exists with other settings.
    """
    folder = RunFolder(config.run_folder)
    if not folder.scores.is_file():
        return False
    saved = load_saved_config(folder.path)
    if changes := describe_changes(saved, config):
        raise UserError(f"{folder.path}: trained with other settings: {changes}; choose another output=FOLDER")
    return saved.fold == config.fold


class _Progress:
    """Prints a line for each run, with the time left."""

    def __init__(self, study):
        self._num_seeds = len(study.seeds)
        self._total = len(study.techniques) * self._num_seeds
        self._done, self.seconds = 0, []

    def count_run(self, technique, seed, config, seconds):
        """Count a run; seconds None: it was finished before."""
        self._done += 1
        if seconds is None:
            return
        self.seconds.append(seconds)
        score = load_json(RunFolder(config.run_folder).scores)["mean"]
        minutes = math.ceil(np.mean(self.seconds[-30:]) * (self._total - self._done) / 60)
        text = f"{technique.name} seed {seed}: {format_score(score)} ({seconds:.1f} s), about {minutes} min left"
        print(f"{self._done}/{self._total} {text}", file=sys.stderr, flush=True)

    def skip(self, technique, reason):
        """Count all of a technique's seeds."""
        self._done = -(-(self._done + 1) // self._num_seeds) * self._num_seeds
        print(f"{self._done}/{self._total} {technique.name}: {reason}", file=sys.stderr, flush=True)
