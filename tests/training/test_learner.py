"""What a fold builds from the config: who trains and who validates, what is seen of a picture, when mixing is off."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from src.competition.tables import ImageTable
from src.config.load import load_config
from src.errors import UserError
from src.training.learner import build_mixer, build_parts
from src.training.shared import Shared

FOLDS = np.array([0, 1, 0, 1, -1, 1])


@pytest.fixture
def table(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    paths = [str(tmp_path / f"{row}.jpg") for row in range(6)]
    for path in paths:
        Image.fromarray(ramp).save(path, quality=95)
    targets = np.eye(10, dtype=np.float32)[:6]
    ids = np.array([str(row) for row in range(6)])
    return ImageTable(ids, np.array(paths), targets, tuple("0123456789"), None, None)


def build(table, *words, fold=0):
    return build_parts(load_config(words), fold, table, FOLDS, Accelerator(cpu=True), Shared(0, ([100.0], [50.0])))


def test_rows_of_the_fold_validate_and_all_others_train(table):
    parts = build(table)
    assert parts.val_table.ids.tolist() == ["0", "2"]
    assert parts.train_table.ids.tolist() == ["1", "3", "4", "5"]
    assert len(build(table, "train.max_images=3").train_table) == 3


def test_own_crops_see_the_picture_at_its_own_size(table):
    words = ["augment.transforms=[{CenterCrop: {height: 32, width: 32}}]", "image_size=32"]
    (batch,) = build(table, *words).train_loader.batches(0)
    image = batch["image"][0, :, :, 0].int()
    assert image.shape == (32, 32)
    assert image.max() - image.min() < 24  # 32 of the ramp's 512 columns; a shrunk picture would span all of it


def test_validation_sees_the_whole_picture(table):
    (batch,) = build(table).val_loader.batches(0)
    image = batch["image"][0, :, :, 0].int()
    assert image.max() - image.min() > 240


def test_arrays_do_not_take_the_backbones_mean(table, tmp_path):
    path = str(tmp_path / "a.npy")
    np.save(path, np.zeros((8, 8, 1), np.float16))
    paths = np.array([path] * 6)
    arrays = ImageTable(table.ids, paths, table.targets, table.target_names, None, None)
    with pytest.raises(UserError) as caught:
        build(arrays, "normalize=backbone")
    assert str(caught.value) == f"normalize=backbone: {path} holds no 8-bit pixels; set normalize=dataset"
    assert build(arrays, "normalize=dataset").network.pixel_mean.item() == 100.0


def test_a_balanced_sampler_draws_rare_classes_as_often(table):
    targets = np.eye(10, dtype=np.float32)[[0, 0, 0, 0, 0, 1]]  # of the training rows 1, 3, 4, 5 one has class 1
    few = ImageTable(table.ids, table.paths, targets, table.target_names, None, None)
    parts = build(few, "train.sampler=balanced", "train.batches_per_epoch=50", "train.batch_size=8")
    drawn = np.concatenate([batch["target"].argmax(dim=1).numpy() for batch in parts.train_loader.batches(0)])
    assert len(drawn) == 400
    assert (drawn == 1).mean() == pytest.approx(0.5, abs=0.08)
    assert parts.schedule is not None


@pytest.mark.parametrize(("sampler", "share"), [("shuffle", 0.25), ("balanced", 0.5)])
def test_the_prior_is_that_of_the_rows_as_drawn(table, sampler, share):
    targets = np.eye(10, dtype=np.float32)[[0, 0, 0, 0, 0, 1]]
    few = ImageTable(table.ids, table.paths, targets, table.target_names, None, None)
    network = build(few, f"train.sampler={sampler}", "model.prior_bias=true", "model.head_init=zero").network
    assert network.head.last.bias.softmax(dim=0)[1].item() == pytest.approx(share, abs=1e-3)


def test_the_prior_counts_what_classes_weigh(table):
    """Two columns would be .25 and .75; balanced, both classes count the same."""
    targets = np.eye(10, dtype=np.float32)[[0, 0, 0, 0, 0, 1]]
    few = ImageTable(table.ids, table.paths, targets, table.target_names, None, None)
    network = build(few, "loss.balance=true", "model.prior_bias=true").network
    torch.testing.assert_close(network.head.last.bias.softmax(dim=0)[:2], torch.tensor([0.5, 0.5]), atol=1e-3, rtol=0)


def test_steps_follow_the_batches_of_an_epoch(table):
    words = ["train.batches_per_epoch=7", "optimizer.accumulate_steps=2", "train.epochs=3", "schedule.warmup_epochs=0"]
    parts = build(table, *words, "schedule.name=linear", "schedule.final_factor=0.5")
    rate = parts.optimizer.param_groups[0]["lr"]
    for _ in range(3 * 4):  # 7 batches are 4 steps
        parts.optimizer.step()
        parts.schedule.step()
    assert parts.optimizer.param_groups[0]["lr"] == pytest.approx(rate / 2)


def test_the_averaged_network_is_scored_once_there_is_an_average(table):
    parts = build(table, "train.swa_epochs=1")
    assert parts.scored is parts.network
    parts.swa.update_parameters(parts.network)
    assert parts.scored is parts.swa.module


def test_mixing_is_off_in_the_last_epochs():
    config = load_config(["mix.prob=0.5", "mix.off_epochs=2", "train.epochs=5"])
    assert [build_mixer(config, epoch) is not None for epoch in range(5)] == [True, True, True, False, False]
    assert build_mixer(load_config([]), 0) is None


def test_a_fold_begins_from_its_seed_alone(table):
    torch.manual_seed(1)
    first = build(table).network.state_dict()
    torch.manual_seed(1)
    again = build(table).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
