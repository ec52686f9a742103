"""Run folders: which is the newest, what may change on one, and what is refused."""

import dataclasses
import os
import shutil
import subprocess
import time

import pytest

from src.checkpointing.run_folder import (
    FoldFolder,
    RunFolder,
    describe_changes,
    differing_settings,
    find_newest_run,
    load_run,
    open_run,
)
from src.config.load import load_config, load_saved_config
from src.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_newest_finished_run_is_found(folder):
    for seconds, name in enumerate(("old", "new", "unfinished")):
        (folder / "outputs" / name / "fold0").mkdir(parents=True)
        if name != "unfinished":
            (folder / "outputs" / name / "fold0/meta.json").write_text("{}")
            os.utime(folder / "outputs" / name / "fold0/meta.json", (seconds, seconds))
    assert find_newest_run().name == "new"
    with pytest.raises(UserError, match="nothing: no run with a finished fold; train one with python train.py"):
        find_newest_run("nothing")
    path = folder / "outputs/new/fold0/meta.json"
    os.utime(path, (time.time() + 3600,) * 2)
    with pytest.raises(UserError) as error:
        find_newest_run()
    assert str(error.value) == (
        "outputs/new/fold0/meta.json: its time lies in the future (the clock was set back); "
        "name the run with run=FOLDER"
    )


def test_a_run_is_deleted_as_a_whole_and_a_kill_before_its_first_file_leaves_none(folder):
    (folder / "outputs/demo_default").mkdir(parents=True)
    done = subprocess.Popen(["true"])
    done.wait()
    (folder / f"outputs/demo_default/.config.yaml.{done.pid}.tmp").write_text("half of")
    config = load_config([])
    open_run(config)
    (folder / "outputs/demo_default/fold0").mkdir()
    (folder / "outputs/demo_default/fold0/meta.json").write_text("{}")
    (folder / "outputs/.deleted/demo_default").mkdir(parents=True)  # as a kill leaves it
    (folder / "outputs/.deleted/another").mkdir()  # which another process deletes now
    open_run(dataclasses.replace(config, overwrite=True))
    assert [path.name for path in (folder / "outputs/.deleted").iterdir()] == ["another"]
    shutil.rmtree(folder / "outputs/.deleted")
    assert [path.name for path in (folder / "outputs").rglob("*")] == ["demo_default", "config.yaml"]


def test_where_no_fold_is_finished_a_started_run_is_found(folder, capsys):
    (folder / "outputs/started/fold0").mkdir(parents=True)
    (folder / "outputs/started/fold0/val.csv").write_text("id,a\n")
    assert find_newest_run().name == "started"
    (folder / "outputs/old/fold0").mkdir(parents=True)
    (folder / "outputs/old/fold0/meta.json").write_text("{}")
    os.utime(folder / "outputs/old/fold0/meta.json", (5, 5))
    assert find_newest_run().name == "old"
    assert capsys.readouterr().out == (
        "outputs/started: newer, but no fold is finished; run=outputs/started uses its last saved epoch\n"
    )


def test_how_a_run_is_run_may_change_but_not_what_is_trained(folder):
    one = load_config(["device=cpu", "fold=0"])
    how = ["name=moved", "fold=1", "train.num_workers=3", "infer.tta=hflip", "device=auto"]
    assert differing_settings(one, load_config(how)) == []
    assert differing_settings(one, load_config(["seed=1", "loss.label_smoothing=0.1"])) == [
        "seed",
        "loss.label_smoothing",
    ]


def test_a_folder_is_opened_again_only_with_its_settings(folder):
    open_run(load_config(["fold=0"]))
    open_run(load_config(["seed=9"]))  # nothing is trained yet: a first command may be wrong
    open_run(load_config(["fold=1"]))
    (folder / "outputs/demo_default/fold0").mkdir()
    (folder / "outputs/demo_default/fold0/meta.json").write_text("{}")
    assert load_saved_config("outputs/demo_default").fold == 1
    with pytest.raises(UserError) as caught:
        open_run(load_config(["seed=1"]))
    assert str(caught.value) == (
        "outputs/demo_default: trained with other settings: seed=1 (was 42); choose name=ANOTHER or overwrite=true"
    )
    (folder / "outputs/demo_default/old.txt").write_text("x")
    open_run(load_config(["seed=1", "overwrite=true"]))
    assert [path.name for path in (folder / "outputs/demo_default").iterdir()] == ["config.yaml"]


def test_a_run_whose_settings_are_broken_is_trained_anew_as_the_message_says(folder):
    open_run(load_config([]))
    (folder / "outputs/demo_default/fold0").mkdir()
    (folder / "outputs/demo_default/fold0/meta.json").write_text("{}")
    (folder / "outputs/demo_default/config.yaml").write_text("model: [")
    with pytest.raises(UserError, match="not valid YAML .*; correct it, or train anew with overwrite=true$"):
        open_run(load_config([]))
    open_run(load_config(["overwrite=true"]))
    assert load_saved_config("outputs/demo_default") == load_config(["overwrite=true"])


def test_a_folder_that_is_no_run_is_never_touched(folder):
    (folder / "outputs/thesis").mkdir(parents=True)
    (folder / "outputs/thesis/chapter.txt").write_text("x")
    for words in (["name=thesis"], ["name=thesis", "overwrite=true"]):
        with pytest.raises(UserError, match="outputs/thesis: exists and is not a run; choose name=ANOTHER"):
            open_run(load_config(words))
    assert (folder / "outputs/thesis/chapter.txt").exists()


def test_inference_takes_its_own_words_only(folder):
    open_run(load_config(["seed=3", "name=mine"]))
    run, config = load_run(["run=outputs/mine", "infer.tta=[hflip,vflip]", "competition.root=elsewhere"])
    assert (str(run), config.seed, config.infer.tta) == ("outputs/mine", 3, ["hflip", "vflip"])
    assert config.competition.root == "elsewhere"
    with pytest.raises(UserError) as caught:
        load_run(["run=outputs/mine", "model.pool=gem"])
    assert str(caught.value) == (
        "command line: model.pool was decided when outputs/mine was trained; infer.py takes run=, infer.* and device, "
        "device_kwargs, precision, threads, unreadable, output_dir, train.num_workers, report, competition.root, "
        "competition.test_table, competition.test_image, competition.sample_submission, competition.solution, "
        "competition.predict_by, competition.predict_with"
    )
    for word in ("competition=pneumonia", "recipe=debug"):
        with pytest.raises(UserError) as caught:
            load_run(["run=outputs/mine", word])
        key = word.partition("=")[0]
        assert str(caught.value) == f"command line: {key} was decided when outputs/mine was trained; leave it out"
    with pytest.raises(UserError, match=r"competition.task was decided when"):
        load_run(["run=outputs/mine", "competition.task=multilabel"])
    with pytest.raises(UserError, match="unknown setting infer.ttta; did you mean infer.tta?"):
        load_run(["run=outputs/mine", "infer.ttta=hflip"])


def test_a_word_that_is_no_setting_says_how_to_name_a_run(folder):
    for words, line in (
        (["outputs/mine"], "command line: 'outputs/mine' is not key=value; write run=outputs/mine, or for example "),
        (["run=outputs/mine"], "outputs/mine: "),
    ):
        with pytest.raises(UserError) as caught:
            load_run(words)
        assert str(caught.value).startswith(line)


def test_what_differs_is_listed_with_what_it_was():
    one, other = load_config(["optimizer.lr=0.5"]), load_config(["optimizer.lr=0.1", "loss.kwargs={}"])
    assert describe_changes(other, one) == "optimizer.lr=0.5 (was 0.1)"
    assert describe_changes(one, one) == ""


def test_the_files_of_a_fold(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.has_work()
    fold = run.fold(3)
    assert (fold.number, fold.path) == (3, tmp_path / "fold3")
    assert [fold.weights(select).name for select in ("best", "last")] == ["best.safetensors", "last.safetensors"]
    fold.path.mkdir()
    for epoch, num_batches in ((10, 0), (9, 12), (9, 2)):
        fold.state(epoch, num_batches).touch()
    fold.epoch_weights(2).touch()
    copies = [fold.path / "state_0009_000002 (1).pt", fold.path / "state_old.pt"]  # a person's, no states
    for path in copies:
        path.touch()
    assert [path.name for path in fold.states()] == [
        "state_0009_000002.pt", "state_0009_000012.pt", "state_0010_000000.pt"
    ]  # fmt: skip
    assert run.has_work()
    assert not fold.is_finished()
    fold.val.write_text("id,a,b c\n7,0.1,0.9\n")
    assert [one.number for one in run.started_folds()] == [3]
    assert fold.load_target_names() == ("a", "b c")
    fold.meta.write_text('{"target_names": ["x"]}')
    assert [one.number for one in run.finished_folds()] == [3]
    assert fold.load_target_names() == ("x",)
    fold.delete_states()
    assert sorted(fold.path.iterdir()) == sorted([fold.meta, *copies, fold.val])
    assert FoldFolder(fold.path).is_finished()
