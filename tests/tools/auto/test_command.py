"""The whole command on a tiny competition: what it leaves, in which time, how it resumes, and what it refuses."""

import importlib
import json
import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from src.config.load import load_config
from tools.auto.__main__ import main, read_options
from tools.auto.course import Course

SECONDS = 80


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a competition `spots`: is the image bright; 60 training and 12 test rows; weights of a backbone."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("test", 12)):
        (tmp_path / "data" / name).mkdir(parents=True)
        ids, is_bright = [f"{name}{row}" for row in range(count)], rng.random(count) < 0.5
        for one, bright in zip(ids, is_bright, strict=True):
            pixels = rng.integers(0, 120, (32, 32, 3)) + 60 * bright
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{one}.png")
        table = pd.DataFrame({"id": ids, "bright": is_bright.astype(int)})
        table.to_csv(tmp_path / "data" / f"{name}.csv", index=False)
    table.assign(bright=0.5).to_csv(tmp_path / "data" / "sample.csv", index=False)
    (tmp_path / "configs/competition").mkdir(parents=True)
    (tmp_path / "configs/competition/spots.yaml").write_text(
        "competition: {root: data, train_table: train.csv, sample_submission: sample.csv, targets: [bright], "
        "train_image: 'train/{id}.png', test_image: 'test/{id}.png'}\nimage_size: 32\n"
    )
    (tmp_path / "weights").mkdir()
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), tmp_path / "weights" / "test_resnet.safetensors")
    return tmp_path


@pytest.mark.slow
def test_one_command_leaves_a_checked_submission_a_plan_and_a_recipe_in_its_time(place, capfd):
    command = ["competition=spots", f"time_budget={SECONDS}s", "model.weights=weights", "name=spots"]
    began = time.monotonic()
    main(command)
    assert time.monotonic() - began < 1.1 * SECONDS + 60  # its last steps, which are not cut short, on a slow machine
    printed = capfd.readouterr().out
    for line in (
        "60 training rows, 12 test rows, 1 targets (binary",
        "plan: linear models on",
        "plan: test_resnet learns at",
    ):
        assert line in printed
    assert max(map(len, printed.splitlines())) <= 80
    folder = Path("outputs/spots")
    oof, submission = pd.read_csv(folder / "oof.csv"), pd.read_csv(folder / "submission.csv")
    assert len(oof) == 60
    assert oof["bright"].notna().all()
    assert list(submission["id"]) == list(pd.read_csv("data/sample.csv")["id"])
    assert json.loads((folder / "scores.json").read_text())["pooled"] > 0.95
    assert "<html" in (folder / "report.html").read_text()

    plan = json.loads((folder / "plan.json").read_text())
    assert plan["facts"]["num_rows"] == 60
    assert plan["members"]
    config = load_config(["competition=spots", f"recipe={folder}/recipe.yaml"])
    assert config.model.backbone == "test_resnet"

    before = submission["bright"].to_numpy()
    main([*command[:1], f"time_budget={SECONDS + 1}s", *command[2:]])
    printed = capfd.readouterr().out
    assert "resumed; " in printed
    assert "learns at" not in printed
    np.testing.assert_array_equal(pd.read_csv(folder / "submission.csv")["bright"], before)

    shutil.rmtree("outputs")
    for text in plan["commands"]:
        name, *words = (word for word in shlex.split(text)[1:] if word != "-m")
        name = name.removesuffix(".py") if name.endswith(".py") else f"{name}.__main__"
        importlib.import_module(name).main(words)
    np.testing.assert_allclose(pd.read_csv(folder / "submission.csv")["bright"], before, atol=1e-6)


_TIME = "write how long it may take, at least 20s: time_budget=15m"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "time_budget=5m",
            "command line: no competition; write competition=NAME, or adopt a folder: tools.adopt FOLDER",
        ),
        ("competition=spots", f"time_budget: none; {_TIME}"),
        ("competition=spots time_budget=5", f"time_budget: 5; {_TIME}"),
        ("competition=spots time_budget=3s", f"time_budget: 3s; {_TIME}"),
        (
            "competition=spots time_budget=5m fold=0",
            "command line: fold=0: is decided from run to run; leave it out, or use train.py",
        ),
        ("competition=spots time_budgt=5m", "command line: time_budgt=5m is not known; did you mean time_budget?"),
        (
            "competition=spots time_budget=5m overwrite=yes",
            "command line: overwrite=yes is neither true nor false; write overwrite=true",
        ),
        (
            "competition=spots time_budget=5m infer.output=there",
            "command line: infer.output=there: is decided from run to run; leave it out, or use train.py",
        ),
        (
            "competition=spots time_budget=5m name=old",
            "outputs/old: exists and is none of tools.auto's; choose name=ANOTHER",
        ),
    ],
)
def test_a_wrong_word_is_answered_by_one_line(place, words, line, capsys):
    Path("outputs/old").mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_run_that_was_begun_with_other_words_is_not_resumed(place, capsys):
    members = Path("outputs/spots_auto_members")
    members.mkdir(parents=True)
    journal = {"seconds": 3.0, "decisions": {"words": ["competition=spots", "image_size=32"]}}
    (members / "journal.json").write_text(json.dumps(journal))
    with pytest.raises(SystemExit):
        main(["competition=spots", "time_budget=5m"])
    found = "was begun with other words; choose name=ANOTHER, or overwrite=true to begin anew"
    assert capsys.readouterr().err == f"error: outputs/spots_auto: {found}\n"


@pytest.mark.slow
def test_after_a_mistake_the_corrected_command_begins_anew_and_no_folder_of_others_is_touched(place, capsys):
    members = Path("outputs/spots_auto_members")
    (members / "doctor").mkdir(parents=True)
    with pytest.raises(SystemExit):
        main(["competition=spots", "time_budget=5m", "overwrite=true"])
    assert (members / "doctor").is_dir()
    found = "outputs/spots_auto_members: exists and is none of tools.auto's; choose name=ANOTHER"
    assert capsys.readouterr().err == f"error: {found}\n"
    (members / "journal.json").write_text(json.dumps({"seconds": 250.0, "decisions": {}}))
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["competition=spots", "time_budget=5m", "competition.targets=[dark]", "model.weights=weights"])
        assert "no column" in capsys.readouterr().err
        assert json.loads((members / "journal.json").read_text())["seconds"] < 250
        assert not json.loads((members / "journal.json").read_text())["decisions"]


def test_the_error_is_the_distance_to_the_best_score(place):
    class One:
        threads = 1

    for metric, score, expected in (("roc_auc", 0.9, 0.1), ("log_loss", 0.3, 0.3), ("quadratic_kappa", 0.7, 0.3)):
        options, words = read_options(["competition=spots", "time_budget=1m", f"competition.metric={metric}"])
        assert Course(options, words, One).compute_error(score) == pytest.approx(expected)
