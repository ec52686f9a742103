"""Whole programs under attack: each ends as its user would hope, with one line."""

import contextlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
import unicodedata

import cv2
import numpy as np
import pandas as pd
import pytest

from src.config.settings import REPOSITORY
from tests.launch import TINY, run_here, run_program

SMALL = ["model.backbone=test_resnet", "model.pretrained=false", *TINY, "train.epochs=1"]
SECRETS = {
    "WANDB_API_KEY": "5ec2e7" + "a1b2" * 8 + "99",
    "KAGGLE_KEY": "kaggle-key-5ec2e7",
    "KAGGLE_USERNAME": "kaggle-user-5ec2e7",
    "HF_TOKEN": "hf_5ec2e7",
}


def write_competition(root, ids, labels, names=None):
    """Write a folder with a training and a test image for each id; `names` are those of the files."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
        for name in names or ids:
            pixels = cv2.imencode(".png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))[1]
            (root / part / f"{name}.png").write_bytes(pixels.tobytes())
    pd.DataFrame({"번호": ids, "label": labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"번호": ids}).to_csv(root / "test.csv", index=False)


def adopt(folder, root):
    run_here("tools.adopt.__main__", str(root), "name=adopted", cwd=folder)


@contextlib.contextmanager
def serve(how):
    """A wandb server that takes every request and hangs, or answers 500; yields its address."""
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if how == "hangs":
                stop.wait()
            self.send_error(500)

        do_POST = do_GET

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stop.set()
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "reason"),
    [("hangs", "does not answer (timed out)"), pytest.param("fails", "answers 500", marks=pytest.mark.nightly)],
)
def test_a_server_that_hangs_or_fails_delays_no_training_and_no_secret_is_saved(tmp_path, how, reason):
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".netrc").write_text("machine api.wandb.ai login user password netrc-5ec2e7\n")
    (home / ".kaggle/kaggle.json").write_text('{"username": "file-5ec2e7", "key": "file-5ec2e7"}')
    work = tmp_path / "work"
    work.mkdir()
    words = [word for word in TINY if not word.startswith("tracking")]
    with serve(how) as address:
        environment = {**SECRETS, "HOME": str(home), "WANDB_MODE": "online", "WANDB_BASE_URL": address}
        began = time.perf_counter()
        printed, complained = run_program("train.py", *words, "fold=0", cwd=work, **environment)
        took = time.perf_counter() - began
    line = f"wandb: {address} {reason}; this run is tracked offline; wandb sync sends it later"
    assert complained.count(line) == 1
    assert took < 240  # 10 s of it without wandb, on two cores of one's own; a server that hangs does so for ever
    assert list(work.glob("outputs/*/wandb/offline-run-*/run-*.wandb"))
    written = {str(path): path.read_bytes() for path in work.rglob("*") if path.is_file()}
    assert len(written) > 100
    written |= {"stdout": printed.encode(), "stderr": complained.encode()}
    assert [name for name, content in written.items() if b"5ec2e7" in content] == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_korean_names_and_spaces(tmp_path, form):
    """A Mac writes the names of files decomposed, where the table has them composed."""
    root, ids = tmp_path / "데이터 폴더" / "경진 대회", [f"사진 {number:02}" for number in range(24)]
    write_competition(root, ids, ["건강", "질병"] * 12, [unicodedata.normalize(form, one) for one in ids])
    adopt(tmp_path, root)
    run_here("train.py", "competition=adopted", *SMALL, cwd=tmp_path)
    run_here("infer.py", cwd=tmp_path)
    submission = pd.read_csv(tmp_path / "outputs/adopted_default/submission.csv", dtype=str)
    assert submission["번호"].tolist() == ids


@pytest.mark.slow
def test_a_terminal_that_knows_no_korean(tmp_path):
    root, ids = tmp_path / "대회", [f"사진 {number:02}" for number in range(24)]
    write_competition(root, ids, ["건강", "질병"] * 12)
    adopt(tmp_path, root)
    words = ["competition=adopted", *SMALL]
    printed, _ = run_program("train.py", *words, cwd=tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert "\\uc9c8\\ubcd1" in printed
    # and where Python is told to read no Korean either, it is one line
    _, error = run_program("train.py", *words, cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", status=2)
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_one_image_of_each_class_is_refused_before_training(tmp_path):
    root, ids = tmp_path / "one", [f"i{number}" for number in range(8)]
    write_competition(root, ids, [f"c{number}" for number in range(8)])
    (tmp_path / "one.yaml").write_text(
        f"competition: {{root: {root}, train_table: train.csv, id: 번호, train_image: 'train/{{번호}}.png', "
        "test_image: 'test/{번호}.png', label: label, task: multiclass}\n"
    )
    _, error = run_here("train.py", f"competition={tmp_path / 'one.yaml'}", *SMALL, cwd=tmp_path, status=2)
    assert error == (
        "error: fold 0: target 'c0' has no positive in validation (1 in all); set competition.metric=log_loss, which "
        "needs none, or add images\n"
    )
    assert not list(tmp_path.glob("outputs/one_default/*"))


def test_an_image_that_goes_away_during_training_is_named(tiny_run, tmp_path, monkeypatch):
    from src.training import run

    folder, _ = tiny_run
    shutil.copytree(folder / "data", tmp_path / "data")
    gone, train_fold = tmp_path / "data/demo/train/d0003.png", run.train_fold

    def delete_and_train(*arguments, **more):
        gone.unlink()
        return train_fold(*arguments, **more)

    monkeypatch.setattr(run, "train_fold", delete_and_train)
    words = [word for word in TINY if not word.startswith("train.max_images")]
    for more in ([], ["train.num_workers=2"]):
        _, error = run_here("train.py", *words, "cache=off", "fold=0", *more, cwd=tmp_path, status=2)
        assert error == "error: data/demo/train/d0003.png: cannot be read (No such file or directory)\n"
        gone.write_bytes((folder / "data/demo/train/d0003.png").read_bytes())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a mount of its own")
def test_an_output_folder_that_cannot_be_written(tiny_run, tmp_path):
    folder, _ = tiny_run
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "outputs").mkdir()
    script = 'mount --bind outputs outputs && mount -o remount,bind,ro outputs && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, str(REPOSITORY / "train.py"), *TINY]
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount of its own here")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
