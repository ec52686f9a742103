"""Bundles: what they hold, what they refuse, and that infer.sh writes infer.py's submission wherever it lies."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.checkpointing.serialization import read_weights, save_weights
from src.config.load import config_yaml, load_config, load_saved_config
from src.config.settings import REPOSITORY
from src.errors import UserError
from tests.launch import TINY, run_here
from tools.blend.__main__ import main as blend
from tools.bundle import offline
from tools.bundle.__main__ import main
from tools.bundle.contents import halve, list_roots
from tools.bundle.wheels import list_missing, list_requirements, read_image

RUN = ["competition.test_table=test.csv", "competition.sample_submission=sample.csv", "competition.id=image"]


@pytest.fixture
def write_run(tmp_path, monkeypatch):
    """write(name, *words, folds=(0, 1)): the path of a run that only looks trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    monkeypatch.delenv("KAGGLE_CONFIG_DIR", raising=False)

    def write(name, *words, folds=(0, 1)):
        folder = tmp_path / "outputs" / name
        config = load_config([f"name={name}", f"competition.root={tmp_path}/host/data", *RUN, *words])
        for fold in folds:
            (folder / f"fold{fold}").mkdir(parents=True)
            (folder / f"fold{fold}" / "meta.json").write_text(json.dumps({"target_names": ["0", "1"]}))
            (folder / f"fold{fold}" / "last.safetensors").write_bytes(bytes(1000))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config_yaml(config))
        (folder / "folds.csv").write_text("id,fold,target_0\na,0,1\nb,1,0\n")
        (folder / "oof.csv").write_text("id,fold,target_0,0\na,0,1,0.5\nb,1,0,0.5\n")
        (folder / "provenance.json").write_text(json.dumps({"folder": str(tmp_path)}))
        (folder / "wandb").mkdir()
        (folder / "wandb/key").write_text("secret")
        return f"outputs/{name}"

    return write


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")


def read_json(path):
    return json.loads(Path(path).read_text())


def list_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_a_bundle_holds_what_infer_needs_and_nothing_of_this_machine(write_run, tmp_path, capsys):
    host = f"{tmp_path}/host/data"
    path = write_run(
        "r", f"model.weights={tmp_path}/w.safetensors", f"competition.train_table={host}/train.csv",
        f"competition.solution={tmp_path}/secret.csv", f"competition.test_image={host}/test/{{image}}.png",
        f"cache_dir={tmp_path}/cache", f"train.teacher={tmp_path}/outputs/t", f"folds={tmp_path}/my.csv",
    )  # fmt: skip
    main([path, "output=out/bundle", "wheels=none", "infer.tta=hflip"])
    files = list_files("out/bundle")
    assert [one for one in files if not one.startswith("code/")] == [
        "bundle.json", "dataset-metadata.json", "infer.sh", "kernel-metadata.json", "notebook.ipynb",
        "runs/r/config.yaml", "runs/r/fold0/last.safetensors", "runs/r/fold0/meta.json",
        "runs/r/fold1/last.safetensors", "runs/r/fold1/meta.json", "runs/r/folds.csv", "runs/r/oof.csv",
        "wheels/README.txt",
    ]  # fmt: skip
    code = [one.removeprefix("code/") for one in files if one.startswith("code/")]
    assert {one.split("/")[0] for one in code} == {"src", "infer.py", "offline.py", "requirements.txt"}
    assert {one for one in code if one.startswith("src/")} == {
        path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "src").rglob("*.py")
    }
    texts = [Path("out/bundle", one).read_bytes() for one in files]
    assert not [one for one, text in zip(files, texts, strict=True) if str(tmp_path).encode() in text]
    config = load_saved_config("out/bundle/runs/r")
    assert (config.competition.train_table, config.competition.test_image) == ("train.csv", "test/{image}.png")
    assert (config.competition.solution, config.model.weights, config.train.teacher) == (None, None, None)
    assert config.infer.tta == ["hflip"]
    found = read_json("out/bundle/bundle.json")
    assert found["roots"] == ["data", "../../host/data"]
    assert (found["name"], found["runs"], found["mark"]) == ("demo-r", ["r"], "sample.csv")
    assert "replace INSERT_USERNAME_HERE in out/bundle/*.json, or add user=NAME" in capsys.readouterr().out


def test_metadata_keeps_kaggles_rules(write_run, monkeypatch):
    """docs/datasets_metadata.md and docs/kernels_metadata.md of Kaggle/kaggle-api."""
    path = write_run("r")
    Path(".kaggle").mkdir()
    Path(".kaggle/kaggle.json").write_text('{"username": "ann", "key": "topsecret"}')
    main([path, "output=one", "wheels=none", "competition=Aerial-Cactus", "gpu=false"])
    dataset, kernel = read_json("one/dataset-metadata.json"), read_json("one/kernel-metadata.json")
    assert dataset == {"title": "aerial cactus r", "id": "ann/aerial-cactus-r", "licenses": [{"name": "other"}]}
    assert (kernel["id"], kernel["title"]) == ("ann/aerial-cactus-r-infer", "aerial cactus r infer")
    assert (kernel["enable_internet"], kernel["enable_gpu"], kernel["is_private"]) == (False, False, True)
    assert (kernel["dataset_sources"], kernel["competition_sources"]) == (["ann/aerial-cactus-r"], ["aerial-cactus"])
    assert not any(b"topsecret" in Path("one", name).read_bytes() for name in list_files("one"))
    assert 'BUNDLE = "aerial-cactus-r"' in "".join(read_json("one/notebook.ipynb")["cells"][1]["source"])
    monkeypatch.setenv("KAGGLE_USERNAME", "bob")
    main([path, "output=two", "wheels=none", f"competition={'x' * 60}"])
    dataset, kernel = read_json("two/dataset-metadata.json"), read_json("two/kernel-metadata.json")
    assert (dataset["id"], kernel["id"]) == (f"bob/{'x' * 38}", f"bob/{'x' * 38}-infer")


def test_refusals_of_runs(write_run, capsys):
    a, none = write_run("a"), write_run("none", folds=())
    other = write_run("other", "competition.metric=accuracy")
    lost = write_run("lost")
    Path(lost, "fold1/last.safetensors").unlink()
    Path("empty").mkdir()
    words = ["output=out", "wheels=none"]
    for paths, expected in {
        (none,): "outputs/none: no fold is finished; finish one with the command that trained it, then bundle",
        (
            "outputs/nowhere",
        ): "outputs/nowhere: no such folder; write the folder of a run, for example outputs/demo_default",
        ("empty",): "empty: not a run (no config.yaml); train one with python train.py",
        (
            a,
            other,
        ): "outputs/other: competition.metric is accuracy, but roc_auc in outputs/a; bundle runs of one competition",
        (lost,): "outputs/lost/fold1/last.safetensors: no such file; train that fold again, or bring the weights back",
    }.items():
        assert refusal(capsys, *paths, *words) == expected
    assert not Path("out").exists()
    Path("full").mkdir()
    Path("full/mine").write_text("")
    assert refusal(capsys, a, "output=full") == "full: exists and is no bundle; choose output=ANOTHER"
    main([a, *words])
    assert refusal(capsys, a, *words) == "out: is a bundle already; choose output=ANOTHER or overwrite=true"
    main([a, *words, "overwrite=true"])
    assert [path.name for path in Path().iterdir() if path.name.endswith(".bundle")] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "RUN is missing; write RUN output=FOLDER, for example outputs/demo_default"),
        (["r"], "output= is missing; write output=FOLDER, the folder to upload"),
        (["r", "output=o", "wieghts=fp16"], "wieghts=fp16 is not known; did you mean weights?; it takes infer.* and "),
        (["r", "output=o", "weights=int8"], "weights=int8 is not one of as_trained, fp16; choose one of them"),
        (["r", "output=o", "limit=20"], "limit=20 is no size; write for example limit=20GB"),
        (["r", "output=o", "infer.output=x"], "infer.output=x: a bundle writes ./submission.csv; leave it out"),
    ],
)
def test_wrong_words_are_answered(capsys, words, expected):
    assert refusal(capsys, *words).startswith(f"command line: {expected}")


def test_what_a_dataset_cannot_hold_is_refused_with_what_helps(write_run, capsys):
    a = write_run("a")
    assert refusal(capsys, a, "output=o", "limit=1KB") == (
        "o: 2e-06 GB, over the limit of 1e-06 GB; weights=fp16 halves the weights"
    )
    assert refusal(capsys, a, "output=o", "limit=0.5KB", "weights=fp16") == (
        "o: 1e-06 GB, over the limit of 5e-07 GB; train a smaller backbone, or fewer folds"
    )
    found = refusal(capsys, a, "output=o", "wheels=none", "limit=100KB")  # with the code
    assert found.endswith("over the limit of 0.0001 GB; weights=fp16 halves the weights")
    assert not Path("o").exists()


def test_images_outside_the_root_are_refused(write_run, tmp_path, capsys):
    pattern = f"competition.test_image={tmp_path}/elsewhere/{{image}}.png"
    assert refusal(capsys, write_run("a", pattern), "output=o", "wheels=none") == (
        f"{pattern}: lies outside competition.root={tmp_path}/host/data, and a bundle reads one folder; move the "
        "images below it"
    )


def test_images_elsewhere_are_refused_with_what_helps(write_run, capsys):
    run = write_run("a", "competition.root=https://host/data")
    line = "competition.root=https://host/data: a bundle infers without a network; add competition.root=FOLDER"
    assert refusal(capsys, run, "output=o", "wheels=none") == line
    main([run, "output=o", "wheels=none", "competition.root=data"])
    assert load_saved_config("o/runs/a").competition.root == "data"
    run = write_run("b", "competition.train_image=s3://bucket/{image}.png")
    advice = "a bundle infers without a network; train on patterns below competition.root"
    line = refusal(capsys, run, "output=p", "wheels=none")
    assert line == f"competition.train_image=s3://bucket/{{image}}.png: {advice}"


def test_the_root_is_never_written_as_a_whole():
    assert list_roots("/mnt/x/data", "/home/ann/bundle") == ["data"]
    assert list_roots("/home/ann/data/x", "/home/ann/bundle") == ["x", "../data/x"]


def test_wheels_are_of_what_the_image_lacks():
    python, image = read_image()
    assert python.startswith("3.")
    needed = {one.name: one for one in list_requirements()}
    assert not {"wandb", "matplotlib", "imagehash", "jinja2"} & set(needed)
    missing = [
        one.name for one in list_missing(needed.values(), {"torch": "2.10.0", "timm": "1.0.9", "numpy": "2.0.2"})
    ]
    assert "torch" not in missing
    assert "numpy" not in missing
    assert {"timm", "omegaconf"} <= set(missing)  # too old; not there
    assert {"torch", "torchvision", "timm", "numpy"} <= set(image) - {
        one.name for one in list_missing(needed.values(), image)
    }
    assert [str(one) for one in list_requirements(["torch", "auto"])][-2:] == ["onnx", "onnxruntime"]


def write_wheel(folder, name, version, requires=()):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_wheels_of_a_folder_are_taken_if_none_is_lacking(write_run, tmp_path, capsys, monkeypatch):
    a, image = write_run("a"), tmp_path / "image.txt"
    monkeypatch.setattr("tools.bundle.wheels._IMAGE", image)
    needed = [one for one in list_requirements() if one.name not in ("omegaconf", "timm")]
    image.write_text("python==3.12\ntimm==0.1  # too old\n" + "".join(f"{one.name}==99\n" for one in needed))
    image.write_text(image.read_text().replace("albumentations==99", "albumentations==2.0.8"))
    write_wheel(tmp_path / "mine", "omegaconf", "2.4.0")
    assert refusal(capsys, a, "output=o", "wheels=mine") == (
        "wheels=mine: holds no wheel of timm>=1.0.20; pip download them into it, or auto"
    )
    write_wheel(tmp_path / "mine", "timm", "1.0.30")
    main([a, "output=o", "wheels=mine"])
    assert "wheels: omegaconf 2.4.0, timm 1.0.30\n" in capsys.readouterr().out
    assert list_files("o/wheels") == ["README.txt", "omegaconf-2.4.0-py3-none-any.whl", "timm-1.0.30-py3-none-any.whl"]
    assert refusal(capsys, a, "output=p", "wheels=nowhere").startswith("wheels=nowhere: no such folder; write wheels=")


@pytest.mark.slow
def test_a_failed_download_is_one_line(write_run, capsys, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    found = refusal(capsys, write_run("a"), "output=o")
    assert found.startswith("pip download of scikit-learn>=1.8, ")
    assert found.endswith("; connect to PyPI and repeat, write wheels=FOLDER, or wheels=none and add them on Kaggle")
    assert not Path("o").exists()


@pytest.fixture
def bundle_folder(tmp_path, monkeypatch):
    """An empty bundle that `offline` takes for its own, and an empty /kaggle/input."""
    monkeypatch.setattr(offline, "BUNDLE", tmp_path / "bundle")
    monkeypatch.setattr(offline, "CODE", tmp_path / "bundle/code")
    monkeypatch.setattr(offline, "INPUTS", tmp_path / "input")
    (tmp_path / "bundle/code").mkdir(parents=True)
    (tmp_path / "input").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bundle"


def test_only_what_is_missing_is_installed_with_what_it_needs(bundle_folder):
    first = write_wheel(bundle_folder / "wheels", "first_thing", "2.0", ["second", "numpy", "torch>=99; extra == 'x'"])
    second = write_wheel(bundle_folder / "wheels", "second", "1.0")
    write_wheel(bundle_folder / "wheels", "numpy", "99.0")
    text = "first-thing>=1\nnumpy>=2.0\ntorch>=2.9\nthird\nscipy>=99\n"
    (bundle_folder / "code/requirements.txt").write_text(text)
    wheels, missing = offline.find_wheels()
    assert sorted(wheels) == [first, second]
    assert missing == {"third": None, "scipy>=99": pytest.importorskip("scipy").__version__}
    with pytest.raises(UserError, match="no wheel of .*third .here: none.*; bundle again without wheels=none"):
        offline.install(bundle_folder / "packages")


@pytest.mark.parametrize("place", ["comp", "competitions/comp", "competitions/other", "other"])
def test_the_competitions_folder_is_found_where_kaggle_mounts_it(bundle_folder, place):
    bundle = {"competition_names": ["comp"], "mark": "sample.csv", "roots": ["data/comp", "../host"]}
    with pytest.raises(UserError, match="comp: no such folder, nor is data/comp one; add the competition"):
        offline.find_competition(bundle)
    with pytest.raises(UserError, match="^nowhere: no such folder; write the one of the competition's files$"):
        offline.find_competition(bundle, "nowhere")
    (bundle_folder.parent / "host").mkdir()
    assert offline.find_competition(bundle) == bundle_folder.parent / "host"
    folder = bundle_folder.parent / "input" / place
    folder.mkdir(parents=True)
    (folder / "sample.csv").write_text("id\n")
    assert offline.find_competition(bundle) == folder
    (bundle_folder.parent / "elsewhere").mkdir()
    assert offline.find_competition(bundle, "elsewhere") == bundle_folder.parent / "elsewhere"


@pytest.mark.parametrize(
    "files", [["sample.csv"], ["sample.csv", "test.csv"], ["sample.csv", "test.csv", "test/x.txt"]]
)
def test_before_there_is_a_test_image_the_sample_is_the_submission(tmp_path, monkeypatch, capsys, files):
    monkeypatch.chdir(tmp_path)
    for name in files:
        (tmp_path / "host" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "host" / name).write_text("image,0\nplaceholder,0.5\n")
    config = load_config([f"competition.root={tmp_path}/host", *RUN, "competition.test_image=test/{image}.png"])
    run = tmp_path / "run"
    (run / "fold0").mkdir(parents=True)
    (run / "fold0/meta.json").write_text('{"target_names": ["0"]}')
    assert offline.is_hidden(config, run)
    offline.copy_sample(config, Path("submission.csv"))
    assert Path("submission.csv").read_text() == "image,0\nplaceholder,0.5\n"
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/host: no test images, as before a hidden test set is scored",
        "submission.csv: the sample as it is, 1 rows",
    ]
    (tmp_path / "host/test").mkdir(exist_ok=True)
    (tmp_path / "host/test/a.png").write_bytes(b"image")
    (tmp_path / "host/test.csv").write_text("image\na\nb\n")  # of two images one is missing: no placeholder
    assert not offline.is_hidden(config, run)
    (tmp_path / "host/test.csv").write_text("image\na\n")
    (tmp_path / "host/sample.csv").write_text("image,0\nplaceholder,0.5\n")
    assert offline.is_hidden(config, run)
    (tmp_path / "host/sample.csv").write_text("image,0\na,0.5\nb,0.5\n")  # infer.py says what is wrong
    assert not offline.is_hidden(config, run)


def test_a_time_budget_is_shared_by_the_runs(monkeypatch):
    monkeypatch.setattr(offline.time, "monotonic", lambda: 130.0)
    assert offline._divide("10m", 100.0, 3) == ["infer.time_budget=190.0s"]
    assert offline._divide("20s", 100.0, 1) == ["infer.time_budget=1.0s"]
    assert (offline._divide(None, 100.0, 3), offline._divide("x", 100.0, 3)) == ([], ["infer.time_budget=x"])


def test_a_folder_that_cannot_be_written_is_found_before_predictions(bundle_folder, monkeypatch, capsys):
    monkeypatch.setattr(offline.os, "access", lambda *_: False)
    with pytest.raises(SystemExit):
        offline.main([])
    line = f"{bundle_folder.parent}: cannot be written; run infer.sh where submission.csv is to be"
    assert capsys.readouterr().err == f"error: {line}\n"


def test_infer_py_ends_where_infer_sh_is_ended(bundle_folder, monkeypatch):
    (bundle_folder / "code/infer.py").write_text("import time\nprint('begins', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(offline, "print", lambda *_, **__: sys.exit(143), raising=False)  # as SIGTERM's handler
    began = time.monotonic()
    with pytest.raises(SystemExit):
        offline.infer("r", [], bundle_folder / "out")
    assert time.monotonic() - began < 30


def test_infer_sh_finds_its_bundle_by_a_relative_path(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "b").mkdir()
    shutil.copy(REPOSITORY / "tools/bundle/infer.sh", tmp_path / "b")
    (tmp_path / "bin/python").write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CDPATH": str(tmp_path)}
    done = subprocess.run(["sh", "b/infer.sh", "x y"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}/b/code/offline.py x y\n"


def test_halved_weights_load_as_fp32_and_what_fp16_cannot_hold_stays(tmp_path):
    import torch

    weights = {"w": torch.rand(4, 5), "large": torch.full((2, 2), 1e6), "norm": torch.rand(5), "n": torch.tensor(3)}
    save_weights(tmp_path / "a", weights)
    halve(tmp_path / "a", tmp_path / "b")
    found = read_weights(tmp_path / "b")
    assert {name: one.dtype for name, one in found.items()} == {
        "w": torch.float16, "large": torch.float32, "norm": torch.float32, "n": torch.int64,
    }  # fmt: skip
    layer = torch.nn.Linear(5, 4, bias=False)
    layer.load_state_dict({"weight": found["w"]})
    assert layer.weight.dtype == torch.float32
    torch.testing.assert_close(layer.weight.detach(), weights["w"], atol=3e-4, rtol=0)


def run_infer(bundle, cwd, *words, **environment):
    """Run infer.sh as a program in a new folder; return (submission.csv, what it printed)."""
    cwd.mkdir()
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""} | environment
    command = ["bash", str(bundle / "infer.sh"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in cwd.iterdir()] == ["submission.csv"]
    return (cwd / "submission.csv").read_bytes(), done.stdout + done.stderr


def move_read_only(bundle, place):
    """Move a bundle to where a dataset is mounted: another name, blanks in its path, nothing may be written."""
    place.parent.mkdir(parents=True)
    shutil.move(bundle, place)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return place


@pytest.mark.slow
def test_infer_sh_writes_infers_submission_wherever_the_bundle_lies(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run[0] / "data", "data")
    shutil.copytree(tiny_run[0] / "outputs", "outputs", ignore=shutil.ignore_patterns("*.pt"))
    run_here("infer.py", "run=outputs/demo_default", "report=false", "infer.tta=hflip", cwd=tmp_path)
    expected = Path("outputs/demo_default/submission.csv").read_bytes()
    main(["outputs/demo_default", "output=made", "wheels=none", "infer.tta=hflip"])
    bundle = move_read_only("made", tmp_path / "kaggle input/datasets/ann/another name")
    before = list_files(bundle)
    competition = tmp_path / "kaggle input/competitions/demo"
    shutil.copytree("data/demo", competition)
    (competition / "solution.csv").unlink()
    shutil.rmtree("data")
    inputs = {"KAGGLE_INPUT": str(tmp_path / "kaggle input")}
    found, printed = run_infer(bundle, tmp_path / "w1", **inputs)
    assert found == expected
    assert "360 test images x 2 folds x 2 views" in printed
    assert "bundle-" not in printed.replace(str(bundle), "")
    # the hidden test set is larger
    test, sample = (pd.read_csv(competition / f"{name}.csv") for name in ("test", "sample_submission"))
    for place in range(40):
        shutil.copy(competition / f"test/{test['id'][place]}.png", competition / f"test/h{place}.png")
    hidden = [f"h{place}" for place in range(40)]
    pd.concat([test, pd.DataFrame({"id": hidden})]).to_csv(competition / "test.csv", index=False)
    more = pd.concat([sample, sample.iloc[:40].assign(id=hidden)])
    more.to_csv(competition / "sample_submission.csv", index=False)
    _, printed = run_infer(bundle, tmp_path / "w3", competition, "infer.tta=none")
    assert "400 test images x 2 folds x 1 views" in printed
    rows = pd.read_csv(tmp_path / "w3/submission.csv")
    assert len(rows) == 400
    np.testing.assert_allclose(rows.iloc[360:, 1:], rows.iloc[:40, 1:], atol=1e-5)
    # and before that there is none
    shutil.rmtree(competition / "test")
    found, printed = run_infer(bundle, tmp_path / "w4", competition)
    assert found == (competition / "sample_submission.csv").read_bytes()
    assert "no test images, as before a hidden test set is scored" in printed
    assert list_files(bundle) == before


@pytest.mark.nightly
def test_a_blends_bundle_writes_the_blends_submission(tiny_run, tmp_path, monkeypatch, capsys):
    """By a blend's folder, and of runs whose blend is decided when the bundle is made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tiny_run[0] / "data")
    run_here("train.py", *TINY, "seed=8", "name=other", cwd=tmp_path)
    ignore = shutil.ignore_patterns("*.pt")
    shutil.copytree(tiny_run[0] / "outputs/demo_default", "outputs/one", ignore=ignore)
    runs = ["outputs/one", "outputs/other"]
    for run in runs:
        run_here("infer.py", f"run={run}", "report=false", cwd=tmp_path)
    blend([*runs, "name=chosen", "method=logistic"])
    blend([*runs, "name=auto"])
    main(["outputs/chosen", "output=by_folder", "wheels=none"])
    main([*runs, "output=by_runs", "wheels=none"])
    assert "blend: logistic" in capsys.readouterr().out
    for bundle, name in (("by_folder", "chosen"), ("by_runs", "auto")):
        found, printed = run_infer(tmp_path / bundle, tmp_path / f"w_{name}", tmp_path / "data/demo")
        assert found == Path("outputs", name, "submission.csv").read_bytes()
        assert "blend of one, other" in printed


@pytest.mark.slow
def test_fp16_says_how_much_predictions_differ(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tiny_run[0] / "data")
    run = tmp_path / "outputs/demo_default"
    shutil.copytree(tiny_run[0] / "outputs/demo_default", run, ignore=shutil.ignore_patterns("*.pt"))
    main([str(run), "output=half", "wheels=none", "weights=fp16"])
    [line] = [one for one in capsys.readouterr().out.splitlines() if "in 16 bits" in one]
    assert 0 < float(line.split("differ by ")[1].split()[0]) < 1e-2
    sizes = [os.path.getsize(path / "fold0/last.safetensors") for path in (run, tmp_path / "half/runs/demo_default")]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    run_here("infer.py", f"run={run}", "report=false", cwd=tmp_path)
    half = tmp_path / "half/runs/demo_default"
    run_here("infer.py", f"run={half}", "competition.root=data/demo", "report=false", "infer.output=w", cwd=tmp_path)
    probs = [pd.read_csv(path / "submission.csv").to_numpy()[:, 1:].astype(float) for path in (run, tmp_path / "w")]
    np.testing.assert_allclose(*probs, atol=1e-2)
    assert not np.array_equal(*probs)


def test_a_stack_and_a_blend_beside_a_run_are_refused(write_run, capsys):
    blend, run = write_run("blend"), write_run("one")
    saved = {"inputs": {}, "command": "python -m tools.blend", "method": "stack"}
    Path(blend, "blend.json").write_text(json.dumps(saved))
    assert refusal(capsys, blend, "output=o").startswith("outputs/blend: is a stack, which is no set of weights; ")
    assert refusal(capsys, blend, run, "output=o") == (
        "outputs/blend: is a blend, which comes alone; bundle it, or its runs and outputs/one"
    )


def test_a_blend_says_what_weighs_how_much():
    from tools.bundle.command import describe_weights

    assert describe_weights({"inputs": ["a", "b"], "weights": [[0.2, 0.8], [0.4, 0.6]]}) == "0.300 a, 0.700 b"
