"""Predictions of runs and CSVs are matched by id and by name."""

import json

import numpy as np
import pandas as pd
import pytest

from src.config.load import config_yaml, load_config
from src.errors import UserError
from src.inference.prediction_sources import NoTestPredictions, align, align_test, load_sources


@pytest.fixture
def write_run(tmp_path, monkeypatch):
    """write(name, names=, ids=, tests={fold: test.csv's text}, words=): a run of four rows, c0 is .1 to .4."""
    monkeypatch.chdir(tmp_path)

    def write(name, names=("cat", "dog"), ids=("007", "08", "x", " y"), tests=(), words=()):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(config_yaml(load_config([f"name={name}", "competition.id=image", *words])))
        oof = pd.DataFrame({"id": ids, "fold": [0, 1, 0, 1]})
        oof.to_csv(folder / "folds.csv", index=False)
        for k, column in enumerate(sorted(names)):
            oof[f"target_{column}"], oof[column] = np.arange(4) % 2, k + np.arange(1, 5) / 10
        oof[["id", "fold", *(f"target_{one}" for one in names), *names]].to_csv(folder / "oof.csv", index=False)
        for fold, text in dict(tests).items():
            (folder / f"fold{fold}").mkdir()
            (folder / f"fold{fold}" / "meta.json").write_text(json.dumps({"target_names": names}))
            if text:
                (folder / f"fold{fold}" / "test.csv").write_text(text)
        return name

    return write


TESTS = {0: "id,cat,dog\n1,.1,.5\n2,.2,.7\n3,.9,.1\n", 1: "id,cat,dog\n3,.5,.3\n1,.3,.1\n2,.6,.1\n"}


def test_folds_are_averaged_as_infer_averages_them(write_run):
    for how, wanted in (("mean", [0.2, 0.4, 0.7]), ("rank", [1 / 3, 2.5 / 3, 2.5 / 3])):
        (one,) = load_sources([write_run(how, tests=TESTS, words=[f"infer.average={how}"])])
        ids, probs, notes = one.load_test()
        assert (list(ids), notes) == (["1", "2", "3"], ())
        np.testing.assert_allclose(probs[:, 0], wanted)


def test_folds_without_test_predictions_are_said(write_run):
    (one,) = load_sources([write_run("a", tests={**TESTS, 2: ""})])
    assert one.load_test()[2] == ("a: test predictions of 2 of 3 folds; infer.py adds the others",)
    (none,) = load_sources([write_run("b", tests={0: ""})])
    with pytest.raises(NoTestPredictions, match="^b: has no test predictions; python infer.py run=b$"):
        none.load_test()


def test_columns_and_rows_in_another_order_are_matched(write_run):
    a = write_run("a", tests=TESTS)
    b = write_run("b", names=("dog", "cat"), ids=(" y", "x", "08", "007"), tests=TESTS)
    predicted = load_sources([a, b])
    with pytest.raises(UserError, match="^b: has other targets than a; blend runs of the same tables$"):
        align(predicted, "blend")
    c = write_run("c", names=("dog", "cat"), ids=("007", "08", "x", "y"), tests=TESTS)
    predicted = load_sources([a, c])
    runs, num_left_out = align(predicted, "blend")
    assert num_left_out == 0
    np.testing.assert_allclose(runs[1].probs, runs[0].probs)
    np.testing.assert_allclose(align_test(predicted)[1][0], align_test(predicted)[1][1])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("image,cat,dog\n007,1,2\n08,3,4\n", [[1, 2], [3, 4]]),  # the competition's id
        ("cat,id,dog\n3,08,4\n1,007,2\n", [[1, 2], [3, 4]]),  # `id` anywhere, rows in any order
        ("name;p_dog_x;p_cat_x\n007;2;1\n08;4;3\n", [[1, 2], [3, 4]]),  # prefix and suffix, another separator
        ("id,fold,target_cat,target_dog,cat,dog\n007,0,9,9,1,2\n08,0,9,9,3,4\n", [[1, 2], [3, 4]]),  # an oof.csv
    ],
)
def test_csvs_of_other_programs(text, wanted, write_run, tmp_path):
    run = write_run("a")
    (tmp_path / "other.csv").write_text(text)
    _, other = load_sources([run, "other.csv"])
    assert (list(other.oof.ids), other.name) == (["007", "08"], "other")
    np.testing.assert_allclose(other.oof.probs, wanted)
    np.testing.assert_allclose(other.oof.targets, [[0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "id,cat\n007,1\n",
            "its columns cat are not the targets cat, dog; name one column for each, maybe with a pref",
        ),
        ("id,cat,dog\n007,1,2\n007,1,2\n", "column 'id' repeats or lacks an id in 1 of 2 rows (first: line 3); write"),
        ("id,cat,dog\n007,1,many\n", "holds no number (could not convert string to float: 'many'); write predictions"),
        ("id,cat,dog\n", "holds no rows; write an id and the predictions in each"),
    ],
)
def test_refusals(text, line, write_run, tmp_path):
    run = write_run("a")
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(UserError) as error:
        load_sources([run, "other.csv"])
    assert str(error.value).startswith(f"other.csv: {line}")


def test_two_inputs_of_one_name_are_told_apart_by_their_paths(write_run, tmp_path):
    run = write_run("a")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.csv").write_text("id,cat,dog\n007,1,2\n")
    assert [one.name for one in load_sources([run, "more/a.csv"])] == ["a", "more/a.csv"]
