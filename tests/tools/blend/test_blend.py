"""Blends: weights that find what is good, scores that were not fitted, folders that are like a run's."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from src.checkpointing.run_folder import find_newest_run
from src.config.load import load_saved_config
from tests.tools.blend.conftest import draw
from tools.blend.__main__ import main
from tools.compare import main as compare


def read(tmp_path, name, file):
    return pd.read_csv(tmp_path / "outputs" / name / file, dtype={"id": str})


def test_the_mean_is_the_mean_of_rows_and_of_test_rows(write_run, blend, tmp_path, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    tests = [np.array([[0.2], [0.9], [0.4]]), np.array([[0.4], [0.5], [0.8]])]
    pd.DataFrame({"id": ["t0", "t1", "t2"], "cat": 0.5}).to_csv(tmp_path / "sample.csv", index=False)
    words = [f"competition.sample_submission={tmp_path}/sample.csv"]
    paths = [write_run(name, targets, *two, words=words) for name, *two in zip("ab", probs, tests, strict=True)]
    found = blend(*paths, "method=mean")
    assert capsys.readouterr().out.endswith("3 rows, checked\nnext: python -m tools.kaggle submit outputs/blend\n")
    assert found["method"] == "mean"
    assert found["weights"] == {"a": 0.5, "b": 0.5}
    mean = (probs[0] + probs[1]) / 2
    np.testing.assert_allclose(read(tmp_path, "blend", "oof.csv")[["cat"]], mean)
    assert found["nested"] == found["in_sample"] == pytest.approx(metrics.roc_auc_score(targets, mean))
    submission = read(tmp_path, "blend", "submission.csv")
    assert list(submission["id"]) == ["t0", "t1", "t2"]
    np.testing.assert_allclose(submission["cat"], [0.3, 0.7, 0.6])
    np.testing.assert_allclose(read(tmp_path, "blend", "test.csv")["cat"], [0.3, 0.7, 0.6])


def test_ranks_of_test_rows_are_taken_among_them(write_run, blend, tmp_path):
    targets, probs = draw(100, [1.5, 1.5])
    a = write_run("a", targets, probs[0], np.array([[0.11], [0.12], [0.5], [0.13]]))
    b = write_run("b", targets, probs[1], np.array([[0.9], [0.7], [0.6], [0.8]]))
    blend(a, b, "method=rank")
    np.testing.assert_allclose(read(tmp_path, "blend", "submission.csv")["cat"], [2.5 / 4, 2 / 4, 2.5 / 4, 3 / 4])


@pytest.mark.parametrize("method", ["auto", "hill", "nnls", "logistic"])
@pytest.mark.parametrize("metric", ["roc_auc", "log_loss"])
@pytest.mark.parametrize("seed", range(3))
def test_noise_weighs_nothing_and_nested_is_at_most_in_sample(method, metric, seed, write_run, blend):
    targets, probs = draw(300, [1.5, 1.5], seed, num_noise=1)
    words = [f"competition.metric={metric}"]
    paths = [write_run(name, targets, one, words=words) for name, one in zip(("a", "b", "noise"), probs, strict=True)]
    found = blend(*paths, f"method={method}")
    assert found["weights"]["noise"] <= 0.05
    assert sum(found["weights"].values()) == pytest.approx(1)
    sign = 1 if metric == "roc_auc" else -1
    assert sign * found["nested"] <= sign * found["in_sample"]


def test_nested_rows_are_predicted_by_weights_of_the_other_folds(write_run, blend, tmp_path):
    targets, probs = draw(200, [2, 2])
    is_odd = np.arange(200) % 2 == 1  # each input is good in one fold alone, so weights of the other fold are wrong
    halves = [np.where(is_odd[:, None] == one, probs[one], 1 - probs[one]) for one in (0, 1)]
    paths = [write_run(f"r{k}", targets, one, num_folds=2) for k, one in enumerate(halves)]
    found = blend(*paths, "method=hill")
    assert found["nested"] < 0.3
    assert found["in_sample"] > 0.4
    oof = read(tmp_path, "blend", "oof.csv")
    assert found["nested"] == pytest.approx(metrics.roc_auc_score(oof["target_cat"], oof["cat"]))


def test_copies_gain_no_weight(write_run, blend):
    targets, probs = draw(300, [1.5, 1.5])
    noise = np.random.default_rng(1).normal(scale=1e-6, size=targets.shape)
    kinds = {"a": probs[0], "b": probs[1], "copy": probs[0], "nearly": np.clip(probs[0] + noise, 0, 1)}
    paths = [write_run(name, targets, one) for name, one in kinds.items()]
    for method in ("mean", "hill"):
        found = blend(*paths, f"method={method}", f"name={method}")
        assert sum(weight > 0 for weight in found["weights"].values()) == 2
        assert len(set(found["pruned"]) & {"a", "copy", "nearly"}) == 2
        alone = blend(*paths[:2], f"method={method}", f"name={method}_alone")
        assert found["weights"]["b"] == pytest.approx(alone["weights"]["b"], abs=0.01)
    assert blend(*paths, "method=mean", "prune=off", "name=off")["weights"]["copy"] == 0.25


def test_auto_prefers_the_mean_and_says_so(write_run, blend, capsys):
    targets, probs = draw(300, [1.5, 1.5])
    paths = [write_run(name, targets, one) for name, one in zip("ab", probs, strict=True)]
    assert blend(*paths)["method"] == "mean"
    assert "no other is shown to be better than the plain mean" in capsys.readouterr().out
    blend(*paths, "method=hill", "name=hill")
    assert "the plain mean is as good" in capsys.readouterr().out


def test_auto_leaves_the_mean_where_another_is_better(write_run, blend):
    targets, probs = draw(2000, [6, 0.4])
    paths = [write_run(name, targets, one) for name, one in zip("ab", probs, strict=True)]
    found = blend(*paths)
    assert found["method"] != "mean"
    assert found["weights"]["a"] > 0.8
    assert found["candidates"][found["method"]]["against_mean_interval"][0] > 0


def test_intervals_and_candidates_are_those_of_the_evaluation(write_run, blend):
    targets, probs = draw(300, [1.5, 1.5])
    found = blend(*(write_run(name, targets, one) for name, one in zip("ab", probs, strict=True)))
    assert list(found["candidates"]) == ["mean", "rank", "power", "hill", "nnls", "logistic"]
    scores = [metrics.roc_auc_score(targets, one) for one in probs]
    assert found["best_single"] == pytest.approx(max(scores))
    assert found["best_single_name"] == "ab"[int(np.argmax(scores))]
    assert found["nested_interval"][0] < found["nested"] < found["nested_interval"][1]


def test_a_blend_is_compared_and_blended_like_a_run(write_run, blend, tmp_path, capsys):
    targets, probs = draw(200, [1.5, 1.5, 1.5])
    tests = np.array([[0.2], [0.9]])
    pairs = np.arange(200) // 2
    paths = [write_run(name, targets, one, tests, pairs) for name, one in zip("abc", probs, strict=True)]
    blend(*paths[:2], "name=two", "method=mean")
    folder = tmp_path / "outputs" / "two"
    config, scores = load_saved_config(folder), json.loads((folder / "scores.json").read_text())
    assert config.name == "two"
    oof = read(tmp_path, "two", "oof.csv")
    assert scores["pooled"] == pytest.approx(metrics.roc_auc_score(oof["target_cat"], oof["cat"]))
    assert scores["interval"][0] < scores["pooled"] < scores["interval"][1]
    third = oof[oof["fold"] == 3]
    assert scores["folds"]["3"] == pytest.approx(metrics.roc_auc_score(third["target_cat"], third["cat"]))
    folds = read(tmp_path, "two", "folds.csv")[["id", "fold", "group"]]
    pd.testing.assert_frame_equal(folds, read(tmp_path, "a", "folds.csv"))
    compare(["outputs/two", "outputs/c", "output=found.json"])
    assert json.loads((tmp_path / "found.json").read_text())["score_a"] == pytest.approx(scores["pooled"])
    assert "settings:" not in capsys.readouterr().out
    again = blend("outputs/two", "outputs/c", "name=again", "method=mean")
    assert again["weights"] == {"two": 0.5, "c": 0.5}
    np.testing.assert_allclose(read(tmp_path, "again", "test.csv")["cat"], tests[:, 0])


def test_the_newest_run_is_a_trained_one_and_infer_refuses_a_blend(write_run, blend, capsys):
    from src.checkpointing.run_folder import load_run
    from src.errors import UserError

    targets, probs = draw(100, [1.5, 1.5])
    paths = [write_run(name, targets, one, np.array([[0.2], [0.9]])) for name, one in zip("ab", probs, strict=True)]
    blend(*paths, "method=mean")
    assert find_newest_run("outputs").name in ("a", "b")
    line = "outputs/blend: is a blend; infer its runs, then repeat python -m tools.blend outputs/a outputs/b "
    with pytest.raises(UserError, match=f"^{re.escape(line)}method=mean name=blend overwrite=true$"):
        load_run(["run=outputs/blend"])


def test_overwrite_replaces_a_blend_and_never_a_run(write_run, blend, tmp_path, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    paths = [write_run(name, targets, one) for name, one in zip("ab", probs, strict=True)]
    blend(*paths, "method=mean")
    for words, line in (
        (["name=blend"], "outputs/blend: is a blend already; choose name=ANOTHER or overwrite=true"),
        (
            ["name=a", "overwrite=true"],
            "outputs/a: exists and is a trained run, which no blend replaces; choose name=ANOTHER",
        ),
    ):
        with pytest.raises(SystemExit):
            main([*paths, *words])
        assert capsys.readouterr().err == f"error: {line}\n"
    assert blend(*paths, "method=rank", "overwrite=true")["method"] == "rank"
    assert sorted(one.name for one in (tmp_path / "outputs").iterdir()) == ["a", "b", "blend"]


def test_without_test_predictions_it_is_scored_alone(write_run, blend, tmp_path, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    paths = [write_run("a", targets, probs[0], np.array([[0.2], [0.9]])), write_run("b", targets, probs[1])]
    blend(*paths)
    assert "outputs/b: has no test predictions; python infer.py run=outputs/b" in capsys.readouterr().out
    assert not (tmp_path / "outputs/blend/submission.csv").exists()
    assert not (tmp_path / "outputs/blend/test.csv").exists()
    assert (tmp_path / "outputs/blend/scores.json").exists()


def test_a_submission_that_is_refused_leaves_the_old_blend(write_run, blend, tmp_path, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    constant = np.array([[0.5], [0.5]])
    good = [write_run(name, targets, one, np.array([[0.2], [0.9]])) for name, one in zip("ab", probs, strict=True)]
    bad = [write_run(name, targets, one, constant) for name, one in zip("cd", probs, strict=True)]
    blend(*good, "method=mean")
    with pytest.raises(SystemExit):
        main([*bad, "name=blend", "method=mean", "overwrite=true"])
    assert "is 0.5 in every row" in capsys.readouterr().err
    assert list(read(tmp_path, "blend", "submission.csv")["cat"]) == pytest.approx([0.2, 0.9])
    assert [one.name for one in (tmp_path / "outputs").iterdir() if one.name.startswith(".")] == []


def test_predictions_of_other_programs(write_run, blend, tmp_path, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    run = write_run("a", targets, probs[0], np.array([[0.2], [0.9]]))
    order = np.random.default_rng(0).permutation(100)
    own = pd.DataFrame({"image": [f"{row:05d}" for row in range(100)], "pred_cat": probs[1][:, 0]}).iloc[order]
    own.to_csv("other.csv", index=False)
    found = blend(run, "other.csv", "method=mean", "name=scored")
    assert found["weights"] == {"a": 0.5, "other": 0.5}
    np.testing.assert_allclose(read(tmp_path, "scored", "oof.csv")[["cat"]], (probs[0] + probs[1]) / 2)
    assert "other.csv: has no test predictions; write other.csv+TEST.csv" in capsys.readouterr().out
    pd.DataFrame({"id": ["t1", "t0"], "score": [0.5, 0.4]}).to_csv("test.csv", index=False)
    blend(run, "other.csv+test.csv", "method=mean", "name=both")
    np.testing.assert_allclose(read(tmp_path, "both", "submission.csv")["cat"], [0.3, 0.7])
    (tmp_path / "notebook").mkdir()
    own.to_csv("notebook/oof.csv", index=False)
    pd.DataFrame({"id": ["t1", "t0"], "score": [0.5, 0.4]}).to_csv("notebook/submission.csv", index=False)
    assert blend(run, "notebook", "method=mean", "name=folder")["weights"] == {"a": 0.5, "notebook": 0.5}
    np.testing.assert_allclose(read(tmp_path, "folder", "submission.csv")["cat"], [0.3, 0.7])
    compare(["other.csv", run])
    assert "other.csv" in capsys.readouterr().out


def test_scores_that_are_no_probabilities_are_ranked(write_run, blend, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    run = write_run("a", targets, probs[0])
    logits = np.log(probs[1] / (1 - probs[1]))[:, 0]
    pd.DataFrame({"id": [f"{row:05d}" for row in range(100)], "cat": logits}).to_csv("logits.csv", index=False)
    assert blend(run, "logits.csv")["method"] in ("rank", "hill", "nnls")
    with pytest.raises(SystemExit):
        main([run, "logits.csv", "name=mean", "method=mean"])
    line = "method=mean: an input has values outside 0 to 1, no probabilities; choose one of auto, rank, hill, nnls"
    assert capsys.readouterr().err == f"error: {line}\n"


def test_rows_and_folds_that_differ_are_said(write_run, blend, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    a = write_run("a", targets, probs[0])
    b = write_run("b", targets, probs[1], num_folds=4, rows=np.arange(79, -1, -1))
    assert blend(a, b, "method=mean")["rows"] == 80
    printed = capsys.readouterr().out
    assert "20 rows that not all inputs have are left out" in printed
    assert "the runs' folds differ; weights are nested by those of outputs/a" in printed


def test_one_fold_is_nested_over_parts_of_it(write_run, blend, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    paths = [write_run(name, targets, one, num_folds=1) for name, one in zip("ab", probs, strict=True)]
    found = blend(*paths, "method=hill")
    assert "one fold only: weights are nested over 5 random parts of its rows instead" in capsys.readouterr().out
    assert found["nested"] <= found["in_sample"]


def test_multiclass_rows_sum_to_one(write_run, blend, tmp_path):
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=200)
    targets = np.eye(3)[classes]
    words = ["competition.task=multiclass", "competition.metric=log_loss"]
    paths = []
    for name in "ab":
        logits = 2 * targets + rng.normal(size=targets.shape)
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        paths.append(write_run(name, targets, probs, words=words))
    for method in ("mean", "power", "hill", "nnls", "logistic"):
        blend(*paths, f"method={method}", f"name={method}")
        np.testing.assert_allclose(read(tmp_path, method, "oof.csv")[["c0", "c1", "c2"]].sum(axis=1), 1)


def test_weights_of_each_column(write_run, blend):
    targets, probs = draw(400, [1.5, 1.5], num_columns=2)
    noise = np.random.default_rng(1).random((400, 2))
    first, second = np.where([True, False], probs[0], noise), np.where([False, True], probs[1], noise)
    words = ["competition.task=multilabel"]
    paths = [write_run(name, targets, one, words=words) for name, one in (("a", first), ("b", second))]
    found = blend(*paths, "method=nnls", "per_column=true")
    assert found["columns"]["c0"]["a"] > 0.85
    assert found["columns"]["c1"]["b"] > 0.85


def test_regression_is_blended_in_its_own_units(write_run, blend, tmp_path):
    rng = np.random.default_rng(0)
    targets = rng.normal(50, 10, size=(300, 1))
    good, bad = targets + rng.normal(0, 2, size=targets.shape), targets + rng.normal(0, 8, size=targets.shape)
    words = ["competition.task=regression", "competition.metric=rmse"]
    paths = [write_run(name, targets, one, good[:5], words=words) for name, one in (("a", good), ("b", bad))]
    found = blend(*paths, "method=nnls")
    assert found["weights"]["a"] == pytest.approx(64 / 68, abs=0.03)  # inverse variances
    assert found["nested"] >= found["in_sample"]
    assert list(found["candidates"]) == ["mean", "hill", "nnls", "linear"]
    oof = read(tmp_path, "blend", "oof.csv")
    assert found["nested"] == pytest.approx(np.sqrt(np.mean((oof["cat"] - oof["target_cat"]) ** 2)))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "name=a",
            "command line: no inputs; write RUN_A RUN_B, folders of runs",
        ),
        (
            "outputs/a outputs/b method=best",
            "command line: method=best is not one of auto, mean, rank, power, hill, nnls, logistic, linear; "
            "choose one of them",
        ),
        (
            "outputs/a outputs/b methods=hill",
            "command line: methods=hill is not known; did you mean method?; it takes name, method, per_column, "
            "ranks, prune, power, stack, metadata, seed, overwrite, output_dir, competition.root",
        ),
        (
            "outputs/a outputs/b prune=2",
            "command line: prune=2 is no number from 0 to 1 or off; for example prune=0.999",
        ),
        (
            "outputs/a outputs/b metadata=[age]",
            "command line: metadata= needs stack=lightgbm, which learns from these columns; write both",
        ),
        (
            "outputs/a outputs/none",
            "outputs/none: not a run (no config.yaml); train one with python train.py",
        ),
        (
            "outputs/a outputs/loss",
            "outputs/loss: competition.metric is log_loss, but roc_auc in outputs/a; blend runs of one metric",
        ),
        (
            "outputs/loss outputs/loss2 method=rank",
            "method=rank: log_loss looks at more than the order; choose one of auto, mean, power, hill, nnls, logistic",
        ),
        (
            "outputs/a outputs/tests",
            "outputs/tests: has other test rows than outputs/a (1 missing, 0 too many; first: t1); infer both "
            "with the same tables",
        ),
        (
            "a.csv b.csv",
            "a.csv, b.csv: are no runs; name one at least, whose targets and folds score the others",
        ),
        (
            "outputs/a ids.csv",
            "ids.csv: none of its 1 ids is a row of outputs/a (first: x, not 00000); write the ids of the "
            "training table and out-of-fold predictions",
        ),
        (
            "outputs/a columns.csv",
            "columns.csv: its columns dog, cow are not the targets cat; name one column for each, maybe with a prefix",
        ),
        (
            "outputs/a none.csv",
            "none.csv: no such file; write the path of a run's folder, or of a CSV of predictions",
        ),
        (
            "outputs/a gaps.csv",
            "gaps.csv: 1 of 2 rows are empty, nan or infinite (first: id 00001); write a prediction for each",
        ),
    ],
)
def test_refusals(words, line, write_run, tmp_path, capsys):
    targets, (one, other) = draw(50, [1.5, 1.5])
    write_run("a", targets, one, np.array([[0.2], [0.9]]))
    write_run("b", targets, other)
    write_run("tests", targets, other, np.array([[0.2]]))
    write_run("loss", targets, other, words=["competition.metric=log_loss"])
    write_run("loss2", targets, one, words=["competition.metric=log_loss"])
    (tmp_path / "ids.csv").write_text("id,cat\nx,0.5\n")
    (tmp_path / "columns.csv").write_text("id,dog,cow\n00000,0.5,1\n")
    (tmp_path / "gaps.csv").write_text("id,cat\n00000,0.5\n00001,\n")
    with pytest.raises(SystemExit):
        main([*words.split(), "name=blend"])
    assert capsys.readouterr().err == f"error: {line}\n"
    assert not (tmp_path / "outputs/blend").exists()


def test_a_blend_never_replaces_its_own_input(write_run, blend, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    paths = [write_run(name, targets, one) for name, one in zip("ab", probs, strict=True)]
    blend(*paths)
    with pytest.raises(SystemExit):
        main(["outputs/blend", "outputs/a", "name=blend", "overwrite=true"])
    assert "outputs/blend: is an input, which the blend would replace; choose name=ANOTHER" in capsys.readouterr().err


def test_one_input_alone_is_said(write_run, blend, capsys):
    targets, (probs,) = draw(100, [1.5])
    found = blend(write_run("a", targets, probs), write_run("b", targets, probs), "method=hill")
    assert list(found["candidates"]) == ["mean", "hill"]
    assert "a is the only input left, so that there is nothing to blend\n" in capsys.readouterr().out


def test_a_teachers_part_in_a_score_is_said_and_kept(write_run, blend, capsys):
    targets, probs = draw(100, [1.5, 1.5])
    a = write_run("a", targets, probs[0])
    b = write_run("b", targets, probs[1], words=["train.teacher=outputs/t"])
    sentence = "scores too high, and so the blend: its train.teacher saw these labels"
    assert f"b {sentence}" in blend(a, b)["sentences"]
    assert f"blend {sentence}" in blend("outputs/blend", a, "name=more")["sentences"]


def test_logistic_is_not_judged_by_what_folds_hold(write_run, blend):
    rng = np.random.default_rng(0)  # folds of 10 to 50 % positives
    targets = (rng.random((500, 1)) < 0.1 * (1 + np.arange(500)[:, None] % 5)).astype(float)
    probs = 1 / (1 + np.exp(-(targets + rng.normal(size=targets.shape))))
    found = blend(write_run("a", targets, probs), write_run("b", targets, probs), "prune=off", "method=logistic")
    assert found["nested"] == pytest.approx(found["best_single"], abs=1e-9)


def test_lines_fit_eighty_columns(write_run, blend, capsys):
    targets, probs = draw(100, [1.5, 1.5], num_noise=1)
    blend(*(write_run(name, targets, one) for name, one in zip(("a", "b", "noise"), probs, strict=True)))
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80
    main(["--help"])
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


@pytest.mark.nightly
def test_a_hundred_thousand_rows_of_ten_runs_take_seconds(write_run, blend):
    import time

    targets, probs = draw(100_000, [1.5] * 10)
    paths = [write_run(f"r{k}", targets, one) for k, one in enumerate(probs)]
    start = time.process_time()
    blend(*paths)
    assert time.process_time() - start < 90  # about 12 s


def test_rows_of_a_unit_get_one_prediction(write_run, blend, tmp_path):
    targets, probs = draw(100, [1.5, 1.5])
    (tmp_path / "data").mkdir()
    units = np.arange(100) // 2
    lines = "".join(f"{row:05d},{unit},0\n" for row, unit in enumerate(units))
    (tmp_path / "data" / "train.csv").write_text("id,patient,cat\n" + lines)
    (tmp_path / "data" / "test.csv").write_text("id,patient\nt3,q\nt0,p\nt1,p\nt2,q\n")
    words = ["competition.root=data", "competition.train_table=train.csv", "competition.test_table=test.csv"]
    words += ["competition.predict_by=patient", "competition.targets=[cat]", "competition.label=null"]
    words += ["competition.classes=[]"]
    tests = np.array([[0.1], [0.3], [0.5], [0.9]])
    paths = [write_run(name, targets, one, tests, words=words) for name, one in zip("ab", probs, strict=True)]
    blend(*paths, "method=mean")
    submission = pd.read_csv(tmp_path / "outputs/blend/submission.csv", index_col="id")["cat"]
    assert submission.to_dict() == pytest.approx({"q": 0.7, "p": 0.2})
    assert len(read(tmp_path, "blend", "test.csv")) == 4
    oof = read(tmp_path, "blend", "oof.csv").groupby(units)[["target_cat", "cat"]].mean()
    scores = json.loads((tmp_path / "outputs/blend/scores.json").read_text())
    assert scores["by_unit"] == pytest.approx(metrics.roc_auc_score(oof["target_cat"] >= 0.5, oof["cat"]))
