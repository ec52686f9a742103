"""Disk, memory and time that a run needs, compared with what this machine has."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import psutil
import torch

from src.data.cache import RESERVE_BYTES, cache_folder, gigabytes
from src.data.transforms import build_augmentation, build_resize
from src.device import resolve_device, share_cores
from src.errors import UserError
from tools.doctor.costs import measure_costs
from tools.doctor.findings import Fact, Finding, make_finding

_WORKER_BYTES = 400_000_000  # of a loader worker: the interpreter, torch, albumentations
_BASE_BYTES = 800_000_000  # of the training process without a network
_STATE_COPIES = 4  # of the network's size in a saved state: weights, two moments, an average
_MEMORY_COPIES = 5  # in memory: weights, gradients, two moments, the copy that is being saved


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a run needs: bytes of disk for decoded images and for checkpoints, bytes of memory, seconds."""

    cache_bytes: int
    checkpoint_bytes: int
    memory_bytes: int
    epoch_seconds: float
    run_seconds: float


def check_resources(data, rows):
    """Return (findings, facts): what training needs on this machine.

    Args:
        data: CompetitionData with folds.
        rows: rows of its training table that can be read.
    """
    config = data.config
    try:
        device = resolve_device(config.device)
        num_workers, _ = share_cores(device, config.train.num_workers, config.threads)
        costs = measure_costs(config, data.train, rows, device)
        val_counts = np.bincount(data.folds[data.folds >= 0])
        needs = estimate_needs(config, costs, val_counts, len(data.train), num_workers)
    except UserError as error:
        return [make_finding(error)], []
    folders = cache_folder(config), config.output_dir
    free_cache, free_runs = (shutil.disk_usage(_existing(one)).free for one in folders)
    memory = _free_memory(device)
    folds = f"{len(val_counts)} folds" if config.fold is None else "one fold"
    words = {
        "disk": f"{gigabytes(needs.cache_bytes)} of decoded images, {gigabytes(needs.checkpoint_bytes)} of weights; "
        f"{gigabytes(free_cache)} free",
        "memory": f"about {gigabytes(needs.memory_bytes)} at train.batch_size={config.train.batch_size}; "
        f"{gigabytes(memory)} free",
        "speed": f"{1 / costs.train:.0f} images/s training, {1 / costs.predict:.0f} predicting; "
        f"decoding {1e3 * costs.decode:.1f} ms, augmenting {1e3 * costs.augment:.1f} ms an image",
        "time": f"about {_duration(needs.epoch_seconds)} an epoch, {_duration(needs.run_seconds)} for {folds} of "
        f"{config.train.epochs} epochs",
    }
    title = f"what training needs, from a few steps timed on {device} beside the programs that run now"
    lines = tuple(f"{name:7} {text}" for name, text in words.items())
    return compare_needs(config, needs, free_cache, free_runs, memory), [Fact(title, lines, (("", ""), *words.items()))]


def estimate_needs(config, costs, val_counts, num_images, num_workers):
    """Return the Needs of a run.

    Args:
        costs: Costs of an image.
        val_counts: (F,) images that validate in each fold.
        num_images: rows of the training table.
        num_workers: of the loader.
    """
    pixels = config.image_size[0] * config.image_size[1] * config.competition.row_channels
    sizes = {one.decode_size for one in _transforms(config, costs.pixel_bytes == 1)} - {None}
    decoded_bytes = num_images * config.competition.row_channels * sum(h * w for h, w in sizes) * costs.pixel_bytes
    cache_bytes = 0 if config.cache == "off" else decoded_bytes
    folds = len(val_counts) if config.fold is None else 1
    val = float(np.mean(val_counts))
    train = min(num_images - val, config.train.max_images or num_images)
    if config.train.batches_per_epoch:
        train = config.train.batches_per_epoch * config.train.batch_size
    is_decoding = config.cache == "off" or not sizes
    load = (costs.augment + costs.decode * is_decoding) / max(1, num_workers)
    step = costs.train + load if num_workers == 0 else max(costs.train, load)
    epoch = train * step + val * costs.predict
    run = folds * config.train.epochs * epoch + (0 if is_decoding else num_images * costs.decode)
    if config.keeps_features:  # the backbone sees each view once, for all folds and epochs
        epoch, run = 0.0, num_images * config.train.views * (costs.predict + load)
    batch = config.train.batch_size * (costs.activation_bytes + 4 * pixels)
    memory = _BASE_BYTES + _MEMORY_COPIES * costs.weight_bytes + batch
    memory += num_workers * (_WORKER_BYTES + 2 * config.train.batch_size * pixels)
    states = _STATE_COPIES * (config.keep_checkpoints + 1)  # of one fold at a time, with the one that is being saved
    checkpoint_bytes = (folds + states) * costs.weight_bytes  # with the weights of each fold
    return Needs(cache_bytes, checkpoint_bytes, int(memory), epoch, run)


def compare_needs(config, needs, free_cache, free_runs, free_memory):
    """Return a finding for each need that exceeds what is free; arguments in bytes."""
    findings = []
    if needs.cache_bytes > free_cache - RESERVE_BYTES:
        findings.append(
            Finding(
                "error" if config.cache == "on" else "warning",
                f"{gigabytes(needs.cache_bytes)} of decoded images do not fit on the disk ({gigabytes(free_cache)} "
                f"free, {gigabytes(RESERVE_BYTES)} are kept free)",
                "images will be decoded in every epoch: set cache_dir=FOLDER on another disk, or lower image_size",
            )
        )
    if needs.checkpoint_bytes > free_runs:
        findings.append(
            Finding(
                "error",
                f"{gigabytes(needs.checkpoint_bytes)} of weights do not fit on the disk: {gigabytes(free_runs)} free",
                "training will stop when the disk is full: free some of it or set output_dir=FOLDER on another one",
            )
        )
    if needs.memory_bytes > free_memory:
        findings.append(
            Finding(
                "warning",
                f"training takes about {gigabytes(needs.memory_bytes)} of memory, {gigabytes(free_memory)} are free",
                "lower train.batch_size (with optimizer.accumulate_steps), train.num_workers or image_size, or set "
                "model.grad_checkpointing=true",
            )
        )
    return findings


def _transforms(config, is_uint8):
    return build_augmentation(config, is_uint8), build_resize(config)


def _existing(folder):
    """Return the folder, or its nearest parent that exists."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _free_memory(device):
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _duration(seconds):
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
