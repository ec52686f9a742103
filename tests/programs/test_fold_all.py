"""fold=all: one network on every row, for as many epochs as the folds chose; infer.py takes it alone or beside them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.launch import TINY, Forked, run_here

DIGITS = [str(digit) for digit in range(10)]


def read(path):
    return pd.read_csv(path, dtype={"id": str, "label": str})


@pytest.fixture
def run(tiny_run):
    """A copy of the finished run, outputs/copy, and the folder that it is in."""
    folder, _ = tiny_run
    shutil.rmtree(folder / "outputs/copy", ignore_errors=True)
    return folder, shutil.copytree(folder / "outputs/demo_default", folder / "outputs/copy")


def test_it_is_a_member_beside_the_folds_and_changes_none_of_them(run):
    folder, copy = run
    before = {name: (copy / name).read_bytes() for name in ("oof.csv", "scores.json", "fold0/val.csv")}
    printed, _ = run_here("train.py", *TINY, "name=copy", "fold=all", cwd=folder)
    assert "fold all: 96 training and 0 validation images" in printed
    assert printed.splitlines()[-1] == "next: python infer.py run=outputs/copy infer.folds=all"
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert {path.name for path in (copy / "foldall").iterdir()} == {"last.safetensors", "log.csv", "meta.json"}
    meta = json.loads((copy / "foldall/meta.json").read_text())
    assert (meta["fold"], meta["epoch"], meta["best_score"]) == ("all", 2, None)
    printed, _ = run_here("train.py", *TINY, "name=copy", "fold=all", cwd=folder)
    assert "fold all: already finished" in printed

    predictions = {}
    for which, shown in (("folds", "2 folds"), ("all", "foldall"), ("both", "2 folds and foldall")):
        printed, _ = run_here("infer.py", "run=outputs/copy", f"infer.folds={which}", cwd=folder)
        assert f"outputs/copy: 360 test images x {shown} x 1 views" in printed
        predictions[which] = read(copy / "submission.csv")[DIGITS].to_numpy()
    np.testing.assert_allclose(3 * predictions["both"], 2 * predictions["folds"] + predictions["all"], atol=1e-6)
    np.testing.assert_allclose(read(copy / "foldall/test.csv")[DIGITS], predictions["all"], atol=1e-6)
    assert np.abs(predictions["all"] - predictions["folds"]).max() > 0.01


@pytest.mark.slow
def test_it_trains_as_long_as_the_best_epoch_of_the_median_fold_with_a_schedule_that_ends_there(run):
    folder, _ = run
    words = [*TINY, "train.epochs=4", "train.select=best", "name=chosen"]
    run_here("train.py", *words, cwd=folder)
    for fold, best in ((0, 2), (1, 3)):
        path = folder / f"outputs/chosen/fold{fold}/meta.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"best_epoch": best}))
    printed, _ = run_here("train.py", *words, "fold=all", cwd=folder)
    assert "fold all: 3 epochs, as many as were best in the median fold" in printed
    run_here("train.py", *TINY, "train.epochs=3", "name=three", "fold=all", cwd=folder)
    names = ("chosen/foldall/best", "three/foldall/last")
    one, other = (load_file(folder / f"outputs/{name}.safetensors") for name in names)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "epochs: 4" in (folder / "outputs/chosen/config.yaml").read_text()


@pytest.mark.slow
def test_settings_that_need_more_epochs_than_the_folds_chose_get_them(run):
    folder, _ = run
    words = [*TINY, "train.epochs=4", "train.select=best", "name=warm", "schedule.warmup_epochs=2"]
    run_here("train.py", *words, cwd=folder)
    for fold in (0, 1):
        path = folder / f"outputs/warm/fold{fold}/meta.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"best_epoch": 1}))
    run_here("train.py", *words, "fold=all", cwd=folder)
    assert json.loads((folder / "outputs/warm/foldall/meta.json").read_text())["epoch"] == 3


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_alone_in_a_run_it_predicts_and_averages_work(run, average):
    folder, _ = run
    words = [*TINY, f"train.average={average}", f"name=all_{average}", "fold=all"]
    run_here("train.py", *words, cwd=folder)
    assert not (folder / f"outputs/all_{average}/oof.csv").exists()
    printed, _ = run_here("infer.py", f"run=outputs/all_{average}", cwd=folder)
    assert "360 test images x foldall x 1 views" in printed


def test_heads_on_features_take_every_row(run):
    folder, _ = run
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "w.safetensors")
    words = ["model.pretrained=true", "model.weights=w.safetensors", "model.freeze=head_only", "model.kwargs={}"]
    words += [*TINY, "competition.channels=3", "train.max_images=null", "name=heads", "fold=all"]
    printed, _ = run_here("train.py", *words, cwd=folder)
    assert "fold all: 1437 training and 0 validation images" in printed
    assert "features of 1437 images" in printed
    run_here("infer.py", "run=outputs/heads", cwd=folder)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["train.select=best"],
            "fold=all: train.select=best takes its epochs from the folds, of which 0, 1 are not finished; "
            "train them first, without fold=all, or set train.select=last and name=ANOTHER",
        ),
        (
            ["train.select=best", "overwrite=true"],
            "fold=all: train.select=best takes its epochs from the folds, which overwrite=true deletes; leave it out",
        ),
        (
            ["train.select=best", "train.average=soup"],
            "train.average=soup: picks its epochs by validation, which fold=all lacks; "
            "set train.average=swa name=ANOTHER",
        ),
        (
            ["schedule.name=plateau"],
            "schedule.name=plateau: follows the validation, which fold=all lacks; "
            "set schedule.name=cosine name=ANOTHER",
        ),
        (["fold=every"], "fold=every: no fold's number, which count from 0, and not all; write for example fold=0"),
    ],
)
def test_what_needs_a_validation_is_refused(run, words, line):
    folder, _ = run
    _, error = run_here("train.py", *TINY, "name=refused", "fold=all", *words, cwd=folder, status=2)
    assert error == f"error: {line}\n"
    assert not (folder / "outputs/refused").exists()


@pytest.mark.parametrize("value", ["-1", "1.5", "true", "[0,1]", "'0'"])
def test_no_number_of_a_fold(run, value):
    _, error = run_here("train.py", f"fold={value}", cwd=run[0], status=2)
    assert "no fold's number, which count from 0, and not all; write for example fold=0" in error


def test_infer_says_which_networks_are_not_there(run):
    folder, _ = run
    for which in ("all", "both"):
        _, error = run_here("infer.py", "run=outputs/copy", f"infer.folds={which}", cwd=folder, status=2)
        found = "fold=all is not trained to its end in outputs/copy; train it, or set infer.folds=folds"
        assert error == f"error: infer.folds={which}: {found}\n"


@pytest.mark.slow
def test_killed_it_resumes_and_ends_as_if_undisturbed(run):
    folder, _ = run
    log, words = folder / "all.log", [*TINY, "fold=all", "train.epochs=3", "checkpoint_minutes=0"]
    killed = Forked("train.py", [*words, "name=dead"], folder, log)
    assert killed.wait_for(lambda: any((folder / "outputs/dead/foldall").glob("state_0001_*[1-9].pt")))
    killed.kill()
    for name in ("dead", "live"):
        assert Forked("train.py", [*words, f"name={name}"], folder, log).status() == 0, log.read_text()
    assert "fold all: resumes after" in log.read_text()
    one, other = (folder / f"outputs/{name}/foldall/last.safetensors" for name in ("dead", "live"))
    assert one.read_bytes() == other.read_bytes()
