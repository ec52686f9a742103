"""python -m tools.find_lr as a person runs it."""

import re
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.errors import UserError
from tests.launch import TINY, run_here
from tools.find_lr import report
from tools.lr_finder import Proposal

SWEEP = pd.DataFrame({"lr": [1e-4, 1e-3, 1e-2], "loss": [2.0, 1.5, 1.9], "smoothed": [2.0, 1.7, 1.8]})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A folder in which the rate was looked for, and what was printed."""
    folder = tmp_path_factory.mktemp("lr")
    printed, _ = run_here("tools.find_lr", *TINY, "train.batch_size=8", cwd=folder)
    return folder, printed


def test_it_prints_a_word_to_paste(found):
    _, printed = found
    assert all(len(line) <= 80 for line in printed.splitlines())
    word = re.search(r"^(optimizer\.lr=\S+)   \(now 4\.0e-03; the loss was lowest at \S+\)$", printed, re.MULTILINE)[1]
    assert 4e-6 < load_config([word]).optimizer.lr < 4


def test_it_leaves_a_picture_a_table_and_no_run_folder(found):
    folder, _ = found
    assert {path.name for path in (folder / "outputs").iterdir()} == {
        "folds", "lr_demo_default.csv", "lr_demo_default.png",
    }  # fmt: skip
    with Image.open(folder / "outputs" / "lr_demo_default.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) >= 400
    table = pd.read_csv(folder / "outputs" / "lr_demo_default.csv")
    assert list(table.columns) == ["lr", "loss", "smoothed"]
    assert table["lr"].iloc[0] == pytest.approx(4e-6)
    assert table["lr"].is_monotonic_increasing
    assert table["lr"].iloc[-1] <= 4 * 1.001


@pytest.mark.slow
def test_the_same_words_find_the_same(found, tmp_path):
    folder, printed = found
    assert run_here("tools.find_lr", *TINY, "train.batch_size=8", "fold=0", cwd=tmp_path)[0] == printed
    name = "outputs/lr_demo_default.csv"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("optimizer.lrr=1", "unknown setting optimizer.lrr; did you mean optimizer.lr?"),
        ("optimizer.lr=0", "optimizer.lr=0: the sweep goes around this rate"),
        ("folds=holdout fold=1", "fold=1: this split has folds 0"),
    ],
)
def test_a_mistake_is_one_line(word, complaint, tmp_path):
    _, complained = run_here("tools.find_lr", *TINY, *word.split(), cwd=tmp_path, status=2)
    assert len(complained.splitlines()) == 1
    assert complaint in complained


def test_a_small_fall_is_called_a_guess_and_none_an_error(tmp_path, capsys):
    config = load_config([f"output_dir={tmp_path}"])
    report(config, SWEEP, Proposal(1e-3, 1e-2, 0.04), 96)
    assert "fell by 4% only" in capsys.readouterr().out
    report(config, SWEEP, Proposal(1e-3, 1e-2, 0.4), 96)
    assert "only" not in capsys.readouterr().out
    (tmp_path / "lr_demo_default.png").unlink()
    with pytest.raises(UserError, match="fell at no rate"):
        report(config, SWEEP, None, 96)
    assert (tmp_path / "lr_demo_default.png").is_file()


def test_help_does_not_wait_for_torch():
    code = "import sys; from tools.find_lr import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m tools.find_lr")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
