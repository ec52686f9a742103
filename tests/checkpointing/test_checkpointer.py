"""What a fold leaves on disk, and what of it a restart takes; real kills are in tests/programs/test_interruption.py."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from src.checkpointing.checkpointer import Checkpointer
from src.checkpointing.interrupts import Interrupts
from src.checkpointing.progress import EpochProgress, Progress
from src.checkpointing.serialization import read_weights
from src.competition.predictions import load_predictions
from src.errors import Stopped, UserError
from src.training.learner import build_learner
from tests.runs import make_run, make_table

FOLDS = np.array([0, 1, 0, 1])
SCORES = [0.25, 0.75, 0.5]  # the second epoch is the best


@pytest.fixture
def build(tmp_path, accelerator):
    """A function (words, interrupts) -> (Checkpointer, Learner) of fold 0; the same words resume what was saved."""
    table = make_table(tmp_path, np.zeros((4, 8, 8), np.uint8), np.eye(4), FOLDS)

    def build_(*words, interrupts=None):
        run = make_run(tmp_path, accelerator, table, "image_size=32", "normalize=none", *words)
        learner = build_learner(run, 0)
        interrupts = interrupts or run.interrupts
        return Checkpointer(run.folder.fold(0), learner, interrupts, run.config.keep_checkpoints), learner

    return build_


def save_epochs(checkpointer, learner, progress, scores=SCORES):
    """Save epochs whose weights and predictions are their number, counted from 1."""
    for score in scores:
        is_best = progress.add((score, 1.0), 2.0, learner.metric, lr=0.1)
        fill(learner, progress.epoch)
        checkpointer.save(progress, np.full((2, 4), progress.epoch / 10), is_best)
    checkpointer.wait()


def fill(learner, value):
    torch.nn.init.constant_(learner.network.head.last.bias, value)


def read_selected(checkpointer, learner, select):
    """Return (value of the saved weights, of val.csv)."""
    weights = read_weights(checkpointer.folder.weights(select))["head.last.bias"]
    probs = load_predictions(checkpointer.folder.val, ["0", "2"], learner.val_table.target_names)
    assert len(np.unique(probs)) == 1
    return weights[0].item(), round(10 * probs[0, 0])


@pytest.mark.parametrize(("select", "other", "epoch"), [("best", "last", 2), ("last", "best", 3)])
def test_weights_and_predictions_are_those_of_the_selected_epoch(build, select, other, epoch):
    checkpointer, learner = build(f"train.select={select}")
    progress = Progress()
    save_epochs(checkpointer, learner, progress)
    assert read_selected(checkpointer, learner, select) == (epoch, epoch)
    assert not checkpointer.folder.weights(other).exists()
    assert not checkpointer.folder.is_finished()
    checkpointer.finish(progress)
    meta = json.loads(checkpointer.folder.meta.read_text())
    assert meta == {
        "fold": 0, "epoch": 3, "best_epoch": 2, "best_score": 0.75, "best_loss": 1.0, "last_score": 0.5, "seconds": 6.0,
        "averaged_epochs": [], "target_names": ["t0", "t1", "t2", "t3"],
    }  # fmt: skip
    names = sorted(path.name for path in checkpointer.folder.path.iterdir())
    assert names == sorted(["log.csv", "meta.json", f"{select}.safetensors", "val.csv"])
    assert checkpointer.folder.log.read_text().splitlines()[1:] == [
        "1,0.1,1.0,0.25,2.0", "2,0.1,1.0,0.75,4.0", "3,0.1,1.0,0.5,6.0"
    ]  # fmt: skip


def test_a_fold_resumes_after_its_newest_epoch(build):
    checkpointer, learner = build()
    assert checkpointer.resume() == (Progress(), EpochProgress())
    progress = Progress()
    save_epochs(checkpointer, learner, progress)
    again, other = build()
    assert again.resume() == (progress, EpochProgress())
    for name, tensor in learner.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_best_epoch_before_a_restart_stays_the_best(build, select):
    checkpointer, learner = build(f"train.select={select}")
    save_epochs(checkpointer, learner, Progress(), SCORES[:2])
    again, learner = build(f"train.select={select}")
    progress, _ = again.resume()
    save_epochs(again, learner, progress, SCORES[2:])
    expected = 2 if select == "best" else 3
    assert read_selected(again, learner, select) == (expected, expected)
    assert (progress.best_epoch, progress.epoch) == (2, 3)


def test_a_fold_resumes_after_a_step(build):
    words = ["checkpoint_minutes=0", "train.batch_size=1"]
    checkpointer, learner = build(*words, interrupts=Interrupts(0, None))  # a state is due after every step
    fill(learner, 7)
    learner.generator.manual_seed(5)
    saved = EpochProgress(1, 3.5, [torch.tensor(0.25)], lr_sum=0.5)
    checkpointer.after_step(Progress(), saved)
    checkpointer.wait()
    expected = torch.rand(2, generator=learner.generator)
    again, other = build(*words)
    progress, epoch_progress = again.resume()
    assert progress == Progress()
    assert (epoch_progress.num_batches, epoch_progress.seconds, epoch_progress.lr_sum) == (1, 3.5, 0.5)
    assert [one.item() for one in epoch_progress.losses] == [0.25]
    other.generator.set_state(epoch_progress.rng_state["generator"])
    assert torch.equal(torch.rand(2, generator=other.generator), expected)
    assert other.network.head.last.bias.tolist() == [7] * 4

    [path] = again.folder.states()
    state = torch.load(path, weights_only=True)
    state["epoch_progress"]["processes"] *= 2
    torch.save(state, path)
    with pytest.raises(UserError) as caught:
        build(*words)[0].resume()
    assert str(caught.value) == f"{path}: saved mid-epoch with 2 processes; resume with 2"


def test_a_state_of_another_version_and_damaged_weights_are_named(build):
    checkpointer, learner = build()
    save_epochs(checkpointer, learner, Progress(), SCORES[:1])
    weights, [path] = checkpointer.folder.weights("last"), checkpointer.folder.states()
    state = torch.load(path, weights_only=True)
    old_learner = {key: value for key, value in state["learner"].items() if key != "average"}
    for broken in (state | {"learner": old_learner}, state | {"progress": {"epochs": 1}}, {"network": {}}):
        torch.save(broken, path)
        with pytest.raises(UserError) as caught:
            build()[0].resume()
        assert str(caught.value) == f"{path}: written by another version; delete it to train the fold from its start"
    torch.save(state, path)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"last\.safetensors: cannot be loaded .*; delete .*fold0 and train that fold"):
        build()[0].resume()


def test_the_best_epochs_weights_stay_until_they_are_averaged(build):
    checkpointer, learner = build(
        "train.average=soup", "train.average_kwargs.epochs=2", "train.select=best", "train.epochs=3"
    )
    progress, present = Progress(), []
    for score in (0.25, 0.75, 0.5):
        save_epochs(checkpointer, learner, progress, [score])
        present.append(sorted(path.stem for path in checkpointer.folder.path.glob("epoch*.safetensors")))
    assert present == [["epoch1"], ["epoch1", "epoch2"], ["epoch2", "epoch3"]]
    assert read_weights(checkpointer.folder.epoch_weights(3))["head.last.bias"][0] == 3
    checkpointer.finish(progress)
    assert not list(checkpointer.folder.path.glob("epoch*"))


def test_a_step_stops_where_it_was_asked_to_with_its_work_saved(build):
    checkpointer, _ = build("train.batch_size=1", interrupts=Interrupts(60, 0.0))
    step = partial(checkpointer.after_step, Progress(), EpochProgress(1, 0.1, [torch.tensor(0.5)]))
    with pytest.raises(Stopped) as stop:
        step()
    line = "fold 0: stopped by the end of time_budget after 1 of 2 batches of epoch 1; saved, the same command resumes"
    assert str(stop.value) == line
    assert stop.value.status == 0
    assert [path.name for path in checkpointer.folder.states()] == ["state_0000_000001.pt"]


@pytest.mark.parametrize(("budget", "is_over"), [(14.5, False), (13.5, True)])
def test_averaging_starts_where_an_epoch_and_saving_fit_into_the_time_budget(build, budget, is_over):
    # saving is assumed to take 2 s, twice that is kept
    checkpointer, _ = build(interrupts=Interrupts(10, budget, clock=lambda: 100.0))
    progress = Progress(epoch=3, seconds=30.0)
    if not is_over:
        checkpointer.before_averaging(progress)
        return
    line = "fold 0: stopped by the end of time_budget after epoch 3; saved, the same command resumes"
    with pytest.raises(Stopped, match=f"^{line}$"):
        checkpointer.before_averaging(progress)
