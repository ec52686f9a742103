"""Views are judged on rows that a fold has not seen, by what its network predicts for them."""

import json
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from src.checkpointing.run_folder import RunFolder, load_run
from src.checkpointing.serialization import load_network
from src.competition.tables import load_train_table
from src.config.settings import Competition
from src.data.decode import decode_image
from src.data.transforms import build_resize
from src.evaluation.out_of_fold import OutOfFold, load_out_of_fold
from tests.launch import run_here
from tools.tta import compare_views, fit_weights, main, predict_views


def test_a_view_is_what_the_network_says_of_turned_images(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run[0])
    folder, config = load_run(["run=outputs/demo_default"])
    run, probs = predict_views(folder, config, {"vflip": lambda images: images.flip(2)})
    oof = load_out_of_fold(RunFolder(folder).oof, RunFolder(folder).folds)
    np.testing.assert_allclose(probs[0], oof.probs, atol=1e-5)
    table, rows = load_train_table(config.competition), np.flatnonzero(oof.folds == 1)[:5]
    paths = [table.paths[list(table.ids).index(one)] for one in oof.ids[rows]]
    resize = build_resize(config)
    images = np.stack([resize(decode_image(str(path), config.competition, resize.decode_size), 0) for path in paths])
    network = load_network(config, run.folder.fold(1))
    with torch.no_grad():
        turned = network.normalize({"image": torch.from_numpy(images[:, ::-1].copy())})
        expected = network(**turned).softmax(dim=1).numpy()
    np.testing.assert_allclose(probs[1][rows], expected, atol=1e-5)
    assert np.abs(probs[1] - probs[0]).max() > 0.01


def test_the_weights_go_to_a_file_and_infer_takes_the_command(tiny_run, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tiny_run[0])
    output = tmp_path / "found.json"
    main(["outputs/demo_default", "views=[hflip,vflip]", f"output={output}"])
    found, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert list(found["scores"]) == ["plain", "hflip", "vflip", "mean", "weighted"]
    scores = json.loads((tiny_run[0] / "outputs/demo_default/scores.json").read_text())
    assert found["scores"]["plain"]["score"] == pytest.approx(scores["pooled"], abs=1e-4)
    assert found["scores"]["plain"]["difference"] == 0
    assert sum(found["weights"].values()) == pytest.approx(1)
    assert max(map(len, printed.splitlines())) <= 100
    command = shlex.split(printed.splitlines()[-1])
    assert command[:2] == ["python", "infer.py"]
    weights = ",".join(f"{one:.4f}" for one in found["weights"].values())
    words = ["infer.tta=[hflip,vflip]", f"infer.tta_weights=[{weights}]", f"infer.output={tmp_path}"]
    run_here("infer.py", *command[2:3], *words, cwd=tiny_run[0])
    assert (tmp_path / "submission.csv").is_file()


def draw(num_rows=600, folds=3, noise=(1.0, 1.0, 1.0), seed=0):
    """(OutOfFold, probs (M, N, 1)) of predictions that see a target through noise of their own."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, 1)) < 0.5).astype(float)
    seen = [1 / (1 + np.exp(-(2 * targets - 1 + one * rng.normal(size=targets.shape)))) for one in noise]
    ids, numbers = np.arange(num_rows).astype(str), np.arange(num_rows) % folds
    return OutOfFold(ids, numbers, targets, seen[0], ("x",), None), np.stack(seen)


def test_a_view_of_noise_gets_no_weight_and_weights_beat_the_mean():
    oof, probs = draw(noise=(1.0, 0.8, 100.0))
    found = compare_views(oof, Competition(task="binary"), {"some": None, "noise": None}, probs)
    assert found["weights"]["noise"] <= 0.05
    assert found["chosen"] == "weighted"
    assert found["scores"]["weighted"]["score"] > found["scores"]["mean"]["score"]
    assert found["scores"]["noise"]["difference_interval"][1] < 0


def test_views_alike_need_no_weights():
    oof, probs = draw(noise=(1.0, 1.0, 1.0))
    found = compare_views(oof, Competition(task="binary"), {"a": None, "b": None}, probs)
    assert found["chosen"] == "mean"
    assert found["sentences"][0].startswith("the plain mean of views is better than the image alone: +0.")
    assert found["sentences"][-1] == "the plain mean is as good as weights: leave infer.tta_weights out"
    again = compare_views(oof, Competition(task="binary"), {"same": None}, probs[[0, 0]])
    assert again["chosen"] == "plain"
    assert again["sentences"][-1] == "no views are shown to be better than the image alone: leave infer.tta out"
    assert again["scores"]["mean"]["difference_interval"] == [0, 0]


def test_a_folds_weights_are_fitted_on_the_others():
    """In fold 0 the first view is turned around: the other folds cannot know it, weights of its own could."""
    oof, probs = draw(folds=3, noise=(0.5, 2.0))
    rows = oof.folds == 0
    probs[0, rows] = 1 - probs[0, rows]
    found = compare_views(oof, Competition(task="binary", metric="log_loss"), {"b": None}, probs)
    expected = np.empty_like(oof.targets)
    for fold in range(3):
        own = oof.folds == fold
        expected[own] = np.tensordot(fit_weights(oof.targets[~own], probs[:, ~own]), probs[:, own], 1)
    truth, p = oof.targets, expected.clip(1e-7, 1 - 1e-7)
    assert found["scores"]["weighted"]["score"] == pytest.approx(-np.mean(np.log(np.where(truth == 1, p, 1 - p))))


def test_one_fold_has_no_nested_weights():
    oof, probs = draw(folds=1)
    assert "weighted" not in compare_views(oof, Competition(task="binary"), {"a": None, "b": None}, probs)["scores"]


def test_weights_by_hand():
    targets = np.array([[1.0, np.nan], [0.0, 1.0]])
    first, second = np.array([[1.0, 0.3], [0.0, 0.0]]), np.array([[0.0, 0.9], [0.0, 1.0]])
    assert fit_weights(targets, np.stack([first, second])).tolist() == pytest.approx([0.5, 0.5])
    assert fit_weights(targets, np.stack([first, 0 * first])).tolist() == [1, 0]
    assert fit_weights(0 * targets, np.stack([first, second])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "command line: 0 runs, wanted is 1; write RUN, the folder of a run"),
        (["outputs/demo_default", "views=none"], "views=none: leaves nothing to try; write for example views=hflip"),
        (["outputs/demo_default", "infer.tta=hflip"],
         "command line: infer.tta is infer.py's; the views to try are views=[hflip,vflip]"),
        (["outputs/demo_default", "views=hflop"],
         "views=hflop: not one of hflip, vflip, d4, scales; did you mean hflip?"),
        (["nothing"], "nothing: not a run (no config.yaml); train one with python train.py"),
    ],
)  # fmt: skip
def test_refusals(words, line, tiny_run, monkeypatch, capsys):
    monkeypatch.chdir(tiny_run[0])
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_run_whose_rows_have_changed_is_one_line(tiny_run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tiny_run[0])
    run = RunFolder(shutil.copytree("outputs/demo_default", tmp_path / "run"))
    text, oof = run.folds.read_text(), pd.read_csv(run.oof, dtype={"id": str})
    run.folds.write_text(text.rstrip() + text.splitlines()[-1].replace(text.splitlines()[-1].split(",")[0], "\ngone"))
    changed = tmp_path / "changed"
    shutil.copytree(run.path, changed)
    RunFolder(changed).folds.write_text(text)
    oof.assign(target_0=1 - oof["target_0"]).to_csv(RunFolder(changed).oof, index=False)
    for path, line in (
        (run.path, "run/folds.csv: 1 of its 1438 rows are not among the competition's (first: gone); bring back the "
         "table and images that the run was trained on"),
        (changed, "changed/oof.csv: holds other targets than the competition's table now; train it anew"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main([str(path)])
        assert capsys.readouterr().err == f"error: {tmp_path}/{line}\n"
