"""The notebook runs from top to bottom, and is committed without outputs."""

import json
import os
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from PIL import Image

from src.config.settings import REPOSITORY

PATH = REPOSITORY / "notebooks" / "eda.ipynb"


@pytest.mark.slow
def test_eda_runs_on_the_embedded_competition(tmp_path, monkeypatch):
    for name in ("src", "configs", "notebooks", "train.py"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    assert "demo: 1437 training images, multiclass" in text
    assert os.path.isdir(tmp_path / "data" / "demo")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "columns", "expected", "titles"),
    [
        ("label: kind, classes: [cat, dog]", {"kind": ["cat"] * 30 + ["dog"] * 9}, {"cat": 30, "dog": 9}, 2),
        ("targets: [dog]", {"dog": [0] * 30 + [1] * 9}, {"dog=0": 30, "dog=1": 9}, 2),
        (
            "targets: [cat, dog], task: multilabel",
            {"cat": [0] * 30 + [1, 1, 0], "dog": [1] * 30 + [1, 0, 0]},
            {"cat": 2, "dog": 31, "none": 1},
            4,
        ),
        (
            "label: kind, task: multiclass",
            {"kind": np.repeat([f"k{one:03}" for one in range(120)], 2)},
            {f"k{one:03}": 2 for one in range(120)},
            24,
        ),
    ],
    ids=["label", "binary", "multilabel", "120 classes"],
)
def test_a_table_sorted_by_label_shows_every_class_by_name(tmp_path, monkeypatch, settings, columns, expected, titles):
    """The cells as far as the images, in this process."""
    table = pd.DataFrame(columns)
    table.insert(0, "id", range(len(table)))
    table.to_csv(tmp_path / "train.csv", index=False)
    for row in range(len(table)):
        Image.new("L", (8, 8), row).save(tmp_path / f"{row}.png")
    (tmp_path / "sorted.yaml").write_text(
        f"competition: {{root: {tmp_path}, train_table: train.csv, train_image: '{{id}}.png', channels: 1, "
        f"{settings}}}\n"
    )
    monkeypatch.setenv("EDA_WORDS", f"competition={tmp_path}/sorted.yaml normalize=dataset")
    monkeypatch.chdir(REPOSITORY)
    space = {}
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code" and "load_folds" not in cell.source:
            exec(cell.source, space)
    import matplotlib.pyplot as plt

    chart, grid, augmented = (plt.figure(number) for number in plt.get_fignums())
    bars = [bar for axes in chart.axes for bar in axes.patches]
    ticks = [tick.get_text() for axes in chart.axes for tick in axes.get_yticklabels()]
    assert dict(zip(ticks, [bar.get_width() for bar in bars], strict=True)) == expected
    assert len({axes.get_title() for axes in grid.axes if axes.images}) == titles
    assert all("plain" in axes.get_title() for axes in augmented.axes[::8])
    plt.close("all")


def test_the_notebook_is_committed_without_outputs():
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook["cells"])
