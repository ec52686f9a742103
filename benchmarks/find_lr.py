"""The proposal of tools.find_lr against a grid of rates that were really trained, in five settings.

All runs are trained in this process, one fold each, by `train_run`; finished runs are skipped.
"""

import contextlib
import os
import sys
from pathlib import Path

from benchmarks.report import read_words, save_report, table_text
from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors
from src.files import load_json, save_text

USAGE = """usage: python -m benchmarks.find_lr [key=value ...]

  cases=demo_adam,demo_sgd,xrays_finetune,xrays_head_only,flowers_finetune
  output=outputs/benchmarks/find_lr   folder of the runs, sweeps and report.json

Images and weights are those of SHARED/competitions and SHARED/weights; SHARED is
an environment variable.
"""
_PRETRAINED = "image_size=64 augment.preset=light train.max_images=320 num_folds=10"
_SCRATCH = "model.kwargs={} train.max_images=480 train.batch_size=16 train.epochs=5"
CASES = {
    "demo_adam": f"competition=demo {_SCRATCH}",
    "demo_sgd": f"competition=demo {_SCRATCH} optimizer.name=sgd optimizer.lr=0.1",
    "xrays_finetune": f"competition=pneumonia recipe=finetune model.backbone=mobilenetv2_100 {_PRETRAINED}",
    "xrays_head_only": f"competition=pneumonia recipe=head_only model.backbone=mobilenetv2_100 {_PRETRAINED}",
    "flowers_finetune": f"competition=flowers recipe=finetune model.backbone=tf_efficientnet_lite0 {_PRETRAINED}",
}
COMPETITIONS = {
    "pneumonia": "train_table: train.csv, targets: [pneumonia], group: patient",
    "flowers": "train_table: train.csv, id: image_id, train_image: 'images/{image_id}.jpg', "
    "targets: [daisy, dandelion, rose, sunflower, tulip], task: multiclass",
}
OWN = "tracking=none report=false fold=0 train.num_workers=0 precision=fp32 train.channels_last=true threads=1"
DECADES = (-1, -0.5, 0, 0.5, 1)  # the grid, from the rate that the setting has
AT_MOST = 0.002  # of the score, that the proposal may be below the grid's best


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    with one_line_errors():
        defaults = {"cases": ",".join(CASES), "output": "outputs/benchmarks/find_lr"}
        asked = read_words(words, defaults, "benchmarks.find_lr")
        names, output, rows = asked["cases"].split(","), Path(asked["output"]), []
        if unknown := set(names) - set(CASES):
            raise UserError(f"cases={min(unknown)}: not one of {', '.join(CASES)}")
        for name in names:
            rows.append(try_case(name, output))
            save_report(output / "report.json", rows, ["python", "-m", "benchmarks.find_lr", *words])
    print(f"\n{report_text(rows)}\n\n{output / 'report.json'}")


def try_case(name, output):
    """Return {"case", "now", "proposal", "scores": {rate: score}} of one setting, its grid and proposal trained.

    Raises:
        UserError: images or weights are missing.
    """
    from tools.find_lr import find_lr, report

    words = [*place_competition(CASES[name], output), *OWN.split(), f"output_dir={output}", f"cache_dir={output}/cache"]
    config, sweep = load_config(words), output / f"{name}.png"
    with contextlib.redirect_stdout(sys.stderr):
        if not sweep.with_suffix(".json").is_file():
            report(config, *find_lr(config), sweep)
        now, proposal = config.optimizer.lr, load_json(sweep.with_suffix(".json"))["proposal"]["lr"]
        rates = sorted({float(f"{now * 10**decades:.2g}") for decades in DECADES} | {float(f"{proposal:.2g}")})
        scores = {rate: train(load_config([*words, f"optimizer.lr={rate}", f"name={name}_{rate:g}"])) for rate in rates}
    return {"case": name, "words": CASES[name], "now": now, "proposal": float(f"{proposal:.2g}"), "scores": scores}


def place_competition(text, output):
    """Return a case's words; a shared competition is replaced by a file that is written for it."""
    words, shared = text.split(), Path(os.environ.get("SHARED", REPOSITORY.parent / "shared")).resolve()
    name = words[0].partition("=")[2]
    if name not in COMPETITIONS:
        return words
    if not (root := shared / "competitions" / name).is_dir():
        raise UserError(f"{root}: no such folder; set the environment variable SHARED")
    save_text(output / f"{name}.yaml", f"competition: {{root: {root}, {COMPETITIONS[name]}}}\n")
    return [f"competition={output / name}.yaml", f"model.weights={shared / 'weights'}", *words[1:]]


def train(config):
    """Train a run unless it is finished; return its out-of-fold score, nan where the loss exploded."""
    from src.training.run import train_run

    scores = RunFolder(config.run_folder).scores
    if not scores.is_file():
        try:
            train_run(config)
        except UserError as error:
            if "loss is" not in str(error):
                raise
            return float("nan")
    return load_json(scores)["mean"]


def report_text(rows):
    """Return a table: each setting's rates with their scores, and how far the proposal is from the best."""
    lines = [["setting", "its rate", "proposal", "score", "best of the grid", "", "below it"]]
    for row in rows:
        scores = {float(rate): score for rate, score in row["scores"].items() if score == score}
        best = max(scores, key=scores.get)
        reached = scores.get(row["proposal"], 0.0)  # 0: its loss exploded
        verdict = "met" if scores[best] - reached <= AT_MOST else "MISSED"
        rates = [f"{row['now']:.1e}", f"{row['proposal']:.1e}", f"{reached:.4f}", f"{best:.1e}", f"{scores[best]:.4f}"]
        lines.append([row["case"], *rates, f"{scores[best] - reached:.4f} {verdict}"])
    return table_text(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
