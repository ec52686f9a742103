"""Inference: how much of its time is forward passes, and whether its memory grows with the number of test images.

The same networks, views and batch sizes are timed in turns: as infer.py predicts (files read, decoded, normalised,
viewed, averaged), and as forward passes alone on inputs in memory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import read_words, save_report, spread, summarize, table_text
from src.checkpointing.run_folder import RunFolder
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors
from src.files import save_text

USAGE = """usage: python -m benchmarks.inference [key=value ...]

  images=200               test images of the timing
  memory_images=250,1000   test images of the memory measurements, one fold without views; 0: none
  folds=5  tta=d4          of the run and its inference
  backbone=mobilenetv2_100  size=128  batch_size=64
  precision=auto  device=auto
  repeats=3                of each measurement, in turns
  output=outputs/benchmarks/inference.json

Images and weights of pneumonia are in the folder that the environment variable SHARED names (../shared if unset).
Target: the forward passes alone take at least .95 of the time of the whole prediction.
"""

DEFAULTS = {
    "images": "200", "memory_images": "250,1000", "folds": "5", "tta": "d4", "backbone": "mobilenetv2_100",
    "size": "128", "batch_size": "64", "precision": "auto", "device": "auto", "repeats": "3",
    "output": "outputs/benchmarks/inference.json",
}  # fmt: skip
TARGET = 0.95
COMPETITION = """competition:
  name: pneumonia_inference
  root: {root}
  train_table: train.csv
  test_table: test.csv
  id: id
  train_image: train/{{image}}
  test_image: test/{{image}}
  targets: [pneumonia]
  group: patient
"""
ROWS_PER_FOLD = 40


def make_competition(folder, shared, num_folds, num_images):
    """Lay out a few of the images as a competition, by links; return its YAML file.

    Raises:
        UserError: the images are missing.
    """
    folder, source = Path(folder), Path(shared).resolve() / "competitions" / "pneumonia"
    if not (source / "train.csv").is_file():
        raise UserError(f"{source}: no images there; set the environment variable SHARED to the folder that has them")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        if not (folder / name).exists():
            os.symlink(source / name, folder / name, target_is_directory=True)
    train = pd.read_csv(source / "train.csv", dtype=str)
    few = pd.concat([part.head(ROWS_PER_FOLD * num_folds // 2) for _, part in train.groupby("pneumonia")])
    few.assign(image=few["id"]).to_csv(folder / "train.csv", index=False)
    write_test_table(folder, pd.read_csv(source / "test.csv", dtype=str)["id"], num_images)
    save_text(folder / "competition.yaml", COMPETITION.format(root=json.dumps(str(folder))))
    return folder / "competition.yaml"


def write_test_table(folder, files, num_images):
    """Write test.csv with so many rows; files are repeated where there are fewer."""
    images = np.resize(np.asarray(files, dtype=str), num_images)
    frame = pd.DataFrame({"id": [f"{row:06d}" for row in range(num_images)], "image": images})
    frame.to_csv(Path(folder) / "test.csv", index=False)


def train_folds(given, competition, shared, output):
    """Train all folds for one epoch of 32 images, which is enough to predict; return the run folder."""
    words = [
        f"competition={competition}", "name=run", f"output_dir={output}", f"num_folds={given['folds']}",
        f"model.backbone={given['backbone']}", f"image_size={given['size']}", "train.epochs=1", "train.max_images=32",
        f"infer.batch_size={given['batch_size']}", f"precision={given['precision']}", f"device={given['device']}",
        "tracking=none", "report=false", "cache=off",
    ]  # fmt: skip
    weights = Path(shared).resolve() / "weights" / f"{given['backbone']}.safetensors"
    words.append(f"model.weights={weights}" if weights.is_file() else "model.pretrained=false")
    done = subprocess.run([sys.executable, "train.py", *words], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"training failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return Path(output) / "run"


def time_run(run_folder, tta, repeats):
    """Infer with a run; return {"predict_seconds", "forward_seconds", "ratios", "decodes_per_image", ...}."""
    from src.checkpointing.run_folder import load_run
    from src.data import dataset as loading
    from src.inference import predict as inference

    found = {"predict_seconds": [], "forward_seconds": []}
    predict, decode, decoded = inference.predict, loading.decode_image, []

    def decode_and_count(path, *words):
        decoded.append(path)
        return decode(path, *words)

    def predict_and_time(networks, loader, to_probs, precision, *, views=(), **words):
        loading.decode_image = decode_and_count
        device = next(networks[0].parameters()).device
        forwards = build_forwards(networks, loader, device, precision, views)
        forwards(warm_up=True)
        decoded.clear()
        for _ in range(repeats):
            began = _now(device)
            result = predict(networks, loader, to_probs, precision, views=views)
            found["predict_seconds"].append(_now(device) - began)
            began = _now(device)
            forwards()
            found["forward_seconds"].append(_now(device) - began)
        # worker processes count for themselves
        found["decodes_per_image"] = len(decoded) / repeats / loader.num_images if decoded else None
        found.update(num_images=loader.num_images, num_networks=len(networks), num_views=1 + len(views))
        found.update(precision=precision, device=str(device), threads=_threads())
        return result

    inference.predict = predict_and_time
    try:
        with tempfile.TemporaryDirectory() as output:
            folder, config = load_run([f"run={run_folder}", f"infer.tta=[{tta}]", f"infer.output={output}"])
            began = time.perf_counter()
            inference.infer_run(config, folder)
            measured = sum(found["predict_seconds"]) + sum(found["forward_seconds"])
            found["around_seconds"] = time.perf_counter() - began - measured  # networks built, tables, submission
    finally:
        inference.predict, loading.decode_image = predict, decode
    found["ratios"] = [
        forward / whole for forward, whole in zip(found["forward_seconds"], found["predict_seconds"], strict=True)
    ]
    return found


def build_forwards(networks, loader, device, precision, views):
    """Return a function that runs only the forward passes of one prediction; warm_up=True: one of each batch size."""
    import torch

    from src.device import autocast
    from src.training.engine import apply_view, to_device

    batch = next(iter(loader.batches(0)))
    batch, batch_size = to_device(batch["inputs"], device), len(batch["index"])
    sizes = [batch_size] * (loader.num_images // batch_size)
    if rest := loader.num_images % batch_size:
        sizes.append(rest)

    for network in networks:
        network.eval()

    @torch.inference_mode()
    def prepare():
        plain = networks[0].normalize(batch)
        views_of_batch = [plain, *(apply_view(view, plain) for view in views)]
        return {
            size: [{name: value[:size] for name, value in one.items()} for one in views_of_batch] for size in set(sizes)
        }

    prepared = prepare()

    @torch.inference_mode()
    def run(warm_up=False):
        for size in set(sizes) if warm_up else sizes:
            with autocast(device, precision):
                for inputs in prepared[size]:
                    for network in networks:
                        network(**inputs)

    return run


def _now(device):
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def _threads():
    import torch

    return torch.get_num_threads()


def measure_memory(run_folder):
    """Infer once without views; return the peak, in MB, of the memory that only this process uses."""
    import psutil

    from src.checkpointing.run_folder import load_run
    from src.inference.predict import infer_run

    process, peak, is_done = psutil.Process(), [0], threading.Event()

    def sample():
        while not is_done.wait(0.05):
            peak[0] = max(peak[0], process.memory_full_info().uss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        with tempfile.TemporaryDirectory() as output:
            folder, config = load_run([f"run={run_folder}", "infer.tta=[]", f"infer.output={output}"])
            infer_run(config, folder)
    finally:
        is_done.set()
        sampler.join()
    return peak[0] / 2**20


def run_benchmark(given, shared):
    """Train the run, time its inference and measure the memory; return the report's rows."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="inference_") as place:
        folder = Path(place) / "data"
        competition = make_competition(folder, shared, given["folds"], given["images"])
        print("training a run, about a minute", file=sys.stderr, flush=True)
        run_folder = train_folds(given, competition, shared, Path(place) / "outputs")
        timing = _in_process("time", run_folder, given["tta"], given["repeats"])
        rows.append({"kind": "speed", **timing})
        files = pd.read_csv(folder / "test.csv", dtype=str)["image"]
        for fold in RunFolder(run_folder).finished_folds()[1:]:
            shutil.rmtree(fold.path)
        for num_images in given["memory_images"]:
            if num_images:
                write_test_table(folder, files, num_images)
                rows.append({"kind": "memory", "num_images": num_images, **_in_process("memory", run_folder)})
    return rows


def _in_process(kind, *words):
    """Measure in its own process, whose last line is the result."""
    command = [sys.executable, "-m", "benchmarks.inference", kind, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{kind}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def describe(rows):
    """Return the report's rows as text."""
    speed = next(row for row in rows if row["kind"] == "speed")
    passes = speed["num_images"] * speed["num_networks"] * speed["num_views"]
    lines = [
        ("measured", "median (min..max)"),
        ("seconds of the whole prediction", summarize(speed["predict_seconds"])),
        ("seconds of the forward passes alone", summarize(speed["forward_seconds"])),
        ("forward passes / prediction", summarize(speed["ratios"], 3)),
        ("forward passes a second", f"{passes / spread(speed['predict_seconds'])['median']:.0f}"),
        ("seconds around it: networks, tables, submission", f"{speed['around_seconds']:.2f}"),
        ("times an image is decoded", speed["decodes_per_image"]),
    ]
    for row in rows:
        if row["kind"] == "memory":
            lines.append((f"peak memory with {row['num_images']} images, MB", f"{row['peak_mb']:.0f}"))
    return table_text(lines)


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    with one_line_errors():
        if words[:1] == ["time"]:
            print(json.dumps(time_run(words[1], words[2], int(words[3]))))
            return
        if words[:1] == ["memory"]:
            print(json.dumps({"peak_mb": measure_memory(words[1])}))
            return
        numbers = ("images", "folds", "size", "batch_size", "repeats")
        given = read_words(words, DEFAULTS, "benchmarks.inference", whole_numbers=numbers, lists=("memory_images",))
        rows = run_benchmark(given, os.environ.get("SHARED", "../shared"))
        print(describe(rows))
        save_report(
            given["output"], rows, ["python", "-m", "benchmarks.inference", *words], settings=given, target=TARGET
        )
        print(given["output"])


if __name__ == "__main__":
    main(sys.argv[1:])
