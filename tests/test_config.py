"""Words and YAML -> Config: precedence, types, ranges, and the one line that each mistake gets."""

import dataclasses
import re
import subprocess
import sys
import time

import pytest

from src.config import REPOSITORY, Config, settings
from src.configure import config_yaml, help_text, load_config, load_saved_config
from src.errors import UserError


def message_of(words):
    with pytest.raises(UserError) as caught:
        load_config(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_precedence_is_defaults_competition_recipe_command_line(tmp_path):
    competition, recipe = tmp_path / "rust.yaml", tmp_path / "slow.yaml"
    competition.write_text("train: {epochs: 2, batch_size: 8}\nimage_size: 64\noptimizer: {lr: 1e-2}\n")
    recipe.write_text("train: {epochs: 3, batch_size: 9}\n")
    config = load_config([f"competition={competition}", f"recipe={recipe}", "train.epochs=4"])
    assert (config.train.epochs, config.train.batch_size, config.image_size) == (4, 9, (64, 64))
    assert config.optimizer.lr == 0.01
    assert config.seed == 42
    assert str(config.run_folder) == "outputs/rust_slow"


def test_saved_config_reads_back_the_same(tmp_path):
    words = ["model.kwargs.pad_type=same", "infer.tta=hflip", "augment.transforms=[{Rotate: {limit: 10}}]", "name=x"]
    config = load_config(words)
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    assert load_saved_config(tmp_path) == config
    assert config.infer.tta == ["hflip"]
    assert config.model.kwargs == {"norm_layer": "groupnorm1", "pad_type": "same"}


def test_text_stays_text_and_an_empty_mapping_empties(tmp_path):
    config = load_config(["name=007", "competition.label=on", "competition.classes=[no,yes]", "model.kwargs={}"])
    assert (config.name, config.competition.label, config.competition.classes) == ("007", "on", ["no", "yes"])
    assert config.model.kwargs == {}
    assert load_config(["name=null", "competition.group=null"]).name is None
    assert message_of(["model.kwargs=null"]) == (
        "command line: model.kwargs=null is not a mapping; for example model.kwargs={}"
    )
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    assert load_saved_config(tmp_path) == config


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config([]).seed = 1


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("trian.epochs=3", "command line: unknown setting trian.epochs; did you mean train.epochs?"),
        ("optimizer.lrr=1", "command line: unknown setting optimizer.lrr; did you mean optimizer.lr?"),
        ("train=3", "command line: unknown setting train; train.* is a group, set one of its settings"),
        ("epochs", "command line: 'epochs' is not key=value; write for example train.epochs=3 (--help lists all)"),
        ("train.epochs=x", "command line: train.epochs=x is not a whole number; for example train.epochs=10"),
        ("overwrite=maybe", "command line: overwrite=maybe is not true or false; for example overwrite=false"),
        ("image_size=[3]", "command line: image_size=[3] is not two whole numbers; for example image_size=[224,224]"),
        ("model.kwargs=3", "command line: model.kwargs=3 is not a mapping; for example model.kwargs={}"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be at least 0"),
        ("model.drop_rate=1.5", "model.drop_rate=1.5: must be from 0 to 0.99"),
        ("fold=5", "fold=5: there are num_folds=5, counted from 0; fold=4 is the last"),
        ("infer.tta=hflop", "infer.tta=hflop: not one of hflip, vflip, d4, scales; did you mean hflip?"),
        ("folds=startified", "folds=startified: not one of auto, stratified, group, stratified_group, multilabel, "
         "kfold, holdout, column, nor a .csv; did you mean stratified?"),
        ("name=..", "name=..: not a folder of its own in outputs; choose another name"),
        ("name=../x", "name=../x: not a folder of its own in outputs; choose another name"),
        ("model.freeze=some", "model.freeze=some: not one of none, head_only, gradual, nor a number of stages"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_own_line(word, expected):
    assert message_of([word]) == expected


def test_unknown_files_list_what_there_is():
    assert message_of(["competition=dmo"]).startswith("competition=dmo: no configs/competition/dmo.yaml (there are ")
    assert "did you mean demo?" in message_of(["competition=dmo"])
    assert "did you mean head_only?" in message_of(["recipe=head_olny"])


def test_a_broken_or_misspelt_file_is_named(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text("optimizer: {lrr: 1}\n")
    assert message_of([f"recipe={path}"]) == f"{path}: unknown setting optimizer.lrr; did you mean optimizer.lr?"
    path.write_text("optimizer: [\n")
    assert message_of([f"recipe={path}"]).startswith(f"{path}: not valid YAML (")
    path.write_text("- 1\n")
    assert message_of([f"recipe={path}"]).startswith(f"{path}: holds ")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_begins_with_its_command(path, tmp_path):
    competition = tmp_path / "any.yaml"
    competition.write_text("competition: {task: binary, targets: [x]}\n")
    config = load_config([f"competition={competition}", f"recipe={path.stem}"])
    assert config.recipe == path.stem
    assert path.read_text().startswith("# python train.py")


def test_recipes_differ_from_each_other():
    texts = {}
    for path in sorted((REPOSITORY / "configs" / "recipe").glob("*.yaml")):
        config = dataclasses.replace(load_config(["model.pretrained=true", f"recipe={path.stem}"]), recipe="")
        texts.setdefault(config_yaml(config), []).append(path.stem)
    assert [names for names in texts.values() if len(names) > 1] == []


def test_every_setting_is_read_somewhere():
    code = "\n".join(
        path.read_text()
        for path in (REPOSITORY / "src").rglob("*.py")
        if path.name not in ("config.py", "checks.py") and path.parent.name != "adopt"
    )
    unread = [key for key in settings() if not re.search(rf"\.{key.rpartition('.')[2]}\b", code)]
    assert unread == ["recipe"]  # config.py itself makes the folder's name of it


def test_help_lists_every_setting_within_80_columns():
    text = help_text()
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"  {key}=" in text for key in settings())
    for line in (
        "train.epochs=10",
        "mix.cutmix_alpha=1.0",
        "mix.off_epochs=0",
        "train.compile=false",
        "model.kwargs={}",
    ):
        assert f"  {line}\n" in text
    assert "share of batches that are mixed; 0: off (from 0 to 1)" in text


@pytest.mark.parametrize("words", [["--help"], ["trian.epochs=3"]])
def test_help_and_config_errors_do_not_wait_for_torch(words):
    code = "import sys, runpy; sys.argv = ['train.py', *{!r}]\ntry: runpy.run_path('train.py', run_name='__main__')\n"
    code += "except SystemExit: pass\nprint('torch' in sys.modules)"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code.format(words)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "False"
    assert time.perf_counter() - began < 3  # 0.5 s on a quiet machine
    if words != ["--help"]:
        assert done.stderr == "error: command line: unknown setting trian.epochs; did you mean train.epochs?\n"


def test_all_groups_have_one_level():
    assert all(key.count(".") <= 1 for key in settings(Config))
