"""What is timed once on a machine and then remembered in execution.json: the precision, and augmentation's place.

bf16 on a CPU that has its instructions, and augment.place=auto on a GPU; elsewhere a rule decides, and nothing is
timed. A choice changes a score's last digits, so noise must not change it: the default stays unless clearly beaten.
"""

import math
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from src.device import autocast, has_bf16_units, name_cpu, resolve_precision
from src.errors import UserError
from src.files import load_json, save_json
from src.locks import opening
from src.model.freezing import open_stages
from src.model.network import build_network
from src.terminal import warn
from src.training.engine import first_step, train_one_epoch
from src.training.learner import build_learner
from src.training.processes import from_main

_MARGIN = 1.2  # less is not worth rougher numbers, and two measurements on one machine differ by a tenth
_MOST_ROUNDS, _SECONDS = 20, 2.0  # steps of each, of which the first warms up; no round begins that would end later
_ALIKE = 4.0  # times that a gradient's norm in bf16 may be off: torch 2.14 leaves some unset (3x3, stride 2, 1x1 maps)
_STEP_SECONDS = 0.2  # steps take 2 to 8 images, as many as fit into this time
_WARM_STEPS, _TIMED_STEPS = 20, 28  # with each place; the first compile, and use up what the workers loaded before
_PLACE_MARGIN = 1.1  # as much faster, augmentation on the device is worth that a run depends on its machine


def recall_precision(run_folder, config, device):
    """Return the precision that a RunFolder keeps for this kind of device, else the rule's; the config's wins."""
    saved = recall_execution(run_folder, device).get("precision", "auto")
    return resolve_precision(saved if config.precision == "auto" else config.precision, device)


def save_precision(run_folder, precision, device, **others):
    """Write into a run's execution.json what it is computed with on this kind of device; others: what else is timed."""
    saved = _load_saved(run_folder)
    saved[device.type] = recall_execution(run_folder, device) | {"precision": precision} | others
    save_json(run_folder.execution, saved)


def recall_execution(run_folder, device):
    """Return {"precision": word, ...} as a RunFolder keeps it for this kind of device; {}: nothing."""
    return _load_saved(run_folder).get(device.type, {})


def _load_saved(run_folder):
    if not run_folder.execution.is_file():
        return {}
    try:
        return {kind: dict(one, precision=one["precision"]) for kind, one in load_json(run_folder.execution).items()}
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{run_folder.execution}: damaged; delete it and run the same command again") from None


def choose_precision(config, device):
    """Return the precision in which the config's network trains faster here; one that the config names is kept.

    Nothing is timed where output_dir/execution.json has the same machine, versions, network and size. A timed choice is
    written there and printed. Of bf16 on a CPU that the config names, the gradients are looked at, and warned of.
    """
    if config.precision == "bf16" and device.type == "cpu":
        with suppress(UserError), first_step(config):  # a network that fails does so again in training
            step, _ = _build_step(config, device)
            if math.isfinite(step("fp32")) and not math.isfinite(step("bf16")):
                found = f"a first step of {config.model.backbone} has other gradients than in fp32"
                warn(f"precision=bf16: {found}, on this CPU with torch {torch.__version__}; set precision=fp32")
    if config.precision != "auto" or device.type != "cpu" or not has_bf16_units():
        return resolve_precision(config.precision, device)
    path, case = Path(config.output_dir) / "execution.json", _describe_case(config)
    try:
        entries = [entry for entry in load_json(path) if isinstance(entry, dict)]
    except (OSError, UserError, TypeError):  # missing, damaged, or not what is written below
        entries = []
    for precision in ("fp32", "bf16"):
        if {"case": case, "chosen": precision} in entries:
            return precision
    print(f"timing a few training steps (fp32, bf16) of {config.model.backbone}", flush=True)
    try:
        with first_step(config):
            step, budget = _build_step(config, device)
            seconds = time_steps(step, budget)
    except UserError as error:
        if not isinstance(error.__cause__, (KeyError, TypeError)):
            raise
        print("precision=fp32: not timed, as the network takes more inputs than an image")
        return "fp32"
    chosen, words = pick_precision(**seconds)
    save_json(path, [*(one for one in entries if one.get("case") != case), {"case": case, "chosen": chosen}])
    print(words)
    return chosen


def time_steps(step, budget, clock=time.perf_counter):
    """Return {precision: [seconds]} of steps in fp32 and bf16, by turns, as other load meets both; [] if one fails.

    The first step, which warms up, counts where there is no other.

    Args:
        step: precision -> a number, not finite where it failed.
        budget: seconds; after the first round none begins that would end later.
    """
    seconds, began = {"fp32": [], "bf16": []}, clock()
    for _ in range(_MOST_ROUNDS):
        for precision, times in seconds.items():
            start = clock()
            if not math.isfinite(step(precision)):
                return seconds | {precision: []}
            times.append(clock() - start)
        if clock() - began + sum(times[-1] for times in seconds.values()) > budget:
            break
    return {precision: times[1:] or times for precision, times in seconds.items()}


def pick_precision(fp32, bf16):
    """Return the precision to take, by the seconds of each one's steps ([]: it failed), and why, in words to paste."""
    if not fp32 or not bf16:
        return "fp32", "precision=fp32: timed, no other gives finite numbers"
    is_faster = median(bf16) * _MARGIN < min(fp32)
    chosen, other = ("bf16", "fp32") if is_faster else ("fp32", "bf16")
    ratio = min(bf16) / min(fp32) if is_faster else min(fp32) / min(bf16)
    return chosen, f"precision={chosen}: timed, {other} is {ratio:.1f} times as fast"


def _build_step(config, device):
    """Return (step, the seconds that are left to time it).

    step: precision -> the gradient's norm after one training step on random images; nan: it cannot be computed. The
    weights are random and stay so: only the time counts. All stages that open during training are open.
    """
    size = (*config.image_size, config.competition.row_channels)
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, 1, load_pretrained=False)
        open_stages(network, config.train.epochs - 1)
        batch = torch.randint(0, 256, (max(2, config.train.batch_size), *size), dtype=torch.uint8)
    network.place(device, config.train.channels_last)
    images, began, expected = batch[:2], time.perf_counter(), {}  # expected: {number of images: norms in fp32}

    def step(precision):
        try:
            with torch.random.fork_rng(devices=[]):
                with autocast(device, precision):
                    logits = network(**network.normalize({"image": images}))
                (logits.float() - 1).square().mean().backward()
            gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
            norms = torch.stack(torch._foreach_norm(gradients)).float()
        except RuntimeError:  # a layer without a kernel in this precision
            if precision == "fp32":
                raise
            return math.nan
        network.zero_grad()
        fp32 = norms if precision == "fp32" else expected[len(images)]
        expected[len(images)] = fp32
        counts = fp32 > fp32.max() * 1e-3
        is_alike = ((norms > fp32 / _ALIKE) & (norms < fp32 * _ALIKE))[counts].all()
        return norms.norm().item() if is_alike else math.nan

    for _ in range(2):  # the first warms up; two images that take long are enough
        start = time.perf_counter()
        step("fp32")
        seconds = time.perf_counter() - start
        if seconds > _STEP_SECONDS:
            break
    images = batch[: max(2, min(8, int(2 * _STEP_SECONDS / seconds)))]
    return step, _SECONDS - (time.perf_counter() - began)


def _describe_case(config):
    """Return what decides the speed, as plain containers: machine, torch, network, images."""
    return {
        "device": f"cpu: {name_cpu()}, {torch.get_num_threads()} threads",
        "version": f"torch {torch.__version__}",
        "channels_last": config.train.channels_last,
        "images": [config.train.batch_size, *config.image_size, config.competition.row_channels],
        "model": {key: value for key, value in asdict(config.model).items() if key != "weights"},
    }


def settle_place(run):
    """Settle augment.place=auto of a run.Run: on a GPU what its folder keeps, else what is timed there to be faster.

    On a CPU warps are cheapest in OpenCV, and features of a frozen backbone are computed once: both in the loader.
    """
    device, place = run.accelerator.device, "loader"
    if run.config.augment.place != "auto":
        return

    def recall():
        return recall_execution(run.folder, device).get("place")

    if device.type != "cpu" and not run.config.keeps_features:
        place = from_main(recall)
    if place is None:
        run.accelerator.print("timing training steps (augment.place=loader, device)", flush=True)
        timed = "loader", "augment.place=loader: the device does not take this augmentation"
        with suppress(UserError):
            timed = pick_place(device=time_place(run, "device"), loader=time_place(run, "loader"))

        def keep():
            with opening(run.folder.path):
                if kept := recall():
                    return kept, f"augment.place={kept}: as in the fold that was timed first"
                save_precision(run.folder, run.config.precision, device, place=timed[0])
            return timed

        place, words = from_main(keep)
        run.accelerator.print(words)
    run.config = _at(run, place).config


def _at(run, place):
    return replace(run, config=replace(run.config, augment=replace(run.config.augment, place=place)))


def pick_place(loader, device):
    """Return the place, by the seconds of a training step with each, and why; nan: an epoch has too few steps."""
    if np.isnan(loader + device):
        return "loader", f"augment.place=loader: not timed, an epoch has {_WARM_STEPS + _TIMED_STEPS} steps or fewer"
    place = "device" if device * _PLACE_MARGIN < loader else "loader"
    milliseconds = f"{1000 * loader:.1f} ms a step in the loader, {1000 * device:.1f} on the device"
    return place, f"augment.place={place}: timed, {milliseconds}"


def time_place(run, place):
    """Return the seconds of a training step of a run's next fold, with its loader and workers; nan: too few steps."""
    times, learner = [], build_learner(_at(run, place), run.unfinished[0])
    learner.start_epoch(0, run.config.seed)

    def after_step(progress):
        if len(times) in (0, _TIMED_STEPS):
            learner.network.pixel_mean.sum().item()  # waits for the device
        if progress.num_batches > _WARM_STEPS:
            times.append(time.perf_counter())
        if len(times) > _TIMED_STEPS:
            raise StopIteration  # no further step

    with suppress(StopIteration):
        train_one_epoch(learner, 0, after_step=after_step)
    learner.close()
    return (times[-1] - times[0]) / _TIMED_STEPS if len(times) > _TIMED_STEPS else np.nan
