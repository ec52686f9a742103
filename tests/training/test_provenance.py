"""What a run says about how it was made: the commit, versions, tables, and what a later command had else."""

import hashlib
import json
import platform
import shutil
import subprocess
import zipfile
from importlib.metadata import version

import torch

from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.training.provenance import collect_facts, read_commit, save_provenance
from tests.launch import TINY, run_here


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, "-C", folder, *words], check=True, capture_output=True, text=True).stdout


def test_a_run_keeps_its_commit_versions_and_the_checksums_of_its_tables(tiny_run):
    folder, _ = tiny_run
    words = [*TINY, "fold=0", "train.epochs=1", "name=proven"]
    run_here("train.py", *words, cwd=folder)
    path = folder / "outputs/proven/provenance.json"
    found = json.loads(path.read_text())
    assert found["command"] == f"python train.py {' '.join(words)}"
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["timm"] == version("timm")
    assert set(found["versions"]) >= {"torch", "numpy", "pandas", "scikit-learn", "albumentations"}
    table = hashlib.sha256((folder / "data/demo/train.csv").read_bytes()).hexdigest()
    assert found["tables"]["train_table"] == table
    assert found["machine"]["cpu"]
    assert (found["commit"], found["is_dirty"]) == read_commit(REPOSITORY)
    assert found["later"] == []
    assert str(folder) not in path.read_text()
    run_here("train.py", *words, cwd=folder)
    assert json.loads(path.read_text()) == found


def test_a_changed_table_is_named_and_what_a_later_command_had_else_is_kept(tiny_run):
    folder, _ = tiny_run
    words = [*TINY, "train.epochs=1", "name=changed"]
    run_here("train.py", *words, "fold=0", cwd=folder)
    path, sample = folder / "outputs/changed/provenance.json", folder / "data/demo/sample_submission.csv"
    first, rows = json.loads(path.read_text()), sample.read_bytes()
    sample.write_bytes(rows.replace(b"0.1", b"0.2", 1) if b"0.1" in rows else rows + b"\n")
    try:
        printed, _ = run_here("train.py", *words, "fold=1", cwd=folder)
    finally:
        sample.write_bytes(rows)
    line = "outputs/changed: competition.sample_submission is another file than the one that the run began with"
    assert line in printed.splitlines()
    found = json.loads(path.read_text())
    assert {key: found[key] for key in first if key != "later"} == {key: first[key] for key in first if key != "later"}
    (later,) = found["later"]
    assert later.keys() == {"command", "tables"}
    assert later["command"].endswith("fold=1")


def test_a_teacher_that_was_trained_again_since_is_named(tmp_path, capsys):
    config, oof = load_config([f"train.teacher={tmp_path}/first"]), tmp_path / "first/oof.csv"
    oof.parent.mkdir()
    for text in ("id,fold\n1,0\n", "id,fold\n1,1\n"):
        oof.write_text(text)
        save_provenance(tmp_path / "second.json", config, [], torch.device("cpu"), has_work=True)
    expected = f"{tmp_path}: train.teacher is another file than the one that the run began with\n"
    assert capsys.readouterr().out == expected


def test_a_commit_is_that_of_the_code_and_says_whether_it_was_changed(tmp_path):
    code = tmp_path / "code"
    (code / "src").mkdir(parents=True)
    for name in ("train.py", "infer.py", "src/a.py"):
        (code / name).write_text("1\n")
    assert read_commit(code) == (None, None)
    git(code, "init")
    assert read_commit(code) == (None, None)
    git(code, "add", ".")
    git(code, "commit", "-m", "first")
    commit = git(code, "rev-parse", "HEAD").strip()
    (code / "notes.txt").write_text("not the code")
    assert read_commit(code) == (commit, False)
    (code / "src/new.py").write_text("2\n")
    assert read_commit(code) == (commit, True)
    exported = code / "outputs/exported"  # a copy without .git, in another repository
    shutil.copytree(code / "src", exported / "src")
    assert read_commit(exported) == (None, None)


def test_without_git_the_commit_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_commit(REPOSITORY) == (None, None)


def test_a_table_inside_a_zip_has_a_checksum(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        packed.writestr("train.csv", "id,y\n1,0\n")
    config = load_config([f"competition.root={tmp_path}", "competition.train_table=all.zip/train.csv"])
    tables = collect_facts(config, torch.device("cpu"))["tables"]
    assert tables["train_table"] == hashlib.sha256(b"id,y\n1,0\n").hexdigest()
    assert tables["test_table"] is None
