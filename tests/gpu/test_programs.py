"""train.py and infer.py as whole programs on a GPU that is rehearsed: what they write is what a CPU writes."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from src.config.settings import REPOSITORY
from src.device import set_switches
from src.training import engine
from tests.gpu.rehearsal import rehearse
from tests.launch import run_here

CLASSES = list("abc")
COMPETITION = """competition:
  {root: data, train_table: train.csv, test_table: test.csv, train_image: '{id}.png', test_image: '{id}.png', id: id,
    label: label, task: multiclass, metric: log_loss, channels: 1}
"""
WORDS = [
    "competition=mine.yaml", "image_size=8", "model.backbone=simple_cnn", "model.pretrained=false", "model.kwargs={}",
    "model.kwargs.widths=[4,8]", "train.batch_size=4", "train.epochs=2", "schedule.warmup_epochs=0", "num_folds=2",
    "tracking=none", "report=false", "normalize=dataset", "threads=1", "optimizer.lr=0.01",
]  # fmt: skip
# what waits for the device, beside what tests/gpu/test_rehearsal.py allows a step: networks, states and averages
ALLOWED = {"resolve_device", "place", "pixel_stats", "<lambda>", "<dictcomp>", "load_weights", "after_epoch", "module"}
ALLOWED |= {"_check_finite", "_compute_gradient_norms", "train_one_epoch", "_save_mid_epoch"}


@pytest.fixture
def competition(tmp_path, few_samples, monkeypatch):
    """A folder with the competition mine.yaml of 24 training and 5 test images."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")  # so that a program's own ends with the test
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    for number, image in enumerate(rng.integers(0, 256, (29, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(folder / f"{number}.png")
    labels = [CLASSES[number % 3] for number in range(24)]
    pd.DataFrame({"id": range(24), "label": labels}).to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"id": range(24, 29)}).to_csv(folder / "test.csv", index=False)
    (tmp_path / "mine.yaml").write_text(COMPETITION)
    benchmark = torch.backends.cudnn.benchmark
    yield tmp_path
    set_switches(torch.device("cuda"), {})
    torch.backends.cudnn.benchmark = benchmark
    AcceleratorState._reset_state(reset_partial_state=True)


def read_numbers(folder, name):
    """Return the numbers of oof.csv and of the submission of a run."""
    tables = [pd.read_csv(folder / "outputs" / name / file) for file in ("oof.csv", "submission.csv")]
    return [table.select_dtypes("number").to_numpy() for table in tables]


def train_and_infer(folder, device, name, *words):
    run_here("train.py", *WORDS, *words, f"device={device}", f"name={name}", cwd=folder)
    run_here("infer.py", f"run=outputs/{name}", f"device={device}", "infer.tta=d4", cwd=folder)
    return read_numbers(folder, name)


SHARED = ["augment.place=device", "mix.prob=0.5", "train.average=ema"]
SOUP = ["train.average=soup", "train.select=best", "optimizer.accumulate_steps=2"]
SWA = ["train.average=swa", "checkpoint_minutes=0", "optimizer.clip_norm=1", "optimizer.lr=1e-3"]


@pytest.mark.parametrize(
    ("precision", "num_workers", "words"),
    [
        ("fp32", 1, SHARED),
        ("fp16", 0, SWA),
        pytest.param("bf16", 0, SOUP, marks=pytest.mark.slow),
        pytest.param("auto", 1, ["train.channels_last=false"], marks=pytest.mark.slow),
    ],
)
def test_what_a_gpu_writes_is_what_a_cpu_writes(competition, precision, num_workers, words):
    words = [f"train.num_workers={num_workers}", *words]
    with rehearse() as rehearsal:
        found = train_and_infer(competition, "cuda", "gpu", f"precision={precision}", *words)
    alike = {"auto": "bf16", "fp16": "fp32"}.get(precision, precision)
    expected = train_and_infer(competition, "cpu", "cpu", f"precision={alike}", *words)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 if precision == "fp32" else 2e-2)
    waiting = {function for _, function in rehearsal.waits}
    assert waiting <= ALLOWED | ({"_take_step"} if precision == "fp16" else set())


def test_a_run_that_is_stopped_within_an_epoch_resumes_on_a_gpu(competition, monkeypatch):
    words = [*WORDS, "device=cuda", "precision=fp16", "train.average=ema", "mix.prob=1", "train.num_workers=0"]
    words.append("fold=0")
    steps, take_step = [], engine._take_step

    def stop_at_the_fifth(*arguments):  # of the second epoch the second of three
        steps.append(len(steps))
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*arguments)

    with rehearse():
        run_here("train.py", *words, "name=whole", cwd=competition)
        monkeypatch.setattr(engine, "_take_step", stop_at_the_fifth)
        run_here("train.py", *words, "name=stopped", cwd=competition, status=143)
        printed, _ = run_here("train.py", *words, "name=stopped", cwd=competition)
    assert "fold 0: resumes after 2 of 3 batches of epoch 2" in printed
    whole, stopped = (pd.read_csv(competition / "outputs" / name / "fold0/val.csv") for name in ("whole", "stopped"))
    pd.testing.assert_frame_equal(whole, stopped, check_exact=True)


PROGRAM = """
import sys
sys.path.insert(0, {repository!r})
from src.training import engine
from tests.gpu.rehearsal import rehearse
from train import main
with rehearse():
    main(sys.argv[1:])
"""


@pytest.mark.nightly  # two processes import all
def test_two_gpus_train_a_fold_each_by_themselves(competition, monkeypatch):
    (competition / "train.py").write_text(PROGRAM.format(repository=str(REPOSITORY)))
    monkeypatch.setattr("src.launchers.REPOSITORY", competition)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with rehearse(num_devices=2):
        printed, _ = run_here("train.py", *WORDS, "precision=fp32", "name=gpus", cwd=competition)
    assert "2 folds, 2 at a time" in printed
    assert json.loads((competition / "outputs/gpus/execution.json").read_text()) == {"cuda": {"precision": "fp32"}}
    run_here("train.py", *WORDS, "precision=fp32", "name=cpu", "device=cpu", cwd=competition)
    found, expected = (pd.read_csv(competition / "outputs" / name / "oof.csv") for name in ("gpus", "cpu"))
    pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=0)
