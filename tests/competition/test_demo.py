"""The embedded competition is the digits, whole, split once, and readable by the rest of the room."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from src.competition import demo
from src.competition.submission import check_sample, load_sample
from src.competition.tables import load_solution, load_test_table, load_train_table
from src.config.load import load_config
from src.errors import UserError

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "below" / "demo"
    demo.write_demo(folder)
    return folder


def test_all_digits_are_there_once_with_their_labels(root):
    rows = pd.concat([pd.read_csv(root / name, dtype=str) for name in ("train.csv", "solution.csv")])
    assert len(rows) == rows["id"].nunique() == 1797
    written = []
    for part in ("train", "test"):
        for path in (root / part).iterdir():
            with Image.open(path) as image:
                assert image.mode == "L"
                written.append((path.stem, np.asarray(image).tobytes()))
    labels = rows.set_index("id")["label"]
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
    expected = sorted((one.tobytes(), str(label)) for one, label in zip(pixels, digits.target, strict=True))
    assert sorted((content, labels[name]) for name, content in written) == expected


def test_the_room_reads_it_through_its_competition_file(root):
    competition = load_config(["competition=demo", f"competition.root={root}"]).competition
    train = load_train_table(competition)
    test = load_test_table(competition, train.target_names)
    solution = load_solution(competition, test)
    check_sample(load_sample(competition), competition, test, train.target_names)
    assert train.target_names == DIGITS
    assert (len(train), len(test)) == (1437, 360)
    assert train.ids[0] == "d0000"
    assert not set(train.ids) & set(test.ids)
    shares = solution.sum(axis=0) / (solution.sum(axis=0) + train.targets.sum(axis=0))
    np.testing.assert_allclose(shares, 0.2, atol=0.005)
    assert train.targets[:20].argmax(axis=1).tolist() != sorted(train.targets[:20].argmax(axis=1))


def test_it_is_written_once_and_always_the_same(root, tmp_path):
    demo.write_demo(tmp_path / "again")
    for name in ("train.csv", "test.csv", "sample_submission.csv", "solution.csv", "train/d0000.png", "test/d1437.png"):
        assert (tmp_path / "again" / name).read_bytes() == (root / name).read_bytes()
    before = (root / "train.csv").stat().st_mtime_ns
    (root / "test.csv").touch()
    demo.write_demo(root)
    assert (root / "train.csv").stat().st_mtime_ns == before
    assert [path.name for path in root.parent.iterdir()] == ["demo"]


def test_a_stop_midway_leaves_no_half_folder(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        demo.write_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("mine")
    with pytest.raises(UserError) as caught:
        demo.write_demo(tmp_path / "demo")
    assert str(caught.value) == (
        f"{tmp_path / 'demo'}: the demo cannot be written there (Directory not empty); empty it or set competition.root"
    )
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["mine.txt"]


def test_a_demo_that_lies_elsewhere_is_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo.write_demo("http://127.0.0.1:9/demo")
    assert not list(tmp_path.iterdir())
