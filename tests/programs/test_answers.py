"""Kinds of answers, from the tables to the submission: several a cell, missing, soft, one for a group."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.launch import run_here

WORDS = ["image_size=16", "train.epochs=8", "num_folds=2", "optimizer.lr=0.01", "augment.preset=none", "tracking=none",
         "report=false"]  # fmt: skip
YAML = """competition:
  {{root: data, train_table: train.csv, test_table: test.csv, sample_submission: sample.csv, channels: 1,
    train_image: 'images/{{id}}.png', test_image: 'images/{{id}}.png', {settings}}}
model: {{backbone: simple_cnn, pretrained: false}}
precision: fp32
device: cpu
"""


@pytest.fixture
def run(tmp_path):
    """A function (train, test, sample, settings, brightness {id: (left, right)}) -> (what was printed, submission)."""

    def run_(train, test, sample, settings, brightness):
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        for name, table in (("train", train), ("test", test), ("sample", sample)):
            table.to_csv(tmp_path / f"data/{name}.csv", index=False)
        for name, sides in brightness.items():
            image = np.repeat([sides], 8, axis=0).repeat(4, axis=1).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / f"data/images/{name}.png")
        (tmp_path / "mine.yaml").write_text(YAML.format(settings=settings))
        printed = run_here("train.py", "competition=mine.yaml", *WORDS, cwd=tmp_path)[0]
        printed += run_here("infer.py", cwd=tmp_path)[0]
        return printed, pd.read_csv(tmp_path / "outputs/mine_default/submission.csv", dtype=str, keep_default_na=False)

    return run_


def make_rows(prefix, count):
    """Return ids, and their images: bright on the left is a, on the right b."""
    ids = [f"{prefix}{row}" for row in range(count)]
    return ids, {one: (220 * (row % 2) + 10, 220 * (row // 2 % 2) + 10) for row, one in enumerate(ids)}


def labels_of(sides):
    return " ".join(name for name, value in zip("ab", sides, strict=True) if value > 100)


@pytest.mark.slow
def test_cells_of_labels_come_back_as_cells_of_labels(run, tmp_path):
    (ids, images), (test_ids, test_images) = make_rows("i", 40), make_rows("t", 8)
    train = pd.DataFrame({"id": ids, "tags": [labels_of(images[one]) for one in ids]})
    sample = pd.DataFrame({"id": test_ids[::-1], "tags": "a b"})
    settings = "label: tags, task: multilabel, separator: ' ', metric: roc_auc"
    _, submission = run(train, sample[["id"]], sample, settings, images | test_images)
    scores = json.loads((tmp_path / "outputs/mine_default/scores.json").read_text())
    assert scores["pooled"] > 0.99
    assert set(scores["thresholds"]) == {"a", "b"}
    assert submission["id"].tolist() == test_ids[::-1]
    assert submission["tags"].tolist() == [labels_of(test_images[one]) for one in test_ids[::-1]]


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["mix.prob=1"], ["loss.name=focal", "loss.balance=true"], ["loss.name=auc"]])
def test_missing_cells_of_several_targets_are_learned_around(run, tmp_path, extra, monkeypatch):
    monkeypatch.setattr("tests.programs.test_answers.WORDS", [*WORDS, *extra, "train.epochs=2"])
    (ids, images), (test_ids, test_images) = make_rows("i", 40), make_rows("t", 8)
    truth = np.array([images[one] for one in ids]) > 99
    train = pd.DataFrame({"id": ids, "a": truth[:, 0], "b": truth[:, 1]})
    train = train.replace({True: "1", False: "0"})
    train.loc[::5, "a"] = train.loc[1::4, "b"] = "NA"
    sample = pd.DataFrame({"id": test_ids, "a": 0.5, "b": 0.5})
    settings = "targets: [a, b], task: multilabel, missing: drop"
    printed, submission = run(train, sample[["id"]], sample, settings, images | test_images)
    assert "14 labels of other rows are missing" in printed
    oof = pd.read_csv(tmp_path / "outputs/mine_default/oof.csv")
    assert oof.columns.tolist() == ["id", "fold", "target_a", "target_b", "a", "b"]
    assert oof["target_a"].isna().tolist() == [row % 5 == 0 for row in range(40) if row not in (5, 25)]
    assert oof[["a", "b"]].notna().all(axis=None)
    assert submission[["a", "b"]].astype(float).notna().all(axis=None)


@pytest.mark.slow
def test_soft_classes_without_a_majority_train_and_groups_get_one_prediction(run, tmp_path):
    (ids, images), (test_ids, test_images) = make_rows("i", 40), make_rows("t", 8)
    shares = {"": (0.3, 0.3, 0.4), "a": (0.45, 0.3, 0.25), "b": (0.3, 0.45, 0.25), "a b": (0.3, 0.4, 0.3)}
    rows = [shares[labels_of(images[one])] for one in ids]
    train = pd.DataFrame(rows, columns=list("xyz")).assign(id=ids)
    test = pd.DataFrame({"id": test_ids, "who": [f"p{row // 2}" for row in range(8)]})
    sample = pd.DataFrame({"who": ["p3", "p1", "p0", "p2"], "x": 0.1, "y": 0.1, "z": 0.1})
    settings = "targets: [x, y, z], task: multiclass, predict_by: who"
    _, submission = run(train, test, sample, settings, images | test_images)
    scores = json.loads((tmp_path / "outputs/mine_default/scores.json").read_text())
    assert np.isfinite(list(scores["folds"].values())).all()
    assert submission["who"].tolist() == ["p3", "p1", "p0", "p2"]
    each = [pd.read_csv(tmp_path / f"outputs/mine_default/fold{fold}/test.csv") for fold in (0, 1)]
    rows = (each[0][list("xyz")] + each[1][list("xyz")]) / 2
    expected = rows.groupby(test["who"]).mean().loc[["p3", "p1", "p0", "p2"]]
    np.testing.assert_allclose(submission[list("xyz")].astype(float), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ("targets: [y], task: binary, metric: f1_best", ["y"]),
        ("targets: [y, z], task: multilabel, metric: f1_macro", ["y", "z"]),
        ("label: grade, task: multiclass, metric: quadratic_kappa", ["grade"]),
        ("targets: [grade], task: regression, metric: quadratic_kappa", ["grade"]),
    ],
)
def test_a_metric_of_labels_gets_labels_by_the_thresholds_of_the_run(run, tmp_path, settings, columns):
    """Labels are rare, so that few probabilities reach 0.5; what infer.py writes is what scores.json says."""
    (ids, images), (test_ids, test_images) = make_rows("i", 60), make_rows("t", 12)
    rng = np.random.default_rng(0)
    bright = np.array([images[one] for one in ids]) > 99
    rare = bright & (rng.random(bright.shape) < 0.6)
    train = pd.DataFrame({"id": ids, "y": rare[:, 0] * 1, "z": rare[:, 1] * 1, "grade": rare.sum(axis=1)})
    sample = pd.DataFrame({"id": test_ids} | dict.fromkeys(columns, 0))
    printed, submission = run(train, sample[["id"]], sample, settings, images | test_images)
    folder = tmp_path / "outputs/mine_default"
    scores = json.loads((folder / "scores.json").read_text())
    names = ["0", "1", "2"] if "multiclass" in settings else columns
    thresholds = np.array([scores["thresholds"][name] for name in names])
    probs = np.mean([pd.read_csv(folder / f"fold{fold}/test.csv")[names].to_numpy() for fold in (0, 1)], axis=0)
    if "regression" in settings:
        [steps] = thresholds
        expected = (probs >= np.array([steps["1"], steps["2"]])).sum(axis=1)
        assert submission["grade"].tolist() == expected.astype(str).tolist()
    elif "grade" in columns:
        assert submission["grade"].tolist() == (probs / thresholds).argmax(axis=1).astype(str).tolist()
    else:
        assert submission[columns].astype(int).to_numpy().tolist() == (probs >= thresholds).astype(int).tolist()
    assert scores["nested_interval"][0] <= scores["nested"] <= scores["nested_interval"][1]
    assert "by thresholds found on the other folds: " in printed
    assert f"a public leaderboard of {scores['leaderboard']['rows']} rows (30 %) may show" in printed
    assert scores["leaderboard"]["rows"] == 4
