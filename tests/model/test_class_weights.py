"""Class weights against scikit-learn's and by hand."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from src.config.settings import Loss
from src.errors import UserError
from src.model.class_weights import compute_class_weights, resolve_class_weights
from src.model.losses import build_loss

TASKS = ("binary", "multiclass", "multilabel")


def test_class_weights_are_scikit_learns_balanced():
    numbers = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=numbers)
    weights = compute_class_weights(np.eye(3, dtype=np.float32)[numbers], "multiclass")
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32
    weights = compute_class_weights(np.eye(4)[numbers], "multiclass")
    np.testing.assert_allclose(weights, [10 / 20, 10 / 8, 10 / 12, 1], rtol=1e-6)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_class_weights_of_answers_are_negatives_by_positives(task):
    targets = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]], dtype=np.float32)
    np.testing.assert_allclose(compute_class_weights(targets[:, :2], task), [4, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(compute_class_weights(np.zeros((5, 1)), task), [1])
    np.testing.assert_allclose(compute_class_weights(targets[:, 2:], task), [1, 4], rtol=1e-6)


def test_class_weights_make_both_sides_weigh_the_same():
    targets = torch.tensor([[1.0], [0.0], [0.0], [0.0], [0.0]])
    logits = torch.zeros(5, 1, requires_grad=True)
    build_loss(Loss(), "binary", compute_class_weights(targets.numpy(), "binary"))(logits, targets).backward()
    torch.testing.assert_close(logits.grad.sum(), torch.tensor(0.0))


def test_resolved_class_weights():
    targets = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3, 3]]
    assert resolve_class_weights(Loss(), targets, "multiclass") is None
    given = resolve_class_weights(Loss(class_weights=[1, 2, 3, 4.5]), targets, "multiclass")
    np.testing.assert_array_equal(given, np.array([1, 2, 3, 4.5], dtype=np.float32), strict=True)
    for task in TASKS:
        counted = resolve_class_weights(Loss(balance=True), targets, task)
        np.testing.assert_array_equal(counted, compute_class_weights(targets, task), strict=True)


@pytest.mark.parametrize(("task", "what"), [("multiclass", "class"), ("multilabel", "column of answers")])
def test_as_many_class_weights_as_columns(task, what):
    with pytest.raises(UserError) as caught:
        resolve_class_weights(Loss(class_weights=[1, 2.5]), np.eye(4), task)
    assert str(caught.value) == f"loss.class_weights=[1, 2.5]: 2 given, 4 needed; give one for each {what}"
