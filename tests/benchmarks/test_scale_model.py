"""The model of docs/scale.md: its formulas at numbers that a hand can check, and the page shows what they give."""

import pytest
import timm
import torch

from benchmarks import scale_model as model
from src.config.settings import REPOSITORY


def test_the_formulas_give_what_a_hand_computes():
    assert model.all_reduce_seconds(8e6, 2, 1e6, 0.5) == 2 * (4 + 0.5)  # two messages of half the bytes
    assert model.all_reduce_seconds(8e6, 4, 1e6, 0.0) == 6 * 2
    assert model.step_seconds(3.0, 1.0, overlap=0.5) == 3.0  # a backward pass of 2 s hides half of itself
    assert model.step_seconds(3.0, 1.5, overlap=0.5) == 3.5
    least = model.least_compute(1.0, 0.9, overlap=0.3)
    assert least / model.step_seconds(least, 1.0, overlap=0.3) == pytest.approx(0.9)
    assert model.folds_speedup(5, 2) == 5 / 3
    assert model.amdahl_speedup(0.5, 2) == pytest.approx(4 / 3)


def test_the_page_shows_the_tables():
    page = (REPOSITORY / "docs/scale.md").read_text(encoding="utf-8")
    assert model.communication_table() in page
    assert model.speedup_table() in page


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), model.PARAMETERS.items())
def test_the_parameters_are_those_of_timm(name, count):
    with torch.device("meta"):
        assert sum(one.numel() for one in timm.create_model(name).parameters()) == count
