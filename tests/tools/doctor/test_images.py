"""Images that are broken, blank or unusual are named; sizes that vary naturally are not."""

from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from src.errors import UserError
from src.training.run import load_run, prepare_inputs, settle_precision, start_processes
from tools.doctor.images import check_images, is_blank


def found_in(clinic, *words):
    data, findings = clinic.load(*words)
    assert findings == []
    return check_images(data)


def test_clean(clinic):
    findings, facts = found_in(clinic)
    assert findings == []
    assert facts[0].lines[0].startswith("train 160 images, ")
    assert "      sizes 64x64 (160)" in facts[0].lines
    assert "      kinds JPEG RGB (160)" in facts[0].lines


def test_empty_and_cut_files(clinic):
    clinic.path(3).write_bytes(b"")
    clinic.path(0, "test").write_bytes(clinic.path(0, "test").read_bytes()[:700])
    [finding] = found_in(clinic)[0]
    assert finding.severity == "error"
    assert finding.title == "2 of 220 images cannot be decoded, 1 of them empty files"
    assert finding.names == (
        f"train/{clinic.path(3).name}: empty file",
        f"test/{clinic.path(0, 'test').name}: cannot be decoded as an image (700 bytes)",
    )
    assert "unreadable=skip" in finding.advice
    [skipped] = found_in(clinic, "unreadable=skip")[0]
    assert skipped.severity == "warning"


def test_blank_images(clinic):
    clinic.draw(8, np.full((64, 64, 3), (200, 90, 0), np.uint8))
    [finding] = found_in(clinic)[0]
    assert finding.title == "1 of 220 images are blank: one shade all over"
    assert finding.names == (f"train/{clinic.path(8).name}",)
    assert finding.images == ((8,),)
    assert np.flatnonzero(is_blank(clinic.load()[0].scan)).tolist() == [8]


def write_images(clinic, suffix, convert, **options):
    """Write each JPEG's pixels in another format; return words that read them."""
    for side in ("train", "test"):
        for row, name in enumerate(clinic.read(side)["id"]):
            convert(row, clinic.pixels(row, side)).save(clinic.root / side / f"{name}{suffix}", **options)
    return [f"competition.train_image=train/{{id}}{suffix}", f"competition.test_image=test/{{id}}{suffix}"]


def test_twelve_bits_in_sixteen(clinic):
    grey = [np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64) >> shift for shift in (0, 1)]
    words = write_images(clinic, ".png", lambda row, pixels: Image.fromarray(np.roll(grey[row % 2], row)))
    [finding] = found_in(clinic, *words)[0]
    assert finding.severity == "warning"
    assert finding.title == "220 of 220 16-bit images use only 12 bits, which leaves them 16 of 256 shades"
    assert finding.advice == "set competition.bits=12"
    assert found_in(clinic, *words, finding.advice.removeprefix("set "))[0] == []
    [clipped] = found_in(clinic, *words, "competition.bits=10")[0]
    assert clipped.title == "220 of 220 16-bit images have values above competition.bits=10, which become white"
    assert clipped.advice == "set competition.bits=12"


def test_turned_images_are_counted(clinic):
    exif = Image.Exif()
    for row, orientation in ((3, 6), (7, 8), (9, 1)):
        exif[0x0112] = orientation
        Image.open(clinic.path(row)).save(clinic.path(row), exif=exif, quality=92)
    [finding] = found_in(clinic)[0]
    assert (finding.severity, finding.images) == ("note", ((3,), (7,)))
    assert finding.title == "2 of 220 images have an orientation tag that turns them"
    assert finding.advice.endswith("if they do not stand upright, set competition.exif=false")
    [finding] = found_in(clinic, "competition.exif=false")[0]
    assert finding.severity == "warning"
    assert finding.title == "2 of 220 images have an orientation tag that is not applied (competition.exif=false)"
    assert finding.advice.endswith("set competition.exif=true")


def test_several_pages_are_named(clinic):
    more = {"save_all": True, "append_images": [Image.new("L", (64, 64))]}
    words = write_images(clinic, ".tif", lambda row, pixels: Image.fromarray(pixels[..., 0]), **more)
    [finding] = found_in(clinic, *words)[0]
    assert finding.title == "220 of 220 images hold several pages or frames, 2 in the median; the first is read"
    assert finding.advice == (
        "look whether it is the right one; if its grey pages are channels, set competition.channels=2"
    )
    assert found_in(clinic, *words, "competition.channels=2", "normalize=dataset")[0] == []


def test_ink_that_is_only_in_alpha_is_not_called_blank(clinic):
    """White ink on clear white shows nothing on white paper."""

    def convert(row, pixels):
        return Image.merge("LA", [Image.new("L", (64, 64), 255), Image.fromarray(255 - pixels[..., 1])])

    words = write_images(clinic, ".png", convert)
    [finding] = found_in(clinic, *words)[0]
    assert finding.title == (
        "220 of 220 images are blank on competition.background=white: what they show is in their alpha channel"
    )
    assert finding.advice == "set competition.background=black"
    assert found_in(clinic, *words, "competition.background=black")[0] == []


def write_arrays(clinic, change):
    """Write arrays of random numbers in the place of the images; return words that read them."""
    for side in ("train", "test"):
        for row, name in enumerate(clinic.read(side)["id"]):
            array = np.random.default_rng((row, side == "test")).normal(size=(64, 64, 3)).astype(np.float16)
            np.save(clinic.root / side / f"{name}.npy", change(side, row, array))
    return ["competition.train_image=train/{id}.npy", "competition.test_image=test/{id}.npy", "normalize=dataset"]


def test_arrays_of_any_scale_are_blank_only_where_they_are_constant(clinic):
    def change(side, row, array):
        if side == "test":
            return array
        if row == 1:
            array[0, 0, 0] = 6e4
        changed = {2: array * np.float16(1e-3), 3: 300 + array, 4: np.zeros_like(array), 5: np.full_like(array, -0.1)}
        return changed.get(row, array)

    data, _ = clinic.load(*write_arrays(clinic, change))
    assert np.flatnonzero(is_blank(data.scan)).tolist() == [4, 5]
    [finding] = check_images(data)[0]
    assert finding.title == "2 of 220 images are blank: one shade all over"


def test_images_of_few_grey_levels_are_not_blank(clinic):
    """Masks of 0 and 1, of which one has a single bright pixel: what half of them span is the measure."""
    for row in range(160):
        mask = np.random.default_rng(row).integers(0, 2, (64, 64), dtype=np.uint8)
        mask[0, 0] = 255 if row == 3 else 0
        Image.fromarray(mask * (row != 7)).save(clinic.root / "train" / f"{clinic.read()['id'][row]}.png")
    for path in (clinic.root / "test").glob("*.jpg"):
        Image.fromarray(mask).save(path.with_suffix(".png"))
    data, _ = clinic.load("competition.train_image=train/{id}.png", "competition.test_image=test/{id}.png")
    assert np.flatnonzero(is_blank(data.scan)).tolist() == [7]


def test_an_odd_size_among_equal_ones(clinic):
    clinic.draw(8, clinic.pixels(8)[:60])
    [finding] = found_in(clinic)[0]
    assert finding.title == "1 of 220 images are not 64x64 as the others are"
    assert finding.names == (f"train/{clinic.path(8).name} 64x60",)


def test_sizes_that_vary_are_odd_only_when_far_off(clinic):
    for row in range(160):
        clinic.draw(row, clinic.pixels(row)[: 40 + row % 24, : 64 - row % 13])
    assert found_in(clinic)[0] == []
    clinic.draw(5, clinic.pixels(5)[:8])
    [finding] = found_in(clinic)[0]
    assert finding.title == "1 of 220 images are over 4 times larger or smaller than the median"
    assert finding.names[0].startswith(f"train/{clinic.path(5).name} ")


def test_an_odd_kind(clinic):
    Image.open(clinic.path(4)).convert("L").save(clinic.path(4))
    Image.open(clinic.path(6)).save(clinic.path(6), "PNG")
    [finding] = found_in(clinic)[0]
    assert finding.title == "2 of 220 images are of another kind than JPEG RGB"
    assert finding.names == (f"train/{clinic.path(4).name} JPEG L", f"train/{clinic.path(6).name} PNG RGB")


@pytest.mark.parametrize(
    ("mixed", "words", "severity"),
    [
        ("train", [], "error"),
        ("train", ["cache=off"], "warning"),
        ("train", ["fold=0", "train.epochs=1"], "warning"),  # no image is read twice, so that none is kept
        ("train", ["fold=0", "train.epochs=1", "cache=on"], "error"),
        ("test", [], "warning"),
    ],
)
def test_mixed_types_stop_training_where_decoded_images_are_kept(clinic, mixed, words, severity):
    """The doctor predicts what `prepare_inputs`, with which training begins, does."""

    def change(side, row, array):
        return (array * 30 + 128).astype(np.uint8) if (side, row) == (mixed, 9) else array

    words = [*write_arrays(clinic, change), *words]
    [finding] = found_in(clinic, *words)[0]
    assert (finding.severity, finding.title) == (severity, "1 of 220 images are read as uint8, the others as float32")
    assert finding.names == (f"{mixed}/{clinic.path(9, mixed).stem}.npy",)
    assert ("cache=off" in finding.advice) == (severity == "error")
    config = clinic.config(*words, "precision=fp32", "train.channels_last=true", "device=cpu")
    run = load_run(config, start_processes(config))
    settle_precision(run)
    run.unfinished = [0] if config.fold == 0 else [0, 1]
    with pytest.raises(UserError, match="set cache=off") if severity == "error" else nullcontext():
        prepare_inputs(run)


def test_arrays_that_are_read_as_one_type_are_not_odd(clinic):
    def change(side, row, array):
        return array.astype(np.float32) if row == 9 else array

    assert found_in(clinic, *write_arrays(clinic, change))[0] == []
