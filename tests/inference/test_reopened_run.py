"""A run that is reopened predicts what it predicted when it was trained."""

import shutil

import numpy as np
import pytest

from src.checkpointing.run_folder import RunFolder, load_run
from src.checkpointing.serialization import load_network
from src.errors import UserError
from src.inference.reopened_run import ReopenedRun


def test_its_folds_predict_their_rows_as_in_training(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run[0])
    folder, config = load_run(["run=outputs/demo_default"])
    run = ReopenedRun(config, folder)
    assert [fold.number for fold in run.folds] == [0, 1]
    for fold in run.folds:
        networks = [load_network(run.config, one) for one in run.folds]
        probs = run.predict_fold(networks, fold.number)
        rows = run.oof.folds == fold.number
        np.testing.assert_allclose(probs[fold.number], run.oof.probs[rows], atol=1e-5)
        assert np.abs(probs[1 - fold.number] - run.oof.probs[rows]).max() > 1e-3


def test_a_run_of_which_one_fold_is_finished(tiny_run, monkeypatch, tmp_path):
    monkeypatch.chdir(tiny_run[0])
    run = RunFolder(shutil.copytree("outputs/demo_default", tmp_path / "run"))
    lines = run.oof.read_text().splitlines()
    run.oof.write_text("\n".join([lines[0], *(one for one in lines[1:] if one.split(",")[1] == "1")]))
    run.fold(0).meta.unlink()
    path, config = load_run([f"run={run.path}"])
    found = ReopenedRun(config, path)
    assert [fold.number for fold in found.folds] == [1]
    assert len(found.table) == 1437
    run.fold(1).meta.unlink()
    with pytest.raises(UserError) as caught:
        ReopenedRun(config, path)
    assert str(caught.value) == f"{path}: no fold is finished; finish it with the command that trained it"
