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
from src.remote import is_url


def write_demo(root):
    """Write the digits, in a fixed stratified split, as `root`, whole or not at all; no URL, nor over a train.csv."""
    if is_url(str(root)) or (root := Path(root)).joinpath("train.csv").is_file():
        return
    digits = load_digits()
    labels, pixels = digits.target.astype(str), (digits.images * (255 / 16)).round().astype(np.uint8)
    rows = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    pixels, labels = pixels[np.concatenate(rows)], labels[np.concatenate(rows)]
    table = pd.DataFrame({"id": [f"d{number:04}" for number in range(len(labels))], "label": labels})
    train, test = table[:-360], table[-360:]
    sample = test[["id"]].assign(**{str(digit): 0.1 for digit in range(10)})
    temporary = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        for name, part in (("train", train), ("test", test)):
            (temporary / name).mkdir(parents=True)
            for row, image_id in part["id"].items():
                Image.fromarray(pixels[row]).save(temporary / name / f"{image_id}.png")
        tables = {"sample_submission": sample, "solution": test, "test": test[["id"]], "train": train}
        for name, one in tables.items():  # train.csv, the mark of a whole folder, comes last
            one.to_csv(temporary / f"{name}.csv", index=False)
        os.replace(temporary, root)
    except OSError as error:
        if not (root / "train.csv").is_file():  # else another process was first
            advice = "empty it or set competition.root"
            raise UserError(f"{root}: the demo cannot be written there ({error.strerror}); {advice}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
