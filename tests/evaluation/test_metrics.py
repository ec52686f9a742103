"""Every metric against scikit-learn or a hand-computed value; what is undefined is nan, and nan is never better."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from src.errors import UserError
from src.evaluation.metrics import METRICS, Metric, build_metric, count_below, log_loss, positives

TASKS = ("binary", "multiclass", "multilabel")
RNG = np.random.default_rng(0)
LABELS, YES, SEVERAL = RNG.integers(0, 4, 90), RNG.integers(0, 2, 90), RNG.integers(0, 2, (90, 3))
TARGETS = {"binary": YES[:, None], "multiclass": np.eye(4)[LABELS], "multilabel": SEVERAL}
PROBS = {
    "binary": RNG.random((90, 1)),
    "multiclass": RNG.dirichlet(np.ones(4), 90),
    "multilabel": (RNG.random((90, 3)) + 0.5 * SEVERAL) / 1.5,
}
TRUE = {"binary": YES, "multiclass": LABELS, "multilabel": SEVERAL}  # as scikit-learn takes them
PREDICTED = {
    "binary": (PROBS["binary"][:, 0] >= 0.5).astype(int),
    "multiclass": PROBS["multiclass"].argmax(axis=1),
    "multilabel": (PROBS["multilabel"] >= 0.5).astype(int),
}


def columns(function, targets, probs):
    return np.array([function(*column) for column in zip(targets.T, probs.T, strict=True)])


def isic_2024(solution, submission, min_tpr=0.80):
    """The host's own code, but for its checks of the tables."""
    v_gt = abs(np.asarray(solution) - 1)
    v_pred = np.array([1.0 - x for x in submission])
    max_fpr = abs(1 - min_tpr)
    partial_auc_scaled = metrics.roc_auc_score(v_gt, v_pred, max_fpr=max_fpr)
    return 0.5 * max_fpr**2 + (max_fpr - 0.5 * max_fpr**2) / (1.0 - 0.5) * (partial_auc_scaled - 0.5)


def best_f1(truth, probs):
    return max(metrics.f1_score(truth, probs >= threshold) for threshold in np.unique(probs))


def mean_over(function):
    """A metric that scikit-learn has for labels alone: multilabel as the mean over columns."""
    return lambda truth, predicted: (
        function(truth, predicted) if truth.ndim == 1 else columns(function, truth, predicted).mean()
    )


def kappa(truth, predicted):
    return metrics.cohen_kappa_score(truth, predicted, weights="quadratic")


def rsna_2022(truth, probs):
    """The host's code in other words: precision and recall of probabilities, then their harmonic mean."""
    hits, alarms = probs[truth == 1].sum(), probs[truth == 0].sum()
    precision, recall = hits / (hits + alarms), hits / truth.sum()
    return 2 * precision * recall / (precision + recall)


BY_LABELS = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": mean_over(metrics.balanced_accuracy_score),
    "f1_macro": lambda truth, predicted: metrics.f1_score(truth, predicted, average="macro"),
    "f1_micro": lambda truth, predicted: metrics.f1_score(truth, predicted, average="micro"),
    "quadratic_kappa": mean_over(kappa),
    "fbeta_samples": lambda truth, predicted: (
        metrics.accuracy_score(truth, predicted)
        if truth.ndim == 1
        else metrics.f1_score(truth, predicted, average="samples", zero_division=1)
    ),
}
BY_COLUMNS = {
    "roc_auc": metrics.roc_auc_score,
    "average_precision": metrics.average_precision_score,
    "partial_auc": isic_2024,
    "f1_best": best_f1,
    "f1_probabilistic": lambda truth, probs: rsna_2022(truth, probs),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", BY_LABELS)
def test_metrics_of_hard_predictions_are_scikit_learns(name, task):
    expected = BY_LABELS[name](TRUE[task], PREDICTED[task])
    assert build_metric(name, task).score(TARGETS[task], PROBS[task]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", BY_COLUMNS)
def test_metrics_of_columns_are_scikit_learns_one_against_the_rest(name, task):
    metric, tolerance = build_metric(name, task), 1e-9 if name == "partial_auc" else 1e-12
    expected = columns(BY_COLUMNS[name], TARGETS[task], PROBS[task])
    np.testing.assert_allclose(metric.score_columns(TARGETS[task], PROBS[task]), expected, rtol=0, atol=tolerance)
    assert metric.score(TARGETS[task], PROBS[task]) == pytest.approx(expected.mean(), abs=tolerance)
    weights = [3, 0, 1.5, 2][: len(expected)]
    weighted = build_metric(name, task, weights=weights).score(TARGETS[task], PROBS[task])
    assert weighted == pytest.approx(np.average(expected, weights=weights), abs=tolerance)


def test_macro_auc_is_scikit_learns():
    expected = metrics.roc_auc_score(LABELS, PROBS["multiclass"], multi_class="ovr")
    score = build_metric("roc_auc", "multiclass").score(TARGETS["multiclass"], PROBS["multiclass"])
    assert score == pytest.approx(expected, abs=1e-12)


def test_auc_of_four_rows_by_hand():
    targets, probs = np.array([[0], [0], [1], [1]]), np.array([[0.1], [0.4], [0.35], [0.8]])
    assert build_metric("roc_auc", "binary").score(targets, probs) == 0.75  # 3 of the 4 pairs are in order


def test_rows_have_an_f2_of_their_own_by_hand():
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    probs = np.array([[0.9, 0.2, 0.7], [0.1, 0.9, 0.1], [0.1, 0.1, 0.1]])
    # one of two found beside a false one: 5 * 1 / (4 * 2 + 2); all; none of none
    assert build_metric("fbeta_samples", "multilabel", beta=2).score(labels, probs) == pytest.approx((0.5 + 1 + 1) / 3)


def test_probabilistic_f1_by_hand():
    targets, probs = np.array([[1], [1], [0]]), np.array([[0.9], [0.3], [0.2]])
    # precision 1.2 / 1.4, recall 1.2 / 2
    assert build_metric("f1_probabilistic", "binary").score(targets, probs) == pytest.approx(2 * 1.2 / (1.4 + 2))
    assert build_metric("f1_probabilistic", "binary").score(targets, 0 * probs) == 0


@pytest.mark.parametrize("min_tpr", [0, 0.5, 0.8, 0.95])
def test_partial_auc_is_the_hosts(min_tpr):
    metric = build_metric("partial_auc", "binary", min_tpr=min_tpr)
    assert metric.score(YES[:, None], PROBS["binary"]) == pytest.approx(
        isic_2024(YES, PROBS["binary"][:, 0], min_tpr), abs=1e-9
    )
    assert metric.score(YES[:, None], YES[:, None]) == pytest.approx(1 - min_tpr, abs=1e-9)
    small = (PROBS["binary"] * 1e-9).astype(np.float32)  # 1 - p would be 1 for all of them
    assert metric.score(YES[:, None], small) == pytest.approx(metric.score(YES[:, None], PROBS["binary"]), abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_log_loss_and_rmse_are_scikit_learns(task):
    targets, probs, expected = TARGETS[task], PROBS[task], metrics.log_loss(LABELS, PROBS["multiclass"])
    if task != "multiclass":
        expected = columns(metrics.log_loss, targets, probs).mean()
    assert build_metric("log_loss", task).score(targets, probs) == pytest.approx(expected, abs=1e-12)
    assert log_loss(targets, probs, task) == pytest.approx(expected, abs=1e-12)
    expected = metrics.root_mean_squared_error(targets, probs)
    assert build_metric("rmse", task).score(targets, probs) == pytest.approx(expected, abs=1e-12)


def test_weighted_columns_of_log_loss_are_rsna_2019s():
    """ "any" counts twice: the host's weighted multi-label log loss, the mean of all values with its sample weights."""
    weights, targets, probs = [2, 1, 1], TARGETS["multilabel"], PROBS["multilabel"]
    host = np.average([metrics.log_loss(*one) for one in zip(targets.T, probs.T, strict=True)], weights=weights)
    flat = metrics.log_loss(targets.ravel(), probs.ravel(), sample_weight=np.tile(weights, len(targets)))
    metric = build_metric("log_loss", "multilabel", weights=weights)
    assert metric.score(targets, probs) == pytest.approx(host, abs=1e-12)
    assert metric.score(targets, probs) == pytest.approx(flat, abs=1e-12)
    gaps = targets.astype(float)
    gaps[::3, 0] = np.nan
    known = ~np.isnan(gaps)
    flat = metrics.log_loss(targets[known], probs[known], sample_weight=np.broadcast_to(weights, known.shape)[known])
    assert metric.score(gaps, probs) == pytest.approx(flat, abs=1e-12)


def test_weighted_classes_of_log_loss_are_rsna_2024s():
    """normal 1, moderate 2, severe 4: scikit-learn's log loss with the weight of each row's class."""
    weights = [1, 2, 4, 0.5]
    expected = metrics.log_loss(LABELS, PROBS["multiclass"], sample_weight=np.array(weights)[LABELS])
    metric = build_metric("log_loss", "multiclass", weights=weights)
    assert metric.score(TARGETS["multiclass"], PROBS["multiclass"]) == pytest.approx(expected, abs=1e-12)
    assert metric.weights == weights
    soft = np.array([[0.5, 0.5, 0, 0], [0, 0, 1, 0]])
    found = metric.score(soft, np.full((2, 4), 0.25))
    assert found == pytest.approx(math.log(4), abs=1e-12)


def test_weighted_columns_of_rmse_are_a_weighted_mean():
    targets, probs, weights = TARGETS["multilabel"], PROBS["multilabel"], [3, 0, 1.5]
    each = columns(metrics.root_mean_squared_error, targets, probs)
    found = build_metric("rmse", "multilabel", weights=weights).score(targets, probs)
    assert found == pytest.approx(np.average(each, weights=weights), abs=1e-12)


def test_weighted_multilabel_auc_is_rsna_2025s():
    """The host's: 13 sites count once, "Aneurysm Present" as much as all of them together."""
    rng = np.random.default_rng(3)
    targets, probs = rng.integers(0, 2, (200, 14)), np.round(rng.random((200, 14)), 2)
    each = columns(metrics.roc_auc_score, targets, probs)
    expected = 0.5 * (each[13] + each[:13].mean())
    found = build_metric("roc_auc", "multilabel", weights=[1] * 13 + [13]).score(targets, probs)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("task", TASKS)
def test_ties_change_no_metric(task, seed):
    """Probabilities of one decimal, and rare labels, against scikit-learn."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        truth = np.append(rng.integers(0, 3, 40), [0, 1, 2])
        targets, probs = np.eye(3)[truth], np.round(rng.dirichlet(np.ones(3), 43), 1)
        predicted = probs.argmax(axis=1)
    else:
        targets = np.vstack([rng.random((41, 1 if task == "binary" else 4)) < 0.2, np.ones((1, 1)) if task == "binary"
                             else np.ones((1, 4)), np.zeros((1, 1 if task == "binary" else 4))])  # fmt: skip
        probs = np.round(rng.random(targets.shape), 1)
        truth, predicted = targets.astype(int), (probs >= 0.5).astype(int)
        if task == "binary":
            truth, predicted = truth[:, 0], predicted[:, 0]
    for name, function in BY_COLUMNS.items():
        expected = columns(function, targets, probs).mean()
        assert build_metric(name, task).score(targets, probs) == pytest.approx(
            expected, abs=1e-9 if "partial" in name else 1e-12
        )
    for name, function in BY_LABELS.items():
        assert build_metric(name, task).score(targets, probs) == pytest.approx(function(truth, predicted), abs=1e-12)


def test_every_metric_is_checked_here():
    assert set(METRICS) == {*BY_LABELS, *BY_COLUMNS, "log_loss", "rmse", "mae", "r2", "spearman"}


def test_log_loss_and_rmse_know_soft_targets():
    targets, probs = np.array([[0.25], [1.0]]), np.array([[0.5], [0.5]], dtype=np.float32)
    assert build_metric("log_loss", "binary").score(targets, probs) == pytest.approx(math.log(2))
    assert build_metric("rmse", "binary").score(targets, probs) == pytest.approx(math.sqrt((0.0625 + 0.25) / 2))


def test_a_class_that_the_rows_lack_keeps_its_distance_in_kappa():
    targets, probs = np.eye(5)[[0, 4, 4, 0, 1]], np.eye(5)[[0, 4, 0, 0, 1]]
    expected = metrics.cohen_kappa_score([0, 4, 4, 0, 1], [0, 4, 0, 0, 1], labels=range(5), weights="quadratic")
    assert build_metric("quadratic_kappa", "multiclass").score(targets, probs) == pytest.approx(expected, abs=1e-12)


def test_a_column_without_a_score_is_left_out_of_the_mean():
    targets = np.array([[0, 1], [1, 1], [0, 1]])
    probs = np.array([[0.1, 0.5], [0.9, 0.5], [0.2, 0.5]])
    for name in BY_COLUMNS:
        metric = build_metric(name, "multilabel")
        scores = metric.score_columns(targets, probs)
        assert np.isnan(scores).tolist() == [False, True]
        assert metric.score(targets, probs) == scores[0]
        assert build_metric(name, "multilabel", weights=[1, 3]).score(targets, probs) == scores[0]
        assert np.isnan(build_metric(name, "multilabel", weights=[0, 3]).score(targets, probs))
        assert np.isnan(metric.score(targets[:, 1:], probs[:, 1:]))
    f1 = build_metric("f1_macro", "multilabel")
    assert f1.score(np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.1], [0.1, 0.2]])) == 1


def test_only_columns_have_scores_of_their_own():
    assert np.isnan(build_metric("accuracy", "multiclass").score_columns(np.eye(3), np.eye(3))).all()
    assert np.isnan(build_metric("quadratic_kappa", "multiclass").score_columns(np.eye(3), np.eye(3))).all()
    assert build_metric("balanced_accuracy", "multilabel").score_columns(SEVERAL, SEVERAL).tolist() == [1, 1, 1]
    assert build_metric("accuracy", "binary").score_columns(YES[:, None], YES[:, None]).tolist() == [1]


def test_soft_targets_are_hard_alike_everywhere():
    targets = np.array([[0.4, 0.3, 0.3], [0.2, 0.3, 0.5]])
    assert positives(targets, True).tolist() == [[True, False, False], [False, False, True]]
    assert positives(targets, False).tolist() == [[False] * 3, [False, False, True]]
    assert positives(np.array([[0.5], [0.4]]), True).tolist() == [[True], [False]]
    assert build_metric("accuracy", "multiclass").score(targets, np.eye(3)[[0, 2]]) == 1
    assert build_metric("roc_auc", "multiclass").score_columns(targets, np.eye(3)[[0, 2]])[0] == 1


@pytest.mark.parametrize("name", [*BY_LABELS, *BY_COLUMNS, "log_loss", "rmse"])
@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_prediction_is_best_and_the_direction_is_right(name, task):
    metric = build_metric(name, task)
    worst = -math.inf if metric.greater_is_better else math.inf
    perfect, plain = metric.score(TARGETS[task], TARGETS[task]), metric.score(TARGETS[task], PROBS[task])
    assert metric.is_better(perfect, plain)
    assert not metric.is_better(plain, perfect)
    assert metric.is_better(plain, worst)
    assert not metric.is_better(plain, plain)
    assert not metric.is_better(math.nan, worst)
    assert not metric.is_better(math.nan, math.nan)
    assert metric.is_better(plain, math.nan)
    assert metric.fold_needs in ("both", "rows")


@pytest.mark.parametrize(
    ("name", "task", "kwargs", "expected"),
    [
        ("partial_auc", "binary", {"min_trp": 0.8}, "partial_auc has no min_trp (it has min_tpr, weights)"),
        ("partial_auc", "binary", {"min_tpr": 1.0}, "competition.metric_kwargs.min_tpr=1.0: must be "),
        ("partial_auc", "binary", {"min_tpr": "high"}, "competition.metric_kwargs.min_tpr=high: must be a number"),
        ("roc_auc", "multilabel", {"weights": 3}, "competition.metric_kwargs.weights=3: must be a list"),
        ("roc_auc", "multilabel", {"weights": [1, -1]}, "must be numbers of 0 or more, not all of them 0"),
        ("roc_auc", "multilabel", {"weights": [0, 0]}, "must be numbers of 0 or more, not all of them 0"),
        ("roc_auc", "multilabel", {"weights": [1, "x"]}, "must be numbers of 0 or more, not all of them 0"),
        ("accuracy", "multilabel", {"weights": [1, 1]}, "accuracy has no weights"),
        ("quadratic_kappa", "multiclass", {"weights": [1, 1]}, "quadratic_kappa has no weights"),
        ("log_loss", "binary", {"task": "multiclass"}, "log_loss has no task"),
        ("log_loss", "multiclass", {"weights": [1, -1]}, "must be numbers of 0 or more, not all of them 0"),
        ("rmse", "multilabel", {"weights": 2}, "competition.metric_kwargs.weights=2: must be a list"),
    ],
)
def test_wrong_keywords_are_refused(name, task, kwargs, expected):
    with pytest.raises(UserError) as caught:
        build_metric(name, task, **kwargs)
    assert "competition.metric_kwargs" in str(caught.value)
    assert expected in str(caught.value)


def hit_rate(targets, probs, threshold=0.5):
    return float(((probs >= threshold) == targets).mean())


def test_a_metric_of_ones_own_is_a_function_and_an_entry(monkeypatch):
    monkeypatch.setitem(METRICS, "hit_rate", Metric(hit_rate))
    metric = build_metric("hit_rate", "multilabel", threshold=0.9)
    assert metric.score(SEVERAL, PROBS["multilabel"]) == ((PROBS["multilabel"] >= 0.9) == SEVERAL).mean()


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "balanced_accuracy", "log_loss", "rmse", "f1_macro",
                                  "f1_micro", "accuracy"])  # fmt: skip
def test_a_target_that_is_nan_does_not_count(name):
    metric, targets, probs = build_metric(name, "multilabel"), SEVERAL.astype(float), PROBS["multilabel"]
    gaps = targets.copy()
    gaps[::3, 1] = gaps[1::5, 0] = np.nan
    gaps[7] = np.nan  # a row without any answer
    found, known = metric.score(gaps, probs), ~np.isnan(gaps)
    by_column = [(targets[known[:, one], one], probs[known[:, one], one]) for one in range(3)]
    if name in ("roc_auc", "average_precision", "balanced_accuracy", "rmse"):
        single = build_metric(name, "multilabel")  # of one column
        expected = np.mean([single.score(truth[:, None], values[:, None]) for truth, values in by_column])
    elif name == "f1_macro":
        expected = np.mean([metrics.f1_score(truth, values >= 0.5) for truth, values in by_column])
    elif name == "log_loss":
        expected = metrics.log_loss(*(np.concatenate(part) for part in zip(*by_column, strict=True)))
    elif name == "f1_micro":
        truth, values = (np.concatenate(part) for part in zip(*by_column, strict=True))
        expected = metrics.f1_score(truth, values >= 0.5)
    else:  # a row is right where each known answer is
        is_right = ((probs >= 0.5) == (targets > 0)) | ~known
        expected = is_right.all(axis=1)[known.any(axis=1)].mean()
    assert found == pytest.approx(expected)
    probs = np.where(known, probs, 1 - probs)  # what is predicted for them does not matter
    assert metric.score(gaps, probs) == found


VALUES = 100 + 20 * RNG.normal(size=(90, 2)).cumsum(axis=1)
GUESSES = VALUES + 10 * RNG.normal(size=(90, 2))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("rmse", metrics.root_mean_squared_error),
        ("mae", metrics.mean_absolute_error),
        ("r2", metrics.r2_score),
        ("spearman", lambda truth, guess: stats.spearmanr(truth, guess).statistic),
        ("accuracy", lambda truth, guess: metrics.accuracy_score(np.rint(truth), np.rint(guess))),
        (
            "quadratic_kappa",
            lambda truth, guess: metrics.cohen_kappa_score(np.rint(truth), np.rint(guess), weights="quadratic"),
        ),
    ],
)
def test_metrics_of_values_are_scikit_learns_column_by_column(name, reference):
    truth, guess = VALUES, GUESSES
    if METRICS[name].takes == "classes":  # grades from -2 to 2
        truth, guess = np.clip(np.rint((VALUES - 100) / 20), -2, 2), np.clip((GUESSES - 100) / 20, -2, 2)
    metric = build_metric(name, "regression")
    expected = columns(reference, truth, guess)
    np.testing.assert_allclose(metric.score_columns(truth, guess), expected, atol=1e-12, rtol=0)
    assert metric.score(truth, guess) == pytest.approx(expected.mean(), abs=1e-12)
    weighted = build_metric(name, "regression", weights=[3, 1]).score(truth, guess)
    assert weighted == pytest.approx(expected @ [0.75, 0.25], abs=1e-12)
    gaps = np.where(np.arange(90)[:, None] < [30, 0], np.nan, truth)
    expected = [reference(truth[30:, 0], guess[30:, 0]), expected[1]]
    np.testing.assert_allclose(metric.score_columns(gaps, guess), expected, atol=1e-12, rtol=0)


def test_predictions_beyond_the_grades_count_as_the_outermost_ones():
    truth, guess = np.array([[0.0], [1], [2], [3]]), np.array([[-1.7], [1.4], [1.6], [9.0]])
    assert build_metric("quadratic_kappa", "regression").score(truth, guess) == 1


def test_values_of_one_kind_have_no_r2_and_no_rank_correlation():
    same = np.ones((4, 1))
    assert math.isnan(build_metric("r2", "regression").score(same, same))
    assert math.isnan(build_metric("spearman", "regression").score(np.arange(4.0)[:, None], same))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.takes == "probs"])
def test_metrics_of_probabilities_are_refused_for_values(name):
    with pytest.raises(UserError) as caught:
        build_metric(name, "regression")
    expected = f"competition.metric={name}: scores classes, a regression task has values; set it to rmse"
    assert str(caught.value) == expected


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_rows_below_are_counted_pair_by_pair(share):
    rng = np.random.default_rng(0)
    positive, probs = rng.random(200) < share, rng.integers(10, size=200).astype(np.float32)  # many are equal
    high, low = probs[positive][:, None], probs[~positive]
    pairs = (high > low) + 0.5 * (high == low)
    of_positives, of_negatives = count_below(positive, probs)
    assert np.array_equal(of_positives, pairs.sum(axis=1))
    assert np.array_equal(of_negatives, (1 - pairs).sum(axis=0))


@pytest.mark.parametrize("name", [name for name, one in METRICS.items() if one.takes != "values"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_no_known_row_is_no_score_and_a_prediction_of_nan_is_a_broken_invariant(name, task):
    metric, shape = build_metric(name, task), (4, 1 if task == "binary" else 3)
    assert np.isnan(metric.score(np.full(shape, np.nan), np.full(shape, 0.5)))
    targets = np.zeros(shape)
    targets[:2, 0] = 1
    with pytest.raises(AssertionError, match="nan would count"):
        metric.score(targets, np.where(targets == 1, np.nan, 0.5))


def test_a_prediction_of_nan_where_the_target_is_unknown_does_not_count():
    metric, targets = build_metric("log_loss", "multilabel"), np.array([[1, np.nan], [0, 1]])
    assert metric.score(targets, targets) == pytest.approx(0, abs=1e-6)
