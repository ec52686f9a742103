"""Which precision and memory format train a network fastest: a few timed steps, remembered by machine and network.

The choice changes a score's last digits, so noise must not change it: a rule goes first (fp32 on a CPU, bf16 or fp16 on
a GPU, channels_last), and another candidate replaces it only where its median step clearly beats the rule's fastest.
On a CPU bf16 is the only one, where there are instructions for it.
"""

import copy
import itertools
import math
import platform
import re
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from src.device import Execution, autocast, has_bf16_units, resolve_execution, resolve_precision
from src.errors import UserError, listing
from src.files import load_json, save_json
from src.model.freezing import open_stages
from src.model.network import build_network
from src.training.engine import first_step

_MARGIN = 1.2  # less is not worth rougher numbers, and two measurements on one machine differ by a tenth
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 20  # steps of each candidate; the first of them warms up
_GPU_SECONDS, _CPU_SECONDS = 6.0, 2.0  # no round begins that would end after them; on a GPU once the fewest are done
_CPU_STEP_SECONDS = 0.2  # on a CPU, steps take 2 to 8 images, as many as fit into this time


def recall_execution(run_folder, config, device):
    """Return the Execution that a RunFolder keeps for this kind of device, or None; the config's precision wins."""
    saved = _load_saved(run_folder).get(device.type)
    if saved is None:
        return None
    precision = saved.precision if config.precision == "auto" else resolve_precision(config.precision, device)
    return Execution(precision, saved.channels_last)


def save_execution(run_folder, execution, device):
    """Write into a run's execution.json what it is computed with on this kind of device."""
    saved = _load_saved(run_folder) | {device.type: execution}
    save_json(run_folder.execution, {kind: asdict(one) for kind, one in saved.items()})


def _load_saved(run_folder):
    """Return {kind of device: Execution} as a RunFolder keeps it."""
    if not run_folder.execution.is_file():
        return {}
    try:
        return {kind: Execution(**one) for kind, one in load_json(run_folder.execution).items()}
    except (AttributeError, TypeError):
        raise UserError(f"{run_folder.execution}: damaged; delete it and run the same command again") from None


def choose_execution(config, device):
    """Return the Execution in which the config's network trains fastest here; what the config names is kept.

    Nothing is timed where the config leaves nothing open, or where output_dir/execution.json has the same machine,
    versions, network and size. A timed choice is written there and printed.
    """
    candidates = list_candidates(config, device)
    if len(candidates) == 1:
        return candidates[0]
    path, case = Path(config.output_dir) / "execution.json", _describe_case(config, device)
    try:
        entries = [entry for entry in load_json(path) if isinstance(entry, dict)]
    except (OSError, UserError, TypeError):  # missing, damaged, or not what is written below
        entries = []
    for candidate in candidates:
        if {"case": case, "chosen": asdict(candidate)} in entries:
            return candidate
    precisions = listing(dict.fromkeys(one.precision for one in candidates))
    print(f"timing a few training steps ({precisions}) of {config.model.backbone}", flush=True)
    with first_step(config):
        step, budget = _build_step(config, device, {one.channels_last for one in candidates})
        seconds = time_steps(step, candidates, budget, 1 if device.type == "cpu" else _FEWEST_ROUNDS)
    chosen = pick_fastest(seconds)
    others = [entry for entry in entries if entry.get("case") != case]
    save_json(path, [*others, {"case": case, "chosen": asdict(chosen)}])
    print(describe_choice(seconds, chosen))
    return chosen


def list_candidates(config, device):
    """Return the Executions that may be chosen, the rule's first."""
    rule, is_cpu = resolve_execution(config, device), device.type == "cpu"
    precisions, formats = [rule.precision], [rule.channels_last]
    if config.precision == "auto" and (has_bf16_units() if is_cpu else device.type == "cuda"):
        precisions.append("bf16" if is_cpu else "fp32")
    if config.train.channels_last is None and not is_cpu:  # where no network was clearly slower in channels_last
        formats.append(False)
    return [Execution(precision, is_last) for is_last, precision in itertools.product(formats, precisions)]


def time_steps(step, candidates, budget, fewest=_FEWEST_ROUNDS, clock=time.perf_counter):
    """Return {candidate: [seconds]} of steps taken in turn, so that other load meets them all; [] of a failed one.

    The first step, which warms up, counts where there is no other.

    Args:
        step: candidate -> a number, not finite where it failed.
        budget: seconds; after `fewest` rounds none begins that would end later.
    """
    seconds, usable, began = {one: [] for one in candidates}, list(candidates), clock()
    for number in range(1, _MOST_ROUNDS + 1):
        for one in list(usable):
            start = clock()
            if math.isfinite(step(one)):
                seconds[one].append(clock() - start)
            else:
                usable.remove(one)
                seconds[one] = []
        ahead = sum(seconds[one][-1] for one in usable)
        if len(usable) < 2 or (number >= fewest and clock() - began + ahead > budget):
            break
    return {one: times[1:] or times for one, times in seconds.items()}


def pick_fastest(seconds):
    """Return the first candidate that did not fail, or a later one whose median step beats the chosen one's fastest."""
    usable = [one for one, times in seconds.items() if times]
    chosen = usable[0] if usable else next(iter(seconds))
    for one in usable:
        if median(seconds[one]) * _MARGIN < min(seconds[chosen]):
            chosen = one
    return chosen


def describe_choice(seconds, chosen):
    """Return the choice in words to paste, and how fast the best candidate of another precision or format is."""
    formats = {one: f"train.channels_last={str(one.channels_last).lower()}" for one in seconds}
    words = f"precision={chosen.precision} {formats[chosen]}"
    others = {one: min(times) for one, times in seconds.items() if times and one != chosen}
    if not others or not seconds[chosen]:
        return f"{words}: timed, no other gives finite numbers"
    best = min(others, key=lambda one: (one.precision == chosen.precision, others[one]))
    name = best.precision if best.precision != chosen.precision else formats[best]
    return f"{words}: timed, {name} is {min(seconds[chosen]) / others[best]:.1f} times as fast"


def _build_step(config, device, formats):
    """Return (step, the seconds that are left to time it).

    step: candidate -> the gradient's norm after one training step on random images; nan: it cannot be computed. The
    weights are random and stay so: only the time counts. All stages that open during training are open.
    formats: values of `channels_last` that are to be timed.
    """
    rule, size = resolve_execution(config, device), (*config.image_size, config.competition.channels)
    rng = {"devices": [device] if device.type == "cuda" else []}
    with torch.random.fork_rng(**rng):
        network = build_network(config, 1, load_pretrained=False)
        open_stages(network, config.train.epochs - 1)
        images = torch.randint(0, 256, (max(2, config.train.batch_size), *size), dtype=torch.uint8).to(device)
    networks = {is_last: copy.deepcopy(network).place(device, is_last) for is_last in formats}

    def step(candidate):
        network = networks[candidate.channels_last]
        try:
            with torch.random.fork_rng(**rng):
                with autocast(device, candidate.precision):
                    logits = network(**network.normalize({"image": images}))
                (logits.float() - 1).square().mean().backward()
            gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients).item()  # which also waits for the device
        except RuntimeError:  # a layer without a kernel in this precision, or not enough memory
            if candidate == rule:
                raise
            return math.nan
        network.zero_grad()
        return norm

    if device.type != "cpu":
        return step, _GPU_SECONDS
    batch, images, began = images, images[:2], time.perf_counter()
    for _ in range(2):  # the first warms up; two images that take long are enough
        start = time.perf_counter()
        step(rule)
        seconds = time.perf_counter() - start
        if seconds > _CPU_STEP_SECONDS:
            break
    images = batch[: max(2, min(8, int(2 * _CPU_STEP_SECONDS / seconds)))]
    return step, _CPU_SECONDS - (time.perf_counter() - began)


def _describe_case(config, device):
    """Return what decides the speed, as plain containers: machine, torch, network, images."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere `platform` knows the processor
        names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else []
        name = names[0] if names else platform.processor() or platform.machine()
    return {
        "device": f"{device.type}: {name}, {torch.get_num_threads()} threads",
        "version": f"torch {torch.__version__}",
        "asked": [config.precision, config.train.channels_last],
        "images": [config.train.batch_size, *config.image_size, config.competition.channels],
        "model": {key: value for key, value in asdict(config.model).items() if key != "weights"},
    }
