"""What is drawn over an image lies where the network looked."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from src.checkpointing.run_folder import RunFolder
from src.files import save_json
from tools.report.images import Pictures, _read_times, _recall
from tools.report.pictures import _draw_overlay


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 2), (3, 1), (2, 5)])
def test_a_place_of_the_map_covers_its_part_of_the_image(row, column):
    """The middle of place (row, column) of 4 x 6 is at (row + 0.5) / 4 of the height and (column + 0.5) / 6 across."""
    saliency = np.zeros((4, 6), np.float32)
    saliency[row, column] = 1
    url = _draw_overlay(saliency, (200, 300))
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))), float)[..., 3]
    assert alpha.shape == (64, 96)  # 16 pixels a place
    bright = np.argwhere(alpha > 0.75 * alpha.max()).mean(axis=0)
    inner = [8 if 0 < place < last else None for place, last in ((row, 3), (column, 5))]  # a border's is cut off
    for found, place, middle in zip(bright, (row, column), inner, strict=True):
        assert 16 * place <= found < 16 * (place + 1)
        assert middle is None or found == pytest.approx(16 * place + middle - 0.5, abs=0.6)


@pytest.mark.parametrize("changed", ["oof.csv", "config.yaml", "fold0/last.safetensors"])
def test_images_are_kept_as_long_as_the_run_is_what_they_were_made_of(tmp_path, changed):
    run = RunFolder(tmp_path)
    for name in ("config.yaml", "folds.csv", "oof.csv", "fold0/val.csv", "fold0/last.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    save_json(run.report_images, {"orders": [], "note": "kept", "made_of": _read_times(run)})
    pictures = Pictures(tmp_path)
    assert pictures.read()["note"] == "kept"
    pictures.close()
    os.utime(tmp_path / changed, (1, 1))
    assert _recall(run.report_images, _read_times(run)) is None
