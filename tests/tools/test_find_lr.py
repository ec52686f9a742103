"""find_lr: the command, the sweep on problems with a known answer, and the proposal on hand-made curves."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.errors import UserError
from src.training.averaging import Average
from src.training.learner import Learner
from src.training.schedule import Schedule
from tests.launch import TINY, run_here
from tools.find_lr import Proposal, choose_rate, climb, report, sweep_lr

SWEEP = pd.DataFrame({"lr": [1e-4, 1e-3, 1e-2], "loss": [2.0, 1.5, 1.9], "smoothed": [2.0, 1.7, 1.8]})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A folder in which find_lr ran, and what it printed."""
    folder = tmp_path_factory.mktemp("lr")
    printed, _ = run_here("tools.find_lr", *TINY, "train.batch_size=8", cwd=folder)
    return folder, printed


def test_it_prints_a_word_to_paste(found):
    _, printed = found
    lines = printed.splitlines()[2:]
    assert printed.splitlines()[0].startswith("decoding ")
    assert "decoded images, " in printed.splitlines()[1]
    assert all(len(line) <= 80 for line in lines)
    pattern = r"^(optimizer\.lr=\S+)   \(now 4\.0e-03; the sweep's loss was lowest at \S+\)$"
    word = re.search(pattern, printed, re.MULTILINE)[1]
    tried = {float(lr): float(score) for lr, score in re.findall(r"^  (\S+)  (\S+)", printed, re.MULTILINE)}
    assert load_config([word]).optimizer.lr == max(tried, key=tried.get)
    assert 3 <= len(tried) <= 9
    assert 0.004 in tried
    assert "tried for 24 steps; roc_auc and log loss of 719 held-out images" in lines  # 2 epochs of 12 batches


def test_it_writes_an_image_a_table_a_json_and_no_run_folder(found):
    folder, printed = found
    names = {f"lr_demo_default{suffix}" for suffix in (".csv", ".json", ".png")}
    assert {path.name for path in (folder / "outputs").iterdir()} == {"folds", "cache"} | names
    with Image.open(folder / "outputs" / "lr_demo_default.png") as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) >= 400
    found = json.loads((folder / "outputs" / "lr_demo_default.json").read_text())
    assert f"optimizer.lr={found['proposal']['lr']:.1e} " in printed
    assert (found["lr_now"], found["batch_size"]) == (0.004, 8)
    assert all(f"outputs/{name}\n" in printed for name in names)
    table = pd.read_csv(folder / "outputs" / "lr_demo_default.csv")
    assert list(table.columns) == ["lr", "loss", "smoothed"]
    assert table["lr"].iloc[0] == pytest.approx(4e-6)
    assert table["lr"].is_monotonic_increasing
    assert table["lr"].iloc[-1] <= 4 * 1.001


@pytest.mark.slow
def test_the_same_words_find_the_same(found, tmp_path):
    folder, printed = found
    again, _ = run_here("tools.find_lr", *TINY, "train.batch_size=8", "fold=0", cwd=tmp_path)
    assert again.splitlines()[2:] == printed.splitlines()[2:]  # after the cache's name and seconds
    name = "outputs/lr_demo_default.csv"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("optimizer.lrr=1", "unknown setting optimizer.lrr; did you mean optimizer.lr?"),
        ("optimizer.lr=0", "optimizer.lr=0: the sweep is centred on this rate"),
        ("folds=holdout fold=1", "fold=1: this split has folds 0"),
        ("output=curve.jpg", "output=curve.jpg: not a PNG; choose a name that ends in .png"),
    ],
)
def test_a_mistake_is_one_line(word, complaint, tmp_path):
    _, complained = run_here("tools.find_lr", *TINY, *word.split(), cwd=tmp_path, status=2)
    assert len(complained.splitlines()) == 1
    assert complaint in complained


def test_a_loss_that_never_falls_is_an_error_and_drawn_all_the_same(tmp_path):
    config, path = load_config([]), tmp_path / "new" / "curve.png"
    with pytest.raises(UserError, match="fell at no rate"):
        report(config, SWEEP, None, 96, path)
    assert path.is_file()
    assert json.loads(path.with_suffix(".json").read_text())["proposal"] is None


def test_help_does_not_wait_for_torch():
    code = "import sys; from tools.find_lr import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m tools.find_lr")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


class FakeLoader:
    """Two batches of three zeros an epoch; records the epochs it was asked for."""

    def __init__(self):
        self.epochs = []

    def batches(self, epoch):
        self.epochs.append(epoch)
        for rows in (torch.arange(3), torch.arange(3, 6)):
            yield {"inputs": {"image": torch.zeros(3, 1)}, "target": torch.zeros(3, 1), "index": rows, "share": 1.0}


class Point(nn.Module):
    """A point in the plane, whatever the images are."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0]))
        self.y = nn.Parameter(torch.tensor([1.0]))

    def normalize(self, inputs):
        return inputs

    def forward(self, image):
        return torch.stack([self.x, self.y], dim=1)


def build_learner(loss, loader=None, factors=(1.0, 1.0), accumulate_steps=1):
    """Return a Learner of a Point whose loss is loss(point) and whose coordinates' rates are the factors."""
    network = Point()
    groups = [{"params": [one], "lr": lr} for one, lr in zip((network.x, network.y), factors, strict=True)]
    return Learner(
        config=load_config([f"optimizer.accumulate_steps={accumulate_steps}"]),
        accelerator=Accelerator(cpu=True), metric=None, network=network, average=Average(network, 1),
        loss_function=lambda logits, _: loss(logits), consistency=None, optimizer=torch.optim.SGD(groups, lr=1.0),
        schedule=Schedule(), train_loader=loader or FakeLoader(), val_loader=None, train_table=None, val_table=None,
        model=network,
    )  # fmt: skip


def sweep(loss, loader=None, accumulate_steps=1, **kwargs):
    return sweep_lr(build_learner(loss, loader, accumulate_steps=accumulate_steps), 1e-6, **{"last": 100.0} | kwargs)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 50.0])
def test_on_a_quadratic_a_tenth_of_the_lowest_losss_rate_is_below_the_rate_of_divergence(curvature):
    table = sweep(lambda point: 0.5 * (curvature * point[0, 0] ** 2 + 0.1 * curvature * point[0, 1] ** 2))
    lowest = table["lr"][table["smoothed"].idxmin()]
    assert 2 / curvature / 1000 < lowest / 10 < 2 / curvature


def test_rates_rise_exponentially_and_every_group_keeps_its_ratio():
    learner, seen = build_learner(lambda point: point.square().sum(), factors=(1.0, 10.0)), []
    learner.optimizer.register_step_pre_hook(lambda one, *_: seen.append([group["lr"] for group in one.param_groups]))
    table = sweep_lr(learner, 1e-6, 1e-2, num_steps=9)
    np.testing.assert_allclose(table["lr"], 10 ** np.linspace(-6, -2, 9))
    np.testing.assert_allclose([backbone for backbone, _ in seen], table["lr"])
    np.testing.assert_allclose([head / backbone for backbone, head in seen], 10)


def test_the_loader_is_repeated_and_the_smoothed_loss_has_no_bias():
    loader = FakeLoader()
    table = sweep(lambda point: point.square().sum(), loader, last=0.1, num_steps=9, accumulate_steps=2)
    assert loader.epochs == list(range(9))
    assert list(table.columns) == ["lr", "loss", "smoothed"]
    expected = table["loss"].ewm(alpha=0.2, adjust=True).mean()
    pd.testing.assert_series_equal(table["smoothed"], expected, check_names=False)


def test_the_sweep_stops_where_the_loss_explodes_or_is_not_finite():
    table = sweep(lambda point: point.square().sum(), num_steps=200)
    assert len(table) < 200
    assert table["smoothed"].iloc[-1] > 4 * table["smoothed"].min()
    assert (table["smoothed"].iloc[:-1] <= 4 * table["smoothed"].iloc[:-1].cummin()).all()

    count = iter(range(100))
    table = sweep(lambda point: point.sum() * (float("nan") if next(count) == 4 else 1.0))
    assert len(table) == 4


def test_a_first_loss_that_is_not_finite_and_a_bad_image_are_said():
    with pytest.raises(UserError, match="loss is nan"):
        sweep(lambda point: point.sum() * float("nan"))

    class Unreadable(FakeLoader):
        def batches(self, epoch):
            yield next(super().batches(epoch))
            raise UserError("a.jpg: cannot be decoded")

    with pytest.raises(UserError, match="cannot be decoded"):
        sweep(lambda point: point.square().sum(), Unreadable())


def climbed(losses, start=1.0):
    """The rates tried, rounded, where losses are those of half decades from the start, in order."""
    seen = []

    def compute_loss(lr):
        seen.append(round(2 * np.log10(lr / start)))
        return losses[seen[-1]], losses[seen[-1]]

    found = climb(compute_loss, start)
    assert sorted(round(2 * np.log10(lr / start)) for lr in found) == sorted(seen)
    assert [losses[round(2 * np.log10(lr / start))] for lr in found] == [loss for _, loss in found.values()]
    return seen


def test_rates_are_tried_as_far_as_the_loss_falls():
    valley = {step: (step - 2.2) ** 2 for step in range(-9, 10)}
    assert climbed(valley) == [0, 1, 2, 3, 4]
    assert climbed({step: (step + 1.2) ** 2 for step in valley}, start=3e-5) == [0, 1, 2, -1, -2, -3]
    assert climbed({step: step**2 for step in valley}) == [0, 1, 2, -1, -2]
    assert climbed({step: -step for step in valley}) == list(range(8))


def test_one_unlucky_try_does_not_end_the_search():
    assert climbed({0: 0.5, 1: 0.6, 2: 0.4, 3: 0.5, 4: 0.6}) == [0, 1, 2, 3, 4]


def test_of_short_tries_the_lowest_rate_near_the_best_counts():
    inf = float("inf")
    costs = {0.04: (-0.96, 0.74), 0.14: (-0.996, 0.3), 0.43: (-0.997, 0.18), 1.4: (-0.998, 0.16), 4.3: (inf, inf)}
    assert choose_rate(costs, (0, 0)) == 1.4
    assert choose_rate(costs, (0.002, 0.2)) == 0.43
    assert choose_rate({0.1: (0.5, 0.5), 0.3: (0.4, 0.4), 1.0: (0.4, 0.3)}, (0, 0)) == 1.0
    assert choose_rate({0.1: (inf, inf), 0.3: (inf, inf)}, (0.002, 0.2)) == 0.1


def test_a_rate_that_explodes_leads_downwards():
    inf = float("inf")
    assert climbed({0: inf, 1: inf, -1: inf, -2: 0.5, -3: 0.4, -4: 0.6, -5: 0.7}) == [0, 1, -1, -2, -3, -4, -5]
    assert climbed({0: 0.5, 1: inf, -1: 0.6, -2: 0.7}) == [0, 1, -1, -2]


@pytest.mark.parametrize(("lr", "expected"), [(3.9e-2, False), (4.1e-2, True), (4.1e-4, False), (3.9e-4, True)])
def test_a_proposal_over_ten_times_away_is_to_be_tried_beside_todays(tmp_path, capsys, lr, expected):
    proposal = Proposal(lr, 0.1, {lr: (0.9, 0.2), 0.004: (0.8, 0.3)}, 0.5, 60, 500)
    report(load_config([]), SWEEP, proposal, 90, tmp_path / "lr.png")
    line = "that is far from optimizer.lr=4.0e-03, which the settings have: try both\n"
    assert (line in capsys.readouterr().out) == expected


def test_a_rate_no_better_than_chance_is_a_guess(tmp_path, capsys):
    for score, expected in ((0.51, False), (0.5, True)):
        proposal = Proposal(0.004, 0.1, {0.004: (score, 0.7)}, 0.5, 60, 500)
        report(load_config([]), SWEEP, proposal, 90, tmp_path / "lr.png")
        assert ("no rate was better than chance (0.50000), so this is a guess" in capsys.readouterr().out) == expected
