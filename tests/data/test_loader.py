"""Order, shares and seeds: the same run for any number of loaders and processes."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.competition.tables import ImageTable
from src.config import Augment
from src.data.augment import build_augmentation, build_resize
from src.data.loader import BatchOrder, ImageDataset, build_loader
from src.errors import UserError

SIZE = (16, 16)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = []
    for row in range(10):
        paths.append(str(folder / f"{row}.png"))
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(paths[-1])
    targets = np.eye(10, dtype=np.float32)[:, :2]
    ids = np.array([str(row) for row in range(10)])
    return ImageTable(ids, np.array(paths), targets, ("a", "b"), None, None)


def train_batches(table, num_workers, epochs=3, **kwargs):
    augmentation = build_augmentation(Augment(preset="heavy"), SIZE, 3, True)
    dataset = ImageDataset(table, 3, augmentation, SIZE, seed=1)
    loader = build_loader(dataset, 4, num_workers, shuffle_seed=1, **kwargs)
    batches = [batch for epoch in range(epochs) for batch in loader.batches(epoch)]
    loader.close()
    return batches


def test_batches_do_not_depend_on_the_number_of_workers_and_all_augmentations_differ(table):
    runs = [train_batches(table, num_workers) for num_workers in (0, 1, 4)]
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert all(torch.equal(one[name], two[name]) for name in ("image", "target", "index"))
    images = torch.cat([batch["image"] for batch in runs[1]])
    assert images.shape == (24, *SIZE, 3)
    assert images.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in images}) == 24


def test_an_epoch_can_be_drawn_again_alone(table):
    last = train_batches(table, 0)[-2:]
    augmentation = build_augmentation(Augment(preset="heavy"), SIZE, 3, True)
    again = list(build_loader(ImageDataset(table, 3, augmentation, SIZE, seed=1), 4, 0, shuffle_seed=1).batches(2))
    assert all(torch.equal(one["image"], two["image"]) for one, two in zip(last, again, strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_together_see_the_global_batches_of_one(world_size):
    one = BatchOrder(50, 4 * world_size, shuffle_seed=3)
    many = [BatchOrder(50, 4, shuffle_seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in (0, 1):
        for order in (one, *many):
            order.epoch = epoch
        joined = [np.concatenate(parts) for parts in zip(*(order.batches() for order in many), strict=True)]
        assert [batch.tolist() for batch in joined] == [batch.tolist() for batch in one.batches()]
    assert len(one) == 50 // (4 * world_size)


def test_epochs_have_different_orders_and_an_only_batch_is_kept():
    order = BatchOrder(10, 4, shuffle_seed=0)
    first = np.concatenate(order.batches())
    order.epoch = 1
    assert not np.array_equal(first, np.concatenate(order.batches()))
    assert len(set(first)) == 8
    assert sorted(BatchOrder(3, 4, shuffle_seed=0).batches()[0]) == [0, 1, 2]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_row_once_and_in_order(table, world_size):
    dataset = ImageDataset(table, 3, build_resize(SIZE), SIZE, seed=1)
    seen = []
    for rank in range(world_size):
        loader = build_loader(dataset, 4, 0, rank=rank, world_size=world_size)
        rows = torch.cat([batch["index"] for batch in loader.batches(0)]).tolist()
        assert rows == sorted(rows)
        assert loader.num_images == len(rows)
        seen += rows
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_one_line_in_the_main_process(table, tmp_path, num_workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    paths = np.array([*table.paths[:3], str(broken)])
    dataset = ImageDataset(
        ImageTable(table.ids[:4], paths, None, ("a",), None, None), 3, build_resize(SIZE), SIZE, seed=1
    )
    with pytest.raises(UserError) as caught:
        list(build_loader(dataset, 2, num_workers).batches(0))
    assert str(caught.value) == f"{broken}: cannot be decoded as an image (0 bytes)"
