"""Batches: the same for any number of workers and processes; every evaluation row once; errors in one line."""

import multiprocessing
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from src.config.settings import Augment
from src.data.dataset import ImageDataset, build_loader
from src.data.transforms import build_augmentation, build_resize
from src.errors import UserError

NUM_ROWS, SIZE = 11, (16, 16)


@pytest.fixture
def table(tmp_path, make_table):
    rng = np.random.default_rng(0)
    for row in range(NUM_ROWS):
        cv2.imwrite(str(tmp_path / f"{row}.png"), rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    return make_table([tmp_path / f"{row}.png" for row in range(NUM_ROWS)], np.eye(NUM_ROWS)[:, :3])


def train_data(table, seed=5):
    return ImageDataset(table, 3, build_augmentation(Augment(preset="heavy"), SIZE, 3, True), SIZE, seed)


def eval_data(table):
    return ImageDataset(table, 3, build_resize(SIZE), SIZE, 5)


def thread_counts(image, seed):
    """A transform that tells a worker's number of threads."""
    return np.array([torch.get_num_threads(), cv2.getNumThreads()])


class Untyped(SimpleNamespace):
    def __len__(self):
        return len(self.paths)


def rows(batches):
    return [batch["index"].tolist() for batch in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_batches_are_the_same_for_any_number_of_workers(table):
    def run(num_workers):
        loader = build_loader(train_data(table), 4, num_workers, shuffle_seed=5)
        found = [list(loader.batches(epoch)) for epoch in range(3)]
        loader.close()
        return found

    expected = run(0)
    for num_workers in (1, 4):
        for epoch, other in zip(expected, run(num_workers), strict=True):
            for batch, same in zip(epoch, other, strict=True):
                assert batch.keys() == same.keys() == {"image", "target", "index", "share"}
                assert all(torch.equal(batch[name], same[name]) for name in ("image", "target", "index"))
                assert batch["share"] == 1
    batch = expected[0][0]
    assert batch["image"].shape == (4, *SIZE, 3)
    assert [batch[name].dtype for name in ("image", "target", "index")] == [torch.uint8, torch.float32, torch.int64]
    assert torch.equal(batch["target"], torch.eye(NUM_ROWS)[batch["index"], :3])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_picture_is_augmented_anew_in_each_row_and_epoch(table, make_table, num_workers):
    same = make_table([table.paths[0]] * NUM_ROWS)
    loader = build_loader(train_data(same), 4, num_workers, shuffle_seed=5)
    images = [
        image.numpy().tobytes() for epoch in range(3) for batch in loader.batches(epoch) for image in batch["image"]
    ]
    loader.close()
    assert len(set(images)) == len(images) == 3 * NUM_ROWS


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_goes_on_in_its_midst_and_draws_no_number_then(table, num_workers):
    loader = build_loader(train_data(table), 4, num_workers, shuffle_seed=5)
    whole = list(loader.batches(1))
    state = torch.get_rng_state()
    rest = list(loader.batches(1, start=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(rest) == len(whole) - 1
    for one, two in zip(whole[1:], rest, strict=True):
        assert torch.equal(one["image"], two["image"])
        assert one["share"] == two["share"]
    assert list(loader.batches(1, start=3)) == []
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_each_epoch_draws_as_many_of_torchs_numbers(table, num_workers):
    """Or a fold that goes on at an epoch's beginning would meet other dropout than one that came there by itself."""
    loader, after = build_loader(train_data(table), 4, num_workers, shuffle_seed=5), []
    for epoch in range(2):
        torch.manual_seed(0)
        list(loader.batches(epoch))
        after.append(torch.rand(1).item())
    loader.close()
    torch.manual_seed(0)
    torch.empty((), dtype=torch.int64).random_()
    assert after == [torch.rand(1).item()] * 2


def test_an_epoch_does_not_depend_on_the_ones_before(table):
    loader = build_loader(train_data(table), 4, 1, shuffle_seed=5)
    alone = list(build_loader(train_data(table), 4, 0, shuffle_seed=5).batches(2))
    next(loader.batches(0))  # left after its first batch
    again = list(loader.batches(2))
    assert all(torch.equal(one["image"], two["image"]) for one, two in zip(alone, again, strict=True))
    loader.close()


def test_each_epoch_and_seed_has_its_own_order(table):
    loader = build_loader(train_data(table), 4, 0, shuffle_seed=5)
    first, second = rows(loader.batches(0)), rows(loader.batches(1))
    assert first != second
    assert first != rows(build_loader(train_data(table), 4, 0, shuffle_seed=6).batches(0))
    assert len(loader) == 3
    assert [len(batch) for batch in first] == [4, 4, 3]  # nearly equal, and no row is left out
    assert loader.num_images == NUM_ROWS
    assert sorted(row for batch in first for row in batch) == list(range(NUM_ROWS))


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 2), (3, 2), (2, 3), (3, 3)])
def test_processes_together_see_the_batches_of_one(table, world_size, batch_size):
    one = build_loader(train_data(table), batch_size * world_size, 0, shuffle_seed=5)
    many = [
        build_loader(train_data(table), batch_size, 0, shuffle_seed=5, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for epoch in range(2):
        parts = [list(loader.batches(epoch)) for loader in many]
        for whole, *shares in zip(one.batches(epoch), *parts, strict=True):
            assert max(len(share["index"]) for share in shares) <= batch_size
            for name in ("image", "target", "index"):
                assert torch.equal(whole[name], torch.cat([share[name] for share in shares]))
            # the mean of the processes' weighted means is the mean of all
            weighted = [share["share"] * share["target"].mean() for share in shares]
            assert sum(weighted) / world_size == pytest.approx(whole["target"].mean().item())


@pytest.mark.parametrize(("world_size", "expected"), [(1, [11]), (2, [6, 5]), (3, [4, 4, 3])])
def test_an_only_batch_is_shared_by_all_processes(table, world_size, expected):
    loaders = [
        build_loader(train_data(table), 64, 0, shuffle_seed=5, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    found = [rows(loader.batches(0)) for loader in loaders]
    assert [len(loader) for loader in loaders] == [1] * world_size
    assert [loader.num_images for loader in loaders] == [len(one[0]) for one in found] == expected
    assert len({row for one in found for row in one[0]}) == NUM_ROWS


def test_fewer_images_than_processes(table):
    with pytest.raises(UserError, match="11 training images: too few for 12 processes; use fewer processes"):
        build_loader(train_data(table), 1, 0, shuffle_seed=5, world_size=12)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_covers_every_row_once_and_in_order(table, world_size, num_workers):
    found = []
    for rank in range(world_size):
        loader = build_loader(eval_data(table), 2, num_workers, rank=rank, world_size=world_size)
        mine = rows(loader.batches(0))
        assert mine == rows(loader.batches(0))
        assert len(loader) == len(mine)
        mine = [row for batch in mine for row in batch]
        assert mine == list(range(rank, NUM_ROWS, world_size))
        assert loader.num_images == len(mine)
        found += mine
        loader.close()
    assert sorted(found) == list(range(NUM_ROWS))


def test_images_are_the_decoded_and_resized_files(table):
    for batch in build_loader(eval_data(table), 4, 0).batches(0):
        for image, row in zip(batch["image"], batch["index"], strict=True):
            bgr = cv2.resize(cv2.imread(table.paths[row]), SIZE[::-1], interpolation=cv2.INTER_AREA)
            assert np.array_equal(image.numpy(), bgr[..., ::-1])


def test_no_targets_and_float_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.full((6, 20, 20), 0.5, np.float16))
    data = Untyped(paths=np.array([str(tmp_path / "a.npy")]), targets=None)
    [batch] = build_loader(ImageDataset(data, 6, build_resize(SIZE), SIZE, 0), 4, 0).batches(0)
    assert batch.keys() == {"image", "index"}
    assert batch["image"].dtype == torch.float32
    assert batch["image"].shape == (1, *SIZE, 6)
    assert (batch["image"] == 0.5).all()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_undecodable_image_is_one_line_in_the_main_process(table, num_workers):
    with open(table.paths[7], "wb"):
        pass
    loader = build_loader(eval_data(table), 4, num_workers)
    with pytest.raises(UserError) as caught:
        list(loader.batches(0))
    loader.close()
    assert str(caught.value) == f"{table.paths[7]}: cannot be decoded as an image (0 bytes)"


def test_a_worker_uses_one_thread_and_ends_with_close(table):
    before = set(multiprocessing.active_children())
    loader = build_loader(ImageDataset(table, 3, thread_counts, SIZE, 0), 1, 1)
    [torch_threads, cv2_threads] = next(iter(loader.batches(0)))["image"].flatten().tolist()
    assert (torch_threads, cv2_threads) == (1, 1)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 1
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert list(loader.batches(1)) == []


def test_the_dataset_travels_to_spawned_workers(table):
    copy = pickle.loads(pickle.dumps(train_data(table)))
    for key in ((0, 3, 0), (4, 3, 0), (4, 3, 1)):
        assert np.array_equal(copy[key]["image"], train_data(table)[key]["image"])
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.map(copy.__getitem__, [(0, 3, 0), (4, 3, 0)])
    assert np.array_equal(found[1]["image"], copy[4, 3, 0]["image"])
    seen = [found[0], found[1], copy[4, 3, 1]]
    assert len({one["image"].tobytes() for one in seen}) == 3  # another epoch, and another copy in the same


@pytest.mark.parametrize("num_workers", [0, 2])
def test_consistency_views_are_an_axis_of_the_batch(table, num_workers):
    views = build_augmentation(Augment(preset="heavy", augmix=5, augmix_consistency=12), SIZE, 3, True)
    loader = build_loader(ImageDataset(table, 3, views, SIZE, 5), 4, num_workers, shuffle_seed=5)
    batches, clean = list(loader.batches(1)), list(build_loader(train_data(table), 4, 0, shuffle_seed=5).batches(1))
    loader.close()
    assert [batch["image"].shape for batch in batches] == [(n, 3, *SIZE, 3) for n in (4, 4, 3)]
    assert all(len(batch["target"]) == len(batch["index"]) == len(batch["image"]) for batch in batches)
    assert all(torch.equal(a["image"][:, 0], b["image"]) for a, b in zip(batches, clean, strict=True))
    pictures = {view.numpy().tobytes() for batch in batches for views in batch["image"] for view in views}
    assert len(pictures) > 2.5 * NUM_ROWS
