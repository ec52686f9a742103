"""Captions: what a row's targets and probabilities are called."""

import numpy as np
import pytest

from src.analysis.labels import describe_targets, fit_caption, list_class_names
from src.config.settings import Competition


def test_a_binary_label_has_two_names_where_its_classes_are_known():
    assert list_class_names(Competition(task="binary", classes=["cat", "dog"]), ("dog",)) == ["cat", "dog"]
    assert list_class_names(Competition(task="binary"), ("dog",)) == ["dog"]
    assert list_class_names(Competition(task="multiclass", classes=["a", "b", "c"]), ("b", "a", "c")) == ["b", "a", "c"]
    assert list_class_names(Competition(task="regression", classes=["a", "b"]), ("weight",)) == ["weight"]


@pytest.mark.parametrize(
    ("values", "names", "task", "caption"),
    [
        ([0.0], ["cat", "dog"], "binary", "cat"),
        ([1.0], ["cat", "dog"], "binary", "dog"),
        ([0.25], ["cat", "dog"], "binary", "cat 0.75, dog 0.25"),
        ([1.0], ["dog"], "binary", "dog=1"),
        ([np.nan], ["dog"], "binary", "not known"),
        ([0.0, 1.0, 0.0], ["a", "b", "c"], "multiclass", "b"),
        ([0.0, 0.0, 0.0], ["a", "b", "c"], "multilabel", "none"),
        ([1.0, np.nan, 1.0], ["a", "b", "c"], "multilabel", "a, c"),
        ([3.14159], ["weight"], "regression", "weight=3.142"),
        ([3.14159, np.nan], ["weight", "age"], "regression", "weight=3.142"),
    ],
)
def test_targets_in_words(values, names, task, caption):
    assert describe_targets(np.array(values), names, task) == caption


def test_captions_take_two_lines_and_are_cut_in_the_middle():
    assert fit_caption("dahlia", 20) == "dahlia"
    assert fit_caption("Chinese temple 0.80, dahlia 0.20", 20) == "Chinese temple 0.80,\ndahlia 0.20"
    assert fit_caption("one two three", 5) == "one\ntwo …"
    assert fit_caption("a_long_name_of_a_file_17\ndahlia", 20) == "a_long_na…_a_file_17\ndahlia"
