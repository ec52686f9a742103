"""competition.metadata through whole programs: what it adds, and that all give the network the same numbers."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.analysis.trained_run import open_run
from src.errors import UserError
from tests.launch import Forked, run_here
from tools.soup import main as make_soup

pytestmark = pytest.mark.slow
NUM_TRAIN, NUM_TEST = 300, 60
COMPETITION = """competition:
  name: made
  root: data
  train_table: train.csv
  test_table: test.csv
  sample_submission: sample.csv
  solution: solution.csv
  train_image: train/{id}.png
  test_image: test/{id}.png
  targets: [y]
  channels: 1
"""
WORDS = [
    *("competition=made.yaml", "image_size=16", "model.backbone=simple_cnn", "model.kwargs={}", "normalize=dataset"),
    *("model.pretrained=false", "augment.preset=none", "num_folds=2", "train.epochs=6", "tracking=none"),
    *("report=false", "threads=1", "precision=fp32", "train.channels_last=true"),
]
WITH_METADATA = [*WORDS, "competition.metadata=[age,site]", "name=with"]


def write_data(folder):
    """An image whose brightness tells a little of the label, an age and a site that tell more, both with gaps.

    The test table has a site that training lacks.
    """
    rng, num_rows = np.random.default_rng(0), NUM_TRAIN + NUM_TEST
    labels = np.arange(num_rows) % 2
    brightness = 128 + 30 * (0.9 * labels + rng.standard_normal(num_rows))
    ages = (40 + 20 * (1.5 * labels + rng.standard_normal(num_rows))).round().astype(int).astype(str).astype(object)
    sites = np.where(rng.random(num_rows) < 0.2 + 0.6 * labels, "head", rng.choice(["arm", "leg"], num_rows))
    ages[rng.random(num_rows) < 0.1], sites[rng.random(num_rows) < 0.1] = "", ""
    sites[-5:] = "foot"
    ids = [f"i{row:03}" for row in range(num_rows)]
    table = pd.DataFrame({"id": ids, "age": ages, "site": sites, "y": labels})
    for side, part in (("train", table[:NUM_TRAIN]), ("test", table[NUM_TRAIN:])):
        (folder / side).mkdir(parents=True)
        (part if side == "train" else part.drop(columns="y")).to_csv(folder / f"{side}.csv", index=False)
        for row, name in part["id"].items():
            pixels = np.clip(brightness[row] + 5 * rng.standard_normal((8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / side / f"{name}.png")
    for name, values in (("sample", 0.5), ("solution", labels[NUM_TRAIN:])):
        pd.DataFrame({"id": ids[NUM_TRAIN:], "y": values}).to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the made competition and a finished run of it, outputs/with."""
    folder = tmp_path_factory.mktemp("metadata")
    write_data(folder / "data")
    (folder / "made.yaml").write_text(COMPETITION)
    assert Forked("train.py", WITH_METADATA, folder, folder / "log").status() == 0, (folder / "log").read_text()
    return folder


def read_probs(path):
    return pd.read_csv(path).set_index("id")["y"]


def test_columns_beside_an_image_that_tells_little_pay(place):
    run_here("train.py", *WORDS, "name=without", cwd=place)
    pooled = {
        name: json.loads((place / f"outputs/{name}/scores.json").read_text())["pooled"] for name in ("with", "without")
    }
    assert 0.65 < pooled["without"] < 0.8
    assert pooled["with"] > 0.9
    assert not (place / "outputs/without/metadata.json").exists()
    printed, _ = run_here("infer.py", "run=outputs/with", "infer.tta=hflip", cwd=place)
    assert "5 of 60 cells of column 'site' are not among training's (first: 'foot'); they count as missing" in printed
    assert json.loads((place / "outputs/with/test_score.json").read_text())["score"] > 0.85


def test_another_process_elsewhere_predicts_the_validation_rows_as_training_did(place, tmp_path):
    """The run's folder is moved, and its training table is gone but for its rows as a test table, in another order."""
    shutil.copytree(place / "outputs/with", tmp_path / "moved")
    (tmp_path / "data").mkdir()
    shutil.copytree(place / "data/train", tmp_path / "data/images")
    rows = pd.read_csv(place / "data/train.csv", dtype=str).drop(columns="y").iloc[::-1]
    rows.to_csv(tmp_path / "data/rows.csv", index=False)
    words = ["run=moved", "competition.test_table=rows.csv", "competition.test_image=images/{id}.png"]
    words += ["competition.sample_submission=null", "competition.solution=null"]
    assert Forked("infer.py", words, tmp_path, tmp_path / "log").status() == 0, (tmp_path / "log").read_text()
    folds = pd.read_csv(tmp_path / "moved/folds.csv").set_index("id")["fold"]
    for fold in (0, 1):
        found = read_probs(tmp_path / f"moved/fold{fold}/test.csv")[folds.index[folds == fold]]
        np.testing.assert_allclose(found, read_probs(place / f"outputs/with/fold{fold}/val.csv"), rtol=1e-5)


def test_a_killed_run_ends_as_if_it_had_not_been(place):
    words = [*WITH_METADATA, "name=killed", "checkpoint_minutes=0", "mix.prob=0.5", "model.drop_rate=0.2"]
    whole = [*words[:-4], "name=whole", *words[-3:]]
    run_here("train.py", *whole, cwd=place)
    process = Forked("train.py", words, place, place / "killed.log")
    assert process.wait_for(lambda: any((place / "outputs/killed/fold0").glob("state_0003_*")))
    process.kill()
    run_here("train.py", *words, cwd=place)
    for name in ("oof.csv", "fold0/last.safetensors", "fold1/last.safetensors", "metadata.json"):
        assert (place / "outputs/killed" / name).read_bytes() == (place / "outputs/whole" / name).read_bytes()


def test_a_table_that_has_changed_is_refused_at_resume(place):
    table = place / "data/train.csv"
    text = table.read_text()
    table.write_text(text.replace(",head,", ",skull,"))
    try:
        _, error = run_here("train.py", *WITH_METADATA, "fold=0", cwd=place, status=2)
    finally:
        table.write_text(text)
    assert error == (
        "error: outputs/with/metadata.json: this run was trained on other metadata (site changed); choose name=ANOTHER "
        "or overwrite=true\n"
    )


def test_fold_all_a_teacher_and_pseudo_labels_give_it_too(place):
    run_here("infer.py", "run=outputs/with", cwd=place)
    taught = [*WITH_METADATA, "name=taught", "train.teacher=outputs/with", "train.pseudo=outputs/with", "fold=all"]
    run_here("train.py", *taught, "train.epochs=2", cwd=place)
    run_here("infer.py", "run=outputs/taught", cwd=place)
    assert json.loads((place / "outputs/taught/test_score.json").read_text())["score"] > 0.8


def test_a_soup_predicts_as_its_members_do(place, monkeypatch):
    shutil.copytree(place / "outputs/with", place / "outputs/twin")
    monkeypatch.chdir(place)
    make_soup(["outputs/with", "outputs/twin", "name=soup"])
    run_here("infer.py", "run=outputs/with", cwd=place)
    run_here("infer.py", "run=outputs/soup", cwd=place)
    with_, soup = (read_probs(place / f"outputs/{name}/submission.csv") for name in ("with", "soup"))
    np.testing.assert_allclose(soup, with_, rtol=1e-5)
    path = place / "outputs/twin/metadata.json"
    path.write_text(path.read_text().replace("head", "skull"))
    with pytest.raises(SystemExit):
        make_soup(["outputs/with", "outputs/twin", "name=other"])


def test_a_run_in_hand_predicts_and_shows_where_it_looks(place, monkeypatch):
    monkeypatch.chdir(place)
    run = open_run("outputs/with", "competition.root=data")
    ids = run.oof["id"][run.oof["fold"] == 0][:4]
    rows = pd.read_csv("data/train.csv", dtype=str).set_index("id").loc[ids]
    paths = [f"data/train/{name}.png" for name in ids]
    found = run.predict(paths, fold=0, metadata=rows)[:, 0]
    np.testing.assert_allclose(found, run.oof.set_index("id").loc[ids, "y"], rtol=1e-5)
    with pytest.raises(UserError) as caught:
        run.predict(paths)
    assert str(caught.value) == "predict: 0 rows of metadata for 4 images; give a DataFrame of age, site"
    inputs = run.load_inputs(ids)
    assert inputs["metadata"].shape == (4, 6)
    assert all(one is not None for one in run.compute_saliency(run.find_errors(4)))


@pytest.mark.parametrize("name", ["age", "site"])
def test_a_test_table_without_a_column_is_refused_before_training(place, name):
    table = place / "data/test.csv"
    text = table.read_text()
    pd.read_csv(table, dtype=str).drop(columns=name).to_csv(table, index=False)
    try:
        _, error = run_here("train.py", *WITH_METADATA, "name=refused", cwd=place, status=2)
    finally:
        table.write_text(text)
    other = {"age": "site", "site": "age"}[name]
    assert error == (
        f"error: data/test.csv: no column '{name}' of competition.metadata (found id, {other}); set "
        f"'competition.metadata=[{other}]'\n"
    )
    assert not (place / "outputs/refused").exists()
