"""Files elsewhere: whole or an error of one line, whatever the server does; no secret is kept, no cell makes a URL."""

import os
import subprocess
import sys

import fsspec
import numpy as np
import pytest

from src import remote
from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.containers import is_file, read_file, stat_file
from src.errors import UserError
from src.remote import Unreachable, check_url, is_url, list_folder
from tests.http_server import Server

FILE = bytes(range(256)) * 300


def line_of(function, *words, kind=UserError):
    with pytest.raises(kind) as caught:
        function(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_whole_after_what_servers_do_now_and_then(quick):
    faults = {"reset": ["reset"], "cut": ["cut", "cut"], "busy": [500, 503, 429, 408], "slow": ["slow"]}
    with Server(dict.fromkeys(faults, FILE), faults) as server:
        for name, once in {name: len(found) for name, found in faults.items()}.items():
            assert read_file(f"{server.url}/{name}") == FILE
            assert server.asked[name] == once + 1


def test_what_never_comes_is_one_line(quick, monkeypatch):
    faults = {"down": [500] * 9, "cut": ["cut"] * 9, "slow": ["slow"] * 9, "secret": [403], "gone": [410], "odd": [400]}
    faults["later"] = [202] * 9
    files = dict.fromkeys([*faults, "large", "endless"], FILE) | {"login": b"\n<!DOCTYPE html><p>Log in</p>"}
    with Server(files, faults | {"endless": ["endless"]}) as server:
        advice = "; repeat the command, which resumes"
        url = f"{server.url}/down"
        assert line_of(read_file, url, kind=Unreachable) == (
            f"{url}: cannot be read in 5 tries (500 Internal Server Error){advice}"
        )
        url = f"{server.url}/slow"
        line = f"{url}: cannot be read in 5 tries (no answer in time){advice}"
        assert line_of(read_file, url, kind=Unreachable) == line
        assert "in 5 tries" in line_of(read_file, f"{server.url}/cut", kind=Unreachable)
        line = "in 5 tries (OSError answer 202, which holds no whole file)"
        assert line in line_of(read_file, f"{server.url}/later", kind=Unreachable)
        line = "in 5 tries (OSError a web page came in its place, as of a login or a limit)"
        assert line in line_of(read_file, f"{server.url}/login", kind=Unreachable)
        for url in (f"{server.url}/none", f"{server.url}/gone"):
            assert line_of(read_file, url) == f"{url}: cannot be read (no such file); check root, pattern and id"
        assert "(403 Forbidden); give credentials" in line_of(read_file, f"{server.url}/secret")
        assert "(400 Bad Request); check root, pattern" in line_of(read_file, f"{server.url}/odd")
        assert server.asked["none"] == server.asked["secret"] == server.asked["odd"] == 1
        monkeypatch.setattr(remote, "MAX_BYTES", len(FILE) - 1)
        for name in ("large", "endless"):
            assert "is over 0 GB; scale it down" in line_of(read_file, f"{server.url}/{name}")
    assert "in 5 tries (ClientConnectorError" in line_of(read_file, f"{server.url}/large", kind=Unreachable)


def test_files_are_fetched_at_once_and_each_only_once(quick):
    files = {f"{number}.jpg": bytes([number]) * 1000 for number in range(12)}
    with Server(files, {"3.jpg": [404]}, delay=0.2) as server:
        urls = [f"{server.url}/{name}" for name in files]
        remote.request([*urls, *urls, "a/local/file"])
        assert "(no such file)" in line_of(read_file, urls.pop(3))
        assert [read_file(url) for url in urls] == [one for name, one in files.items() if name != "3.jpg"]
        assert set(server.asked.values()) == {1}
        assert server.most_at_once >= 6


def test_credentials_come_from_fsspecs_settings_and_netrc(tmp_path):
    """In a process of its own, as fsspec reads them once."""
    with Server({"a": b"found"}) as server:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hidden\n")
        given = {"HOME": str(tmp_path), "FSSPEC_HTTPS": '{"params": {"sig": "hidden/+"}, "headers": {"X-Mine": "1"}}'}
        code = f"from src.containers import read_file; print(read_file('{server.url}/a'))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | given
        )
        assert (done.stdout, done.stderr) == ("b'found'\n", "")
        assert [*server.asked] == ["a?sig=hidden/%2B"]
        assert (server.headers[0]["Authorization"], server.headers[0]["X-Mine"]) == ("Basic bWU6aGlkZGVu", "1")


def test_folders_are_listed_with_what_changes_with_a_file():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/listed/train/1.jpg": FILE, "/listed/train/2.jpg": b"", "/listed/train/deep/3.jpg": b"3"})
    assert list_folder("memory://listed/train") == ({"1.jpg", "2.jpg"}, {"deep"})
    assert list_folder("memory://listed/none") == (set(), set())
    assert [stat_file(f"memory://listed/train/{name}.jpg")[0] for name in "129"] == [len(FILE), 0, -1]
    assert is_file("memory://listed/train/1.jpg")
    assert not is_file("memory://listed/")
    assert read_file("memory://listed/train/1.jpg") == FILE
    assert "(no such file)" in line_of(read_file, "memory://listed/none")
    before = stat_file("memory://listed/train/1.jpg")
    memory.pipe("/listed/train/1.jpg", FILE)
    list_folder("memory://listed/train")
    assert stat_file("memory://listed/train/1.jpg") != before


def test_what_is_no_url_and_which_urls_are_refused(monkeypatch):
    assert not any(map(is_url, ("/a/http://b", "C:/a", "train/1.jpg", "simplecache::s3://a", "a b://c", "")))
    for url in (
        "file:///etc",
        "reference://a.json",
        "git://x",
        "zip://a::http://b",
        "HTTP://a/b",
        "github://org:repo@main/a",
    ):
        assert "is not read" in line_of(check_url, "root", url)
    for url in ("https://{id}/a", "s3://b{id}/a", "https:///a", "s3://a::http:/b", "http://*/{id}.jpg"):
        assert line_of(check_url, "root", url) == "root: names no server; write it out, as https://host/train/{id}.jpg"
    for url in ("http://[::1]:80/a/{id}.jpg", "abfs://container@account/a", "memory://a", "s3://b/a*/{id}.jpg"):
        check_url("root", url)


@pytest.mark.parametrize("key", ["root", "train_image", "sample_submission"])
def test_no_setting_keeps_a_secret_and_no_line_shows_it(key):
    for url in (
        "https://me:hidden@host/a",
        "https://hidden@host/a",
        "s3://me:hidden@bucket/a",
        "https://host?hidden=a",
    ):
        line = line_of(load_config, [f"competition.{key}={url}"])
        assert f"command line: competition.{key}=" in line
        assert "config.yaml would keep" in line
        assert "hidden" not in line
        assert "***" in line
    assert "hidden" not in line_of(load_config, ["https://me:hidden@host/a"])
    assert load_config(["competition.root=https://host/a//"]).competition.root == "https://host/a"
    assert load_config(["competition.root=memory://"]).competition.root == "memory://"


def test_a_library_that_is_missing_is_named(monkeypatch):
    for protocol, package in (("s3", "s3fs"), ("gs", "gcsfs")):
        monkeypatch.setitem(sys.modules, package, None)
        line = f"{protocol}://bucket/a.jpg: needs a library that is not installed; pip install {package}"
        assert line_of(read_file, f"{protocol}://bucket/a.jpg") == line


def test_zip_hdf5_and_parquet_files_elsewhere_are_one_line():
    for url in ("https://data.zip/a/train.zip/1.jpg", "s3://b/train.parquet"):
        wrong = f"{url}: zip, HDF5 and parquet files are read on the disk; download it and name that file"
        assert line_of(read_file, url) == wrong


def test_local_files_do_without_fsspec(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    code = (
        "import sys; from src.config.settings import Competition; from src.data.decode import decode_image;"
        f"decode_image('{tmp_path}/a.npy', Competition(channels=1)); print({{'fsspec', 'aiohttp'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "set()\n"


def test_a_folder_that_cannot_be_listed_now_is_not_taken_for_empty(quick, monkeypatch):
    """No file system here fails by itself: the memory one is made to, as object stores do now and then."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/failing/1.jpg", b"1")
    faults, plain = [ConnectionResetError("reset"), TimeoutError()], memory.ls

    def fail(*words, **named):
        if faults:
            raise faults.pop()
        return plain(*words, **named)

    monkeypatch.setattr(memory, "ls", fail)
    assert list_folder("memory://failing") == ({"1.jpg"}, set())
    faults += [PermissionError("denied")]
    line = "memory://failing: cannot be read (PermissionError denied); give credentials as docs/scale.md says"
    assert line_of(list_folder, "memory://failing") == line
