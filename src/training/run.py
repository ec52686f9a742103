"""One run: what all folds share is settled in order, each fold is trained or skipped, and what came out is scored."""

import math
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from accelerate import Accelerator
from accelerate.state import PartialState

from src.checkpointing.interrupts import Interrupts
from src.checkpointing.run_folder import RunFolder, open_run
from src.competition.folds import check_folds, describe_folds
from src.competition.image_files import name_row
from src.competition.paths import settle_num_images
from src.competition.tables import ImageTable
from src.config.checks import check_config
from src.config.settings import Config, seconds_of
from src.data.cache import open_cache
from src.data.dataset import ImageDataset
from src.data.scan import compute_pixel_stats
from src.device import ThreadGuard, share_cores
from src.errors import Stopped, UserError, listing
from src.evaluation.metrics import Metric, build_metric
from src.files import load_json, save_json
from src.launchers import is_job, is_joining
from src.locks import check_free, hold_fold, opening
from src.model.losses import check_loss, resolve_class_weights
from src.model.network import build_network
from src.report import write_report
from src.training import run_data
from src.training.averaging import build_average
from src.training.execution import choose_precision, recall_precision, save_precision, settle_place
from src.training.features import load_features
from src.training.fold import train_fold
from src.training.learner import build_learner, build_transforms, choose_rows, count_reads
from src.training.oof import print_next, score_run
from src.training.optimizer import build_optimizer
from src.training.processes import PREPARING, WORKING, check_hosts, from_main, start_processes, wait_at_most
from src.training.provenance import save_provenance
from src.training.schedule import build_schedule
from src.training.self_training import build_train_table, join_tables, load_test_rows
from src.training.tracking import Tracker, build_tracker


@dataclass
class Run:
    """What all folds of a run share."""

    config: Config  # precision is settled once `accelerator` is set
    folder: RunFolder
    metric: Metric
    table: ImageTable  # all rows; .folds is the fold that validates each
    processes: PartialState
    num_workers: int  # of each loader
    guard: ThreadGuard = field(default_factory=ThreadGuard)
    accelerator: Accelerator | None = None
    folds: list[int] = field(default_factory=list)  # that validate
    unfinished: list[int] = field(default_factory=list)  # to be trained by this command; or ["all"]
    epochs_of_all: int = 0  # that fold=all trains for, once they are known
    pixel_stats: tuple | None = None  # (mean, std) in raw pixel units; None: the backbone's
    caches: dict = field(default_factory=dict)  # {(height, width): data.cache.ImageCache}
    features: np.ndarray | None = None  # (V, N, D), in place of images
    interrupts: Interrupts | None = None
    words: tuple[str, ...] = ()  # of the command line
    tracker: Tracker = field(default_factory=Tracker)
    jobs_on: str | None = None  # cpu or cuda, of the processes that train its folds; None: this one trains them

    @cached_property
    def test(self):
        """The ImageTable of the rows that train.pseudo labels."""
        return load_test_rows(self)


def train_run(config, words=(), interrupts=None):
    """Train the config's unfinished folds, write oof.csv and scores.json; Stopped by a signal or the time budget.

    words: the command line, for provenance.json; interrupts: Interrupts, whose budget other runs may share; None: own.
    """
    interrupts = interrupts or Interrupts(config.checkpoint_minutes, seconds_of(config.time_budget), config.overwrite)
    stopped = None
    with interrupts.handle_signals(), ExitStack() as locks:
        processes = start_processes(config)
        with interrupts.alarm(processes.num_processes):
            run = check_run(config, words, interrupts, processes)
            open_folder(run, locks)
            if run.unfinished:
                settle_place(run)
        wait_at_most(WORKING)
        if run.unfinished and processes.is_main_process:
            run.tracker = build_tracker(config)
        try:
            for fold in run.unfinished:
                if reason := interrupts.check(run.accelerator, is_last=True)[1]:
                    line = f"fold {fold}: not started, stopped by {reason[0]}; {interrupts.again} resumes"
                    raise Stopped(line, reason[1])
                train_fold(run if fold != "all" else _for_all_rows(run), fold)
        except Stopped as stop:
            stopped = stop
        wait_at_most(PREPARING)
        if is_joining(run.folder.path):
            run.tracker.finish(run.folder, {})
        elif processes.is_main_process:
            end_run(run, stopped)
        run.accelerator.wait_for_everyone()
        if stopped:
            raise stopped if processes.is_local_main_process else SystemExit(stopped.status)


def check_run(config, words, interrupts, processes):
    """Return the Run of a command line, all checked; its folder is as it was."""
    check_loss(config)
    run = load_run(config, processes)
    check_hosts(run)
    check_learner(run)
    run.interrupts, run.words = interrupts, tuple(words)
    return run


def end_run(run, stopped):
    """Score the folds that are finished, write the report unless the run was stopped, end the trackers."""
    with opening(run.folder.path):  # of two commands that end together, the second scores what both have done
        scores = score_run(run)
    pictures = run.folder.pictures if run.tracker.trackers else None
    if page := None if stopped else write_report(run.config, run.folder.path, pictures=pictures):
        print(page)
    run.tracker.finish(run.folder, scores, page)
    print_next(run)


def load_run(config, processes):
    """Return the Run with its table, folds and metric, all checked; no run folder is made, nothing is timed."""
    metric = build_metric(config.competition.metric, config.competition.task, **config.competition.metric_kwargs)
    with processes.local_main_process_first():  # it may write the demo and the folds
        table = run_data.load_run_data(config, metric)
    config = settle_num_images(config, table.paths)
    if processes.is_main_process and table.notes:
        print(*table.notes, sep="\n")
    num_workers, guard = share_cores(processes.device, config.train.num_workers, config.threads)
    folds = run_data.list_folds(config, table)
    return Run(config, RunFolder(config.run_folder), metric, table, processes, num_workers, guard, folds=folds)


def check_learner(run):
    """Build network, optimizer, average and schedule once: a wrong name or missing weights fail before slow work."""
    config, folder = run.config, run.folder
    wanted = run.folds if config.fold is None else [config.fold]
    unfinished = from_main(lambda: [one for one in wanted if config.overwrite or not folder.fold(one).is_finished()])
    if not unfinished:
        return  # its weights may be gone since
    for fold in wanted if config.train.teacher or config.train.pseudo else ():
        build_train_table(run, fold, choose_rows(config, fold, run.table.folds)[0])
    if run.processes.is_main_process:
        print(f"building {config.model.backbone}", flush=True)
    run_data.check_weights(config, run.table, unfinished)
    resolve_class_weights(config.loss, run.table.targets, config.competition.task)
    with run.processes.local_main_process_first():  # it may download weights
        network = build_network(config, len(run.table.target_names))
    optimizer = build_optimizer(config.optimizer, network)
    first = config.train.epochs if config.fold != "all" else from_main(lambda: count_epochs_of_all(run))
    for run.epochs_of_all in range(first, config.train.epochs + 1):  # the first that the other settings allow
        try:
            train = replace(config.train, epochs=run.epochs_of_all)
            check_config(replace(config, train=train))
            build_average(train, network)
            build_schedule(config.schedule, optimizer, train.epochs, steps_per_epoch=100)
            return
        except UserError:
            if run.epochs_of_all == config.train.epochs:
                raise


def count_epochs_of_all(run):
    """Return for how many epochs fold=all trains: train.epochs, or the median of the best of all folds, rounded up."""
    train, unfinished = run.config.train, [fold for fold in run.folds if not run.folder.fold(fold).is_finished()]
    if train.select == "last":
        return train.epochs
    takes = "fold=all: train.select=best takes its epochs from the folds"
    if run.config.overwrite:
        raise UserError(f"{takes}, which overwrite=true deletes; leave it out")
    if unfinished:
        advice = "train them first, without fold=all, or set train.select=last and name=ANOTHER"
        raise UserError(f"{takes}, of which {listing(unfinished)} are not finished; {advice}")
    best = [load_json(run.folder.fold(fold).meta, "best_epoch")["best_epoch"] for fold in run.folds]
    return math.ceil(np.median(best))


def _for_all_rows(run):
    """Return the Run with the settings of fold=all: its epochs, and no early stopping."""
    if run.processes.is_main_process and run.epochs_of_all != run.config.train.epochs:
        print(f"\nfold all: {run.epochs_of_all} epochs, as many as were best in the median fold")
    train = replace(run.config.train, epochs=run.epochs_of_all, early_stopping_epochs=None)
    return replace(run, config=replace(run.config, train=train))


def settle_precision(run, is_resumed=False):
    """Settle the precision that the config leaves open, for all processes; set the accelerator.

    is_resumed: as the run's folder has it, since all folds are computed alike. On GPUs, jobs settle their own.
    """
    chosen, config, device = None, run.config, run.processes.device
    if run.jobs_on == "cuda":
        chosen = "fp32"  # of this process, which only checks
    elif run.processes.is_main_process:
        chosen = recall_precision(run.folder, config, device) if is_resumed else choose_precision(config, device)
    precision = from_main(lambda: chosen)
    run.config = replace(config, precision=precision)
    run.accelerator = Accelerator(mixed_precision=precision.replace("fp32", "no"), cpu=device.type == "cpu")


def open_folder(run, locks):
    """Make or reopen the run's folder, alone and after all checks; `locks` then holds its unfinished folds."""
    config, folder, is_main = run.config, run.folder, run.processes.is_main_process
    is_busy = is_joining(folder.path)
    wanted = run.folds if config.fold is None else [config.fold]
    for fold in wanted if is_job() else ():  # before the lock of opening, which those that end want
        locks.enter_context(hold_fold(folder.path, fold, is_job=True))
    with opening(folder.path) if is_main else nullcontext():
        if is_main and not is_job():
            unfinished = [fold for fold in wanted if config.overwrite or not folder.fold(fold).is_finished()]
            is_busy = check_free(folder.path, unfinished, config.overwrite)
            for fold in unfinished:
                locks.enter_context(hold_fold(folder.path, fold))
        has_work = is_busy or folder.has_work()
        settle_precision(run, has_work and not config.overwrite)
        if is_main and config.overwrite and folder.has_work():  # nothing is deleted for a command that cannot train
            build_learner(run, run.folds[0])
        table = run.table
        if is_main:
            if not is_joining(folder.path):
                open_run(config, is_busy)
            if run.jobs_on != "cuda":
                save_precision(folder, run.config.precision, run.accelerator.device)
            save_provenance(folder.provenance, config, run.words, run.accelerator.device, has_work)
            table = run_data.leave_out_unreadable(config, run.table, folder.unreadable)
        ids = from_main(lambda: table.ids if len(table) < len(run.table) else None)
        run.table = table if is_main or ids is None else table.take(np.isin(table.ids, ids))
        check_folds(run.table, run.table.folds, run.metric, config)
        if is_main:
            for save, path in ((run_data.save_folds, folder.folds), (run_data.save_metadata, folder.metadata)):
                save(path, run.table, is_busy or folder.has_work())
        run.unfinished = from_main(lambda: [fold for fold in wanted if not folder.fold(fold).is_finished()])
    if is_main:
        print(f"{folder.path}: {len(run.table)} images, targets: {listing(run.table.target_names, 4)}")
        print(describe_folds(run.table, run.table.folds).to_string(index=False, line_width=80), flush=True)
        for fold in sorted(set(wanted) - set(run.unfinished)):
            print(f"fold {fold}: already finished")
            folder.fold(fold).delete_states()  # a kill may have left them
    if run.unfinished:
        prepare_inputs(run)


def prepare_inputs(run):
    """Compute once what all folds share: pixel statistics and, for folds that are trained here, images and features."""
    config, table = run.config, run.table
    if config.normalize in ("dataset", "center"):
        path = run.folder.pixel_stats
        is_kept = path.is_file() and (run.folder.has_work() or is_joining(run.folder.path))
        if run.processes.is_main_process and not is_kept:
            stats = compute_pixel_stats(table.paths, config)
            save_json(path, {name: one.tolist() for name, one in zip(("mean", "std"), stats, strict=True)})
        stats = from_main(lambda: load_json(path, "mean", "std"))
        run.pixel_stats = tuple(np.array(stats[name]) for name in ("mean", "std"))
    if run.jobs_on:
        return  # each job opens the cache, and the first makes it
    table = join_tables(table, run.test) if config.train.pseudo else table
    transforms = build_transforms(config, table)
    reads_at = count_reads(config, table.folds, run.unfinished, transforms)
    if config.cache == "off" and not config.keeps_features:
        return  # nobody asks for the paths, of which a million take seconds
    paths = ImageDataset(table, config.competition, None, config.seed).list_paths()
    with run.accelerator.local_main_process_first():  # hosts without a common folder decode beside each other
        for size, num_reads in reads_at.items():
            try:
                cache = open_cache(paths, config, size, num_reads)
            except UserError as error:
                raise UserError(name_row(error, table.ids, table.paths)) from None
            run.caches |= {} if cache is None else {size: cache}
    if config.keeps_features:
        run.features = load_features(replace(run, table=table), transforms, paths)
