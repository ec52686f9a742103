"""One run: folds in order, what is done is skipped, what came out is scored."""

import dataclasses
import os
from collections import Counter
from datetime import timedelta

import numpy as np
import pandas as pd
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from src.competition.demo import write_demo
from src.competition.folds import check_folds, describe_folds, load_folds
from src.competition.paths import check_not_empty
from src.competition.predictions import load_predictions
from src.competition.submission import check_sample, load_sample
from src.competition.tables import load_test_table, load_train_table, read_table
from src.data.cache import open_cache
from src.data.statistics import compute_pixel_stats
from src.data.unreadable import find_unreadable
from src.device import resolve_device, resolve_precision, share_cores
from src.errors import UserError, listing
from src.evaluation.metrics import score, score_columns
from src.files import load_json, save_json, save_table
from src.runs import has_work, open_run
from src.training.fold import is_done, train_fold
from src.training.parts import build_augmentations, build_parts, choose_rows
from src.training.tracking import build_tracker


def train_run(config):
    """Train the folds that the config asks for and are not done; write oof.csv and scores.json; print the scores.

    Raises:
        UserError: anything a person can mend, most of it before the first epoch.
    """
    accelerator = build_accelerator(config)
    num_workers = share_cores(accelerator.device, config.train.num_workers)
    run_folder, is_main = config.run_folder, accelerator.is_main_process
    table, folds, numbers = _prepare_rows(config, accelerator, num_workers)
    wanted = numbers if config.fold is None else [config.fold]
    left = [fold for fold in wanted if not is_done(run_folder / f"fold{fold}")]
    if is_main:
        print(f"{run_folder}: {len(table)} images, targets: {listing(table.target_names, 4)}")
        print(describe_folds(table, folds).to_string(index=False, line_width=80))
        for fold in sorted(set(wanted) - set(left)):
            print(f"fold {fold}: done before")
    pixel_stats = _load_pixel_stats(config, table, accelerator) if left else None
    caches = _open_caches(config, table, folds, left, accelerator) if left else {}
    tracking = config.tracking if left and is_main else "none"
    tracker = build_tracker(tracking, run_folder, dataclasses.asdict(config))
    for fold in left:
        folder = run_folder / f"fold{fold}"
        train_fold(config, fold, table, folds, accelerator, folder, num_workers, pixel_stats, caches, tracker)
    if is_main:
        tracker.finish(_score_run(config, table, folds, numbers))
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _prepare_rows(config, accelerator, num_workers):
    """Return (table, folds, numbers of the folds that validate), all checked; then open the run folder."""
    with accelerator.main_process_first():
        table = load_checked_table(config)
        folds = load_folds(config, table)
    check_folds(table, folds, config.competition.task)
    numbers = list_folds(config, folds)
    if config.overwrite and has_work(config.run_folder):  # nothing is deleted for a command that cannot train
        build_parts(config, numbers[0], table, folds, accelerator, num_workers, None)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            open_run(config)
        table, folds = _leave_out_unreadable(config, table, folds)
    check_folds(table, folds, config.competition.task)
    if accelerator.is_main_process:
        _keep_folds(config.run_folder, table, folds)
    return table, folds, numbers


def list_folds(config, folds):
    """Return the numbers of the folds that validate.

    Raises:
        UserError: the fold that the config asks for is none of them.
    """
    numbers = [int(fold) for fold in np.unique(folds) if fold >= 0]
    if config.fold is not None and config.fold not in numbers:
        raise UserError(f"fold={config.fold}: this split has folds {listing(numbers)} to validate on")
    return numbers


def build_accelerator(config):
    """Return the Accelerator on the config's device; torchrun gives each of its processes a device of its own."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    if device.type != "cpu" and "WORLD_SIZE" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if "WORLD_SIZE" not in os.environ:
        AcceleratorState._reset_state(reset_partial_state=True)  # a notebook may train twice, with other precisions
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # while one process looks through all the images
    mixed_precision = precision.replace("fp32", "no")
    return Accelerator(mixed_precision=mixed_precision, cpu=device.type == "cpu", kwargs_handlers=[patience])


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


def _load_pixel_stats(config, table, accelerator):
    """Return the images' (mean, std), once a run and kept in pixel_stats.json; None where they are not used."""
    if config.normalize not in ("dataset", "center"):
        return None
    path = config.run_folder / "pixel_stats.json"
    with accelerator.main_process_first():
        if accelerator.is_main_process and not (path.is_file() and has_work(config.run_folder)):
            mean, std = compute_pixel_stats(table, config.competition.channels, config.image_size, seed=config.seed)
            save_json(path, {"mean": mean.tolist(), "std": std.tolist()})
    stats = load_json(path)
    return np.array(stats["mean"]), np.array(stats["std"])


def _open_caches(config, table, folds, left, accelerator):
    """Return {(height, width): ImageCache} of the sizes at which training and validation read their images."""
    num_reads, augmentations = Counter(), build_augmentations(config, table)
    for fold in left:
        for rows, transform in zip(choose_rows(config, fold, folds), augmentations, strict=True):
            if transform.decode_size is not None:  # else each image is wanted at its own size
                num_reads[transform.decode_size] += config.train.epochs * len(rows)
    root = config.competition.root
    folders = [config.cache_dir] if config.cache_dir else [f"{root}/.cache", f"{config.output_dir}/cache"]
    with accelerator.main_process_first():
        opened = {
            size: open_cache(table, config.competition.channels, size, root, folders, config.cache, reads)
            for size, reads in num_reads.items()
        }
    return {size: cache for size, cache in opened.items() if cache is not None}


def _score_run(config, table, folds, numbers):
    """Join the finished folds' validation predictions; write oof.csv and scores.json; print the table of folds."""
    run_folder, metric = config.run_folder, config.competition.metric
    done = [fold for fold in numbers if is_done(run_folder / f"fold{fold}")]
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
