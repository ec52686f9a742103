"""The plots: every schedule's curve, and the words that are refused."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from src.config.load import config_yaml, load_config
from src.config.settings import REPOSITORY, Schedule
from src.files import save_table, save_text
from tools.techniques.__main__ import main
from tools.techniques.plots import EPOCHS, STEPS_PER_EPOCH, compute_rates


def test_the_schedules_plot_shows_all(tmp_path, capsys):
    rates = compute_rates(Schedule(name="plateau", warmup_epochs=2))
    assert len(rates) == EPOCHS * STEPS_PER_EPOCH
    assert sorted(set(rates[2 * STEPS_PER_EPOCH :].round(6)), reverse=True) == [1, 0.1, 0.01]  # two stalls, two falls
    path = tmp_path / "schedules.png"
    main(["schedules", f"output={path}"])
    assert capsys.readouterr().out == f"{path}\n{path.with_suffix('.json')}\n"
    assert path.stat().st_size > 10_000
    assert json.loads(path.with_suffix(".json").read_text())["plateau"] == rates[::STEPS_PER_EPOCH].tolist()


def test_transfer_draws_the_mean_of_the_folds(tmp_path, capsys):
    run = tmp_path / "run"
    for fold, scores in enumerate(([0.5, 0.7, 0.8], [0.6, 0.8])):
        log = pd.DataFrame({"seconds": np.arange(1.0, len(scores) + 1), "val_score": scores})
        save_table(run / f"fold{fold}" / "log.csv", log)
        save_text(run / f"fold{fold}" / "val.csv", "")
    save_text(run / "config.yaml", config_yaml(load_config([])))
    main(["transfer", f"{run}=mine", f"output={tmp_path}/transfer.png"])
    saved = json.loads((tmp_path / "transfer.json").read_text())
    assert saved["mine"]["seconds"] == [1, 2]
    assert saved["mine"]["score"] == pytest.approx([0.55, 0.75])
    assert (tmp_path / "transfer.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transfer"], "command line: no run to draw; write for example outputs/demo_default=label"),
        (["transfer", "nowhere=x"], "nowhere: no fold has finished an epoch; train one with python train.py"),
        (["schedules", "a=b"], "command line: schedules takes output=FILE.png, not a"),
        (["schedules", "output=x.jpg"], "output=x.jpg: not a PNG; write for example output=outputs/schedules.png"),
        (["schedules", "now"], "command line: 'now' is not key=value; write RUN=label or output=FILE.png"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_help_is_narrow_and_imports_no_torch():
    code = "import sys; from tools.techniques.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m tools.techniques")
    assert max(map(len, done.stdout.splitlines())) <= 80
