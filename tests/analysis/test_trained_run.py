"""The public API: five lines from an import to a DataFrame, from any folder; what a run shows, predicts and refuses."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import src
from src import TrainedRun, infer, open_run, train
from src.config.settings import REPOSITORY
from src.data.decode import decode_image
from src.errors import UserError
from tests.launch import TINY

FIVE_LINES = """
from src import open_run, train
run = train("competition=demo", "fold=0", *WORDS)
print(run.oof.head(), run.scores["pooled"])
network = run.model(0)
same = open_run("outputs/demo_default").oof.equals(run.oof)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The TrainedRun of two folds, with test predictions, made in this process by two calls."""
    folder, before = tmp_path_factory.mktemp("api"), os.getcwd()
    os.chdir(folder)
    try:
        train(*TINY, "name=api", "fold=0")
        return infer(train(*TINY, "name=api"))
    finally:
        os.chdir(before)


@pytest.mark.slow
def test_five_lines_from_another_folder(tmp_path):
    code = f"WORDS = {TINY!r}\n{FIVE_LINES}\nassert same and not network.training\nrun.oof.to_csv('seen.csv')"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "outputs/demo_default" in done.stdout
    oof = pd.read_csv(tmp_path / "outputs" / "demo_default" / "oof.csv", dtype={"id": str})
    assert len(oof) == len(pd.read_csv(tmp_path / "seen.csv")) == 719
    assert not (REPOSITORY / "outputs" / "demo_default" / "seen.csv").exists()


def test_the_package_lists_what_it_offers_and_loads_nothing_until_asked():
    assert {"train", "infer", "open_run", "TrainedRun"} <= set(dir(src))
    with pytest.raises(AttributeError, match="module 'src' has no attribute 'tain'"):
        _ = src.tain
    code = "import sys, src; print({'numpy', 'pandas', 'torch', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "set()\n"


def test_its_tables_are_the_files(run):
    assert run.folder.is_absolute()
    assert run.oof["id"].tolist() == run.folds["id"].tolist()
    assert run.oof["fold"].tolist() == run.folds["fold"].tolist()
    assert run.scores["folds"].keys() == {"0", "1"}
    assert run.log[["fold", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    first, second = (pd.read_csv(run.folder / f"fold{fold}" / "test.csv", dtype={"id": str}) for fold in (0, 1))
    assert run.test["id"].equals(first["id"])
    assert np.allclose(run.test.iloc[:, 1:], (first.iloc[:, 1:] + second.iloc[:, 1:]) / 2)
    assert np.allclose(run.submission.iloc[:, 1:], run.test.iloc[:, 1:])
    assert open_run(run.folder).test.equals(run.test)


def test_it_predicts_files_and_arrays_as_infer_does(run, monkeypatch):
    monkeypatch.chdir(run.base)
    paths = [f"data/demo/test/{one}.png" for one in run.test["id"][:5]]
    expected = run.test.iloc[:5, 1:].to_numpy()
    assert np.allclose(run.predict(paths), expected, atol=1e-6)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    assert np.allclose(run.predict(arrays), expected, atol=1e-6)
    fold = pd.read_csv(run.folder / "fold1" / "test.csv").iloc[:5, 1:]
    assert np.allclose(run.predict(paths, fold=1), fold, atol=1e-6)
    with pytest.raises(UserError, match=r"predict: ndarray \(8, 8, 3\) uint8 is no image"):
        run.predict([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(UserError, match="none.png: cannot be read"):
        run.predict("none.png")


def test_a_fold_s_network_gives_the_out_of_fold_predictions_of_its_rows(run):
    import torch

    rows = run.oof[run.oof["fold"] == 1][:6]
    network = run.model(1)
    with torch.no_grad():
        probs = network(**network.normalize(run.load_inputs(rows["id"]))).softmax(dim=1)
    assert np.allclose(probs.numpy(), rows[[str(digit) for digit in range(10)]], atol=1e-5)
    with pytest.raises(UserError, match=r"has no network of fold 7 \(there are 0, 1\)"):
        run.model(7)
    with pytest.raises(UserError, match="1 ids are not in its training table"):
        run.load_inputs(["d9999"])


def test_a_fold_is_a_number_or_its_text_and_what_is_empty_is_refused(run):
    """Its text for whom reads folds from a table."""
    expected = run.model(1).state_dict()
    assert all(value.equal(expected[name]) for name, value in run.model("1").state_dict().items())
    with pytest.raises(UserError, match="no image is given"):
        run.predict([])
    with pytest.raises(UserError, match="no id is given"):
        run.show_images([])
    with pytest.raises(UserError, match=r"uint16 is no image; give paths, or arrays \(height, width, 1\) of uint8"):
        run.predict([np.zeros((8, 8), np.uint16)])


def test_it_shows_itself(run):
    text = run._repr_html_()
    assert f"{run.scores['pooled']:.5f}" in text
    assert text.count("<tr") == 3
    assert text.count("<svg") == 1
    assert repr(run).endswith(", 2 folds")


@pytest.mark.slow
def test_it_writes_its_report(run):
    assert run.report() == run.folder / "report.html"
    assert (run.folder / "report.html").is_file()


def test_batch_errors_and_curves_are_figures_that_a_notebook_draws(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    batch, errors, curves = run.show_batch(12), run.show_errors(4), run.show_curves()
    assert all(one._repr_png_().startswith(b"\x89PNG") for one in (batch, errors, curves))
    labels = [axes.get_title() for axes in batch.axes if axes.images]
    assert len(labels) == 12
    assert set(labels) == {str(digit) for digit in range(10)}
    captions = [axes.get_title().split("\n") for axes in errors.axes if axes.images]
    worst = run.find_errors(4)
    assert [caption[0] for caption in captions] == worst["id"].tolist()
    assert [caption[1] for caption in captions] == [f"label: {one}" for one in worst["label"]]
    assert all(len(axes.images) == 2 for axes in errors.axes if axes.images)  # the map lies upon the image
    image = decode_image(str(run.base / f"data/demo/train/{worst['id'][0]}.png"), run.config.competition, (16, 16))
    assert run.load_inputs(worst["id"])["image"].shape[1:] == (16, 16, image.shape[2])
    [axes] = [axes for axes in run.show_images(["d0003"]).axes if axes.images]
    assert axes.get_title() == f"d0003\n{pd.read_csv(run.base / 'data/demo/train.csv')['label'][3]}"


def test_a_mistake_is_one_line_in_a_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown setting trian.epochs; did you mean train.epochs") as error:
        train("trian.epochs=3")
    assert error.value._render_traceback_() == [f"UserError: {error.value}"]
    with pytest.raises(UserError, match="not a run"):
        open_run("outputs/none")
    with pytest.raises(UserError, match="no run with a finished fold"):
        infer()


def test_within_the_project_paths_are_the_projects(monkeypatch):
    from src.analysis import trained_run

    monkeypatch.chdir(REPOSITORY / "notebooks")
    assert trained_run._find_base() == REPOSITORY
    assert trained_run._locate("outputs/none") == REPOSITORY / "outputs" / "none"


@pytest.mark.slow
def test_several_seeds_are_a_list_and_another_precision_follows(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in TINY if not word.startswith(("precision", "seed", "train.epochs"))]
    runs = train(*words, "fold=0", "train.epochs=1", "precision=bf16", "seed=[1,2]", "name=s")
    assert [one.folder.name for one in runs] == ["s_seed1", "s_seed2"]
    assert all(isinstance(one, TrainedRun) for one in runs)
    assert not runs[0].oof.equals(runs[1].oof)
