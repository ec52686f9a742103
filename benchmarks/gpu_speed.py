"""The GPU benchmark's figures of speed and memory; each list_* returns [(name, () -> row or LeftOut)]."""

import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context

import cv2
import joblib
import numpy as np
import torch

from benchmarks.gpu_case import (
    LeftOut,
    build_step,
    endless_loader,
    free,
    halve_until_it_fits,
    rates,
    repeat,
    shown,
    time_loader,
    write_competition,
)
from benchmarks.report import describe_machine, spread
from benchmarks.throughput import run_system
from benchmarks.throughput_cases import draw_photograph
from src.data.dataset import ImageDataset, build_loader
from src.data.transforms import build_resize
from src.device import share_cores
from src.errors import UserError, first_line
from src.inference.tta import build_views
from src.model.losses import probabilities
from src.model.network import build_network
from src.training.engine import predict, train_one_epoch

_MIX = ("mix.prob=1",)  # Mixup and CutMix on every batch
_ON_DEVICE = ("augment.place=device",)
_ALIKE = 8  # files of one drawn photograph


# the machine and its images ------------------------------------------------------------------------------------------
def list_machine(case):
    return [
        ("machine", partial(describe, case)),
        ("arithmetic", partial(time_arithmetic, case)),
        ("bus", partial(time_bus, case)),
    ]


def describe(case):
    """The GPU, its driver and state, and all versions."""
    try:
        torch.zeros(1, device=case.device).item()
    except (RuntimeError, AssertionError) as error:
        return {"no_cuda": first_line(error).split(". ")[0]}
    row = {"made_by": describe_machine(), "load_average": os.getloadavg()[0], "shown": f"{joblib.cpu_count()} cores"}
    if case.is_cuda:
        one = torch.cuda.get_device_properties(0)
        row |= {"gpu": one.name, "memory": one.total_memory, "capability": [one.major, one.minor]}
        row |= {"processors": one.multi_processor_count, "count": torch.cuda.device_count()}
        row |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "state": ask_nvidia_smi()}
        row["shown"] = f"{one.name}, {one.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, {row['shown']}"
    return row


def ask_nvidia_smi():
    """Return {field: text} of the driver, clocks, heat, power and load; {} without nvidia-smi."""
    fields = "driver_version,clocks.sm,clocks.max.sm,temperature.gpu,power.draw,power.limit,memory.used,utilization.gpu"
    try:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(zip(fields.split(","), done.stdout.strip().split(", "), strict=False)) if done.returncode == 0 else {}


def time_arithmetic(case):
    """TFLOP/s of a large matrix product in each precision: what no network exceeds."""
    side, found = 4096 if case.is_cuda else 256, {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        left = torch.randn(side, side, device=case.device, dtype=dtype)
        product = repeat(lambda left=left: left @ left, 10)
        product()
        found[name] = 10 * 2 * side**3 / min(case.time(product) for _ in range(3)) / 1e12
    text = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    return {"tflops": found, "shown": f"{text} TFLOP/s of a product"}


def time_bus(case):
    """GB/s from the host to the device, from pageable and from pinned memory."""
    size = (256 if case.is_cuda else 4) * 2**20
    pageable = torch.ones(size, dtype=torch.uint8)
    sources = {"pageable": pageable} | ({"pinned": pageable.pin_memory()} if case.is_cuda else {})
    found = {}
    for name, source in sources.items():
        copy = partial(source.to, case.device, non_blocking=True, copy=True)
        copy()
        found[name] = size / min(case.time(copy) for _ in range(3)) / 1e9
    return {
        "gb_per_second": found,
        "shown": ", ".join(f"{name} {value:.1f}" for name, value in found.items()) + " GB/s",
    }


def list_images(case):
    return [("JPEG files", partial(draw_images, case)), ("decoded cache", partial(fill_cache, case))]


def draw_images(case):
    """Photographs by a random number each, on all cores."""
    sizes, folder, began = case.sizes, case.folder / "train", time.perf_counter()
    folder.mkdir()
    with get_context("fork").Pool(joblib.cpu_count()) as pool:  # none of them touches the GPU
        draw = partial(_draw, str(folder), sizes.height, sizes.width)
        num_bytes = sum(pool.imap_unordered(draw, range(0, sizes.num_images, _ALIKE)))
    write_competition(case.folder, sizes.num_images)
    text = f"{sizes.num_images} of {sizes.width}x{sizes.height}, {num_bytes / sizes.num_images / 1000:.0f} kB each"
    return {"seconds": time.perf_counter() - began, "bytes": num_bytes, "shown": text}


def _draw(folder, height, width, first):
    """Write _ALIKE files of one photograph, each moved by another distance, since drawing takes 50 ms."""
    cv2.setNumThreads(1)
    image, num_bytes = draw_photograph(first, height, width), 0
    for number in range(first, first + _ALIKE):
        moved = np.roll(image, 31 * (number - first), axis=1)
        data = cv2.imencode(".jpg", moved, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        with open(f"{folder}/{number:04}.jpg", "wb") as file:
            num_bytes += file.write(data)
    return num_bytes


def fill_cache(case):
    """Decoding, resizing and writing, which a run does once."""
    began = time.perf_counter()
    case.train_data()
    took = time.perf_counter() - began
    return {"seconds": took, "shown": f"{case.sizes.num_images / took:,.0f} images/s decoded and written, once"}


# training ------------------------------------------------------------------------------------------------------------
def list_training(case):
    models = [(f"{model} at {case.sizes.image_size} px", partial(train, case, model)) for model in case.sizes.models]
    first = case.sizes.models[0]
    models.append((f"{first}, {_ON_DEVICE[0]}", partial(train, case, first, *_ON_DEVICE)))
    peers = (("Lightning", "lightning"), ("timm's script", "timm_script"))
    peers = [(f"{name}, {first}", partial(train_peer, case, system)) for name, system in peers]
    return [*models, *peers]


def train(case, model, *words):
    """The loop of train.py against the same step on one resident batch, by turns."""
    batch_size = find_batch_size(case, model, *_MIX)
    learner = case.learner(model, *_MIX, *words, f"train.batch_size={batch_size}")
    step, steps = build_step(learner, case.resident_batch(learner)), case.sizes.steps
    waits, epochs = [], iter(range(100))
    learner.train_loader = TimedLoader(learner.train_loader, waits)
    epoch = lambda: train_one_epoch(learner, next(epochs))  # noqa: E731
    epoch()  # workers start, kernels are chosen
    repeat(step, 3)()
    waits.clear()
    loop, pure = case.time_by_turns([epoch, repeat(step, steps)])
    num_images = learner.train_loader.num_images
    row = {
        "model": ", ".join([model, *words]), "batch_size": batch_size, "precision": learner.config.precision,
        "num_workers": learner.train_loader.num_workers,
        "loop": rates(num_images, loop), "pure": rates(num_images, pure),
        "share": spread(alone / whole for alone, whole in zip(pure, loop, strict=True)),
        "seconds": spread(loop), "wait_share": sum(waits) / sum(loop), "first_wait": max(waits),
        "gpu_busy": measure_busy(case, repeat(step, min(10, steps))),
        "lighter_data": name_lighter_data(learner.config),
    }  # fmt: skip
    row["copy_share"] = time_copy(case, batch_size) * steps / row["seconds"]["median"] if case.is_cuda else None
    learner.train_loader.close()
    alone = endless_loader(learner.train_loader.dataset, batch_size, row["num_workers"])
    row["loader"] = time_loader(alone, case.sizes.seconds, 1 + 3 * row["num_workers"])
    row["shown"] = (
        f"share {row['share']['median']:.2f} of .95 wanted; loop {shown(row['loop'])}, steps alone "
        f"{shown(row['pure'])}, loader alone {row['loader']:,.0f} images/s; {row['precision']}, batch {batch_size}"
    )
    return row


def find_batch_size(case, model, *words):
    """Return the largest batch that fits of the case's, halved."""

    def attempt(batch_size):
        learner = case.learner(model, *words, f"train.batch_size={batch_size}", "train.num_workers=0")
        shape = (batch_size, case.sizes.image_size, case.sizes.image_size, 3)
        build_step(learner, random_batch(case, shape))()
        case.synchronize()

    found = halve_until_it_fits(attempt, case.sizes.batch_size, 4)[1]
    free()
    return found


def random_batch(case, shape):
    """Return a batch of random pixels, and of the ten classes, on the device."""
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=case.device)
    targets = torch.nn.functional.one_hot(torch.arange(shape[0], device=case.device) % 10, 10).float()
    return {"inputs": {"image": images}, "target": targets}


class TimedLoader:
    """A Loader that notes how long the loop waits for each batch."""

    def __init__(self, loader, waits):
        self.loader, self._waits = loader, waits
        self.dataset, self.num_workers = loader._batches.dataset, loader._batches.num_workers

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def batches(self, *arguments):
        batches = self.loader.batches(*arguments)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._waits.append(time.perf_counter() - began)
            if batch is None:
                return
            yield batch


def name_lighter_data(config):
    """Return what makes the loader's work lighter, as this run is set."""
    if config.augment.place != "device":
        return f"set {_ON_DEVICE[0]}"
    if (config.train.num_workers or min(joblib.cpu_count(), 8)) < joblib.cpu_count():
        return f"set train.num_workers={joblib.cpu_count()}"
    return "set augment.preset=light"


def time_copy(case, batch_size):
    """Return the seconds that a batch's pixels take from pinned memory to the device."""
    pixels = torch.empty((batch_size, case.sizes.image_size, case.sizes.image_size, 3), dtype=torch.uint8)
    copy = partial(pixels.pin_memory().to, case.device, non_blocking=True)
    copy()
    return min(case.time(copy) for _ in range(5))


def measure_busy(case, function):
    """Return the share of a call's time in which the GPU works; None on a CPU."""
    if not case.is_cuda:
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        seconds = case.time(function)
    on_gpu = [one for one in profiler.events() if one.device_type == torch.autograd.DeviceType.CUDA]
    on_gpu = [one for one in on_gpu if not one.is_user_annotation]  # those span what they name
    return total_covered(sorted((one.time_range.start, one.time_range.end) for one in on_gpu)) / 1e6 / seconds


def total_covered(spans):
    """Return the length that sorted (start, end) cover, overlaps once."""
    total, last = 0.0, -math.inf
    for start, end in spans:
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def train_peer(case, system):
    """A peer's training on the same JPEG files, decoded in every epoch, as its users write it."""
    for package in ("lightning", "torchmetrics") if system == "lightning" else ():
        if find_spec(package) is None:
            raise LeftOut(f"{package} is not installed")
    needed = 45 if case.is_cuda else 0
    if case.seconds_left < needed:
        raise LeftOut(f"needs {needed} s")
    sizes = case.sizes
    task = {
        "table": str(case.folder / "peers.csv"), "images": str(case.folder / "train"), "backbone": sizes.models[0],
        "weights": None, "image_size": sizes.image_size, "batch_size": sizes.batch_size, "epochs": 2,
        "seed": 0, "device": case.device.type, "num_workers": joblib.cpu_count() if case.is_cuda else 0,
    }  # fmt: skip
    run = run_system(system, task)
    if "error" in run:
        print(run["stderr"], file=sys.stderr)
        raise UserError(run["error"])
    rate = run["measures"]["later_images_per_second"]
    text = f"{rate:,.0f} images/s from JPEG files, {run['precision']}, {task['num_workers']} workers"
    return {"peer": system, "images_per_second_of_peer": rate, "task": task, "shown": text}


# the data path -------------------------------------------------------------------------------------------------------
def list_data(case):
    cores = joblib.cpu_count()
    counts = sorted({0, 1, *(2**power for power in range(1, 8) if 2**power < cores), cores} if case.is_cuda else {0, 1})
    preferred = sorted(counts, key=lambda count: (count not in (0, 8, cores), count))  # those that count come first
    figures = [(f"cache, {count} workers", partial(load, case, count, True)) for count in preferred]
    figures += [(f"JPEG files, {count} workers", partial(load, case, count, False)) for count in preferred]
    most = min(8, cores) if case.is_cuda else 1
    on_device = (f"cache, {most} workers, {_ON_DEVICE[0]}", partial(load, case, most, True, *_ON_DEVICE))
    return [on_device, *figures, ("decoding alone", partial(decode, case))]


def load(case, num_workers, is_cached, *words):
    """The loader alone: read, augment, collate."""
    config, dataset = case.train_data(*words, *(() if is_cached else ("cache=off",)))
    assert bool(dataset.caches) == is_cached
    share_cores(case.device, num_workers, config.threads)
    loader = endless_loader(dataset, min(64, case.sizes.batch_size), num_workers)
    rate = time_loader(loader, case.sizes.seconds, 1 + 3 * num_workers)
    found = {"num_workers": num_workers, "is_cached": is_cached, "words": words, "images_per_second": rate}
    return found | {"shown": f"{rate:,.0f} images/s"}


def decode(case):
    """JPEG files -> pixels: OpenCV on one core and on all, torchvision on the device (nvJPEG on a GPU)."""
    paths = sorted((case.folder / "train").iterdir())[: 512 if case.is_cuda else 16]
    files = [np.fromfile(path, np.uint8) for path in paths]
    read = partial(cv2.imdecode, flags=cv2.IMREAD_COLOR)
    found = {"OpenCV, 1 core": len(files) / case.time(lambda: [read(one) for one in files])}
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        found["all cores"] = len(files) / case.time(lambda: list(pool.map(read, files)))
    name, reason = ("nvJPEG" if case.is_cuda else "torchvision"), ""
    try:
        from torchvision.io import decode_jpeg

        data = [torch.from_numpy(one) for one in files]
        decode_all = partial(decode_jpeg, data, device=str(case.device))
        decode_all()
        found[name] = len(files) / case.time(decode_all)
        ours, theirs = read(files[0])[..., ::-1].astype(int), decode_jpeg(data[0], device=str(case.device)).cpu()
        found["largest_difference"] = int(np.abs(ours - theirs.permute(1, 2, 0).numpy()).max())
    except (ImportError, RuntimeError) as error:
        reason = f"; {name}: {str(error).splitlines()[0]}"
    speeds = {key: value for key, value in found.items() if key != "largest_difference"}
    text = ", ".join(f"{key} {value:,.0f}" for key, value in speeds.items())
    return {"decoding": found, "shown": f"{text} images/s{reason}"}


# inference -----------------------------------------------------------------------------------------------------------
def list_inference(case):
    return [
        (f"{count} networks, {' '.join(views) or 'no views'}", partial(infer, case, count, views))
        for count, views in ((1, ()), (5, ("d4",)), (5, ()), (1, ("d4",)))
    ]


def infer(case, num_networks, tta):
    """As infer.py predicts, from JPEG files, against the forward passes alone."""
    from benchmarks.inference import build_forwards

    run = case.run(case.sizes.models[0])  # which predicts twice train.batch_size at once
    config, views = run.config, build_views(list(tta), run.config.image_size)
    most = min(len(run.table), 2048, max(256, 10_000 // (num_networks * (1 + len(views)))))
    table, views = run.table.take(np.arange(most)), list(views.values())
    networks = [build_network(config, 10).place(case.device, None).eval() for _ in range(num_networks)]
    loader = build_loader(
        ImageDataset(table, config.competition, build_resize(config), 0), config.eval_batch_size, run.num_workers
    )
    forwards = build_forwards(networks, loader, case.device, config.precision, views)
    to_probs = partial(probabilities, task="multiclass")
    whole = partial(predict, networks, loader, to_probs, config.precision, views=views)
    forwards(warm_up=True)
    whole()
    predicted, alone = case.time_by_turns([whole, forwards])
    loader.close()
    rate, share = rates(len(table), predicted), spread(one / all_ for all_, one in zip(predicted, alone, strict=True))
    text = f"{shown(rate)} images/s, forwards alone {share['median']:.2f} of it"
    return {
        "num_networks": num_networks, "num_views": 1 + len(views), "images_per_second_of_inference": rate,
        "forward_share": share, "precision": config.precision, "shown": text,
    }  # fmt: skip


# memory --------------------------------------------------------------------------------------------------------------
_VARIANTS = {
    "as set": (), "channels_last=false": ("train.channels_last=false",),
    "grad_checkpointing": ("model.grad_checkpointing=true",), "compiled": ("train.compile=true",),
}  # fmt: skip


def list_memory(case):
    figures = [(f"{model}, peaks", partial(measure_peaks, case, model)) for model in reversed(case.sizes.models)]
    return figures + [(f"{model}, batch", partial(find_largest, case, model)) for model in case.sizes.models]


def measure_peak(case, model, batch_size, *words):
    """Return the bytes that are allocated at most in two training steps; on a CPU those of this process."""
    learner = case.learner(model, f"train.batch_size={batch_size}", "train.num_workers=0", *words)
    shape = (batch_size, case.sizes.image_size, case.sizes.image_size, 3)
    step = build_step(learner, random_batch(case, shape))
    if case.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    repeat(step, 2)()
    case.synchronize()
    if case.is_cuda:
        return torch.cuda.max_memory_allocated()
    import psutil

    return psutil.Process().memory_info().rss


def measure_peaks(case, model):
    """Of a batch of 64; compiled only for the last network, whose blocks are alike: a minute for others."""
    batch_size, found = min(64, case.sizes.batch_size), {}
    for name, words in _VARIANTS.items():
        if name == "compiled" and model != case.sizes.models[-1]:
            continue
        with suppress(LeftOut):
            if name == "compiled":
                case.check_can_compile(30)
            found[name] = measure_peak(case, model, batch_size, *words)
            free()
    text = ", ".join(f"{name} {value / 2**30:.2f}" for name, value in found.items())
    return {"peaks": found, "batch_size": batch_size, "shown": f"GiB of batch {batch_size}: {text}"}


def find_largest(case, model):
    """The largest batch that trains, by halving from what two small ones say."""
    if not case.is_cuda:
        raise LeftOut("a CPU's memory is not this network's alone")
    peaks = []
    for size in (16, 32):
        peaks.append(measure_peak(case, model, size))
        free()
    usable = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    estimate = estimate_batch(*peaks, 0.92 * usable)
    _, fits = halve_until_it_fits(partial(measure_peak, case, model), estimate)
    return {"estimate": estimate, "fits": fits, "shown": f"{fits} images train (estimated {estimate})"}


def estimate_batch(peak_of_16, peak_of_32, usable):
    """Return the images that fill the usable bytes, where a batch costs a constant and so much an image; at least 1."""
    image = max(1.0, (peak_of_32 - peak_of_16) / 16)
    return max(1, int((usable - (peak_of_16 - 16 * image)) / image))


# switches ------------------------------------------------------------------------------------------------------------
def list_switches(case):
    cnn, vit = case.sizes.models[0], case.sizes.models[-1]
    fp32 = ("precision=fp32",)
    figures = {
        f"channels_last, {cnn}": partial(
            compare, case, cnn, [("train.channels_last=true",), ("train.channels_last=false",)]
        ),
        f"pinned memory, {cnn}": partial(compare, case, cnn, [(), ()], copies=(True, False)),
        f"fused optimizer, {vit}": partial(
            compare, case, vit, [("optimizer.kwargs={fused: true}",), ("optimizer.kwargs={foreach: true}",)]
        ),
        f"cudnn.benchmark, {cnn}": partial(compare, case, cnn, [(), ()], flag="benchmark"),
        f"TF32, fp32, {cnn}": partial(compare, case, cnn, [fp32, fp32], flag="tf32"),
        f"TF32, fp32, {vit}": partial(compare, case, vit, [fp32, fp32], flag="tf32"),
        f"compile, {vit}": partial(compare, case, vit, [("train.compile=true",), ("train.compile=false",)]),
        f"compile, {cnn}": partial(compare, case, cnn, [("train.compile=true",), ("train.compile=false",)]),
    }  # fmt: skip
    return list(figures.items())


def compare(case, model, words, copies=None, flag=None):
    """Steps with a switch against those without, by turns.

    words: of the learner with, and without; copies: whether each copies its batch from pinned memory; flag: benchmark
    or tf32, of the process.
    """
    if "train.compile=true" in words[0]:
        case.check_can_compile(30)
    if flag and not case.is_cuda:
        raise LeftOut("no such switch on a CPU")
    batch_size = find_batch_size(case, model, *words[1])
    shape, functions = (batch_size, case.sizes.image_size, case.sizes.image_size, 3), []
    for number, one in enumerate(words):
        step = build_step(case.learner(model, *one, f"train.batch_size={batch_size}", "train.num_workers=0"),
                          batch := random_batch(case, shape))  # fmt: skip
        if copies:
            step = copying(case, step, batch, copies[number])
        functions.append(partial(with_flag, flag, number == 0, repeat(step, max(2, case.sizes.steps // 4))))
    for function in functions:
        function()
    with_, without = case.time_by_turns(functions, 5 if case.is_cuda else 2)
    ratio = spread(off / on for on, off in zip(with_, without, strict=True))
    text = f"{shown(ratio, 2)} times as fast with it (batch {batch_size})"
    return {"batch_size": batch_size, "with": with_, "without": without, "ratio": ratio, "shown": text}


def copying(case, step, batch, is_pinned):
    """Return the step, which first copies its images from the host."""
    source = batch["inputs"]["image"].cpu()
    source = source.pin_memory() if is_pinned and case.is_cuda else source

    def run():
        batch["inputs"]["image"] = source.to(case.device, non_blocking=True)
        step()

    return run


def with_flag(flag, is_on, function):
    """Call the function with a switch of the process set, and then as it was."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        if flag == "benchmark":
            cudnn.benchmark = is_on
        elif flag == "tf32":
            cudnn.allow_tf32 = is_on
            torch.set_float32_matmul_precision("high" if is_on else "highest")
        return function()
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])
