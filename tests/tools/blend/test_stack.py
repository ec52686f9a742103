"""A stack learns from predictions and columns of the tables, and only where a column helps."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from tests.tools.blend.conftest import ALONE
from tools.blend.__main__ import main
from tools.blend.stack import Encoder, Features, Rows

NUM_ROWS, NUM_TEST = 2000, 300
KINDS = ("logistic", "lightgbm", pytest.param("gradient_boosting", marks=pytest.mark.nightly))


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "lightgbm":
        pytest.importorskip("lightgbm")
    return request.param


def draw(seed=0, num_groups=None):
    """Targets (N,), image predictions of AUC .8 and an independent number of AUC .8, for training and test rows."""
    rng = np.random.default_rng(seed)
    gain = np.sqrt(2) * 0.8416  # two normals this far apart have an AUC of .8
    targets = (rng.random(NUM_ROWS + NUM_TEST) < 0.4).astype(float)
    image = 1 / (1 + np.exp(-gain * (gain * (targets - 0.5) + rng.normal(size=targets.shape))))
    return rng, targets, image, gain * targets + rng.normal(size=targets.shape)


@pytest.fixture
def write(write_run, tmp_path):
    """write(targets, image, table, words): a run `image` and the competition's tables."""

    def tables(targets, image, table, words=(), groups=None):
        table = pd.DataFrame(table)
        train, test = table[:NUM_ROWS].copy(), table[NUM_ROWS:].copy()
        train.insert(0, "id", [f"{row:05d}" for row in range(NUM_ROWS)])
        test.insert(0, "id", [f"t{row}" for row in range(NUM_TEST)])
        (tmp_path / "data").mkdir(exist_ok=True)
        train.to_csv("data/train.csv", index=False)
        test.to_csv("data/test.csv", index=False)
        where = ["competition.root=data", "competition.train_table=train.csv", "competition.test_table=test.csv"]
        words = [*where, *words]
        test_probs = image[NUM_ROWS:, None]
        return write_run("image", targets[:NUM_ROWS, None], image[:NUM_ROWS, None], test_probs, groups, words)

    return tables


def test_two_of_80_make_more_and_a_shuffled_column_nothing(kind, write, blend, tmp_path):
    rng, targets, image, number = draw()
    run = write(targets, image, {"age": number, "noise": rng.permutation(number)})
    found = blend(run, f"stack={kind}", "metadata=[age]", "name=with")
    alone = [metrics.roc_auc_score(targets[:NUM_ROWS], one[:NUM_ROWS]) for one in (image, number)]
    assert max(alone) < 0.82
    assert found["nested"] > max(alone) + 0.03
    assert found["method"] == "stack"
    assert found["metadata_used"] == ["age"]
    assert 0.3 < found["metadata"]["age"] < 0.7
    test = pd.read_csv(tmp_path / "outputs/with/submission.csv")["cat"]
    assert metrics.roc_auc_score(targets[NUM_ROWS:], test) > max(alone) + 0.03
    beside = blend(run, f"stack={kind}", "metadata=[age, noise]", "name=beside")
    assert beside["nested"] == pytest.approx(found["nested"], abs=0.002)
    noise = blend(run, f"stack={kind}", "metadata=[noise]", "name=noise")
    assert noise["nested"] == pytest.approx(noise["best_single"], abs=0.002)


def test_a_column_that_does_not_help_leaves_the_score(write, blend):
    rng, targets, image, _ = draw(1)
    found = blend(write(targets, image, {"age": rng.normal(size=len(image))}), "stack=logistic", "metadata=[age]")
    assert found["metadata_used"] == []
    assert found["nested"] == pytest.approx(found["best_single"], abs=1e-9)


def test_categories_and_gaps_are_learned_and_new_ones_are_no_error(kind, write, blend, tmp_path):
    rng, targets, image, number = draw()
    site = np.where(number > np.median(number), "leg", "arm").astype(object)
    site[rng.random(len(site)) < 0.2] = "NA"
    site[NUM_ROWS] = "nose"
    run = write(targets, image, {"site": site, "age": np.where(rng.random(len(number)) < 0.5, number, np.nan)})
    found = blend(run, f"stack={kind}", "metadata=[site,age]")
    assert found["nested"] > found["best_single"] + 0.02
    assert found["metadata_used"] == ["site", "age"]
    assert pd.read_csv(tmp_path / "outputs/blend/submission.csv")["cat"].between(0, 1).all()


def test_values_relative_to_the_group_are_features(kind, write, blend):
    rng, targets, image, _ = draw()
    patients = np.arange(NUM_ROWS + NUM_TEST) // 10
    level = rng.normal(scale=10, size=patients.max() + 1)[patients]
    size = level + 1.2 * targets + rng.normal(size=targets.shape)  # only within a patient does it say anything
    run = write(targets, image, {"patient": patients, "size": size}, ["competition.group=patient"], patients[:NUM_ROWS])
    found = blend(run, f"stack={kind}", "metadata=[size]")
    assert found["nested"] > found["best_single"] + 0.03


@pytest.mark.parametrize("words", [[], ["metadata=[noise]"]])
def test_images_of_a_group_say_something_about_each_other_without_columns(words, write, blend):
    """Ten images a patient, of one answer: what is delivered is what is judged, also where a column does not help."""
    rng = np.random.default_rng(3)
    patients = np.arange(NUM_ROWS + NUM_TEST) // 10
    targets = rng.integers(2, size=patients.max() + 1)[patients]
    image = 1 / (1 + np.exp(-0.7 * targets - rng.normal(size=targets.shape)))
    columns = {"patient": patients, "noise": rng.normal(size=targets.shape)}
    run = write(targets, image, columns, ["competition.group=patient"], patients[:NUM_ROWS])
    found = blend(run, "stack=logistic", *words)
    assert found["nested"] > found["best_single"] + 0.15
    assert found["in_sample"] == pytest.approx(found["nested"], abs=0.01)


def test_relative_features_are_the_difference_to_the_groups_mean():
    columns = pd.DataFrame({"age": ["10", "20", None, "40"], "sex": ["f", "m", "x", None]})
    encoder = Encoder.build(columns.iloc[:2])
    rows = Rows(np.array([[[0.2], [0.4], [0.6], [0.8]]]), columns, np.array(["p", "p", "p", "q"]))
    found, is_code = Features(encoder, True, False, True, 0).compute(rows, ["age", "sex"])
    nan = np.nan
    expected = [
        [0.2, 10, -0.2, -5, np.log(3), 0],
        [0.4, 20, 0.0, 5, np.log(3), 1],
        [0.6, nan, 0.2, nan, np.log(3), nan],
        [0.8, 40, 0.0, 0, np.log(1), nan],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert is_code.tolist() == [False] * 5 + [True]


def test_a_fold_is_predicted_without_its_targets(write, blend, tmp_path):
    """Of two folds in which the number means the opposite, each is predicted by the other's rule."""
    _, targets, image, number = draw()
    is_odd = np.arange(len(targets)) % 2 == 1
    run = write(targets, image, {"age": np.where(is_odd, number, -number)}, groups=None)
    folds = pd.read_csv(f"{run}/oof.csv", dtype={"id": str})
    folds["fold"] = is_odd[:NUM_ROWS].astype(int)
    folds.to_csv(f"{run}/oof.csv", index=False)
    found = blend(run, "stack=logistic", "metadata=[age]")
    assert found["nested"] < found["best_single"] - 0.1


def test_regression_is_stacked(kind, write, blend):
    rng = np.random.default_rng(0)
    targets = rng.normal(50, 10, size=NUM_ROWS + NUM_TEST)
    image, number = targets + rng.normal(0, 5, size=targets.shape), targets + rng.normal(0, 5, size=targets.shape)
    words = ["competition.task=regression", "competition.metric=rmse"]
    found = blend(write(targets, image, {"weight": number}, words), f"stack={kind}", "metadata=[weight]")
    assert found["nested"] < 4.2  # 5 / sqrt(2) and a little shrinking is the least
    assert found["best_single"] > 4.7


def test_multiclass_rows_sum_to_one(kind, write_run, blend, tmp_path):
    rng = np.random.default_rng(0)
    targets = np.eye(3)[rng.integers(3, size=300)]
    probs = np.exp(targets + rng.normal(size=targets.shape))
    (tmp_path / "t.csv").write_text("id,age\n" + "".join(f"{k:05d},{row.argmax()}\n" for k, row in enumerate(targets)))
    words = ["competition.task=multiclass", "competition.metric=log_loss", *ALONE]
    words += [f"competition.root={tmp_path}", "competition.train_table=t.csv"]
    run = write_run("a", targets, probs / probs.sum(axis=1, keepdims=True), words=words)
    found = blend(run, f"stack={kind}", "metadata=[age]")
    np.testing.assert_allclose(pd.read_csv(tmp_path / "outputs/blend/oof.csv")[["c0", "c1", "c2"]].sum(axis=1), 1)
    assert found["nested"] < 0.5 * found["best_single"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "metadata=[agee]",
            "data/train.csv: has no column 'agee' of metadata= (found id, age, hidden, note, cat); did you mean age?",
        ),
        (
            "metadata=[hidden]",
            "data/test.csv: has no column 'hidden' of metadata= (found id, age, note, cat); a column must be in both "
            "tables, leave it out",
        ),
        ("metadata=[cat]", "metadata=cat: is the id or a target; leave it out"),
        (
            "metadata=[note]",
            "metadata=note: holds another text in each row ('text 0' ...); leave it out, or write a date as a number",
        ),
        ("metadata=[age] method=hill", "command line: stack=logistic and method=hill: keep one of them"),
        ("", "stack=logistic: has no columns to learn from; write metadata=[COLUMN,...]"),
    ],
)
def test_refusals(words, line, write, capsys):
    _, targets, image, number = draw()
    note = [f"text {row}" for row in range(len(targets))]
    run = write(targets, image, {"age": number, "hidden": number, "note": note, "cat": targets})
    pd.read_csv("data/test.csv").drop(columns="hidden").to_csv("data/test.csv", index=False)
    with pytest.raises(SystemExit):
        main([run, "name=blend", "stack=logistic", *words.split()])
    assert capsys.readouterr().err == f"error: {line}\n"


def test_lightgbm_that_is_not_there(write, capsys, monkeypatch):
    import tools.blend.stack

    monkeypatch.setattr(tools.blend.stack, "find_spec", lambda name: None)
    _, targets, image, number = draw()
    run = write(targets, image, {"age": number})
    with pytest.raises(SystemExit):
        main([run, "name=blend", "stack=lightgbm", "metadata=[age]"])
    line = "stack=lightgbm: not installed; pip install lightgbm, or set stack=gradient_boosting"
    assert capsys.readouterr().err == f"error: {line}\n"
