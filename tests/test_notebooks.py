"""Each notebook runs from top to bottom, draws its figures, and is committed without outputs."""

import ast
import importlib
import json
import os
import re
import shutil
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image

from src.config.settings import REPOSITORY
from tests.launch import TINY
from tools.bundle.__main__ import main as make_bundle

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
EDA = REPOSITORY / "notebooks" / "eda.ipynb"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook in a kernel, in a copy of the project; return (what it printed, its HTML, how many images)."""

    def run(name, **environment):
        for one in ("src", "tools", "configs", "notebooks", "train.py", "infer.py", "requirements.txt"):
            source = REPOSITORY / one
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / one)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel chooses, as in Jupyter
        notebook = nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", as_version=4)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        shown = [output.get("data", {}) for output in outputs]
        text = "".join(output.get("text", "") for output in outputs)
        return text, "".join(one.get("text/html", "") for one in shown), sum("image/png" in one for one in shown)

    return run


@pytest.mark.slow
def test_a_first_run_is_trained_shown_and_inferred(execute, tmp_path):
    text, html, num_images = execute("first_run", FIRST_RUN_WORDS=" ".join([*TINY, "name=first"]))
    assert "fold 0: already finished" in text
    assert "images are predicted as another class once they are augmented" in text
    assert html.count("<svg") == 2
    assert num_images == 3
    assert (tmp_path / "outputs" / "first" / "submission.csv").is_file()
    assert [path.name for path in (tmp_path / "notebooks").iterdir() if path.suffix != ".ipynb"] == []


def run_tool(module, words):
    path = f"tools/{module.removeprefix('tools.')}"
    importlib.import_module(f"{module}.__main__" if (REPOSITORY / path).is_dir() else module).main(words.split())


def run_cell(source, space):
    """Run a cell, its lines !{sys.executable} -m TOOL as well, in this process; return what it would show."""
    source = re.sub(r"^!\{sys.executable\} -m (\S+) (.*)$", r"run_tool('\1', f'\2')", source, flags=re.MULTILINE)
    *before, last = ast.parse(source).body
    exec(compile(ast.Module(before, []), "cell", "exec"), space)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), space)
    exec(compile(ast.Module([last], []), "cell", "exec"), space)
    return None


@pytest.fixture
def run_cells(tmp_path, monkeypatch, few_samples, capsys):
    """Run a notebook in this process; return (what it printed, what each cell would show)."""

    def run(name):
        (tmp_path / "train.py").touch()  # by which the notebook knows its project
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        space, cells = {"run_tool": run_tool}, nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4).cells
        shown = [run_cell(cell.source, space) for cell in cells if cell.cell_type == "code"]
        return capsys.readouterr().out, shown

    return run


@pytest.mark.slow
def test_eda_runs_on_the_embedded_competition(run_cells, tmp_path):
    import matplotlib.pyplot as plt

    text, shown = run_cells("eda")
    assert "demo: 1437 training images, multiclass" in text
    assert sum(isinstance(one, Figure) for one in shown) == 2
    assert len(plt.get_fignums()) == 1  # the chart of classes
    plt.close("all")
    assert os.path.isdir(tmp_path / "data" / "demo")


@pytest.mark.slow
def test_two_runs_are_compared_and_blended(run_cells, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPARE_WORDS", " ".join(TINY))
    text, shown = run_cells("compare_runs")
    assert "of 1437 rows; " in text
    assert "settings: augment.preset=light (was none)" in text
    assert "<h3>both</h3>" in shown[-1]._repr_html_()
    assert sum(isinstance(one, Figure) for one in shown) == 1
    assert (tmp_path / "outputs" / "both" / "oof.csv").is_file()


@pytest.mark.nightly
def test_folds_are_trained_inferred_and_bundled(execute, tmp_path):
    words = " ".join([*TINY, "name=kaggle"])
    text, _, _ = execute("train_on_kaggle", TRAIN_ON_KAGGLE_WORDS=words, CUDA_VISIBLE_DEVICES="")
    assert "\nfold 0: 96 training and 719 validation images\n" in text
    assert "outputs/kaggle: folds [0, 1] of 2 are finished\n" in text
    assert "out-of-fold roc_auc: " in text
    assert (tmp_path / "outputs/kaggle/submission.csv").is_file()
    assert (tmp_path / "bundle/infer.sh").is_file()


@pytest.mark.nightly
def test_a_bundle_is_inferred_as_on_kaggle(execute, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_run[0])
    inputs = tmp_path / "input"
    make_bundle(["outputs/demo_default", f"output={inputs}/datasets/ann/digits", "wheels=none", "user=ann"])
    shutil.copytree("data/demo", inputs / "competitions/demo", ignore=shutil.ignore_patterns("solution.csv"))
    monkeypatch.chdir(tmp_path)
    text, html, _ = execute("infer_offline", KAGGLE_INPUT=str(inputs))
    assert "competition: " + str(inputs / "competitions/demo") in text
    assert "submission.csv: 360 rows" in text
    assert html.count("<tr") == 6
    assert (tmp_path / "notebooks/submission.csv").is_file()


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
    for cell in nbformat.read(EDA, as_version=4).cells:
        if cell.cell_type == "code" and "load_folds" not in cell.source:
            exec(cell.source, space)
    import matplotlib.pyplot as plt

    [chart], grid, augmented = map(plt.figure, plt.get_fignums()), space["grid"], space["augmented"]
    bars = [bar for axes in chart.axes for bar in axes.patches]
    ticks = [tick.get_text() for axes in chart.axes for tick in axes.get_yticklabels()]
    assert dict(zip(ticks, [bar.get_width() for bar in bars], strict=True)) == expected
    assert len({axes.get_title() for axes in grid.axes if axes.images}) == titles
    assert all("resized" in axes.get_title() for axes in augmented.axes[::8])
    plt.close("all")


@pytest.mark.house
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    """`pre-commit install` strips them (nbstripout), or by hand: nbstripout notebooks/*.ipynb."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook["cells"])
