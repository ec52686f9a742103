"""Disk, memory and time that a run will need, against what is there. psutil's only door."""

import dataclasses
import os
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from src.data.augment import build_augmentation, build_resize
from src.data.cache import list_folders
from src.data.decode import decode_image
from src.device import autocast, resolve_device, resolve_execution, share_cores
from src.doctor.findings import Fact, Finding
from src.errors import UserError
from src.model.network import build_network
from src.training.optimizer import build_optimizer

_WORKER_BYTES = 400_000_000  # of a loader process: the interpreter, torch, albumentations
_BASE_BYTES = 800_000_000  # of the training process before there is a network
_RESERVE_BYTES = 2_000_000_000  # of the disk, as the cache leaves it free
_STATE_COPIES = 6  # best, last and last.pt with two moments and an average: weights on disk, in sizes of the network
_MEMORY_COPIES = 5  # weights, gradients, two moments, the copy that is written
_QUICK_SECONDS = 0.4  # a step under which more images are taken at once
_BUDGET_SECONDS = 0.5  # of the timed steps, learning and predicting each
_NUM_LOADED = 8  # images whose decoding and augmentation are timed


@dataclasses.dataclass(frozen=True)
class Costs:
    """What was measured, for one image: seconds to learn from it, to predict it, to decode and to augment it.

    `weight_bytes` are those of the network, `activation_bytes` what its layers keep of an image for the gradient,
    `pixel_bytes` a decoded pixel's channel.
    """

    learn: float
    predict: float
    decode: float
    augment: float
    weight_bytes: int
    activation_bytes: int
    pixel_bytes: int = 1


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a whole run needs: bytes of disk for decoded images and for checkpoints, bytes of memory, seconds."""

    cache_bytes: int
    checkpoint_bytes: int
    memory_bytes: int
    epoch_seconds: float
    run_seconds: float


def check_resources(case, rows):
    """Return (findings, facts): what training will need on this machine.

    Args:
        case: case.Case with folds.
        rows: rows of its training table that can be read.
    """
    config = case.config
    try:
        device = resolve_device(config.device)
        num_workers = share_cores(device, config.train.num_workers)
        costs = measure_costs(config, case.train, rows, device)
        val_counts = np.bincount(case.folds[case.folds >= 0])
        needs = estimate_needs(config, costs, val_counts, len(case.train), num_workers)
    except UserError as error:
        title, _, advice = str(error).rpartition("; ")
        return [Finding("error", title or advice, advice if title else "correct it before training")], []
    folders = [_existing(folder) for folder in list_folders(config)]
    cache_folder = next((folder for folder in folders if os.access(folder, os.W_OK)), folders[-1])
    free_cache, free_runs = (shutil.disk_usage(one).free for one in (cache_folder, _existing(config.output_dir)))
    memory = _free_memory(device)
    return judge_needs(config, needs, free_cache, free_runs, memory), [
        Fact(
            f"what training needs, by a few timed steps on {device}, where no other program takes the cores",
            (
                f"disk    {_gigabytes(needs.cache_bytes)} of decoded images, {_gigabytes(needs.checkpoint_bytes)} of "
                f"weights; {_gigabytes(free_cache)} free",
                f"memory  about {_gigabytes(needs.memory_bytes)} at train.batch_size={config.train.batch_size}; "
                f"{_gigabytes(memory)} free",
                f"speed   {1 / costs.learn:.0f} images/s learning, {1 / costs.predict:.0f} predicting; "
                f"decoding {1e3 * costs.decode:.1f} ms, augmenting {1e3 * costs.augment:.1f} ms an image",
                f"time    about {_duration(needs.epoch_seconds)} an epoch, {_duration(needs.run_seconds)} for "
                + (f"{len(val_counts)} folds" if config.fold is None else "one fold")
                + f" of {config.train.epochs} epochs",
            ),
        )
    ]


def measure_costs(config, table, rows, device):
    """Time a few steps with random weights, and the loading of a few images; return their Costs.

    Raises:
        UserError: the network or the augmentation cannot be built, or an image cannot be decoded.
    """
    channels, size = config.competition.channels, config.image_size
    first = decode_image(str(table.paths[int(rows[0])]), channels)
    augmentation = build_augmentation(config.augment, size, channels, first.dtype == np.uint8)
    paths = [str(table.paths[int(row)]) for row in rows[np.linspace(0, len(rows) - 1, _NUM_LOADED).astype(int)]]
    augmentation(first, 0)  # the first call imports
    began = time.perf_counter()
    images = [decode_image(path, channels, augmentation.decode_size) for path in paths]
    decoded = time.perf_counter()
    for seed, image in enumerate(images):
        augmentation(image, seed)
    augmented = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = build_network(
            config.model, len(table.target_names), channels, size, config.normalize, load_pretrained=False
        )
        execution = resolve_execution(config, device)
        network.place(device, execution.channels_last)
        activation_bytes = _count_activations(network, channels, size, device)
        learn, predict = _time_network(config, network, device, execution.precision)
    weight_bytes = sum(one.numel() * one.element_size() for one in network.state_dict().values())
    return Costs(
        learn,
        predict,
        (decoded - began) / len(paths),
        (augmented - decoded) / len(paths),
        weight_bytes,
        activation_bytes,
        images[0].itemsize,
    )


def estimate_needs(config, costs, val_counts, num_images, num_workers):
    """Return the Needs of a run.

    Args:
        costs: Costs of an image.
        val_counts: (F,) images that validate in each fold.
        num_images: rows of the training table.
        num_workers: loader processes.
    """
    pixels = config.image_size[0] * config.image_size[1] * config.competition.channels
    sizes = {one.decode_size for one in _transforms(config, costs.pixel_bytes == 1)} - {None}
    decoded_bytes = num_images * config.competition.channels * sum(h * w for h, w in sizes) * costs.pixel_bytes
    cache_bytes = 0 if config.cache == "off" else decoded_bytes
    folds = len(val_counts) if config.fold is None else 1
    val = float(np.mean(val_counts))
    train = min(num_images - val, config.train.max_images or num_images)
    if config.train.batches_per_epoch:
        train = config.train.batches_per_epoch * config.train.batch_size
    is_decoding = config.cache == "off" or not sizes
    load = (costs.augment + costs.decode * is_decoding) / max(1, num_workers)
    learn = costs.learn + load if num_workers == 0 else max(costs.learn, load)
    epoch = train * learn + val * costs.predict
    run = folds * config.train.epochs * epoch + (0 if is_decoding else num_images * costs.decode)
    if config.keeps_features:  # the backbone sees each version once, for all folds and epochs
        epoch, run = 0.0, num_images * config.train.views * (costs.predict + load)
    batch = config.train.batch_size * (costs.activation_bytes + 4 * pixels)
    memory = _BASE_BYTES + _MEMORY_COPIES * costs.weight_bytes + batch
    memory += num_workers * (_WORKER_BYTES + 2 * config.train.batch_size * pixels)
    return Needs(cache_bytes, _STATE_COPIES * costs.weight_bytes * folds, int(memory), epoch, run)


def judge_needs(config, needs, free_cache, free_runs, free_memory):
    """Return the findings: what is needed and not free, all in bytes."""
    findings = []
    if needs.cache_bytes > free_cache - _RESERVE_BYTES:
        findings.append(
            Finding(
                "error" if config.cache == "on" else "warning",
                f"{_gigabytes(needs.cache_bytes)} of decoded images do not fit on the disk ({_gigabytes(free_cache)} "
                f"free, {_gigabytes(_RESERVE_BYTES)} are kept free)",
                "images would be decoded in every epoch: set cache_dir=FOLDER on another disk, or lower image_size",
            )
        )
    if needs.checkpoint_bytes > free_runs:
        findings.append(
            Finding(
                "error",
                f"{_gigabytes(needs.checkpoint_bytes)} of weights do not fit on the disk: {_gigabytes(free_runs)} free",
                "training would stop in the middle: free the disk or set output_dir=FOLDER on another one",
            )
        )
    if needs.memory_bytes > free_memory:
        findings.append(
            Finding(
                "warning",
                f"training takes about {_gigabytes(needs.memory_bytes)} of memory, {_gigabytes(free_memory)} are free",
                "lower train.batch_size (with optimizer.accumulate_steps), train.num_workers or image_size, or set "
                "model.grad_checkpointing=true",
            )
        )
    return findings


def _transforms(config, is_uint8):
    augmentation = build_augmentation(config.augment, config.image_size, config.competition.channels, is_uint8)
    return augmentation, build_resize(config.image_size)


def _time_network(config, network, device, precision):
    """Return (seconds to learn from an image, seconds to predict one)."""
    optimizer = build_optimizer(config.optimizer, network)

    def learn(pictures):
        with autocast(device, precision):
            logits = network(network.normalize(pictures))
        (logits.float() - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return logits

    @torch.inference_mode()
    def predict(pictures):
        with autocast(device, precision):
            return network(network.normalize(pictures))

    num_threads, seconds = torch.get_num_threads(), []
    for step, is_training in ((learn, True), (predict, False)):
        network.train(is_training)
        fastest = []
        # beside a busy program two threads wait for each other, up to a hundred times longer than one thread takes
        for threads in {num_threads, 1} if device.type == "cpu" else {num_threads}:
            torch.set_num_threads(threads)
            fastest.append(_time_images(step, config, device))
        torch.set_num_threads(num_threads)
        seconds.append(min(fastest))
    return seconds


def _time_images(step, config, device):
    """Return the seconds of a step for each of its images, of which it takes more where they are quick."""
    count, largest = 2, min(config.train.batch_size, 32 if device.type == "cuda" else 8)
    taken = _time_call(step, _draw_pictures(count, config, device), budget=0)
    while count < largest and taken < _QUICK_SECONDS:
        count = min(4 * count, largest)
        taken = _time_call(step, _draw_pictures(count, config, device), budget=0)
    return min(taken, _time_call(step, _draw_pictures(count, config, device), _BUDGET_SECONDS)) / count


def _draw_pictures(count, config, device):
    shape = (count, *config.image_size, config.competition.channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8).to(device)


def _time_call(step, pictures, budget):
    """Return the seconds of the fastest of some calls, at least two after one that warms up.

    Other programs on the machine make calls slower, never faster.
    """
    seconds, start = [], time.perf_counter()
    while len(seconds) < 3 or (time.perf_counter() - start < budget and len(seconds) < 20):
        began = time.perf_counter()
        step(pictures).float().sum().item()  # which waits for the device
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _count_activations(network, channels, size, device):
    """Return the bytes that the outputs of all layers take for one image: what a gradient needs, or a little more."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        if isinstance(output, torch.Tensor):
            total += output.numel() * 4

    layers = [module for module in network.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, channels, *size, device=device))
    for hook in hooks:
        hook.remove()
    return total


def _existing(folder):
    """Return the folder, or the nearest one above it that is there."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _free_memory(device):
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _gigabytes(num_bytes):
    return f"{num_bytes / 1e9:.1f} GB"


def _duration(seconds):
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
