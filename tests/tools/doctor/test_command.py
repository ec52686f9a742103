"""The command: a clean competition yields no finding, each planted fault is named, and the exit status says so."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from src.config.settings import REPOSITORY
from tests.tools.doctor.conftest import NUM_TEST, NUM_TRAIN
from tools.doctor.__main__ import main


def run(*words, cwd):
    command = [sys.executable, "-m", "tools.doctor", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_clean_competition_yields_no_finding(clinic, capsys):
    assert main(clinic.words()) == 0
    printed = capsys.readouterr().out
    page = clinic.folder / "outputs" / "doctor" / "clinic" / "doctor.html"
    command = f"python train.py competition={clinic.folder}/clinic.yaml output_dir={clinic.folder}/outputs"
    assert printed.endswith(f"\n\ndoctor: 0 errors, 0 warnings, 0 notes; {page}\nnext: {command}\n")
    assert "->" not in printed
    assert "Nothing was found." in page.read_text()
    assert {one.name for one in page.parent.iterdir()} == {"doctor.html", "doctor.json"}
    assert sorted(one.name for one in clinic.folder.iterdir()) == ["clinic.yaml", "data", "outputs"]
    assert not (clinic.root / ".cache").exists()
    for fact in (
        f"train {NUM_TRAIN} images",
        f"test  {NUM_TEST} images",
        "sizes 64x64 (160)",
        "kinds JPEG RGB (60)",
        "standard error of a fold's AUC",
        "AUC of what is not the image",
        "test against train",
        "samples of one image are distinct",
        "disk ",
        "memory ",
        "time    about",
    ):
        assert fact in printed


def test_augmentation_is_tried_on_an_image_that_is_not_blank(clinic, capsys):
    clinic.path(0).write_bytes(b"")
    for row in range(1, 20):
        clinic.draw(row, np.full((64, 64, 3), 9, np.uint8))
    assert main(clinic.words("unreadable=skip", "augment.preset=heavy")) == 0
    printed = capsys.readouterr().out
    assert "24 of 24 samples of one image are distinct" in printed
    assert "19 of 220 images are blank" in printed


def test_with_blank_images_only_augmentation_is_not_checked(clinic, capsys):
    for row in range(160):
        clinic.draw(row, np.full((64, 64, 3), 9, np.uint8))
    main(clinic.words(f"output={clinic.folder / 'elsewhere'}"))
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2].endswith(f"{clinic.folder / 'elsewhere' / 'doctor.html'}")
    assert not (clinic.folder / "outputs" / "doctor").exists()
    assert "160 of 220 images are blank" in printed
    assert "augmentation" not in printed


@pytest.mark.slow
def test_the_embedded_competition_yields_no_finding(tmp_path):
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = "doctor: 0 errors, 0 warnings, 0 notes; outputs/doctor/demo/doctor.html\nnext: python train.py\n"
    assert done.stdout.endswith(f"\n\n{last}")


@pytest.mark.slow
def test_status_1_is_an_error(clinic, capsys):
    clinic.path(3).write_bytes(b"")
    assert main(clinic.words("cache=off")) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "error    1 of 220 images cannot be decoded, 1 of them empty files" in printed.out
    assert max(map(len, printed.out.split("\nerror ")[1].splitlines()[:-2])) <= 80
    assert "doctor: 1 error, 0 warnings, 0 notes; " in printed.out.splitlines()[-2]
    assert printed.out.endswith(f"\nnext: python train.py {' '.join(clinic.words('cache=off', 'unreadable=skip'))}\n")


def test_status_2_is_a_mistake_in_the_words(clinic):
    done = run("competition=nowhere", cwd=clinic.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: competition=nowhere: no configs/competition/nowhere.yaml")
    assert done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy(tmp_path):
    program = "import sys; from tools.doctor.__main__ import main; main(['--help']); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: python -m tools.doctor [key=value ...] [output=FOLDER]\n")
    assert done.stdout.endswith("False\n")
    assert list(tmp_path.iterdir()) == []


def test_many_faults_at_once_are_all_named(clinic, capsys):
    """The planted competition: what each module's tests look at one by one, in one command."""
    table = clinic.read()
    ids = table["id"].to_numpy()
    clinic.path(0).write_bytes(b"")
    clinic.path(1).write_bytes(clinic.path(1).read_bytes()[:900])
    clinic.draw(2, np.full((64, 64, 3), 77, np.uint8))
    clinic.draw(3, clinic.pixels(3)[:9])
    other = int(np.flatnonzero(table["sick"] != table["sick"][4])[5])
    clinic.path(other).write_bytes(clinic.path(4).read_bytes())
    clinic.draw(5, cv2.resize(clinic.pixels(7, "test"), (64, 64)), quality=70)
    clinic.path(6).unlink()
    folds = pd.DataFrame({"id": ids[ids != ids[6]], "fold": np.arange(NUM_TRAIN - 1) % 2})
    folds.to_csv(clinic.folder / "my.csv", index=False)
    assert (
        main(clinic.words(f"folds={clinic.folder / 'my.csv'}", "augment.transforms=[{CoarseDropout: {max_holes: 3}}]"))
        == 1
    )
    printed = capsys.readouterr().out
    flat = " ".join(printed.split())
    for words in (
        f"1 of 160 train ids have no image {ids[6]}",
        "2 of 219 images cannot be decoded, 1 of them empty files",
        f"train/{ids[0]}.jpg: empty file",
        f"train/{ids[1]}.jpg: cannot be decoded as an image (900 bytes)",
        f"1 of 219 images are blank: one shade all over train/{ids[2]}.jpg",
        f"1 of 217 images are not 64x64 as the others are train/{ids[3]}.jpg 64x9",
        "1 pairs of the same training images with different labels",
        f"train/{ids[4]}.jpg = train/{ids[other]}.jpg",
        f"1 pairs of nearly the same images, one in train and one in test train/{ids[5]}.jpg = test/",
        "groups (patient) are in two folds",
        "augment.transforms: CoarseDropout has no max_holes",
    ):
        assert words in flat, words
