"""Folders of predictions: written whole or not at all, in place of their own kind alone."""

import numpy as np
import pytest

from src.config.load import load_config
from src.errors import UserError
from src.evaluation.out_of_fold import OutOfFold, load_out_of_fold
from src.inference.prediction_folder import check_place, write_folder

OOF = OutOfFold(np.array(["a", "b"]), np.array([0, 1]), np.array([[0.0], [1]]), np.array([[0.2], [0.7]]), ("y",), None)


def write(config, kind="blend", then=lambda folder: None):
    with write_folder(config, kind, OOF, {"pooled": 1.0}, {"kind": kind}) as folder:
        then(folder)


def test_a_folder_is_there_when_it_is_whole_and_a_refusal_leaves_what_was_before(tmp_path):
    config = load_config([f"output_dir={tmp_path}", "name=both"])
    (tmp_path / ".both.new.999999999.tmp").mkdir()  # of a process that was killed
    write(config)
    place = tmp_path / "both"
    assert load_out_of_fold(place / "oof.csv", place / "folds.csv").probs.ravel().tolist() == [0.2, 0.7]
    before = {path: path.read_bytes() for path in place.iterdir()}

    def refuse(folder):
        assert folder.path != place
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        write(config, then=refuse)
    assert {path: path.read_bytes() for path in place.iterdir()} == before
    write(config, then=lambda folder: folder.submission.write_text("id"))
    assert (place / "submission.csv").is_file()
    assert list(tmp_path.iterdir()) == [place]


def test_only_its_own_kind_is_replaced(tmp_path):
    config = load_config([f"output_dir={tmp_path}", "name=both"])
    check_place(tmp_path / "both", "blend", overwrite=False)
    write(config)
    check_place(tmp_path / "both", "blend", overwrite=True)
    with pytest.raises(UserError, match="both: is a blend already; choose name=ANOTHER or overwrite=true"):
        check_place(tmp_path / "both", "blend", overwrite=False)
    with pytest.raises(UserError, match="both: exists and is a blend, which no probe replaces; choose name=ANOTHER"):
        write(config, "probe")
    assert list(tmp_path.iterdir()) == [tmp_path / "both"]
