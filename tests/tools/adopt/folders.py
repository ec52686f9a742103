"""Competitions' folders in miniature, and the proof that what adopt decides for them is read as training will."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from src.competition.submission import check_sample, load_sample, write_submission
from src.competition.tables import load_test_table, load_train_table, read_table
from src.config.load import load_config
from src.evaluation.out_of_fold import pool_rows
from src.files import save_table
from tools.adopt.competition_file import competition_yaml
from tools.adopt.layout import recognise


def images(folder, names, size=(32, 32), mode="RGB"):
    """Write a tiny image, array or stub of each name; size is (width, height)."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, np.zeros(size, np.float16))
        elif path.suffix in (".dcm", ".dicom"):
            path.write_bytes(b"stub")
        else:
            Image.new(mode, size).save(path)


def table(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)


def decided(folder, without=("root", "metric", "channels", "image_size"), metric="roc_auc"):
    """The decided settings by their last word, without those that say nothing, and without None."""
    layout = recognise(folder)
    found = {key.rpartition(".")[2]: value for key, (value, _) in layout.settings.items()}
    assert found["root"] == str(folder)
    assert found["metric"] == metric
    return {key: value for key, value in found.items() if key not in without and value is not None}


def prove(tmp_path, folder, names, targets, train_ids=None):
    """Load both tables by the competition file, as training will, and write a submission; return the test table.

    `targets` is flat for one column, class numbers for several.
    """
    path = tmp_path / "adopted.yaml"
    layout = recognise(folder, output=tmp_path / "copies")
    path.write_text(competition_yaml(layout, folder), encoding="utf-8")
    for copy, rows in layout.copies.items():
        save_table(copy, rows)
    competition = load_config([f"competition={path}"]).competition
    train = load_train_table(competition)
    test = load_test_table(competition, train.target_names)
    assert all(Path(file).is_file() for path in (*train.paths, *test.paths) for file in path.split("\0"))
    assert list(train.target_names) == names
    found = train.targets[:, 0] if len(names) == 1 else train.targets.argmax(axis=1)
    assert found.tolist() == list(targets)
    assert train_ids is None or list(train.ids) == train_ids
    if competition.sample_submission:
        prove_submission(tmp_path / "submission.csv", competition, test, train.target_names)
    return test


def prove_submission(path, competition, test, names):
    """Write a submission of random probabilities, as infer.py does: it has the sample's columns and ids, in order."""
    sample = load_sample(competition)
    check_sample(sample, competition, test, names)
    rows, probs = test.ids, np.random.default_rng(0).random((len(test), len(names)))
    if test.units is not None:
        rows, probs = pool_rows(test.units, probs, competition.predict_with)
    write_submission(path, sample, competition, rows, probs, names)
    written, asked = read_table(path), read_table(f"{competition.root}/{competition.sample_submission}")
    assert list(written.columns) == list(asked.columns)
    assert written.iloc[:, 0].str.strip().tolist() == asked.iloc[:, 0].str.strip().tolist()


def ids(start, count, form="{}"):
    return [form.format(number) for number in range(start, start + count)]


def zero_one(count):
    return [number % 2 for number in range(count)]
