"""Whether calibrating pays is said of predictions whose calibration is known."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

from src.config.load import config_yaml, load_config
from src.evaluation.metrics import build_metric
from tools.calibrate import conclude, main


@pytest.fixture
def write(tmp_path):
    """write(probs (N, C), targets, groups=None, folds=..., words=()): the path of a run's, or a blend's, folder."""

    def write_(probs, targets, *words, groups=None, num_folds=5, is_trained=True):
        folder = tmp_path / "run"
        folder.mkdir()
        config = load_config(["name=run", "competition.metric=log_loss", "competition.task=binary", *words])
        (folder / "config.yaml").write_text(config_yaml(config))
        names = [f"c{k}" for k in range(targets.shape[1])]
        table = pd.DataFrame({"id": [f"{row:05d}" for row in range(len(targets))]})
        table["fold"] = (np.arange(len(targets)) if groups is None else groups) % num_folds
        known = pd.DataFrame(targets, columns=[f"target_{one}" for one in names])
        pd.concat([table, known, pd.DataFrame(probs, columns=names)], axis=1).to_csv(folder / "oof.csv", index=False)
        if groups is not None:
            table["group"] = groups
        table.to_csv(folder / "folds.csv", index=False)
        if is_trained:
            (folder / "fold0").mkdir()
            (folder / "fold0/meta.json").write_text("{}")
        return str(folder)

    return write_


def draw(num_rows=2000, num_columns=1):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(num_rows, num_columns)) * 1.5
    return logits, (rng.random(logits.shape) < expit(logits)).astype(float)


def calibrate(tmp_path, *words):
    main([*words, f"output={tmp_path}/found.json"])
    return json.loads((tmp_path / "found.json").read_text())


def test_overconfident_predictions_pay(write, tmp_path, capsys):
    logits, targets = draw(4000)
    folder = write(expit(3 * logits), targets)
    found = calibrate(tmp_path, folder, "method=temperature")
    before, after = (found["methods"][name] for name in ("none", "temperature"))
    assert float(after["fit"].split()[1]) == pytest.approx(3, abs=0.15)
    assert after["log_loss"]["difference_interval"][1] < -0.1
    assert after["log_loss"]["score"] < before["log_loss"]["score"]
    assert before["ece"]["interval"][0] > 0.1
    assert after["ece"]["interval"][0] == 0
    printed = capsys.readouterr().out
    assert f"calibrating pays: by {after['fit']} log loss falls: -" in printed.replace("\n", " ")
    assert printed.splitlines()[-1] == f"python infer.py run={folder} infer.calibration=temperature"
    assert max(map(len, printed.replace(folder, "outputs/run").splitlines())) <= 80


def test_a_method_that_pays_goes_before_one_of_lower_loss():
    loses, gains = ({"difference": one, "difference_interval": [one - 0.01, one + 0.01]} for one in (-0.1, 0.1))
    found = {"none": {}, "isotonic": {"log_loss": {"score": 0.2} | loses, "accuracy": loses},
             "temperature": {"log_loss": {"score": 0.3} | loses, "accuracy": gains}}  # fmt: skip
    found = {name: one | {"fit": name, "distinct": 9} for name, one in found.items()}
    concluded = conclude(found, build_metric("accuracy", "binary"))
    assert (concluded["best"], concluded["pays"]) == ("temperature", True)


def test_calibrated_predictions_do_not(write, tmp_path, capsys):
    logits, targets = draw(4000)
    found = calibrate(tmp_path, write(expit(logits), targets))
    assert float(found["methods"]["temperature"]["fit"].split()[1]) == pytest.approx(1, abs=0.1)
    assert set(found["methods"]) == {"none", "temperature", "isotonic"}
    assert not found["pays"]
    printed = capsys.readouterr().out
    assert "calibrating does not pay: by temperature" in printed
    assert "isotonic makes ties: " in printed
    assert "infer.py" not in printed


def test_ranks_gain_nothing_by_a_temperature(write, tmp_path, capsys):
    logits, targets = draw()
    found = calibrate(tmp_path, write(expit(3 * logits), targets, "competition.metric=roc_auc"), "method=temperature")
    assert found["methods"]["temperature"]["roc_auc"]["difference"] == pytest.approx(0, abs=1e-4)  # folds' T differ
    assert found["methods"]["temperature"]["log_loss"]["difference_interval"][1] < 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "calibrating does not pay: " in printed
    assert "the competition's roc_auc does not change beyond chance" in printed


def test_groups_are_one_unit(write, tmp_path):
    logits, targets = draw(300)
    twice = [np.repeat(one, 2, axis=0) for one in (expit(2 * logits), targets)]
    found = calibrate(tmp_path, write(*twice, groups=np.repeat(np.arange(300), 2)), "method=temperature")
    assert (found["rows"], found["groups"]) == (600, 300)


def test_a_blend_has_no_command_for_infer(write, tmp_path, capsys):
    logits, targets = draw()
    assert calibrate(tmp_path, write(expit(3 * logits), targets, is_trained=False))["pays"]
    assert "infer.py" not in capsys.readouterr().out


def test_classes_and_several_labels(write, tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 3)) * 2
    classes = (rng.random((3000, 1)) > softmax(logits, axis=1).cumsum(axis=1)[:, :-1]).sum(axis=1)
    folder = write(softmax(3 * logits, axis=1), np.eye(3)[classes], "competition.task=multiclass")
    found = calibrate(tmp_path, folder)["methods"]
    assert list(found) == ["none", "temperature", "isotonic"]
    assert found["none"]["ece"]["score"] > 0.1 > 0.05 > found["temperature"]["ece"]["score"]


def test_columns_of_several_labels_have_temperatures(write, tmp_path):
    logits, targets = draw(2000, 2)
    found = calibrate(tmp_path, write(expit([1, 3] * logits), targets, "competition.task=multilabel"))["methods"]
    assert list(found) == ["none", "temperature", "temperature_per_column", "isotonic"]
    assert found["temperature_per_column"]["log_loss"]["score"] < found["temperature"]["log_loss"]["score"] - 0.02


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "command line: 0 runs, wanted is 1; write RUN, the folder of a run"),
        (["run", "methd=isotonic"],
         "command line: methd=isotonic is not known; did you mean method?; "
         "write RUN [method=NAME] [output=FILE.json]"),
        (["run", "method=istonic"],
         "method=istonic: not one of temperature, temperature_per_column, isotonic; did you mean isotonic?"),
        (["run", "method=temperature_per_column"],
         "method=temperature_per_column: is for task=multilabel, run has binary; take temperature"),
        (["run"], "run/oof.csv: holds 1 fold, and a fold is judged by what others fit; train another one"),
        (["none"], "none: not a run (no config.yaml); train one with python train.py"),
    ],
)  # fmt: skip
def test_refusals(words, line, write, tmp_path, monkeypatch, capsys):
    logits, targets = draw(50)
    write(expit(logits), targets, num_folds=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err == f"error: {line}\n"
