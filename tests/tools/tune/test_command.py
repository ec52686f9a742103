"""The whole command on the embedded competition: what it leaves, what it refuses, how it resumes and shares."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from src.checkpointing.run_folder import differing_settings
from src.config.load import load_config, load_saved_config
from src.config.settings import REPOSITORY
from tests.browser import find_browser, find_faults, open_browser
from tests.launch import TINY, run_here
from tools.tune.__main__ import main

WORDS = ["competition=demo", "space=space.yaml", "name=search", *TINY]
SPACE = "optimizer.lr: {low: 1e-4, high: 1e-1, log: true}\naugment.preset: [none, light, medium]\n"
FILES = ("recipe.yaml", "trials.csv", "report.html", "tune.json", "journal.log", "space.yaml")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def refuse(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip()


REFUSED = {
    ("space=space.yaml",): "error: command line: no competition; write competition=NAME, or adopt a folder",
    ("competition=demo",): "error: command line: no space; write space=FILE.yaml, as python -m tools.tune --help shows",
    (*WORDS, "trails=3"): "error: command line: trails=3 is not known; did you mean trials?",
    (*WORDS, "trials=0"): "error: command line: trials=0: not a whole number above 0; write for example trials=20",
    (*WORDS, "fold=1"): "error: command line: fold=1: trials train fold 0 first; leave it out, or set folds=1",
    (*WORDS, "seed=[1,2]"): "error: command line: seed=[1,2]: trials share one seed; write for example seed=1",
    (*WORDS, "pruner=hyperband"): "error: command line: pruner=hyperband: not one of median, none",
    (*WORDS, "optimizer.lr=1"): "error: space.yaml: optimizer.lr: is searched and given on the command line; leave out",
    ("competition=demo", "space=no.yaml"): (
        "error: no.yaml: cannot be read ([Errno 2] No such file or directory: 'no.yaml'); "
        "write it as python -m tools.tune --help shows"
    ),
    (*WORDS, "num_folds=1"): "error: num_folds=1: must be at least 2",
}


def test_a_wrong_word_is_refused_in_one_line(place, capsys):
    for words, line in REFUSED.items():
        assert refuse(capsys, *words).startswith(line), words
    assert not Path("outputs").exists()
    main(["--help"])
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())


@pytest.mark.slow
def test_a_search_leaves_trials_a_recipe_that_trains_the_same_and_a_page(place, capsys):
    main([*WORDS, "trials=2"])
    printed = capsys.readouterr().out.splitlines()
    folder, best = Path("outputs/search"), json.loads(Path("outputs/search/tune.json").read_text())["best"]
    assert all((folder / name).is_file() for name in FILES)
    assert all(len(line) <= 80 for line in printed[3:] if not line.startswith("wandb"))
    assert [line.split()[:2] for line in printed if line.split()[1:2] == ["complete"]] == [
        [str(number), "complete"] for number in range(2)
    ]
    assert printed[-1] == f"next: python infer.py run=outputs/search/trials/trial_{best['number']:04d}"
    trials = pd.read_csv(folder / "trials.csv")
    assert trials["number"].tolist() == [0, 1]
    assert trials["optimizer.lr"][0] == 0.004  # the recipe's own
    assert best["score"] == trials["score"].max()
    own = load_saved_config(folder / "trials" / f"trial_{best['number']:04d}")
    recipe = load_config(["competition=demo", f"recipe={folder}/recipe.yaml"])
    assert differing_settings(own, recipe) in ([], ["recipe"])  # precision=fp32 of the command, too
    run_here("train.py", "competition=demo", f"recipe={folder}/recipe.yaml", "name=again", *TINY[5:], cwd=place)
    same = [pd.read_csv(run / "oof.csv") for run in (Path("outputs/again"), own.run_folder)]
    pd.testing.assert_frame_equal(*same, check_exact=True)
    before = (folder / "trials.csv").read_text()
    main([*WORDS, "trials=2"])  # nothing is left to do
    assert (folder / "trials.csv").read_text() == before
    capsys.readouterr()
    line = refuse(capsys, *WORDS, "mix.prob=0.5")
    assert line.startswith("error: outputs/search: was begun with other settings: mix.prob=0.5 (was 0.0); choose name=")
    Path("space.yaml").write_text("optimizer.lr: [0.1, 0.2]")
    assert "other settings: space of augment.preset=none (was none, light, medium)" in refuse(capsys, *WORDS)
    Path("outputs/mine").mkdir()
    Path("outputs/mine/file").touch()
    assert "outputs/mine: exists and is none of tools.tune's" in refuse(capsys, *WORDS, "name=mine", "overwrite=true")


@pytest.mark.nightly
def test_trials_that_fail_alike_end_the_search_and_are_tried_again(place, capsys):
    """Each says why; the same command does not count them."""
    Path("space.yaml").write_text("train.pseudo: [outputs/one, outputs/two]\noptimizer.lr: [0.1, 0.2, 0.3]")
    for number in (0, 3):
        line = refuse(capsys, *WORDS)
        assert line.startswith("error: outputs/search: 3 trials have failed alike, and none has ended: outputs/")
        trials = pd.read_csv("outputs/search/trials.csv")
        assert trials["number"].tolist() == [number, number + 1, number + 2]
        assert set(trials["state"]) == {"failed"}
        assert trials["reason"].str.contains("not a run (no config.yaml)", regex=False).all()


def start(place, *words):
    command = [sys.executable, "-m", "tools.tune", *WORDS, *words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)


def end(process):
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return printed


def read_trials(name="search"):
    return pd.read_csv(f"outputs/{name}/trials.csv").drop(columns="seconds")


@pytest.mark.nightly
def test_a_killed_search_resumes_and_ends_as_one_that_was_not(place):
    whole = start(place, "name=whole", "trials=4")
    end(whole)
    for number in range(3):
        process = start(place, "trials=4")
        while not Path(f"outputs/search/trials/trial_{number:04d}/fold0/log.csv").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number])
        process.communicate()
        assert process.returncode == (-9, 143, 130)[number]
    printed = end(start(place, "trials=4"))
    assert "    2 resumes, as its command has ended" in printed
    pd.testing.assert_frame_equal(read_trials(), read_trials("whole"))


@pytest.mark.nightly
def test_two_commands_at_once_share_the_trials(place):
    processes = [start(place, "trials=5") for _ in range(2)]
    printed = [end(one) for one in processes]
    end(start(place, "trials=5"))
    trials = read_trials()
    assert trials["number"].tolist() == [0, 1, 2, 3, 4]
    assert set(trials["state"]) <= {"complete", "pruned"}
    ran = [re.findall(r"^ +(\d) (?:complete|pruned) ", text, re.MULTILINE) for text in printed]
    assert sorted([one for numbers in ran for one in numbers]) == ["0", "1", "2", "3", "4"]
    assert all(ran)  # each had some


@pytest.mark.nightly
def test_trials_beside_each_other_and_as_tasks_of_ray_score_as_alone(place):
    end(start(place, "name=alone", "trials=2"))
    end(start(place, "name=local", "trials=2", "launcher=local"))
    end(start(place, "name=ray", "trials=2", "launcher=ray", "train.num_workers=0"))
    for name in ("local", "ray"):
        pd.testing.assert_frame_equal(read_trials(name)[:1], read_trials("alone")[:1])
        assert len(read_trials(name)) == 2


@pytest.mark.nightly
def test_hopeless_trials_are_pruned_and_the_honest_score_leaves_their_fold_out(place):
    Path("space.yaml").write_text("optimizer.lr: {low: 1e-7, high: 1e-1, log: true}\n")
    printed = end(start(place, "trials=10"))
    trials, found = read_trials(), json.loads(Path("outputs/search/tune.json").read_text())
    pruned = trials[trials["state"] == "pruned"]
    assert len(pruned)
    assert pruned["score"].isna().all()
    assert set(pruned["reason"]) <= {"after epoch 1", "after epoch 2"}
    assert found["honest_folds"] == [1]
    assert list(found["chosen"]) == ["1"]
    assert "without fold 0, on which trials were pruned" in printed.replace("\n  ", " ")
    for number in trials["number"]:
        folds = Path(f"outputs/search/trials/trial_{number:04d}")
        assert len([*folds.glob("fold*/*.safetensors")]) == (0 if number in pruned["number"].tolist() else 2)
    if find_browser():
        with open_browser() as browser:
            assert find_faults(browser, place / "outputs/search/report.html") == {}
