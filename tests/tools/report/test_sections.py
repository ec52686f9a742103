"""Metadata, groups, shift and images of a page, and the page that compares runs, against numbers found otherwise."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from sklearn import metrics

from src.evaluation.metrics import build_metric
from src.evaluation.sampling import sample_scores
from tests.tools.report.conftest import draw_probs
from tests.tools.report.test_kinds import check
from tools.report.page import build_page

COUNT = 240


@pytest.fixture
def targets():
    return (np.random.default_rng(0).random((COUNT, 1)) < 0.4).astype(float)


@pytest.fixture
def competition(tmp_path, targets):
    """The words of a competition whose table has a few columns, with an image a row."""
    rng, root = np.random.default_rng(1), tmp_path / "data"
    (root / "train").mkdir(parents=True)
    ids = [f"{row:05d}" for row in range(COUNT)]
    for name in ids:
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(root / f"train/{name}.png")
    table = {"id": ids, "c0": targets[:, 0].astype(int), "sex": np.where(np.arange(COUNT) % 3, "f", "<m>")}
    table |= {"age": np.arange(COUNT) % 90, "site": ["rare" if row < 8 else "usual" for row in range(COUNT)]}
    pd.DataFrame(table).to_csv(root / "train.csv", index=False)
    own = {
        "root": root,
        "train_table": "train.csv",
        "train_image": "train/{id}.png",
        "label": "null",
        "targets": "[c0]",
    }
    own |= {"name": "made", "task": "binary", "classes": "[]", "sample_submission": "null", "test_table": "null"}
    return [f"competition.{key}={value}" for key, value in (own | {"solution": "null", "channels": 3}).items()]


def test_the_score_within_each_category_has_its_rows_and_interval(write_run, report, competition, targets):
    probs = draw_probs(targets, gain=0.7)
    html, facts = report(write_run(targets, probs, *competition))
    text = check(html)
    rows = np.arange(COUNT) % 3 > 0
    found = facts["metadata"]["sex"]["f"]
    assert found["rows"] == rows.sum()
    assert found["score"] == pytest.approx(metrics.roc_auc_score(targets[rows, 0], probs[rows, 0]))
    sampling = sample_scores(build_metric("roc_auc", "binary"), targets[rows], [probs[rows]])
    assert found["interval"] == pytest.approx(sampling.interval(0))
    assert facts["metadata"]["site"]["rare"] == {"rows": 8, "score": None, "interval": None}
    assert "too few" in text
    assert len(facts["metadata"]["age"]) == 5
    assert sum(one["rows"] for one in facts["metadata"]["age"].values()) == COUNT


@pytest.mark.slow
def test_the_worst_images_are_shown_with_what_was_predicted(write_run, report, competition, targets, tmp_path):
    probs = draw_probs(targets)
    folder = write_run(targets, probs, *competition)
    html, facts = report(folder, f"pictures={tmp_path}/pictures", "images=true")
    check(html)
    losses = -np.log(np.where(targets > 0, probs, 1 - probs))[:, 0]
    worst = np.argsort(-losses)[:12]
    assert [one["id"] for one in facts["worst"]] == [f"{row:05d}" for row in worst]
    assert facts["worst"][0]["loss"] == pytest.approx(losses.max())
    assert facts["worst"][0]["probs"]["c0"] == pytest.approx(probs[worst[0], 0])
    assert html.count("data:image/png;base64,") >= 24
    image = np.asarray(Image.open(facts["worst"][0]["picture"]).convert("RGB"))
    expected = np.asarray(Image.open(tmp_path / f"data/train/{worst[0]:05d}.png"))
    np.testing.assert_array_equal(image, expected)
    for name, path in facts["figures"].items():
        assert Image.open(path).size[0] > 300, name


def test_groups_with_the_highest_loss_are_listed(write_run, targets):
    probs, groups = draw_probs(targets), np.array([f"p{row // 4}" for row in range(COUNT)])
    probs[4:8] = 1 - targets[4:8] + 0.01 * (2 * targets[4:8] - 1)  # all of p1's rows are wrong
    _, facts = build_page(write_run(targets, probs, "competition.task=binary", "competition.group=who", groups=groups))
    assert facts["groups"]["number"] == COUNT / 4
    assert facts["groups"]["worst"][0] == {"group": "p1", "rows": 4, "loss": pytest.approx(-np.log(0.01))}


def test_a_shift_is_told_in_words_and_numbers(write_run, report, targets):
    rng = np.random.default_rng(3)
    probs, test = draw_probs(targets), rng.random((150, 1)) ** 0.3
    html, facts = report(write_run(targets, probs, "competition.task=binary", test=test))
    found = facts["shift"]["columns"]["c0"]
    repeated = np.tile(test, (5, 1))[:, 0]
    assert found["ks"] == pytest.approx(stats.ks_2samp(probs[:, 0], repeated).statistic)
    truth = np.append(np.zeros(COUNT), np.ones(750))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, np.append(probs[:, 0], repeated)))
    assert "A clear shift" in check(html)


def test_two_runs_are_compared_as_tools_compare_does(write_run, report, targets, tmp_path):
    first = write_run(targets, draw_probs(targets, gain=0.5), "competition.task=binary", "optimizer.lr=0.1")
    second = write_run(targets, draw_probs(targets, gain=2), "competition.task=binary", run="outputs/better")
    html, facts = report(first, second)
    text = check(html)
    assert (tmp_path / "outputs/report_made_better.html").is_file()
    pair = facts["comparison"]["pairs"][0]
    scores = [json.loads((path / "scores.json").read_text())["pooled"] for path in (first, second)]
    assert pair["difference"] == pytest.approx(scores[1] - scores[0])
    assert f"better is better: {pair['difference']:+.5f}" in text
    assert facts["settings"] == {"optimizer.lr": ["0.1", "0.004"]}
    apart = np.abs(draw_probs(targets, gain=0.5) - draw_probs(targets, gain=2))[:, 0]
    assert facts["disagreement"][0]["id"] == f"{apart.argmax():05d}"


def test_runs_of_other_rows_are_refused_by_one_line(write_run, report, targets, capsys):
    first = write_run(targets, draw_probs(targets), "competition.task=binary")
    second = write_run(targets, draw_probs(targets), "competition.task=binary", "competition.metric=log_loss",
                       run="outputs/other")  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        report(first, second)
    complained = capsys.readouterr().err
    assert complained.startswith("error: ")
    assert "competition.metric is log_loss, but roc_auc in" in complained


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "command line: no run is named; write for example outputs/demo_default"),
        (["nowhere"], "nowhere: no such folder; name the folder of a run, for example outputs/demo_default"),
        (
            [".", "outpt=a.html"],
            "command line: outpt=a.html is not known; did you mean output?; write RUN output=FILE.html",
        ),
        ([".", "output=a.pdf"], "command line: output=a.pdf is no page; write output=FILE.html"),
        ([".", "images=no"], "command line: images=no: neither true nor false; leave it out"),
        ([".", "."], "command line: a run is named twice; name each once"),
    ],
)
def test_wrong_words_are_one_line(report, capsys, words, line):
    with pytest.raises(SystemExit, match="2"):
        report(*words)
    assert capsys.readouterr().err == f"error: {line}\n"
