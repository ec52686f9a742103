"""The notebook runs from top to bottom, and is committed without outputs."""

import json
import os
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

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


def test_the_notebook_is_committed_without_outputs():
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook["cells"])
