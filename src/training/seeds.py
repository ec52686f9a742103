"""Sibling runs: the same settings with several seeds, trained one after another by one command, and their spread."""

import os

import numpy as np
from accelerate.state import PartialState

from src.checkpointing.interrupts import Interrupts
from src.checkpointing.run_folder import RunFolder
from src.config.settings import seconds_of
from src.errors import Stopped, UserError
from src.files import load_json
from src.training.run import train_run


def train_runs(configs, commands):
    """Train runs one after another within one time budget: a Config and the words of its own command line for each.

    Of several, what ends one names it, and at the end their scores are printed.
    """
    first, is_main = configs[0], os.environ.get("RANK", "0") == "0"
    interrupts, stopped = Interrupts(first.checkpoint_minutes, seconds_of(first.time_budget), first.overwrite), None
    for number, (config, words) in enumerate(zip(configs, commands, strict=True), 1):
        where = f"seed {config.seed} ({number} of {len(configs)}, {config.run_folder})"
        if len(configs) > 1 and is_main:
            print(f"\n{where}", flush=True)
        try:
            train_run(config, words, interrupts)
        except UserError as error:
            raise error if len(configs) == 1 else UserError(f"{where}: {error}") from None
        except Stopped as stop:
            stopped = stop if len(configs) == 1 else Stopped(f"{where}: {str(stop).strip()}", stop.status)
            break
    if len(configs) > 1 and is_main:
        _print_seeds(configs)
    if stopped:
        raise stopped
    PartialState().destroy_process_group()


def _print_seeds(configs):
    """Print a line per seed with its score and interval, and the mean and spread of those that have one."""
    pooled, metric = [], configs[0].competition.metric
    print(f"\n{metric} by seed, out-of-fold")
    for config in configs:
        path = RunFolder(config.run_folder).scores
        scores = load_json(path, "pooled", "folds") if path.is_file() else {"pooled": None}
        pooled += [] if scores["pooled"] is None else [scores["pooled"]]
        found = "no fold is done"
        if "folds" in scores:
            interval = ", 95 % {:.5f} to {:.5f}".format(*scores["interval"]) if scores.get("interval") else ""
            found = f"{scores['pooled']:.5f}{interval}, folds {', '.join(scores['folds'])}"
        print(f"  seed {config.seed}: {found}")
    if len(pooled) > 1:
        print(f"mean {np.mean(pooled):.5f}, standard deviation {np.std(pooled, ddof=1):.5f} over {len(pooled)} seeds")
    folders = [str(config.run_folder) for config in configs]
    name = configs[0].run_folder.name.removesuffix(f"_seed{configs[0].seed}")
    if len(pooled) == len(folders) > 1:
        print(f"next: python infer.py run={folders[0]} (so each of them), then their blend:")
        print(f"python -m tools.blend {' '.join(folders)} name={name}_seeds")
