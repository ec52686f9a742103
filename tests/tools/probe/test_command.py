"""Whole probes of a tiny competition, against scikit-learn on the kept features by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from src.competition.splits import SPLITS
from src.competition.tables import ImageTable
from src.config.load import load_config
from src.data.decode import decode_image, resize_image
from tests.launch import run_here
from tests.tools.probe.conftest import NUM_ROWS, NUM_TEST
from tools.compare import main as compare
from tools.leaderboard import main as leaderboard
from tools.probe.command import list_splits, weigh
from tools.probe.features import Layers

GRID = (0.01, 1.0)


def load_json(path):
    return json.loads(Path(path).read_text())


def load_backbone(name, **kwargs):
    network = timm.create_model(name, num_classes=0, **kwargs)
    network.load_state_dict(load_file(f"weights/{name}.safetensors"))
    return network.eval()


def compute_features(name, ids, folder):
    """Return what a backbone says of images, (N, D), by its own code alone."""
    config = load_config(["competition=spots"])
    images = [decode_image(f"data/{folder}/{one}.png", config.competition) for one in ids]
    batch = torch.from_numpy(np.stack([resize_image(one, (32, 32), "squash") for one in images])).permute(0, 3, 1, 2)
    network = load_backbone(name)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) * 255 for key in ("mean", "std"))
    with torch.no_grad():
        return network((batch.float() - mean) / std).numpy().astype(float)


def fit(x, y):
    return make_pipeline(StandardScaler(), LogisticRegression(C=x[1], tol=1e-10, max_iter=10_000)).fit(x[0], y)


def test_the_out_of_fold_predictions_are_scikit_learns_with_c_of_the_training_rows(probe, capsys):
    probe("model.backbone=test_resnet", "C=[0.01,1]")
    oof = pd.read_csv("outputs/spots_probe/oof.csv", dtype={"id": str})
    x, y = compute_features("test_resnet", oof["id"], "train"), oof["target_bright"].to_numpy()
    test = compute_features("test_resnet", pd.read_csv("data/test.csv")["id"], "test")
    found, chosen, of_test = np.empty(NUM_ROWS), {}, []
    folds = oof["fold"].to_numpy()
    for fold in range(3):
        train, scores = folds != fold, {}
        for c in GRID:
            inner = np.full(NUM_ROWS, np.nan)
            for other in {0, 1, 2} - {fold}:
                rows = train & (folds != other)
                inner[folds == other] = fit((x[rows], c), y[rows]).predict_proba(x[folds == other])[:, 1]
            scores[c] = roc_auc_score(y[train], inner[train])
        chosen[str(fold)] = max(GRID, key=scores.get)
        model = fit((x[train], chosen[str(fold)]), y[train])
        found[folds == fold] = model.predict_proba(x[folds == fold])[:, 1]
        of_test.append(model.predict_proba(test)[:, 1])
    result = load_json("outputs/spots_probe/probe.json")
    assert result["candidates"][0]["C"] == chosen
    np.testing.assert_allclose(oof["bright"], found, atol=2e-3)  # by scikit-learn's default tolerance
    assert result["score"] == pytest.approx(roc_auc_score(y, oof["bright"]))
    submission = pd.read_csv("outputs/spots_probe/submission.csv")
    np.testing.assert_allclose(submission["bright"], np.mean(of_test, axis=0), atol=2e-3)
    printed = capsys.readouterr().out
    assert f"outputs/spots_probe/submission.csv: {NUM_TEST} rows, checked" in printed
    assert max(map(len, printed.splitlines())) <= 120

    # other tools take the folder, infer.py does not
    probe("candidates=[test_resnet,test_vit]", "name=both", "join=pairs", "C=[0.1]")
    compare(["outputs/spots_probe", "outputs/both"])
    leaderboard([])
    printed = capsys.readouterr().out
    assert "probe of test_resnet 1.00" in printed
    assert "no evidence" in printed
    assert load_json("outputs/both/probe.json")["candidates"][0]["features"] in (64, 96, 160)
    error = run_here("infer.py", "run=outputs/spots_probe", cwd=".", status=2)[1]
    assert error.startswith("error: outputs/spots_probe: is a probe; for new test predictions repeat python -m tools.")
    with pytest.raises(SystemExit):
        probe("model.backbone=test_resnet")
    assert "is a probe already; choose name=ANOTHER or overwrite=true" in capsys.readouterr().err
    probe("model.backbone=test_resnet", "overwrite=true", "C=[1]")

    # training a head takes the same features
    kept = sorted(Path("outputs/cache").glob("features_*.npy"))
    words = ["competition=spots", "model.weights=weights", "model.backbone=test_resnet", "recipe=head_only"]
    quick = ["num_folds=3", "fold=0", "train.epochs=1", "tracking=none", "report=false", "threads=1", "precision=fp32"]
    run_here("train.py", *words, *quick, "train.batch_size=8", cwd=".")
    assert sorted(Path("outputs/cache").glob("features_*.npy")) == kept


def test_layers_of_a_transformer_are_its_class_token_and_the_mean_of_its_patches(place):
    network, images = load_backbone("test_vit", img_size=32), torch.randn(2, 3, 32, 32)
    layers = Layers(network, (1, 5), hflip=False)
    with torch.no_grad():
        found, last = layers(images), network(images)
        tokens = network.norm(network.blocks[1](network.blocks[0](network._pos_embed(network.patch_embed(images)))))
        mirrored = Layers(network, (1, 5), hflip=True)(images)
        assert torch.allclose(mirrored, (found + layers(images.flip(-1))) / 2, atol=1e-6)
    size = last.shape[1]
    assert layers.sizes == (size, 2 * size, 2 * size)
    assert torch.allclose(found[:, :size], last, atol=1e-6)
    assert torch.allclose(found[:, size : 2 * size], tokens[:, 0], atol=1e-5)
    assert torch.allclose(found[:, 2 * size : 3 * size], tokens[:, 1:].mean(dim=1), atol=1e-5)


def test_all_layers_are_candidates_and_joined_while_it_helps(probe, capsys, monkeypatch):
    monkeypatch.setattr("tools.probe.command._LONG", 0)
    probe("model.backbone=[test_resnet]", "layers=[layer1,-1]", "hflip=true", "C=[0.1]", "overwrite=true")
    names = {one["name"] for one in load_json("outputs/spots_probe/probe.json")["candidates"]}
    assert {"test_resnet", "test_resnet (layer1)", "test_resnet (layer4)"} < names
    printed = capsys.readouterr().out
    assert "with the candidate, too, chosen within each fold's training rows" in printed
    assert "(layer1): about 0 minutes; fewer values of C, folds, layers or joins take less\n" in printed


def test_two_folds_choose_c_on_parts_of_their_training_rows():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 2).astype(str)
    targets = (rng.random((40, 1)) < 0.5).astype(np.float32)
    table = ImageTable(np.arange(40).astype(str), None, targets, ("a",), groups, None)
    from src.evaluation.metrics import build_metric

    table = ImageTable(*(getattr(table, one) for one in ("ids", "paths", "targets", "target_names", "groups")),
                       SPLITS["group"](table, 2, 0))  # fmt: skip
    sets, outer, inner = list_splits(load_config([]), table, [0, 1], build_metric("log_loss", "binary"))
    for fold in (0, 1):
        train, seen = sets[outer[fold]], np.zeros(40, dtype=int)
        assert np.array_equal(train, table.folds != fold)
        assert len(inner[fold]) == 3
        for number, val in inner[fold]:
            assert not (sets[number] & val).any()
            assert np.array_equal(sets[number] | val, train)
            assert not set(groups[val]) & set(groups[sets[number]])
            seen += val
        assert np.array_equal(seen == 1, train)


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_sample_weight

    labels = np.array([0, 0, 0, 1, 2, 2, 0, 1])
    rows = np.arange(8) != 6
    for task, targets in (("multiclass", np.eye(3)[labels]), ("multilabel", np.eye(3)[labels])):
        table = ImageTable(None, None, targets, ("a", "b", "c"), None, None, task=task)
        found = weigh(table, rows[None], is_balanced=True)[0]
        for column in range(3):
            of = labels if task == "multiclass" else targets[:, column]
            np.testing.assert_allclose(found[rows, column], compute_sample_weight("balanced", of[rows]))
        assert not found[~rows].any()


def test_a_sister_runs_backbone_is_a_candidate_but_no_run_of_the_same_rows(probe, place, capsys):
    table = pd.read_csv("data/train.csv")
    for number, name in enumerate(("first", "second")):
        table.iloc[number::2].to_csv(f"data/{name}.csv", index=False)
    words = ["competition=spots", "model.weights=weights", "model.backbone=test_resnet", "competition.group=null"]
    tiny = ["num_folds=2", "train.epochs=1", "tracking=none", "report=false", "threads=1", "precision=fp32"]
    sister = ["competition.train_table=first.csv", "competition.metric=log_loss", "fold=0", "name=sister"]
    run_here("train.py", *words, *tiny, *sister, cwd=".")
    more = ["competition.train_table=second.csv", "competition.group=null", "C=[0.1]"]
    probe("candidates=[test_resnet,outputs/sister,outputs/sister/fold0]", "name=by_sister", "join=off", *more)
    found = {one["name"]: one["score"] for one in load_json("outputs/by_sister/probe.json")["candidates"]}
    assert found["outputs/sister"] == found["outputs/sister/fold0"]
    with pytest.raises(SystemExit):
        probe("candidates=[outputs/sister]", "competition.group=null", "name=leak", "fold_seed=1")
    error = capsys.readouterr().err
    assert "outputs/sister: has learned from 12 of these 48 rows, which its features would be judged on" in error
    assert not Path("outputs/leak").exists()


def test_features_of_several_images_a_row_are_joined_as_competition_says(probe):
    found = {}
    for how in ("mean", "max"):
        several = ["competition.images=[train/{id}.png,train/{id}.png]", f"competition.images_as={how}", f"name={how}"]
        several += ["competition.test_image=[test/{id}.png,test/{id}.png]"]
        probe("model.backbone=test_resnet", "C=[0.1]", "layers=[0]", *several)
        found[how] = pd.read_csv(f"outputs/{how}/oof.csv")
    probe("model.backbone=test_resnet", "C=[0.1]", "layers=[0]", "name=one")
    for one in found.values():  # an image beside itself
        np.testing.assert_allclose(one["bright"], pd.read_csv("outputs/one/oof.csv")["bright"], atol=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "regression", "multilabel"])
def test_other_tasks_are_judged_by_their_own_metrics(probe, task):
    table, names = pd.read_csv("data/train.csv"), ["a", "b"] if task == "multilabel" else ["a", "b", "c"]
    values = np.eye(len(names))[np.arange(NUM_ROWS) // 2 % len(names)]
    metric, more = "log_loss", []
    if task == "multilabel":
        values[5, 0] = np.nan
        more = ["competition.missing=drop", "balance=true"]
    if task == "regression":
        values, metric = values * 100 + np.arange(NUM_ROWS)[:, None], "rmse"
    table.assign(**dict(zip(names, values.T, strict=True))).to_csv("data/train.csv", index=False)
    targets = f"competition.targets=[{','.join(names)}]"
    words = [targets, f"competition.task={task}", f"competition.metric={metric}", "competition.test_table=null", *more]
    probe("model.backbone=test_resnet", "C=[0.001]", *words)
    oof, result = pd.read_csv("outputs/spots_probe/oof.csv"), load_json("outputs/spots_probe/probe.json")
    x, probs = compute_features("test_resnet", oof["id"], "train"), oof[names].to_numpy()
    if task == "regression":
        train = oof["fold"] != 0
        model = make_pipeline(StandardScaler(), Ridge(1000)).fit(x[train], values[train])
        np.testing.assert_allclose(probs[~train], model.predict(x[~train]), rtol=1e-5)
        assert result["score"] == pytest.approx(np.sqrt(((probs - values) ** 2).mean(axis=0)).mean(), rel=1e-5)
    if task == "multiclass":
        np.testing.assert_allclose(probs.sum(axis=1), 1)
        assert result["score"] == pytest.approx(-np.log((probs * values).sum(axis=1)).mean(), rel=1e-5)
    assert not Path("outputs/spots_probe/submission.csv").exists()


def test_metadata_is_a_candidate_that_is_joined(probe):
    for name in ("train", "test"):
        table = pd.read_csv(f"data/{name}.csv")
        table["size"] += 3 * table["bright"]  # which the images say less clearly
        table.to_csv(f"data/{name}.csv", index=False)
    words = ["model.backbone=test_resnet", "competition.metadata=[size]", "C=[0.1]"]
    probe(*words)
    found = {one["name"]: one for one in load_json("outputs/spots_probe/probe.json")["candidates"]}
    assert set(found) == {"test_resnet", "metadata", "test_resnet + metadata"}
    assert found["metadata"]["features"] == 1
    assert found["test_resnet + metadata"]["features"] == found["test_resnet"]["features"] + 1
    assert len(pd.read_csv("outputs/spots_probe/submission.csv")) == NUM_TEST
    probe(*words, "metadata=false", "name=images")
    assert len(load_json("outputs/images/probe.json")["candidates"]) == 1


def test_an_image_that_cannot_be_decoded_is_left_out_or_gets_the_mean(probe):
    for path in ("data/train/train3.png", "data/test/test2.png"):
        Path(path).write_bytes(b"no image")
    probe("model.backbone=test_resnet", "C=[0.1]", "unreadable=skip")
    assert list(pd.read_csv("outputs/spots_probe/unreadable.csv")["id"]) == ["train3"]
    assert "train3" not in set(pd.read_csv("outputs/spots_probe/oof.csv")["id"])
    submission = pd.read_csv("outputs/spots_probe/submission.csv").set_index("id")["bright"]
    assert submission["test2"] == pytest.approx(submission.drop("test2").mean())


@pytest.mark.parametrize(("words", "message"), [
    (["model.pretrained=false"], "model.pretrained=false: features of random weights would say nothing of the "
     "backbone; set model.pretrained=true"),
    (["join=greed"], "command line: join=greed is not one of greedy, pairs, all, off; did you mean greedy?"),
    (["layer=all"], "command line: layer is not known; did you mean layers?"),
    (["C=[0,1]"], "command line: C=0 is no number above 0; write for example C=[0.001,0.01]"),
    (["candidates=[]"], "command line: candidates= names nothing; leave it out, or see --help"),
    (["candidates=[a]", "model.backbone=b"], "command line: model.backbone=b beside candidates=; write it into that "
     "list"),
    (["layers=[all,last]"], "command line: layers: all stands alone; write layers=all"),
    (["hflip=yes"], "command line: hflip=yes is neither true nor false; write hflip=true"),
    (["fold=0"], "command line: fold=0: a probe is of all folds; leave it out"),
    (["model.pool=gem"], "model.pool=gem: its power is learned with the backbone; set model.pool=avg"),
    (["competition.images='{id}/*'", "competition.images_as=attention"],
     "competition.images_as=attention: its weights are learned in training; set it to mean or max"),
    (["balance=true", "competition.task=regression", "competition.metric=rmse"],
     "command line: balance=true counts classes, and regression has none; leave it out"),
    (["candidates=[test_resnet]", "layers=[layer9]"], "layers=layer9: no layer of all backbones; test_resnet has 0 to "
     "4, or act1, layer1, layer2, layer3, layer4; did you mean layer4?"),
    (["candidates=[outputs/none]"], "candidates=outputs/none: neither a run (no config.yaml) nor a backbone; correct "
     "it"),
])  # fmt: skip
def test_what_it_refuses(probe, capsys, words, message):
    with pytest.raises(SystemExit):
        probe(*words)
    error = capsys.readouterr().err.strip()
    assert error.removeprefix("error: ").startswith(message), error
    assert not Path("outputs/spots_probe").exists()


def test_join_all_judges_all_layers_of_all_backbones_and_nothing_else(probe):
    probe("candidates=[test_resnet,test_vit]", "C=[0.01]", "join=all", "name=all")
    probe("candidates=[test_resnet,test_vit]", "C=[0.01]", "name=greedy")
    found, other = (load_json(f"outputs/{name}/probe.json")["candidates"] for name in ("all", "greedy"))
    assert [one["name"] for one in found] == ["test_resnet + test_vit"]
    assert found[0]["score"] == next(one["score"] for one in other if one["name"] == "test_resnet + test_vit")
