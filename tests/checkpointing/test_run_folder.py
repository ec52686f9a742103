"""Run folders: which is the newest, what may change on one, and what is refused."""

import dataclasses
import os
import shutil
import subprocess
import time

import pytest

from src.checkpointing.run_folder import differing_settings, find_newest_run, load_run, open_run
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
        "outputs/new/fold0/meta.json: is from the future, as if the clock had been set back; "
        "say which run with run=FOLDER"
    )


def test_a_run_is_deleted_as_a_whole_and_a_kill_before_its_first_file_is_none(folder):
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


def test_where_no_fold_is_finished_a_begun_run_is_found(folder, capsys):
    (folder / "outputs/begun/fold0").mkdir(parents=True)
    (folder / "outputs/begun/fold0/val.csv").write_text("id,a\n")
    assert find_newest_run().name == "begun"
    (folder / "outputs/old/fold0").mkdir(parents=True)
    (folder / "outputs/old/fold0/meta.json").write_text("{}")
    os.utime(folder / "outputs/old/fold0/meta.json", (5, 5))
    assert find_newest_run().name == "old"
    assert capsys.readouterr().out == (
        "outputs/begun: newer, but no fold is finished; run=outputs/begun takes its best epoch so far\n"
    )


def test_how_a_run_is_run_may_change_but_not_what_is_trained(folder):
    one = load_config(["device=cpu", "fold=0"])
    assert (
        differing_settings(one, load_config(["fold=1", "train.num_workers=3", "infer.tta=hflip", "device=auto"])) == []
    )
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


def test_a_folder_that_is_no_run_is_never_touched(folder):
    (folder / "outputs/thesis").mkdir(parents=True)
    (folder / "outputs/thesis/chapter.txt").write_text("x")
    for words in (["name=thesis"], ["name=thesis", "overwrite=true"]):
        with pytest.raises(UserError, match="outputs/thesis: is there already and is not a run; choose name=ANOTHER"):
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
        "precision, unreadable, output_dir, train.num_workers, competition.root, competition.test_table, "
        "competition.test_image, competition.sample_submission, competition.solution"
    )
    with pytest.raises(UserError, match=r"competition.task was decided when"):
        load_run(["run=outputs/mine", "competition.task=multilabel"])
    with pytest.raises(UserError, match="unknown setting infer.ttta; did you mean infer.tta?"):
        load_run(["run=outputs/mine", "infer.ttta=hflip"])
