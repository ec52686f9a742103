"""Batches: the same for any number of workers and processes; every evaluation row once; errors in one line."""

import multiprocessing
import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from src.config.settings import Augment, Competition, Config, Mix
from src.containers import read_file
from src.data.cache import open_cache
from src.data.dataset import ImageDataset, build_loader
from src.data.mixup_cutmix import mix_batch
from src.data.samplers import Ordered
from src.errors import UserError
from tests.data.building import augmentation, resizing
from tests.http_server import Server

NUM_ROWS, SIZE, RGB = 11, (16, 16), Competition()


@pytest.fixture
def table(tmp_path, make_table):
    rng = np.random.default_rng(0)
    for row in range(NUM_ROWS):
        cv2.imwrite(str(tmp_path / f"{row}.png"), rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    return make_table([tmp_path / f"{row}.png" for row in range(NUM_ROWS)], np.eye(NUM_ROWS)[:, :3])


def train_data(table, seed=5):
    return ImageDataset(table, RGB, augmentation(Augment(preset="heavy"), SIZE), seed)


def eval_data(table):
    return ImageDataset(table, RGB, resizing(SIZE), 5)


class ThreadCounts:
    """A transform that returns a worker's numbers of threads."""

    decode_size = SIZE

    def __call__(self, image, seed):
        return np.array([torch.get_num_threads(), cv2.getNumThreads()])


class Untyped(SimpleNamespace):
    metadata = None

    def __len__(self):
        return len(self.paths)


def image_of(batch):
    return batch["inputs"]["image"]


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
                assert batch.keys() == same.keys() == {"inputs", "target", "index", "share"}
                assert batch["inputs"].keys() == same["inputs"].keys() == {"image"}
                assert torch.equal(image_of(batch), image_of(same))
                assert all(torch.equal(batch[name], same[name]) for name in ("target", "index"))
                assert batch["share"] == 1
    batch = expected[0][0]
    assert image_of(batch).shape == (4, *SIZE, 3)
    assert image_of(batch).dtype == torch.uint8
    assert [batch[name].dtype for name in ("target", "index")] == [torch.float32, torch.int64]
    assert torch.equal(batch["target"], torch.eye(NUM_ROWS)[batch["index"], :3])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_image_is_augmented_anew_in_each_row_and_epoch(table, make_table, num_workers):
    same = make_table([table.paths[0]] * NUM_ROWS)
    loader = build_loader(train_data(same), 4, num_workers, shuffle_seed=5)
    images = [
        image.numpy().tobytes() for epoch in range(3) for batch in loader.batches(epoch) for image in image_of(batch)
    ]
    loader.close()
    assert len(set(images)) == len(images) == 3 * NUM_ROWS


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_resumes_where_it_stopped_and_draws_no_number_then(table, num_workers):
    loader = build_loader(train_data(table), 4, num_workers, shuffle_seed=5)
    whole = list(loader.batches(1))
    state = torch.get_rng_state()
    rest = list(loader.batches(1, start=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(rest) == len(whole) - 1
    for one, two in zip(whole[1:], rest, strict=True):
        assert torch.equal(image_of(one), image_of(two))
        assert one["share"] == two["share"]
    assert list(loader.batches(1, start=3)) == []
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_each_epoch_draws_as_many_of_torchs_numbers(table, num_workers):
    """Or a fold that resumes at an epoch's beginning would meet other dropout than one that was never stopped."""
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
    assert all(torch.equal(image_of(one), image_of(two)) for one, two in zip(alone, again, strict=True))
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
            assert torch.equal(image_of(whole), torch.cat([image_of(share) for share in shares]))
            for name in ("target", "index"):
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
        for image, row in zip(image_of(batch), batch["index"], strict=True):
            bgr = cv2.resize(cv2.imread(table.paths[row]), SIZE[::-1], interpolation=cv2.INTER_AREA)
            assert np.array_equal(image.numpy(), bgr[..., ::-1])


def test_no_targets_and_float_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.full((6, 20, 20), 0.5, np.float16))
    data = Untyped(paths=np.array([str(tmp_path / "a.npy")]), targets=None)
    [batch] = build_loader(ImageDataset(data, Competition(channels=6), resizing(SIZE), 0), 4, 0).batches(0)
    assert batch.keys() == {"inputs", "index"}
    assert image_of(batch).dtype == torch.float32
    assert image_of(batch).shape == (1, *SIZE, 6)
    assert (image_of(batch) == 0.5).all()


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
    loader = build_loader(ImageDataset(table, RGB, ThreadCounts(), 0), 1, 1)
    [torch_threads, cv2_threads] = image_of(next(iter(loader.batches(0)))).flatten().tolist()
    assert (torch_threads, cv2_threads) == (1, 1)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 1
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert list(loader.batches(1)) == []


def test_the_dataset_travels_to_spawned_workers(table):
    copy = pickle.loads(pickle.dumps(train_data(table)))
    for key in ((0, 3, 0), (4, 3, 0), (4, 3, 1)):
        assert np.array_equal(image_of(copy[key]), image_of(train_data(table)[key]))
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.map(copy.__getitem__, [(0, 3, 0), (4, 3, 0)])
    assert np.array_equal(image_of(found[1]), image_of(copy[4, 3, 0]))
    seen = [found[0], found[1], copy[4, 3, 1]]
    assert len({image_of(one).tobytes() for one in seen}) == 3  # another epoch, and another copy in the same


@pytest.mark.parametrize("num_workers", [0, 2])
def test_consistency_views_are_an_axis_of_the_batch(table, num_workers):
    views = augmentation(Augment(preset="heavy", kwargs={"augmix": 5}, augmix_consistency=12), SIZE)
    loader = build_loader(ImageDataset(table, RGB, views, 5), 4, num_workers, shuffle_seed=5)
    batches, clean = list(loader.batches(1)), list(build_loader(train_data(table), 4, 0, shuffle_seed=5).batches(1))
    loader.close()
    assert [image_of(batch).shape for batch in batches] == [(n, 3, *SIZE, 3) for n in (4, 4, 3)]
    assert all(len(batch["target"]) == len(batch["index"]) == len(image_of(batch)) for batch in batches)
    assert all(torch.equal(image_of(a)[:, 0], image_of(b)) for a, b in zip(batches, clean, strict=True))
    distinct = {view.numpy().tobytes() for batch in batches for views in image_of(batch) for view in views}
    assert len(distinct) > 2.5 * NUM_ROWS


def test_torchvisions_augmentations_are_the_same_in_any_process(table):
    settings = Augment(preset="none", kwargs={"rand_augment": 5, "augmix": 5})
    dataset = ImageDataset(table, RGB, augmentation(settings, SIZE), 5)
    expected = load(dataset, 0)
    assert all(torch.equal(image_of(a), image_of(b)) for a, b in zip(load(dataset, 2), expected, strict=True))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        [spawned] = pool.map(dataset.__getitem__, [(1, 3, 0)])
    assert np.array_equal(image_of(spawned), image_of(dataset[1, 3, 0]))
    assert len({image.numpy().tobytes() for batch in expected for image in image_of(batch)}) == 2 * NUM_ROWS


class TwoImages(ImageDataset):
    """A fork's: each row shows its own image and the next row's."""

    def read(self, row):
        paths = self.table.paths
        return {"image": str(paths[row]), "next": str(paths[(row + 1) % len(paths)])}


class WithMetadata(ImageDataset):
    """A fork's: an age and a one-hot site beside the image, and a mask that it makes itself."""

    def read(self, row):
        mask = np.full((40, 30, 1), row * 10, np.uint8)
        site = np.eye(3, dtype=np.float32)[row % 3]
        return super().read(row) | {"mask": mask, "age": row / 10, "site": site, "number": row}


def load(dataset, num_workers, epochs=(0, 1)):
    loader = build_loader(dataset, 4, num_workers, shuffle_seed=5)
    batches = [batch for epoch in epochs for batch in loader.batches(epoch)]
    loader.close()
    return batches


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_images_a_row_are_another_read(table, num_workers):
    augment = augmentation(Augment(preset="heavy"), SIZE)
    two = load(TwoImages(table, RGB, augment, 5), num_workers)
    for batch, plain in zip(two, load(ImageDataset(table, RGB, augment, 5), 0), strict=True):
        assert batch["inputs"].keys() == {"image", "next"}
        assert torch.equal(image_of(batch), image_of(plain))  # the first image is what it is without a second one
        assert torch.equal(batch["target"], plain["target"])
    seen = {image.numpy().tobytes() for batch in two for one in batch["inputs"].values() for image in one}
    assert len(seen) == 2 * 2 * NUM_ROWS  # each is augmented on its own
    resized = load(TwoImages(table, RGB, resizing(SIZE), 5), num_workers)
    images = dict(zip(resized[0]["index"].tolist(), image_of(resized[0]), strict=True))
    for batch in resized:
        for row, following in zip(batch["index"].tolist(), batch["inputs"]["next"], strict=True):
            if (row + 1) % NUM_ROWS in images:
                assert torch.equal(following, images[(row + 1) % NUM_ROWS])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_images_a_row_come_from_the_cache(table, tmp_path, num_workers):
    augment = augmentation(Augment(preset="heavy"), SIZE)
    expected = load(TwoImages(table, RGB, augment, 5), 0)
    some = table.take(np.arange(6))  # the rows of a fold; the last one's second image is its first row's
    dataset = TwoImages(some, RGB, augment, 5)
    paths = TwoImages(table, RGB, augment, 5).list_paths()
    assert sorted(paths) == sorted(table.paths)  # each once
    assert sorted(dataset.list_paths()) == sorted(some.paths)
    size = augment.decode_size
    caches = {size: open_cache(paths, Config(cache="on", cache_dir=str(tmp_path / "cache")), size, 0)}
    uncached = load(dataset, 0)
    for path in table.paths:
        with open(path, "wb"):
            pass  # from now on only the cache has the images
    cached = load(TwoImages(table, RGB, augment, 5, caches), num_workers)
    for batches, same in ((cached, expected), (load(TwoImages(some, RGB, augment, 5, caches), 0), uncached)):
        for batch, plain in zip(batches, same, strict=True):
            assert all(torch.equal(batch["inputs"][name], plain["inputs"][name]) for name in ("image", "next"))


def test_an_image_that_is_not_in_the_cache_is_read_from_its_file(table, tmp_path):
    cache = open_cache(table.paths[:3], Config(cache="on", cache_dir=str(tmp_path / "cache")), SIZE, 0)
    cached = ImageDataset(table, RGB, resizing(SIZE), 5, {SIZE: cache})
    for row in range(NUM_ROWS):
        assert np.array_equal(image_of(cached[0, row, 0]), image_of(eval_data(table)[0, row, 0]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_metadata_is_another_read(table, num_workers):
    augment = augmentation(Augment(preset="light"), SIZE)
    plain = load(ImageDataset(table, RGB, augment, 5), 0)
    for batch, expected in zip(load(WithMetadata(table, RGB, augment, 5), num_workers), plain, strict=True):
        inputs, rows = batch["inputs"], batch["index"]
        assert torch.equal(inputs["image"], image_of(expected))
        assert inputs["mask"].shape == (len(rows), *SIZE, 1)
        assert torch.equal(inputs["mask"][:, 3, 3, 0], (rows * 10).to(torch.uint8))
        assert inputs["age"].dtype == inputs["site"].dtype == torch.float32
        torch.testing.assert_close(inputs["age"], (rows / 10).float())
        assert torch.equal(inputs["site"], torch.eye(3)[rows % 3])
        assert torch.equal(inputs["number"], rows)
    assert sorted(WithMetadata(table, RGB, augment, 5).list_paths()) == sorted(table.paths)


def test_inputs_of_forks_can_be_mixed_or_are_refused(table):
    [batch] = build_loader(TwoImages(table, RGB, resizing(SIZE), 5), NUM_ROWS, 0).batches(0)
    inputs = {name: one.permute(0, 3, 1, 2).float() for name, one in batch["inputs"].items()}
    mixer = partial(mix_batch, Mix(prob=1.0, cutmix_alpha=0.0, mixup_alpha=1.0))
    mixed, shares = mixer(inputs, torch.eye(NUM_ROWS), torch.Generator())
    assert 0 < shares.diagonal().min() < 1
    for name in ("image", "next"):
        torch.testing.assert_close(mixed[name].flatten(1), shares @ inputs[name].flatten(1))
    [batch] = build_loader(WithMetadata(table, RGB, resizing(SIZE), 5), NUM_ROWS, 0).batches(0)
    with pytest.raises(UserError, match=r"input 'number' is int64 and cannot be mixed"):
        inputs = {name: one.float() if one.ndim == 4 else one for name, one in batch["inputs"].items()}
        mix_batch(Mix(prob=1.0), inputs, batch["target"], torch.Generator())


def test_arrays_that_read_returns_stay_as_they_are(table):
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    kept = image.copy()

    class InMemory(ImageDataset):
        def read(self, row):
            return {"image": image}

    dataset = InMemory(table, RGB, augmentation(Augment(preset="heavy"), SIZE), 5)
    assert len({image_of(dataset[0, row, 0]).tobytes() for row in range(NUM_ROWS)}) == NUM_ROWS
    assert np.array_equal(image, kept)
    assert len(dataset.list_paths()) == 0


def test_an_error_in_read_is_one_line(table):
    class Refusing(ImageDataset):
        def read(self, row):
            raise UserError(f"row {row}: has no scan")

    with pytest.raises(UserError, match="row 0: has no scan"):
        list(build_loader(Refusing(table, RGB, resizing(SIZE), 5), 4, 0).batches(0))


def test_a_sampler_of_ones_own(table):
    loader = build_loader(eval_data(table), 99, 0, sampler=Ordered(4, 3))
    assert rows(loader.batches(0)) == [[0, 1, 2], [3]]


class WholeBatches(torch.utils.data.Dataset):
    """Takes all keys of a batch at once, as training.features.FeatureDataset."""

    def __len__(self):
        return 5

    def __getitems__(self, keys):
        index = np.array([row for _, row, _ in keys])
        return {"inputs": {"features": index[:, None] / 2, "age": index / 3}, "index": index}


def test_a_dataset_may_return_whole_batches():
    first, second = build_loader(WholeBatches(), 3, 0).batches(0)
    assert torch.equal(first["inputs"]["features"], torch.tensor([[0.0], [0.5], [1.0]]))
    assert second["inputs"]["age"].dtype == torch.float32
    assert second["index"].tolist() == [3, 4]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_elsewhere_is_fetched_at_once_by_workers_too(make_table, put, num_workers):
    """Forked workers have no use for their parent's connections, which it has used before."""
    files = {f"{row}.png": Image.new("RGB", (9, 9), (row, 0, 0)) for row in range(16)}
    files = {name: Path(put(name, image)).read_bytes() for name, image in files.items()}
    with Server(files, delay=0.2) as server:
        paths = [f"{server.url}/{name}" for name in files]
        read_file(paths[0])
        loader = build_loader(ImageDataset(make_table(paths), RGB, resizing(SIZE), 5), 8, num_workers)
        found = np.concatenate([batch["inputs"]["image"][:, 0, 0, 0] for batch in loader.batches(0)])
        assert found.tolist() == list(range(16))
        assert server.most_at_once >= 5
        assert server.asked.total() == 17
        del server.files["11.png"]
        wrong = f"^id 11: {server.url}/11.png: cannot be read \\(no such file\\); check root, pattern and id$"
        with pytest.raises(UserError, match=wrong):
            list(loader.batches(0))
        loader.close()
