"""Features computed once: what the backbone gives, found again only where nothing that decides them has changed."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from src.config.settings import Competition
from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.data.transforms import Augmentation
from src.errors import UserError
from src.training.features import FeatureDataset, load_features
from src.training.learner import build_transforms

NUM_ROWS, SIZE, NUM_FEATURES = 6, (32, 32), 96


def save_backbone(path, seed):
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture
def table(make_table):
    rng = np.random.default_rng(0)
    return make_table(rng.integers(0, 256, (NUM_ROWS, 40, 40, 3), dtype=np.uint8), np.eye(10)[:NUM_ROWS])


@pytest.fixture
def load(tmp_path, table, make_run, capsys):
    """load_features with changed settings; returns (features, whether they were computed)."""
    weights = save_backbone(tmp_path / "weights.safetensors", 0)

    def load_(*words):
        run = make_run(
            table, f"competition.root={tmp_path}", "competition.channels=3", "model.kwargs={}", "normalize=backbone",
            "model.pretrained=true", f"model.weights={weights}", "model.freeze=head_only", *words,
        )  # fmt: skip
        features = load_features(run, build_transforms(run.config, table), table.paths)
        return np.array(features), ".npy: features of 6 images" in capsys.readouterr().out

    return load_


def test_they_are_the_backbones_in_evaluation(load, table, tmp_path):
    features, _ = load()
    backbone = timm.create_model("test_resnet", num_classes=0).eval()
    state = load_file(tmp_path / "weights.safetensors")
    backbone.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    pixels = np.stack([Augmentation(SIZE)(decode_image(path, Competition(), SIZE), 0) for path in table.paths.tolist()])
    mean, std = (torch.tensor(backbone.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = backbone((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    assert features.shape == (1, NUM_ROWS, NUM_FEATURES)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[0], expected, rtol=1e-3, atol=1e-4)


def test_several_views_are_the_plain_image_and_different_augmented_ones(load):
    plain, _ = load()
    features, _ = load("train.views=3")
    np.testing.assert_array_equal(features[:1], plain)
    assert len({view.tobytes() for view in features}) == 3
    others, is_new = load("train.views=3", "seed=1")
    assert is_new
    np.testing.assert_array_equal(others[:1], plain)
    assert not np.array_equal(others[1:], features[1:])


def test_found_again_until_something_changes_that_decides_them(load, tmp_path, table):
    first, is_new = load()
    assert is_new
    for words in (
        [],
        ["optimizer.lr=1"],
        ["train.epochs=3", "seed=1"],
        ["model.drop_rate=0.5"],
        ["augment.flips=vflip"],
    ):
        again, is_new = load(*words)
        assert not is_new, words
        np.testing.assert_array_equal(again, first)
    other = save_backbone(tmp_path / "other.safetensors", 1)
    for word in (f"model.weights={other}", "image_size=48", "normalize=none", "model.batchnorm_kwargs.eps=0.1"):
        changed, is_new = load(word)
        assert is_new, word
        assert not np.array_equal(changed, first), word
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(table.paths[3])
    changed, is_new = load()
    assert is_new
    assert (changed[0] != first[0]).any(axis=1).tolist() == [False, False, False, True, False, False]


def test_close_numbers_of_an_augmentation_are_not_taken_for_the_same(load):
    """A share of .004 changes an image now and then, one of 0 none; rounded to two digits they were one name."""
    words = "train.views=2", "augment.transforms=[{Rotate: {limit: 10, p: %s}}]"
    for p in ("0.004", "0.0", "0.0041", "0.5", "0.5000001"):
        assert load(words[0], words[1] % p)[1], p
    assert not load(words[0], words[1] % "0.004")[1]


@pytest.mark.parametrize("damage", ["a flipped bit", "half of it", "no checksum"])
def test_damaged_they_are_computed_anew(load, tmp_path, damage):
    first, _ = load()
    first = np.array(first)
    [path] = tmp_path.rglob("features_*.npy")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    if damage == "no checksum":
        path.with_suffix(".crc").unlink()
    else:
        path.write_bytes(content if damage == "a flipped bit" else content[: len(content) // 2])
    again, is_new = load()
    assert is_new
    np.testing.assert_array_equal(again, first)
    assert not load()[1]


def test_without_a_cache_they_lie_in_the_runs_folder(load, tmp_path):
    load("cache=off")
    assert [path.parent.name for path in tmp_path.rglob("features_*.npy")] == ["demo_default"]


FEATURES, ROWS = np.arange(3 * 9, dtype=np.float32).reshape(3, 9, 1), np.array([8, 2, 4, 5, 6, 7])


def test_epochs_take_the_views_in_turn_and_validation_the_plain_image(table):
    loader = build_loader(FeatureDataset(FEATURES, ROWS, table, True), 4, 0, shuffle_seed=1)
    for epoch in range(4):
        batches = list(loader.batches(epoch))
        index = torch.cat([batch["index"] for batch in batches])
        assert sorted(index.tolist()) == list(range(6))
        seen = torch.cat([batch["inputs"]["features"] for batch in batches])[:, 0]
        assert seen.tolist() == [9 * ((epoch + row) % 3) + ROWS[row] for row in index]
        np.testing.assert_array_equal(torch.cat([batch["target"] for batch in batches]), table.targets[index])
    [batch] = build_loader(FeatureDataset(FEATURES, ROWS, table, False), 6, 0).batches(2)
    assert batch["inputs"]["features"][:, 0].tolist() == ROWS.tolist()
    assert batch["inputs"].keys() == {"features"}


def test_other_inputs_of_a_row_are_passed_on(table, monkeypatch):
    """As a fork reads metadata beside the image; a second image is in the features already."""

    def read(dataset, row):
        blank = np.zeros((8, 8, 3), np.uint8)
        return {"image": str(dataset.table.paths[row]), "other": blank, "age": np.float32(row / 10), "site": row}

    monkeypatch.setattr(ImageDataset, "read", read)
    [batch] = build_loader(FeatureDataset(FEATURES, ROWS, table, True), 6, 0).batches(0)
    assert batch["inputs"].keys() == {"features", "age", "site"}
    torch.testing.assert_close(batch["inputs"]["age"], torch.arange(6) / 10)
    assert batch["inputs"]["site"].tolist() == list(range(6))


def test_the_backbone_sees_the_images_of_a_row_and_nothing_else(load, monkeypatch):
    expected, _ = load("cache=off")
    monkeypatch.setattr(
        ImageDataset, "read", lambda dataset, row: {"image": str(dataset.table.paths[row]), "age": np.float32(row)}
    )
    features, _ = load("cache=off", "name=ages")
    np.testing.assert_array_equal(features, expected)


def test_features_that_are_nan_are_refused(load, tmp_path):
    state = load_file(tmp_path / "weights.safetensors")
    state["bn1.weight"][0] = torch.nan
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(UserError) as caught:
        load()
    assert str(caught.value) == "test_resnet: its features are nan; check the weights"
    assert not list(tmp_path.rglob("features_*.npy"))
