"""What a fold builds from the config: who trains and who validates, what is seen of an image, when mixing is off."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import nn

from src.competition.image_files import Paths
from src.data.dataset import ImageDataset
from src.errors import UserError
from src.model.head import HEADS
from src.training.engine import train_one_epoch
from src.training.fold import predict_validation
from src.training.learner import build_learner, build_transforms, choose_rows, count_reads

FOLDS = np.array([0, 1, 0, 1, -1, 1])
RARE = np.eye(10)[[0, 0, 0, 0, 0, 1]]  # of fold 0's training rows 1, 3, 4, 5 one has class 1


@pytest.fixture
def table(make_table):
    ramp = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (6, 512, 1))
    return make_table(ramp, np.eye(10)[:6], FOLDS)


@pytest.fixture
def rare(make_table):
    return make_table(np.zeros((6, 8, 8), np.uint8), RARE, FOLDS)


@pytest.fixture
def build(make_run):
    """A function (table, words) -> Learner of fold 0."""

    def build_(table, *words):
        run = make_run(table, *words)
        run.pixel_stats = ([100.0], [50.0])
        return build_learner(run, 0)

    return build_


def test_rows_of_the_fold_validate_and_all_others_train(table, build):
    learner = build(table)
    assert learner.val_table.ids.tolist() == ["0", "2"]
    assert learner.train_table.ids.tolist() == ["1", "3", "4", "5"]
    assert len(build(table, "train.max_images=3").train_table) == 3


HEADLESS = "the BatchNorm of test_resnet or its head needs two images to learn from"
WITH_BATCHNORM = ["model.kwargs={}", "image_size=32"]  # whose last maps are of 1x1


def batch_sizes(learner):
    return [len(batch["index"]) for batch in learner.train_loader.batches(0)]


def test_an_image_that_would_be_alone_comes_to_the_batch_before_where_batchnorm_is(table, build, capsys):
    words = ["train.max_images=3", "train.batch_size=2"]
    assert batch_sizes(build(table, *words, "image_size=32")) == [2, 1]
    assert capsys.readouterr().out == ""
    learner = build(table, *words, *WITH_BATCHNORM)
    assert (batch_sizes(learner), capsys.readouterr().out) == ([3], f"batches of up to 3 images: {HEADLESS}\n")
    train_one_epoch(learner_in_epoch(learner), 0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train.batch_size=1"], f"train.batch_size=1: {HEADLESS}; set train.batch_size=2 or more"),
        (["train.max_images=1"], f"1 training image of the fold: {HEADLESS}; set train.max_images=null"),
    ],
)
def test_batchnorm_refuses_to_learn_from_single_images(table, build, words, line):
    with pytest.raises(UserError) as error:
        build(table, *words, *WITH_BATCHNORM)
    assert str(error.value) == line
    train_one_epoch(learner_in_epoch(build(table, *words, "image_size=32")), 0)  # without BatchNorm it learns


def test_frozen_batchnorm_takes_single_images(table, build, tmp_path):
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), tmp_path / "w.safetensors")
    words = [*WITH_BATCHNORM, "model.pretrained=true", f"model.weights={tmp_path}/w.safetensors", "train.batch_size=1"]
    train_one_epoch(learner_in_epoch(build(table, *words)), 0)
    words += ["model.freeze=gradual", "model.freeze_batchnorm=false"]  # it learns from the second epoch on
    with pytest.raises(UserError, match="train.batch_size=1: the BatchNorm of test_resnet"):
        build(table, *words)


@pytest.mark.parametrize("views", [0, 1])
def test_batchnorm_in_the_head_alone_refuses_single_images_too(table, make_run, tmp_path, monkeypatch, views):
    monkeypatch.setitem(HEADS, "mlp", lambda size, num: nn.Sequential(nn.BatchNorm1d(size), nn.Linear(size, num)))
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), tmp_path / "w.safetensors")
    words = [*WITH_BATCHNORM, "model.pretrained=true", f"model.weights={tmp_path}/w.safetensors", "normalize=none"]
    run = make_run(table, *words, f"train.views={views}", "model.freeze=head_only", "train.batch_size=1")
    run.features = np.random.default_rng(0).normal(size=(1, len(table), 96)).astype(np.float32) if views else None
    with pytest.raises(UserError, match=f"train.batch_size=1: {HEADLESS}"):
        build_learner(run, 0)
    run.config = replace(run.config, train=replace(run.config.train, batch_size=2))
    train_one_epoch(learner_in_epoch(build_learner(run, 0)), 0)


def learner_in_epoch(learner):
    learner.start_epoch(0, 1)
    return learner


def test_own_crops_see_the_image_at_its_own_size(table, build):
    words = ["augment.transforms=[{CenterCrop: {height: 32, width: 32}}]", "image_size=32"]
    (batch,) = build(table, *words).train_loader.batches(0)
    image = batch["inputs"]["image"][0, :, :, 0].int()
    assert image.shape == (32, 32)
    assert image.max() - image.min() < 24  # 32 of the ramp's 512 columns; a shrunk image would span all of it


def test_validation_sees_the_whole_image(table, build):
    (batch,) = build(table).val_loader.batches(0)
    image = batch["inputs"]["image"][0, :, :, 0].int()
    assert image.max() - image.min() > 240


def test_arrays_do_not_take_the_backbones_mean(make_table, build, tmp_path):
    arrays = make_table(np.zeros((6, 8, 8), np.uint8), np.eye(10)[:6], FOLDS)
    path = str(tmp_path / "a.npy")
    np.save(path, np.zeros((8, 8, 1), np.float16))
    arrays = replace(arrays, paths=Paths.of([path] * 6))
    with pytest.raises(UserError) as caught:
        build(arrays, "normalize=backbone")
    assert str(caught.value) == f"normalize=backbone: {path} is not an 8-bit image; set normalize=dataset"
    assert build(arrays, "normalize=dataset").network.pixel_mean.item() == 100.0


def test_a_balanced_sampler_draws_rare_classes_as_often(rare, build):
    learner = build(rare, "train.sampler=balanced", "train.batches_per_epoch=50", "train.batch_size=8")
    drawn = np.concatenate([batch["target"].argmax(dim=1).numpy() for batch in learner.train_loader.batches(0)])
    assert len(drawn) == 400
    assert (drawn == 1).mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("words", "share"),
    [
        ([], 0.25),
        (["train.sampler=balanced"], 0.5),  # as rows are drawn
        (["loss.balance=true"], 0.5),  # as classes count
    ],
)
def test_the_prior_counts_rows_as_they_are_drawn_and_weighted(rare, build, words, share):
    network = build(rare, *words, "model.head_kwargs={prior_bias: true, init: zero}").network
    expected = torch.tensor([1 - share, share])
    torch.testing.assert_close(network.head.last.bias.softmax(dim=0)[:2], expected, atol=1e-3, rtol=0)


def test_steps_follow_the_batches_of_an_epoch(table, build):
    words = ["train.batches_per_epoch=7", "optimizer.accumulate_steps=2", "train.epochs=3", "schedule.warmup_epochs=0"]
    learner = build(table, *words, "schedule.name=linear", "schedule.kwargs.final_factor=0.5")
    rate = learner.optimizer.param_groups[0]["lr"]
    for _ in range(3 * 4):  # 7 batches are 4 steps
        learner.optimizer.step()
        learner.schedule.step()
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(rate / 2)


def test_the_averaged_network_is_scored_once_there_is_an_average(table, build):
    learner = build(table, "train.average=swa", "train.average_kwargs.epochs=1", "train.epochs=2")
    assert learner.scored_network is learner.network
    learner.average.after_epoch(learner, 0)
    assert learner.scored_network is learner.network
    learner.average.after_epoch(learner, 1)
    assert learner.scored_network is learner.average.module is not None
    assert learner.scored_network is not learner.network
    ema = build(table, "train.average=ema")
    assert ema.scored_network is ema.average.module


def test_swa_looks_at_the_training_images_again_in_the_epochs_it_averages(table, build):
    learner = build(table, "train.average=swa", "train.average_kwargs.epochs=2", "train.epochs=3")
    assert [learner.average.looks_again(epoch) for epoch in range(3)] == [False, True, True]
    # 4 training images took 10 s: 2 to validate, and 4 more where they are read again
    assert [learner.estimate_validation(epoch, 10.0) for epoch in range(2)] == [5.0, 15.0]


def test_swa_is_the_mean_of_its_epochs_and_one_epoch_counts_once(table, build):
    learner, seen = build(table, "train.average=swa", "train.average_kwargs.epochs=2", "train.epochs=3"), []
    for epoch in range(3):
        with torch.no_grad():
            for parameter in learner.network.parameters():
                parameter.copy_(torch.randn_like(parameter))
        seen.append({name: one.detach().clone() for name, one in learner.network.named_parameters()})
        learner.average.after_epoch(learner, epoch)
        learner.average.after_epoch(learner, epoch)  # as where a fold resumes in a validation
    for name, parameter in learner.average.module.named_parameters():
        torch.testing.assert_close(parameter, (seen[1][name] + seen[2][name]) / 2)


def test_mixing_is_off_in_the_last_epochs(table, build):
    learner = build(table, "mix.prob=0.5", "mix.off_epochs=2", "train.epochs=5")
    is_mixed = []
    for epoch in range(5):
        learner.start_epoch(epoch, 1, epoch)
        is_mixed.append(learner.mixer is not None)
    assert is_mixed == [True, True, True, False, False]
    plain = build(table)
    plain.start_epoch(0, 1)
    assert plain.mixer is None


def test_an_epoch_s_random_numbers_are_those_of_its_seed(table, build):
    learner = build(table)
    draws = []
    for words in ((1, 2), (2, 1), (1, 2)):
        learner.start_epoch(0, *words)
        draws.append((torch.rand(3), torch.rand(3, generator=learner.generator)))
    assert all(torch.equal(one, other) for one, other in zip(draws[0], draws[2], strict=True))
    assert not torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(*draws[0])  # dropout and mixing draw apart


def test_stages_open_as_epochs_begin(table, build, tmp_path, capsys):
    words = ["model.kwargs={}", "model.pretrained=true", f"model.weights={tmp_path}/w.safetensors", "normalize=dataset"]
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), tmp_path / "w.safetensors")
    learner = build(table, *words, "model.head_first_epochs=1", "model.freeze_batchnorm=false")
    printed = []
    for epoch in range(3):
        learner.start_epoch(epoch, 1)
        printed.append(capsys.readouterr().out)
    assert printed == ["", "more of the backbone opens, 373,370 parameters learn\n", ""]
    learning = [name for name, one in learner.network.named_parameters() if one.requires_grad]
    assert len(learning) == len(list(learner.network.parameters()))


def test_reads_are_counted_by_size(table, make_run):
    run = make_run(table, "train.epochs=3", "image_size=16")
    transforms = build_transforms(run.config, table)
    # each of the two folds has 4 or 3 training and 2 or 3 validation rows
    assert count_reads(run.config, FOLDS, [0, 1], transforms) == {(16, 16): 3 * (4 + 3 + 2 + 3)}
    assert count_reads(run.config, FOLDS, [1], transforms) == {(16, 16): 3 * (3 + 3)}
    words = ["train.epochs=3", "image_size=16", "augment.transforms=[{CenterCrop: {height: 16, width: 16}}]"]
    config = make_run(table, *words).config
    # training reads each file at its own size
    assert count_reads(config, FOLDS, [0], build_transforms(config, table)) == {(16, 16): 3 * 2}


def test_fewer_images_are_drawn_by_seed_and_fold(make_run, table):
    config = make_run(table, "train.max_images=2").config
    drawn = [choose_rows(config, fold, FOLDS) for fold in (0, 0, 1)]
    assert drawn[0][0].tolist() == drawn[1][0].tolist() == sorted(drawn[0][0].tolist())
    assert [len(train) for train, _ in drawn] == [2, 2, 2]
    assert [val.tolist() for _, val in drawn] == [[0, 2], [0, 2], [1, 3, 5]]


def test_a_state_restores_all_that_learns(table, build):
    words = ["train.average=ema", "schedule.name=plateau", "optimizer.name=adam"]
    one, other = build(table, *words), build(table, *words)
    for parameter in one.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    one.optimizer.step()
    one.schedule.step()
    one.schedule.end_epoch(0.5, 1.0)
    one.average.after_step(one.network)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for name in ("network", "optimizer", "schedule", "average"):
        assert_same(one.state_dict()[name], other.state_dict()[name])


def assert_same(one, other):
    """Compare two states, however deep."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif torch.is_tensor(one):
        assert torch.equal(one, other)
    elif isinstance(one, (list, tuple)):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_another_read_reaches_the_network(table, build, monkeypatch):
    """A fork's two images a row, and metadata beside them."""

    def read(dataset, row):
        path = str(dataset.table.paths[row])
        return {"image": path, "other": path, "age": np.float32(row)}

    monkeypatch.setattr(ImageDataset, "read", read)
    for loader in (build(table).train_loader, build(table).val_loader):
        batch = next(iter(loader.batches(0)))
        assert batch["inputs"].keys() == {"image", "other", "age"}
        assert batch["inputs"]["image"].shape == batch["inputs"]["other"].shape
        assert batch["inputs"]["age"].tolist() == batch["index"].tolist()


def test_a_fold_starts_from_its_seed_alone(table, build):
    torch.manual_seed(1)
    first = build(table).network.state_dict()
    torch.manual_seed(1)
    again = build(table).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compile_makes_a_graph_for_each_size_of_a_batch_and_no_more(table, make_run, monkeypatch, precision):
    """Training's and validation's, full and last: at most four, all in the first epoch."""
    from torch._dynamo.testing import CompileCounter  # here, as it takes a second

    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    torch._dynamo.reset()
    words = ["train.compile=true", "train.batch_size=3", "infer.batch_size=1", "image_size=32", "train.epochs=3"]
    run = make_run(table, *words, "fold=0", f"precision={precision}")
    AcceleratorState._reset_state()
    run.accelerator = Accelerator(mixed_precision=precision.replace("fp32", "no"), cpu=True)
    run.pixel_stats = ([100.0], [50.0])
    learner = build_learner(run, 0)
    assert (len(learner.train_table), len(learner.val_table)) == (4, 2)
    counts = []
    for epoch in range(3):
        learner.start_epoch(epoch, 1)
        train_one_epoch(learner, epoch)
        predict_validation(learner, learner.scored_network)
        counts.append(counter.frame_count)
    assert counts[0] == counts[2] <= 4
