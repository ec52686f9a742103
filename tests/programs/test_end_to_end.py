"""The programs as their users run them: whole, in a folder of their own, checked by the files they leave."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from src.config.settings import REPOSITORY
from src.errors import UserError
from tests.launch import TINY, Forked, run_here, run_program
from tests.wandb_files import read_items, read_summary, read_wandb

DIGITS = [str(digit) for digit in range(10)]


def read(path):
    return pd.read_csv(path, dtype={"id": str, "label": str})


def test_a_run_leaves_what_the_readme_promises(tiny_run):
    folder, printed = tiny_run
    run = folder / "outputs" / "demo_default"
    train, oof = read(folder / "data/demo/train.csv"), read(run / "oof.csv")
    scores = json.loads((run / "scores.json").read_text())
    assert list(oof.columns) == ["id", "fold", *(f"target_{digit}" for digit in DIGITS), *DIGITS]
    targets = oof[[f"target_{digit}" for digit in DIGITS]].to_numpy()
    assert targets.argmax(axis=1).tolist() == train["label"].astype(int).tolist()
    assert oof["id"].tolist() == train["id"].tolist()
    assert oof["fold"].tolist() == read(run / "folds.csv")["fold"].tolist()
    np.testing.assert_allclose(oof[DIGITS].sum(axis=1), 1, atol=1e-5)
    expected = roc_auc_score(train["label"], oof[DIGITS], multi_class="ovr", labels=DIGITS)
    assert scores["pooled"] == pytest.approx(expected, abs=1e-9)
    assert scores["mean"] == pytest.approx(np.mean(list(scores["folds"].values())))
    assert set(scores["folds"]) == {"0", "1"}
    assert scores["seconds"] > 0
    assert f"{expected:.5f} pooled" in printed
    for fold in (0, 1):
        names = {path.name for path in (run / f"fold{fold}").iterdir()} - {"test.csv"}  # another test may infer first
        assert names == {"last.safetensors", "meta.json", "log.csv", "val.csv"}
        assert len(pd.read_csv(run / f"fold{fold}" / "log.csv")) == 2
    assert max(map(len, printed.splitlines())) <= 100


def test_inference_writes_the_samples_rows_and_prints_the_test_score(tiny_run):
    folder, _ = tiny_run
    run_here("infer.py", "infer.tta=scales", "infer.average=rank", cwd=folder)  # the newest run
    sample, solution = read(folder / "data/demo/sample_submission.csv"), read(folder / "data/demo/solution.csv")
    printed, _ = run_here("infer.py", "run=outputs/demo_default", cwd=folder)
    submission = read(folder / "outputs/demo_default/submission.csv")
    assert list(submission.columns) == list(sample.columns)
    assert submission["id"].tolist() == sample["id"].tolist()
    folds = [read(folder / f"outputs/demo_default/fold{fold}/test.csv").set_index("id") for fold in (0, 1)]
    mean = sum(folds).loc[sample["id"], DIGITS].to_numpy() / 2
    np.testing.assert_allclose(submission[DIGITS], mean, atol=1e-6)
    labels = solution.set_index("id")["label"][submission["id"]]
    expected = roc_auc_score(labels, submission[DIGITS], multi_class="ovr", labels=DIGITS)
    assert f"test roc_auc: {expected:.5f}" in printed


@pytest.mark.slow
def test_everything_at_once_survives_a_stop(tiny_run):
    """Averages, mixing, accumulation and bf16, stopped after an epoch and resumed; then inference."""
    folder, _ = tiny_run
    words = [
        *TINY, "fold=0", "train.average=ema", "train.average_kwargs.decay=0.9", "mix.prob=0.5",
        "optimizer.accumulate_steps=2", "optimizer.clip_norm=1", "precision=bf16", "model.drop_rate=0.2",
        "model.head_kwargs={widths: [16], dropout_samples: 3}", "model.pool=gem", "loss.name=focal",
        "schedule.name=onecycle", "augment.preset=heavy",
        "image_size=64",  # on 1x1 maps torch 2.15's bf16 gradients on a CPU are nan
    ]  # fmt: skip
    run_here("train.py", *words, "name=whole", cwd=folder)
    stopped = folder / "outputs/stopped/fold0"
    stop_after_an_epoch(folder, [*words, "name=stopped"], stopped)
    printed, _ = run_here("train.py", *words, "name=stopped", cwd=folder)
    assert "fold 0: resumes after epoch" in printed
    assert (stopped / "val.csv").read_bytes() == (folder / "outputs/whole/fold0/val.csv").read_bytes()
    printed, _ = run_here("infer.py", "run=outputs/whole", "infer.tta=d4", "infer.output=elsewhere", cwd=folder)
    assert "360 test images x 1 of 2 folds x 8 views" in printed
    assert read(folder / "elsewhere/submission.csv").shape == (360, 11)
    assert read(folder / "elsewhere/fold0/test.csv").shape == (360, 11)


@pytest.mark.slow
@pytest.mark.parametrize(
    "techniques",
    [
        ["train.average=swa", "train.average_kwargs.epochs=2", "schedule.name=plateau",
         "schedule.kwargs.patience_epochs=0", "model.kwargs={}", "model.freeze_batchnorm=false",
         "model.batchnorm_kwargs.momentum=0.3", "model.dropout2d_rate=0.1", "model.drop_path_rate=0.1",
         "optimizer.l1_penalty=0.01", "optimizer.layer_decay=0.8", "normalize=center", "loss.name=mse",
         "train.sampler=balanced", "augment.kwargs.augmix=3", "augment.augmix_consistency=12"],
        ["train.average=soup", "train.average_kwargs.epochs=2", "train.select=best", "schedule.name=multistep",
         "schedule.per=epoch", "optimizer.name=nesterov", "optimizer.lr=0.05", "model.head_kwargs.prior_bias=true",
         "model.kwargs.act_layer=silu", "loss.balance=true", "train.batches_per_epoch=5",
         "augment.kwargs={rand_augment: 5, erasing: 0.5, blur: 1}"],
        ["loss.name=auc", "optimizer.name=lion", "optimizer.lr=1e-3", "schedule.name=cosine_restarts",
         "train.early_stopping_epochs=2", "train.select=best", "optimizer.accumulate_steps=2"],
    ],
    ids=["swa", "soup", "auc"],
)  # fmt: skip
def test_techniques_together_survive_a_stop(tiny_run, techniques, request):
    folder, _ = tiny_run
    name = request.node.callspec.id
    words = [*TINY, "fold=0", *techniques, "train.epochs=3"]
    run_here("train.py", *words, f"name={name}", cwd=folder)
    whole, stopped = folder / f"outputs/{name}/fold0", folder / f"outputs/{name}_stopped/fold0"
    stop_after_an_epoch(folder, [*words, f"name={name}_stopped"], stopped)
    printed, _ = run_here("train.py", *words, f"name={name}_stopped", cwd=folder)
    assert "fold 0: resumes after epoch" in printed
    for path in (whole / "val.csv", *whole.glob("*.safetensors")):
        assert (stopped / path.name).read_bytes() == path.read_bytes(), path
    assert not list(whole.glob("epoch*.safetensors"))
    run_here("infer.py", f"run=outputs/{name}", f"infer.output={name}", cwd=folder)


def test_a_head_learns_the_same_on_features_computed_once_and_in_every_epoch(tiny_run):
    folder, _ = tiny_run
    weights = folder / "groupnorm.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=1, norm_layer="groupnorm1").state_dict(), weights)
    words = [*TINY, "model.pretrained=true", f"model.weights={weights}", "model.freeze=head_only", "optimizer.lr=0.1"]
    words += ["model.drop_rate=0.2", "precision=fp32"]
    once, _ = run_here("train.py", *words, "name=once", cwd=folder)
    slow = ["fold=0", "train.views=0", "augment.preset=none", "name=each"]
    each, _ = run_here("train.py", *words, *slow, cwd=folder)
    line = ".npy: features of 1437 images, 1 of each, for all folds"
    assert (once.count(line), each.count(line)) == (1, 0)
    one, other = (read(folder / f"outputs/{name}/fold0/val.csv")[DIGITS] for name in ("once", "each"))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.ptp(one.to_numpy()) > 0.1  # the head learned something

    again, _ = run_here("train.py", *words, "name=relearned", "fold=0", "optimizer.lr=0.2", cwd=folder)
    assert line not in again
    assert not np.allclose(read(folder / "outputs/relearned/fold0/val.csv")[DIGITS], one, atol=1e-5)
    several, _ = run_here("train.py", *words, "name=views", "fold=0", "train.views=3", cwd=folder)
    assert ".npy: features of 1437 images, 3 of each, for all folds" in several
    printed, _ = run_here("infer.py", "run=outputs/once", "precision=fp32", cwd=folder)
    assert "submission.csv: 360 rows, checked" in printed


def stop_after_an_epoch(folder, words, fold):
    """Run train.py and kill it when its first epoch is saved."""
    process = Forked("train.py", words, folder, folder / "stopped.log")
    process.wait_for(lambda: any(fold.glob("state_*.pt")))
    process.kill()


def test_a_killed_run_resumes_and_ends_the_same(tiny_run):
    folder, _ = tiny_run
    stop_after_an_epoch(folder, [*TINY, "name=killed", "fold=0"], folder / "outputs/killed/fold0")
    printed, _ = run_here("train.py", *TINY, "name=killed", "fold=0", cwd=folder)
    assert "fold 0: resumes after epoch 1" in printed
    for name in ("val.csv", "last.safetensors"):
        paths = (folder / f"outputs/{run}/fold0/{name}" for run in ("demo_default", "killed"))
        assert len({path.read_bytes() for path in paths}) == 1, name


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("train.py", ["trian.epochs=3"], "command line: unknown setting trian.epochs; did you mean train.epochs?"),
        ("infer.py", ["run=outputs/none"], "outputs/none: not a run (no config.yaml); train one with python train.py"),
        ("infer.py", ["output_dir=nowhere"], "nowhere: no run with a finished fold; train one with python train.py"),
        ("infer.py", ["run=outputs/demo_default", "train.epochs=3"],
         "command line: train.epochs was decided when outputs/demo_default was trained; infer.py takes run=, infer.*"),
        ("infer.py", ["run=outputs/demo_default", "infer.output=/proc/nothing"], "/proc/nothing: cannot be written ("),
        ("infer.py", ["run=outputs/started"], "outputs/started: no fold has finished an epoch; resume it with the "),
        ("train.py", [*TINY, "name=x1", "model.backbone=resnet10"],
         "model.backbone=resnet10: "),
        ("train.py", [*TINY, "name=x2", "optimizer.name=adamm"], "optimizer.name=adamm: not one of "),
        ("train.py", [*TINY, "name=x3", "optimizer.lr=1e30"], "epoch 1, step "),
        ("train.py", [*TINY, "name=x4", "competition.root=data/nothing", "competition.name=other"],
         "data/nothing: no such folder; set competition.root to the folder of the data"),
        ("train.py", [*TINY, "name=x5", "competition.label=species"], "data/demo/train.csv: no column 'species'"),
        ("train.py", [*TINY, "name=x3", "optimizer.lr=1e30", "train.max_images=32"], "fold 0, epoch 1: predictions"),
        ("train.py", [*TINY, "name=x6", "model.weights=no.pth", "model.pretrained=true"], "model.weights=no.pth: "),
        ("train.py", [*TINY, "name=x6", "competition.sample_submission=train.csv"], "data/demo/train.csv: "),
        ("train.py", [*TINY, "name=x6", "competition.train_table=none.csv"],
         "data/demo/none.csv: no such file; check competition.train_table"),
        ("train.py", [*TINY, "train.early_stopping_epochs=3"],
         "train.early_stopping_epochs=3: ends some epochs after the best one; set train.select=best"),
        ("train.py", [*TINY, "train.average=soup"],
         "train.average=soup: picks its epochs by validation; set train.select=best"),
        ("train.py", [*TINY, "name=x7", "augment.transforms=[{Rotate: {limt: 3}}]"], "augment.transforms"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_one_line_and_status_2(tiny_run, program, words, expected):
    folder, _ = tiny_run
    if words == ["run=outputs/started"]:
        run_here("train.py", *TINY, "name=started", "optimizer.lr=1e30", cwd=folder, status=2)
        (folder / "outputs/started/folds.csv").unlink()  # as a kill before it was written leaves the run
    _, error = run_here(program, *words, cwd=folder, status=2)
    assert error.count("\n") == 1, error
    assert error.startswith(f"error: {expected}")


def test_a_file_that_is_no_image_is_named_or_skipped(tiny_run):
    folder, _ = tiny_run
    shutil.copytree(folder / "data", folder / "broken" / "data")
    broken, test_broken = (sorted((folder / "broken/data/demo" / side).glob("*.png"))[0] for side in ("train", "test"))
    broken.write_bytes(b"not an image here.")
    test_broken.write_bytes(b"nor here")
    _, error = run_here("train.py", *TINY, cwd=folder / "broken", status=2)
    assert error == f"error: data/demo/train/{broken.name}: cannot be decoded as an image (18 bytes)\n"
    words = ["unreadable=skip", "overwrite=true"]
    printed, _ = run_here("train.py", *TINY, *words, cwd=folder / "broken")
    assert "1 of 1437 images cannot be decoded and are left out" in printed
    run = folder / "broken/outputs/demo_default"
    assert read(run / "unreadable.csv")["id"].tolist() == [broken.stem]
    assert broken.stem not in set(read(run / "oof.csv")["id"])
    printed, _ = run_here("infer.py", cwd=folder / "broken")
    assert f"{test_broken.stem}: gets the mean prediction" in printed
    submission = read(run / "submission.csv").set_index("id")
    np.testing.assert_allclose(submission.loc[test_broken.stem], submission.drop(test_broken.stem).mean(), atol=1e-4)


@pytest.mark.slow
def test_inference_ends_with_the_command_that_uploads(tiny_run, tmp_path):
    folder, _ = tiny_run
    words = ["run=outputs/demo_default", "competition.solution=null"]
    printed, _ = run_here("infer.py", *words, cwd=folder)
    assert printed.endswith("\nnext: python -m tools.kaggle submit outputs/demo_default\n")
    assert "test roc_auc" not in printed
    printed, _ = run_here("infer.py", *words, f"infer.output={tmp_path}/up", cwd=folder)
    assert "tools.kaggle" not in printed  # which looks for the file in the run's folder


def test_an_offline_wandb_run_holds_config_epochs_and_the_final_score(tiny_run):
    folder, _ = tiny_run
    words = [word for word in TINY if not word.startswith("tracking")]
    environment = {"WANDB_API_KEY": "", "HOME": str(folder)}
    run_program("train.py", *words, "tracking=wandb", "name=tracked", cwd=folder, **environment)
    found = read_wandb(folder / "outputs/tracked")
    config = {key: value for one in found["run"] for key, value in read_items(one.run.config.update).items()}
    history, summary = [read_items(one.history.item) for one in found["history"]], read_summary(found)
    scores = json.loads((folder / "outputs/tracked/scores.json").read_text())
    assert config["optimizer"]["name"] == "adam"
    assert summary["pooled"] == pytest.approx(scores["pooled"])
    for fold in (0, 1):
        log = pd.read_csv(folder / f"outputs/tracked/fold{fold}/log.csv")
        values = [row[f"fold{fold}/val_score"] for row in history if f"fold{fold}/val_score" in row]
        assert values == pytest.approx(log["val_score"].tolist())


@pytest.mark.slow
def test_the_embedded_competition_reaches_its_score(tmp_path):
    run_program("train.py", "tracking=none", cwd=tmp_path)
    scores = json.loads((tmp_path / "outputs/demo_default/scores.json").read_text())
    assert scores["pooled"] >= 0.999
    assert len(scores["folds"]) == 5
    printed, _ = run_here("infer.py", cwd=tmp_path)
    assert float(re.search(r"test roc_auc: ([\d.]+)", printed)[1]) >= 0.999


@pytest.mark.slow
def test_real_images_with_real_weights(tmp_path):
    """A competition that adopt has never seen, from its folder to a submission, with ImageNet weights."""
    shared = (REPOSITORY / os.environ.get("SHARED", "../shared")).resolve()
    if not (shared / "competitions/pneumonia").is_dir():
        pytest.skip("no shared competition here")
    adopt = [sys.executable, "-m", "tools.adopt", str(shared / "competitions/pneumonia")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(adopt, cwd=tmp_path, env=environment, check=True, capture_output=True)
    words = [
        "competition=pneumonia", "recipe=head_only", "model.backbone=mobilenetv2_100",
        f"model.weights={shared}/weights",
        "train.epochs=2", "train.max_images=600", "image_size=96", "fold=0", "tracking=none", "report=false",
        f"cache_dir={tmp_path}/cache",
    ]  # fmt: skip
    run_here("train.py", *words, cwd=tmp_path)
    scores = json.loads((tmp_path / "outputs/pneumonia_head_only/scores.json").read_text())
    assert scores["pooled"] > 0.9
    run_here("infer.py", cwd=tmp_path)
    submission = read(tmp_path / "outputs/pneumonia_head_only/submission.csv")
    assert submission["id"].tolist() == read(shared / "competitions/pneumonia/sample_submission.csv")["id"].tolist()


@pytest.mark.slow
def test_compiling_without_a_compiler_is_one_line(tmp_path):
    (tmp_path / "bin").mkdir()
    environment = {"PATH": str(tmp_path / "bin"), "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    words = [*TINY, "fold=0", "train.epochs=1", "schedule.warmup_epochs=0", "train.compile=true"]
    _, complained = run_program("train.py", *words, cwd=tmp_path, status=2, **environment)
    line = complained.splitlines()[-1]
    assert line.startswith("error: model.backbone=test_resnet: its first training step fails (")
    assert line.endswith("; set train.compile=false; --debug shows the traceback")
    assert "Traceback" not in complained
    words[-1] = "train.compile=false"
    with pytest.raises(UserError, match="norm_layer=identity: test_resnet cannot"):
        run_here("train.py", *words, "model.kwargs={norm_layer: identity}", "--debug", cwd=tmp_path)
