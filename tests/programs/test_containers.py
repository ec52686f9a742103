"""A run on images inside HDF5, zip and parquet files is bit for bit that on the same images as files."""

import zipfile

import cv2
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.launch import TINY, run_here

pytestmark = pytest.mark.slow


def write_images(root):
    """60 training and 12 test images as ISIC 2024 has them, four times."""
    rng, jpegs = np.random.default_rng(0), {}
    for number in range(72):
        pixels = rng.integers(0, 120, (24 + number % 5, 24, 3), np.uint8)
        pixels[..., 2] += np.uint8(number % 2 * 60)
        jpegs[f"ISIC_{number:07}"] = cv2.imencode(".jpg", pixels)[1].tobytes()
    names = list(jpegs)
    for role, ids in (("train", names[:60]), ("test", names[60:])):
        table = pd.DataFrame({"isic_id": ids, "target": [int(one[-1]) % 2 for one in ids], "patient_id": ids})
        table.to_csv(root / f"{role}-metadata.csv", index=False)
        (root / f"{role}-image").mkdir()
        for one in ids:
            (root / f"{role}-image" / f"{one}.jpg").write_bytes(jpegs[one])
        with h5py.File(root / f"{role}-image.hdf5", "w") as file:
            for one in ids:
                file[one] = np.void(jpegs[one])
        with zipfile.ZipFile(root / f"{role}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for one in ids:
                packed.writestr(f"{role}/{one}.jpg", jpegs[one])
        table = pa.table({"isic_id": ids, "image": [jpegs[one] for one in ids]})
        pq.write_table(table, root / f"{role}.parquet", row_group_size=7)


def test_a_run_is_the_same_wherever_the_images_are(tmp_path):
    write_images(tmp_path)
    tables = "train_table: train-metadata.csv, test_table: test-metadata.csv, id: isic_id, targets: [target]"
    network = "model: {backbone: test_resnet, pretrained: false}\nnormalize: dataset\n"
    (tmp_path / "isic.yaml").write_text(f"competition: {{root: {tmp_path}, {tables}}}\n{network}")
    places = {
        "files": "train-image/{isic_id}.jpg",
        "hdf5": "train-image.hdf5/{isic_id}",
        "zip": "train.zip/train/{isic_id}.jpg",
        "parquet": "train.parquet/{isic_id}",
    }
    written = {}
    for name, place in places.items():
        given = [f"competition.train_image={place}", f"competition.test_image={place.replace('train', 'test')}"]
        given += ["cache=off" if name == "hdf5" else "cache=on", "train.num_workers=2"]
        run_here("train.py", "competition=isic.yaml", *given, *TINY, f"name={name}", cwd=tmp_path)
        run_here("infer.py", f"run=outputs/{name}", "threads=1", cwd=tmp_path)
        files = ("oof.csv", "submission.csv")
        written[name] = [(tmp_path / "outputs" / name / file).read_bytes() for file in files]
    assert all(one == written["files"] for one in written.values())
