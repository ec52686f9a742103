"""What training sees: the columns are bit for bit what the loader yields, mixed targets by hand, a row a class."""

import numpy as np
import pandas as pd
import pytest
import torch

from src.analysis.batches import choose_rows, compute_columns, count_classes, to_uint8
from src.competition.demo import write_demo
from src.competition.tables import ImageTable, load_train_table
from src.config.load import load_config
from src.data.dataset import ImageDataset, build_loader
from src.data.inspection import describe_transforms
from src.data.mixup_cutmix import mix_batch
from src.data.transforms import build_augmentation, build_resize


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def columns_of(*words):
    config = load_config(["image_size=24", *words])
    write_demo(config.competition.root)
    table = load_train_table(config.competition).take(slice(6))
    return *compute_columns(config, table), config, table


def test_the_columns_are_the_resized_images_and_what_training_reads_in_each_epoch():
    columns, transforms, config, table = columns_of("augment.preset=heavy", "seed=3")
    assert [heading for heading, _, _ in columns] == ["resized", *(f"epoch {epoch}" for epoch in range(1, 8))]
    augmentation = build_augmentation(config, True)
    assert transforms == describe_transforms(augmentation.transforms)
    assert augmentation.decode_size == (30, 30)
    for transform, found in [(build_resize(config), columns[:1]), (augmentation, columns[1:])]:
        loader = build_loader(ImageDataset(table, config.competition, transform, 3), 6, 0)
        for epoch, (_, images, _) in enumerate(found):
            assert np.array_equal(images, next(loader.batches(epoch))["inputs"]["image"].numpy())
    rows = pd.read_csv("data/demo/train.csv", dtype=str)[:6]
    assert columns[0][2] == [f"{row.id}\n{row.label}" for row in rows.itertuples()]
    assert all(captions == rows["label"].tolist() for _, _, captions in columns[1:])
    assert len({images.tobytes() for _, images, _ in columns}) == 8


def test_mixed_images_have_their_mixed_targets():
    columns, _, config, table = columns_of("augment.preset=none", "mix.prob=1")
    plain = torch.from_numpy(columns[0][1]).permute(0, 3, 1, 2).float()
    for epoch, (_, images, captions) in enumerate(columns[1:]):
        generator = torch.Generator().manual_seed(config.seed + epoch)
        mixed, targets = mix_batch(config.mix, {"image": plain}, torch.from_numpy(table.targets), generator)
        assert np.array_equal(images[..., 0], mixed["image"].round().byte().numpy()[:, 0])
        for caption, target in zip(captions, targets, strict=True):
            shares = dict(one.rpartition(" ")[::2] if " " in one else (one, "1") for one in caption.split(", "))
            for name, share in zip(table.target_names, target.tolist(), strict=True):
                assert float(shares.get(name, 0)) == pytest.approx(share, abs=0.0051)


def test_all_images_of_a_row_are_shown_side_by_side(monkeypatch):
    read = ImageDataset.read
    monkeypatch.setattr(ImageDataset, "read", lambda self, row: {**read(self, row), "image2": read(self, row)["image"]})
    for words in ([], ["mix.prob=1"]):
        columns, *_ = columns_of("augment.preset=heavy", *words)
        assert {image.shape for _, images, _ in columns for image in images} == {(24, 48, 1)}
        assert np.array_equal(columns[0][1][:, :, :24], columns[0][1][:, :, 24:])
        assert not np.array_equal(columns[1][1][:, :, :24], columns[1][1][:, :, 24:])


def test_consistency_views_stand_side_by_side():
    words = ("augment.preset=light", "augment.kwargs.augmix=6", "augment.augmix_consistency=12")
    columns, transforms, _, _ = columns_of(*words)
    clean, *_ = columns_of("augment.preset=light")
    assert [heading for heading, _, _ in columns] == [
        "resized", "epoch 1", "epoch 1, AugMix 1", "epoch 1, AugMix 2", "epoch 2", "epoch 2, AugMix 1",
        "epoch 2, AugMix 2", "epoch 3",
    ]  # fmt: skip
    assert transforms[-1] == "p=1.00 AugMix severity=6"
    assert np.array_equal(columns[1][1], clean[1][1])
    assert np.array_equal(columns[4][1], clean[2][1])
    assert len({images.tobytes() for _, images, _ in columns}) == 8


def one_hot(*classes):
    return np.eye(max(classes) + 1, dtype=np.float32)[list(classes)]


def choose(targets, num_rows, seed):
    """choose_rows of a table with these targets (N, C)."""
    names = tuple(f"t{column}" for column in range(targets.shape[1]))
    return choose_rows(ImageTable(None, None, targets, names, None, None), num_rows, seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_table_sorted_by_class_shows_all_classes(seed):
    classes = np.repeat([0, 1, 2], [90, 9, 1])
    chosen = choose(one_hot(*classes), 6, seed)
    assert sorted(classes[chosen][:3]) == [0, 1, 2]
    assert sorted(classes[chosen][3:5]) == [0, 1]
    assert classes[chosen][5] in (0, 1)
    assert len(set(chosen)) == 6
    binary = choose(np.repeat([0, 1], 50)[:, None].astype(np.float32), 6, seed)
    assert sorted(binary >= 50) == [False] * 3 + [True] * 3
    assert len(set(choose(one_hot(*np.repeat(np.arange(120), 7)), 120, seed) // 7)) == 120
    assert sorted(choose(one_hot(0, 1), 6, seed)) == [0, 1]


def test_a_row_of_several_labels_counts_as_its_rarest():
    common, both, none = [1, 0], [1, 1], [0, 0]
    targets = np.array([common] * 40 + [both] + [none] * 40, np.float32)
    for seed in range(5):
        assert sorted(np.digitize(choose(targets, 3, seed), [40, 41])) == [0, 1, 2]
    soft = np.array([[0.4, 0.3, 0.3]] * 9 + [[0.3, 0.4, 0.3]] + [[np.nan, 0.0, 1.0]], np.float32)
    assert set(choose(soft, 3, 0)) >= {9, 10}


def test_of_regression_each_range_of_the_numbers_is_shown():
    targets = np.concatenate([np.zeros(90), np.arange(10) + 1])[:, None].astype(np.float32)
    table = ImageTable(None, None, targets, ("weight",), None, None, task="regression")
    assert (targets[choose_rows(table, 2, 0)] > 0).sum() == 1


def test_classes_are_counted_by_name():
    both = np.array([[1, 0], [1, 1], [0, 0], [np.nan, np.nan], [0, np.nan]], np.float32)
    table = ImageTable(None, None, both, ("a", "b"), None, None, task="multilabel")
    assert count_classes(table, ["a", "b"]).to_dict() == {"a": 2, "b": 1, "none": 2}
    table = ImageTable(None, None, both[:3, :1], ("a",), None, None)
    assert count_classes(table, ["a"]).to_dict() == {"a=0": 1, "a=1": 2}
    assert count_classes(table, ["cat", "dog"]).to_dict() == {"cat": 1, "dog": 2}


def test_what_is_not_8_bit_is_drawn_over_its_own_range():
    image = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    assert to_uint8(image)[..., 0].tolist() == [[0, 51, 102], [153, 204, 255]]
    assert not to_uint8(np.ones((2, 2, 1), np.float32)).any()
    assert to_uint8(np.full((2, 2, 3), 7, np.uint8)).shape == (2, 2, 3)
