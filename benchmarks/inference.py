"""How near infer.py comes to its networks' bare forward passes, and whether more test images take more memory.

The idea to know: the same networks, views and batch sizes are timed in turns, once as infer.py predicts (files read,
decoded, normalised, turned, averaged) and once as forwards alone on data that lie in memory as the networks want them.
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
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors
from src.files import save_text

USAGE = """usage: python -m benchmarks.inference [key=value ...]

  images=200               test images of the timing
  memory_images=250,1000   test images of the memory's measurements, one fold without views; 0: none
  folds=5  tta=d4          as trained and inferred
  backbone=mobilenetv2_100  size=128  batch_size=64
  precision=auto  device=auto
  repeats=3                of each measurement, in turns
  output=outputs/benchmarks/inference.json

Pictures and weights of pneumonia lie in the folder that the environment variable SHARED names (../shared if unset).
Target: the forwards alone take at least .95 of the time of the whole prediction.
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
    """Lay out a few of the pictures as a competition, by links; return its YAML file.

    Raises:
        UserError: the pictures are not at hand.
    """
    folder, source = Path(folder), Path(shared).resolve() / "competitions" / "pneumonia"
    if not (source / "train.csv").is_file():
        raise UserError(f"{source}: no pictures there; set the environment variable SHARED to the folder that has them")
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


def write_test_table(folder, pictures, num_images):
    """Write test.csv with so many rows; the pictures come again where there are fewer."""
    images = np.resize(np.asarray(pictures, dtype=str), num_images)
    frame = pd.DataFrame({"id": [f"{row:06d}" for row in range(num_images)], "image": images})
    frame.to_csv(Path(folder) / "test.csv", index=False)


def train_folds(given, competition, shared, output):
    """Train all folds for one epoch of 32 pictures, which is enough to predict; return the run folder."""
    words = [
        f"competition={competition}", "name=run", f"output_dir={output}", f"num_folds={given['folds']}",
        f"model.backbone={given['backbone']}", f"image_size={given['size']}", "train.epochs=1", "train.max_images=32",
        f"infer.batch_size={given['batch_size']}", f"precision={given['precision']}", f"device={given['device']}",
        "tracking=none", "cache=off",
    ]  # fmt: skip
    weights = Path(shared).resolve() / "weights" / f"{given['backbone']}.safetensors"
    words.append(f"model.weights={weights}" if weights.is_file() else "model.pretrained=false")
    done = subprocess.run([sys.executable, "train.py", *words], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the run could not be made: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return Path(output) / "run"


def time_run(run_folder, tta, repeats):
    """Infer with a run; return {"predict_seconds", "forward_seconds", "infer_seconds", "decodes_per_image", ...}."""
    from src.checkpointing.run_folder import load_run
    from src.data import loader as loading
    from src.inference import predict as inference

    found = {"predict_seconds": [], "forward_seconds": []}
    predict, decode, decoded = inference.predict, loading.decode_image, []

    def decode_and_count(path, *words):
        decoded.append(path)
        return decode(path, *words)

    def predict_and_time(networks, loader, device, precision, to_probs, views=(), **words):
        loading.decode_image = decode_and_count
        forwards = build_forwards(networks, loader, device, precision, views)
        forwards(warm_up=True)
        decoded.clear()
        for _ in range(repeats):
            began = _now(device)
            result = predict(networks, loader, device, precision, to_probs, views=views)
            found["predict_seconds"].append(_now(device) - began)
            began = _now(device)
            forwards()
            found["forward_seconds"].append(_now(device) - began)
        # loaders in processes of their own count for themselves
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
    """Return a function that runs the forwards of one prediction and nothing else; warm_up=True: one of each kind."""
    import torch

    from src.device import autocast

    batch = next(iter(loader.batches(0)))["image"].to(device)
    sizes = [len(batch)] * (loader.num_images // len(batch))
    if rest := loader.num_images % len(batch):
        sizes.append(rest)

    for network in networks:
        network.eval()

    @torch.inference_mode()
    def prepare():
        plain = networks[0].normalize(batch)
        is_last = plain.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if is_last else torch.contiguous_format
        shapes = [plain, *(view(plain) for view in views)]
        return {size: [one[:size].contiguous(memory_format=order) for one in shapes] for size in set(sizes)}

    inputs = prepare()

    @torch.inference_mode()
    def run(warm_up=False):
        for size in set(sizes) if warm_up else sizes:
            with autocast(device, precision):
                for images in inputs[size]:
                    for network in networks:
                        network(images)

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
    """Infer once without views; return the highest memory, in MB, that this process shared with none."""
    import psutil

    from src.checkpointing.run_folder import load_run
    from src.inference.predict import infer_run

    process, highest, is_over = psutil.Process(), [0], threading.Event()

    def watch():
        while not is_over.wait(0.05):
            highest[0] = max(highest[0], process.memory_full_info().uss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as output:
            folder, config = load_run([f"run={run_folder}", "infer.tta=[]", f"infer.output={output}"])
            infer_run(config, folder)
    finally:
        is_over.set()
        watcher.join()
    return highest[0] / 2**20


def run_benchmark(given, shared):
    """Make the run, time it and measure its memory; return the report's rows."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="inference_") as place:
        folder = Path(place) / "data"
        competition = make_competition(folder, shared, given["folds"], given["images"])
        print("a run is trained, a minute or so", file=sys.stderr, flush=True)
        run_folder = train_folds(given, competition, shared, Path(place) / "outputs")
        timing = _in_process("time", run_folder, given["tta"], given["repeats"])
        rows.append({"kind": "speed", **timing})
        pictures = pd.read_csv(folder / "test.csv", dtype=str)["image"]
        for fold in sorted(run_folder.glob("fold*/meta.json"))[1:]:
            shutil.rmtree(fold.parent)
        for num_images in given["memory_images"]:
            if num_images:
                write_test_table(folder, pictures, num_images)
                rows.append({"kind": "memory", "num_images": num_images, **_in_process("memory", run_folder)})
    return rows


def _in_process(kind, *words):
    """Measure in a process of its own; what it prints last is the answer."""
    command = [sys.executable, "-m", "benchmarks.inference", kind, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{kind}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def describe(rows):
    """Return the report's rows as text for people."""
    speed = next(row for row in rows if row["kind"] == "speed")
    passes = speed["num_images"] * speed["num_networks"] * speed["num_views"]
    lines = [
        ("measured", "median (min..max)"),
        ("seconds of the whole prediction", summarize(speed["predict_seconds"])),
        ("seconds of the forwards alone", summarize(speed["forward_seconds"])),
        ("forwards / prediction", summarize(speed["ratios"], 3)),
        ("forward passes a second", f"{passes / spread(speed['predict_seconds'])['median']:.0f}"),
        ("seconds around it: networks, tables, submission", f"{speed['around_seconds']:.2f}"),
        ("an image is decoded, times", speed["decodes_per_image"]),
    ]
    for row in rows:
        if row["kind"] == "memory":
            lines.append((f"highest memory with {row['num_images']} images, MB", f"{row['peak_mb']:.0f}"))
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
