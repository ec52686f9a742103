"""tools.auto beside fastai's fine_tune on competitions in miniature, at equal wall time; what each decision gave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.auto_cases import CASES, build_case
from benchmarks.report import read_words, save_report, table_text
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors
from src.files import load_json

USAGE = """usage: python -m benchmarks.auto [key=value ...]

  cases=xrays,flowers,...   left out: all of benchmarks/auto_cases.py
  systems=auto,fastai       fastai: pip install fastai, fine_tune(3) at 128 px
  seeds=0                   each cuts the case anew: 0,1,2
  factors=1                 tools.auto's time as a multiple of fastai's: 1,2,4
  seconds=fastai            fastai: its measured wall time, else rule: 50 s for
                            150 rows to 400 s for 7,500
  python=python             the interpreter that has fastai
  output=outputs/benchmarks/auto

Weights and real images are SHARED/weights and SHARED/competitions; SHARED is an
environment variable. Runs that are there already are not repeated. Prints, and
writes beside report.json as tables.md, the errors (1 - ROC AUC of the hidden
test rows) and what each of tools.auto's decisions gave.
"""
DEFAULTS = {
    "cases": ",".join(CASES), "systems": "auto,fastai", "seeds": "0", "factors": "1", "seconds": "rule",
    "python": sys.executable, "output": "outputs/benchmarks/auto",
}  # fmt: skip
_FASTAI_WEIGHTS = "mobilenetv2_100"


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        options = read_words(words, DEFAULTS, "benchmarks.auto", lists=("seeds", "factors"))
        output, names = Path(options["output"]).resolve(), options["cases"].split(",")
        if unknown := set(names) - set(CASES):
            raise UserError(f"cases={','.join(unknown)}: not known; the cases are {', '.join(CASES)}")
        weights = Path(os.environ.get("SHARED", REPOSITORY.parent / "shared")) / "weights"
        rows = []
        for name in names:
            for seed in options["seeds"]:
                folder = output / "cases" / f"{name}_{seed}"
                solution = build_case(CASES[name], folder, seed)
                rows += run_case(name, seed, folder, solution, weights, options, output)
                save_report(output / "report.json", rows, ["python", "-m", "benchmarks.auto", *words])
        text = f"{describe_errors(rows)}\n\n{describe_decisions(rows)}\n"
        (output / "tables.md").write_text(text)
        print(text)


def run_case(name, seed, folder, solution, weights, options, output):
    """Return the rows of one case: of fastai, and of tools.auto with each time."""
    rows, num_rows = [], CASES[name].num_train
    seconds = 50 + (num_rows - 150) * 350 / 7350
    if "fastai" in options["systems"]:
        path = output / "fastai" / f"{name}_{seed}.csv"
        words = [
            "-m",
            "benchmarks.systems.fastai_fine_tune",
            str(folder),
            str(weights / f"{_FASTAI_WEIGHTS}.safetensors"),
        ]
        took = run_once([options["python"], *words, str(path), str(seed)], path, path.with_suffix(".log"))
        error = compute_error(path, solution)
        rows.append({"case": name, "seed": seed, "system": "fastai", "seconds": took, "error": error})
        print(f"{name} {seed}: fastai {error:.5f}, {took:.0f} s", flush=True)
        seconds = took if options["seconds"] == "fastai" else seconds
    for factor in options["factors"] if "auto" in options["systems"] else ():
        run, budget = f"{name}_{seed}_x{factor}", round(factor * seconds)
        place, config = output / "auto" / run, output / "cases" / f"{name}_{seed}.yaml"
        if not config.is_file():
            subprocess.run(
                [sys.executable, "-m", "tools.adopt", str(folder), f"output={config}"], cwd=REPOSITORY, check=True
            )
        words = [f"competition={config}", f"time_budget={budget}s", f"model.weights={weights}", f"name={run}"]
        words = [sys.executable, "-m", "tools.auto", *words, f"output_dir={place.parent}"]
        took = run_once(words, place / "plan.json", place.parent / f"{run}.log")
        members = sorted((place.parent / f"{run}_members").glob("*/submission.csv"))
        used = [one["name"] for one in load_json(place / "plan.json")["members"]]
        row = {"case": name, "seed": seed, "system": f"auto x{factor}", "budget": budget, "seconds": took}
        row |= {"error": compute_error(place / "submission.csv", solution), "used": used}
        rows.append(row | {"members": {one.parent.name: compute_error(one, solution) for one in members}})
        print(f"{name} {seed}: auto x{factor} {row['error']:.5f}, {took:.0f} of {budget} s", flush=True)
    return rows


def run_once(command, path, log):
    """Run a command unless it has left `path`; return its seconds, which are kept beside the log."""
    kept = log.with_suffix(".seconds")
    if not (path.is_file() and kept.is_file()):
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("w") as file:
            done = subprocess.run(command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode or not path.is_file():
            raise UserError(f"{' '.join(command[:4])}: failed; look at {log}")
        kept.write_text(f"{time.monotonic() - began:.1f}")
    return float(kept.read_text())


def compute_error(path, solution):
    """Return 1 - the mean ROC AUC of a submission's columns."""
    truth = pd.read_csv(solution).set_index("id")
    probs = pd.read_csv(path).set_index("id").loc[truth.index]
    return 1 - float(np.mean([roc_auc_score(truth[name], probs[name]) for name in truth.columns]))


def describe_errors(rows):
    """Return a table of the errors, with fastai's as a multiple of tools.auto's."""
    table, cells = [["case", "seed", "system", "seconds", "error", "fastai's is"]], {}
    for row in rows:
        cells[row["case"], row["seed"], row["system"]] = row["error"]
    ratios = {}
    for row in rows:
        own = cells.get((row["case"], row["seed"], "fastai"))
        ratio = None if own is None or row["system"] == "fastai" else own / max(row["error"], 1e-5)
        if ratio:
            ratios.setdefault(row["system"], []).append(ratio)
        text = f"{ratio:.1f} times" if ratio else ""
        table.append([row["case"], row["seed"], row["system"], f"{row['seconds']:.0f}", f"{row['error']:.5f}", text])
    lines = [
        f"{system}: fastai's error is {np.exp(np.mean(np.log(found))):.1f} times as large (geometric mean of "
        f"{len(found)}), {min(found):.1f} times at least"
        for system, found in ratios.items()
    ]
    return "\n".join([table_text(table), "", *lines])


def describe_decisions(rows):
    """Return the factor by which each decision changed the hidden rows' error, with 95 % over cases and seeds."""
    steps = {
        "all backbones' features, not the best one's": (_best_probe, _joint_probe),
        "networks that learn beside the linear models": (_joint_probe, _blend),
        "the blend, not its best single input": (_best_single, _blend),
        "mirrored images in the first backbone's features": (_plain, _mirrored),
    }
    table, rng = [["decision", "runs", "error is multiplied by", "95 %"]], np.random.default_rng(0)
    for title, (before, after) in steps.items():
        logs = [np.log(max(b, 1e-6) / max(a, 1e-6)) for row in rows if "members" in row
                for a, b in [(before(row), after(row))] if a is not None and b is not None]  # fmt: skip
        if len(logs) < 2:
            continue
        drawn = np.exp(np.mean(rng.choice(logs, (2000, len(logs))), axis=1))
        low, high = np.quantile(drawn, (0.025, 0.975))
        table.append([title, len(logs), f"{np.exp(np.mean(logs)):.2f}", f"{low:.2f} to {high:.2f}"])
    return table_text(table)


def _best_probe(row):
    """The error of the best linear model on one backbone, None without a joint one to compare."""
    found = [
        error for name, error in row["members"].items() if name.startswith("probe_") and not name.endswith("_plain")
    ]
    return min(found) if found and "probe" in row["members"] else None


def _joint_probe(row):
    return row["members"].get("probe")


def _blend(row):
    return row["error"] if len(row["used"]) > 1 else None


def _best_single(row):
    return min(row["members"][name] for name in row["used"]) if len(row["used"]) > 1 else None


def _plain(row):
    return next((error for name, error in row["members"].items() if name.endswith("_plain")), None)


def _mirrored(row):
    name = next((name for name in row["members"] if name.endswith("_plain")), "").removesuffix("_plain")
    return row["members"].get(name)


if __name__ == "__main__":
    main(sys.argv[1:])
