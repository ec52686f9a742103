"""Folds of a run -> submission.csv, against the networks called by hand; and what stops it."""

import os
import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.checkpointing.run_folder import RunFolder, load_run
from src.checkpointing.serialization import copy_to_cpu, save_weights
from src.config.load import config_yaml, load_config
from src.errors import UserError
from src.evaluation.calibration import CALIBRATIONS
from src.files import save_json, save_text
from src.inference import predict
from src.inference.ensemble import ENSEMBLES
from src.inference.predict import find_folds, infer_run
from src.inference.tta import VIEWS
from src.model.network import build_network
from tests.launch import Forked, run_here, run_program

IDS, TARGETS = ["b", "a", "007", "NA", "1e3"], ["x", "y z"]
SOLUTION = np.array([[0, 1], [1, 0], [1, 1], [0, 0], [1, 0]])
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
COMPETITION = """competition:
  {{root: {root}, test_table: test.csv, solution: solution.csv, test_image: 'test/{{id}}.png', targets: [x, y z],
    task: multilabel, metric: log_loss, channels: 1}}
image_size: 16
model: {{backbone: simple_cnn, pretrained: false}}
device: cpu
"""


def save_solution(root, targets):
    table = pd.DataFrame(targets, columns=TARGETS)
    table.insert(0, "id", IDS)
    table.to_csv(root / "solution.csv", index=False)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function (words) -> (path of the run outputs/mine_default with two folds, their networks, images)."""
    monkeypatch.chdir(tmp_path)
    rng, root = np.random.default_rng(0), tmp_path / "data"
    (root / "test").mkdir(parents=True)
    images = rng.integers(0, 256, (len(IDS), 16, 16), dtype=np.uint8)
    for name, image in zip(IDS, images, strict=True):
        Image.fromarray(image).save(root / f"test/{name}.png")
    pd.DataFrame({"id": IDS}).to_csv(root / "test.csv", index=False)
    save_solution(root, SOLUTION)
    save_text("mine.yaml", COMPETITION.format(root=root))

    def make_(*words):
        config, networks = load_config(["competition=mine.yaml", "normalize=dataset", "report=false", *words]), []
        folder = RunFolder(config.run_folder)
        save_text(folder.config, config_yaml(config))
        for fold in (0, 1):
            torch.manual_seed(fold)
            stats = ([100.0 + fold], [50.0])  # those of a fold are in its weights
            network = build_network(config, len(TARGETS), stats).eval()
            save_weights(folder.fold(fold).weights(config.train.select), copy_to_cpu(network.state_dict()))
            save_json(folder.fold(fold).meta, {"target_names": TARGETS})
            networks.append(network)
        save_text(folder.folds, "id,fold\n" + "".join(f"{row},{row % 2}\n" for row in range(4)))
        return folder.path, networks, torch.from_numpy(images)[..., None]

    return make_


def infer(folder, *words):
    run_folder, config = load_run([f"run={folder}", *words])
    return infer_run(config, run_folder)


@torch.no_grad()
def predict_by_hand(network, images, views=()):
    plain = network.normalize({"image": images})["image"]
    images = (plain, *(view(plain) for view in views))
    return torch.stack([network(image=one).sigmoid() for one in images]).mean(dim=0).numpy()


def read(path):
    table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
    assert table.columns.tolist() == ["id", *TARGETS]
    assert table["id"].tolist() == IDS
    return table[TARGETS].to_numpy(dtype=float)


@pytest.mark.parametrize(
    ("words", "views"),
    [([], ()), (["infer.tta=[hflip,vflip]", "infer.average=rank"], (lambda one: one.flip(3), lambda one: one.flip(2)))],
)
def test_the_submission_is_the_ensemble_of_folds_and_views(make, words, views, capsys):
    folder, networks, images = make()
    score = infer(folder, *words)
    probs = np.stack([predict_by_hand(network, images, views) for network in networks])
    for fold, one in enumerate(probs):
        np.testing.assert_allclose(read(folder / f"fold{fold}/test.csv"), one, atol=1e-6)
    expected = ENSEMBLES["rank" if "infer.average=rank" in words else "mean"](probs)
    submission = read(folder / "submission.csv")
    np.testing.assert_allclose(submission, expected, atol=1e-6)
    assert np.ptp(submission) > 1e-3
    clipped = expected.clip(1e-7, 1 - 1e-7)
    loss = -(SOLUTION * np.log(clipped) + (1 - SOLUTION) * np.log(1 - clipped)).mean()
    assert score == pytest.approx(loss, rel=1e-4)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"{folder}: 5 test images x 2 folds x {1 + len(views)} views",
        f"{folder}/submission.csv: 5 rows, checked",
        printed[2],
    ]
    low, high = re.fullmatch(rf"test log_loss: {score:.5f}, 95 % (\S+) to (\S+)", printed[2]).groups()
    assert float(low) < score < float(high)


def test_a_solution_that_cannot_be_read_is_refused_before_networks_predict(make, tmp_path, monkeypatch):
    folder, *_ = make()
    infer(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.csv")}
    (tmp_path / "data/solution.csv").write_text("id,x,y z\nb,0,1\n")
    monkeypatch.setattr(predict, "load_network", None)
    with pytest.raises(UserError, match="solution.csv: 4 of 5 test ids are missing"):
        infer(folder, "infer.tta=hflip")
    assert {path: path.read_bytes() for path in folder.rglob("*.csv")} == before


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_selected_weights_predict(make, select):
    folder, networks, images = make(f"train.select={select}")
    infer(folder)
    np.testing.assert_allclose(read(folder / "fold1/test.csv"), predict_by_hand(networks[1], images), atol=1e-6)
    (folder / f"fold1/{select}.safetensors").unlink()
    with pytest.raises(UserError, match=f"fold1/{select}.safetensors: cannot be loaded"):
        infer(folder)


def test_weighted_views(make):
    folder, networks, images = make()
    infer(folder, "infer.tta=[hflip,vflip]", "infer.tta_weights=[1,0,3]")
    plain = predict_by_hand(networks[0], images)
    both = predict_by_hand(networks[0], images, (lambda one: one.flip(2),))  # the mean of plain and vflip
    np.testing.assert_allclose(read(folder / "fold0/test.csv"), plain / 4 + (2 * both - plain) * 3 / 4, atol=1e-6)
    for weights, found in (("[1,2]", "2 numbers"), ("[0,0,0]", "have no sum above 0")):
        with pytest.raises(UserError) as caught:
            infer(folder, "infer.tta=[hflip,vflip]", f"infer.tta_weights={weights}")
        assert str(caught.value).endswith(f": {found}; give one for each of plain, hflip, vflip")
    with pytest.raises(UserError, match=r"^infer\.tta_weights=\[1\.0, 2\.0\]: 2 numbers; give one for each of plain$"):
        infer(folder, "infer.tta_weights=[1,2]")


def test_a_generous_time_budget_changes_no_byte(make, capsys):
    folder, _, _ = make()
    files = [folder / name for name in ("submission.csv", "fold0/test.csv", "fold1/test.csv", "test_score.json")]
    words = ("infer.tta=[hflip,d4]", "infer.tta_weights=[.3,.1,0,.7,1,1,1,1]", "infer.batch_size=2")
    infer(folder, *words)
    before, printed = [file.read_bytes() for file in files], capsys.readouterr()
    infer(folder, *words, "infer.time_budget=1h")
    assert [file.read_bytes() for file in files] == before
    assert capsys.readouterr() == printed


def test_a_fold_that_does_not_fit_counts_for_no_row_and_leaves_no_old_file(make, monkeypatch, capsys):
    folder, networks, images = make()
    infer(folder)
    capsys.readouterr()

    clock = SimpleNamespace(seconds=0.0, monotonic=lambda: clock.seconds)  # or it would depend on what else runs
    for module in ("predict", "time_budget"):
        monkeypatch.setattr(f"src.inference.{module}.time", clock)

    def slow(images):
        clock.seconds += 0.25
        return images.flip(3)

    monkeypatch.setitem(VIEWS, "hflip", (slow,))
    words = ("infer.tta=hflip", "infer.tta_weights=[0,1]", "infer.batch_size=1", "infer.time_budget=2.4s")
    infer(folder, *words)  # a fold takes 5 x 0.25 s
    assert clock.seconds <= 2.4
    plain = predict_by_hand(networks[0], images.flip(2))
    np.testing.assert_allclose(read(folder / "submission.csv"), plain, atol=1e-6)
    np.testing.assert_allclose(read(folder / "fold0/test.csv"), plain, atol=1e-6)
    assert not (folder / "fold1/test.csv").exists()
    line = capsys.readouterr().out.splitlines()[1]
    found = "1 of 2 folds x 1 of 1 views predict; all would have taken about 2.5 s; left out: fold1"
    assert line == f"infer.time_budget=2.4s: {found}"


def test_rows_that_the_time_budget_does_not_reach_get_the_mean(make, monkeypatch, capsys):
    folder, networks, images = make()
    monkeypatch.setitem(VIEWS, "hflip", (lambda images: time.sleep(0.3) or images,))
    infer(folder, "infer.tta=hflip", "infer.tta_weights=[0,1]", "infer.batch_size=2", "infer.time_budget=0.3s")
    expected = predict_by_hand(networks[0], images)
    expected[2:] = expected[:2].mean(axis=0)
    np.testing.assert_allclose(read(folder / "submission.csv"), expected, atol=1e-6)
    lacks = "its end came after 2 of 5 images; the others get the mean prediction of these; give it more"
    assert capsys.readouterr().err == f"infer.time_budget=0.3s: {lacks}\n"


def save_oof(folder, probs, targets):
    ids = np.arange(len(probs)).astype(str)
    known = pd.DataFrame({"id": ids, "fold": np.arange(len(probs)) % 2, "target_x": targets[:, 0]})
    known["target_y z"] = targets[:, 1]
    known.assign(**{"x": probs[:, 0], "y z": probs[:, 1]}).to_csv(folder / "oof.csv", index=False)
    known[["id", "fold"]].to_csv(folder / "folds.csv", index=False)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_the_mean_of_folds_is_calibrated_as_the_out_of_fold_predictions_ask_for(make, method, task, capsys, tmp_path):
    folder, _, _ = make(f"competition.task={task}")
    rng = np.random.default_rng(0)
    share = rng.random((4000, 2)) if task == "multilabel" else rng.random((4000, 1)) * [1, -1] + [0, 1]
    targets = (rng.random((4000, 1)) < share).astype(float)
    if task == "multiclass":
        targets[:, 1] = 1 - targets[:, 0]
    oof = 0.48 + 0.04 * share  # as close to 0.5 as what these networks predict
    save_oof(folder, oof, targets)
    save_solution(tmp_path / "data", np.eye(2, dtype=int)[[0, 0, 1, 0, 1]])
    infer(folder)
    plain = read(folder / "submission.csv")
    capsys.readouterr()
    infer(folder, f"infer.calibration={method}")
    calibrate, words = CALIBRATIONS[method](targets, oof, task)
    found = read(folder / "submission.csv")
    np.testing.assert_allclose(found, calibrate(plain), atol=1e-6)
    assert np.abs(found - plain).max() > 0.01
    if task == "multiclass":
        np.testing.assert_allclose(found.sum(axis=1), 1)
    assert f"calibration: {words}; fitted on 4000 out-of-fold rows\n" in capsys.readouterr().out


def test_a_sample_that_asks_for_labels_is_not_calibrated(make, tmp_path):
    folder, _, _ = make("competition.task=multiclass", "competition.sample_submission=sample.csv")
    pd.DataFrame({"id": IDS, "label": "x"}).to_csv(tmp_path / "data/sample.csv", index=False)
    with pytest.raises(UserError) as caught:
        infer(folder, "infer.calibration=temperature")
    assert str(caught.value) == "infer.calibration=temperature: the sample asks for labels; leave it out"


def test_a_sample_of_other_rows_is_refused_before_anything_is_predicted(make, tmp_path, monkeypatch):
    folder, _, _ = make("competition.sample_submission=sample.csv")
    pd.DataFrame({"id": [*IDS[1:], "new"], "x": 0.5, "y z": 0.5}).to_csv(tmp_path / "data/sample.csv", index=False)
    monkeypatch.setattr(predict, "predict_folds", None)
    with pytest.raises(UserError, match="1 of 5 ids are no test rows and 1 test rows are missing .first: new.; check"):
        infer_run(load_run([f"run={folder}"])[1], folder)


def test_finished_folds_predict_else_those_that_have_done_an_epoch(tmp_path, capsys):
    folder = RunFolder(tmp_path / "outputs/run")
    with pytest.raises(UserError) as caught:
        find_folds(folder)
    advice = "no fold has finished an epoch; resume it with the command that trained it"
    assert str(caught.value) == f"{folder.path}: {advice}"
    for fold in (0, 2):
        save_text(folder.fold(fold).val, "id,a\n")
    assert [fold.number for fold in find_folds(folder)] == [0, 2]
    line = f"{folder.path}: no fold is finished; the last saved epoch is used (fold0, fold2)\n"
    assert capsys.readouterr().out == line
    save_json(folder.fold(2).meta, {})
    assert [fold.number for fold in find_folds(folder)] == [2]
    assert capsys.readouterr().out == ""
    save_json(folder.fold("all").meta, {})
    for which, numbers in {"folds": [2], "all": ["all"], "both": [2, "all"]}.items():
        assert [fold.number for fold in find_folds(folder, which)] == numbers
    folder.fold(2).meta.unlink()
    assert [fold.number for fold in find_folds(folder)] == ["all"]
    with pytest.raises(UserError, match="infer.folds=both: no fold is finished in .*; train it, or set infer.folds="):
        find_folds(folder, "both")


@pytest.mark.parametrize("change", ["fold=2", "seed=2", "other weights", "begun anew", None])
def test_predictions_of_a_run_that_was_overwritten_meanwhile_are_not_written(make, monkeypatch, change, tmp_path):
    """Another fold that is trained meanwhile changes nothing of what was predicted."""
    folder, _, _ = make()
    plain = predict.predict

    def predict_and_change(*arguments, **more):
        if change in ("other weights", "begun anew"):
            path = folder / "fold1/last.safetensors"
            if change == "begun anew":
                (folder / "fold0/meta.json").unlink()
            os.replace(shutil.copy(path, tmp_path), path)
            return plain(*arguments, **more)
        config = load_config(["competition=mine.yaml", "normalize=dataset", *([change] if change else [])])
        save_text(folder / "config.yaml", config_yaml(config))
        if change is None:
            shutil.rmtree(folder)
        return plain(*arguments, **more)

    monkeypatch.setattr(predict, "predict", predict_and_change)
    if change == "fold=2":
        infer(folder)
        assert (folder / "submission.csv").is_file()
        return
    line = f"{folder}: was overwritten meanwhile; repeat the command when it is trained"
    if change is None:
        line = f"{folder}: not a run"
    with pytest.raises(UserError, match=f"^{line}"):
        infer(folder)
    assert not list(folder.rglob("*.csv")) or change


def test_a_view_that_the_network_cannot_take_is_one_line(make):
    folder, _, _ = make("model.backbone=vit_tiny_patch16_224", "model.kwargs={}")
    with pytest.raises(UserError, match=r"^infer\.tta=\['scales'\]: vit_tiny_patch16_224 cannot take it \(") as caught:
        infer(folder, "infer.tta=[scales]")
    assert str(caught.value).endswith("; it takes hflip, vflip, d4")
    infer(folder, "infer.tta=[hflip,vflip,d4]")


def test_predictions_that_are_nan_are_not_written(make):
    folder, networks, _ = make()
    weights = copy_to_cpu(networks[1].state_dict())
    weights["head.last.bias"][0] = torch.nan
    save_weights(folder / "fold1/last.safetensors", weights)
    with pytest.raises(UserError) as caught:
        infer(folder)
    assert str(caught.value) == f"{folder}: predictions are nan; train it again"
    assert not (folder / "submission.csv").exists()


def test_ranks_name_no_class(make, tmp_path):
    folder, _, _ = make("competition.task=multiclass", "competition.sample_submission=sample.csv")
    pd.DataFrame({"id": IDS, "label": "x"}).to_csv(tmp_path / "data/sample.csv", index=False)
    save_solution(tmp_path / "data", np.eye(2, dtype=int)[[0, 0, 1, 0, 1]])
    with pytest.raises(UserError) as caught:
        infer(folder, "infer.average=rank")
    line = "infer.average=rank: the sample asks for a class, which needs means; set infer.average=mean"
    assert str(caught.value) == line
    infer(folder)
    labels = pd.read_csv(folder / "submission.csv")["label"]
    assert set(labels) <= set(TARGETS)


def test_an_image_that_cannot_be_decoded_gets_the_mean_of_the_others(make, tmp_path, capsys):
    folder, networks, images = make()
    (tmp_path / "data/test/a.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"test/a\.png: cannot be decoded"):
        infer(folder)
    infer(folder, "unreadable=skip")
    assert "a: gets the mean prediction (" in capsys.readouterr().out
    expected = predict_by_hand(networks[0], images)
    expected[1] = expected[[0, 2, 3, 4]].mean(axis=0)
    np.testing.assert_allclose(read(folder / "fold0/test.csv"), expected, atol=1e-6)


@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_test_images_of_which_none_can_be_decoded_are_one_line(make, tmp_path, tta):
    folder, _, _ = make()
    for path in (tmp_path / "data/test").iterdir():
        path.write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"^none of 5 images can be decoded \(first: .*test/.*\); copy them again$"):
        infer(folder, "unreadable=skip", f"infer.tta={tta}")


def test_predictions_go_where_they_are_asked_to(make, tmp_path):
    folder, _, _ = make()
    infer(folder, "infer.output=elsewhere/here")
    names = {path.name for path in (tmp_path / "elsewhere/here").iterdir()}
    assert names == {".infer.lock", "fold0", "fold1", "submission.csv", "submission.sha256", "test_score.json"}
    assert not (folder / "submission.csv").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^file/x: cannot be written \(Not a directory\); set infer.output=FOLDER$"):
        infer(folder, "infer.output=file/x")


PREDICTED = ("submission.csv", "submission.sha256", "fold0/test.csv", "fold1/test.csv", "test_score.json")


def read_all(folder):
    return [(folder / name).read_bytes() for name in PREDICTED]


OTHER_WAYS = [
    ("infer.average=rank",), ("infer.calibration=temperature", "infer.tta=[hflip,d4]"), ("unreadable=skip",),
    ("competition.predict_by=re:^(.)",), ("infer.engine=onnxruntime",),
]  # fmt: skip


@pytest.mark.parametrize("words", [(), *(pytest.param(one, marks=pytest.mark.slow) for one in OTHER_WAYS)], ids=str)
def test_parts_change_no_byte_and_resume(make, tmp_path, monkeypatch, words, capsys):
    """Also where a part was cut, or an earlier command with other settings left some."""
    folder, _, _ = make()
    rng = np.random.default_rng(0)
    save_oof(folder, rng.random((40, 2)), rng.integers(0, 2, (40, 2)))
    if "unreadable=skip" in words:
        (tmp_path / "data/test/007.png").write_bytes(b"")
    if words and words[0].startswith("competition.predict_by"):
        (tmp_path / "data/solution.csv").write_text("id,x,y z\nb,0,1\na,1,0\n0,1,1\nN,0,0\n1,1,0\n")
    words = (*words, "infer.batch_size=2", "threads=1")
    infer(folder, *words)
    expected, plain, num_calls = read_all(folder), predict.predict, []
    for name in PREDICTED:
        (folder / name).unlink()

    def predict_and_count(*arguments, **more):
        num_calls.append(more["title"])
        if len(num_calls) == stop_at:
            raise KeyboardInterrupt
        return plain(*arguments, **more)

    monkeypatch.setattr(predict, "predict", predict_and_count)
    num_parts, stop_at = (2 if "unreadable=skip" in words else 3), 2
    with pytest.raises(KeyboardInterrupt):
        infer(
            folder, *words, "infer.part_rows=1", "infer.tta_weights=[1]" if "d4" not in words[1] else "precision=bf16"
        )
    del num_calls[:]
    with pytest.raises(KeyboardInterrupt):
        infer(folder, *words, "infer.part_rows=1")
    assert [path.name for path in (folder / "parts").glob("part*")] == ["part_000000.parquet"]
    assert not any((folder / name).exists() for name in PREDICTED)
    stop_at = None
    del num_calls[:]
    capsys.readouterr()
    infer(folder, *words, "infer.part_rows=2")
    assert f"{folder}/parts: 1 of {num_parts} parts are there\n" in capsys.readouterr().out
    assert num_calls == [f"test, part {number} of {num_parts}" for number in range(2, num_parts + 1)]
    assert read_all(folder) == expected
    assert not (folder / "parts").exists()


def test_weights_that_change_while_they_are_loaded_make_no_part(make, monkeypatch):
    """Or predictions of the old ones would be merged with those of the new ones by the next command."""
    folder, _, _ = make()
    load = predict.load_network

    def load_and_train(config, fold):
        network, path = load(config, fold), fold.weights("last")
        save_weights(path, copy_to_cpu({name: one + 1 for name, one in network.state_dict().items()}))
        return network

    monkeypatch.setattr(predict, "load_network", load_and_train)
    with pytest.raises(UserError) as caught:
        infer(folder, "infer.part_rows=1")
    assert str(caught.value) == f"{folder}: its weights changed while they were loaded; repeat the command"
    assert not list((folder / "parts").glob("part_*"))


@pytest.mark.slow
def test_processes_of_torchrun_share_the_rows(make, tmp_path):
    """Bytes are those of one process, lines are printed once."""
    folder, _, _ = make()
    (tmp_path / "data/test/007.png").write_bytes(b"")
    words = ("unreadable=skip", "infer.batch_size=2", "threads=1", "report=false")
    infer(folder, *words)
    printed, _ = run_program(
        "infer.py", f"run={folder}", *words, "infer.output=shared", cwd=tmp_path, launcher=TORCHRUN
    )
    assert read_all(tmp_path / "shared") == read_all(folder)
    begins = [line.partition(":")[0] for line in printed.splitlines()]
    assert begins == [str(folder), "007", "shared/submission.csv", "test log_loss"]


@pytest.mark.nightly
def test_what_one_process_alone_can_do_is_refused_under_torchrun(make, tmp_path):
    folder, _, _ = make()
    words = (f"run={folder}", "infer.time_budget=1h", "report=false")
    _, complained = run_program("infer.py", *words, cwd=tmp_path, launcher=TORCHRUN, status=1)
    assert "error: infer.time_budget=1h: one process alone keeps to it; leave it out, or run infer.py" in complained


@pytest.mark.slow
def test_a_killed_command_resumes_with_the_parts_that_are_there(make, tmp_path):
    folder, _, _ = make()
    infer(folder, "infer.batch_size=1", "threads=1")
    expected = read_all(folder)
    words = [
        f"run={folder}",
        "infer.batch_size=1",
        "infer.part_rows=1",
        "threads=1",
        "report=false",
        "infer.output=out",
    ]
    parts = tmp_path / "out/parts"
    killed = Forked("infer.py", words, tmp_path, tmp_path / "log")
    assert killed.wait_for(lambda: (parts / "part_000001.parquet").exists())
    killed.kill()
    assert not (tmp_path / "out/submission.csv").exists()
    (parts / "part_000000.parquet").write_bytes((parts / "part_000000.parquet").read_bytes()[:-100])
    (parts / ".part_000003.parquet.99999999.tmp").write_text("")
    printed, _ = run_here("infer.py", *words, cwd=tmp_path)
    num_there = int(re.search(r"out/parts: (\d) of 5 parts are there\n", printed)[1])
    assert 1 <= num_there <= 4
    assert read_all(tmp_path / "out") == expected
    assert not parts.exists()
