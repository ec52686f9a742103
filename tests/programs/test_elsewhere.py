"""A run on tables and images that lie elsewhere is bit for bit that on the same files of a folder."""

import cv2
import fsspec
import numpy as np
import pandas as pd
import pytest

from tests.http_server import Server
from tests.launch import TINY, run_here

pytestmark = pytest.mark.nightly


def make_files():
    """60 training and 12 test images with their tables, as {path: bytes}; ids have blanks, and letters for a URL."""
    rng, files = np.random.default_rng(0), {}
    ids = [f"no {number} ä?#%2e" if number % 3 == 0 else f"{number}" for number in range(72)]
    for number, one in enumerate(ids):
        pixels = rng.integers(0, 120, (24 + number % 5, 24, 3), np.uint8)
        pixels[..., 2] += np.uint8(number % 2 * 60)
        files[f"{'train' if number < 60 else 'test'}/{one}.jpg"] = cv2.imencode(".jpg", pixels)[1].tobytes()
    table = pd.DataFrame({"id": ids, "y": [number % 2 for number in range(72)]})
    files["train.csv"] = table[:60].to_csv(index=False).encode()
    files["sample.csv"] = table[60:].to_csv(index=False).encode()
    return files


def test_a_run_is_the_same_wherever_the_files_are(tmp_path, monkeypatch):
    monkeypatch.setattr("src.remote._PAUSE", 0.01)
    files = make_files()
    for name, content in files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    fsspec.filesystem("memory").pipe({f"/bucket/data/{name}": content for name, content in files.items()})
    (tmp_path / "here.yaml").write_text(
        "competition: {root: data, train_table: train.csv, sample_submission: sample.csv, targets: [y],\n"
        "  train_image: 'train/{id}.jpg', test_image: 'test/{id}.jpg'}\n"
        "model: {backbone: test_resnet, pretrained: false}\nnormalize: dataset\n"
    )
    faults = {name: [500] for name in [*files][:72:9]} | {"test/70.jpg": ["cut", "reset"]}
    with Server({f"my data/{name}": content for name, content in files.items()}) as server:
        server.faults = {f"my data/{name}": found for name, found in faults.items()}
        url = f"{server.url}/my data"
        of_patterns = [f"competition.{role}_image={url}/{role}/{{id}}.jpg" for role in ("train", "test")]
        places = {
            "files": ["cache=on", "train.num_workers=0"],
            "near_copy": [f"competition.root={url}", "train.num_workers=2", "unreadable=skip"],
            "each_epoch": [*of_patterns, "cache=off", "train.num_workers=2"],
            "memory": ["competition.root=memory://bucket/data", "competition.train_image=train/{id}.*"],
        }
        written = {}
        for name, words in places.items():
            before = server.asked.total()
            run_here("train.py", "competition=here.yaml", *words, *TINY, f"name={name}", cwd=tmp_path)
            asked = server.asked.total() - before
            # two tables, thrice each, two thirds of which are read to be hashed; images once to look, once to decode
            assert asked < {"files": 1, "near_copy": 220, "each_epoch": 500, "memory": 1}[name], asked
            run_here("infer.py", f"run=outputs/{name}", "threads=1", cwd=tmp_path)
            run = tmp_path / "outputs" / name
            written[name] = [(run / file).read_bytes() for file in ("oof.csv", "submission.csv")]
        for name in places:
            assert written[name] == written["files"], name
