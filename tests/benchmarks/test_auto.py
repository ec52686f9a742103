"""Cases that need no folder of real images, and the tables that are made of errors."""

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks.auto import compute_error, describe_decisions, describe_errors
from benchmarks.auto_cases import Case, build_case


def test_a_case_has_its_rows_labels_and_images_and_keeps_the_answers_apart(tmp_path):
    case = Case("digits", 60, 40, layout="names", size=32)
    solution = build_case(case, tmp_path / "digits")
    train, answers = pd.read_csv(tmp_path / "digits/train.csv"), pd.read_csv(solution)
    sample = pd.read_csv(tmp_path / "digits/sample_submission.csv")
    assert len(train) == 60
    assert list(train) == ["id", "label"]
    assert (answers.iloc[:, 1:].sum(axis=1) == 1).all()
    assert list(sample) == list(answers)
    assert (sample.iloc[:, 1:] == 0.5).all(axis=None)
    assert solution.parent == tmp_path
    assert cv2.imread(str(tmp_path / "digits/test/test_39.png")).shape == (32, 32, 3)
    images = [cv2.imread(str(path)).tobytes() for path in (tmp_path / "digits").glob("t*/*.png")]
    assert len(images) == len(set(images)) == 100  # no image is on both sides


def test_labels_are_wrong_and_positives_rare_as_often_as_a_case_says(tmp_path):
    plain, noisy = (Case("textures", 300, 50, layout="one_hot", size=16, noise=noise) for noise in (0, 0.1))
    for name, case in (("plain", plain), ("noisy", noisy)):
        build_case(case, tmp_path / name)
    tables = [pd.read_csv(tmp_path / name / "train.csv").iloc[:, 1:] for name in ("plain", "noisy")]
    assert 0.05 < (tables[0].to_numpy() != tables[1].to_numpy()).any(axis=1).mean() < 0.15
    rare = build_case(Case("shapes", 100, 40, size=16, positives=0.05), tmp_path / "rare")
    assert pd.read_csv(tmp_path / "rare/train.csv")["four"].sum() == 5
    assert pd.read_csv(rare)["four"].sum() == 2


def test_pairs_have_the_labels_of_both_images_and_no_pool_on_both_sides(tmp_path):
    answers = pd.read_csv(build_case(Case("textures", 200, 100, layout="pairs", size=16), tmp_path / "pairs"))
    train = pd.read_csv(tmp_path / "pairs/train.csv")
    assert answers.iloc[:, 1:].sum(axis=1).isin([1, 2]).all()
    assert train["group"].nunique() > 10
    assert cv2.imread(str(tmp_path / "pairs/train/train_0.png")).shape == (16, 32, 3)


def test_the_error_is_one_minus_the_mean_auc_whatever_the_order_of_rows(tmp_path):
    truth = pd.DataFrame({"id": [1, 2, 3, 4], "a": [0, 0, 1, 1], "b": [0, 1, 0, 1]})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    probs = pd.DataFrame({"id": [4, 3, 2, 1], "a": [0.9, 0.8, 0.2, 0.1], "b": [0.5, 0.5, 0.5, 0.5]})
    probs.to_csv(tmp_path / "probs.csv", index=False)
    assert compute_error(tmp_path / "probs.csv", tmp_path / "truth.csv") == pytest.approx(0.25)


def test_the_tables_give_ratios_and_factors():
    members = {"probe_a": 0.2, "probe_b": 0.1, "probe": 0.08, "net": 0.05}
    row = {"system": "auto x1", "seconds": 50.0, "seed": 0, "members": members, "used": ["probe", "net"]}
    rows = [
        {"case": "one", "seed": 0, "system": "fastai", "seconds": 40.0, "error": 0.4},
        row | {"case": "one", "error": 0.04},
    ]
    rows += [
        {"case": "two", "seed": 0, "system": "fastai", "seconds": 40.0, "error": 0.4},
        row | {"case": "two", "error": 0.1},
    ]
    text = describe_errors(rows)
    assert "fastai's error is 6.3 times as large (geometric mean of 2), 4.0 times at least" in text
    table = describe_decisions(rows)
    assert "all backbones' features" in table
    assert np.isclose(float(table.splitlines()[1].split()[-4]), 0.8)  # 0.08 / 0.1 in both
