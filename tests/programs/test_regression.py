"""Folds of task=regression give original units through every path, and auxiliary columns teach the backbone alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score, root_mean_squared_error

from src.checkpointing.serialization import load_network
from src.competition.predictions import load_predictions
from src.data.scan import compute_pixel_stats
from src.files import load_json
from src.model.losses import probabilities
from src.training.engine import predict
from src.training.features import FeatureDataset
from src.training.fold import train_fold
from src.training.learner import build_learner
from src.training.oof import score_run
from tests.launch import run_here

pytestmark = pytest.mark.usefixtures("few_samples")
NUM_ROWS = 24
FOLDS = np.arange(NUM_ROWS) % 3
BRIGHTNESS = np.random.default_rng(0).permutation(np.linspace(20, 235, NUM_ROWS)).round()
VALUES = np.stack([1000 + 10 * BRIGHTNESS, -0.01 * BRIGHTNESS], axis=1)  # of very different units
WORDS = ["image_size=16", "train.epochs=3", "train.batch_size=4", "augment.preset=none", "model.backbone=simple_cnn",
         "model.kwargs={}", "optimizer.lr=3e-3", "threads=1", "report=false"]  # fmt: skip
REGRESSION = [*WORDS, "competition.task=regression", "competition.label=null", "competition.metric=rmse",
              "competition.targets=[t0,t1]"]  # fmt: skip


@pytest.fixture
def table(make_table):
    images = np.broadcast_to(BRIGHTNESS[:, None, None], (NUM_ROWS, 8, 8)).astype(np.uint8)
    return replace(make_table(images, VALUES, FOLDS), task="regression")


@pytest.fixture
def train(make_run):
    """A function (table, words) -> (Run, its scores) after fold 0 is trained."""

    def train_(table, *words):
        run = make_run(table, *words)
        run.pixel_stats = compute_pixel_stats(table.paths, run.config)
        train_fold(run, 0)
        return run, score_run(run)

    return train_


@pytest.mark.parametrize(
    "words",
    [[], ["train.average=ema"], ["train.average=swa", "train.average_kwargs.epochs=2"],
     ["train.average=soup", "train.select=best"], ["mix.prob=1"], ["competition.missing=drop", "loss.name=huber"]],
    ids=["plain", "ema", "swa", "soup", "mix", "gaps"],
)  # fmt: skip
def test_predictions_are_in_the_targets_units_and_a_fold_gives_them_again(train, table, words):
    if "competition.missing=drop" in words:
        table.targets[5, 0] = np.nan  # of fold 2, which trains
    run, scores = train(table, *REGRESSION, *words)
    own, folder = FOLDS == 0, run.folder.fold(0)
    values = load_predictions(folder.val, table.ids[own], table.target_names)
    mean, deviation = VALUES[own].mean(axis=0), VALUES[~own].std(axis=0)
    assert (np.abs(values.mean(axis=0) - mean) < 3 * deviation).all()
    network = load_network(run.config, folder)
    np.testing.assert_allclose(network.target_std, deviation, rtol=0.05)  # of fold 0's training rows
    loader = build_learner(run, 0).val_loader
    again = predict([network], loader, partial(probabilities, task="regression"), "fp32")[1][0]
    np.testing.assert_array_equal(again, values.astype(np.float32))
    expected = np.mean([root_mean_squared_error(VALUES[own, k], values[:, k]) for k in range(2)])
    assert scores["pooled"] == pytest.approx(expected, rel=1e-6)
    log = pd.read_csv(folder.log)
    assert (log["val_loss"] < 30).all()  # of standardised values
    if not words:
        assert log["val_loss"].iloc[-1] == pytest.approx((((values - VALUES[own]) / deviation) ** 2).mean(), rel=1e-4)


def test_early_stopping_and_plateau_read_the_loss_of_standardised_values(train, table):
    words = ["train.epochs=20", "optimizer.lr=0", "train.select=best", "train.early_stopping_epochs=3"]
    words += ["train.early_stopping_kwargs.on=loss", "schedule.name=plateau", "schedule.kwargs={patience_epochs: 1}"]
    run, _ = train(table, *REGRESSION, *words)
    assert len(pd.read_csv(run.folder.fold(0).log)) == 4  # nothing learns, so that no epoch is better than the first


BINARY = [*WORDS, "competition.task=binary", "competition.classes=[a,b]", "competition.metric=log_loss"]


@pytest.fixture
def with_auxiliary(make_table):
    images = np.broadcast_to(BRIGHTNESS[:, None, None], (NUM_ROWS, 8, 8)).astype(np.uint8)
    table = make_table(images, np.arange(NUM_ROWS)[:, None] // 3 % 2, FOLDS)
    columns = np.stack([BRIGHTNESS > 100, BRIGHTNESS, np.full(NUM_ROWS, np.nan)], axis=1).astype(np.float32)
    columns[::4, 1] = np.nan
    columns[:2, 2] = 0, 1
    return replace(table, auxiliary=columns, auxiliary_names=("bright", "brightness", "rare"))


def test_with_weight_0_auxiliary_columns_change_nothing(train, with_auxiliary):
    plain = replace(with_auxiliary, auxiliary=None, auxiliary_names=())
    drop = ["model.drop_rate=0.3"]  # which draws random numbers
    _, expected = train(plain, *BINARY, *drop, "name=plain")
    _, found = train(with_auxiliary, *BINARY, *drop, "name=zero", "loss.auxiliary_weight=0")
    _, other = train(with_auxiliary, *BINARY, *drop, "name=some")
    assert found["pooled"] == expected["pooled"] != other["pooled"]


@pytest.mark.parametrize("words", [[], ["mix.prob=1"], ["train.average=ema", "competition.missing=drop"]])
def test_auxiliary_columns_reach_no_file_but_the_backbone(train, with_auxiliary, words):
    run, scores = train(with_auxiliary, *BINARY, *words)
    assert list(pd.read_csv(run.folder.oof)) == ["id", "fold", "target_t0", "t0"]
    assert list(pd.read_csv(run.folder.fold(0).val)) == ["id", "t0"]
    assert list(scores["columns"]) == ["t0"]
    network = load_network(run.config, run.folder.fold(0))
    assert network.auxiliary is None
    learner = build_learner(run, 0)
    batch = next(learner.train_loader.batches(0))
    assert batch["target"].shape == (4, 4)
    learner.loss_function(learner.network(**learner.network.normalize(batch["inputs"])), batch["target"]).backward()
    is_known = ~batch["target"].isnan()[:, 1:].all(dim=0)
    assert (learner.network.auxiliary.weight.grad.abs().sum(dim=1) > 0).tolist() == is_known.tolist()


def test_the_auxiliary_loss_alone_reaches_the_backbone(make_run, with_auxiliary):
    run = make_run(with_auxiliary, *BINARY)
    run.pixel_stats = compute_pixel_stats(with_auxiliary.paths, run.config)
    learner = build_learner(run, 0)
    batch = next(learner.train_loader.batches(0))
    logits = learner.network(**learner.network.normalize(batch["inputs"]))
    joined = torch.cat([logits[:, :1].detach(), logits[:, 1:]], dim=1)
    learner.loss_function(joined, batch["target"]).backward()
    assert learner.network.head.last.weight.grad.abs().sum() == 0
    first = next(learner.network.backbone.parameters())
    assert first.grad.abs().sum() > 0


def test_features_that_were_computed_once_come_with_the_auxiliary_columns(with_auxiliary):
    features = np.zeros((1, NUM_ROWS, 4), np.float32)
    data = FeatureDataset(features, np.arange(NUM_ROWS), with_auxiliary, is_training=True)
    batch = data.__getitems__([(0, 3, 0), (0, 4, 0)])
    np.testing.assert_array_equal(batch["target"], with_auxiliary.training_targets[[3, 4]])


DIGITS = """competition:
  {{root: {root}, train_table: train.csv, test_table: test.csv, sample_submission: sample_submission.csv,
    solution: solution.csv, train_image: "images/{{id}}.png", test_image: "images/{{id}}.png", channels: 1,
    task: regression, metric: r2, targets: [ink]}}
model: {{backbone: test_resnet, pretrained: false, kwargs: {{norm_layer: groupnorm1}}}}
image_size: 32
normalize: dataset
augment: {{preset: none, flips: none}}
optimizer: {{lr: 4.0e-3, head_lr_factor: 1.0}}
train: {{epochs: 6}}
num_folds: 2
tracking: none
report: false
threads: 1
precision: fp32
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with scikit-learn's digits: how much ink each has, in units of its own, and that as grades 0 to 4."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "data/images").mkdir(parents=True)
    images = load_digits().images
    ink = images.sum(axis=(1, 2))
    rows = pd.DataFrame({"id": [f"{row:04}" for row in range(len(images))], "ink": 1000 + 10 * ink})
    rows["grade"] = np.digitize(ink, [240, 290, 330, 370])
    rows["site"] = np.where(rows["grade"] % 2, "a", "b")
    for name, image in zip(rows["id"], images, strict=True):
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)).save(folder / f"data/images/{name}.png")
    is_test = np.arange(len(rows)) % 5 == 0
    rows[~is_test].to_csv(folder / "data/train.csv", index=False)
    rows[is_test].to_csv(folder / "data/solution.csv", index=False)
    rows.loc[is_test, ["id"]].to_csv(folder / "data/test.csv", index=False)
    for name in ("ink", "grade"):
        rows.loc[is_test, ["id"]].assign(**{name: 0}).to_csv(folder / f"data/sample_{name}.csv", index=False)
    (folder / "data/sample_submission.csv").write_text((folder / "data/sample_ink.csv").read_text())
    (folder / "digits.yaml").write_text(DIGITS.format(root=folder / "data"))
    return folder


@pytest.mark.slow
def test_real_digits_ink_is_learned_and_submitted_in_its_own_units(digits):
    words = ["competition=digits.yaml", "name=ink", "competition.auxiliary=[site]", "train.average=ema"]
    words += ["train.average_kwargs.decay=0.98"]
    run_here("train.py", *words, cwd=digits)
    oof, scores = pd.read_csv(digits / "outputs/ink/oof.csv"), load_json(digits / "outputs/ink/scores.json")
    assert scores["pooled"] == pytest.approx(r2_score(oof["target_ink"], oof["ink"]), abs=1e-6)
    assert scores["pooled"] > 0.93  # measured: .97
    assert list(oof) == ["id", "fold", "target_ink", "ink"]
    printed, _ = run_here("infer.py", "run=outputs/ink", "infer.tta=vflip", cwd=digits)
    submission = pd.read_csv(digits / "outputs/ink/submission.csv")
    solution = pd.read_csv(digits / "data/solution.csv")
    assert submission["id"].tolist() == solution["id"].tolist()
    assert r2_score(solution["ink"], submission["ink"]) > 0.8  # a digit upside down has as much ink
    assert "test r2: 0." in printed
    _, refused = run_here("infer.py", "run=outputs/ink", "infer.average=rank", cwd=digits, status=2)
    assert refused == (
        "error: infer.average=rank: loses the targets' units, and competition.task=regression has values; set "
        "infer.average=mean\n"
    )


@pytest.mark.slow
def test_grades_are_written_whole_by_thresholds_found_out_of_fold(digits):
    words = ["competition=digits.yaml", "name=grades", "competition.targets=[grade]", "train.epochs=3"]
    words += ["competition.metric=quadratic_kappa", "competition.sample_submission=sample_grade.csv"]
    printed, _ = run_here("train.py", *words, cwd=digits)
    assert "quadratic_kappa by thresholds found on the other folds: 0." in printed
    scores = load_json(digits / "outputs/grades/scores.json")
    assert scores["nested"] > 0.7
    steps = scores["thresholds"]["grade"]
    assert list(steps) == ["1", "2", "3", "4"]
    run_here("infer.py", "run=outputs/grades", cwd=digits)
    submission = pd.read_csv(digits / "outputs/grades/submission.csv")
    values = np.mean([pd.read_csv(digits / f"outputs/grades/fold{fold}/test.csv")["grade"] for fold in (0, 1)], axis=0)
    assert submission["grade"].tolist() == np.digitize(values, [*steps.values()]).tolist()
    ink = pd.read_csv(digits / "data/train.csv")["ink"]
    _, refused = run_here("train.py", *words, "name=other", "competition.targets=[ink]", cwd=digits, status=2)
    assert refused == (
        "error: competition.metric=quadratic_kappa: column 'ink' holds numbers from "
        f"{ink.min():g} to {ink.max():g}, not whole grades; set competition.metric=rmse\n"
    )
