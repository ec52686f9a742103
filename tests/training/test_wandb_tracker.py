"""An offline run of wandb, read back; the commands that a sweep's agent would run."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image
from wandb.sdk.launch.sweeps import utils as sweeps

from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.files import save_json
from src.training.tracking import build_tracker
from tests.launch import run_here
from tests.training.test_tracking import write_logs
from tests.wandb_files import read_items, read_summary, read_wandb


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.teardown()  # or programs of later tests would find its process by an environment variable
    assert "WANDB_SERVICE" not in os.environ


@pytest.mark.slow
def test_commands_on_one_run_are_one_group_and_a_resumed_one_stays_the_same_run(tmp_path, capsys):
    ids, seen = [], []
    for words in (["fold=0"], ["fold=1"], ["fold=0"], [], []):
        config = load_config([f"output_dir={tmp_path}", "name=mine", *words])
        tracker = build_tracker(config)
        run = tracker.trackers["wandb"]._run
        ids.append(run.id)
        seen.append((run.group, run.name))
        killed = config.run_folder / "wandb" / f"offline-run-20200101_000000-{run.id}"  # by a command before
        killed.mkdir(exist_ok=True)
        (killed / f"run-{run.id}.wandb").touch()
        tracker.log_epoch(0, {"epoch": len(ids)})
        tracker.finish(write_logs(config.run_folder), {})
    assert seen == [("mine", name) for name in ("mine_fold0", "mine_fold1", "mine_fold0", "mine", "mine")]
    assert (ids[0], ids[3]) == (ids[2], ids[4])
    assert len(set(ids)) == 3
    files = [path.stem for path in (tmp_path / "mine/wandb").glob("offline-run-*/run-*.wandb")]
    assert {f"run-{one}" for one in ids} == set(files)
    for line, one in zip(capsys.readouterr().out.splitlines(), ids, strict=True):
        names = [Path(word).name.split("-", 2)[2] for word in shlex.split(line.removeprefix("wandb sync "))]
        assert names[0] == f"20200101_000000-{one}"
        assert len(names) > 1
        assert {name[-8:] for name in names} == {one}


@pytest.mark.slow
def test_curves_mean_worst_images_report_and_weights_are_in_the_file(tmp_path, capsys):
    Image.fromarray(np.full((3, 5, 3), 7, np.uint8)).save(tmp_path / "a.png")
    config = load_config([f"output_dir={tmp_path}", "name=a run", "tracking=wandb", "track_checkpoints=true"])
    tracker = build_tracker(config)
    tracker.log_epoch(1, {"epoch": 2, "val_score": 0.75, "val_loss": None})
    folder = write_logs(config.run_folder, fold0=[0.25, 0.5], fold1=[0.5, 0.75])
    folder.fold(1).weights("last").write_bytes(b"weights")
    one = {"id": "x9", "fold": 1, "targets": {"t": 1}, "probs": {"t": 0.125}, "loss": 2.0794}
    worst = [one | {"picture": str(tmp_path / "a.png")}, one | {"picture": None}]
    save_json(tmp_path / "report.json", {"figures": {"roc": str(tmp_path / "a.png")}, "worst": worst})
    (tmp_path / "report.html").write_text("<p>page</p>")
    tracker.finish(folder, {"pooled": 0.625, "folds": {"0": 0.5, "1": 0.75}}, tmp_path / "report.html")

    wandb.teardown()  # its process has written all when it ends
    found = read_wandb(config.run_folder)
    assert found["run"][0].run.run_group == "a run"
    rows = [read_items(record.history.item) for record in found["history"]]
    assert {"epoch": 2, "fold1/val_score": 0.75}.items() <= rows[0].items()
    assert "fold1/val_loss" not in rows[0]
    means = [(row["epoch"], row["mean/val_score"]) for row in rows if "mean/val_score" in row]
    assert means == [(1, 0.375), (2, 0.625)]
    (row,) = [row for row in rows if "worst.path" in row]
    (run,) = config.run_folder.glob("wandb/offline-run-*")
    content = json.loads((run / "files" / row["worst.path"]).read_text())
    assert content["columns"] == ["id", "fold", "image", "loss", "target t", "prob t"]
    assert [[*one[:2], *one[3:]] for one in content["data"]] == [["x9", 1, 2.0794, 1, 0.125]]
    assert (row["report/roc.width"], row["report/roc.height"]) == (5, 3)
    assert (run / "files" / row["report/page.path"]).read_text() == "<p>page</p>"
    assert read_summary(found)["pooled"] == 0.625
    artifacts = [record.artifact for record in found["artifact"]]
    paths = {one.type: {part.path for part in one.manifest.contents} for one in artifacts}
    assert {"media", "worst.table.json"} == {path.split("/")[0] for path in paths["run_table"]}  # the image, too
    assert paths["model"] == {"fold1/last.safetensors", "fold1/meta.json", "fold0/meta.json"}
    words = shlex.split(capsys.readouterr().out)
    assert words[:2] == ["wandb", "sync"]
    assert os.path.samefile(words[2], run)


@pytest.mark.slow
def test_a_server_that_is_not_there_leaves_an_offline_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {'0' * 40}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = load_config([f"output_dir={tmp_path}", "name=run"])
    tracker = build_tracker(config)
    tracker.log_epoch(0, {"epoch": 1})
    tracker.finish(write_logs(config.run_folder), {"pooled": 0.5})
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    printed, warned = capsys.readouterr()
    assert printed.startswith("wandb sync ")
    assert warned.startswith("wandb: http://127.0.0.1:9 does not answer ")


def test_an_agent_of_the_sweep_runs_our_command_line(tmp_path, monkeypatch):
    sweep = yaml.safe_load((REPOSITORY / "configs/sweep.yaml").read_text())
    args = {}
    for key, one in sweep["parameters"].items():
        args[key] = {"value": one["value"] if "value" in one else one["values"][-1] if "values" in one else one["min"]}
    args = sweeps.create_sweep_command_args({"args": args})
    filled = args | {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    command = []
    for chunk in sweeps.create_sweep_command(sweep["command"]):  # as wandb_agent.Agent._command_run fills it
        command += filled[chunk[2:-1]] if chunk.startswith("${") else [chunk]
    assert command[:3] == ["/usr/bin/env", "python", "train.py"]
    assert command[3:] == [
        "competition=demo", "recipe=default", "fold=0", "optimizer.lr=0.0003", "augment.preset=heavy", "mix.prob=0.5",
        "model.drop_rate=0",
    ]  # fmt: skip
    config = load_config(command[3:])
    assert (config.fold, config.optimizer.lr, config.mix.prob) == (0, 0.0003, 0.5)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "t1")  # both are the agent's
    _, error = run_here("train.py", *command[3:], "train.teacher=outputs/sweep_t1", cwd=tmp_path, status=2)
    assert error.startswith("error: train.teacher=outputs/sweep_t1: is the folder of this run itself")
    assert sweep["metric"] == {"name": "pooled", "goal": "maximize"}
