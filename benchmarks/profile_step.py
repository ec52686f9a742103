"""A profile of the training step: torch.profiler over an epoch of a few batches of train.py."""

import contextlib
import sys
import tempfile
from pathlib import Path

from benchmarks.report import table_text
from src.config.load import load_config
from src.errors import one_line_errors
from src.files import atomic_path

USAGE = """usage: python -m benchmarks.profile_step [key=value ...]

Takes the words of train.py, for one fold. Profiles the second of two epochs of ten batches, prints the slowest
operations, and writes a trace for https://ui.perfetto.dev to outputs/benchmarks/trace.json.
"""
_NUM_BATCHES, _NUM_SHOWN = 10, 10
_DATA = "next batch: read, augment, collate"


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    path = Path("outputs/benchmarks/trace.json")
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="profile_") as folder:
        own = [f"output_dir={folder}", "train.epochs=2", f"train.batches_per_epoch={_NUM_BATCHES}", "tracking=none"]
        own.append("report=false")
        profiler, seconds = profile_epoch(load_config(["fold=0", *words, *own]), path)
    print(report_text(profiler, seconds))
    print(f"\n{path}")


def profile_epoch(config, path):
    """Train the fold; return the profiler of its last epoch and that epoch's seconds; write its trace."""
    import torch  # here, since it takes seconds and a typo should not

    from src.training import fold, run

    train_one_epoch, profilers = fold.train_one_epoch, []

    def profiled(*arguments, **options):
        with torch.profiler.profile() as profiler:
            stats = train_one_epoch(*arguments, **options)
        profilers[:] = [profiler, stats.seconds]
        return stats

    fold.train_one_epoch = profiled
    try:
        with contextlib.redirect_stdout(sys.stderr):
            run.train_run(config)
    finally:
        fold.train_one_epoch = train_one_epoch
    with atomic_path(path) as temporary:
        profilers[0].export_chrome_trace(str(temporary))
    return profilers


def report_text(profiler, seconds):
    """Return a table of operations: milliseconds a batch on CPU and GPU, without the operations that they call."""
    rows = [["operation", "ms a batch", "share", "GPU ms a batch", "calls a batch"]]
    events = sorted(profiler.key_averages(), key=lambda one: -max(_milliseconds(one)))
    for event in events[:_NUM_SHOWN]:
        on_cpu, on_gpu = _milliseconds(event)
        name = _DATA if event.key.startswith("enumerate(DataLoader)") else event.key
        share = f"{on_cpu / (seconds * 1000 / _NUM_BATCHES):.1%}"
        rows.append([name[:44], f"{on_cpu:.2f}", share, f"{on_gpu:.2f}", f"{event.count / _NUM_BATCHES:.0f}"])
    return f"{seconds * 1000 / _NUM_BATCHES:.1f} ms a batch\n{table_text(rows)}"


def _milliseconds(event):
    """Return milliseconds a batch (on the CPU, on the GPU)."""
    return event.self_cpu_time_total / 1000 / _NUM_BATCHES, event.self_device_time_total / 1000 / _NUM_BATCHES


if __name__ == "__main__":
    main(sys.argv[1:])
