"""One run: folds in order, what is done is skipped, what came out is scored."""

import dataclasses
import os
from contextlib import ExitStack, nullcontext
from datetime import timedelta

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list

from src.checkpointing.checkpointer import delete_served, is_done
from src.checkpointing.interrupts import Watch
from src.checkpointing.run_folder import has_work, open_run
from src.competition.folds import check_folds, describe_folds
from src.config.settings import seconds_of
from src.device import Execution, keep_execution, recall_execution, resolve_device, share_cores
from src.errors import Stopped, listing
from src.locks import hold_folds, opening
from src.training.fold import train_fold
from src.training.learner import build_parts
from src.training.oof import score_run
from src.training.precision import choose_execution
from src.training.run_data import keep_folds, leave_out_unreadable, load_rows
from src.training.shared import Shared, prepare_shared
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
        with watch.preparing(processes.num_processes):
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
            with opening(config.run_folder):  # of two that end together the second one scores what both have done
                scores = score_run(config, table, folds, numbers)
            tracker.finish(scores)
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
    table, folds, numbers = load_rows(config, processes)
    run_folder, is_main, is_busy = config.run_folder, processes.is_main_process, False
    wanted = numbers if config.fold is None else [config.fold]
    with opening(run_folder) if is_main else nullcontext():
        if is_main:
            left = [fold for fold in wanted if config.overwrite or not is_done(run_folder / f"fold{fold}")]
            is_busy = held.enter_context(hold_folds(run_folder, left, config.overwrite))
        asked, config = config, settle_execution(config, processes, run_folder, is_busy)
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
            delete_served(run_folder / f"fold{fold}")
    return config, accelerator, table, folds, numbers, left


def _make_folder(asked, config, table, folds, accelerator, is_busy):
    """Make the run's folder, or open it; return its (table, folds): what can be read of them, checked again.

    Args:
        asked: the config as it was asked for, which config.yaml keeps; `config` says what was made of it here.
    """
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            open_run(asked, is_busy)
            execution = Execution(config.precision, config.train.channels_last)
            keep_execution(config.run_folder, execution, accelerator.device)
        table, folds = leave_out_unreadable(config, table, folds)
    check_folds(table, folds, config.competition.task)
    if accelerator.is_main_process:
        keep_folds(config.run_folder, table, folds, is_busy)
    return table, folds


def start_processes(config):
    """Return accelerate's PartialState on the config's device; torchrun gives each of its processes one of its own."""
    device = resolve_device(config.device)
    if device.type != "cpu" and "WORLD_SIZE" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if "WORLD_SIZE" not in os.environ:
        AcceleratorState._reset_state(reset_partial_state=True)  # a notebook may train twice, with other precisions
    patience = timedelta(hours=6)  # while one process looks through all the images
    return PartialState(cpu=device.type == "cpu", timeout=patience)


def settle_execution(config, processes, run_folder=None, is_busy=False):
    """Return the config with the precision and memory order that it leaves open, decided by one process for all.

    What a run was begun with it keeps for all its folds; else `timing.choose_execution` decides.

    Args:
        run_folder: pathlib.Path of the run that is trained; None: no run.
        is_busy: another process trains some of its folds now.
    """
    chosen = [None]
    if processes.is_main_process:
        if run_folder is not None and (is_busy or has_work(run_folder)) and not config.overwrite:
            chosen = [recall_execution(run_folder, config, processes.device)]
        chosen = [chosen[0] or choose_execution(config, processes.device)]
    return broadcast_object_list(chosen)[0].settle(config)


def build_accelerator(config):
    """Return the Accelerator of the started processes, for a config whose execution is settled."""
    is_cpu = PartialState().device.type == "cpu"
    return Accelerator(mixed_precision=config.precision.replace("fp32", "no"), cpu=is_cpu)
