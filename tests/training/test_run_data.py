"""A run's rows, folds and targets stay the same as long as it lives."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from src.competition.image_files import Paths
from src.competition.tables import ImageTable
from src.config.load import config_yaml, load_config
from src.errors import UserError
from src.evaluation.metrics import build_metric
from src.files import load_json
from src.training.run_data import (
    check_weights,
    leave_out_unreadable,
    list_folds,
    load_run_data,
    save_folds,
    save_metadata,
)

FOLDS, TARGETS = np.array([0, 1, -1]), np.array([[1, 0], [0, 0.1], [1, 1]], np.float32)


def table_of(targets=TARGETS, ids=("007", "NA", "a,b"), folds=FOLDS, paths=None):
    ids = np.array(ids)
    paths = Paths.of([f"{one}.png" for one in ids]) if paths is None else paths
    targets = np.asarray(targets, np.float32)
    return ImageTable(ids=ids, paths=paths, targets=targets, target_names=("a", "b c"), groups=None, folds=folds)


def refusal(folder, table):
    with pytest.raises(UserError) as caught:
        save_folds(folder / "folds.csv", table, has_work=True)
    return str(caught.value).replace(str(folder / "folds.csv"), "FILE")


def test_they_are_saved_as_a_table(tmp_path):
    path = tmp_path / "folds.csv"
    save_folds(path, table_of(), has_work=False)
    text = 'id,fold,a,b c\n007,0,1.0,0.0\nNA,1,0.0,0.1\n"a,b",-1,1.0,1.0\n'
    assert path.read_text() == text
    save_folds(path, table_of(), has_work=True)
    assert path.read_text() == text


def test_what_has_changed_is_refused_while_the_run_has_work(tmp_path):
    path = tmp_path / "folds.csv"
    save_folds(path, table_of(), has_work=True)
    another = "choose name=ANOTHER or overwrite=true"
    line = f"FILE: this run was trained on other folds or rows; {another}"
    assert refusal(tmp_path, table_of(folds=FOLDS[::-1])) == line
    assert refusal(tmp_path, table_of(ids=("007", "NA", "a"))) == line
    assert refusal(tmp_path, table_of(TARGETS[:2], ids=("007", "NA"), folds=FOLDS[:2])) == line
    line = f"FILE: this run was trained on other labels or groups in 2 of 3 rows (first: NA); {another}"
    assert refusal(tmp_path, table_of([[1, 0], [0, 0.2], [0, 0]])) == line
    save_folds(path, table_of(folds=FOLDS[::-1]), has_work=False)
    save_folds(path, table_of(folds=FOLDS[::-1]), has_work=True)


def test_neither_an_encoding_nor_a_cell_may_change_while_the_run_has_work(tmp_path):
    path, site = tmp_path / "metadata.json", {"name": "site", "mean": None, "deviation": None, "words": ["a", "ä"]}
    table = replace(table_of(), metadata=np.eye(3, 2, dtype=np.float32), encoding=(site | {"has_missing": True},))
    save_metadata(path, table_of(), has_work=False)
    assert not path.exists()
    save_metadata(path, table, has_work=True)
    text = path.read_text()
    save_metadata(path, table, has_work=True)
    assert path.read_text() == text
    other = replace(table, encoding=(site | {"has_missing": False},))
    for changed, word in ((other, "site"), (replace(table, metadata=table.metadata[::-1].copy()), "cells")):
        with pytest.raises(UserError) as caught:
            save_metadata(path, changed, has_work=True)
        assert str(caught.value) == (
            f"{path}: this run was trained on other metadata ({word} changed); choose name=ANOTHER or overwrite=true"
        )
    save_metadata(path, other, has_work=False)
    assert load_json(path)["columns"] == [site | {"has_missing": False}]


def test_targets_that_are_missing_stay_the_same(tmp_path):
    path, gaps = tmp_path / "folds.csv", TARGETS.copy()
    gaps[1, 0] = np.nan
    save_folds(path, table_of(gaps), has_work=True)
    assert path.read_text() == 'id,fold,a,b c\n007,0,1.0,0.0\nNA,1,,0.1\n"a,b",-1,1.0,1.0\n'
    save_folds(path, table_of(gaps), has_work=True)
    line = "FILE: this run was trained on other labels or groups in 1 of 3 rows"
    assert refusal(tmp_path, table_of()).startswith(line)


def test_groups_are_saved_and_must_not_change(tmp_path):
    path, grouped = tmp_path / "folds.csv", replace(table_of(), groups=np.array(["01", "p2", "p2"]))
    save_folds(path, table_of(), has_work=True)
    save_folds(path, grouped, has_work=True)  # of an older version
    text = 'id,fold,group,a,b c\n007,0,01,1.0,0.0\nNA,1,p2,0.0,0.1\n"a,b",-1,p2,1.0,1.0\n'
    assert path.read_text() == text
    save_folds(path, grouped, has_work=True)
    line = "FILE: this run was trained on other labels or groups in 1 of 3 rows (first: 007)"
    assert refusal(tmp_path, replace(grouped, groups=np.array(["1", "p2", "p2"]))).startswith(line)


def test_a_file_of_an_older_version_holds_no_targets(tmp_path):
    (tmp_path / "folds.csv").write_text('id,fold\n007,0\nNA,1\n"a,b",-1\n')
    save_folds(tmp_path / "folds.csv", table_of(), has_work=True)


@pytest.mark.parametrize("content", ["", "id\n007\n", "id,fold\n007,x\nNA,1\nb,1\n", 'id,fold\n007,"0\n'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "folds.csv").write_text(content)
    assert refusal(tmp_path, table_of()) == "FILE: damaged; delete it and run the same command again"


def test_folds_that_validate_are_listed_and_another_is_refused():
    assert list_folds(load_config([]), table_of()) == [0, 1]
    assert list_folds(load_config(["fold=1"]), table_of()) == [0, 1]
    with pytest.raises(UserError) as caught:
        list_folds(load_config(["fold=2"]), table_of())
    assert str(caught.value) == "fold=2: this split has folds 0, 1 to validate on"


def test_unreadable_images_are_left_out_as_they_were_found_first(tmp_path):
    for name in ("007", "NA", "a,b"):
        (tmp_path / f"{name}.png").write_bytes(b"not an image")
    table = table_of(paths=Paths.of([str(tmp_path / f"{name}.png") for name in ("007", "NA", "a,b")]))
    path = tmp_path / "unreadable.csv"
    assert len(leave_out_unreadable(load_config([]), table, path)) == 3
    assert not path.exists()
    path.write_text("id,reason\nNA,broken\n")
    for words in ([], ["unreadable=skip"]):
        left = leave_out_unreadable(load_config(words), table, path)
        assert left.ids.tolist() == ["007", "a,b"]
        assert left.folds.tolist() == [0, -1]
    path.unlink()
    with pytest.raises(UserError, match="none of 3 images can be decoded"):
        leave_out_unreadable(load_config(["unreadable=skip"]), table, path)
    assert not path.exists()
    Image.new("L", (4, 4)).save(tmp_path / "NA.png")
    assert leave_out_unreadable(load_config(["unreadable=skip"]), table, path).ids.tolist() == ["NA"]
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["id", "007", '"a']


def test_weights_that_know_a_folds_validation_rows_are_refused(tmp_path):
    table, other = table_of(ids=list("abcd"), targets=np.eye(4, 2), folds=np.array([0, 1, 2, -1])), tmp_path / "other"
    run, first = tmp_path / "run", load_config(["name=run", f"competition.root={tmp_path}"])
    for number in (0, 1, "all"):
        (run / f"fold{number}").mkdir(parents=True)
        (run / f"fold{number}" / "last.safetensors").touch()
    (run / "config.yaml").write_text(config_yaml(first), encoding="utf-8")
    save_folds(run / "folds.csv", table, has_work=False)

    def check(weights, *folds, table=table, root=tmp_path):
        words = [f"competition.root={root}", f"model.weights={weights}", "model.pretrained=true"]
        check_weights(load_config(words), table, folds)

    check(run / "fold1", 1)
    check(run / "foldall", "all")
    check(run / "fold0", 1, root=other)
    check(run / "fold0", 0, 1, 2, table=replace(table, ids=np.array(list("efgh"))))
    for weights in (run / "fold0", run / "fold0" / "last.safetensors"):
        found = f"model.weights: {run}/fold0/last.safetensors has learned 1 of the 1 rows that fold 1 validates"
        with pytest.raises(UserError, match=f"^{found}; set fold=0, whose rows it has not seen$"):
            check(weights, 0, 1, 2)
    with pytest.raises(UserError, match="foldall/last.safetensors .* fold 0 validates; name weights of other rows$"):
        check(run, 0)
    with pytest.raises(UserError, match="^model.weights=a.pt: is not read with model.pretrained=false; set that to "):
        check_weights(load_config(["model.weights=a.pt", "model.pretrained=false"]), table, [0])


def test_test_rows_with_the_images_of_training_rows_or_with_fewer_are_told(tmp_path):
    for name in ("train.csv", "sample_submission.csv"):
        (tmp_path / name).write_text("id,y\n" + "".join(f"{one},{one % 2}\n" for one in range(4)), encoding="utf-8")
    for place in [f"{kind}/{one}" for kind in ("scans", "test") for one in range(4)]:
        (tmp_path / place).mkdir(parents=True)
        for number in range(2 if place.startswith("scans") else 1):
            (tmp_path / place / f"{number}.png").write_bytes(b"stub")
    words = [f"competition.{one}" for one in (f"root={tmp_path}", "images=scans/{id}/*", "targets=[y]", "label=null")]
    words += ["competition.test_table=null", "competition.solution=null", "competition.task=binary", "num_folds=2"]

    def read(*more):
        config = load_config([*words, "competition.classes=[]", *(f"competition.{one}" for one in more)])
        return load_run_data(config, build_metric("roc_auc", "binary")).notes

    [line] = read("test_image=test/{id}")  # the default, by which the images' own pattern counts
    found = "4 of 4 test rows have the image of a training row (first: 0); check competition.test_image"
    assert line == f"competition.images=scans/{{id}}/*: {found}"
    [line] = read("test_image=test/{id}/*", "num_images=2")
    found = "training rows have 2 different images or more, test rows 1 at most"
    assert line == f"competition.test_image=test/{{id}}/*: {found}; let competition.test_image find all of a row"
    with pytest.raises(UserError, match="test rows 1; .* find as many, or set competition.num_images=1$"):
        read("test_image=test/{id}/*")
    assert read("test_image=test/{id}/*", "num_images=1") == ()
