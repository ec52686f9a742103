"""One run: folds one at a time or at once, in one process or two; what a second command on it may change."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from src.device import has_bf16_units
from tests.launch import TINY, run_here, run_program

DIGITS = [str(digit) for digit in range(10)]


def read(path):
    return pd.read_csv(path, dtype={"id": str, "label": str})


def test_the_same_command_skips_and_another_config_is_refused(tiny_run):
    folder, _ = tiny_run
    before = (folder / "outputs/demo_default/oof.csv").read_bytes()
    printed, _ = run_here("train.py", *TINY, cwd=folder)
    assert "fold 0: already finished" in printed
    assert "fold 1: already finished" in printed
    assert (folder / "outputs/demo_default/oof.csv").read_bytes() == before
    _, refused = run_here("train.py", *TINY, "optimizer.lr=0.5", cwd=folder, status=2)
    was = re.search(r"was ([\d.e-]+)", refused)[1]
    assert refused == (
        f"error: outputs/demo_default: trained with other settings: optimizer.lr=0.5 (was {was}); "
        "choose name=ANOTHER or overwrite=true\n"
    )


def test_a_first_mistake_is_not_in_the_way_and_overwrite_deletes_nothing_for_a_mistake(tiny_run):
    folder, _ = tiny_run
    words = [*TINY, "fold=0", "name=again"]
    run_here("train.py", *words, "competition.label=species", cwd=folder, status=2)
    run_here("train.py", *words, "optimizer.lr=1e30", cwd=folder, status=2)
    run_here("train.py", *words, cwd=folder)
    done = folder / "outputs/again/fold0/meta.json"
    for wrong in ("model.backbone=resnet_typo", "competition.label=species", "optimizer.name=adamm"):
        run_here("train.py", *words, "overwrite=true", wrong, cwd=folder, status=2)
        assert done.exists(), wrong
    run_here("train.py", *words, "overwrite=true", "seed=8", cwd=folder)
    assert "seed: 8" in (folder / "outputs/again/config.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["model.pretrained=true", "model.weights=gone.safetensors"], "model.weights=gone.safetensors: "),
        (["model.backbone=resnet_typo"], "model.backbone=resnet_typo: not a timm model"),
        (["optimizer.name=adamm"], "optimizer.name=adamm: not one of torch's or timm's"),
        (["train.average=ema", "train.average_kwargs.decay=2"], "train.average_kwargs.decay=2: must be from 0 to"),
        (["schedule.kwargs.gamma=2", "schedule.name=step"], "schedule.kwargs.gamma=2: must be from 0 to 1"),
        (["loss.class_weights=[1,2]"], "loss.class_weights"),
    ],
)
def test_wrong_names_and_missing_weights_are_answered_before_anything_slow(tmp_path, words, error):
    printed, refused = run_here("train.py", *TINY, *words, cwd=tmp_path, status=2)
    assert refused.startswith(f"error: {error}")
    assert not (tmp_path / "outputs/demo_default").exists()
    assert not list(tmp_path.rglob(".cache"))
    assert printed.splitlines()[0] == "outputs/demo_default: loading libraries, then the tables of demo"
    assert printed.splitlines()[1].startswith("building ")
    assert len(printed.splitlines()) == 2


def test_the_folds_of_a_run_cannot_change_between_its_folds(tiny_run):
    folder, _ = tiny_run
    folds = read(folder / "outputs/demo_default/folds.csv")
    folds.to_csv(folder / "mine.csv", index=False)
    words = [*TINY, "folds=mine.csv", "name=brought"]
    run_here("train.py", *words, "fold=0", cwd=folder)
    pd.testing.assert_frame_equal(read(folder / "outputs/brought/folds.csv"), folds)
    folds.assign(fold=1 - folds["fold"]).to_csv(folder / "mine.csv", index=False)
    _, error = run_here("train.py", *words, "fold=1", cwd=folder, status=2)
    assert error == (
        "error: outputs/brought/folds.csv: this run was trained on other folds or rows; "
        "choose name=ANOTHER or overwrite=true\n"
    )


def test_folds_one_at_a_time_and_without_the_cache_end_as_all_at_once(tiny_run):
    folder, printed = tiny_run
    assert ".npy: 1437 decoded images, 0.0 GB, made in " in printed
    for fold in (1, 0):
        printed, _ = run_here("train.py", *TINY, f"fold={fold}", "name=apart", "cache=off", cwd=folder)
    assert "2 of 2 folds" in printed
    together = read(folder / "outputs/demo_default/oof.csv")
    pd.testing.assert_frame_equal(read(folder / "outputs/apart/oof.csv"), together)


def test_a_run_keeps_what_its_first_fold_was_computed_with(tiny_run):
    """What was timed in the first fold holds for the run's other folds and for inference."""
    folder, _ = tiny_run
    words = [*TINY, "precision=auto", "train.epochs=1", "name=timed"]
    line = r"^precision=(\w+): timed, "
    printed, _ = run_here("train.py", *words, "fold=0", cwd=folder)
    timed = re.search(line, printed, re.MULTILINE)
    assert (timed is not None) == has_bf16_units()  # without them there is nothing to choose
    precision = timed[1] if timed else "fp32"
    path = folder / "outputs/timed/execution.json"
    assert json.loads(path.read_text()) == {"cpu": {"precision": precision}}
    assert "precision: auto" in (folder / "outputs/timed/config.yaml").read_text()

    def infer(*words):
        run_here("infer.py", "run=outputs/timed", *words, cwd=folder)
        return (folder / "outputs/timed/fold0/test.csv").read_bytes()

    half = '{"cpu": {"precision": "bf16"}}'
    path.write_text(half)
    assert infer() != infer("precision=fp32")
    printed, _ = run_here("train.py", *words, "fold=1", cwd=folder)
    assert not re.search(line, printed, re.MULTILINE)
    assert json.loads(path.read_text()) == json.loads(half)


def test_loader_processes_change_nothing(tiny_run):
    folder, _ = tiny_run
    run_here("train.py", *TINY, "fold=0", "train.num_workers=2", "name=workers", cwd=folder)
    one, other = (read(folder / f"outputs/{name}/fold0/val.csv") for name in ("demo_default", "workers"))
    # the number of threads changes sums in the last digits
    np.testing.assert_allclose(one[DIGITS], other[DIGITS], atol=1e-4)


@pytest.mark.slow
def test_two_processes_predict_as_one(tiny_run):
    """At the same global batch; every validation row is scored once (predict_validation asserts it)."""
    folder, _ = tiny_run
    words = [*TINY, "fold=0", "device=cpu", "optimizer.name=sgd", "optimizer.lr=0.05"]
    run_here("train.py", *words, "train.batch_size=32", "name=single", cwd=folder)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_program("train.py", *words, "train.batch_size=16", "name=double", cwd=folder, launcher=launcher)
    one, two = (read(folder / f"outputs/{name}/fold0/val.csv") for name in ("single", "double"))
    assert one["id"].tolist() == two["id"].tolist()
    np.testing.assert_allclose(one[DIGITS], two[DIGITS], atol=1e-4)


def test_a_run_stops_before_a_fold_that_does_not_fit_into_its_time_budget(tiny_run):
    folder, _ = tiny_run
    _, error = run_here("train.py", *TINY, "name=late", "time_budget=3.9s", cwd=folder)  # saving may take twice 2 s
    assert error == "fold 0: not started, stopped by the end of time_budget; the same command resumes\n"
    assert (folder / "outputs/late/config.yaml").is_file()
    assert not (folder / "outputs/late/scores.json").exists()


def test_only_the_selected_epoch_s_weights_are_left(tiny_run):
    folder, _ = tiny_run
    words = [*TINY, "fold=0", "train.epochs=1", "train.select=best", "name=selected"]
    run_here("train.py", *words, cwd=folder)
    assert [path.name for path in (folder / "outputs/selected/fold0").glob("*.safetensors")] == ["best.safetensors"]
    scores = json.loads((folder / "outputs/selected/scores.json").read_text())
    assert (scores["select"], scores["last"]["folds"]) == ("best", scores["folds"])
    _, error = run_here("train.py", *words, "train.select=last", cwd=folder, status=2)
    assert "trained with other settings: train.select=last (was best)" in error
