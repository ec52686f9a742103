"""Folds hold what they promise: shares, whole groups, positives and negatives; and one file serves all runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import KFold

from src.competition.folds import check_folds, describe_folds, load_folds, make_folds
from src.competition.splits import SPLITS
from src.config.settings import Competition, Config
from src.errors import UserError
from src.evaluation.metrics import build_metric
from tests.competition.building import reference, table_of

AUC = build_metric("roc_auc", "binary")
ACCURACY = build_metric("accuracy", "multiclass")


def refusal(function, *words):
    with pytest.raises(UserError) as caught:
        function(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", ["auto", "holdout", *SPLITS])
def test_every_method_covers_each_row_once_and_follows_the_seed(method):
    table = table_of(np.arange(100) % 2, np.arange(100) // 2)
    folds = make_folds(table, method, 5, 1, AUC)
    assert folds.shape == (100,)
    assert folds.tolist() == make_folds(table, method, 5, 1, AUC).tolist()
    assert folds.tolist() != make_folds(table, method, 5, 2, AUC).tolist()
    expected = [-1, 0] if method == "holdout" else [0, 1, 2, 3, 4]
    assert np.unique(folds).tolist() == expected
    assert (folds == 0).sum() == pytest.approx(20, abs=2)


def test_holdout_is_stratified():
    folds = make_folds(table_of([1] * 20 + [0] * 80), "holdout", 5, 0, AUC)
    assert (folds[:20] == 0).sum() == 4
    assert (folds[20:] == 0).sum() == 16
    assert (folds == -1).sum() == 80


def test_a_column_is_renumbered():
    table = table_of([0, 1, 0, 1, 1], folds=[7, 3, -5, 10, 7])
    assert make_folds(table, "column", 5, 0, AUC).tolist() == [1, 0, -1, 2, 1]
    assert refusal(make_folds, table_of([0, 1], folds=[4, 4]), "column", 5, 0, AUC) == (
        "folds=column: all rows are in one fold; give two folds or more"
    )
    assert refusal(make_folds, table_of([0, 1]), "column", 5, 0, AUC) == (
        "folds=column: the table has no folds; set competition.fold=COLUMN"
    )


def test_further_shuffles_are_tried_when_one_cannot_be_scored():
    """A plain shuffle of few positives often leaves a fold without; one of the next seeds is better."""
    table = table_of([1] * 3 + [0] * 27)
    tried = [make_folds(table, "kfold", 2, seed, AUC) for seed in range(20)]
    first = [reference(KFold(2, shuffle=True, random_state=seed), table.ids) for seed in range(20)]
    is_faulty = [len(np.unique(folds[:3])) < 2 for folds in first]
    assert any(is_faulty)
    for folds, plain, faulty in zip(tried, first, is_faulty, strict=True):
        assert (folds.tolist() != plain.tolist()) == faulty
        check_folds(table, folds, AUC)


@pytest.mark.parametrize(
    ("table", "method", "num_folds", "expected"),
    [
        (table_of([0, 1, 0]), "auto", 5, "num_folds=5: only 3 rows to split; set num_folds=3 and "
         "competition.metric=log_loss, which needs none, or add images"),
        (table_of([0, 1, 0, 1]), "auto", 5, "num_folds=5: only 4 rows to split; set num_folds=2"),
        (table_of([0, 1] * 6, ["p", "q"] * 6), "stratified_group", 5, "num_folds=5: only 2 groups to split; set "
         "num_folds=2 and competition.metric=log_loss, which needs none, or add images"),
        (table_of([0, 0, 1, 1] * 3, ["p", "q"] * 6), "auto", 5, "num_folds=5: only 2 groups to split; set num_folds=2"),
        (table_of([0, 1] * 6, ["p"] * 12), "auto", 5, "num_folds=5: only 1 groups to split; add images"),
        (table_of([0, 1] * 6), "group", 2, "folds=group: the table has no groups; set competition.group=COLUMN"),
        (table_of([0, 1] * 6), "stratified_group", 2,
         "folds=stratified_group: the table has no groups; set competition.group=COLUMN"),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_made_is_refused(table, method, num_folds, expected):
    assert refusal(make_folds, table, method, num_folds, 0, AUC) == expected


@pytest.mark.parametrize(
    ("targets", "groups", "folds", "task", "expected"),
    [
        ([0, 1, 0, 1], None, [0, 0, 1, 1], "binary", None),
        ([0, 1, 0, 0], None, [0, 0, 1, 1], "binary",
         "fold 0: target 'a' has no positive in training (1 in all); choose other folds"),
        ([0, 0, 0, 1, 0, 1], None, [0, 0, 1, 1, 2, 2], "binary",
         "fold 0: target 'a' has no positive in validation (2 in all); choose other folds"),
        ([0, 1, 1, 1, 0, 1], None, [0, 0, 1, 1, 2, 2], "binary",
         "fold 1: target 'a' has no negative in validation (2 in all); choose other folds"),
        ([0, 0, 0.4, 0.6, 0, 0.5], None, [1, 1, 0, 0, -1, -1], "binary",
         "fold 1: target 'a' has no positive in validation (2 in all); choose other folds"),
        ([[1, 1], [0, 0], [1, 0], [0, 0]], None, [0, 0, 1, 1], "multilabel",
         "fold 0: target 'b' has no positive in training (1 in all); choose other folds"),
        ([[1, 0], [0, 1], [1, 0], [0, 1]], None, [0, 1, 1, 0], "multiclass", None),
        ([[1, 0, 0], [0, 1, 0], [0.4, 0.3, 0.3], [0.3, 0.4, 0.3]], None, [0, 0, 1, 1], "multiclass",
         "fold 0: target 'c' has no positive in validation (0 in all); choose other folds"),
        ([0, 1, 0, 1], ["p", "p", "q", "q"], [0, 0, 1, 1], "binary", None),
        ([0, 1, 0, 1, 0], ["p", "p", "q", "p", "q"], [0, 0, 1, 1, -1], "binary",
         "fold 1: 2 groups are in training and in validation (first: p); "
         "use folds=stratified_group or set competition.group=null"),
        ([0, 1, 0, 1], None, [0, 0, 0, 0], "binary",
         "fold 0: no row is left for training; split into two folds or more"),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_scored_are_refused(targets, groups, folds, task, expected):
    table, folds, metric = table_of(targets, groups), np.array(folds), build_metric("roc_auc", task)
    if expected is None:
        check_folds(table, folds, metric)
    else:
        assert refusal(check_folds, table, folds, metric) == expected


def test_a_description_counts_rows_groups_and_positives():
    table = table_of([[1, 1], [0, 1], [0, 0.6], [1, 0.4]], ["p", "p", "q", "r"])
    description = describe_folds(table, np.array([0, 0, 1, -1]))
    assert description.to_dict("list") == {
        "fold": [-1, 0, 1], "rows": [1, 2, 1], "groups": [1, 1, 1], "a": [1, 1, 0], "b": [0, 2, 1]
    }  # fmt: skip
    named = replace(table, target_names=("fold", "rows"))
    assert list(describe_folds(named, np.array([0, 0, 1, 1]))) == ["fold", "rows", "groups", "fold", "rows"]
    many = table_of(np.eye(13)[[*range(13), *range(13), 0]])
    description = describe_folds(many, np.array([0] * 13 + [1] * 14))
    assert description.to_dict("list") == {"fold": [0, 1], "rows": [13, 14], "min positives": [1, 1]}


@pytest.fixture
def config(tmp_path):
    return Config(output_dir=str(tmp_path / "out"), competition=Competition(name="pets"), num_folds=2, fold_seed=5)


def test_a_metric_that_scores_any_rows_needs_no_class_on_both_sides():
    table = table_of(np.eye(3)[[0] * 20 + [1] * 3 + [2]], names=("a", "b", "c"))
    folds = make_folds(table, "auto", 5, 0, ACCURACY)
    assert np.unique(folds).tolist() == [0, 1, 2, 3, 4]
    assert len(set(folds[20:23])) == 3
    check_folds(table, folds, ACCURACY)
    expected = "fold 0: target 'c' has no positive in validation (1 in all); choose other folds"
    assert refusal(check_folds, table, np.roll(np.arange(24) % 5, 2), build_metric("roc_auc", "multiclass")) == expected
    one_side = "fold 0: no row is left for training; split into two folds or more"
    assert refusal(check_folds, table, np.zeros(24, int), ACCURACY) == one_side
    one_side = "fold 0: no row is left for validation; split into two folds or more"
    assert refusal(check_folds, table, np.full(24, -1), ACCURACY) == one_side
    grouped = replace(table, groups=np.repeat(["p", "q"], 12))
    assert "2 groups are in training and in validation" in refusal(check_folds, grouped, np.arange(24) % 5, ACCURACY)


def test_classes_smaller_than_the_folds_are_spread_for_such_a_metric():
    targets = np.eye(20)[np.repeat(np.arange(20), 3)]
    folds = make_folds(table_of(targets, names=tuple("abcdefghijklmnopqrst")), "auto", 5, 0, ACCURACY)
    assert np.bincount(folds).tolist() == [12] * 5
    assert all(len(set(folds[targets[:, column] == 1])) == 3 for column in range(20))
    assert folds.tolist() != make_folds(table_of(targets), "auto", 5, 1, ACCURACY).tolist()
    groups = np.repeat(np.arange(30), 2).astype(str)
    folds = make_folds(table_of(targets, groups), "auto", 5, 0, ACCURACY)
    assert pd.Series(folds).groupby(groups).nunique().max() == 1
    assert np.unique(folds).tolist() == [0, 1, 2, 3, 4]
    assert np.bincount(make_folds(table_of(np.eye(8)), "auto", 2, 0, ACCURACY)).tolist() == [4, 4]


LOG_LOSS = "set competition.metric=log_loss, which needs none, or add images"
RARE = np.eye(3)[[0] * 20 + [1] * 6 + [2]]  # one row of the last class
OF_BOTH = np.eye(2)[[0] * 20 + [1] * 3][:, [0, 1, 1]] * [1, 1, 1]  # 3 rows of the last two labels


@pytest.mark.parametrize(
    ("targets", "groups", "words", "advice"),
    [
        (RARE, None, {}, LOG_LOSS),
        (RARE, None, {"folds": "stratified"}, LOG_LOSS),
        (RARE, None, {"folds": "kfold"}, LOG_LOSS),
        (RARE, None, {"folds": "holdout"}, LOG_LOSS),
        (RARE, np.arange(27) // 2, {}, LOG_LOSS),
        (np.eye(8), None, {"num_folds": 2}, LOG_LOSS),
        (OF_BOTH, None, {}, "set num_folds=3"),
        (OF_BOTH, None, {"folds": "multilabel"}, "set num_folds=3"),
        (OF_BOTH, np.arange(23), {}, "set num_folds=3"),
        ([0] * 100 + [1] * 5, None, {"folds": "kfold", "num_folds": 5}, "set folds=auto"),
        ([0] * 20 + [1] * 3, None, {"folds": "holdout", "num_folds": 23}, "set num_folds=3"),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_scored_are_answered_by_advice_that_works(config, targets, groups, words, advice):
    task = "binary" if np.ndim(targets) == 1 else "multiclass" if len(targets) != 23 else "multilabel"
    table = table_of(targets, groups, names=tuple("abcdefgh")[: np.shape(targets)[1]] if task != "binary" else None)
    config = replace(config, competition=replace(config.competition, task=task), **({"num_folds": 5} | words))
    for _ in range(2):
        metric = build_metric(config.competition.metric, task)
        folds = load_folds(config, table, keep=False)
        if advice is None:
            assert check_folds(table, folds, metric, config) is None
            break
        line = refusal(check_folds, table, folds, metric, config)
        assert line.partition("; ")[2] == advice
        key, _, value = advice.removeprefix("set ").partition(",")[0].partition("=")
        if key == "competition.metric":
            config = replace(config, competition=replace(config.competition, metric=value))
        else:
            config = replace(config, **{key: int(value) if key == "num_folds" else value})
        advice = None


def test_a_users_own_folds_are_told_to_correct_them(config, tmp_path):
    table, own = table_of([0] * 6 + [1, 1]), "0,0 1,0 2,0 3,1 4,1 5,1 6,1 7,1"
    (tmp_path / "mine.csv").write_text("id,fold\n" + "".join(f"000{one}\n" for one in own.split()))
    source, expected = str(tmp_path / "mine.csv"), "fold 0: target 'a' has no positive in validation (2 in all); "
    for folds, where in ((source, source), ("column", "competition.fold")):
        config = replace(config, folds=folds)
        table = replace(table, folds=np.array([0, 0, 0, 1, 1, 1, 1, 1]))
        assert refusal(check_folds, table, load_folds(config, table), AUC, config) == (
            f"{expected}give each fold such rows in {where}, or set competition.metric=log_loss, which needs none"
        )


def test_a_metric_that_is_nan_even_for_the_truth_is_refused_before_training():
    kappa, table = build_metric("quadratic_kappa", "multiclass"), table_of(np.eye(3)[[0, 0, 1, 2]])
    assert refusal(check_folds, table, np.array([0, 0, 1, 1]), kappa) == (
        "fold 0: quadratic_kappa is not defined on its 2 validation rows; choose other folds"
    )
    check_folds(table, np.array([0, 1, 0, 1]), kappa)


def test_soft_classes_are_split_and_scored_by_the_same_largest_share():
    shares = np.array([[0.4, 0.35, 0.25], [0.3, 0.45, 0.25], [0.3, 0.3, 0.4]])[np.arange(30) % 3]
    table = replace(table_of(shares), task="multiclass")
    assert table.positives.tolist() == build_metric("roc_auc", "multiclass").positives(shares).tolist()
    folds = make_folds(table, "auto", 5, 0, build_metric("roc_auc", "multiclass"))
    assert describe_folds(table, folds)[["a", "b", "c"]].to_numpy().tolist() == [[2, 2, 2]] * 5
    several = table_of(shares)  # as several labels none is true of any row
    several_auc = build_metric("roc_auc", "multilabel")
    assert not several.positives.any()
    assert refusal(check_folds, several, np.arange(30) % 5, several_auc) == (
        "fold 0: target 'a' has no positive in validation (0 in all); choose other folds"
    )


def test_the_fold_seed_alone_decides_the_folds(config):
    table = table_of([0, 1] * 20)
    folds = load_folds(config, table, keep=False).tolist()
    assert load_folds(replace(config, seed=1), table, keep=False).tolist() == folds
    assert load_folds(replace(config, fold_seed=1), table, keep=False).tolist() != folds


def test_folds_are_made_once_and_read_in_the_tables_order(config, tmp_path):
    table = table_of([0, 1] * 10)
    folds = load_folds(config, table)
    assert folds.tolist() == make_folds(table, "auto", 2, 5, AUC).tolist()
    path = tmp_path / "out" / "folds" / "pets_auto_2_seed5.csv"
    written = pd.read_csv(path, dtype={"id": str})
    assert written.to_dict("list") == {"id": table.ids.tolist(), "fold": folds.tolist()}
    written["fold"] = 1 - written["fold"]
    written.iloc[::-1].to_csv(path, index=False)
    again = load_folds(config, table)
    assert again.dtype == np.int64
    assert again.tolist() == (1 - folds).tolist()
    assert load_folds(replace(config, fold_seed=6), table).tolist() == make_folds(table, "auto", 2, 6, AUC).tolist()


def test_folds_kept_without_groups_are_not_those_with_groups(config, tmp_path):
    groups = np.repeat(np.arange(10), 2).astype(str)
    load_folds(config, table_of([0, 1] * 10))
    grouped = replace(config, competition=Competition(name="pets", group="patient/no"))
    folds = load_folds(grouped, table_of([0, 1] * 10, groups=groups))
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    names = {path.name for path in (tmp_path / "out" / "folds").iterdir()}
    assert names == {"pets_auto_2_seed5.csv", "pets_auto_2_seed5_by_patient_no.csv"}


def test_folds_kept_by_two_expressions_are_two(config, tmp_path):
    for group in ("re:^(.+)_", "re:^(.+)-"):
        grouped = replace(config, competition=Competition(name="pets", group=group))
        load_folds(grouped, table_of([0, 1] * 10, groups=np.arange(20).astype(str)))
    assert len(list((tmp_path / "out" / "folds").iterdir())) == 2


def test_kept_folds_of_another_table_are_refused(config, tmp_path):
    load_folds(config, table_of([0, 1] * 10))
    path = tmp_path / "out" / "folds" / "pets_auto_2_seed5.csv"
    assert refusal(load_folds, config, table_of([0, 1] * 9)) == (
        f"{path}: 0 training ids are missing and 2 unknown ones are there (first: 0018); "
        "the table has changed since: delete this file"
    )
    assert refusal(load_folds, config, table_of([0, 1] * 11)) == (
        f"{path}: 2 training ids are missing and 0 unknown ones are there (first: 0020); "
        "the table has changed since: delete this file"
    )


def test_a_column_follows_the_table_and_keeps_no_file(config, tmp_path):
    config = replace(config, folds="column")
    assert load_folds(config, table_of([0, 1, 0], folds=[1, 2, 1])).tolist() == [0, 1, 0]
    assert load_folds(config, table_of([0, 1, 0], folds=[2, 2, 1])).tolist() == [1, 1, 0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("csv", "expected"),
    [
        ("id,fold\n0002,1\n0000,4\n0001,-1\n", [1, -1, 0]),
        ("id,part\n0000,1\n", "no column 'fold' (found id, part); write the columns id and fold"),
        ("id,fold\n0000,1\n0001,0\n0001,1\n", "1 of 3 rows repeat an id (first: 0001); keep one row per image"),
        ("id,fold\n0000,1\n0001,0\n",
         "1 training ids are missing and 0 unknown ones are there (first: 0002); correct it, or choose folds=auto"),
        ("id,fold\n0000,1\n0001,0\n0002,x\n",
         "column 'fold' holds 'x', no whole number; correct it, or choose folds=auto"),
        ("id,fold\n0000,1\n0001,0\n0002,1e30\n",
         "column 'fold' holds '1e30', no whole number; correct it, or choose folds=auto"),
        ("id,fold\n0000,1\n0001,0\n0002,\n",
         "column 'fold' is empty in 1 of 3 rows (first: line 4); fill or remove them"),
        ("id,fold\n0000,1\n0001,1\n0002,1\n", "all rows are in one fold; give two folds or more"),
    ],
)  # fmt: skip
def test_folds_that_the_user_brought(config, tmp_path, csv, expected):
    path = tmp_path / "mine.csv"
    path.write_text(csv)
    config, table = replace(config, folds=str(path)), table_of([0, 1, 0])
    if isinstance(expected, list):
        assert load_folds(config, table).tolist() == expected
    else:
        assert refusal(load_folds, config, table) == f"{path}: {expected}"


def test_the_metric_of_the_config_decides_what_a_fold_must_hold(config):
    table, config = table_of([0, 1, 0, 1, 0, 1]), replace(config, num_folds=5)
    metric = build_metric("roc_auc", "binary")
    line = refusal(check_folds, table, load_folds(config, table, keep=False), metric, config)
    assert line.endswith("has no positive in validation (3 in all); set num_folds=3")
    config = replace(config, competition=replace(config.competition, metric="accuracy"))
    assert np.unique(load_folds(config, table)).tolist() == [0, 1, 2, 3, 4]


def test_weights_for_other_columns_are_refused(config):
    competition = replace(config.competition, metric_kwargs={"weights": [1, 2, 3]})
    assert refusal(load_folds, replace(config, competition=competition), table_of([0, 1] * 4)) == (
        "competition.metric_kwargs.weights: 3 weights for 1 columns (a); give one for each"
    )


def test_a_missing_file_of_folds_is_said_in_its_own_words(config):
    assert refusal(load_folds, replace(config, folds="mine.csv"), table_of([0, 1, 0])) == (
        "mine.csv: no such file; set folds=FILE with the columns id and fold, or folds=auto"
    )


def spread_of_means(folds, values):
    return np.std([values[folds == fold].mean() for fold in range(5)])


@pytest.mark.parametrize("size", [1, 4])
def test_folds_of_regression_agree_in_their_means_and_keep_groups(size):
    rng, count = np.random.default_rng(0), 400
    values = np.repeat(rng.lognormal(size=count // size), size) + 0.1 * rng.random(count)
    groups = None if size == 1 else np.arange(count) // size
    table = replace(table_of(values, groups), task="regression")
    metric = build_metric("rmse", "regression")
    folds = make_folds(table, "auto", 5, 1, metric)
    check_folds(table, folds, metric)
    by_chance = SPLITS["kfold" if groups is None else "group"]
    others = [spread_of_means(by_chance(table, 5, seed), values) for seed in range(20)]
    assert spread_of_means(folds, values) < np.quantile(others, 0.25)
    assert np.bincount(folds).tolist() == pytest.approx([80] * 5, abs=size)
    shown = describe_folds(table, folds)
    assert shown["a"].tolist() == pytest.approx([values[folds == fold].mean() for fold in range(5)], rel=1e-6)


def test_several_columns_of_regression_are_split_by_what_they_have_in_common():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(300, 1))
    table = replace(table_of(np.hstack([common, -common]) * [1, 100] + 5), task="regression")
    folds = make_folds(table, "auto", 5, 1, build_metric("mae", "regression"))
    others = [spread_of_means(SPLITS["kfold"](table, 5, seed), common) for seed in range(20)]
    assert spread_of_means(folds, common) < np.quantile(others, 0.25)


def test_a_metric_that_a_fold_of_regression_cannot_have_is_refused():
    table = replace(table_of([1, 1, 2, 3, 4, 5], folds=[0, 0, 1, 1, 1, 1]), task="regression")
    found = refusal(check_folds, table, table.folds, build_metric("r2", "regression"), Config(folds="column"))
    assert found == (
        "fold 0: r2 is not defined on its 2 validation rows; give each fold such rows in competition.fold, or set "
        "competition.metric=rmse, which needs none"
    )
    check_folds(table, table.folds, build_metric("rmse", "regression"))
