"""The command: what it prints and writes, unpacking, and the exact line of each refusal."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pandas as pd
import pytest
from PIL import Image

from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.errors import UserError
from tools.adopt.__main__ import main

WRITTEN = """\
# Written by python -m tools.adopt data/Tiny Cactus; check it, change it.
competition:
  root: "data/Tiny Cactus"  # the paths below start here
  train_table: train.csv  # 12 rows; id leads to the images
  test_table: null  # none; the sample has the ids
  sample_submission: sample_submission.csv  # 4 rows; asks for has_cactus
  id: id  # names a row in each table
  train_image: train/{id}  # all 12 training rows looked at have an image there
  test_image: test/{id}  # all 4 test rows looked at have an image there
  targets: [has_cactus]  # the sample asks for it; 0/1, 50.0 % are 1
  task: binary  # yes or no
  group: null  # no column named like a patient, slide or scene
  metric: roc_auc  # or average_precision
  channels: 3  # RGB
image_size: 64  # images are 32x32, shown larger
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny competition in data/Tiny Cactus, as a path from the current folder."""
    monkeypatch.chdir(tmp_path)
    for place, first, count in (("train", 0, 12), ("test", 12, 4)):
        (tmp_path / "data" / "Tiny Cactus" / place).mkdir(parents=True)
        names = [f"{number:03}.jpg" for number in range(first, first + count)]
        for name in names:
            Image.new("RGB", (32, 32)).save(tmp_path / "data" / "Tiny Cactus" / place / name)
        table = "train.csv" if place == "train" else "sample_submission.csv"
        rows = pd.DataFrame({"id": names, "has_cactus": [0, 1] * (count // 2)})
        rows.to_csv(tmp_path / "data" / "Tiny Cactus" / table, index=False)
    return "data/Tiny Cactus"


def test_the_program_writes_a_commented_file_and_names_the_next_command(folder, tmp_path):
    command = [sys.executable, "-m", "tools.adopt", folder]
    done = subprocess.run(command, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("data/Tiny Cactus: 16 images, 2 tables\n")
    assert done.stdout.endswith(
        "\nnothing was left undecided\n\nwrote configs/competition/tiny_cactus.yaml\n"
        "next: python -m tools.doctor competition=tiny_cactus\n"
        "then: python train.py competition=tiny_cactus\n"
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (tmp_path / "configs" / "competition" / "tiny_cactus.yaml").read_text() == WRITTEN
    assert load_config(["competition=tiny_cactus"]).image_size == (64, 64)
    failed = subprocess.run(
        [*command, "x"], env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False
    )
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: command line: 2 folders given, one is needed; python -m tools.adopt FOLDER")


def test_an_existing_file_is_kept_unless_it_is_the_same_or_overwritten(folder, tmp_path, capsys):
    path = tmp_path / "configs" / "competition" / "mine.yaml"
    main([folder, "name=mine"])
    main([folder, "name=mine"])
    assert f"\n{path.relative_to(tmp_path)} is unchanged\n" in capsys.readouterr().out
    path.write_text("image_size: 128\n")
    with pytest.raises(UserError) as caught:
        main([folder, "name=mine"])
    assert str(caught.value) == (
        "configs/competition/mine.yaml: exists and differs; add overwrite=true, or choose another name=NAME"
    )
    assert path.read_text() == "image_size: 128\n"
    main([folder, "name=mine", "overwrite=true"])
    assert path.read_text() == WRITTEN


USAGE = "python -m tools.adopt FOLDER [name=NAME] [output=FILE.yaml] [overwrite=true] [unzip=true]"

ELSEWHERE = "write configs/competition/NAME.yaml, with root: this URL, as docs/scale.md shows"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], f"command line: 0 folders given, one is needed; {USAGE}"),
        (["x", "nam=y"], f"command line: unknown word nam=y; did you mean name?; {USAGE}"),
        (["x", "unzip=1"], "command line: unzip=1 is neither unzip=true nor unzip=false"),
        (["x", "unzip=true", "unzip=1"], "command line: unzip=1 is neither unzip=true nor unzip=false"),
        (["x", "name=a", "output=b.yaml"], "command line: name=a and output=b.yaml; give one of them"),
        (["x", "output=b.txt"], "output=b.txt: not a YAML file; choose a name that ends in .yaml"),
        (["x", "name=a/b"], "command line: name=a/b is not a word of letters, digits, - and _"),
        (["x"], "x: no such folder; give the folder that holds a competition's data"),
        (["x", "unzip=true"], "x: no such folder; give the folder that holds a competition's data"),
        (["s3://b/x"], f"s3://b/x: what lies elsewhere cannot be adopted; {ELSEWHERE}"),
    ],
)
def test_wrong_words(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(words)
    assert str(caught.value) == line


def test_output_names_the_file_and_a_json_holds_what_is_printed(folder, tmp_path, capsys):
    main([folder, "output=elsewhere/mine.yaml"])
    printed = capsys.readouterr().out
    assert "wrote elsewhere/mine.yaml\nnext: python -m tools.doctor competition=elsewhere/mine.yaml\n" in printed
    assert (tmp_path / "elsewhere" / "mine.yaml").read_text() == WRITTEN
    saved = json.loads((tmp_path / "outputs" / "adopt" / "mine.json").read_text())
    assert (saved["num_images"], saved["num_tables"], saved["doubts"]) == (16, 2, [])
    assert saved["settings"]["competition.task"] == {"value": "binary", "reason": "yes or no"}
    (tmp_path / "elsewhere" / "mine.yaml").write_text("image_size: 128\n")
    with pytest.raises(UserError, match=r"exists and differs; add overwrite=true, or choose another output=FILE.yaml$"):
        main([folder, "output=elsewhere/mine.yaml"])


def test_help_is_narrow(capsys):
    main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines()[1:])) <= 80


def pack(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def test_zipped_images_are_read_in_place_or_unpacked_with_or_without_a_folder_inside(folder, tmp_path, capsys):
    root = tmp_path / folder
    for place, inside in (("train", "train/"), ("test", "")):
        files = sorted((root / place).iterdir())
        pack(root / f"{place}.zip", {f"{inside}{file.name}": file.read_bytes() for file in files} | {"__MACOSX/x": b""})
        for file in files:
            file.unlink()
        (root / place).rmdir()
    main([folder])
    written = (tmp_path / "configs" / "competition" / "tiny_cactus.yaml").read_text()
    assert "read inside train.zip, which need not be unpacked" in " ".join(capsys.readouterr().out.split())
    competition = load_config(["competition=tiny_cactus"]).competition
    assert (competition.train_image, competition.test_image) == ("train.zip/train/{id}", "test.zip/{id}")
    assert "doubt" not in written
    main([folder, "unzip=true", "overwrite=true"])
    assert "unpacked test.zip: 4 files into data/Tiny Cactus/test\n" in capsys.readouterr().out
    assert (tmp_path / "configs" / "competition" / "tiny_cactus.yaml").read_text() == WRITTEN
    (root / "test" / "012.jpg").write_bytes(b"half")
    main([folder, "unzip=true"])
    assert (root / "test" / "012.jpg").stat().st_size > 4


def test_archives_in_archives_are_unpacked_at_once(folder, tmp_path, capsys):
    root = tmp_path / folder
    files = {place: sorted((root / place).iterdir()) for place in ("train", "test")}
    pack(root / "train.zip", {file.name: file.read_bytes() for file in files["train"]})
    with tarfile.open(root / "test.tar.gz", "w:gz") as packed:
        for file in files["test"]:
            packed.add(file, f"test/{file.name}")
    names = ("train.zip", "test.tar.gz")
    pack(root / "inner.zip", {name: (root / name).read_bytes() for name in names})
    pack(root / "all.zip", {"inner.zip": (root / "inner.zip").read_bytes()})
    for path in (*files["train"], *files["test"], root / "inner.zip", *(root / name for name in names)):
        path.unlink()
    main([folder, "unzip=true"])
    printed = capsys.readouterr().out
    assert "unpacked train.zip: 12 files into data/Tiny Cactus/train\n" in printed
    assert "unpacked test.tar.gz: 4 files into data/Tiny Cactus\n" in printed
    assert (tmp_path / "configs" / "competition" / "tiny_cactus.yaml").read_text() == WRITTEN


def test_an_archive_that_no_program_here_unpacks_is_named_with_its_command(folder, tmp_path, capsys, monkeypatch):
    root = tmp_path / folder
    pack(root / "all.zip", {"test.7z": b""})
    shutil.rmtree(root / "test")
    monkeypatch.setenv("PATH", "")
    main([folder, "unzip=true"])
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "- still packed: test.7z; 7z x 'data/Tiny Cactus/test.7z' -o'data/Tiny Cactus'" in printed


def test_corrected_copies_are_written_beside_the_report(folder, tmp_path, capsys):
    rows = pd.read_csv(tmp_path / folder / "train.csv")
    host = rows.assign(id="train\\" + rows["id"]).to_csv(index=False)
    (tmp_path / folder / "train.csv").write_text(host)
    main([folder])
    copy = tmp_path / "outputs" / "adopt" / "tiny_cactus" / "train.csv"
    assert f"\nwrote {copy}\n" in capsys.readouterr().out
    assert pd.read_csv(copy)["image_file"].tolist() == [f"train/{one}" for one in rows["id"]]
    assert (tmp_path / folder / "train.csv").read_text() == host
    assert load_config(["competition=tiny_cactus"]).competition.train_table == str(copy)


def test_unsafe_and_damaged_archives_are_refused(folder, tmp_path):
    path = tmp_path / folder / "evil.zip"
    pack(path, {"inside.csv": "", "../../outside.txt": "x"})
    with pytest.raises(UserError) as caught:
        main([folder, "unzip=true"])
    assert str(caught.value) == (
        f"{folder}/evil.zip: its member ../../outside.txt would leave {folder}; unpack it by hand"
    )
    assert not (tmp_path / "outside.txt").exists()
    assert not (tmp_path / folder / "inside.csv").exists()
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"evil.zip: cannot be unpacked \(File is not a zip file\); download it again$"):
        main([folder, "unzip=true"])
