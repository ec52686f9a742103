"""One run: folds in order, what is done is skipped, what came out is scored."""

import dataclasses
import os
from contextlib import ExitStack, nullcontext
from datetime import timedelta

import numpy as np
import pandas as pd
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list

from src.competition.demo import write_demo
from src.competition.folds import check_folds, describe_folds, load_folds
from src.competition.paths import check_not_empty
from src.competition.predictions import load_predictions
from src.competition.submission import check_sample, load_sample
from src.competition.tables import load_test_table, load_train_table, read_table
from src.config import seconds_of
from src.data.unreadable import find_unreadable
from src.device import Execution, keep_execution, recall_execution, resolve_device, share_cores
from src.errors import Stopped, UserError, listing
from src.evaluation.metrics import score, score_columns
from src.files import delete_unfinished, load_json, save_json, save_table
from src.locks import hold_folds, opening
from src.runs import has_work, open_run
from src.training.fold import train_fold
from src.training.keeping import is_done
from src.training.parts import build_parts
from src.training.shared import Shared, prepare_shared
from src.training.stopping import Watch
from src.training.timing import choose_execution
from src.training.tracking import build_tracker


def train_run(config):
    """Train the folds that the config asks for and are not done; write oof.csv and scores.json; print the scores.

    Raises:
        UserError: anything a person can mend, most of it before the first epoch.
        Stopped: by a signal or the time budget; the same command goes on where it was saved.
    """
    watch = Watch(config.checkpoint_minutes, seconds_of(config.time_budget), config.overwrite)
    stopped = None
    with watch.listening(), ExitStack() as held:
        processes = start_processes(config)
        is_main = processes.is_main_process
        num_workers = share_cores(processes.device, config.train.num_workers)
        config, accelerator, table, folds, numbers, left = _open_run(config, processes, num_workers, held)
        shared = prepare_shared(config, table, folds, left, accelerator, num_workers) if left else None
        tracking = config.tracking if left and is_main else "none"
        tracker = build_tracker(tracking, config.run_folder, dataclasses.asdict(config))
        try:
            for fold in left:
                if ending := watch.look(accelerator, is_last=True)[1]:
                    raise Stopped(f"fold {fold}: not begun, stopped by {ending[0]}; {watch.again} goes on", ending[1])
                folder = config.run_folder / f"fold{fold}"
                train_fold(config, fold, table, folds, accelerator, folder, shared, tracker, watch)
        except Stopped as stop:
            stopped = stop
        if is_main:
            tracker.finish(_score_run(config, table, folds, numbers))
        accelerator.wait_for_everyone()
        accelerator.end_training()
        if stopped:
            raise stopped if is_main else SystemExit(stopped.status)


def _open_run(config, processes, num_workers, held):
    """Open the run: alone, all checked, the folds to be trained held against other processes.

    Args:
        held: contextlib.ExitStack that holds these folds.

    Returns: (config with what it left open settled, accelerator, table, folds, numbers of all folds that validate,
        numbers of those to be trained).
    """
    table, folds, numbers = _load_rows(config, processes)
    run_folder, is_main, is_busy = config.run_folder, processes.is_main_process, False
    wanted = numbers if config.fold is None else [config.fold]
    with opening(run_folder) if is_main else nullcontext():
        if is_main:
            left = [fold for fold in wanted if config.overwrite or not is_done(run_folder / f"fold{fold}")]
            is_busy = held.enter_context(hold_folds(run_folder, left, config.overwrite))
        asked, config = config, settle_execution(config, processes, run_folder)
        accelerator = build_accelerator(config)
        if config.overwrite and has_work(run_folder):  # nothing is deleted for a command that cannot train
            build_parts(config, numbers[0], table, folds, accelerator, Shared(num_workers))
        table, folds = _make_folder(asked, config, table, folds, accelerator, is_busy)
    left = [fold for fold in wanted if not is_done(run_folder / f"fold{fold}")]
    if is_main:
        print(f"{run_folder}: {len(table)} images, targets: {listing(table.target_names, 4)}")
        print(describe_folds(table, folds).to_string(index=False, line_width=80))
        for fold in sorted(set(wanted) - set(left)):
            print(f"fold {fold}: done before")
    return config, accelerator, table, folds, numbers, left


def _load_rows(config, processes):
    """Return (table, folds, numbers of the folds that validate), all checked."""
    with processes.main_process_first():
        table = load_checked_table(config)
        folds = load_folds(config, table)
    check_folds(table, folds, config.competition.task)
    return table, folds, list_folds(config, folds)


def _make_folder(asked, config, table, folds, accelerator, is_busy):
    """Make the run's folder, or open it; return its (table, folds): what can be read of them, checked again.

    Args:
        asked: the config as it was asked for, which config.yaml keeps; `config` says what was made of it here.
    """
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            open_run(asked, is_busy)
            delete_unfinished(config.run_folder)
            execution = Execution(config.precision, config.train.channels_last)
            keep_execution(config.run_folder, execution, accelerator.device)
        table, folds = _leave_out_unreadable(config, table, folds)
    check_folds(table, folds, config.competition.task)
    if accelerator.is_main_process:
        _keep_folds(config.run_folder, table, folds)
    return table, folds


def list_folds(config, folds):
    """Return the numbers of the folds that validate.

    Raises:
        UserError: the fold that the config asks for is none of them.
    """
    numbers = [int(fold) for fold in np.unique(folds) if fold >= 0]
    if config.fold is not None and config.fold not in numbers:
        raise UserError(f"fold={config.fold}: this split has folds {listing(numbers)} to validate on")
    return numbers


def start_processes(config):
    """Return accelerate's PartialState on the config's device; torchrun gives each of its processes one of its own."""
    device = resolve_device(config.device)
    if device.type != "cpu" and "WORLD_SIZE" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if "WORLD_SIZE" not in os.environ:
        AcceleratorState._reset_state(reset_partial_state=True)  # a notebook may train twice, with other precisions
    patience = timedelta(hours=6)  # while one process looks through all the images
    return PartialState(cpu=device.type == "cpu", timeout=patience)


def settle_execution(config, processes, run_folder=None):
    """Return the config with the precision and memory order that it leaves open, decided by one process for all.

    What a run was begun with it keeps for all its folds; else `timing.choose_execution` decides.

    Args:
        run_folder: pathlib.Path of the run that is trained; None: no run.
    """
    chosen = [None]
    if processes.is_main_process:
        if run_folder is not None and has_work(run_folder) and not config.overwrite:
            chosen = [recall_execution(run_folder, config, processes.device)]
        chosen = [chosen[0] or choose_execution(config, processes.device)]
    return broadcast_object_list(chosen)[0].settle(config)


def build_accelerator(config):
    """Return the Accelerator of the started processes, for a config whose execution is settled."""
    is_cpu = PartialState().device.type == "cpu"
    return Accelerator(mixed_precision=config.precision.replace("fp32", "no"), cpu=is_cpu)


def load_checked_table(config):
    """Return the training table, after checking that the test side will be able to use what it teaches."""
    competition = config.competition
    if competition.name == "demo":
        write_demo(competition.root)
    table = load_train_table(competition)
    if config.unreadable == "error":
        check_not_empty(table.paths)
    sample = load_sample(competition)
    if sample is not None or competition.test_table:
        test = load_test_table(competition, table.target_names)
        if sample is not None:
            check_sample(sample, competition, test, table.target_names)
    return table


def _leave_out_unreadable(config, table, folds):
    """Leave out images that cannot be decoded, and list them in unreadable.csv; looked for once per run."""
    path = config.run_folder / "unreadable.csv"
    if config.unreadable == "skip" and not path.is_file():
        found = find_unreadable(table, config.competition.channels)
        found = pd.DataFrame([(table.ids[row], reason) for row, reason in found], columns=["id", "reason"])
        save_table(path, found)
        if len(found):
            print(f"{len(found)} of {len(table)} images cannot be decoded and are left out; {path} names them")
    if not path.is_file():
        return table, folds
    keep = ~np.isin(table.ids, read_table(path)["id"].to_numpy(dtype=str))
    return table.take(keep), folds[keep]


def _keep_folds(run_folder, table, folds):
    """Write the run's folds.csv; the folds of one run must not change while its folds are trained one by one."""
    path = run_folder / "folds.csv"
    if path.is_file() and has_work(run_folder):
        kept = read_table(path)
        if kept["id"].tolist() != table.ids.tolist() or kept["fold"].astype(int).tolist() != folds.tolist():
            raise UserError(
                f"{path}: this run was trained on other folds or rows; choose name=ANOTHER or overwrite=true"
            )
    save_table(path, pd.DataFrame({"id": table.ids, "fold": folds}))


def _score_run(config, table, folds, numbers):
    """Join the finished folds' validation predictions; write oof.csv and scores.json; print the table of folds."""
    run_folder, metric = config.run_folder, config.competition.metric
    done = [fold for fold in numbers if is_done(run_folder / f"fold{fold}")]
    if not done:
        return {}
    names = list(table.target_names)
    parts = [load_predictions(run_folder / f"fold{fold}" / "val.csv").assign(fold=fold) for fold in done]
    oof = pd.concat(parts).set_index("id")
    rows = np.isin(folds, done)
    oof = oof.loc[table.ids[rows]].reset_index()[["id", "fold", *names]]
    save_table(run_folder / "oof.csv", oof)

    targets, probs = table.targets[rows], oof[names].to_numpy()
    metas = {fold: load_json(run_folder / f"fold{fold}" / "meta.json") for fold in done}
    per_fold = {fold: metas[fold]["best_score"] for fold in done}
    scores = {
        "metric": metric,
        "pooled": score(targets, probs, metric),
        "mean": float(np.mean(list(per_fold.values()))),
        "folds": {str(fold): value for fold, value in per_fold.items()},
        "columns": dict(zip(names, score_columns(targets, probs, metric).tolist(), strict=True)),
        "seconds": round(sum(meta["seconds"] for meta in metas.values()), 2),
        "seconds_per_fold": {str(fold): round(metas[fold]["seconds"], 2) for fold in done},
    }
    save_json(run_folder / "scores.json", scores)
    summary = pd.DataFrame(
        {
            "fold": done,
            "images": [int((folds == fold).sum()) for fold in done],
            "best epoch": [metas[fold]["best_epoch"] for fold in done],
            metric: [f"{per_fold[fold]:.5f}" for fold in done],
            "seconds": [f"{metas[fold]['seconds']:.1f}" for fold in done],
        }
    )
    print(f"\n{summary.to_string(index=False)}")
    print(
        f"out-of-fold {metric}: {scores['pooled']:.5f} pooled, {scores['mean']:.5f} mean of {len(done)} of "
        f"{len(numbers)} folds, {scores['seconds']:.0f} s"
    )
    print(f"{run_folder / 'oof.csv'}; next: python infer.py run={run_folder}")
    return scores
