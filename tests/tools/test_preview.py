"""The preview: a PNG of what training sees; the same seed gives the same file, other settings another one."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.analysis.batches import choose_rows, compute_columns
from src.competition.tables import load_train_table
from src.config.load import load_config
from src.config.settings import REPOSITORY
from tools.preview import draw_columns, main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_class_of_letters_that_the_font_lacks_is_drawn_in_silence(folder):
    columns = [("resized", np.zeros((1, 8, 8, 1), np.uint8), ["한국어"])]
    draw_columns(folder / "seen.png", columns, "words")
    assert (folder / "seen.png").stat().st_size > 1000


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
    shown = choose_rows(load_train_table(load_config(["competition=cube"]).competition), 4, 42)
    first = arrays[shown[0], 0]
    expected = np.rint((first - first.min()) * 255 / np.ptp(first))
    cell = pixels[88:188, 10:160]  # 5x5 dots for each pixel
    assert np.abs(cell[2::5, 2::5] - expected).max() <= 1
    table = load_train_table(load_config(["competition=cube"]).competition)
    (_, _, captions), *others = compute_columns(load_config(["competition=cube"]), table)[0]
    expected = {"binary": ["a=0", "a=1", "a=0", "a=1"], "multilabel": ["none", "a", "b", "a, b"]}[task]
    assert captions == [f"{row}\n{label}" for row, label in enumerate(expected)]
    assert all(captions == expected for _, _, captions in others)


def test_help_is_narrow_and_quick():
    code = "import sys; from tools.preview import draw_columns, main; main(['--help']); print('torch' in sys.modules)"
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
    path = str(table.paths[choose_rows(table, 6, 42)[2]])
    (folder / path).write_bytes(b"")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["image_size=24"])
    complained = capsys.readouterr().err
    assert complained == f"error: {path}: cannot be decoded as an image (0 bytes)\n"
