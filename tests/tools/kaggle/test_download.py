"""Downloads from the double: what is whole is taken, what is broken off is continued, and each refusal is one line."""

import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.config.settings import REPOSITORY
from src.errors import UserError
from tests.tools.kaggle.conftest import NAME
from tools.kaggle import download as module
from tools.kaggle.download import _fetch


def make_zip(files, compression=zipfile.ZIP_STORED):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return body.getvalue()


NESTED = make_zip({"train/a.jpg": b"inner" * 50})
FILES = {"train.csv": b"id,y\na,1\n", "train.zip": NESTED, "noise.bin": np.random.default_rng(0).bytes(200_000)}


@pytest.fixture
def fetch(kaggle, tmp_path):
    """fetch(): download and unzip, without what follows; return the folder's {file: bytes}."""
    kaggle.archive = make_zip(FILES)

    def run():
        _fetch(NAME, tmp_path / "data" / NAME)
        return {path.name: path.read_bytes() for path in (tmp_path / "data" / NAME).iterdir()}

    return run


def refusal(fetch):
    with pytest.raises(UserError) as error:
        fetch()
    return str(error.value)


def test_files_are_listed_downloaded_and_unzipped_and_a_zip_in_the_zip_stays(fetch, kaggle, tmp_path, capsys):
    assert fetch() == FILES
    assert capsys.readouterr().out.splitlines() == [
        "aerial-cactus-identification: 2 files, 0.0 MB",
        "        0.0 MB  train.zip",
        "        0.0 MB  train.csv",
    ]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME]


def test_a_partial_file_of_an_earlier_command_is_continued_by_its_bytes(fetch, kaggle, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the package's pauses between six tries
    kaggle.cuts = [140_000] + [0] * 5
    assert (
        refusal(fetch) == "kaggle: no connection (ChunkedEncodingError); run the same command again when there is one"
    )
    assert fetch() == FILES
    assert kaggle.ranges == [0, *[2**17] * 5, 0, 2**17]
    assert f"{NAME}.zip.partial: 0.1 MB of 0.2 MB are there, continuing" in capsys.readouterr().out


def test_of_another_file_nothing_is_appended(fetch, kaggle, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    kaggle.cuts = [140_000] + [0] * 5
    refusal(fetch)
    kaggle.archive, kaggle.etag = make_zip({"new.csv": b"x" * 300_000}), '"two"'
    assert fetch() == {"new.csv": b"x" * 300_000}


def test_a_break_within_a_command_is_continued_by_itself(fetch, kaggle, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    kaggle.cuts = [2**17]
    assert fetch() == FILES
    assert kaggle.ranges == [0, 2**17]


def test_a_damaged_file_is_downloaded_anew_and_nothing_of_it_is_kept(fetch, kaggle, tmp_path):
    whole = kaggle.archive
    at = whole.index(FILES["noise.bin"]) + 1000
    kaggle.archive = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    expected = "zip: damaged (Bad CRC-32 for file 'noise.bin'), and deleted; run the same command again"
    assert expected in refusal(fetch)
    assert not (tmp_path / "data" / NAME).exists()
    (tmp_path / "data" / f"{NAME}.download/files/train.csv").write_bytes(b"id,y\nb,0\n")  # as long as the true one
    kaggle.archive = whole
    assert fetch() == FILES


def test_unzipping_goes_on_where_it_was_broken_off(fetch, kaggle, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    extract, zipfile.ZipFile.extract = zipfile.ZipFile.extract, stop
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch()
    finally:
        zipfile.ZipFile.extract = extract
    unfinished = tmp_path / "data" / f"{NAME}.download"
    (unfinished / "files/train.csv").write_bytes(b"id,")  # a kill amid a file
    (unfinished / "files/noise.bin").write_bytes(bytes(200_000))  # in full size: not unzipped again
    kaggle.archive = b""  # nor is anything downloaded
    found = fetch()
    assert (found["train.csv"], found["noise.bin"]) == (FILES["train.csv"], bytes(200_000))
    assert kaggle.asked.count("DownloadDataFiles") == 1


def test_a_member_that_would_leave_the_folder_stays_in_it(fetch, kaggle, tmp_path):
    kaggle.archive = make_zip({"../../evil.txt": b"x", "train.csv": b"id\n"})
    assert fetch() == {"evil.txt": b"x", "train.csv": b"id\n"}
    assert not (tmp_path / "evil.txt").exists()


def test_a_disk_without_room_is_refused_before_a_byte_is_downloaded(fetch, kaggle, monkeypatch):
    kaggle.files = [("train.zip", 30_000_000_000)]
    usage = shutil.disk_usage(".")._replace(free=20_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = f"{NAME}.download: 20.0 GB are free, wanted are 0.2 MB for the zip and 30.0 GB unzipped; free some space"
    assert found in refusal(fetch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300_000))
    kaggle.files = []
    kaggle.archive = make_zip({"zeros.bin": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    assert "files: 0.3 MB are free, wanted are 10.0 MB unzipped; free some space" in refusal(fetch)


def test_a_full_disk_is_one_line(fetch, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert refusal(fetch).endswith("data: the disk is full; " + module._advise_on_disk())


def test_refusals_are_one_line_with_what_to_do(kaggle, refuse):
    page = f"https://www.kaggle.com/competitions/{NAME}/rules"
    kaggle.entered[NAME] = False
    said = "You must accept this competition's rules before you'll be able to download files"
    expected = f"{NAME}: its rules are not accepted ({said}); open {page}, accept them, and run the same command again"
    assert refuse("download", f"https://www.kaggle.com/competitions/{NAME}/overview") == expected
    line = refuse("download", "aerial-cactus-identificaton")
    assert line.startswith("aerial-cactus-identificaton: Kaggle knows no such competition, or its rules are not")
    assert line.endswith(f"; did you mean {NAME}?")
    kaggle.key = ("ann", "another")
    expected = "kaggle: the key is not accepted (Unauthorized); make another at https://www.kaggle.com/settings/api"
    assert refuse("download", NAME) == expected
    expected = "https://kaggle.org/x: no name of a competition; write the last part of its URL"
    assert refuse("download", "https://kaggle.org/x") == expected


def test_without_a_network_there_is_one_line(kaggle, refuse, monkeypatch):
    for key in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")  # where nothing listens
    expected = "kaggle: no connection (ProxyError); run the same command again when there is one"
    assert refuse("download", NAME) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["downlaod", "x"], "downlaod is no command; write download, submit, scores; did you mean download?"),
        (["download"], "no name given, download takes one competition; see --help"),
        (["download", "a", "b"], "a, b given, download takes one competition; see --help"),
        (["download", "a", "datadir=x"], "datadir is not known; download takes data_dir; did you mean data_dir?"),
        (["submit", "a", "-m"], "-m has no message; write -m 'what is new in it'"),
        (["submit", "a", "wait=5"], "wait=5: no time; write for example 0s, 90s, 30m or 2h"),
        (["submit", "a", "again=yes"], "again=yes is neither again=true nor again=false"),
    ],
)
def test_wrong_words_are_one_line(refuse, words, expected):
    assert refuse(*words) == f"command line: {expected}"


def run_tool(*words, cwd, environment, **options):
    words = [sys.executable, "-m", "tools.kaggle", *words]
    environment = os.environ | environment
    return subprocess.Popen(words, cwd=cwd, env=environment, text=True, **options)


@pytest.fixture
def ask(kaggle, tmp_path):
    """ask(**environment): what the program prints on stderr of a download into `here`, with this key alone."""

    def run(**given):
        kept = {key: value for key, value in kaggle.environment.items() if key not in ("KAGGLE_USERNAME", "KAGGLE_KEY")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        for key in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
            os.environ.pop(key, None)
        process = run_tool("download", NAME, "data_dir=here", cwd=tmp_path, environment=kept | given, **pipes)
        return process.communicate()[1]

    return run


@pytest.mark.slow
def test_without_a_key_there_is_one_line_that_says_how_to_get_one(ask):
    how = "make a token at https://www.kaggle.com/settings/api and save it in ~/.kaggle/access_token"
    expected = f"kaggle: no key was found; {how} (or set KAGGLE_API_TOKEN), or save kaggle.json in ~/.kaggle"
    assert ask() == f"error: {expected}\n"


@pytest.mark.slow
def test_a_token_is_taken_and_one_that_has_ended_is_told(ask, kaggle, tmp_path):
    found = "kaggle: the token in KAGGLE_API_TOKEN is not accepted"
    expected = f"error: {found}; make another at https://www.kaggle.com/settings/api\n"
    assert ask(KAGGLE_API_TOKEN="ended") == expected
    kaggle.archive = make_zip({"sample_submission.csv": "id,y\n"})
    assert "here/aerial-cactus-identification: no images" in ask(KAGGLE_API_TOKEN="good")  # of tools.adopt
    assert (tmp_path / "here" / NAME / "sample_submission.csv").is_file()


@pytest.mark.slow
def test_a_killed_download_is_continued(kaggle, fetch, tmp_path):
    kaggle.cuts, kaggle.stalls = [140_000], True
    partial = tmp_path / "data" / f"{NAME}.download" / f"{NAME}.zip.partial"
    first = run_tool("download", NAME, cwd=tmp_path, environment=kaggle.environment)
    end = time.monotonic() + 60
    while time.monotonic() < end and not (partial.is_file() and partial.stat().st_size == 2**17):
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert fetch() == FILES
    assert kaggle.ranges == [0, 0, 2**17]


@pytest.mark.nightly
@pytest.mark.parametrize("is_known", [False, True], ids=["new", "its file is there, its images in zips"])
def test_a_competition_is_downloaded_adopted_and_examined_once(kaggle, tmp_path, is_known):
    rng = np.random.default_rng(0)
    files = {"sample_submission.csv": "id,has_cactus\n" + "".join(f"t{k}.jpg,0.5\n" for k in range(10))}
    files["train.csv"] = "id,has_cactus\n" + "".join(f"{k}.jpg,{k % 2}\n" for k in range(40))
    images = {"train": {}, "test": {}}
    for name in [*(f"train/{k}.jpg" for k in range(40)), *(f"test/t{k}.jpg" for k in range(10))]:
        image = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(image, "JPEG")
        images[name.split("/")[0]][name] = image.getvalue()
    name = NAME if is_known else "new-trees"
    kaggle.entered[name] = True
    zips = {f"{key}.zip": make_zip(value) for key, value in images.items()}
    kaggle.archive, out = make_zip(files | (zips if is_known else images["train"] | images["test"])), {}
    for turn in (1, 2):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        out[turn] = run_tool("download", name, cwd=tmp_path, environment=kaggle.environment, **pipes).communicate()[0]
        recipe = NAME if is_known else "finetune"
        assert out[turn].splitlines()[-1].endswith(f"python train.py competition={name} recipe={recipe}"), out[turn]
    assert len(kaggle.ranges) == 1
    path = (REPOSITORY if is_known else Path()) / "configs" / "competition" / f"{name}.yaml"
    assert ("unpacked test.zip: 10 files into " if is_known else f"\nwrote {path}\n") in out[1]
    assert (tmp_path / "outputs/doctor" / name / "doctor.html").is_file()
    assert out[2].splitlines()[:3] == [
        f"data/{name}: is there already",
        f"{path}: is there already",
        f"outputs/doctor/{name}/doctor.json: is there already",
    ]
