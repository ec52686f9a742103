"""The pictures: paths, slopes and rates by hand, what a mirrored digit is taken for, and the words that are refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from src.config.settings import REPOSITORY, Schedule
from tests.launch import TINY, run_here
from tools import pictures
from tools.pictures import EPOCHS, NUM_STEPS, RATES, STEPS_PER_EPOCH, SURFACES, compute_path, compute_rates, main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sgd_and_momentum_step_as_by_hand():
    loss, start, _ = SURFACES["valley"]
    x, y = start
    sgd = compute_path("sgd", loss, start)
    np.testing.assert_allclose(sgd[1], [x - 0.95 * x / 10, y - 0.95 * 2 * y], rtol=1e-6)
    points, velocity = np.array(start), np.zeros(2)
    for step in range(4):
        velocity = 0.9 * velocity + points * [1 / 10, 2]
        points = points - RATES["momentum"] * velocity
        np.testing.assert_allclose(compute_path("momentum", loss, start)[step + 1], points, rtol=1e-5)


@pytest.mark.parametrize("name", RATES)
def test_every_optimizer_comes_near_the_lowest_point_and_leaves_the_saddle(name):
    loss, start, _ = SURFACES["valley"]
    path = compute_path(name, loss, start)
    assert path.shape == (NUM_STEPS + 1, 2)
    assert loss(*path[-1]) < 0.05 * loss(*start)
    loss, start, (_, top) = SURFACES["saddle"]
    assert np.abs(compute_path(name, loss, start)[:, 1]).max() > top


def test_schedules_and_activations_are_drawn_from_the_code_that_trains(folder, capsys):
    rates = compute_rates(Schedule(name="plateau", warmup_epochs=2))
    assert len(rates) == EPOCHS * STEPS_PER_EPOCH
    assert sorted(set(rates[2 * STEPS_PER_EPOCH :].round(6)), reverse=True) == [1, 0.1, 0.01]  # two stalls, two falls
    main(["schedules", "activations", "output=drawn"])
    assert capsys.readouterr().out == "drawn/schedules.png\ndrawn/activations.png\n"
    for name in ("schedules", "activations"):
        with Image.open(f"drawn/{name}.png") as image:
            assert image.width == 800
    assert json.loads((folder / "outputs/pictures/schedules.json").read_text())["plateau"] == rates[::100].tolist()
    drawn = json.loads((folder / "outputs/pictures/activations.json").read_text())
    middle = 200  # of 401 points from -4 to 4
    assert drawn["sigmoid"]["slope"][middle] == pytest.approx(0.25)
    assert drawn["relu"]["slope"][::400] == [0, 1]
    assert drawn["leaky_relu"]["value"][0] == pytest.approx(-0.04)


@pytest.mark.slow
def test_curves_and_turned_digits_come_from_runs(folder, monkeypatch):
    few = " ".join([*TINY, "fold=0"])
    monkeypatch.setattr(pictures, "CURVES", {"dropout": {"without": few, "with": f"{few} model.drop_rate=0.5"}})
    monkeypatch.setattr(pictures, "TRAINED", few)
    for _ in range(2):  # the second draws from what is there
        run_here("tools.pictures", "curves", "turned", "output=.", cwd=folder)
    curves = json.loads((folder / "outputs/pictures/curves.json").read_text())
    assert {label: len(one["val_loss"]) for label, one in curves.items()} == {"without": 2, "with": 2}
    assert curves["without"]["train_loss"] != curves["with"]["train_loss"]
    turned = json.loads((folder / "outputs/pictures/turned.json").read_text())
    assert list(turned) == ["mirrored left to right", "mirrored top to bottom", "turned by 180 degrees"]
    sums = [np.sum(counts, axis=1).tolist() for counts in turned.values()]
    assert sums[0] == sums[1] == sums[2]
    assert sum(sums[0]) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimiser"], "tools.pictures: no picture 'optimiser'; choose among "),
        (["schedules", "output=blocked/x"], "blocked/x: "),
    ],
)
def test_mistakes_are_one_line(folder, capsys, words, message):
    (folder / "blocked").write_text("a file")
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    complained = capsys.readouterr().err
    assert complained.startswith(f"error: {message}")
    assert complained.count("\n") == 1


def test_help_is_narrow_and_imports_no_torch():
    code = "import sys; from tools.pictures import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m tools.pictures")
    assert max(map(len, done.stdout.splitlines())) <= 80
