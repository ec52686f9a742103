"""A run folder -> every fold's network over each test batch once -> submission.csv."""

import math
import shlex
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.checkpointing.run_folder import RunFolder, describe_changes
from src.checkpointing.serialization import load_network
from src.competition.folds import count_folds
from src.competition.image_files import check_not_empty
from src.competition.predictions import save_predictions, save_test_score
from src.competition.submission import asks_for_labels, check_sample, load_sample, write_submission
from src.competition.tables import load_solution, load_test_table
from src.config.load import load_saved_config
from src.config.settings import seconds_of
from src.data.dataset import ImageDataset, build_loader
from src.data.scan import find_unreadable
from src.data.transforms import build_resize
from src.device import resolve_device, set_switches, share_cores
from src.errors import UserError, first_line, listing
from src.evaluation.calibration import CALIBRATIONS
from src.evaluation.metrics import build_metric
from src.evaluation.out_of_fold import load_out_of_fold, pool_rows
from src.evaluation.thresholds import read_decision
from src.files import delete_unfinished, load_json, make_folder
from src.inference.parts import Predictions, Processes, choose_part_rows, open_parts, predict_parts
from src.inference.time_budget import predict_in_time
from src.inference.tta import VIEWS, build_views, check_weights
from src.locks import hold_output
from src.model.losses import probabilities
from src.report import write_report
from src.terminal import paint, warn
from src.training.engine import advise_on_nan, apply_view, predict, to_device
from src.training.execution import recall_precision

_WRITING = 5e-6  # seconds that a number of a written table takes


def infer_run(config, run_folder, began=None):
    """Predict the test images with all finished folds of a run; write submission.csv and fold<k>/test.csv.

    The config is the run's own, with infer.* as wanted now; infer.time_budget counts from `began` of time.monotonic,
    None: from now. Returns the ensemble's score where the competition has a solution, else None.
    """
    began = time.monotonic() if began is None else began
    ends_at = began + (seconds_of(config.infer.time_budget) or math.inf)
    saved_config, folder, competition = load_saved_config(run_folder), RunFolder(run_folder), config.competition
    folds = find_folds(folder, config.infer.folds)
    target_names, stamps = folds[0].load_target_names(), _stamp(config, folds)
    device = resolve_device(config.device)
    set_switches(device, config.device_kwargs)
    num_workers, guard = share_cores(device, config.train.num_workers, config.threads)
    config = replace(config, precision=recall_precision(folder, config, device))
    sample = load_sample(competition)
    table = load_test_table(competition, target_names, folder.load_encoding(competition))
    output = make_folder(config.infer.output or run_folder, "infer.output")  # Kaggle's input cannot be written
    print(*table.notes, sep="\n", end="\n" if table.notes else "")
    if sample is not None:
        check_sample(sample, competition, table, target_names)  # before the hours that predictions may take
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    ids = table.ids if table.units is None else np.unique(table.units)
    if takes_labels := asks_for_labels(sample, competition, target_names, metric, ids):
        _check_settings_of_labels(config.infer)
    views = build_views(config.infer.tta, config.image_size)
    check_weights(config.infer.tta_weights, views)
    calibrate = _fit_calibration(config, folder)
    shown = _describe_folds(folds, count_folds(folder.folds))
    print(f"{run_folder}: {len(table)} test images x {shown} x {1 + len(views)} views")
    processes, written = Processes(), RunFolder(output)
    part_rows = choose_part_rows(config, len(table), len(folds) * len(target_names), processes.count)
    writing = _WRITING * (1 + len(folds)) * len(table) * (1 + len(target_names)) + 0.2
    at_least = time.monotonic() + (time.monotonic() - began) / 10  # where the start has used all, it is late anyway
    how = {"after_batch": guard.after_step, "ends_at": max(ends_at - writing, at_least)}
    with ExitStack() as held:
        if part_rows and processes.rank == 0:
            held.enter_context(hold_output(output))
        how |= {"folder": written.parts, "part_rows": part_rows, "stamps": stamps}
        predictions, counted = _predict_table(config, folds, table, views, device, num_workers, processes, **how)
        if not processes.end():
            return None
        average = predictions.average(config.infer.average, calibrate)
        if not part_rows:
            held.enter_context(hold_output(output))
        changes = describe_changes(saved_config, load_saved_config(run_folder))
        if changes or (folds[0].is_finished() and stamps != _stamp(config, folds)):  # they belong to no other run
            raise UserError(f"{run_folder}: was overwritten meanwhile; repeat the command when it is trained")
        written_folds = [written.fold(fold.number) for fold in counted]
        for one in (written, *written_folds):
            delete_unfinished(one.path)
        decision = _load_decision(folder, target_names, competition) if takes_labels else None
        if table.units is not None:
            ids, average = pool_rows(table.units, average, competition.predict_with)
        write_submission(written.submission, sample, competition, ids, average, target_names, decision)
        for number, fold in enumerate(written_folds):
            save_predictions(fold.test, table, predictions.blocks(slice(number, number + 1)))
        for fold in folds:
            if fold not in counted:  # what an earlier command wrote is no part of this submission
                written.fold(fold.number).test.unlink(missing_ok=True)
        predictions.delete()
    print(f"{written.submission}: {len(ids)} rows, checked")
    score = None
    if (solution := load_solution(competition, table, ids)) is not None:
        how = {"groups": table.groups if table.units is None else None, "decision": decision, "networks": len(counted)}
        score, line = save_test_score(written.test_score, metric, solution, average, **how)
        print(paint(line, "bold"))
    most = {} if math.isinf(ends_at) else {"seconds": max(0.0, ends_at - time.monotonic())}
    if path := write_report(config, run_folder, written.path / "report.html", **most):
        print(path)
    if sample is not None and solution is None and written.path == Path(run_folder):
        print(f"next: python -m tools.kaggle submit {shlex.quote(str(run_folder))}")
    return score


def _check_settings_of_labels(infer):
    if infer.average == "rank":
        raise UserError("infer.average=rank: the sample asks for a class, which needs means; set infer.average=mean")
    if infer.calibration != "none":
        raise UserError(f"infer.calibration={infer.calibration}: the sample asks for labels; leave it out")


def _describe_folds(folds, num_folds):
    count = sum(fold.number != "all" for fold in folds)
    parts = [f"{count} folds" if count == num_folds else f"{count} of {num_folds} folds"] if count else []
    return " and ".join([*parts, "foldall"] if count < len(folds) else parts)


def _predict_table(
    config, folds, table, views, device, num_workers, processes, after_batch, ends_at, folder, part_rows, stamps
):
    """Return (Predictions, in parts where there are part_rows, the folds that count)."""
    competition, rows = config.competition, processes.share(lambda: _find_readable(config, table))
    start, networks = time.monotonic(), []
    for fold in folds:
        if networks and time.monotonic() - start > ends_at - time.monotonic():
            break  # loading has taken half of the time that there was
        networks.append(load_network(config, fold).place(device, config.train.channels_last))
    known = table if len(rows) == len(table) else table.take(rows)
    dataset = ImageDataset(known, competition, build_resize(config), config.seed)
    if views:
        check_views(networks[0], views.values(), build_loader(dataset, 1, num_workers=0), config)
    to_probs = partial(probabilities, task=competition.task)
    if config.infer.engine != "torch":
        from src.inference.engines import accelerate  # here, as few need it

        networks = accelerate(networks, config.infer.engine, to_probs)
    how = {"views": tuple(views.values()), "weights": config.infer.tta_weights or None, "after_batch": after_batch}
    check = partial(_check_finite, folds[0].path.parent, config.precision)

    def predict_all(loader, title="test"):
        return check(predict(networks, loader, to_probs, config.precision, title=title, **how)[1])

    if part_rows:
        parts = open_parts(folder, processes, config, folds, table, rows, part_rows, device)
        if stamps != _stamp(config, folds):  # else parts of the old ones would count as new
            raise UserError(f"{folds[0].path.parent}: its weights changed while they were loaded; repeat the command")
        predict_parts(parts, processes, dataset, num_workers, config.eval_batch_size, predict_all)
        return parts, folds
    loader = build_loader(dataset, config.eval_batch_size, num_workers)
    if math.isinf(ends_at):
        probs = predict_all(loader)
    else:
        found = predict_in_time(networks, loader, to_probs, config.precision, ends_at, title="test", **how)
        probs, rows = check(found.probs), rows[found.index]
        _print_dropped(config.infer, found, folds, views, loader.num_images)
        folds = [folds[number] for number in found.networks]
    loader.close()
    return Predictions(probs, rows, len(table)), folds


def _stamp(config, folds):
    """Return what changes with the folds' weights."""
    paths = [fold.weights(config.train.select) for fold in folds]
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.exists()]


def _find_readable(config, table):
    """Return the rows, int, whose image can be read: all, or with unreadable=skip those that can be decoded."""
    if config.unreadable != "skip":
        check_not_empty(table)
        return np.arange(len(table))
    unread = find_unreadable(table.paths, config.competition)
    for row, reason in unread:
        print(f"{table.ids[row]}: gets the mean prediction ({reason})")
    return np.delete(np.arange(len(table)), [row for row, _ in unread])


def _check_finite(run_folder, precision, probs):
    if not np.isfinite(probs).all():
        raise UserError(f"{run_folder}: predictions are nan; {advise_on_nan(precision, 'train it again')}")
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


def _load_decision(folder, target_names, competition):
    """Return the Decision by which train.py's out-of-fold predictions say that labels are written."""
    scores = load_json(folder.scores) if folder.scores.is_file() else {}
    if competition.separator and "thresholds" not in scores:
        print(f"{folder.scores}: holds no thresholds, so a label is written from a probability of 0.5 on")
    decision = read_decision(scores, target_names, competition.task, may_be_none=not competition.separator)
    if scores.get("are_found"):
        print(f"labels by the thresholds of {folder.scores}")
    return decision


@torch.inference_mode()
def check_views(network, views, loader, config):
    """Try every view, a function, on one row: some networks take images of one size only."""
    plain = network.normalize(to_device(next(loader.batches(0))["inputs"], network.pixel_mean.device))
    if error := next(filter(None, (_find_error(network, apply_view(view, plain)) for view in views)), None):
        errors = {name: [_find_error(network, apply_view(one, plain)) for one in its] for name, its in VIEWS.items()}
        taken = [name for name, found in errors.items() if not any(found)]
        advice = f"it takes {', '.join(taken)}" if taken else "set infer.tta=[]"
        reason = f"{config.model.backbone} cannot take it ({first_line(error)})"
        raise UserError(f"infer.tta={config.infer.tta}: {reason}; {advice}")


def _find_error(network, inputs):
    try:
        network(**inputs)
    except (RuntimeError, AssertionError) as error:
        return error
    return None
