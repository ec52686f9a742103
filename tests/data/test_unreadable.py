"""Files that cannot be decoded are all found, with their reasons."""

import cv2
import numpy as np

from src.data.unreadable import find_unreadable


def test_every_unreadable_row_is_found(tmp_path, make_table):
    paths = [tmp_path / f"{row:02}.png" for row in range(40)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    paths[3].write_bytes(b"")
    paths[37].write_bytes(b"text")
    assert find_unreadable(make_table(paths), 3) == [
        (3, f"{paths[3]}: cannot be decoded as an image (0 bytes)"),
        (37, f"{paths[37]}: cannot be decoded as an image (4 bytes)"),
    ]
    assert find_unreadable(make_table(paths[:3]), 1) == []
