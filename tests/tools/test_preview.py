"""The preview: a PNG of what training sees; the same seed gives the same file, other settings another one."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.competition.demo import write_demo
from src.competition.tables import load_train_table
from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.data.dataset import ImageDataset, build_loader
from src.data.inspection import describe_transforms
from src.data.mixup_cutmix import Mixer
from src.data.transforms import build_augmentation, build_resize
from tools.preview import _describe_targets, _fit, choose_rows, compute_columns, main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def columns_of(*words):
    config = load_config(["image_size=24", *words])
    write_demo(config.competition.root)
    table = load_train_table(config.competition).take(slice(6))
    return *compute_columns(config, table), config, table


def test_the_command_writes_an_image_and_lists_the_transforms(folder, capsys):
    main(["image_size=24", "augment.preset=heavy"])
    printed, complained = capsys.readouterr()
    assert complained == ""
    assert printed.splitlines()[0] == "wrote outputs/preview_demo_default.png: 6 images x 8 views, each 24x24x1"
    starts = [line.split()[:2] for line in printed.splitlines()[1:]]
    assert starts == [
        ["p=1.00", "RandomResizedCrop"],
        ["p=0.70", "Affine"],
        ["p=0.70", "RandomBrightnessContrast"],
        ["p=0.30", "OneOf"],
        ["p=0.50", "GaussianBlur"],
        ["p=0.50", "GaussNoise"],
        ["p=0.50", "CoarseDropout"],
    ]
    assert max(map(len, printed.splitlines())) <= 80
    written = folder / "outputs" / "preview_demo_default.png"
    with Image.open(written) as image:
        assert image.format == "PNG"
        assert 1200 <= image.width <= 1400
        assert 1000 <= image.height <= 1200
    saved = json.loads(written.with_suffix(".json").read_text())
    assert (saved["num_images"], saved["num_views"], saved["shape"]) == (6, 8, [24, 24, 1])
    assert [line.split()[:2] for line in saved["transforms"]] == starts
    again = folder / "again" / "here.png"
    main(["image_size=24", "augment.preset=heavy", f"output={again}"])
    assert capsys.readouterr().out == printed.replace("outputs/preview_demo_default.png", str(again))
    assert again.read_bytes() == written.read_bytes()


@pytest.mark.slow
def test_other_settings_give_another_image(folder):
    drawn = set()
    words = ["seed=42", "seed=1", "augment.kwargs.rotate=40", "mix.prob=1", "augment.kwargs.augmix=5"]
    for number, word in enumerate(words):
        main(["image_size=24", word, f"output={number}.png"])
        pixels = np.asarray(Image.open(f"{number}.png").convert("RGB"))
        drawn.add(pixels[60:].tobytes())  # without the title, which holds the words
    assert len(drawn) == 5


def test_the_columns_are_the_resized_images_and_what_training_reads_in_each_epoch():
    columns, transforms, config, table = columns_of("augment.preset=heavy", "seed=3")
    assert [heading for heading, _, _ in columns] == ["resized", *(f"epoch {epoch}" for epoch in range(7))]
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
        mixed, targets = Mixer(config.mix)({"image": plain}, torch.from_numpy(table.targets), generator)
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
        "resized", "epoch 0", "epoch 0, AugMix 1", "epoch 0, AugMix 2", "epoch 1", "epoch 1, AugMix 1",
        "epoch 1, AugMix 2", "epoch 2",
    ]  # fmt: skip
    assert transforms[-1] == "p=1.00 AugMix severity=6"
    assert np.array_equal(columns[1][1], clean[1][1])
    assert np.array_equal(columns[4][1], clean[2][1])
    assert len({images.tobytes() for _, images, _ in columns}) == 8


@pytest.mark.parametrize(("task", "targets"), [("binary", ["a"]), ("multilabel", ["a", "b"])])
def test_few_arrays_of_many_channels(folder, capsys, task, targets):
    """Four rows, float arrays of six channels: the first channel is shown, over its own range."""
    arrays = np.random.default_rng(0).normal(-1000, 5, (4, 6, 20, 30)).astype(np.float32)
    for row, array in enumerate(arrays):
        np.save(folder / f"{row}.npy", array)
    pd.DataFrame({"id": range(4), "a": [0, 1, 0, 1], "b": [0, 0, 1, 1]}).to_csv("train.csv", index=False)
    (folder / "configs" / "competition").mkdir(parents=True)
    (folder / "configs" / "competition" / "cube.yaml").write_text(
        f"competition: {{root: ., train_table: train.csv, train_image: '{{id}}.npy', targets: {targets}, "
        f"task: {task}, channels: 6}}\nimage_size: [20, 30]\naugment: {{preset: none}}\n"
    )
    main(["competition=cube", "output=cube.png"])
    assert capsys.readouterr().out == "wrote cube.png: 4 images x 8 views, each 20x30x6\n  nothing but a resize\n"
    pixels = np.asarray(Image.open("cube.png").convert("L"))
    assert 1200 <= pixels.shape[1] <= 1400
    assert pixels.shape[0] < 650
    shown = choose_rows(load_train_table(load_config(["competition=cube"]).competition).targets, 4, 42)
    first = arrays[shown[0], 0]
    expected = np.rint((first - first.min()) * 255 / np.ptp(first))
    cell = pixels[88:188, 10:160]  # 5x5 dots for each pixel
    assert np.abs(cell[2::5, 2::5] - expected).max() <= 1
    table = load_train_table(load_config(["competition=cube"]).competition)
    (_, _, captions), *others = compute_columns(load_config(["competition=cube"]), table)[0]
    expected = {"binary": ["a=0", "a=1", "a=0", "a=1"], "multilabel": ["none", "a", "b", "a, b"]}[task]
    assert captions == [f"{row}\n{label}" for row, label in enumerate(expected)]
    assert all(captions == expected for _, _, captions in others)


def one_hot(*classes):
    return np.eye(max(classes) + 1, dtype=np.float32)[list(classes)]


@pytest.mark.parametrize("seed", range(5))
def test_a_table_sorted_by_class_shows_all_classes(seed):
    classes = np.repeat([0, 1, 2], [90, 9, 1])
    chosen = choose_rows(one_hot(*classes), 6, seed)
    assert sorted(classes[chosen][:3]) == [0, 1, 2]
    assert sorted(classes[chosen][3:5]) == [0, 1]
    assert classes[chosen][5] in (0, 1)
    assert len(set(chosen)) == 6
    binary = choose_rows(np.repeat([0, 1], 50)[:, None].astype(np.float32), 6, seed)
    assert sorted(binary >= 50) == [False] * 3 + [True] * 3
    assert len(set(choose_rows(one_hot(*np.repeat(np.arange(120), 7)), 120, seed) // 7)) == 120
    assert sorted(choose_rows(one_hot(0, 1), 6, seed)) == [0, 1]


def test_a_row_of_several_labels_counts_as_its_rarest():
    common, both, none = [1, 0], [1, 1], [0, 0]
    targets = np.array([common] * 40 + [both] + [none] * 40, np.float32)
    for seed in range(5):
        assert sorted(np.digitize(choose_rows(targets, 3, seed), [40, 41])) == [0, 1, 2]
    soft = np.array([[0.4, 0.3, 0.3]] * 9 + [[0.3, 0.4, 0.3]] + [[np.nan, 0.0, 1.0]], np.float32)
    assert set(choose_rows(soft, 3, 0)) >= {9, 10}


def test_captions_name_both_classes_of_a_binary_label():
    assert _describe_targets(np.array([0.0]), ["cat", "dog"]) == "cat"
    assert _describe_targets(np.array([1.0]), ["cat", "dog"]) == "dog"
    assert _describe_targets(np.array([0.25]), ["cat", "dog"]) == "cat 0.75, dog 0.25"
    assert _describe_targets(np.array([1.0]), ["dog"]) == "dog=1"


def test_captions_take_two_lines_and_are_cut_in_the_middle():
    assert _fit("dahlia", 20) == "dahlia"
    assert _fit("Chinese temple 0.80, dahlia 0.20", 20) == "Chinese temple 0.80,\ndahlia 0.20"
    assert _fit("one two three", 5) == "one\ntwo"
    assert _fit("a_long_name_of_a_file_17\ndahlia", 20) == "a_long_na…_a_file_17\ndahlia"


def test_help_is_narrow_and_quick():
    code = "import sys; from tools.preview import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    *usage, has_torch = done.stdout.splitlines()
    assert usage[0] == "usage: python -m tools.preview [key=value ...] [output=FILE.png]"
    assert max(map(len, usage)) <= 80
    assert has_torch == "False"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["augment.flip=hflip"], "command line: unknown setting augment.flip; did you mean augment.flips?"),
        (["output=seen.jpg"], "output=seen.jpg: not a PNG; choose a name that ends in .png"),
        (
            ["output=blocked/deep/seen.png"],
            "blocked/deep/seen.png: cannot be written (Not a directory); choose another output=FILE",
        ),
        (["augment.transforms=[Flop]"], "augment.transforms: albumentations has no Flop"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, words, message):
    (folder / "blocked").write_text("a file")
    with pytest.raises(SystemExit) as stop:
        main(["image_size=24", *words])
    assert stop.value.code == 2
    complained = capsys.readouterr().err
    assert complained.startswith(f"error: {message}")
    assert complained.count("\n") == 1


def test_an_unreadable_image_is_one_line(folder, capsys):
    main(["image_size=24"])
    table = load_train_table(load_config([]).competition)
    path = str(table.paths[choose_rows(table.targets, 6, 42)[2]])
    (folder / path).write_bytes(b"")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["image_size=24"])
    complained = capsys.readouterr().err
    assert complained == f"error: {path}: cannot be decoded as an image (0 bytes)\n"
