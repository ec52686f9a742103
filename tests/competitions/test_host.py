"""The host's double: what it refuses, and its metrics against rows counted by hand."""

import numpy as np
import pandas as pd
import pytest

from tests.competitions import host
from tests.competitions.host import Refused, grade

CACTUS, APTOS, PLANT = "aerial-cactus-identification", "aptos2019-blindness-detection", "plant-pathology-2021-fgvc8"
TRUTH = {
    CACTUS: pd.DataFrame({"id": ["a.jpg", "b.jpg", "c.jpg"], "has_cactus": [0, 1, 1]}),
    APTOS: pd.DataFrame({"id_code": ["01", "12e4", "x"], "diagnosis": [0, 4, 2]}),
    PLANT: pd.DataFrame({"image": ["a.jpg", "b.jpg"], "labels": ["scab rust", "healthy"]}),
}


def submit(tmp_path, name, text):
    path = tmp_path / "submission.csv"
    path.write_text(text)
    return grade(name, path, TRUTH[name])


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        (CACTUS, "id,has_cactus\na.jpg,.1\nb.jpg,.9\n", "id c.jpg is missing"),
        (CACTUS, "id,has_cactus\na.jpg,.1\nb.jpg,.9\nc.jpg,.9\nd.jpg,.9\n", "id d.jpg is unknown"),
        (CACTUS, "id,has_cactus\na.jpg,.1\nb.jpg,.9\nb.jpg,.8\n", "id b.jpg is there twice"),
        (CACTUS, "id,has_cactus\na,.1\nb,.9\nc,.9\n", "id a.jpg is missing"),
        (CACTUS, "id,cactus\na.jpg,.1\nb.jpg,.9\nc.jpg,.9\n", "column has_cactus is missing"),
        (CACTUS, "id,has_cactus,fold\na.jpg,.1,0\nb.jpg,.9,0\nc.jpg,.9,0\n", "column fold is unknown"),
        (CACTUS, "a.jpg,.1\nb.jpg,.9\nc.jpg,.9\n", "column id is missing"),
        (CACTUS, "id,has_cactus\na.jpg,\nb.jpg,.9\nc.jpg,.9\n", "'' is no number"),
        (CACTUS, "id,has_cactus\na.jpg,nan\nb.jpg,.9\nc.jpg,.9\n", "nan is outside 0 to 1"),
        (CACTUS, "id,has_cactus\na.jpg,.1\nb.jpg,1.01\nc.jpg,.9\n", "1.01 is outside 0 to 1"),
        (CACTUS, "id,has_cactus\na.jpg,.1\nb.jpg,-0.1\nc.jpg,.9\n", "-0.1 is outside 0 to 1"),
        (APTOS, "id_code,diagnosis\n01,0\n12e4,3.7\nx,2\n", "'3.7' is no grade"),
        (APTOS, "id_code,diagnosis\n01,0\n12e4,5\nx,2\n", "'5' is no grade"),
        (APTOS, "id_code,diagnosis\n1,0\n12e4,4\nx,2\n", "id 01 is missing"),
        (PLANT, "image,labels\na.jpg,Scab\nb.jpg,healthy\n", "'Scab' is no tag"),
        (PLANT, "image,labels\na.jpg,\nb.jpg,healthy\n", "'' is no tag"),
        (PLANT, "image,labels\na.jpg,0.7\nb.jpg,healthy\n", "'0.7' is no tag"),
    ],
)
def test_what_is_refused(tmp_path, name, text, why):
    with pytest.raises(Refused) as caught:
        submit(tmp_path, name, text)
    assert str(caught.value) == why


def test_rows_and_columns_in_any_order(tmp_path):
    assert submit(tmp_path, CACTUS, "has_cactus,id\n.9,c.jpg\n.1,a.jpg\n.05,b.jpg\n") == 0.5
    assert submit(tmp_path, APTOS, "id_code,diagnosis\nx,2\n01,0\n12e4,4\n") == 1
    # two of two found; one of one found beside a wrong one: precision 1/2, recall 1
    found = submit(tmp_path, PLANT, "image,labels\nb.jpg,healthy rust\na.jpg,rust scab\n")
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_metrics_by_hand():
    truth, values = np.array([[1], [0], [1], [0], [0]]), np.array([[0.9], [0.8], [0.7], [0.2], [0.1]])
    # the curve is at .5 up to a false-positive rate of 1/3, and at 1 from there on
    assert host.auc_above_80_tpr(truth, values) == pytest.approx(0.2 * 2 / 3)
    assert host.auc_above_80_tpr(truth, 0 * values) == pytest.approx(0.2 * 0.2 / 2)  # the diagonal
    assert host.probabilistic_f1(truth, values) == pytest.approx(2 * 1.6 / (2.7 + 2))
    assert host.mean_f(2)([{"a", "b"}], [{"a", "c"}]) == pytest.approx(0.5)
    assert host.kappa(np.array([[0], [2], [4]]), np.array([[0], [2], [2]])) == pytest.approx(1 - 4 / 3 / (36 / 9))
