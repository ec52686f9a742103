"""The table of ratios is what the runs' numbers say; a real run of ours and of the limit has all that it needs."""

import dataclasses
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks import throughput
from benchmarks.throughput import choose_cases, read_words, run_system
from benchmarks.throughput_cases import CASES, SYSTEMS, Case, Target, draw_photograph, prepare
from benchmarks.throughput_report import MEASURES, compute_measures, compute_ratios, report_text
from src.config.settings import REPOSITORY
from src.errors import UserError

CASE = Case(
    "pneumonia", 8, 4, {}, (Target("lightning", "seconds", 1.5), Target("pure_compute", "images_per_second", 0.93))
)


def made_run(system, repetition, **measures):
    return {"case": "pneumonia", "system": system, "repetition": repetition, "measures": measures}


def test_ratios_are_computed_within_a_repetition_and_reported_with_their_spread():
    runs = [
        made_run("lightning", 0, seconds=30.0),
        made_run("ours", 0, seconds=10.0, images_per_second=90.0),
        made_run("ours", 1, seconds=20.0, images_per_second=45.0),
        made_run("lightning", 1, seconds=40.0),
        made_run("pure_compute", 0, images_per_second=100.0),
        made_run("pure_compute", 1, images_per_second=50.0),
        {"case": "pneumonia", "system": "ours", "repetition": 2, "error": "killed"},
        made_run("lightning", throughput.TRIAL, seconds=99.0),
        made_run("lightning", 2, seconds=1.0),
    ]
    whole, batches = compute_ratios(runs, CASE)
    assert (whole["system"], whole["values"]) == ("lightning", [3.0, 2.0])
    assert (whole["min"], whole["median"], whole["max"], whole["is_reached"]) == (2.0, 2.5, 3.0, True)
    assert batches["values"] == pytest.approx([0.9, 0.9])
    assert batches["is_reached"] is False
    text = report_text("pneumonia", runs, CASE)
    assert "2.50 (2.00..3.00)" in text
    assert "ours, repetition 3: killed" in text


def test_a_system_with_options_is_compared_as_the_system_itself():
    runs = [made_run("ours", 0, seconds=1.0), made_run("lightning:num_workers=2", 0, seconds=2.0)]
    assert [(one["system"], one["values"]) for one in compute_ratios(runs, CASE)] == [("lightning:num_workers=2", [2])]


def test_measures_of_a_run():
    run = {"seconds": 10.0, "epoch_ends": [4.0, 6.0, 9.0], "train_seconds": [3.0, 1.0, 2.0], "num_images": 12}
    assert compute_measures(run | {"auc": 0.9}) == {
        "seconds": 10.0,
        "first_epoch": 4.0,
        "later_epoch": 2.5,
        "images_per_second": 6.0,
        "later_images_per_second": 9.0,
        "auc": 0.9,
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("case=pneumona", "did you mean pneumonia"),
        ("repetition=3", "did you mean repetitions"),
        ("repetitions=none", "not a whole number"),
        ("systems=fast", "did you mean fastai"),
        ("systems=ours:workers=1", "the options are num_workers"),
        ("device=tpu", "not one of auto, cpu, cuda"),
    ],
)
def test_a_wrong_word_is_named(word, message):
    with pytest.raises(UserError, match=message):
        read_words([word])


def test_the_gpu_case_needs_a_gpu():
    assert "gpu" not in choose_cases(read_words([]), has_cuda=False)
    assert "gpu" in choose_cases(read_words([]), has_cuda=True)
    with pytest.raises(UserError, match="needs a CUDA device"):
        choose_cases(read_words(["case=gpu"]), has_cuda=False)


def test_every_case_names_systems_and_measures_that_there_are():
    for case in CASES.values():
        assert set(case.systems) <= set(SYSTEMS)
        assert {target.measure for target in case.targets} <= set(MEASURES)
    for module, _ in SYSTEMS.values():
        assert (REPOSITORY / "benchmarks" / "systems" / f"{module}.py").is_file()


def test_photographs_are_the_same_each_time_and_compress_as_photographs_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = prepare(CASES["datapath"], 2, tmp_path)["images"]
    sizes = [os.path.getsize(os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
    assert len(sizes) == 2
    assert all(500_000 < size < 1_000_000 for size in sizes)
    assert np.array_equal(draw_photograph(3, 27, 40), draw_photograph(3, 27, 40))


@pytest.fixture
def tiny_task(tmp_path):
    """A task of twelve images of 40 px in two classes."""
    images = tmp_path / "images"
    images.mkdir()
    rows = pd.DataFrame({"id": [f"{row}.png" for row in range(12)], "label": [0, 1] * 6, "fold": [0] * 4 + [1] * 8})
    for row, name in enumerate(rows["id"]):
        cv2.imwrite(str(images / name), draw_photograph(row, 40, 40))
    rows.to_csv(tmp_path / "train.csv", index=False)
    return {
        "table": str(tmp_path / "train.csv"), "images": str(images), "backbone": "test_resnet", "weights": None,
        "image_size": 32, "batch_size": 4, "epochs": 2, "seed": 42, "device": "cpu",
    }  # fmt: skip


def check_run(run, num_images):
    assert "error" not in run, run["stderr"]
    assert run["num_images"] == num_images
    assert len(run["epoch_ends"]) == len(run["train_seconds"]) == 2
    assert 0 < run["epoch_ends"][0] < run["epoch_ends"][1] <= run["seconds"]
    assert sum(run["train_seconds"]) < run["seconds"]
    assert run["cpu_seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "system",
    [
        "our_loader",
        *(pytest.param(one, marks=pytest.mark.nightly) for one in ("torchvision_loader", "lightning", "fastai")),
    ],
)
def test_a_system_measures_what_the_cases_compare(system, tiny_task):
    pytest.importorskip(SYSTEMS[system][1])
    run = run_system(system, tiny_task)
    check_run(run, 12 if system == "our_loader" else 8)
    assert system.endswith("loader") or 0 <= run["auc"] <= 1


@pytest.mark.nightly
def test_ours_and_the_limit_end_in_ratios_and_a_report(tiny_task, tmp_path, monkeypatch, capsys):
    case = Case("pneumonia", 8, 4, {}, (Target("pure_compute", "images_per_second", 0.01),))
    monkeypatch.setitem(CASES, "pneumonia", case)
    monkeypatch.setattr(throughput, "prepare", lambda *_: tiny_task)
    throughput.main(["case=pneumonia", "repetitions=1", f"output={tmp_path / 'throughput.json'}", "device=cpu"])
    printed = capsys.readouterr()
    assert "at least 0.01  yes" in printed.out
    assert "pneumonia 1/1 ours" in printed.err
    report = json.loads((tmp_path / "throughput.json").read_text(encoding="utf-8"))
    ours, limit = report["rows"]
    for run in (ours, limit):
        check_run(run, 8)
    assert 0 <= ours["auc"] <= 1
    assert [limit[key] for key in ("precision", "channels_last")] == [ours["precision"], ours["channels_last"]]
    assert len(report["ratios"]["pneumonia"][0]["values"]) == 1
    assert report["peers"]["torchvision"]


def test_each_repetition_begins_with_another_system_and_the_limit_takes_over_what_ours_chose(tmp_path, monkeypatch):
    chosen = {"precision": "bf16", "channels_last": False}
    case = dataclasses.replace(CASE, targets=(Target("pure_compute", "images_per_second"),))
    monkeypatch.setitem(CASES, "pneumonia", case)
    monkeypatch.setattr(throughput, "prepare", lambda *_: {})
    monkeypatch.setattr(throughput, "run_system", lambda system, _: dict(chosen) if system == "ours" else {})
    runs = list(throughput.run_case("pneumonia", read_words(["repetitions=2", "epochs=1"])))
    assert [run["system"] for run in runs] == ["ours", "pure_compute", "pure_compute", "ours"]
    assert [run["task"]["seed"] for run in runs] == [42, 42, 43, 43]
    assert all(run["task"] | chosen == run["task"] for run in runs if run["system"] == "pure_compute")


def test_a_peer_gets_the_loader_processes_that_are_fastest_for_it(monkeypatch):
    def run_system(_, task):
        return {"error": "killed"} if task["num_workers"] == 0 else {"seconds": 1 + task["num_workers"]}

    monkeypatch.setattr(throughput, "prepare", lambda *_: {})
    monkeypatch.setattr(throughput, "find_spec", lambda _: True)
    monkeypatch.setattr(throughput, "run_system", run_system)
    asked = read_words(["systems=lightning,lightning:num_workers=3", "repetitions=1"])
    *trials, chosen, given = throughput.run_case("pneumonia", asked)
    assert {trial["repetition"] for trial in trials} == {throughput.TRIAL}
    assert (chosen["task"]["num_workers"], given["task"]["num_workers"]) == (1, 3)
    assert throughput.fastest_workers([{"error": "killed"}]) is None


def test_help_imports_no_torch():
    code = "import sys, benchmarks.throughput as t; t.main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True)
