"""The embedded competition: scikit-learn's 1,797 real handwritten digits, laid out as a Kaggle folder.

It needs no download, and its answers are at hand, so that every program can be tried within a minute.

Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998, UCI Machine Learning Repository; its
test part, which scikit-learn ships as 8x8 pictures of 17 grey levels.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from src.errors import UserError

_NUM_TEST = 360


def write_demo(root):
    """Write the digits as `root`: train/ and test/ of PNG files, train.csv, test.csv, the sample and the solution.

    The split is fixed and stratified: 1,437 to train, 360 to test. The folder appears whole or not at all; one that
    holds train.csv is left as it is.

    Raises:
        UserError: `root` holds something else, or cannot be written.
    """
    root = Path(root)
    if (root / "train.csv").is_file():
        return
    temporary = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        _write_folder(temporary)
        os.replace(temporary, root)
    except OSError as error:
        if not (root / "train.csv").is_file():  # else another process was first
            raise UserError(
                f"{root}: the demo cannot be written there ({error.strerror}); empty it or set competition.root"
            ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_folder(folder):
    digits = load_digits()
    labels = digits.target.astype(str)
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_NUM_TEST, shuffle=True, stratify=labels, random_state=0
    )
    ids = np.array([f"d{number:04}" for number in range(len(labels))])
    parts = {"train": (ids[: len(train)], train), "test": (ids[len(train) :], test)}
    for part, (names, rows) in parts.items():
        (folder / part).mkdir(parents=True)
        for name, row in zip(names, rows, strict=True):
            Image.fromarray(pixels[row]).save(folder / part / f"{name}.png")
    test_ids = parts["test"][0]
    classes = [str(digit) for digit in range(10)]
    pd.DataFrame({"id": test_ids}).to_csv(folder / "test.csv", index=False)
    pd.DataFrame({"id": test_ids, "label": labels[test]}).to_csv(folder / "solution.csv", index=False)
    pd.DataFrame({"id": test_ids} | dict.fromkeys(classes, 0.1)).to_csv(folder / "sample_submission.csv", index=False)
    pd.DataFrame({"id": parts["train"][0], "label": labels[train]}).to_csv(folder / "train.csv", index=False)
