"""Sibling runs of several seeds: each is the run that its seed alone makes, and what ends one names it."""

import json
import re
from dataclasses import replace

import numpy as np
import psutil
import pytest

from src.checkpointing.interrupts import Interrupts
from src.config.load import load_config, split_seeds
from src.errors import UserError
from src.files import save_json
from src.launchers import Job
from src.training.seeds import _list_jobs, _naming, _report_end
from tests.launch import TINY, Forked, run_here, run_program

WORDS = [*(word for word in TINY if word != "seed=7"), "fold=0", "train.epochs=1"]


def test_a_run_keeps_its_name_once_opening_it_has_settled_its_precision(capsys):
    configs = [load_config(words) for words in split_seeds(["seed=[1,2]", "name=s"])]
    with _naming(replace(configs[1], precision="bf16"), configs):
        assert capsys.readouterr().out == "\nseed 2 (2 of 2, outputs/s_seed2)\n"


def test_each_is_the_run_of_its_seed_on_the_same_folds(tiny_run):
    folder, _ = tiny_run
    printed, _ = run_here("train.py", *WORDS, "seed=[1,2]", "name=s", cwd=folder)
    run_here("train.py", *WORDS, "seed=2", "name=alone", cwd=folder)
    one, two, alone = (folder / "outputs" / name for name in ("s_seed1", "s_seed2", "alone"))
    assert (two / "oof.csv").read_bytes() == (alone / "oof.csv").read_bytes() != (one / "oof.csv").read_bytes()
    assert (two / "folds.csv").read_bytes() == (one / "folds.csv").read_bytes()
    assert re.findall(r"^(?:name|seed): .*", (two / "config.yaml").read_text(), re.M) == ["name: s_seed2", "seed: 2"]
    scores = [json.loads((run / "scores.json").read_text()) for run in (one, two)]
    pooled, (low, high) = [each["pooled"] for each in scores], scores[0]["interval"]
    last = printed.splitlines()[-6:]
    assert last[0] == "roc_auc by seed, out-of-fold"
    assert last[1] == f"  seed 1: {pooled[0]:.5f}, 95 % {low:.5f} to {high:.5f}, folds 0"
    spread = abs(pooled[0] - pooled[1]) / np.sqrt(2)
    assert last[3] == f"mean {np.mean(pooled):.5f}, standard deviation {spread:.5f} over 2 seeds"
    assert last[5] == "python -m tools.blend outputs/s_seed1 outputs/s_seed2 name=s_seeds"
    printed, _ = run_here("train.py", *WORDS, "seed=[1,2]", "name=s", cwd=folder)
    assert printed.count("fold 0: already finished") == 2
    run_here("infer.py", "run=outputs/s_seed1", cwd=folder)


def test_what_fails_names_the_seed_and_so_does_what_stops(tiny_run):
    folder, _ = tiny_run
    run_here("train.py", *WORDS, "seed=2", "name=f_seed2", cwd=folder)
    printed, error = run_here("train.py", *WORDS, "seed=[2,3]", "name=f", "optimizer.lr=0.5", cwd=folder, status=2)
    assert error.startswith("error: seed 2 (1 of 2, outputs/f_seed2): outputs/f_seed2: trained with other settings: ")
    assert "by seed" not in printed
    printed, error = run_here("train.py", *WORDS, "seed=[2,3]", "name=g", "time_budget=3.9s", cwd=folder)
    again = "fold 0: not started, stopped by the end of time_budget; the same command resumes"
    assert error == f"seed 2 (1 of 2, outputs/g_seed2): {again}\n"
    assert "  seed 2: no fold is done\n  seed 3: no fold is done\n" in printed
    assert not (folder / "outputs/g_seed3").exists()


def test_without_a_name_of_one_seed_and_with_the_last_word_that_counts():
    assert split_seeds(["seed=[1]", "fold=0"]) == [["fold=0", "seed=1", "name=demo_default_seed1"]]
    assert split_seeds(["name=a", "seed=[ 2, 01 ]"]) == [["seed=2", "name=a_seed2"], ["seed=1", "name=a_seed1"]]
    assert split_seeds(["seed=3", "name=a"]) == [["seed=3", "name=a"]]
    assert split_seeds(["seed=[1,2]", "seed=3"])[0][-1] == "seed=3"


@pytest.mark.parametrize("text", ["[]", "[1,1]", "[1,01]", "[1,two]", "[1.5]", "[-1]", "[1,]", "[[1]]", "[1", "[1]]"])
def test_other_lists_are_refused(text):
    with pytest.raises(UserError) as caught:
        split_seeds([f"seed={text}"])
    line = f"command line: seed={text}: not whole numbers, each once; write for example seed=[1,2,3]"
    assert str(caught.value) == line


def test_a_number_out_of_range_is_refused_before_anything_is_trained(tmp_path):
    _, error = run_here("train.py", "seed=[1,5000000000]", cwd=tmp_path, status=2)
    assert error == "error: seed=5000000000: must be from 0 to 4000000000\n"
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_killed_in_the_second_the_same_command_ends_as_if_undisturbed(tiny_run):
    folder, _ = tiny_run
    log, words = folder / "seeds.log", [*WORDS, "train.epochs=3", "checkpoint_minutes=0", "seed=[4,5]"]
    killed = Forked("train.py", [*words, "name=k"], folder, log)
    assert killed.wait_for(lambda: any((folder / "outputs/k_seed5/fold0").glob("state_*.pt"))), log.read_text()
    psutil.Process(killed.pid).kill()
    killed.status()
    for name in ("k", "u"):
        assert Forked("train.py", [*words, f"name={name}"], folder, log).status() == 0, log.read_text()
    assert "fold 0: resumes after" in log.read_text()
    for seed in (4, 5):
        one, other = (folder / f"outputs/{name}_seed{seed}/fold0/last.safetensors" for name in ("k", "u"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.nightly
def test_two_processes_train_one_seed_after_another(tiny_run):
    folder, _ = tiny_run
    words = [*WORDS, "device=cpu", "train.batch_size=16", "seed=[1,2]", "name=pair"]
    launcher = [*("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")]
    printed, _ = run_program("train.py", *words, cwd=folder, launcher=launcher)
    assert printed.count("standard deviation") == 1
    assert all((folder / f"outputs/pair_seed{seed}/fold0/meta.json").exists() for seed in (1, 2))


def test_a_job_gets_its_fold_and_what_is_left_of_the_time_budget_when_it_starts(make_run, make_table, capsys):
    run, now = make_run(make_table(np.zeros((4, 8, 8), np.uint8), [[0], [1]] * 2, np.array([0, 0, 1, 1]))), [0.0]
    run.words = ("name=a", "time_budget=1h")
    jobs = _list_jobs({"fold 0": (run, 0), "fold 1": (run, 1)}, Interrupts(10, 3600, clock=lambda: now[0]))
    first = next(jobs)
    now[0] = 3000.4
    second = next(jobs)
    assert first.words == (*run.words, "fold=0", "report=false", "track_checkpoints=false", "time_budget=3600s")
    assert second.words[2:3] + second.words[-1:] == ("fold=1", "time_budget=600s")
    assert (second.log, second.run_folder) == (run.folder.path / "fold1.log", run.folder.path)
    assert capsys.readouterr().out.endswith(f"fold 1: started; {second.log} has what it prints\n")


def test_how_a_job_has_ended_is_one_line(make_run, make_table, capsys):
    run = make_run(make_table(np.zeros((4, 8, 8), np.uint8), [[0], [1]] * 2, np.array([0, 0, 1, 1])))
    job = Job("fold 1", (), run.folder.path / "fold1.log")
    for status, line, expected in (
        (2, "error: no image", f"fold 1: no image; {job.log} has all that it printed"),
        (2, "error: fold 1, epoch 2: nan", f"fold 1, epoch 2: nan; {job.log} has all that it printed"),
        (-9, "epoch 1", f"fold 1: killed, most often as memory ran out (epoch 1); {job.log} has all that it printed"),
        (-11, "epoch 1", f"fold 1: crashed with exit status -11 (epoch 1); {job.log} has all that it printed"),
    ):
        with pytest.raises(UserError) as caught:
            _report_end(run, 1, job, status, line)
        assert str(caught.value) == expected
    assert _report_end(run, 1, job, 143, "saved") == [("a signal to its process", 143)]
    assert _report_end(run, 1, job, 0, "fold 1: saved") == [("the end of time_budget", 0)]
    save_json(run.folder.fold(1).meta, {"best_score": 0.75, "last_score": 0.5, "seconds": 8.04})
    assert _report_end(run, 1, job, 0, "wandb sync a") == []
    assert capsys.readouterr().out == "fold 1: saved\n" * 2 + "fold 1: roc_auc 0.50000, 8.0 s\nwandb sync a\n"
