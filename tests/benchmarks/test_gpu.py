"""The GPU benchmark's shares of time, failures and reports, on parts that a test makes; and its whole miniature."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part, Report, explain_network, read_given, run_parts, table_lines
from src.config.settings import REPOSITORY
from src.errors import UserError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["device=cpu"], "command line: no output; write for example output=outputs/benchmarks/gpu.json"),
        (["output=a.json", "device=tpu"], "device=tpu: not one of cuda, cpu"),
        (["output=a.json", "minutes=soon"], "minutes=soon: not a whole number from 1; write for example minutes=8"),
        (["output=a.json", "folder=none"], "folder=none: no such folder; make it, or leave it out"),
    ],
)
def test_wrong_words(words, told):
    with pytest.raises(UserError, match=f"^{told}$"):
        read_given(words)
    with pytest.raises(
        UserError, match="^parts=speed: no such part; the parts are machine, images, correctness, runs, "
    ):
        read_given(["output=a.json", "parts=train,speed"])


def test_asked_parts_come_with_those_they_need():
    assert read_given(["output=a.json", "parts=data"])["parts"] == ["machine", "images", "data"]


def figures(**computed):
    return lambda case: list(computed.items())


def raising():
    raise ZeroDivisionError("no figure\nmore")


@pytest.fixture
def parts(monkeypatch):
    """Set the benchmark's parts: {name: (weight, {figure: function})}."""
    from benchmarks import gpu_correctness, gpu_speed  # noqa: F401  or importing them would be a part's time

    def set_parts(**made):
        for name, (_, computed) in made.items():
            monkeypatch.setattr(gpu_speed, f"list_{name}", figures(**computed), raising=False)
        made = {name: Part(weight, "", "gpu_speed", f"list_{name}") for name, (weight, _) in made.items()}
        monkeypatch.setattr(gpu, "PARTS", made)

    return set_parts


def run_all(folder, names, seconds):
    given = gpu.DEFAULTS | {"device": "cpu", "minutes": 1, "folder": str(folder), "log": str(folder / "log")}
    report = Report(folder / "gpu.json", ["python"], given | {"parts": names})
    run_parts(report.given, report, time.monotonic() + seconds)
    return report, json.loads(report.path.read_text())


def test_a_part_that_hangs_dies_or_fails_costs_the_others_nothing(tmp_path, parts):
    good = lambda: {"shown": "1 image/s", "ok": True}  # noqa: E731
    parts(
        hangs=(1, {"first": good, "second": lambda: time.sleep(99), "third": good}),
        dies=(1, {"first": good, "second": lambda: os.kill(os.getpid(), signal.SIGKILL)}),
        fails=(5, {"first": raising, "second": lambda: {"shown": "2 > 1", "ok": False}, "third": good}),
    )
    report, saved = run_all(tmp_path, ["hangs", "dies", "fails"], 9)
    rows = {(row["part"], row["name"]): row for row in saved["rows"]}
    assert [rows["hangs", one].get("shown") for one in ("first", "second", "third")] == ["1 image/s", None, None]
    assert "error" in rows["hangs", "second"]
    assert rows["hangs", "third"]["left_out"] == "its part ended before"
    assert rows["dies", "second"]["error"] == "its process ended with status -9"
    assert rows["fails", "first"]["error"] == "no figure"
    assert rows["fails", "third"]["ok"]
    assert [one["status"] for one in saved["parts"].values()] == ["failed", "failed", "done"]
    assert {"fails: first", "fails: second", "hangs: second", "dies: second"} <= set(saved["failed"])
    assert report.has_failed
    assert max(map(len, report.text().splitlines()[:-1])) <= 80  # the last names the file


def test_shares_follow_the_weights_and_what_finds_no_time_is_left_out(tmp_path, parts):
    slow = lambda: time.sleep(0.6) or {"shown": ""}  # noqa: E731
    slower = lambda: time.sleep(1.5) or {"shown": ""}  # noqa: E731
    parts(one=(1, {"first": slow, "second": slow}), two=(3, {"first": slower}), three=(4, {"first": slow}))
    _, saved = run_all(tmp_path, ["one", "two", "three"], 4)
    assert saved["parts"]["one"]["share"] == pytest.approx(0.5, abs=0.05)
    # no part begins in the last two seconds, and at most 4 - .6 - 1.5 are left, however fast the machine
    assert saved["parts"]["three"]["status"] == "left out"
    rows = {(row["part"], row["name"]): row for row in saved["rows"]}
    assert rows["one", "second"]["left_out"] == "no time is left"
    assert "shown" in rows["two", "first"]


def test_a_kill_loses_nothing_and_its_part_ends_too(tmp_path, parts):
    number = tmp_path / "number"

    def first():
        number.write_text(str(os.getpid()))
        return {"shown": "kept"}

    parts(only=(1, {"first": first} | {f"later {k}": lambda: time.sleep(0.1) or {"shown": ""} for k in range(99)}))
    program = multiprocessing.get_context("fork").Process(target=run_all, args=(tmp_path, ["only"], 20))
    program.start()
    while not (tmp_path / "gpu.json").is_file():
        time.sleep(0.01)
    program.kill()
    program.join()
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"][0]["shown"] == "kept"
    ends_at = time.monotonic() + 60
    while is_running(int(number.read_text())):
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def is_running(number):
    import psutil

    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE


def test_bottlenecks_in_words():
    base = {"model": "vit", "share": {"median": 0.99}, "pure": {"median": 1000.0}, "loader": 5000.0}
    base |= {"gpu_busy": 0.98, "copy_share": 0.02, "precision": "bf16", "lighter_data": "set augment.place=device"}
    slow = base | {"share": {"median": 0.5}}
    cases = [
        (base, "arithmetic or its memory bounds it, the GPU works 98% of the time", "lower image_size"),
        (base | {"gpu_busy": 0.5}, "launches bound it: the GPU works 50% of the time", "set train.compile=true"),
        (slow | {"copy_share": 0.3}, "copies to the GPU take 30% of the time", "lower image_size"),
        (slow, "neither loader nor copies explain it: the loop's own work", "set a larger train.batch_size"),
    ]
    slow_data = slow | {"loader": 500.0}
    data = "the data path bounds it: 500 images/s where the network takes 1000"
    cases.append((slow_data, data, "set augment.place=device"))
    for row, found, advice in cases:
        head = f"vit: the loop reaches {row['share']['median']:.2f} of the steps alone"
        assert explain_network(row, best_loader=510.0) == f"{head}; {found}; to change that, {advice}"
    faster = explain_network(slow_data, best_loader=2000.0)
    assert faster.endswith(f"{data}; to change that, set train.num_workers as in the fastest row of the data path")


def test_arithmetic_of_the_figures():
    import torch

    from benchmarks.gpu_case import halve_until_it_fits
    from benchmarks.gpu_correctness import judge
    from benchmarks.gpu_speed import estimate_batch, total_covered

    assert estimate_batch(peak_of_16=260, peak_of_32=420, usable=1100) == 100  # 100 and 10 an image
    assert total_covered([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7

    def attempt(batch_size):
        if batch_size > 70:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert halve_until_it_fits(attempt, 256) == ("done", 64)
    with pytest.raises(torch.OutOfMemoryError):
        halve_until_it_fits(attempt, 256, least=100)
    assert judge({"logits": 0.1}, {"logits": 0.1})["ok"]
    assert not judge({"logits": math.nan}, {"logits": 0.1})["ok"]


def test_a_long_name_or_figure_takes_lines_of_its_own():
    assert table_lines("bus", "3 GB/s") == [f"  {'bus':<30}  3 GB/s"]
    lines = table_lines("n" * 90, "word " * 40)
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80


def test_what_every_part_needs_runs_on_a_cpu(tmp_path):
    """The real parts that none can leave out; the others run by night."""
    given = read_given([f"output={tmp_path}/gpu.json", "device=cpu", "parts=images", "commit=abc"])
    report = Report(tmp_path / "gpu.json", ["python"], given)
    run_parts(given | {"folder": str(tmp_path)}, report, time.monotonic() + 60)
    found = json.loads(report.path.read_text())
    assert not report.has_failed, found["failed"]
    assert [row["name"] for row in found["rows"]] == ["machine", "arithmetic", "bus", "JPEG files", "decoded cache"]
    assert found["made_by"]["commit"] == "abc"
    assert found["made_by"]["versions"]["torch"]
    assert len(list(tmp_path.glob("train/*.jpg"))) == 64


@pytest.mark.nightly
def test_the_miniature_runs_every_part_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", f"output={tmp_path}/gpu.json", "device=cpu", "commit=abc"]
    done = subprocess.run([*command, f"folder={tmp_path}"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "gpu.log").read_text()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: one["status"] for name, one in found["parts"].items()} == dict.fromkeys(gpu.PARTS, "done")
    assert found["made_by"]["commit"] == "abc"
    assert found["made_by"]["versions"]["torch"]
    assert len(found["bottlenecks"]) == 4
    for row in found["rows"]:
        assert {"part", "name", "figure_seconds"} <= set(row)
        assert "shown" in row or row["left_out"]
        assert "error" not in row
    rows = {(row["part"], row["name"]): row for row in found["rows"]}
    resumed = rows["runs", "resumed after a kill"]
    assert resumed["is_deterministic"]
    assert resumed["found"]["probs"] == 0
    assert rows["runs", "the CPU's run, inferred"]["found"] == {"probs": 0, "submission": 0}
    trained = rows["train", "test_vit at 32 px"]
    assert trained["loop"]["median"] > 0
    assert trained["share"]["min"] <= trained["share"]["median"] <= trained["share"]["max"]
    assert not list(tmp_path.glob("gpu_*"))  # the images and runs are deleted
