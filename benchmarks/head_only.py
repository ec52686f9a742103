"""Head-only training on features computed once, compared with one forward pass and with a pass per epoch.

All of them run in this process one after the other, training by `train_run`; the forward pass is `engine.predict` over
the same files (reading, decoding and the backbone), or the backbone alone.
"""

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import read_words, save_report, summarize, table_text
from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors
from src.files import load_json

USAGE = """usage: python -m benchmarks.head_only [key=value ...]

  backbone=mobilenetv2_100  with a file of this name in SHARED/weights
  image_size=128
  epochs=10
  repetitions=3             of the pass and of training on features
  slow_folds=1              folds trained by a pass per epoch; the time is scaled to five
  output=outputs/benchmarks/head_only.json

The images are SHARED/competitions/pneumonia; SHARED is an environment variable.
"""
DEFAULTS = {
    "backbone": "mobilenetv2_100", "image_size": "128", "epochs": "10", "repetitions": "3", "slow_folds": "1",
    "output": "outputs/benchmarks/head_only.json",
}  # fmt: skip
NUM_FOLDS, AT_MOST, AT_LEAST = 5, 1.5, 20


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    numbers = ("image_size", "epochs", "repetitions", "slow_folds")
    with one_line_errors():
        asked = read_words(words, DEFAULTS, "benchmarks.head_only", whole_numbers=numbers)
        rows = measure(asked)
    save_report(asked["output"], rows, ["python", "-m", "benchmarks.head_only", *words])
    print(f"\n{report_text(rows, asked['slow_folds'])}\n\n{asked['output']}")


def measure(asked):
    """Return a row {"what", "seconds"[, "folds", "pooled"]} for each pass and run.

    Raises:
        UserError: images or weights are missing.
    """
    shared = Path(os.environ.get("SHARED", REPOSITORY.parent / "shared")).resolve()
    weights = shared / "weights" / f"{asked['backbone']}.safetensors"
    for path in (weights, shared / "competitions" / "pneumonia" / "train.csv"):
        if not path.is_file():
            raise UserError(f"{path}: no such file; set the environment variable SHARED")
    with tempfile.TemporaryDirectory(prefix="head_only_") as folder:
        words = [
            f"competition={write_competition(folder, shared)}", "recipe=head_only", "tracking=none", "report=false",
            f"image_size={asked['image_size']}", f"model.backbone={asked['backbone']}", f"model.weights={weights}",
            f"train.epochs={asked['epochs']}", f"output_dir={folder}/outputs",
        ]  # fmt: skip
        rows = []
        for repetition in range(asked["repetitions"]):
            own = [*words, f"cache_dir={folder}/cache{repetition}", f"name=fast{repetition}"]
            rows += time_passes(load_config(own))
            rows.append(time_run("features once", own))
        for fold in range(asked["slow_folds"]):
            own = [*words, f"cache_dir={folder}/cache", f"name=slow{fold}", f"fold={fold}", "train.views=0"]
            rows.append(time_run("a pass per epoch", own))
    return rows


def write_competition(folder, shared):
    """Write the competition file; return its path."""
    path = Path(folder) / "pneumonia.yaml"
    lines = [
        f"  root: {shared}/competitions/pneumonia",
        "  train_table: train.csv",
        "  targets: [pneumonia]",
        "  group: patient",
    ]
    path.write_text("\n".join(["competition:", *lines, ""]), encoding="utf-8")
    return path


def time_passes(config):
    """Return the seconds of one pass over all training files, and of the backbone alone on as many images."""
    import torch  # here, since it takes seconds and a typo should not

    from src.competition.tables import load_train_table
    from src.data.dataset import ImageDataset, build_loader
    from src.data.transforms import build_resize
    from src.device import autocast, resolve_device
    from src.model.network import build_network
    from src.training.engine import predict
    from src.training.execution import choose_precision

    device = resolve_device(config.device)
    precision = choose_precision(config, device)
    network = build_network(config, 1).place(device, config.train.channels_last)
    dataset = ImageDataset(load_train_table(config.competition), config.competition, build_resize(config), config.seed)
    loader = build_loader(dataset, config.eval_batch_size, num_workers=0)
    began = time.perf_counter()
    predict([network], loader, torch.sigmoid, precision)
    whole = time.perf_counter() - began
    pixels = torch.randint(0, 256, (config.eval_batch_size, *config.image_size, 3), dtype=torch.uint8)
    network.eval()
    began = time.perf_counter()
    with torch.inference_mode(), autocast(device, config.precision):
        for _ in range(len(loader)):
            network(**network.normalize({"image": pixels.to(device)})).sum().item()
    return [
        {"what": "one pass over the files", "seconds": whole},
        {"what": "the backbone alone", "seconds": time.perf_counter() - began},
    ]


def time_run(what, words):
    """Train; return the seconds of the whole `train_run` and the out-of-fold score."""
    from src.training.run import train_run

    config = load_config(words)
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        train_run(config)
    seconds = time.perf_counter() - began
    scores = load_json(RunFolder(config.run_folder).scores)
    return {"what": what, "seconds": seconds, "folds": scores["folds"], "pooled": scores["pooled"]}


def report_text(rows, slow_folds):
    """Return the table of seconds, the ratios with their targets, and the scores of the same folds."""
    times = {}
    for row in rows:
        times.setdefault(row["what"], []).append(row["seconds"])
    lines = [["", "seconds: median (smallest..largest)"], *([what, summarize(one)] for what, one in times.items())]
    fast, slow = times["features once"], sum(times["a pass per epoch"]) * NUM_FOLDS / slow_folds
    ratios = [["features once, all folds, against", "ratio", "wanted"]]
    for what in ("one pass over the files", "the backbone alone"):
        pairs = [one / other for one, other in zip(fast, times[what], strict=True)]
        ratios.append([what, summarize(pairs), f"at most {AT_MOST}" if what.startswith("one") else ""])
    times_faster = [slow / one for one in fast]
    ratios.append([f"a pass per epoch, of {slow_folds} folds x {NUM_FOLDS / slow_folds:g}", summarize(times_faster, 1),
                   f"at least {AT_LEAST} times faster"])  # fmt: skip
    once, *_ = [row for row in rows if row["what"] == "features once"]
    scores = [["fold", "features once", "a pass per epoch"]]
    for row in rows:
        if row["what"] == "a pass per epoch":
            scores += [[fold, f"{once['folds'][fold]:.5f}", f"{value:.5f}"] for fold, value in row["folds"].items()]
    return "\n\n".join(table_text(one) for one in (lines, ratios, scores))


if __name__ == "__main__":
    main(sys.argv[1:])
