"""The programs as their users run them: whole, in a folder of their own, checked by the files they leave."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from src.config.settings import REPOSITORY
from tests.launch import TINY, Forked, run_here, run_program

DIGITS = [str(digit) for digit in range(10)]


def read(path):
    return pd.read_csv(path, dtype={"id": str, "label": str})


def test_a_run_leaves_what_the_readme_promises(tiny_run):
    folder, printed = tiny_run
    run = folder / "outputs" / "demo_default"
    train, oof = read(folder / "data/demo/train.csv"), read(run / "oof.csv")
    scores = json.loads((run / "scores.json").read_text())
    assert list(oof.columns) == ["id", "fold", *DIGITS]
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
        names = {path.name for path in (run / f"fold{fold}").iterdir()}
        assert names >= {"best.safetensors", "last.safetensors", "meta.json", "log.csv", "val.csv"}
        assert not [name for name in names if name.startswith("state_")]
        assert len(pd.read_csv(run / f"fold{fold}" / "log.csv")) == 2
    assert max(map(len, printed.splitlines())) <= 100


def test_inference_writes_the_samples_rows_and_prints_the_test_score(tiny_run):
    folder, _ = tiny_run
    printed, _ = run_here("infer.py", "infer.tta=scales", "infer.average=rank", cwd=folder)
    sample, solution = read(folder / "data/demo/sample_submission.csv"), read(folder / "data/demo/solution.csv")
    run_here("infer.py", "run=outputs/demo_default", cwd=folder)
    submission = read(folder / "outputs/demo_default/submission.csv")
    assert list(submission.columns) == list(sample.columns)
    assert submission["id"].tolist() == sample["id"].tolist()
    folds = [read(folder / f"outputs/demo_default/fold{fold}/test.csv").set_index("id") for fold in (0, 1)]
    mean = sum(folds).loc[sample["id"], DIGITS].to_numpy() / 2
    np.testing.assert_allclose(submission[DIGITS], mean, atol=1e-6)
    assert re.search(r"test roc_auc: 0\.\d{5}", printed)
    answers = solution.set_index("id")["label"][submission["id"]]
    expected = roc_auc_score(answers, submission[DIGITS], multi_class="ovr", labels=DIGITS)
    assert f"test roc_auc: {expected:.5f}" in run_here("infer.py", cwd=folder)[0]


def test_the_same_command_skips_and_another_config_is_refused(tiny_run):
    folder, _ = tiny_run
    before = (folder / "outputs/demo_default/oof.csv").read_bytes()
    printed, _ = run_here("train.py", *TINY, cwd=folder)
    assert "fold 0: done before" in printed
    assert "fold 1: done before" in printed
    assert (folder / "outputs/demo_default/oof.csv").read_bytes() == before
    _, refused = run_here("train.py", *TINY, "optimizer.lr=0.5", cwd=folder, status=2)
    was = re.search(r"was ([\d.e-]+)", refused)[1]
    assert refused == (
        f"error: outputs/demo_default: trained with other settings: optimizer.lr=0.5 (was {was}); "
        "choose name=ANOTHER or overwrite=true\n"
    )


def test_a_mistake_at_first_does_not_stand_in_the_way_and_overwrite_deletes_nothing_for_one(tiny_run):
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


@pytest.mark.slow
def test_everything_at_once_survives_a_stop(tiny_run):
    """Averages, mixing, accumulation and bf16, stopped after an epoch and resumed; then inference."""
    folder, _ = tiny_run
    words = [
        *TINY, "fold=0", "train.ema_decay=0.9", "mix.prob=0.5", "optimizer.accumulate_steps=2",
        "optimizer.clip_norm=1", "precision=bf16", "model.head_widths=[16]", "model.drop_rate=0.2",
        "model.dropout_samples=3", "model.pool=gem", "loss.name=focal", "schedule.name=onecycle",
        "augment.preset=heavy", "image_size=64",  # on 1x1 maps torch 2.15's bf16 gradients on a CPU are nan
    ]  # fmt: skip
    run_here("train.py", *words, "name=whole", cwd=folder)
    run_here("train.py", *words, "name=parts", cwd=folder)
    parts = folder / "outputs/parts/fold0"
    shutil.rmtree(parts)
    stop_after_an_epoch(folder, [*words, "name=parts"], parts)
    printed, _ = run_here("train.py", *words, "name=parts", cwd=folder)
    assert "fold 0: goes on after epoch" in printed
    assert (parts / "val.csv").read_bytes() == (folder / "outputs/whole/fold0/val.csv").read_bytes()
    printed, _ = run_here(
        "infer.py", "run=outputs/whole", "infer.tta=d4", "infer.checkpoint=last", "infer.output=elsewhere", cwd=folder
    )
    assert "360 test images x 1 of 2 folds x 8 views" in printed
    assert read(folder / "elsewhere/submission.csv").shape == (360, 11)
    assert read(folder / "elsewhere/fold0/test.csv").shape == (360, 11)


@pytest.mark.slow
@pytest.mark.parametrize(
    "techniques",
    [
        ["train.swa_epochs=2", "schedule.name=plateau", "schedule.patience_epochs=0", "model.kwargs={}",
         "model.freeze_batchnorm=false", "model.batchnorm_momentum=0.3", "model.dropout2d_rate=0.1",
         "model.drop_path_rate=0.1", "optimizer.l1_penalty=0.01", "optimizer.layer_decay=0.8", "normalize=center",
         "loss.name=mse", "train.sampler=balanced", "augment.augmix=3", "augment.augmix_consistency=12"],
        ["train.average_best=2", "schedule.name=multistep", "schedule.per=epoch", "optimizer.name=nesterov",
         "optimizer.lr=0.05", "model.prior_bias=true", "model.backbone_activation=silu", "loss.balance=true",
         "train.batches_per_epoch=5", "augment.randaugment=5", "augment.erasing=0.5", "augment.blur=1"],
        pytest.param(["loss.name=auc", "optimizer.name=lion", "optimizer.lr=1e-3", "schedule.name=cosine_restarts",
         "train.early_stopping_epochs=2", "optimizer.accumulate_steps=2"], marks=pytest.mark.slow),
    ],
    ids=["swa", "average_best", "auc"],
)  # fmt: skip
def test_techniques_together_survive_a_stop(tiny_run, techniques, request):
    folder, _ = tiny_run
    name = request.node.callspec.id
    words = [*TINY, "fold=0", *techniques, "train.epochs=3"]
    run_here("train.py", *words, f"name={name}", cwd=folder)
    whole, parts = folder / f"outputs/{name}/fold0", folder / f"outputs/{name}_parts/fold0"
    stop_after_an_epoch(folder, [*words, f"name={name}_parts"], parts)
    printed, _ = run_here("train.py", *words, f"name={name}_parts", cwd=folder)
    assert "fold 0: goes on after epoch" in printed
    for file in ("val.csv", "best.safetensors", "last.safetensors"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
    assert not list(whole.glob("epoch*.safetensors"))
    run_here("infer.py", f"run=outputs/{name}", f"infer.output={name}", cwd=folder)


@pytest.mark.slow
def test_swa_is_the_mean_of_the_run_s_last_epochs(tiny_run):
    """At a constant rate runs of 2 and 3 epochs share their path, and each leaves its last epoch's weights."""
    folder, _ = tiny_run
    words = [*TINY, "fold=0", "schedule.name=constant", "schedule.warmup_epochs=0"]
    for epochs in (2, 3):
        run_here("train.py", *words, f"train.epochs={epochs}", f"name=constant{epochs}", cwd=folder)
    run_here("train.py", *words, "train.epochs=3", "train.swa_epochs=2", "name=mean", cwd=folder)
    two, three, mean = (
        load_file(folder / f"outputs/{name}/fold0/last.safetensors") for name in ("constant2", "constant3", "mean")
    )
    for name in mean:
        torch.testing.assert_close(mean[name], (two[name] + three[name]) / 2, msg=name)


@pytest.mark.slow
def test_swa_refreshes_batchnorm_of_stages_that_opened_late(tiny_run):
    """The mean of one epoch has its weights, and statistics of its own wherever BatchNorm learns."""
    folder, _ = tiny_run
    weights = folder / "late.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), weights)
    words = [*TINY, "fold=0", "model.pretrained=true", f"model.weights={weights}", "model.kwargs={}"]
    words += ["model.freeze_batchnorm=false", "model.head_first_epochs=1"]
    run_here("train.py", *words, "name=late", cwd=folder)
    run_here("train.py", *words, "name=late_mean", "train.swa_epochs=1", cwd=folder)
    plain, mean = (load_file(folder / f"outputs/{name}/fold0/last.safetensors") for name in ("late", "late_mean"))
    for name in plain:
        assert torch.equal(plain[name], mean[name]) is ("running_" not in name), name


def test_head_only_leaves_the_backbone_bit_identical(tiny_run):
    folder, _ = tiny_run
    weights = folder / "batchnorm.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), weights)
    words = [*TINY, "fold=0", "name=head", "train.epochs=1", "model.pretrained=true", f"model.weights={weights}"]
    words += ["model.kwargs={}", "model.freeze=head_only", "model.freeze_batchnorm=false"]
    run_here("train.py", *words, cwd=folder)
    first, last = load_file(weights), load_file(folder / "outputs/head/fold0/last.safetensors")
    shared = [name for name in first if f"backbone.{name}" in last]
    assert any("running_var" in name for name in shared)
    assert all(torch.equal(first[name], last[f"backbone.{name}"]) for name in shared)


def test_a_head_learns_the_same_on_features_computed_once_and_in_every_epoch(tiny_run):
    folder, _ = tiny_run
    weights = folder / "groupnorm.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=1, norm_layer="groupnorm1").state_dict(), weights)
    words = [*TINY, "model.pretrained=true", f"model.weights={weights}", "model.freeze=head_only", "optimizer.lr=0.1"]
    words += ["model.drop_rate=0.2", "precision=fp32"]
    once, _ = run_here("train.py", *words, "name=once", cwd=folder)
    slow = ["fold=0", "train.views=0", "augment.preset=none", "name=each"]
    each, _ = run_here("train.py", *words, *slow, cwd=folder)
    told = ".npy: features of 1437 images, 1 of each, for all folds"
    assert (once.count(told), each.count(told)) == (1, 0)
    one, other = (read(folder / f"outputs/{name}/fold0/val.csv")[DIGITS] for name in ("once", "each"))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.ptp(one.to_numpy()) > 0.1  # the head learned something

    again, _ = run_here("train.py", *words, "name=relearned", "fold=0", "optimizer.lr=0.2", cwd=folder)
    assert told not in again
    assert not np.allclose(read(folder / "outputs/relearned/fold0/val.csv")[DIGITS], one, atol=1e-5)
    several, _ = run_here("train.py", *words, "name=views", "fold=0", "train.views=3", cwd=folder)
    assert ".npy: features of 1437 images, 3 of each, for all folds" in several
    printed, _ = run_here("infer.py", "run=outputs/once", "precision=fp32", cwd=folder)
    assert "submission.csv: 360 rows, checked" in printed


def test_gradual_freezing_and_early_stopping_through_the_program(tiny_run):
    folder, _ = tiny_run
    weights = folder / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=1, norm_layer="groupnorm1").state_dict(), weights)
    words = [*TINY, "fold=0", "train.epochs=9", "model.pretrained=true", f"model.weights={weights}"]
    words += ["name=gradual", "model.freeze=gradual", "train.early_stopping_epochs=1", "optimizer.lr=0"]
    run_here("train.py", *words, cwd=folder)
    meta = json.loads((folder / "outputs/gradual/fold0/meta.json").read_text())
    assert (meta["epoch"], meta["best_epoch"]) == (2, 1)  # nothing moves at lr=0, so the second epoch is no better
    first, best = load_file(weights), load_file(folder / "outputs/gradual/fold0/best.safetensors")
    shared = [name for name in first if f"backbone.{name}" in best]
    assert len(shared) > 40
    assert all(torch.equal(first[name], best[f"backbone.{name}"]) for name in shared)


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
    words = [*TINY, "precision=auto", "train.channels_last=null", "train.epochs=1", "name=timed"]
    said = r"^precision=(\w+) train\.channels_last=(\w+): timed, "
    printed, _ = run_here("train.py", *words, "fold=0", cwd=folder)
    precision, order = re.search(said, printed, re.MULTILINE).groups()
    path = folder / "outputs/timed/execution.json"
    assert json.loads(path.read_text()) == {"cpu": {"precision": precision, "channels_last": order == "true"}}
    assert "precision: auto" in (folder / "outputs/timed/config.yaml").read_text()

    def infer(*words):
        run_here("infer.py", "run=outputs/timed", *words, cwd=folder)
        return (folder / "outputs/timed/fold0/test.csv").read_bytes()

    half = '{"cpu": {"precision": "bf16", "channels_last": false}}'
    path.write_text(half)
    assert infer() != infer("precision=fp32")
    printed, _ = run_here("train.py", *words, "fold=1", cwd=folder)
    assert not re.search(said, printed, re.MULTILINE)
    assert json.loads(path.read_text()) == json.loads(half)


def test_loader_processes_change_nothing(tiny_run):
    folder, _ = tiny_run
    run_here("train.py", *TINY, "fold=0", "train.num_workers=2", "name=workers", cwd=folder)
    one, other = (read(folder / f"outputs/{name}/fold0/val.csv") for name in ("demo_default", "workers"))
    np.testing.assert_allclose(
        one[DIGITS], other[DIGITS], atol=1e-4
    )  # the thread count changes sums in the last digits


def stop_after_an_epoch(folder, words, fold):
    """Run train.py and kill it when its first epoch is saved."""
    process = Forked("train.py", words, folder, folder / "stopped.log")
    process.wait_for(lambda: any(fold.glob("state_*.pt")))
    process.kill()


def test_a_killed_run_goes_on_and_ends_the_same(tiny_run):
    folder, _ = tiny_run
    stop_after_an_epoch(folder, [*TINY, "name=killed", "fold=0"], folder / "outputs/killed/fold0")
    path = folder / "outputs/killed/fold0/state_0001_000000.pt"
    good = path.read_bytes()
    torch.save(torch.load(path, weights_only=True) | {"schedule": {}}, path)
    _, error = run_here("train.py", *TINY, "name=killed", "fold=0", cwd=folder, status=2)
    assert error == (
        "error: outputs/killed/fold0/state_0001_000000.pt: written by another version; "
        "delete it to train the fold from its start\n"
    )
    path.write_bytes(good)
    printed, _ = run_here("train.py", *TINY, "name=killed", "fold=0", cwd=folder)
    assert "fold 0: goes on after epoch 1" in printed
    for name in ("val.csv", "last.safetensors"):
        paths = (folder / f"outputs/{run}/fold0/{name}" for run in ("demo_default", "killed"))
        assert len({path.read_bytes() for path in paths}) == 1, name


@pytest.mark.slow
def test_two_processes_predict_as_one(tiny_run):
    """At the same global batch; every validation row is scored once (predict_all asserts it)."""
    folder, _ = tiny_run
    words = [*TINY, "fold=0", "device=cpu", "optimizer.name=sgd", "optimizer.lr=0.05"]
    run_here("train.py", *words, "train.batch_size=32", "name=single", cwd=folder)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_program("train.py", *words, "train.batch_size=16", "name=double", cwd=folder, launcher=launcher)
    one, two = (read(folder / f"outputs/{name}/fold0/val.csv") for name in ("single", "double"))
    assert one["id"].tolist() == two["id"].tolist()
    np.testing.assert_allclose(one[DIGITS], two[DIGITS], atol=1e-4)


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("train.py", ["trian.epochs=3"], "command line: unknown setting trian.epochs; did you mean train.epochs?"),
        ("infer.py", ["run=outputs/none"], "outputs/none: not a run (no config.yaml); train one with python train.py"),
        ("infer.py", ["output_dir=nowhere"], "nowhere: no run with a finished fold; train one with python train.py"),
        ("infer.py", ["run=outputs/demo_default", "train.epochs=3"],
         "command line: train.epochs was decided when outputs/demo_default was trained; infer.py takes run=, infer.*"),
        ("infer.py", ["run=outputs/demo_default", "infer.output=/proc/nothing"], "/proc/nothing: cannot be made ("),
        ("infer.py", ["run=outputs/started"], "outputs/started: no fold has done an epoch; go on with the command"),
        ("train.py", [*TINY, "name=x1", "model.backbone=resnet10"],
         "model.backbone=resnet10: "),
        ("train.py", [*TINY, "name=x2", "optimizer.name=adamm"], "optimizer.name=adamm: not an optimizer"),
        ("train.py", [*TINY, "name=x3", "optimizer.lr=1e30"], "epoch 1, step "),
        ("train.py", [*TINY, "name=x4", "competition.root=data/nothing", "competition.name=other"],
         "data/nothing: no such folder; set competition.root to the folder of the data"),
        ("train.py", [*TINY, "name=x5", "competition.label=species"], "data/demo/train.csv: no column 'species'"),
        ("train.py", [*TINY, "name=x3", "optimizer.lr=1e30", "train.max_images=32"], "fold 0, epoch 1: predictions"),
        ("train.py", [*TINY, "name=x6", "num_folds=2000"], "num_folds=2000: "),
        ("train.py", [*TINY, "name=x6", "model.weights=no.pth", "model.pretrained=true"], "model.weights=no.pth: "),
        ("train.py", [*TINY, "name=x6", "competition.sample_submission=train.csv"], "data/demo/train.csv: "),
        ("train.py", [*TINY, "name=x6", "competition.train_table=none.csv"],
         "data/demo/none.csv: no such file; check competition.train_table"),
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


def test_an_image_that_is_none_is_named_or_skipped(tiny_run):
    folder, _ = tiny_run
    shutil.copytree(folder / "data", folder / "broken" / "data")
    victim, test_victim = (sorted((folder / "broken/data/demo" / side).glob("*.png"))[0] for side in ("train", "test"))
    victim.write_bytes(b"this is no picture")
    test_victim.write_bytes(b"nor is this")
    _, error = run_here("train.py", *TINY, cwd=folder / "broken", status=2)
    assert error == f"error: data/demo/train/{victim.name}: cannot be decoded as an image (18 bytes)\n"
    words = ["unreadable=skip", "overwrite=true"]
    printed, _ = run_here("train.py", *TINY, *words, cwd=folder / "broken")
    assert "1 of 1437 images cannot be decoded and are left out" in printed
    run = folder / "broken/outputs/demo_default"
    assert read(run / "unreadable.csv")["id"].tolist() == [victim.stem]
    assert victim.stem not in set(read(run / "oof.csv")["id"])
    printed, _ = run_here("infer.py", cwd=folder / "broken")
    assert f"{test_victim.stem}: gets the mean prediction" in printed
    submission = read(run / "submission.csv").set_index("id")
    np.testing.assert_allclose(submission.loc[test_victim.stem], submission.drop(test_victim.stem).mean(), atol=1e-4)


@pytest.mark.slow
def test_an_offline_wandb_run_holds_config_epochs_and_the_final_score(tiny_run):
    folder, _ = tiny_run
    words = [word for word in TINY if not word.startswith("tracking")]
    environment = {"WANDB_API_KEY": "", "HOME": str(folder)}
    run_program("train.py", *words, "tracking=wandb", "name=tracked", cwd=folder, **environment)
    config, history, summary = read_offline_wandb(folder / "outputs/tracked/wandb")
    scores = json.loads((folder / "outputs/tracked/scores.json").read_text())
    assert config["optimizer"]["name"] == "adam"
    assert summary["pooled"] == pytest.approx(scores["pooled"])
    for fold in (0, 1):
        log = pd.read_csv(folder / f"outputs/tracked/fold{fold}/log.csv")
        values = [row[f"fold{fold}/val_score"] for row in history if f"fold{fold}/val_score" in row]
        assert values == pytest.approx(log["val_score"].tolist())


def read_offline_wandb(folder):
    """Return (config, history rows, summary) of the one offline run under a wandb folder."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("offline-run-*/run-*.wandb")
    config, history, summary = {}, [], {}
    for data in read_log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            config |= {one.key: json.loads(one.value_json) for one in record.run.config.update}
        elif kind == "history":
            history.append({name_of(one): json.loads(one.value_json) for one in record.history.item})
        elif kind == "summary":
            summary |= {name_of(one): json.loads(one.value_json) for one in record.summary.update}
    return config, history, summary


def name_of(item):
    return item.key or ".".join(item.nested_key)


def read_log_records(content, block_size=32768):
    """Yield the records of a LevelDB log, the format of wandb's offline files, after wandb's seven bytes of header."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = block_size - at % block_size
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_the_embedded_competition_reaches_its_score(tmp_path):
    run_program("train.py", "tracking=none", cwd=tmp_path)
    scores = json.loads((tmp_path / "outputs/demo_default/scores.json").read_text())
    assert scores["pooled"] >= 0.999
    assert len(scores["folds"]) == 5
    printed, _ = run_here("infer.py", cwd=tmp_path)
    assert float(re.search(r"test roc_auc: ([\d.]+)", printed)[1]) >= 0.999


@pytest.mark.slow
def test_real_pictures_with_real_weights(tmp_path):
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
        "train.epochs=2", "train.max_images=600", "image_size=96", "fold=0", "tracking=none",
        f"cache_dir={tmp_path}/cache",
    ]  # fmt: skip
    run_here("train.py", *words, cwd=tmp_path)
    scores = json.loads((tmp_path / "outputs/pneumonia_head_only/scores.json").read_text())
    assert scores["pooled"] > 0.9
    run_here("infer.py", cwd=tmp_path)
    submission = read(tmp_path / "outputs/pneumonia_head_only/submission.csv")
    assert submission["id"].tolist() == read(shared / "competitions/pneumonia/sample_submission.csv")["id"].tolist()
