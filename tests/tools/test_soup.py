"""Soups of runs whose mean is known: their weights differ by noise of two signs, or have nothing in common."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.swa_utils import update_bn

from src.checkpointing.run_folder import RunFolder, load_run
from src.checkpointing.serialization import copy_to_cpu, load_network, read_weights, save_weights
from src.config.load import config_yaml, load_saved_config
from src.data.samplers import derive_seed
from src.evaluation.metrics import build_metric
from src.inference.reopened_run import ReopenedRun
from src.model.network import build_network
from src.training.engine import iterate_inputs
from src.training.learner import build_transforms, choose_rows
from tests.launch import run_here
from tools.soup import Soups, judge, main


@pytest.fixture
def place(tiny_run, tmp_path, monkeypatch):
    """A folder with `outputs` for runs, and the embedded competition's data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tiny_run[0] / "data")
    shutil.copytree(tiny_run[0] / "outputs/demo_default", "outputs/demo_default", ignore=shutil.ignore_patterns("*.pt"))
    return tmp_path


def shift(name, shares):
    """Copy the run, with weights moved by shares[fold] of their deviation, in one direction for all copies."""
    path = f"outputs/{name}"
    shutil.copytree("outputs/demo_default", path)
    folder, config = RunFolder(path), load_run([f"run={path}"])[1]
    oof = pd.read_csv(folder.oof, dtype={"id": str})
    run, names = ReopenedRun(config, path), [one for one in oof if one.startswith("target_")]
    for fold, share in zip(run.folds, shares, strict=True):
        rng = torch.Generator().manual_seed(derive_seed("noise", fold.number))
        weights = {
            one: tensor + share * tensor.std() * torch.randn(tensor.shape, generator=rng) if tensor.ndim > 1 else tensor
            for one, tensor in read_weights(fold.weights("last")).items() if one not in ("pixel_mean", "pixel_std")
        }  # fmt: skip
        weights |= {one: read_weights(fold.weights("last"))[one] for one in ("pixel_mean", "pixel_std")}
        save_weights(fold.weights("last"), weights)
        probs = run.predict_fold([load_network(run.config, fold)], fold.number)[0]
        oof.loc[oof["fold"] == fold.number, [one.removeprefix("target_") for one in names]] = probs
    oof.to_csv(folder.oof, index=False)
    return path


def load_json(path):
    with open(path) as file:
        return json.load(file)


def read_probs(path):
    return pd.read_csv(path, dtype={"id": str}).set_index("id")


@pytest.mark.slow
def test_noise_of_two_signs_has_the_run_itself_as_its_mean(place, capsys):
    paths = [shift("plus", (0.7, 0.7)), shift("minus", (-0.7, -0.7))]
    main([*paths, "name=soup"])
    found, printed = load_json("outputs/soup/soup.json"), capsys.readouterr().out
    assert sorted(found["members"]) == sorted(paths)
    assert found["left_out"] == []
    assert found["scores"]["soup"]["difference_interval"][0] > 0
    assert found["scores"]["nested"] == found["scores"]["soup"]  # both folds choose both
    words = " ".join(printed.split())
    assert "with a fold's members chosen on the other folds it is better: roc_auc" in words
    for fold in (0, 1):
        soup, run = (read_weights(f"outputs/{one}/fold{fold}/last.safetensors") for one in ("soup", "demo_default"))
        assert all(torch.allclose(soup[name], tensor, atol=1e-6) for name, tensor in run.items())
        mine, its = (read_probs(f"outputs/{one}/fold{fold}/val.csv") for one in ("soup", "demo_default"))
        pd.testing.assert_frame_equal(mine, its, atol=1e-5, rtol=0)
    scores = [load_json(f"outputs/{one}/scores.json") for one in ("soup", "demo_default")]
    assert scores[0]["pooled"] == pytest.approx(scores[1]["pooled"], abs=1e-5)
    assert scores[0]["folds"] == pytest.approx(scores[1]["folds"], abs=1e-5)
    assert load_saved_config("outputs/soup").name == "soup"


@pytest.mark.slow
def test_infer_takes_a_soup_as_any_run(place):
    main([shift("plus", (0.7, 0.7)), shift("minus", (-0.7, -0.7)), "name=soup"])
    for name in ("soup", "demo_default"):
        run_here("infer.py", f"run=outputs/{name}", cwd=place)
    soup, run = (pd.read_csv(f"outputs/{name}/submission.csv") for name in ("soup", "demo_default"))
    pd.testing.assert_frame_equal(soup, run, atol=1e-5, rtol=0)
    assert run_here("infer.py", cwd=place)[0].startswith("outputs/soup: ")  # the newest run


@pytest.mark.slow
def test_runs_of_other_basins_are_left_out(place, capsys):
    main(["outputs/demo_default", shift("far", (30, 30)), "name=soup"])
    words = " ".join(capsys.readouterr().out.split())
    assert "left out)" in words
    sentence = "no other run can be averaged with outputs/demo_default without loss: the soup is outputs/demo_default"
    assert f"{sentence} alone" in words
    for fold in (0, 1):
        soup, run = (read_weights(f"outputs/{one}/fold{fold}/last.safetensors") for one in ("soup", "demo_default"))
        assert all(torch.equal(soup[name], tensor) for name, tensor in run.items())


@pytest.mark.slow
def test_a_folds_members_are_chosen_on_the_others_for_the_nested_score(place):
    """One run is spoilt in fold 0, the other in fold 1: what fold 1 finds best is bad in fold 0, and the other way."""
    paths = [shift("spoilt0", (30, 0)), shift("spoilt1", (0, 30))]
    configs = [load_run([f"run={path}"])[1] for path in paths]
    metric = build_metric("roc_auc", "multiclass")
    soups = Soups(paths, configs, metric, "refresh")
    assert [soups.choose([0]), soups.choose([1])] == [[1], [0]]
    result = judge(soups, [0], {0: soups.choose([1]), 1: soups.choose([0])})
    oof, expected = soups.run.oof, np.empty_like(soups.run.oof.probs)
    for fold in (0, 1):
        rows = oof.folds == fold
        expected[rows] = pd.read_csv(f"{paths[fold]}/oof.csv")[list(oof.target_names)].to_numpy()[rows]
    assert result["scores"]["nested"]["score"] == pytest.approx(metric.score(oof.targets, expected))
    assert result["scores"]["nested"]["score"] < max(soups.score([one], [0, 1]) for one in (0, 1))


def make_batchnorm_runs(seeds):
    """Runs of random networks with BatchNorm, in the place of the trained ones'."""
    paths = []
    for seed in seeds:
        folder = RunFolder(shutil.copytree("outputs/demo_default", f"outputs/norm{seed}"))
        config = load_saved_config(folder.path, ["model.backbone=simple_cnn", "model.kwargs={}", "augment.preset=none"])
        folder.config.write_text(config_yaml(config))
        for number in (0, 1):
            torch.manual_seed(seed)
            network = build_network(config, 10)
            network(image=torch.randn(8, 1, 16, 16) * (1 + seed))  # which moves its statistics
            weights = copy_to_cpu(network.state_dict()) | {"auxiliary.weight": torch.zeros(3, 2)}  # of training alone
            save_weights(folder.fold(number).weights("last"), weights)
        paths.append(str(folder.path))
    return paths


def test_batchnorms_statistics_are_computed_anew_as_torch_does(place):
    paths = make_batchnorm_runs([1, 2])
    configs = [load_run([f"run={path}"])[1] for path in paths]
    networks = {
        how: Soups(paths, configs, build_metric("roc_auc", "multiclass"), how) for how in ("refresh", "average")
    }
    run = networks["refresh"].run
    refreshed, averaged = (networks[how].build([0, 1], 0) for how in ("refresh", "average"))
    name = "backbone.blocks.0.1.running_mean"
    means = [read_weights(f"{path}/fold0/last.safetensors")[name] for path in paths]
    assert torch.allclose(averaged.state_dict()[name], torch.stack(means).mean(dim=0))
    assert not torch.allclose(refreshed.state_dict()[name], averaged.state_dict()[name], atol=0.01)
    rows = choose_rows(run.config, 0, run.table.folds)[0]
    how = {"transform": build_transforms(run.config, run.table)[0], "shuffle_seed": run.config.seed, "at_least": 2}
    loader = run.build_loader(rows, run.config.train.batch_size, **how)
    update_bn(
        (one["image"] for one in iterate_inputs(loader, 0, averaged.normalize, run.device)), _Positional(averaged)
    )
    for key, tensor in averaged.state_dict().items():
        assert torch.allclose(refreshed.state_dict()[key].float(), tensor.float(), atol=1e-4), key


class _Positional(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image=image)


def test_statistics_that_are_alike_are_kept(place):
    [path] = make_batchnorm_runs([1])
    config = load_run([f"run={path}"])[1]
    built = Soups([path, path], [config] * 2, build_metric("roc_auc", "multiclass"), "refresh").build([0, 1], 0)
    weights = read_weights(f"{path}/fold0/last.safetensors")
    assert all(torch.allclose(tensor, weights[name]) for name, tensor in built.state_dict().items())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["one"], "command line: 1 runs, wanted are 2 or more; write RUN_A RUN_B, folders of runs"),
        (["one", "two"], "command line: name= is missing; write name=NAME, the folder in outputs for the soup"),
        (["one", "two", "name=s", "batchnorm=refesh"],
         "batchnorm=refesh: not one of refresh, average; did you mean refresh?"),
        (["one", "two", "name=s", "infer.tta=d4"],
         "command line: infer.tta is infer.py's, no network is averaged by it; leave it out"),
        (["outputs/demo_default", "none", "name=s"], "none: not a run (no config.yaml); train one with "
         "python train.py"),
        (["outputs/demo_default", "outputs/b", "name=b"], "outputs/b: exists; choose name=ANOTHER or delete it"),
        (["outputs/demo_default", "outputs/b", "name=cache"],
         "name=cache: not a folder of its own in outputs; choose another name"),
        (["outputs/demo_default", "outputs/b", "name=s"],
         "outputs/b: image_size=[32,32] (not [16,16]), model.pool=avg (not auto), unlike outputs/demo_default; "
         "a soup needs runs of one network and task"),
        (["outputs/demo_default", "outputs/folds", "name=s"],
         "outputs/folds: has other folds than outputs/demo_default; a soup needs runs of the same folds and rows"),
        (["outputs/demo_default", "outputs/half", "name=s"],
         "outputs/half: has finished folds 1, outputs/demo_default has 0, 1; finish the same folds of all runs"),
    ],
)  # fmt: skip
def test_refusals(words, line, place, capsys):
    for name in ("b", "folds", "half"):
        shutil.copytree("outputs/demo_default", f"outputs/{name}")
    config = load_saved_config("outputs/b", ["image_size=32", "model.pool=avg"])
    RunFolder("outputs/b").config.write_text(config_yaml(config))
    folds = pd.read_csv("outputs/folds/folds.csv", dtype={"id": str})
    folds.assign(fold=1 - folds["fold"]).to_csv("outputs/folds/folds.csv", index=False)
    oof = pd.read_csv("outputs/half/oof.csv", dtype={"id": str})
    oof[oof["fold"] == 1].to_csv("outputs/half/oof.csv", index=False)
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err == f"error: {line}\n"
    assert not (place / "outputs/s").exists()


def test_weights_that_do_not_fit_are_named(place, capsys):
    shutil.copytree("outputs/demo_default", "outputs/b")
    path = RunFolder("outputs/b").fold(0).weights("last")
    weights = read_weights(path)
    save_weights(path, weights | {"head.last.bias": torch.zeros(3)})
    with pytest.raises(SystemExit):
        main(["outputs/demo_default", "outputs/b", "name=s"])
    line = "its weights differ in shape from those of outputs/demo_default (first: head.last.bias)"
    assert capsys.readouterr().err == f"error: outputs/b: {line}; a soup needs runs of one network\n"
