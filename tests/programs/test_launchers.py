"""Whole runs with folds beside each other: equal to those one after another, stopped and resumed, and their errors."""

import json
import os
import signal
import threading
import time

import joblib
import psutil
import pytest

from src import device, launchers
from src.errors import UserError
from src.locks import check_free
from src.training import seeds
from tests.launch import TINY, run_here

BESIDE, END_RUN = [*TINY, "launcher=local"], seeds.end_run


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)


@pytest.mark.slow
def test_folds_beside_each_other_end_as_one_after_another(tiny_run, monkeypatch):
    def end_run(run, stopped):
        with pytest.raises(UserError, match="another process trains folds 0, 1; wait"):
            check_free(run.folder.path, [], True)  # which would delete it while it is scored
        END_RUN(run, stopped)

    folder, _ = tiny_run
    plain, beside = folder / "outputs/demo_default", folder / "outputs/beside"
    with monkeypatch.context() as patched:
        patched.setattr(seeds, "end_run", end_run)
        printed, _ = run_here("train.py", *BESIDE, "name=beside", "overwrite=true", cwd=folder)
    for name in ("oof.csv", "folds.csv", "fold0/last.safetensors", "fold1/last.safetensors"):
        assert (beside / name).read_bytes() == (plain / name).read_bytes(), name
    assert "\n2 folds, 2 at a time\n" in printed
    assert "fold 1: started; outputs/beside/fold1.log has what it prints\n" in printed
    score = json.loads((beside / "scores.json").read_text())["folds"]["0"]
    assert f"\nfold 0: roc_auc {score:.5f}, " in printed
    assert printed.splitlines()[-1] == "next: python infer.py run=outputs/beside"
    assert "fold: null" in (beside / "config.yaml").read_text()
    assert json.loads((beside / "provenance.json").read_text())["later"] == []
    assert "out-of-fold" not in (beside / "fold0.log").read_text()

    printed, _ = run_here("train.py", *BESIDE, "name=beside", cwd=folder)
    assert "fold 0: already finished" in printed
    assert "started" not in printed


@pytest.mark.slow
def test_no_other_command_takes_the_folds_while_their_jobs_still_load(tiny_run, tmp_path, monkeypatch):
    """With overwrite=true it would delete the run under them."""
    folder, _ = tiny_run
    (tmp_path / "train.py").write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(launchers.REPOSITORY)!r})\n"
        "from src.errors import one_line_errors\nfrom src.locks import check_free\n"
        "with one_line_errors():\n    check_free(Path('outputs/loading'), [], True)\n"
    )
    monkeypatch.setattr(launchers, "REPOSITORY", tmp_path)
    _, error = run_here("train.py", *BESIDE, "name=loading", cwd=folder, status=2)
    assert "outputs/loading: another process trains folds 0, 1; wait until it ends" in error


@pytest.mark.nightly
def test_seeds_beside_each_other_are_the_runs_of_each(tiny_run):
    folder, _ = tiny_run
    printed, _ = run_here("train.py", *BESIDE, "fold=0", "seed=[7,8]", "name=s", cwd=folder)
    one, other = (folder / f"outputs/{name}/fold0/val.csv" for name in ("s_seed7", "demo_default"))
    assert one.read_bytes() == other.read_bytes()
    assert "\nseed 8 fold 0: roc_auc " in printed
    assert "standard deviation" in printed


@pytest.mark.nightly
def test_several_gpus_are_used_without_a_word_and_each_has_one_fold(tiny_run, tmp_path, monkeypatch):
    folder, _ = tiny_run
    (tmp_path / "train.py").write_text(
        f"import os, runpy, sys\nprint('GPU', os.environ['CUDA_VISIBLE_DEVICES'])\n"
        f"sys.path.insert(0, {str(launchers.REPOSITORY)!r})\n"
        f"runpy.run_path({str(launchers.REPOSITORY / 'train.py')!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(launchers, "REPOSITORY", tmp_path)
    monkeypatch.setattr(device, "list_gpus", lambda name: ["3", "GPU-b"])
    run_here("train.py", *TINY, "name=gpus", cwd=folder)
    gpus = [(folder / f"outputs/gpus/fold{fold}.log").read_text().split("\n")[0] for fold in (0, 1)]
    assert gpus == ["GPU 3", "GPU GPU-b"]
    assert (folder / "outputs/gpus/oof.csv").read_bytes() == (folder / "outputs/demo_default/oof.csv").read_bytes()


@pytest.mark.nightly
def test_a_signal_saves_all_and_the_same_command_resumes(tiny_run):
    folder, _ = tiny_run
    words = [*BESIDE, "train.epochs=12", "checkpoint_minutes=0", "train.max_images=null"]
    run = folder / "outputs/stopped"

    def stop():
        while not all(any(run.glob(f"fold{fold}/state_*.pt")) for fold in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    _, error = run_here("train.py", *words, "name=stopped", cwd=folder, status=143)
    last = "fold 0, fold 1: not finished, stopped by SIGTERM; the same command resumes"
    assert error.splitlines()[-1] == last
    assert not any("train.py" in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))
    run_here("train.py", *words, "name=stopped", cwd=folder)
    assert "fold 0: resumes after" in (run / "fold0.log").read_text()
    run_here("train.py", *words, "launcher=null", "name=whole", cwd=folder)
    assert (run / "oof.csv").read_bytes() == (folder / "outputs/whole/oof.csv").read_bytes()


@pytest.mark.nightly
def test_the_error_of_a_fold_ends_the_command_and_what_is_wrong_starts_nothing(tiny_run):
    folder, _ = tiny_run
    _, error = run_here("train.py", *BESIDE, "optimizer.lr=1e30", "name=bad", cwd=folder, status=2)
    assert error.startswith("error: fold ")
    assert ": epoch 1, step " in error
    assert error.rstrip().endswith(".log has all that it printed")
    assert error.count("\n") == 1
    printed, error = run_here("train.py", *BESIDE, "optimizer.name=adamm", "name=typo", cwd=folder, status=2)
    assert error.startswith("error: optimizer.name=adamm: ")
    assert "started" not in printed
    assert not (folder / "outputs/typo").exists()
