"""Self-training: what a fold learns from a teacher's predictions, and that nothing of its validation rows is in it."""

import os
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.config.load import config_yaml, load_config
from src.errors import UserError
from src.files import save_table, save_text
from src.training.engine import train_one_epoch
from src.training.learner import build_learner
from src.training.run import check_learner, prepare_inputs
from src.training.self_training import build_train_table
from tests.http_server import Server
from tests.launch import TINY, Forked, run_here

FOLDS = np.array([0, 0, 1, 1, 2, 2, -1])
LABELS = np.array([[1], [0], [1], [0], [1], [0], [1]], np.float32)
PROBS = np.array([[0.9], [0.2], [0.6], [0.5], [0.4], [0.1]])  # out of fold; the row of fold -1 has none
TEST_PROBS = {0: [0.9, 0.2, 0.6], 1: [0.8, 0.3, 0.5], 2: [0.1, 0.1, 0.1]}  # each fold's, of the three test rows
PLANTED = 0.77  # what the networks say that have seen a fold's validation rows


class World:
    """Seven training images, three test images, and a teacher's files, all made by hand."""

    def __init__(self, folder, make_table, make_run):
        rng = np.random.default_rng(0)
        self.folder, self.teacher, self._make_run = folder, folder / "teacher", make_run
        self.table = make_table(rng.integers(0, 255, (7, 8, 8), np.uint8), LABELS, FOLDS)
        (folder / "test").mkdir()
        for row in range(3):
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / f"test/{row}.png")
        pd.DataFrame({"id": ["0", "1", "2"]}).to_csv(folder / "test.csv", index=False)
        names = [f"competition.{name}=null" for name in ("label", "train_table", "sample_submission", "solution")]
        self.words = [
            *(f"competition.root={folder}", "competition.test_table=test.csv", "competition.test_image=test/{id}.png"),
            *(*names, "competition.classes=[]", "competition.targets=[t0]", "competition.task=binary", "name=student"),
            *("image_size=8", "normalize=none", "train.batch_size=4"),
        ]
        self.write_teacher()

    def write_teacher(self, *words, table=None, probs=PROBS, tests=TEST_PROBS):
        """Write the files of a run that predicts the rows of the folds, and the test rows."""
        table, names = table or self.table, [*(table or self.table).target_names]
        save_text(self.teacher / "config.yaml", config_yaml(load_config([*self.words, *words])))
        save_table(self.teacher / "folds.csv", self._rows(table, {}))
        own = table.take(table.folds >= 0)
        columns = {f"target_{name}": own.targets[:, place] for place, name in enumerate(names)}
        columns |= {name: probs[:, place] for place, name in enumerate(names)}
        save_table(self.teacher / "oof.csv", self._rows(own, columns))
        for fold, one in tests.items():
            save_text(self.teacher / f"fold{fold}/meta.json", "{}")
            one = np.asarray(one).reshape(3, -1)
            columns = {"id": ["0", "1", "2"]} | {name: one[:, place] for place, name in enumerate(names)}
            save_table(self.teacher / f"fold{fold}/test.csv", pd.DataFrame(columns))

    def _rows(self, table, columns):
        return pd.DataFrame({"id": table.ids, "fold": table.folds} | columns)

    def run(self, *words, table=None):
        return self._make_run(table or self.table, *self.words, *words)

    def learner(self, *words, fold=0, table=None):
        return build_learner(self.run(*words, table=table), fold)


@pytest.fixture
def world(tmp_path, make_table, make_run):
    return World(tmp_path, make_table, make_run)


def teacher_of(world):
    return f"train.teacher={world.teacher}"


def pseudo_of(world):
    return f"train.pseudo={world.teacher}"


def test_a_targets_share_is_the_out_of_fold_prediction_and_validation_keeps_the_labels(world):
    learner = world.learner(teacher_of(world), fold=1)
    mixed = [0.7 + 0.3 * 0.9, 0.3 * 0.2, 0.7 + 0.3 * 0.4, 0.3 * 0.1, 1.0]  # the last is in no fold
    np.testing.assert_allclose(learner.train_table.targets[:, 0], mixed, rtol=1e-6)
    assert learner.train_table.ids.tolist() == ["0", "1", "4", "5", "6"]
    assert learner.val_table.targets[:, 0].tolist() == [1, 0]
    all_of_it = world.learner(teacher_of(world), "train.teacher_weight=1", fold=1).train_table.targets
    np.testing.assert_allclose(all_of_it[:, 0], [0.9, 0.2, 0.4, 0.1, 1.0], rtol=1e-6)
    assert world.table.targets.tolist() == LABELS.tolist()


def test_the_batches_hold_the_mixed_targets(world):
    learner = world.learner(teacher_of(world))
    [first, second] = learner.train_loader.batches(0)
    rows, targets = (torch.cat([first[name], second[name]]) for name in ("index", "target"))
    assert targets[rows.argsort(), 0].tolist() == learner.train_table.targets[:, 0].tolist()
    [plain] = world.learner("train.batch_size=8").train_loader.batches(0)
    assert set(plain["target"].unique().tolist()) == {0.0, 1.0}


CLASSES = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0]]
CLASS_PROBS = np.array([[0.5, 0.3, 0.2]] * 6)
CLASS_TESTS = {fold: [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]] for fold in range(3)}


@pytest.fixture
def classes(world):
    """The world's table as one of three classes, and words for it."""
    table = replace(world.table, targets=CLASSES, target_names=("a", "b", "c"), task="multiclass")
    words = ["competition.targets=[a,b,c]", "competition.task=multiclass"]
    world.write_teacher(*words, table=table, probs=CLASS_PROBS, tests=CLASS_TESTS)
    return table, words


def test_classes_are_mixed_and_sharpened_so_that_a_row_sums_to_one(world, classes):
    table, words = classes
    learner = world.learner(
        *words, teacher_of(world), pseudo_of(world), "train.pseudo_kwargs={power: 2, limit: 0.45}", table=table
    )
    targets = learner.train_table.targets
    np.testing.assert_allclose(targets[0], [0.15, 0.09, 0.76], rtol=1e-6)  # .7 [0, 0, 1] + .3 [.5, .3, .2]
    squares = np.array([[0.25, 0.09, 0.04], [0.01, 0.64, 0.01]])  # the third row is not as sure as 0.45
    np.testing.assert_allclose(targets[5:], squares / squares.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)


def test_missing_labels_stay_missing(world):
    targets = np.array([[1, np.nan], [0, 1], [1, 0], [np.nan, 0], [1, 1], [0, 0], [1, 1]], np.float32)
    table = replace(world.table, targets=targets, target_names=("a", "b"))
    words = ["competition.targets=[a,b]", "competition.task=multilabel", "competition.missing=drop"]
    tests = {fold: np.repeat(np.array(one)[:, None], 2, axis=1) for fold, one in TEST_PROBS.items()}
    world.write_teacher(*words, table=table, probs=np.repeat(PROBS, 2, axis=1), tests=tests)
    given = world.learner(*words, teacher_of(world), pseudo_of(world), fold=2, table=table).train_table.targets
    assert np.isnan(given).tolist() == np.isnan(np.append(targets[[0, 1, 2, 3, 6]], np.ones((3, 2)), axis=0)).tolist()
    np.testing.assert_allclose(given[0, 0], 0.7 + 0.3 * 0.9, rtol=1e-6)


def test_values_of_regression_are_mixed_and_added_in_their_own_units(world):
    table = replace(world.table, targets=10 * LABELS + 5, task="regression")
    words = ["competition.task=regression", "competition.metric=rmse"]
    probs, tests = 10 * PROBS + 5, {fold: [-7.0, 0.5, 20.0] for fold in range(3)}
    world.write_teacher(*words, table=table, probs=probs, tests=tests)
    learner = world.learner(*words, teacher_of(world), pseudo_of(world), fold=1, table=table)
    mixed = np.array([0.7 + 0.3 * 0.9, 0.3 * 0.2, 0.7 + 0.3 * 0.4, 0.3 * 0.1, 1.0])
    np.testing.assert_allclose(learner.train_table.targets[:, 0], [*(10 * mixed + 5), -7, 0.5, 20], rtol=1e-6)
    with pytest.raises(UserError) as caught:
        load_config([*world.words, *words, "train.pseudo_kwargs.limit=0.5"])
    line = "train.pseudo_kwargs.limit: of probabilities, and regression has none; leave it out"
    assert str(caught.value) == line


def test_pseudo_rows_have_no_auxiliary_values(world):
    values = np.arange(7, dtype=np.float32)[:, None]
    table = replace(world.table, auxiliary_names=("age",), auxiliary=values)
    learner = world.learner(pseudo_of(world), table=table)
    given = learner.train_table.training_targets
    np.testing.assert_array_equal(given[:, 1], [2, 3, 4, 5, 6, np.nan, np.nan, np.nan])
    learner.start_epoch(0, 1)
    assert np.isfinite(train_one_epoch(learner, 0).loss)


def test_pseudo_rows_come_with_their_own_metadata_as_training_encodes_it(world):
    pd.DataFrame({"id": ["0", "1", "2"], "age": ["30", "", "70"]}).to_csv(world.folder / "test.csv", index=False)
    encoding = ({"name": "age", "mean": 50.0, "deviation": 10.0, "words": [], "has_missing": True},)
    values = np.stack([np.arange(7), np.zeros(7)], axis=1).astype(np.float32)
    table = replace(world.table, metadata=values, encoding=encoding)
    learner = world.learner(pseudo_of(world), table=table)
    expected = [*values[2:].tolist(), [-2, 0], [0, 1], [2, 0]]
    assert learner.train_table.metadata.tolist() == expected
    for batch in learner.train_loader.batches(0):
        assert batch["inputs"]["metadata"].tolist() == [expected[row] for row in batch["index"]]
    learner.start_epoch(0, 1)
    assert np.isfinite(train_one_epoch(learner, 0).loss)


def test_a_folds_pseudo_labels_come_from_its_own_network_alone(world):
    for fold in range(3):
        planted = {other: [PLANTED] * 3 for other in range(3) if other != fold}
        world.write_teacher(tests=planted | {fold: TEST_PROBS[fold]})
        learner = world.learner(pseudo_of(world), fold=fold)
        num_labels = len(learner.train_table) - 3
        assert learner.train_table.targets[num_labels:, 0].tolist() == pytest.approx(TEST_PROBS[fold])
        assert learner.train_table.targets[:num_labels].tolist() == LABELS[fold != FOLDS].tolist()
        seen = torch.cat([batch["target"] for batch in learner.train_loader.batches(0)])
        assert len(seen) == num_labels + 3
        assert not torch.isclose(seen, torch.tensor(PLANTED)).any()


def test_no_pseudo_row_validates(world):
    plain, learner = world.learner(), world.learner(pseudo_of(world))
    for name in ("ids", "targets"):
        assert getattr(learner.val_table, name).tolist() == getattr(plain.val_table, name).tolist()
    assert learner.val_loader.num_images == 2
    paths = learner.train_table.paths.tolist()
    assert paths == [*plain.train_table.paths, *(f"{world.folder}/test/{row}.png" for row in range(3))]


def test_power_and_limit_by_hand(world):
    words = [pseudo_of(world), "train.pseudo_kwargs={power: 2, limit: 0.7}"]
    given = world.learner(*words).train_table.targets[5:, 0]  # 0.6 is not as sure as 0.7; of 0.2 the other side is
    np.testing.assert_allclose(given, [0.81 / (0.81 + 0.01), 0.04 / (0.04 + 0.64)], rtol=1e-6)
    softer = world.learner(pseudo_of(world), "train.pseudo_kwargs.power=0.5").train_table.targets[5, 0]
    assert softer == pytest.approx(0.9**0.5 / (0.9**0.5 + 0.1**0.5))


def test_a_weight_is_how_often_a_row_is_drawn(world):
    assert world.learner(pseudo_of(world)).train_loader._sampler._chances is None
    labels, soft = LABELS[FOLDS != 0, 0], np.array(TEST_PROBS[0])
    targets = np.append(labels, soft)
    shares = {"shuffle": np.ones(8), "balanced": targets / targets.sum() + (1 - targets) / (1 - targets).sum()}
    for sampler, share in shares.items():
        words = ["train.pseudo_kwargs.weight=0.25", "train.batches_per_epoch=4000", f"train.sampler={sampler}"]
        batches = world.learner(pseudo_of(world), *words).train_loader._sampler
        counts = np.bincount([row for batch in batches for _, row, _ in batch], minlength=8)
        share = share * np.array([1] * 5 + [0.25] * 3)
        np.testing.assert_allclose(counts / counts.sum(), share / share.sum(), atol=0.01)


def test_class_weights_count_the_labels_alone(world):
    words = ["loss.balance=true", "loss.name=hinge"]
    logits, targets = torch.tensor([[-1.0]]), torch.ones(1, 1)
    plain = world.learner(*words).loss_function(logits, targets)
    assert plain == pytest.approx(2 * 2 / 3)  # of fold 0's training rows three are positive, two are not
    for more in (teacher_of(world), pseudo_of(world)):
        assert world.learner(*words, more).loss_function(logits, targets) == plain


def test_max_images_counts_rows_of_the_training_table(world):
    table = world.learner(pseudo_of(world), "train.max_images=2").train_table
    assert len(table) == 2 + 3


def test_the_network_of_every_row_takes_the_folds_mean(world):
    run = world.run(teacher_of(world), pseudo_of(world))
    table, rows = build_train_table(run, "all", np.arange(7))
    np.testing.assert_allclose(table.targets[7:, 0], [0.6, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(table.targets[2:4, 0], [0.7 + 0.3 * 0.6, 0.3 * 0.5], rtol=1e-6)
    assert rows.tolist() == [*range(7), 7, 8, 9]


def test_a_copy_of_a_training_image_gets_no_pseudo_label(world, capsys):
    (world.folder / "test/1.png").write_bytes((world.folder / "0.png").read_bytes())  # row 0 validates fold 0
    table = world.learner(pseudo_of(world)).train_table
    assert table.paths.tolist()[5:] == [f"{world.folder}/test/{row}.png" for row in (0, 2)]
    assert table.targets[5:, 0].tolist() == pytest.approx([0.9, 0.6])
    line = "train.pseudo: 1 of 3 test images are copies of training images and get no pseudo-label (first: 1)\n"
    assert capsys.readouterr().out == line


def test_a_copy_is_found_over_http_which_tells_no_size(world):
    (world.folder / "test/1.png").write_bytes((world.folder / "0.png").read_bytes())
    with Server({f"test/{row}.png": (world.folder / f"test/{row}.png").read_bytes() for row in range(3)}) as server:
        table = world.learner(pseudo_of(world), f"competition.test_image={server.url}/test/{{id}}.png").train_table
        assert table.paths.tolist()[5:] == [f"{server.url}/test/{row}.png" for row in (0, 2)]


def test_an_undecodable_test_image_is_left_out_where_settings_ask_for_it(world):
    (world.folder / "test/0.png").write_bytes(b"no image")
    assert len(world.learner(pseudo_of(world), "unreadable=skip").train_table) == 5 + 2


def test_what_a_teacher_left_out_as_unreadable_is_not_asked_of_it(world):
    keep = np.arange(7) != 3
    world.write_teacher(table=world.table.take(keep), probs=PROBS[[0, 1, 2, 4, 5]])
    save_table(world.teacher / "unreadable.csv", pd.DataFrame({"id": ["3"], "reason": ["broken"]}))
    targets = world.learner(teacher_of(world), "unreadable=skip").train_table.targets
    assert targets[1, 0] == 0  # as it is
    with pytest.raises(UserError):
        world.learner(teacher_of(world))


def damage(world, what):
    if what == "no run":
        (world.teacher / "config.yaml").unlink()
    elif what == "no oof":
        (world.teacher / "oof.csv").unlink()
    elif what == "task":
        world.write_teacher("competition.task=multilabel", "competition.targets=[t0,t1]")
    elif what == "targets":
        world.write_teacher(table=replace(world.table, target_names=("sick",)))
    elif what == "no fold":
        rows = pd.read_csv(world.teacher / "oof.csv")
        rows[rows["fold"] != 1].to_csv(world.teacher / "oof.csv", index=False)
    elif what == "folds":
        world.write_teacher(table=replace(world.table, folds=np.array([0, 1, 0, 1, 2, 2, -1])))
    elif what == "table":
        folds = np.array([0, 1, 0, 1, 2, 2, -1])
        world.write_teacher(table=replace(world.table, folds=folds).take(folds >= 0))
    elif what == "nowhere":
        world.table = replace(world.table, folds=np.array([0, -1, -1, -1, -1, -1, -1]))
        world.write_teacher(table=world.table, probs=PROBS[:1])
    elif what == "blend":
        save_text(world.teacher / "blend.json", "{}")
    elif what == "no test":
        (world.teacher / "fold0/test.csv").unlink()
    elif what == "short test":
        pd.read_csv(world.teacher / "fold0/test.csv").iloc[:2].to_csv(world.teacher / "fold0/test.csv", index=False)


REFUSALS = [
    ("train.teacher", "no run", 0, "TEACHER: not a run (no config.yaml); train one with python train.py"),
    ("train.teacher", "no oof", 0, "train.teacher=TEACHER: has no oof.csv; train it first, a fold of it at least"),
    ("train.teacher", "task", 0,
     "train.teacher=TEACHER: its competition.task is multilabel, here binary; name a run of this task"),
    ("train.pseudo", "targets", 0, "train.pseudo=TEACHER: its targets are sick, here t0; name a run of these targets"),
    ("train.teacher", "no fold", 0,
     "train.teacher=TEACHER: predicts 2 of the 5 rows that fold 0 takes from it; train its remaining folds on these "
     "rows, or leave it out"),
    ("train.teacher", "nowhere", 0,
     "train.teacher=TEACHER: predicts 0 of the 6 rows that fold 0 takes from it; train its remaining folds on these "
     "rows, or leave it out"),
    ("train.pseudo", "no fold", 1,
     "train.pseudo=TEACHER: predicts 0 of the 2 rows that fold 1 takes from it; train its remaining folds on these "
     "rows, or leave it out"),
    ("train.teacher", "folds", 2,
     "train.teacher=TEACHER: 2 of 5 rows are in other folds there (first: 1); set folds=TEACHER/folds.csv"),
    ("train.pseudo", "folds", 0,
     "train.pseudo=TEACHER: 1 of 2 rows are in other folds there (first: 1); set folds=TEACHER/folds.csv"),
    ("train.pseudo", "table", 0,
     "train.pseudo=TEACHER: 1 of 2 rows are in other folds there (first: 1); train it on this table"),
    ("train.pseudo", "blend", 0,
     "train.pseudo=TEACHER: is a blend, which has no network of one fold; name a trained run"),
    ("train.pseudo", "no test", 0,
     "train.pseudo=TEACHER: TEACHER/fold0/test.csv is not there, or lacks some of the 3 test rows; "
     "run python infer.py run=TEACHER first"),
    ("train.pseudo", "short test", 0,
     "train.pseudo=TEACHER: TEACHER/fold0/test.csv is not there, or lacks some of the 3 test rows; "
     "run python infer.py run=TEACHER first"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "what", "fold", "line"), REFUSALS)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_slow(world, key, what, fold, line):
    damage(world, what)
    with pytest.raises(UserError) as caught:
        check_learner(world.run(f"{key}={world.teacher}", f"fold={fold}"))
    assert str(caught.value) == line.replace("TEACHER", str(world.teacher))


def test_no_row_is_as_sure_as_the_limit(world):
    with pytest.raises(UserError) as caught:
        world.learner(pseudo_of(world), "train.pseudo_kwargs.limit=0.95")
    line = "train.pseudo_kwargs.limit=0.95: no test row of fold 0 is as sure (the surest: 0.900); lower it"
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["name=a", "train.teacher=outputs/a"], "train.teacher=outputs/a: is the folder of this run itself; "),
        (["name=a", "train.pseudo=outputs/b/../a"], "train.pseudo=outputs/b/../a: is the folder of this run itself; "),
        (["train.pseudo_kwargs.wight=1"], "train.pseudo_kwargs: pseudo has no wight (it has weight, power, limit)"),
        (["train.pseudo_kwargs.limit=2"], "train.pseudo_kwargs.limit=2: must be from 0 to 1"),
        (["train.pseudo_kwargs.power=0"], "train.pseudo_kwargs.power=0: must be from 0.01 to 100"),
        (["train.pseudo_kwargs.weight=-1"], "train.pseudo_kwargs.weight=-1: must be from 0.01 to 100"),
        (["train.teacher_weight=1.5"], "train.teacher_weight=1.5: must be from 0 to 1"),
    ],
)
def test_settings_out_of_their_range(words, line):
    with pytest.raises(UserError) as caught:
        load_config(words)
    assert str(caught.value).startswith(line)


def test_a_fold_resumes_with_the_targets_it_began_with_and_no_others(world):
    words = [teacher_of(world), pseudo_of(world)]
    state = world.learner(*words).state_dict()
    world.learner(*words).load_state_dict(state)
    del state["targets"]  # of an older version
    world.learner(*words).load_state_dict(state)
    state = world.learner(*words).state_dict()
    world.write_teacher(tests=TEST_PROBS | {1: [0.5, 0.5, 0.5]})  # another fold's
    world.learner(*words).load_state_dict(state)
    world.write_teacher(tests=TEST_PROBS | {0: [0.9, 0.2, 0.61]})
    with pytest.raises(UserError) as caught:
        world.learner(*words).load_state_dict(state)
    assert str(caught.value) == (
        f"{world.folder}/outputs/student: train.teacher or train.pseudo predicts otherwise than when this fold was "
        "begun; restore its files, or set overwrite=true"
    )


def test_cache_and_mixup_take_the_test_images_too(world):
    run = world.run(pseudo_of(world), "cache=on", "mix.prob=1", "mix.cutmix_alpha=0", "train.epochs=2")
    prepare_inputs(run)
    [cache] = run.caches.values()
    for path in [*run.table.paths, *run.test.paths]:
        assert cache.read(path) is not None
    learner = build_learner(run, 0)
    learner.start_epoch(0, 1)
    assert np.isfinite(train_one_epoch(learner, 0).loss)


def test_features_of_test_images_reach_the_pseudo_rows(world):
    run = world.run(pseudo_of(world))
    run.features = np.arange(10, dtype=np.float32).reshape(1, 10, 1).repeat(96, axis=2)
    world.write_teacher(tests={0: [0.9, 0.5, 0.2]})
    run.config = replace(run.config, train=replace(run.config.train, pseudo_kwargs={"limit": 0.7}))
    [first, second] = build_learner(run, 0).train_loader.batches(0)
    seen = {
        int(value): float(target)
        for one in (first, second)
        for value, target in zip(one["inputs"]["features"][:, 0], one["target"][:, 0], strict=True)
    }
    assert seen == pytest.approx({2: 1, 3: 0, 4: 1, 5: 0, 6: 1, 7: 0.9, 9: 0.2})


@pytest.mark.slow
def test_teacher_and_pseudo_labels_over_rounds_on_the_embedded_competition(tiny_run, tmp_path):
    folder, _ = tiny_run
    train, infer = (partial(run_here, program, cwd=folder) for program in ("train.py", "infer.py"))
    infer("run=outputs/demo_default")
    words = [*TINY, "name=second", "train.teacher=outputs/demo_default", "train.pseudo=outputs/demo_default"]
    printed, _ = train(*words)
    assert "fold 0: 456 training and 719 validation images" in printed  # 96 and 360
    assert "\nthis score is optimistic: networks of train.teacher have seen the labels of the rows" in printed
    first, second = (pd.read_csv(folder / f"outputs/{name}/oof.csv") for name in ("demo_default", "second"))
    kept = ["id", "fold", *(name for name in first if name.startswith("target_"))]
    pd.testing.assert_frame_equal(first[kept], second[kept])
    infer("run=outputs/second")
    third = [*TINY, "name=third", "train.teacher=outputs/second", "train.pseudo=outputs/second"]
    train(*third, "fold=0")
    _, refused = train(*TINY, "name=other", "fold_seed=5", "train.teacher=outputs/second", status=2)
    advice = refused.strip().rpartition("set ")[2]
    assert advice == "folds=outputs/second/folds.csv"
    train(*TINY, "name=other", "fold_seed=5", advice, "train.teacher=outputs/second", "fold=1")
    (folder / "outputs/second").rename(folder / "outputs/gone")
    infer("run=outputs/third", f"infer.output={tmp_path}")
    train(*third, "fold=0")  # is finished
    _, refused = train(*third, status=2)
    assert refused.startswith("error: outputs/second: not a run (no config.yaml)")


@pytest.mark.slow
def test_a_stopped_fold_resumes_bit_for_bit_and_refuses_other_pseudo_labels(tiny_run):
    folder, _ = tiny_run
    run_here("infer.py", "run=outputs/demo_default", cwd=folder)
    teacher = folder / "outputs/demo_default"
    words = [*TINY, "fold=0", "mix.prob=0.5", f"train.teacher={teacher}", f"train.pseudo={teacher}"]
    words += ["train.pseudo_kwargs.weight=0.5", "checkpoint_minutes=0"]
    run_here("train.py", *words, "name=taught_whole", cwd=folder)
    run = folder / "outputs/taught_stopped"
    forked = Forked("train.py", [*words, "name=taught_stopped"], folder, folder / "taught_stopped.log")
    forked.wait_for(lambda: any(run.glob("fold0/state_*.pt")))
    os.kill(forked.pid, signal.SIGTERM)
    assert forked.status() == 128 + signal.SIGTERM, (folder / "taught_stopped.log").read_text()
    kept = (teacher / "fold0/test.csv").read_text()
    (teacher / "fold0/test.csv").write_text(kept.replace("0.", "0.1", 1))
    _, refused = run_here("train.py", *words, "name=taught_stopped", cwd=folder, status=2)
    assert "predicts otherwise than when this fold was begun" in refused
    (teacher / "fold0/test.csv").write_text(kept)
    printed, _ = run_here("train.py", *words, "name=taught_stopped", cwd=folder)
    assert "fold 0: resumes after" in printed
    for file in ("oof.csv", "fold0/last.safetensors"):
        assert (run / file).read_bytes() == (folder / "outputs/taught_whole" / file).read_bytes()
