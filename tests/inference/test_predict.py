"""What infer.py asks of a run that another process may change meanwhile; the rest is in test_end_to_end.py."""

import pytest

from src.config.load import config_yaml, load_config
from src.errors import UserError
from src.inference.predict import _check_still_there


def test_predictions_of_a_run_that_was_overwritten_are_not_written(tmp_path):
    begun_with, path = load_config(["seed=1"]), tmp_path / "config.yaml"
    path.write_text(config_yaml(load_config(["seed=1", "fold=2", "train.num_workers=3", "infer.tta=hflip"])))
    _check_still_there(tmp_path, begun_with)  # another fold is trained meanwhile
    path.write_text(config_yaml(load_config(["seed=2"])))
    with pytest.raises(UserError) as caught:
        _check_still_there(tmp_path, begun_with)
    line = f"{tmp_path}: was overwritten meanwhile; run the same command again when it is trained"
    assert str(caught.value) == line
    path.unlink()
    with pytest.raises(UserError, match="not a run"):
        _check_still_there(tmp_path, begun_with)
