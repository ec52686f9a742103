"""Every kind of run has its page: numbers as scikit-learn has them, nothing from elsewhere, no nan."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn import metrics

from tests.tools.report.conftest import draw_probs, write_log
from tools.report.page import build_page

BINARY = "competition.task=binary"


class Page(HTMLParser):
    """The text, tags and addresses of a page; what a browser would load from elsewhere fails."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.tags, self._skipped = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skipped += tag in ("style", "script")
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith(("data:", "#")), (tag, name, value)

    def handle_endtag(self, tag):
        self._skipped -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._skipped:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def check(html):
    """Return the page's text, after checking what holds of every page."""
    page = Page(html)
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    assert not re.search(r"\b(nan|inf|None|NaN)\b", page.text)
    assert len(html) < 5_000_000
    assert [tag for tag, _ in page.tags].count("script") == 1  # the template's own
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    places = [attrs["href"][1:] for tag, attrs in page.tags if tag == "a"]
    assert set(places) <= set(ids)
    return page.text


def draw_targets(kind, count=200, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "multiclass":
        return np.eye(4)[rng.permutation(np.arange(count) % 4)]
    return (rng.random((count, 3 if kind == "multilabel" else 1)) < 0.4).astype(float)


def test_binary(write_run, report):
    targets = draw_targets("binary")
    probs = draw_probs(targets)
    html, facts = report(write_run(targets, probs, BINARY, test=probs[:50]))
    text = check(html)
    auc = metrics.roc_auc_score(targets[:, 0], probs[:, 0])
    assert facts["score"] == pytest.approx(auc)
    assert facts["columns"]["c0"]["auc"] == pytest.approx(auc)
    expected = metrics.average_precision_score(targets[:, 0], probs[:, 0])
    assert facts["columns"]["c0"]["average_precision"] == pytest.approx(expected)
    tn, fp, fn, tp = metrics.confusion_matrix(targets[:, 0], probs[:, 0] >= 0.5).ravel().tolist()
    found = facts["confusion"]["c0"]
    assert [found[key] for key in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]
    for shown in (f"{auc:.5f}", f"{expected:.5f}", "a public leaderboard of 90 rows (30 %)".capitalize()[1:]):
        assert shown in text
    low, high = facts["interval"]
    assert f"95 % {low:.5f} to {high:.5f}" in text
    assert facts["command"] == facts["advice"][0]["command"]  # there are test predictions
    for word in ("roc_auc Area under the ROC curve: how often a positive", "fold One part of", "epoch One pass over"):
        assert word in text


def test_multiclass(write_run, report):
    targets = draw_targets("multiclass")
    probs = draw_probs(targets)
    probs /= probs.sum(axis=1, keepdims=True)
    words = ("competition.task=multiclass", "competition.metric=accuracy")
    html, facts = report(write_run(targets, probs, *words, names=["cat", "dog", "fish", "bird"]))
    text = check(html)
    accuracy = metrics.accuracy_score(targets.argmax(axis=1), probs.argmax(axis=1))
    assert facts["confusion"]["correct"] / facts["confusion"]["rows"] == pytest.approx(accuracy)
    expected = metrics.confusion_matrix(targets.argmax(axis=1), probs.argmax(axis=1))
    assert facts["confusion"]["table"] == expected.tolist()
    assert facts["confusion"]["pairs"][0]["rows"] == (expected - np.diag(np.diag(expected))).max()
    for name, truth, values in zip(("cat", "dog", "fish", "bird"), targets.T, probs.T, strict=True):
        assert facts["columns"][name]["auc"] == pytest.approx(metrics.roc_auc_score(truth, values))
    assert f"{facts['confusion']['correct']} of 200 rows are right" in text
    assert facts["command"].startswith("python infer.py run=")


def test_multilabel_with_missing_labels_and_a_column_without_positives(write_run, report):
    targets = draw_targets("multilabel")
    targets[::7, 0], targets[:, 2] = np.nan, 0
    probs = draw_probs(targets)
    html, facts = report(write_run(targets, probs, "competition.task=multilabel"))
    text = check(html)
    known = ~np.isnan(targets[:, 0])
    assert facts["columns"]["c0"]["auc"] == pytest.approx(metrics.roc_auc_score(targets[known, 0], probs[known, 0]))
    assert facts["columns"]["c0"]["positives"] == int((targets[known, 0] == 1).sum())
    assert facts["columns"]["c2"]["auc"] is None
    assert "Without a positive and a negative there is no curve: c2." in text
    assert "no score, and no part in the mean, has: c2" in text.replace("No", "no")


def test_regression(write_run, report):
    rng = np.random.default_rng(0)
    targets = rng.normal(5, 2, (150, 1))
    values = targets + rng.normal(0, 0.5, targets.shape)
    words = ("competition.task=regression", "competition.metric=rmse")
    html, facts = report(write_run(targets, values, *words, names=["age"]))
    text = check(html)
    rmse = metrics.root_mean_squared_error(targets, values)
    assert facts["score"] == pytest.approx(rmse)
    assert facts["residuals"]["age"]["rmse"] == pytest.approx(rmse)
    assert facts["residuals"]["age"]["mae"] == pytest.approx(metrics.mean_absolute_error(targets, values))
    assert "columns" not in facts
    assert "Predicted and true" in text


def test_grades(write_run, report):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, (150, 1)).astype(float)
    values = targets + rng.normal(0, 0.4, targets.shape)
    words = ("competition.task=regression", "competition.metric=quadratic_kappa")
    html, facts = report(write_run(targets, values, *words, names=["grade"]))
    check(html)
    assert np.sum(facts["confusion"]["table"]) == 150
    assert np.sum(facts["confusion"]["table"], axis=1).tolist() == np.bincount(targets[:, 0].astype(int)).tolist()


def test_groups_make_wider_intervals_and_are_said(write_run, report):
    targets = np.repeat(draw_targets("binary", 40), 5, axis=0)
    probs = np.repeat(draw_probs(targets[::5]), 5, axis=0)
    groups = [f"p{row // 5}" for row in range(200)]
    html, facts = report(write_run(targets, probs, BINARY, "competition.group=patient", groups=groups))
    text = check(html)
    _, alone = build_page(write_run(targets, probs, BINARY, run="outputs/alone"))
    assert np.diff(facts["interval"])[0] > 1.5 * np.diff(alone["interval"])[0]
    assert "bootstrap samples of groups" in text


def test_blend(write_run, report):
    targets = draw_targets("binary")
    command = "python -m tools.blend outputs/a outputs/b name=both"
    html, facts = report(write_run(targets, draw_probs(targets), BINARY, blend=command))
    text = check(html)
    assert facts["kind"] == "blend"
    assert command in text
    assert "curves" not in facts
    assert "Training" not in text.replace("Training and", "")


def test_fold_all_alone_has_no_score(write_run, report):
    targets = draw_targets("binary")
    folder = write_run(targets, draw_probs(targets), BINARY)
    for name in ("oof.csv", "scores.json"):
        (folder / name).unlink()
    for fold in range(5):
        for path in (folder / f"fold{fold}").iterdir():
            path.unlink()
        (folder / f"fold{fold}").rmdir()
    write_log(folder, ["all"], {}, ["c0"])
    html, facts = report(folder)
    text = check(html)
    assert facts["score"] is None
    assert "trained on every row (fold=all), so no rows are left to score it on" in text
    assert facts["curves"]["all"]["epoch"] == [1, 2, 3]


def test_one_fold_of_five(write_run, report):
    targets = draw_targets("binary")
    folds = np.where(np.arange(200) % 5 == 2, 2, -1)
    folder = write_run(targets, draw_probs(targets), BINARY, folds=folds)
    (folder / "folds.csv").write_text("id,fold\n" + "\n".join(f"{row:05d},{row % 5}" for row in range(200)) + "\n")
    html, facts = report(folder)
    text = check(html)
    assert list(facts["folds"]) == ["2"]
    assert "One fold of 5 is trained" in text


def test_unfinished_without_scores(write_run, report):
    targets = draw_targets("binary")
    folder = write_run(targets, draw_probs(targets), BINARY)
    for name in ("oof.csv", "scores.json", *(f"fold{fold}/meta.json" for fold in range(5))):
        (folder / name).unlink()
    html, facts = report(folder)
    text = check(html)
    assert "No fold is finished (3 epochs done); the same command resumes it." in text
    assert facts["command"] == "python train.py name=made"


def test_without_an_epoch_there_is_one_line(write_run, report, capsys):
    targets = draw_targets("binary")
    folder = write_run(targets, draw_probs(targets), BINARY, blend="none")
    for name in ("oof.csv", "scores.json", "blend.json"):
        (folder / name).unlink()
    with pytest.raises(SystemExit, match="2"):
        report(folder)
    complained = capsys.readouterr().err
    assert complained == (
        f"error: {folder}: no epoch is finished, so there is nothing to report; train it: python train.py and its "
        "words\n"
    )
    assert not (folder / "report.html").exists()


NAMES = ["<script>alert(1)</script>", "$x^2$ & co", "고양이", "a\"b'c_d{e}"]


def test_odd_names_are_text(write_run, report):
    targets = draw_targets("multiclass")
    probs = draw_probs(targets)
    words = ("competition.task=multiclass", f"competition.id={NAMES[0]}")
    html, facts = report(write_run(targets, probs, *words, names=NAMES))
    text = check(html)
    for name in NAMES:
        assert name in text
    assert list(facts["columns"]) == NAMES


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_constant_predictions(write_run, report, kind):
    targets = draw_targets(kind)
    probs = np.full(targets.shape, 1 / targets.shape[1] if kind == "multiclass" else 0.5)
    words = [f"competition.task={kind}", f"competition.metric={'rmse' if kind == 'regression' else 'log_loss'}"]
    html, facts = report(write_run(targets, probs, *words))
    check(html)
    assert all(one["auc"] == 0.5 for one in facts.get("columns", {}).values())


def test_a_row_or_two(write_run, report):
    html, _ = report(write_run([[0.0], [1.0], [1.0]], [[0.2], [0.7], [0.4]], BINARY, folds=[0, 0, 0]))
    check(html)


@pytest.mark.nightly
def test_a_thousand_classes_on_a_page_in_seconds(write_run, report):
    rng = np.random.default_rng(0)
    truth = np.arange(3000) % 1000
    probs = rng.random((3000, 1000)) ** 8
    probs[np.arange(3000), truth] += rng.random(3000)
    probs /= probs.sum(axis=1, keepdims=True)
    words = ("competition.task=multiclass", "competition.metric=accuracy")
    html, facts = report(write_run(np.eye(1000)[truth], probs, *words))
    text = check(html)
    assert len(html) < 600_000
    assert len(facts["columns"]) == 1000
    assert "The 40 of 1,000 columns with the lowest AUC" in text
