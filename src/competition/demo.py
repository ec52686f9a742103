"""The embedded competition: scikit-learn's 1,797 real handwritten digits as a Kaggle folder, with the test labels.

Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998, UCI Machine Learning Repository; its
test part, which scikit-learn ships as 8x8 images of 17 grey levels.
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


def write_demo(root):
    """Write the digits as `root`: train/ and test/ of PNG files, train.csv, test.csv, the sample and the solution.

    The split is fixed and stratified. The folder appears whole or not at all; one with a train.csv is left as it is.
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
            advice = "empty it or set competition.root"
            raise UserError(f"{root}: the demo cannot be written there ({error.strerror}); {advice}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_folder(folder):
    digits = load_digits()
    labels, pixels = digits.target.astype(str), (digits.images * (255 / 16)).round().astype(np.uint8)
    split = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    tables, start = {}, 0
    for name, rows in zip(("train", "test"), split, strict=True):
        ids = [f"d{number:04}" for number in range(start, start + len(rows))]
        (folder / name).mkdir(parents=True)
        for image_id, row in zip(ids, rows, strict=True):
            Image.fromarray(pixels[row]).save(folder / name / f"{image_id}.png")
        tables[name], start = pd.DataFrame({"id": ids, "label": labels[rows]}), start + len(rows)
    tables |= {"solution": tables["test"], "test": tables["test"][["id"]]}
    tables["sample_submission"] = tables["test"].assign(**{str(digit): 0.1 for digit in range(10)})
    for name, table in sorted(tables.items()):  # train.csv, the mark of a whole folder, comes last
        table.to_csv(folder / f"{name}.csv", index=False)
