"""Predictions in files: bit for bit those in memory, and no file of another submission, or a damaged one, is used."""

import errno
import os
import resource
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

from src import remote
from src.checkpointing.run_folder import FoldFolder
from src.competition.image_files import Paths
from src.config.load import load_config
from src.errors import UserError
from src.files import save_text
from src.inference import ensemble
from src.inference import prediction_parts as module
from src.inference.ensemble import ENSEMBLES, Predictions
from src.inference.prediction_parts import Parts, choose_part_rows, open_parts
from src.training import processes
from tests.runs import make_table

NAMES, TARGETS, NUM_ROWS = ["fold0", "foldall"], ["a", "a.b", "b"], 23
ROWS = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 19, 20, 21])  # of 23: 3, 11, 12 and 22 lack
PROBS = np.random.default_rng(0).random((2, len(ROWS), 3)).astype("f4")


def save_all(folder, fingerprint="f", rows=ROWS, probs=PROBS, num_rows=NUM_ROWS):
    parts = Parts(folder, fingerprint, NAMES, TARGETS, 4, rows, num_rows)
    for number, (first, last) in enumerate(parts.spans):
        parts.save(number, probs[:, first:last])
    return parts


def median_of_all(probs):
    return np.sort(probs, axis=1).mean(axis=0, dtype=np.float64)  # looks at all rows


@pytest.mark.parametrize("how", ["mean", "rank", "mine"])
@pytest.mark.parametrize("rows", [ROWS, np.arange(len(ROWS))], ids=["some", "all"])
def test_what_is_read_by_parts_equals_what_is_in_memory(tmp_path, monkeypatch, rows, how):
    monkeypatch.setitem(ENSEMBLES, "mine", median_of_all)
    monkeypatch.setattr(ensemble, "MOST_VALUES", 50)  # so that the average is on the disk, and a column at a time
    num_rows = NUM_ROWS if rows is ROWS else len(ROWS)
    parts, memory = save_all(tmp_path, rows=rows, num_rows=num_rows), Predictions(PROBS, rows, num_rows)
    square = (lambda values: values**2) if how == "mean" else (lambda values: values)
    average = parts.average(how, square)
    assert isinstance(average, np.memmap)
    np.testing.assert_array_equal(average, memory.average(how, square))
    filled = np.repeat(PROBS.mean(axis=1, dtype="f8", keepdims=True).astype("f4"), num_rows, axis=1)
    filled[:, rows] = PROBS
    np.testing.assert_allclose(average, square(ENSEMBLES[how](filled)), rtol=1e-12)
    for found in (parts, memory):
        blocks = list(found.blocks(slice(1, 2)))
        np.testing.assert_array_equal(np.concatenate([one for _, one in blocks], axis=1), filled[1:2])
        assert [row for some, _ in blocks for row in range(num_rows)[some]] == list(range(num_rows))
    table = pd.read_parquet(parts.path(1))
    assert list(table) == ["row", *(f"{name}:{target}" for name in NAMES for target in TARGETS)]
    assert table["row"].tolist() == rows[4:8].tolist()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match=f"File too large: .*{tmp_path}"):
            parts.average(how, square)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", Mock(side_effect=full), raising=False)  # else a write into it crashes
    with pytest.raises(OSError, match=f"No space left on device: .*{tmp_path}"):
        parts.average(how, square)
    parts.delete()
    assert not tmp_path.exists()


def test_a_part_that_is_damaged_or_of_another_submission_is_not_there(tmp_path):
    parts = save_all(tmp_path)
    content = parts.path(1).read_bytes()
    place = content.index(PROBS[0, 4:8, 1].tobytes())
    damaged = content[:place] + b"\0" + content[place + 1 :]
    for one in (damaged, content[:place], content[:-1], content[:3], b""):
        parts.path(1).write_bytes(one)
        assert not parts.is_there(1)
    for other in (
        parts.path(2),
        save_all(tmp_path / "other", "g").path(1),
        save_all(tmp_path / "x", rows=ROWS + 1).path(1),
    ):
        parts.path(1).write_bytes(other.read_bytes())
        assert not parts.is_there(1)
    with pytest.raises(UserError) as caught:
        parts.average("mean", lambda values: values)
    advice = "damaged or gone; run the same command again, which predicts it anew"
    assert str(caught.value) == f"{parts.path(1)}: {advice}"
    parts.path(1).write_bytes(content)
    assert all(map(parts.is_there, range(5)))
    save_text(tmp_path / "mine.txt", "")
    parts.delete()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "other", "x"]


@pytest.mark.parametrize(
    ("words", "rows", "values", "processes", "expected"),
    [
        ([], 99_999, 10, 1, None),
        ([], 100_000, 10, 1, 8192),
        ([], 100_000, 5000, 1, 3392),  # 2^24 / 5000 = 3355.4, in whole batches of 64
        ([], 20_000, 5000, 1, 3392),
        ([], 1000, 2, 2, 512),
        ([], 10, 2, 4, 64),
        (["infer.part_rows=100"], 1000, 2, 1, 128),
        (["infer.part_rows=100"], 1000, 2, 3, 128),
        (["infer.time_budget=1h"], 10**6, 2, 1, None),
    ],
)
def test_rows_of_a_part(words, rows, values, processes, expected):
    config = load_config(["infer.batch_size=64", *words])
    assert choose_part_rows(config, rows, values, processes) == expected


def test_what_parts_cannot_do_is_one_line(monkeypatch, capsys):
    lines = {
        "infer.time_budget=1h": "infer.time_budget=1h: one process alone keeps to it; leave it out, or run infer.py "
        "without torchrun",
        "infer.engine=auto": "infer.engine=auto: each process might choose another; "
        "set infer.engine=onnxruntime or torch",
    }
    for word, line in lines.items():
        with pytest.raises(UserError) as caught:
            choose_part_rows(load_config([word]), 10, 2, 2)
        assert str(caught.value) == line
    with pytest.raises(UserError) as caught:
        load_config(["infer.part_rows=100", "infer.time_budget=1h"])
    reason = "infer.time_budget drops folds and views for all rows alike, which finished parts cannot"
    assert str(caught.value) == f"infer.part_rows=100: {reason}; leave out one of them"
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    lacks = "predictions go to parts, which need pyarrow; pip install pyarrow"
    for words, count in (["infer.part_rows=100"], 1), ([], 2):
        with pytest.raises(UserError) as caught:
            choose_part_rows(load_config(words), 10, 2, count)
        assert str(caught.value) == f"infer.py: {lacks}"
    assert choose_part_rows(load_config([]), 10**6, 2, 1) is None
    rest = "without it all are in memory, and a killed infer.py begins anew"
    assert capsys.readouterr().out == f"1000000 test images: {lacks}; {rest}\n"


def test_a_submission_is_another_one_where_anything_differs_that_decides_it(tmp_path, monkeypatch):
    """Weights, settings of the network and its views, test rows, image files; not how many processes or threads."""
    table = make_table(tmp_path, np.zeros((4, 8, 8), np.uint8), np.zeros((4, 1)))
    fold, base = FoldFolder(tmp_path / "fold0"), ["infer.batch_size=2"]
    save_text(fold.weights("last"), "w")

    def open_(words=(), table=table, rows=(0, 1, 2, 3), size=2):
        found = open_parts(
            tmp_path / "parts", load_config([*base, *words]), [fold], table, np.array(rows), size,
            torch.device("cpu"),
        )  # fmt: skip
        return found.fingerprint

    first = open_()
    same = (["threads=1", "train.num_workers=3", "report=false", "infer.average=rank", "infer.output=x", "name=other"],)
    for words in same:
        assert open_(words) == first
    kept = tmp_path / "parts/part_000000.parquet"
    save_text(kept, "")
    open_()
    assert kept.exists()
    open_(["infer.tta=vflip"])
    assert not kept.exists()
    seen = {first}
    for one in (
        {"words": ["infer.tta=hflip"]}, {"words": ["image_size=64"]}, {"words": ["infer.batch_size=4"]}, {"size": 4},
        {"words": ["precision=bf16"]}, {"rows": [0, 1, 3]}, {"table": replace(table, ids=table.ids[::-1])},
        {"table": replace(table, metadata=np.ones((4, 1), "f4"))}, {"table": replace(table, paths=table.paths[::-1])},
    ):  # fmt: skip
        seen.add(open_(**one))
    save_text(fold.weights("last"), "v")
    seen.add(open_())
    os.utime(tmp_path / "2.png", (0, 0))
    seen.add(open_())
    seen.add(open_(["device_kwargs.tf32=all"]))
    elsewhere = replace(table, paths=Paths.of(f"memory://infer/{number}.png" for number in range(4)))
    for listed in (1, 2), (1, 3), (2, 3):  # bytes and version
        monkeypatch.setitem(remote._LISTED, "memory://infer", {"2.png": listed})
        seen.add(open_(table=elsewhere))
    assert len(seen) == 16


def test_a_process_that_has_other_rows_or_another_folder_is_refused(tmp_path, monkeypatch):
    table = make_table(tmp_path, np.zeros((4, 8, 8), np.uint8), np.zeros((4, 1)))
    fold = FoldFolder(tmp_path / "fold0")
    save_text(fold.weights("last"), "w")

    def open_as_second():
        open_parts(tmp_path / "parts", load_config([]), [fold], table, np.arange(4), 2, torch.device("cpu"))

    monkeypatch.setattr(module, "_PATIENCE", 1)
    monkeypatch.setattr(processes.platform, "node", lambda: "host2")
    monkeypatch.setattr(module, "save_text", lambda *_: None)  # so that it is not seen
    with pytest.raises(UserError) as caught:
        open_as_second()
    advice = "set infer.output to a folder that all hosts share"
    assert str(caught.value) == f"process 0 (host host2): does not see {tmp_path}/parts of the first; {advice}"
    monkeypatch.setattr(processes, "gather_object", lambda found: [("host1", found[0][1] | {"seed": "1"}), *found])
    with pytest.raises(UserError) as caught:
        open_as_second()
    advice = "give every host the same command, code and tables"
    assert str(caught.value) == f"process 1 (host host2): seed is 42, on process 0 1; {advice}"
