"""A run folder -> every fold's network over each test batch once -> submission.csv."""

import math
import shlex
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import torch

from src.checkpointing.run_folder import RunFolder, describe_changes
from src.checkpointing.serialization import load_network
from src.competition.folds import count_folds
from src.competition.image_files import check_image_files
from src.competition.predictions import TestSet, save_predictions
from src.competition.submission import check_sample, load_sample
from src.competition.tables import load_test_table
from src.config.load import load_saved_config
from src.config.settings import seconds_of
from src.data.dataset import ImageDataset, build_loader
from src.data.scan import find_unreadable
from src.data.transforms import build_resize
from src.device import resolve_device, set_switches, share_cores
from src.errors import UserError, first_line, listing
from src.evaluation.calibration import CALIBRATIONS
from src.evaluation.metrics import build_metric
from src.evaluation.out_of_fold import load_out_of_fold
from src.files import delete_unfinished, load_json, make_folder
from src.inference.engines import accelerate
from src.inference.ensemble import Predictions
from src.inference.prediction_parts import choose_part_rows, open_parts, predict_parts
from src.inference.time_budget import predict_in_time
from src.inference.tta import VIEWS, build_views, check_weights
from src.locks import hold_output
from src.model.losses import probabilities
from src.report import write_report
from src.terminal import paint, warn
from src.training.engine import advise_on_nan, apply_view, predict, to_device
from src.training.execution import recall_precision
from src.training.processes import from_main, start_processes, wait_at_most

_WRITING = 5e-6  # seconds that a number of a written table takes


class Inference:
    """What is settled and checked before the hours that predictions may take: folds, test set, and how it runs."""

    def __init__(self, config, run_folder):
        self.run, competition = RunFolder(run_folder), config.competition
        self.folds, self._saved_config = find_folds(self.run, config.infer.folds), load_saved_config(run_folder)
        target_names, self.is_trained = self.folds[0].load_target_names(), self.folds[0].is_finished()
        self._stamps = _stamp(config, self.folds)
        self.device = resolve_device(config.device)
        set_switches(self.device, config.device_kwargs)
        self.num_workers, self.guard = share_cores(self.device, config.train.num_workers, config.threads)
        self.config = replace(config, precision=recall_precision(self.run, config, self.device))
        sample = load_sample(competition)
        table = load_test_table(competition, target_names, self.run.load_encoding(competition))
        self.output = RunFolder(make_folder(config.infer.output or run_folder, "infer.output"))
        print(*table.notes, sep="\n", end="\n" if table.notes else "")
        if sample is not None:
            check_sample(sample, competition, table, target_names)
        metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
        self.test = TestSet(competition, metric, table, sample)
        if self.test.takes_labels and config.infer.average == "rank":
            found = "the sample asks for a class, which needs means"
            raise UserError(f"infer.average=rank: {found}; set infer.average=mean")
        if self.test.takes_labels and (calibration := config.infer.calibration) != "none":
            raise UserError(f"infer.calibration={calibration}: the sample asks for labels; leave it out")
        _ = self.test.targets  # which may be of other rows
        self.views = build_views(config.infer.tta, config.image_size)
        check_weights(config.infer.tta_weights, self.views)
        self.calibrate = _fit_calibration(config, self.run)
        shown = _describe_folds(self.folds, count_folds(self.run.folds))
        print(f"{run_folder}: {len(table)} test images x {shown} x {1 + len(self.views)} views")

    def check_loaded(self):
        """Check that the folds' weights are those of the beginning: parts of the old ones would count as new."""
        if self._stamps != _stamp(self.config, self.folds):
            raise UserError(f"{self.run.path}: its weights changed while they were loaded; repeat the command")

    def check_unchanged(self):
        """Check that the run was not trained anew meanwhile: the predictions would be of no run."""
        changes = describe_changes(self._saved_config, load_saved_config(self.run.path))
        if changes or (self.is_trained and self._stamps != _stamp(self.config, self.folds)):
            raise UserError(f"{self.run.path}: was overwritten meanwhile; repeat the command when it is trained")


def infer_run(config, run_folder, began=None):
    """Predict the test images with all finished folds of a run; write submission.csv and fold<k>/test.csv.

    The config is the run's own, with infer.* as wanted now; infer.time_budget counts from `began` of time.monotonic,
    None: from now. Returns the ensemble's score where the competition has a solution, else None.
    """
    began = time.monotonic() if began is None else began
    ends_at = began + (seconds_of(config.infer.time_budget) or math.inf)
    processes = start_processes(config, "cpu")  # they talk through gloo on any device
    wait_at_most(timedelta(days=30))  # the first may decode all images
    inference = Inference(config, run_folder)
    num_rows, num_targets = len(inference.test.table), len(inference.test.table.target_names)
    part_rows = choose_part_rows(config, num_rows, len(inference.folds) * num_targets, processes.num_processes)
    writing = _WRITING * (1 + len(inference.folds)) * num_rows * (1 + num_targets) + 0.2
    at_least = time.monotonic() + (time.monotonic() - began) / 10  # where the start has used all, it is late anyway
    with ExitStack() as held:
        if part_rows and processes.is_main_process:
            held.enter_context(hold_output(inference.output.path))
        predictions, counted = predict_folds(inference, part_rows, max(ends_at - writing, at_least))
        processes.wait_for_everyone()
        processes.destroy_process_group()
        if not processes.is_main_process:
            return None
        if not part_rows:
            held.enter_context(hold_output(inference.output.path))
        inference.check_unchanged()
        score = write_predictions(inference, predictions, counted)
    most = {} if math.isinf(ends_at) else {"seconds": max(0.0, ends_at - time.monotonic())}
    if path := write_report(config, run_folder, inference.output.path / "report.html", **most):
        print(path)
    if inference.test.sample is not None and score is None and inference.output.path == inference.run.path:
        print(f"next: python -m tools.kaggle submit {shlex.quote(str(run_folder))}")
    return score


def write_predictions(inference, predictions, counted):
    """Write the submission, and each network's own predictions; return the score or None, see TestSet.write.

    counted: the FoldFolders whose networks predict.
    """
    output, test = inference.output, inference.test
    average = predictions.average(inference.config.infer.average, inference.calibrate)
    written = [output.fold(fold.number) for fold in counted]
    for one in (output, *written):
        delete_unfinished(one.path)
    scores = _load_thresholds(inference.run, test.competition) if test.takes_labels else {}
    score, line = test.write(output, average, scores, networks=len(counted))
    for number, fold in enumerate(written):
        save_predictions(fold.test, test.table, predictions.blocks(slice(number, number + 1)))
    for fold in inference.folds:
        if fold not in counted:  # what an earlier command wrote is no part of this submission
            output.fold(fold.number).test.unlink(missing_ok=True)
    predictions.delete()
    print(f"{output.submission}: {len(test.ids)} rows, checked")
    if line:
        print(paint(line, "bold"))
    return score


def _describe_folds(folds, num_folds):
    count = sum(fold.number != "all" for fold in folds)
    parts = [f"{count} folds" if count == num_folds else f"{count} of {num_folds} folds"] if count else []
    return " and ".join([*parts, "foldall"] if count < len(folds) else parts)


def predict_folds(inference, part_rows, ends_at):
    """Return (Predictions, Parts of part_rows rows unless that is None, the folds that count by `ends_at`)."""
    config, folds, table = inference.config, inference.folds, inference.test.table
    rows = from_main(lambda: _find_readable(config, table))
    start, networks, parts, wanted = time.monotonic(), [], None, rows
    for fold in folds:
        if networks and time.monotonic() - start > ends_at - time.monotonic():
            break  # loading has taken half of the time that there was
        networks.append(load_network(config, fold).place(inference.device, config.train.channels_last))
    if part_rows:
        parts = open_parts(inference.output.parts, config, folds, table, rows, part_rows, inference.device)
        inference.check_loaded()
        if not (missing := parts.list_missing()):
            return parts, folds
        wanted = np.concatenate([rows[slice(*parts.spans[number])] for number in missing])
    known = table if len(wanted) == len(table) else table.take(wanted)
    dataset = ImageDataset(known, config.competition, build_resize(config), config.seed)
    if inference.views:
        check_views(networks[0], inference.views.values(), build_loader(dataset, 1, num_workers=0), config)
    to_probs = partial(probabilities, task=config.competition.task)
    networks = accelerate(networks, config.infer.engine, to_probs)
    how = {"views": tuple(inference.views.values()), "weights": config.infer.tta_weights or None}
    how |= {"after_batch": inference.guard.after_step}
    loader = build_loader(dataset, config.eval_batch_size, inference.num_workers)
    check = partial(_check_finite, inference.run, config.precision)

    def predict_all(loader, title="test"):
        return check(predict(networks, loader, to_probs, config.precision, title=title, **how)[1])

    if parts:
        predict_parts(parts, missing, loader, config.eval_batch_size, predict_all)
        predictions = parts
    elif math.isinf(ends_at):
        predictions = Predictions(predict_all(loader), rows, len(table))
    else:
        found = predict_in_time(networks, loader, to_probs, config.precision, ends_at, title="test", **how)
        predictions = Predictions(check(found.probs), rows[found.index], len(table))
        _print_dropped(config.infer, found, folds, inference.views, loader.num_images)
        folds = [folds[number] for number in found.networks]
    loader.close()
    return predictions, folds


def _stamp(config, folds):
    """Return what changes with the folds' weights."""
    paths = [fold.weights(config.train.select) for fold in folds]
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.exists()]


def _find_readable(config, table):
    """Return the rows, int, whose image can be read: all, or with unreadable=skip those that can be decoded."""
    if config.unreadable != "skip":
        check_image_files(table)
        return np.arange(len(table))
    unread = find_unreadable(table.paths, config.competition)
    for row, reason in unread:
        print(f"{table.ids[row]}: gets the mean prediction ({reason})")
    return np.delete(np.arange(len(table)), [row for row, _ in unread])


def _check_finite(run, precision, probs):
    if not np.isfinite(probs).all():
        raise UserError(f"{run.path}: predictions are nan; {advise_on_nan(precision, 'train it again')}")
    return probs


def _print_dropped(infer, found, folds, views, num_images):
    """Print what infer.time_budget has left out, if anything: views, folds, rows."""
    names, weights, budget = ["plain", *views], infer.tta_weights, infer.time_budget
    views = {number: name for number, name in enumerate(names) if not weights or weights[number]}
    dropped = [name for number, name in views.items() if number not in found.views]
    dropped += [fold.path.name for number, fold in enumerate(folds) if number not in found.networks]
    if dropped:
        kept = f"{len(found.networks)} of {len(folds)} folds x {len(found.views)} of {len(views)} views"
        seconds = f"all would have taken about {found.seconds:.3g} s"
        print(f"infer.time_budget={budget}: {kept} predict; {seconds}; left out: {listing(dropped, 20)}")
    if (num_done := len(found.index)) < num_images:
        lacks = f"its end came after {num_done} of {num_images} images"
        warn(f"infer.time_budget={budget}: {lacks}; the others get the mean prediction of these; give it more")


def find_folds(folder, which="folds"):
    """Return the FoldFolders to predict with: the finished ones, else those that have finished an epoch.

    which: folds, all (that of fold=all, which is also taken where there are no folds) or both.
    """
    finished, on_all = folder.finished_folds(), folder.fold("all")
    if on_all.is_finished() and (which == "all" or (not finished and which == "folds")):
        return [on_all]
    if which != "folds" and not (finished and on_all.is_finished()):
        lacks = "no fold is finished" if on_all.is_finished() else "fold=all is not trained to its end"
        raise UserError(f"infer.folds={which}: {lacks} in {folder.path}; train it, or set infer.folds=folds")
    if finished:
        return [*finished, on_all] if which == "both" else finished
    started = folder.started_folds()
    if not started:
        raise UserError(f"{folder.path}: no fold has finished an epoch; resume it with the command that trained it")
    names = ", ".join(fold.path.name for fold in started)
    print(f"{folder.path}: no fold is finished; the last saved epoch is used ({names})")
    return started


def _fit_calibration(config, folder):
    """Return the function of probabilities (N, C) that infer.calibration fits on the run's out-of-fold predictions."""
    if config.infer.calibration == "none":
        return lambda probs: probs
    run = load_out_of_fold(folder.oof, folder.folds)
    apply, words = CALIBRATIONS[config.infer.calibration](run.targets, run.probs, config.competition.task)
    print(f"calibration: {words}; fitted on {len(run.ids)} out-of-fold rows")
    return apply


def _load_thresholds(folder, competition):
    """Return what scores.json holds, by whose thresholds labels are written; {} where there is none."""
    scores = load_json(folder.scores) if folder.scores.is_file() else {}
    if competition.separator and "thresholds" not in scores:
        print(f"{folder.scores}: holds no thresholds, so a label is written from a probability of 0.5 on")
    if scores.get("are_found"):
        print(f"labels by the thresholds of {folder.scores}")
    return scores


@torch.inference_mode()
def check_views(network, views, loader, config):
    """Try every view, a function, on one row: some networks take images of one size only."""
    plain = network.normalize(to_device(next(loader.batches(0))["inputs"], network.pixel_mean.device))

    def find_error(views):
        for view in views:
            try:
                network(**apply_view(view, plain))
            except (RuntimeError, AssertionError) as error:
                return error
        return None

    if error := find_error(views):
        taken = [name for name, its in VIEWS.items() if not find_error(its)]
        advice = f"it takes {', '.join(taken)}" if taken else "set infer.tta=[]"
        reason = f"{config.model.backbone} cannot take it ({first_line(error)})"
        raise UserError(f"infer.tta={config.infer.tta}: {reason}; {advice}")
