"""Words and YAML -> Config: precedence, types, ranges, and the one line that each mistake gets."""

import dataclasses
import math
import re
import subprocess
import sys
import time

import pytest

from src.config.help import _OTHER_NAMES, help_text
from src.config.load import config_yaml, load_config, load_saved_config
from src.config.settings import REPOSITORY, Config, seconds_of, settings
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
        ("lr=1", "command line: unknown setting lr; did you mean optimizer.lr?"),
        ("train.lr=1", "command line: unknown setting train.lr; did you mean optimizer.lr?"),
        ("batch_size=1",
         "command line: unknown setting batch_size; did you mean train.batch_size or infer.batch_size?"),
        ("model.dropout=1", "command line: unknown setting model.dropout; did you mean model.drop_rate?"),
        ("optimizer=adam", "command line: unknown setting optimizer; did you mean optimizer.name?"),
        ("zzz=1", "command line: unknown setting zzz; --help lists all"),
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
        ("time_budget=8.5", "time_budget=8.5: no time above 0; write for example 8.5h, 45m or 90s"),
        ("time_budget=0h", "time_budget=0h: no time above 0; write for example 8.5h, 45m or 90s"),
        ("model.freeze=some", "model.freeze=some: not one of none, head_only, gradual, nor a number of stages"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_own_line(word, expected):
    assert message_of([word]) == expected


CONTRADICTIONS = [
    (["loss.name=hinge", "mix.prob=0.5"],
     "loss.name=hinge: cannot read the soft targets of mix.prob=0.5; set mix.prob=0"),
    (["loss.name=auc", "loss.label_smoothing=0.1"],
     "loss.name=auc: cannot read the soft targets of loss.label_smoothing=0.1; set loss.label_smoothing=0"),
    (["schedule.name=plateau", "schedule.per=step"],
     "schedule.per=step: schedule.name=plateau looks at each epoch's validation; set schedule.per=auto"),
    (["model.pretrained=true", "model.freeze=head_only", "optimizer.layer_decay=0.7"],
     "model.freeze=head_only: optimizer.layer_decay=0.7 needs two stages of the backbone that learn; set it to null"),
    (["model.pretrained=true", "model.freeze=0", "model.head_first_epochs=1"],
     "model.freeze=0: no epoch follows model.head_first_epochs; set model.freeze=none"),
    (["model.pretrained=true", "model.head_first_epochs=8"],
     "model.head_first_epochs=8: train.epochs=8 end before more opens; lower it"),
    (["model.pretrained=true", "model.freeze=gradual", "model.gradual_epochs=9"],
     "model.gradual_epochs=9: train.epochs=8 end before more opens; lower it"),
    (["model.pretrained=true", "model.freeze=head_only", "model.drop_path_rate=0.1"],
     "model.drop_path_rate: nothing drops in a frozen backbone; set it to 0"),
    (["model.freeze_batchnorm=true"],
     "model.freeze_batchnorm=true: random weights have no statistics to keep; set it to null"),
    (["model.pretrained=true", "model.batchnorm_momentum=0.2"],
     "model.batchnorm_momentum=0.2: BatchNorm is frozen, its statistics do not move; "
     "set model.freeze_batchnorm=false"),
    (["optimizer.kwargs={lr: 0.1}"], "optimizer.kwargs.lr: has a setting of its own; set optimizer.lr"),
    (["mix.prob=1", "mix.off_epochs=8"], "mix.off_epochs=8: nothing is mixed in train.epochs=8"),
    (["schedule.name=plateau", "schedule.gamma=1"],
     "schedule.gamma=1: plateau would never lower the rate; set it below 1"),
    (["schedule.name=onecycle", "schedule.per=epoch", "train.epochs=1"],
     "schedule.per=epoch: one epoch is no cycle; set schedule.per=step"),
    (["schedule.name=cosine_restarts", "schedule.restart_epochs=8"],
     "schedule.restart_epochs=8: never comes; train.epochs is 8"),
    (["schedule.name=plateau", "train.early_stopping_on=loss", "train.early_stopping_epochs=2"],
     "train.early_stopping_epochs=2: ends the training before a plateau of schedule.patience_epochs=1 lowers the rate; "
     "set it to 3 or more"),
    (["loss.name=auc", "schedule.name=plateau"],
     "schedule.plateau_on=loss: is the log loss, which loss.name=auc does not lower; set schedule.plateau_on=score"),
    (["augment.preset=none", "augment.flips=d4"],
     "augment.flips=d4: augment.preset=none leaves flips out; set augment.preset=light and what else it does to 0 "
     "(augment.rotate=0 augment.translate=0 augment.scale=[1,1])"),
    (["train.views=3"], "train.views=3: counts features of a frozen backbone; set model.freeze=head_only"),
    (["model.pretrained=true", "model.freeze=head_only", "mix.prob=0.5"],
     "mix.prob: makes new pictures in every epoch, whose features are not kept; set train.views=0"),
    (["model.pretrained=true", "model.freeze=0", "model.pool=gem"],
     "model.pool=gem: learns inside the backbone, whose features are kept; set train.views=0"),
    (["model.pretrained=true", "model.freeze=head_only", "model.grad_checkpointing=true"],
     "model.grad_checkpointing=true: a frozen backbone keeps no activations; leave it out"),
    (["model.pretrained=true", "model.freeze=head_only", "model.head_first_epochs=1"],
     "model.freeze=head_only: no epoch follows model.head_first_epochs; set model.freeze=none"),
    (["model.pretrained=true", "model.freeze=gradual", "model.head_first_epochs=2"],
     "model.freeze=gradual: begins with the head alone; set model.gradual_epochs=2 and model.head_first_epochs=0"),
    (["model.head_first_epochs=1"],
     "model.head_first_epochs=1: a head learns nothing on random weights; set model.pretrained=true"),
    (["model.freeze=2"], "model.freeze=2: random weights would never learn; set model.pretrained=true"),
    (["model.dropout_samples=5"],
     "model.dropout_samples=5: all masks are alike without dropout; set model.drop_rate"),
    (["train.ema_decay=0.9", "train.swa_epochs=2"],
     "train.ema_decay: is one average of weights, train.swa_epochs another; choose one"),
    (["train.swa_epochs=20"], "train.swa_epochs=20: there are only train.epochs=8"),
    (["train.swa_epochs=2", "train.early_stopping_epochs=2"],
     "train.swa_epochs: averages the last of all train.epochs, which train.early_stopping_epochs may leave out; "
     "choose one"),
    (["loss.balance=true", "train.sampler=balanced"],
     "loss.balance: train.sampler=balanced makes rare answers up already; choose one of the two"),
    (["loss.balance=true", "loss.class_weights=[1,2]"],
     "loss.balance: takes the weights from the counts; leave out loss.class_weights or loss.balance"),
    (["loss.balance=true", "loss.name=auc"],
     "loss.name=auc: compares pairs, which weights do not change; leave out loss.balance and weights"),
    (["loss.class_weights=[1,0]"], "loss.class_weights=[1.0, 0.0]: each must be above 0"),
    (["loss.name=asymmetric"],
     "loss.name=asymmetric: a multiclass task has one answer a row; set loss.name=cross_entropy"),
    (["augment.augmix_consistency=12"],
     "augment.augmix_consistency: compares AugMix's views; set augment.augmix=3"),
    (["augment.augmix=3", "augment.augmix_consistency=12", "mix.prob=0.5"],
     "augment.augmix_consistency: its views cannot be mixed with other images; set mix.prob=0"),
    (["augment.transforms=[Transpose]", "augment.rotate=10"],
     "augment.transforms: takes the place of augment.rotate; give one of the two"),
    (["augment.scale=[1.2,0.8]"],
     "augment.scale=[1.2, 0.8]: must be [smallest, largest] above 0; for example augment.scale=[0.8,1.25]"),
    (["schedule.name=multistep", "schedule.milestone_epochs=[3,9]"],
     "schedule.milestone_epochs: 9 is outside the training; train.epochs is 8"),
    (["schedule.warmup_epochs=8"],
     "schedule.warmup_epochs=8: leaves nothing of train.epochs=8 for the curve"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), CONTRADICTIONS, ids=[" ".join(words) for words, _ in CONTRADICTIONS])
def test_settings_that_contradict_each_other(words, expected):
    assert message_of(words) == expected


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
def test_every_recipe_loads_and_says_its_command_and_what_it_gave(path, tmp_path):
    competition = tmp_path / "any.yaml"
    competition.write_text("competition: {task: binary, targets: [x]}\n")
    config = load_config([f"competition={competition}", f"recipe={path.stem}"])
    assert config.recipe == path.stem
    assert path.read_text().startswith("# python train.py")
    assert "\n# Gave " in path.read_text()  # what it reached, where, on what


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
    assert unread == []


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


def test_a_time_is_hours_minutes_or_seconds():
    assert [seconds_of(text) for text in ("8.5h", "45m", "90s", None)] == [30600, 2700, 90, None]
    assert all(math.isnan(seconds_of(text)) for text in ("", "h", "1e3s", "-1h", "1.h", "1 h", "1d", "nans"))


def test_other_trainers_names_lead_to_settings():
    assert set(_OTHER_NAMES.values()) <= set(settings())
    assert not set(_OTHER_NAMES) & set(settings())
