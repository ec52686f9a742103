"""Words and YAML -> Config: precedence, merging, types, and the one line that each mistake gets."""

import dataclasses

import pytest

from src.config.load import config_yaml, load_config, load_saved_config
from src.config.settings import REPOSITORY, value_of
from src.errors import UserError

RECIPES = sorted((REPOSITORY / "configs" / "recipe").glob("*.yaml"))
READY = {path.stem for path in (REPOSITORY / "configs" / "competition").glob("*.yaml")} - {"demo"}


def message_of(words):
    with pytest.raises(UserError) as caught:
        load_config(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_files(folder, competition, recipe):
    (folder / "any.yaml").write_text(competition)
    (folder / "slow.yaml").write_text(recipe)
    return [f"competition={folder / 'any.yaml'}", f"recipe={folder / 'slow.yaml'}"]


def test_precedence_is_defaults_competition_recipe_command_line(tmp_path):
    words = write_files(
        tmp_path,
        "train: {epochs: 2, batch_size: 8}\nimage_size: 64\noptimizer: {lr: 1e-2}\n",
        "train: {epochs: 3, batch_size: 9}\n",
    )
    config = load_config([*words, "train.epochs=4"])
    assert (config.train.epochs, config.train.batch_size, config.image_size) == (4, 9, (64, 64))
    assert config.optimizer.lr == 0.01
    assert config.seed == 42
    assert str(config.run_folder) == "outputs/any_slow"
    assert load_config([*words, "train.epochs=4", "train.epochs=5"]).train.epochs == 5  # the last word counts


def test_mappings_are_merged_key_by_key(tmp_path):
    words = write_files(tmp_path, "loss: {kwargs: {gamma: 1, margin: 2}}", "loss: {kwargs: {gamma: 3, deep: {a: 1}}}")

    def kwargs_of(*more):
        return load_config([*words, *more]).loss.kwargs

    assert kwargs_of() == {"gamma": 3, "margin": 2, "deep": {"a": 1}}
    assert kwargs_of("loss.kwargs.gamma=4", "loss.kwargs={delta: 5}") == kwargs_of() | {"gamma": 4, "delta": 5}
    assert kwargs_of("loss.kwargs.deep.b=2")["deep"] == {"a": 1, "b": 2}
    assert kwargs_of("loss.kwargs={deep: {}}")["deep"] == {}
    assert kwargs_of("loss.kwargs={}") == {}
    assert kwargs_of("loss.kwargs={}", "loss.kwargs={a: 1}") == {"a": 1}
    assert kwargs_of("loss.kwargs={a: 1}", "loss.kwargs={}", "loss.kwargs.b=2", "loss.kwargs.c=3") == {"b": 2, "c": 3}
    assert kwargs_of("loss.name=mse")["gamma"] == 3  # another name keeps what is there
    words = write_files(tmp_path, "loss: {kwargs: {gamma: 1}}", "loss: {kwargs: {}}")
    assert kwargs_of() == {}


def test_a_key_that_yaml_reads_as_true_stays_text(tmp_path):
    words = write_files(tmp_path, "", "schedule: {name: plateau, kwargs: {on: score}}")
    assert load_config(words).schedule.kwargs == {"on": "score"}
    for word in ("schedule.kwargs={on: score}", "schedule.kwargs.on=score"):
        config = load_config([word])
        assert config.schedule.kwargs == {"on": "score"}
        (tmp_path / "config.yaml").write_text(config_yaml(config))
        assert load_saved_config(tmp_path) == config


def test_saved_config_reads_back_the_same(tmp_path):
    words = ["model.kwargs.pad_type=same", "infer.tta=hflip", "augment.transforms=[{Rotate: {limit: 10}}]", "name=x"]
    config = load_config(words)
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    assert load_saved_config(tmp_path) == config
    assert config.infer.tta == ["hflip"]
    assert config.model.kwargs == {"norm_layer": "groupnorm1", "pad_type": "same"}
    changed = load_saved_config(tmp_path, ["infer.tta=none", "model.kwargs={}", "model.kwargs={a: 1}"])
    assert (changed.infer.tta, changed.model.kwargs, changed.name) == ([], {"a": 1}, "x")


def test_an_unknown_setting_in_a_saved_config_is_answered_with_the_file_and_the_nearest_name(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\noptimizer: {lrr: 2.0}\n")
    with pytest.raises(UserError) as caught:
        load_saved_config(tmp_path)
    path = tmp_path / "config.yaml"
    assert str(caught.value) == f"{path}: unknown setting optimizer.lrr; did you mean optimizer.lr?"


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
        ("loss.gamma=2", "command line: unknown setting loss.gamma; did you mean loss.kwargs.gamma?"),
        ("rotate=30", "command line: unknown setting rotate; did you mean augment.kwargs.rotate?"),
        ("zzz=1", "command line: unknown setting zzz; see --help all"),
        ("train=3", "command line: unknown setting train; train.* is a group, set one of its settings"),
        ("epochs", "command line: 'epochs' is not key=value; write for example train.epochs=3 (see --help all)"),
        ("train.epochs=x", "command line: train.epochs=x is not a whole number; for example train.epochs=10"),
        ("train.epochs=[3]", "command line: train.epochs=[3] is not a whole number; for example train.epochs=10"),
        ("train.epochs.x=3", "command line: train.epochs={x: 3} is not a whole number; for example train.epochs=10"),
        ("overwrite=maybe", "command line: overwrite=maybe is not true or false; for example overwrite=false"),
        ("image_size=[3]", "command line: image_size=[3] is not two whole numbers; for example image_size=[224,224]"),
        ("model.kwargs=3", "command line: model.kwargs=3 is not a mapping; for example model.kwargs={}"),
        ("model.kwargs={a: 1, pad_type:same}",
         "command line: model.kwargs={pad_type:same}: a name without a value; write a blank after its colon"),
        ("augment.transforms=[{Rotate: {limit:10}}]",
         "command line: augment.transforms={limit:10}: a name without a value; write a blank after its colon"),
        ("loss.kwargs=[a]", "command line: loss.kwargs=[a] is not a mapping; for example loss.kwargs={}"),
        ("infer.tta=[[a]]", "command line: infer.tta=[[a]] is not a list; for example infer.tta=[]"),
        ("loss.class_weights=[[1]]",
         "command line: loss.class_weights=[[1]] is not a list of numbers; for example loss.class_weights=[]"),
        ("loss.class_weights=[a]",
         "command line: loss.class_weights=[a] is not a list of numbers; for example loss.class_weights=[]"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_own_line(word, expected):
    assert message_of([word]) == expected


def test_unknown_files_list_what_there_is():
    assert message_of(["competition=dmo"]).startswith("competition=dmo: no configs/competition/dmo.yaml (there are ")
    assert "did you mean demo?" in message_of(["competition=dmo"])
    assert "did you mean head_only?" in message_of(["recipe=head_olny"])
    assert message_of(["recipe=nowhere.yaml"]).startswith("recipe=nowhere.yaml: no nowhere.yaml (there are ")


def test_a_broken_or_misspelt_file_is_named(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text("optimizer: {lrr: 1}\n")
    assert message_of([f"recipe={path}"]) == f"{path}: unknown setting optimizer.lrr; did you mean optimizer.lr?"
    path.write_text("optimizer: {l1_penalty: much}\n")
    expected = "optimizer.l1_penalty=much is not a number; for example optimizer.l1_penalty=0.0"
    assert message_of([f"recipe={path}"]) == f"{path}: {expected}"
    path.write_text("optimizer: [\n")
    assert message_of([f"recipe={path}"]).startswith(f"{path}: not valid YAML (")
    path.write_text("- 1\n")
    assert message_of([f"recipe={path}"]).startswith(f"{path}: holds ")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path, tmp_path):
    competition = tmp_path / "any.yaml"
    competition.write_text("competition: {task: binary, targets: [x]}\n")
    ready = path.stem if path.stem in READY else competition
    assert load_config([f"competition={ready}", f"recipe={path.stem}"]).recipe == path.stem


@pytest.mark.house
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_its_command_and_what_it_gave(path):
    text = path.read_text()
    assert text.startswith("# python train.py")
    if path.stem in READY:  # of one competition, whose data is not here: whose solution it follows
        assert text.startswith(f"# python train.py competition={path.stem} recipe={path.stem}\n# python infer.py ")
        assert all(word in text for word in ("\n# After ", "Metric: ", "\n# Left out: "))
    else:
        assert "\n# Gave " in text  # what it reached, where, on what


@pytest.mark.house
def test_recipes_differ_from_each_other():
    texts = {}
    for path in RECIPES:
        config = dataclasses.replace(load_config(["model.pretrained=true", f"recipe={path.stem}"]), recipe="")
        texts.setdefault(config_yaml(config), []).append(path.stem)
    assert [names for names in texts.values() if len(names) > 1] == []


def test_a_pattern_is_one_or_a_list(tmp_path):
    assert load_config(["competition.test_image={id}.jpg"]).competition.test_image == "{id}.jpg"
    word = 'competition.test_image=["a/{id}.jpg", "b/{id}.jpg"]'
    assert load_config([word]).competition.test_image == ["a/{id}.jpg", "b/{id}.jpg"]
    for value in ("[]", "[1]"):
        with pytest.raises(UserError) as caught:
            load_config([f"competition.train_image={value}"])
        assert str(caught.value) == (
            f"command line: competition.train_image={value} is no pattern, nor a list of them; write test/{{id}}.png"
        )


@pytest.mark.parametrize(
    "key", ["competition.root", "output_dir", "cache_dir", "infer.output", "model.weights", "folds"]
)
def test_a_path_may_be_in_the_home_folder(monkeypatch, key):
    monkeypatch.setenv("HOME", "/somewhere")
    assert value_of(load_config([f"{key}=~/data.csv"]), key) == "/somewhere/data.csv"


def test_a_list_of_patterns_needs_no_quotes_around_its_braces():
    word = "competition.images=[train/{id}_red.png, train/{id[0]}/{id}_green.png]"
    assert load_config([word]).competition.images == ["train/{id}_red.png", "train/{id[0]}/{id}_green.png"]
    assert load_config([word, "competition.images=null"]).competition.images is None
