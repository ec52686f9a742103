"""A reader sees the old file or the new one, never half of it."""

import errno
import json
import os
import subprocess

import pandas as pd
import pytest

from src.errors import UserError
from src.files import atomic_path, delete_unfinished, load_json, save_json, save_table


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "scores.json"
    save_json(path, {"auc": 0.5})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of")
        raise RuntimeError
    assert load_json(path) == {"auc": 0.5}
    assert [one.name for one in tmp_path.iterdir()] == ["scores.json"]


def test_tables_and_json_come_back(tmp_path):
    table = pd.DataFrame({"id": ["001", "한글"], "x": [0.1, 0.25]})
    save_table(tmp_path / "new" / "oof.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "oof.csv", dtype={"id": str}), table)
    save_json(tmp_path / "a.json", {"name": "한글"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "한글"}


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "scores.json"
    with pytest.raises(OSError, match="full") as error, atomic_path(path):
        raise OSError(errno.ENOSPC, "full")
    assert error.value.filename == str(path)


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    save_json(tmp_path / "scores.json", {})
    for name in (".hidden", ".hidden.tmp", ".tmp"):
        (tmp_path / name).write_text("")
    done, writing = subprocess.Popen(["true"]), subprocess.Popen(["sleep", "9"])
    done.wait()
    with atomic_path(tmp_path / "oof.csv") as temporary:
        temporary.touch()
        own = temporary.name.split("-")[1]
    (tmp_path / "oof.csv").unlink()
    for number in (done.pid, os.getpid(), writing.pid):
        (tmp_path / f".scores.json.{number}.tmp").write_text("half of")
        (tmp_path / f".scores.json.{number}-{own}").write_text("half of")
    of_others = [f".scores.json.{done.pid}-00000000.tmp", f".old.json.{done.pid}-00000000.tmp"]
    for name in of_others:
        (tmp_path / name).write_text("half of")
    os.utime(tmp_path / of_others[1], (0, 0))
    delete_unfinished(tmp_path)
    writing.kill()
    writing.wait()
    kept = {".hidden", ".hidden.tmp", ".tmp", "scores.json", of_others[0]}
    kept |= {f".scores.json.{writing.pid}.tmp", f".scores.json.{writing.pid}-{own}"}
    assert {one.name for one in tmp_path.iterdir()} == kept


def test_json_that_holds_something_else_is_named(tmp_path):
    path = tmp_path / "meta.json"
    for content in ("null", "[1]", "{}", '{"fold": 0}'):
        path.write_text(content)
        with pytest.raises(UserError, match="meta.json: damaged, it holds no seconds; delete it and run the same comm"):
            load_json(path, "seconds")
    path.write_text('{"seconds": 1}')
    assert load_json(path, "seconds") == {"seconds": 1}


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / "meta.json"
    path.write_text('{"fold": 0, "targ')
    with pytest.raises(UserError, match=r"meta.json: damaged, not JSON \(Unterminated string"):
        load_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"meta.json: damaged, not JSON"):
        load_json(path)
