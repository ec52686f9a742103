"""Predictions as files: ids stay text, rows come by id, damage is named."""

import numpy as np
import pytest

from src.checkpointing.run_folder import FoldFolder
from src.competition.predictions import load_predictions, save_predictions
from src.competition.tables import ImageTable
from src.errors import UserError

IDS, NAMES = np.array(["007", "NA", "1e5"]), ("a", "1")
PROBS = np.array([[0.1, 0.9], [1 / 3, 0.5], [1, 0]], np.float32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "fold1" / "val.csv"
    save_predictions(path, ImageTable(IDS, IDS, None, NAMES, None, None), PROBS)
    return path


def test_they_come_back_in_the_order_of_the_ids_and_names(path):
    np.testing.assert_array_equal(load_predictions(path, IDS, NAMES).astype(np.float32), PROBS)
    np.testing.assert_allclose(load_predictions(path, IDS[[2, 0]], ("1", "a")), [[0, 1], [0.9, 0.1]])
    assert FoldFolder(path.parent).load_target_names() == NAMES


@pytest.mark.parametrize("content", ["", "id\n", "id,a,1\n007,1,1\n", "id,a,1\n007,1,1\nNA,x,1\n1e5,0,0\n", "x\n\0\n"])
def test_damage_is_named_with_the_fold_to_train_again(path, content):
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_predictions(path, IDS, NAMES)
    assert str(caught.value).startswith(f"{path}: damaged (")
    assert str(caught.value).endswith(f"); delete {path.parent} and train that fold again")
