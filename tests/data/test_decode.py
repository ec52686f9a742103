"""Files of every kind against Pillow, numpy and values computed by hand."""

import io
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from src.config.settings import Competition
from src.data import decode
from src.data.inspection import count_bits
from src.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SMOOTH = cv2.resize(COLOUR[:5, :6], (800, 600), interpolation=cv2.INTER_CUBIC)  # a JPEG keeps it nearly as it is


def decode_image(path, channels, target_size=None, **settings):
    return decode.decode_image(path, Competition(channels=channels, **settings), target_size)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "a.tif", "a.tiff", "이미지 1/고양이 2.png", "no_suffix"])
def test_lossless_images_are_read_exactly(put, name):
    path = put(name, Image.fromarray(COLOUR), format=None if "." in name else "PNG")
    found = decode_image(path, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, COLOUR)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp"])
def test_lossy_images_are_what_pillow_reads(put, name):
    path = put(name, Image.fromarray(SMOOTH), quality=95)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(decode_image(path, 3) - expected).max() <= 1


def test_the_content_decides_not_the_name(put):
    png = io.BytesIO()
    Image.fromarray(COLOUR).save(png, "PNG")
    assert np.array_equal(decode_image(put("really_png.jpg", png.getvalue()), 3), COLOUR)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp"])
def test_grey_is_repeated_for_rgb_and_kept_for_one_channel(put, name):
    grey = SMOOTH[:40, :50, 0].copy()
    path = put(name, Image.fromarray(grey))
    expected = np.asarray(Image.open(path))
    assert np.array_equal(decode_image(path, 1), expected[..., None])
    assert np.array_equal(decode_image(path, 3), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_colour_as_grey_is_its_luminance(put, name):
    path = put(name, Image.fromarray(SMOOTH), **({"quality": 95} if name == "a.jpg" else {}))
    expected = SMOOTH @ [0.299, 0.587, 0.114]
    assert decode_image(path, 1).shape == (600, 800, 1)
    assert np.abs(decode_image(path, 1)[..., 0] - expected).mean() < 1.5


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_transparent_pixels_lie_on_the_background(put, name, background):
    alpha = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    alpha[:3] = [[0], [255], [128]]
    rgba = Image.fromarray(np.dstack([COLOUR, alpha]))
    path = put(name, rgba, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    paper = Image.new("RGBA", rgba.size, background)
    expected = np.asarray(Image.alpha_composite(paper, rgba).convert("RGB")).astype(int)
    found = decode_image(path, 3, background=background)
    assert np.abs(found - expected).max() <= 1
    assert np.array_equal(found[alpha == 255], COLOUR[alpha == 255])
    assert (found[alpha == 0] == (255 if background == "white" else 0)).all()
    half = 128 / 255 * COLOUR[2] + 127 * (1 if background == "white" else 0)
    assert np.abs(found[2] - half).max() <= 0.51
    assert np.array_equal(decode_image(path, 4), np.dstack([COLOUR, alpha]))


def test_ink_that_is_only_in_alpha_is_seen(put):
    """Black ink on clear black, as drawing programs save it: white paper shows it, in every format."""
    ink = np.zeros((8, 9), np.uint8)
    ink[2:5, 3] = 255
    black = Image.fromarray(ink * 0)
    la, rgba = (Image.merge(mode, [black] * count + [Image.fromarray(ink)]) for mode, count in (("LA", 1), ("RGBA", 3)))
    palette = Image.fromarray(ink // 255, "P")
    palette.putpalette([0, 0, 0, 0, 0, 0])
    for name, image, options in [
        ("la.png", la, {}), ("rgba.png", rgba, {}), ("rgba.webp", rgba, {"lossless": True}), ("rgba.tif", rgba, {}),
        ("p.png", palette, {"transparency": 0}), ("p.gif", palette, {"transparency": 0}),
        ("p_many.png", palette, {"transparency": b"\0\xff"}),
        ("l.png", Image.fromarray(255 - ink), {"transparency": 0}),
    ]:  # fmt: skip
        path = put(name, image, **options)
        expected = np.full((8, 9), 255) if name == "l.png" else 255 - ink
        assert np.array_equal(decode_image(path, 1)[..., 0], expected), name
        assert np.array_equal(decode_image(path, 3)[..., 2], expected), name


def test_an_image_without_any_opaque_pixel_keeps_its_colours(put):
    """As 32-bit bitmaps whose fourth byte nobody has filled in."""
    path = put("a.png", Image.fromarray(np.dstack([COLOUR, np.zeros((20, 30), np.uint8)])))
    assert np.array_equal(decode_image(path, 3), COLOUR)


@pytest.mark.parametrize(("bits", "order"), [(8, "<"), (8, ">"), (16, "<")])  # Pillow knows no other
def test_a_tiff_in_which_0_is_white(put, bits, order):
    values = np.arange(256, dtype=f"{order}u{bits // 8}").reshape(16, 16) * (1 if bits == 8 else 257)
    tags = [(256, 3, 16), (257, 3, 16), (258, 3, bits), (259, 3, 1), (262, 3, 0), (273, 4, 122), (277, 3, 1),
            (278, 3, 16), (279, 4, values.nbytes)]  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHI{'I' if kind == 4 else 'HH'}", tag, kind, 1, value, *[0] * (kind == 3))
                       for tag, kind, value in tags)  # fmt: skip
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags))
    path = put("a.tif", start + entries + bytes(4) + values.tobytes())
    assert np.array_equal(decode_image(path, 1)[..., 0], 255 - np.arange(256).reshape(16, 16))
    assert np.array_equal(decode_image(path, 3)[..., 1], 255 - np.arange(256).reshape(16, 16))


def test_palette_bilevel_and_grey_with_alpha(put):
    palette = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(decode_image(put("p.png", palette), 3), np.asarray(palette.convert("RGB")))
    bits = RNG.random((20, 30)) > 0.5
    assert np.array_equal(decode_image(put("b.png", Image.fromarray(bits)), 1)[..., 0], bits * np.uint8(255))
    opaque = Image.merge("LA", [Image.fromarray(COLOUR[..., 0]), Image.new("L", (30, 20), 255)])
    assert np.array_equal(decode_image(put("la.png", opaque), 1), COLOUR[..., :1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_the_high_byte(put, suffix):
    grey = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    path = put("grey" + suffix, Image.fromarray(grey))
    assert np.array_equal(decode_image(path, 1)[..., 0], grey >> 8)
    assert np.array_equal(decode_image(path, 3)[..., 2], grey >> 8)
    colour = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    path = put("colour" + suffix, cv2.imencode(suffix, colour[..., ::-1])[1].tobytes())
    assert np.abs(decode_image(path, 3) - (colour >> 8).astype(int)).max() <= (suffix == ".tif")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("bits", [9, 12, 16])
def test_bits_in_use_of_sixteen(put, suffix, bits):
    """12 bits: 0 to 4095 become 0 to 255 and what is above is clipped; of all 16 bits only 16 shades would be left."""
    grey = np.arange(0, 2**bits, 2 ** (bits - 9), dtype=np.uint16).reshape(16, 32)
    over = grey.copy()
    over[-1, -1] = 65535
    expected = np.arange(512).reshape(16, 32) // 2
    if suffix != ".ppm":  # Pillow writes no PGM of 16 bits
        path = put("grey" + suffix, Image.fromarray(over))
        assert np.array_equal(decode_image(path, 1, bits=bits)[..., 0], expected)
        assert count_bits(decode.read_file(path)) == 16
    path = put("colour" + suffix, cv2.imencode(suffix, np.dstack([grey, grey[::-1], over]))[1].tobytes())
    found = decode_image(path, 3, bits=None if suffix == ".ppm" else bits)
    if suffix != ".ppm":  # a PPM states its range
        assert np.array_equal(found, np.dstack([expected, expected[::-1], expected]))
        rgba = np.dstack([grey, grey, grey, np.full_like(grey, 65535)])
        path = put("rgba" + suffix, cv2.imencode(suffix, rgba)[1].tobytes())
        assert np.array_equal(decode_image(path, 3, bits=bits)[..., 0], expected)
        assert decode_image(path, 4, bits=bits)[..., 3].min() == 255


def test_a_range_that_the_file_states_is_taken(put):
    """A PGM or PPM states its largest value, a TIFF of 12 bits has no others."""
    values = np.arange(0, 4096, 8, dtype=">u2").reshape(16, 32)
    grey = put("a.pgm", b"P5 32 16 4095\n" + values.tobytes())
    colour = put("a.ppm", b"P6 32 16 4095\n" + np.repeat(values[..., None], 3, axis=2).tobytes())
    for path, bits in ((grey, None), (grey, 12), (colour, None), (colour, 12)):
        assert np.abs(decode_image(path, 3, bits=bits)[..., 1] - values / 4095 * 255).max() <= 1
    assert count_bits(decode.read_file(grey)) == 0


def turned(pixels, orientation, suffix, **options):
    """The bytes of an image that a tag turns."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:]), exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_the_orientation_tag_is_applied_in_every_format(put, suffix, orientation):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 95}}.get(suffix, {})
    path = put(f"a{suffix}", turned(SMOOTH, orientation, suffix, **options))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert upright.shape == ((600, 800, 3) if orientation < 5 else (800, 600, 3))
    found, stored = decode_image(path, 3), decode_image(path, 3, exif=False)
    assert np.abs(found - upright.astype(int)).max() <= 1
    assert np.abs(stored - SMOOTH.astype(int)).mean() < 3
    assert decode_image(path, 1).shape == (*upright.shape[:2], 1)
    tall, wide = upright.shape[0] // 4, upright.shape[1] // 4
    small = decode_image(path, 3, (tall, wide))  # a JPEG is decoded at a quarter, on its own sides
    assert small.shape == ((tall, wide, 3) if suffix == ".jpg" else upright.shape)
    by_area = cv2.resize(upright, (wide, tall), interpolation=cv2.INTER_AREA)
    assert np.abs(cv2.resize(small, (wide, tall), interpolation=cv2.INTER_AREA) - by_area.astype(int)).mean() < 1.5


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_sixteen_bits_turn_as_well(put, orientation):
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    expected = np.rot90(grey >> 8, {3: 2, 6: 3, 8: 1}[orientation])
    for suffix in (".png", ".tif"):
        path = put(f"a{suffix}", turned(grey, orientation, suffix))
        assert np.array_equal(decode_image(path, 1)[..., 0], expected)
        assert np.array_equal(decode_image(path, 1, exif=False)[..., 0], grey >> 8)


NO_DIRECTION = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"  # the orientation is 99


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0 broken", b"", NO_DIRECTION])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_broken_tag_turns_nothing(put, exif, suffix):
    path = put(f"a{suffix}", Image.fromarray(COLOUR), exif=exif)
    assert decode_image(path, 3).shape == COLOUR.shape


def test_four_channels_of_a_tiff_need_not_be_transparency(put):
    """As satellites' red, green, blue and near infrared; the tag of extra samples says 0, unspecified."""
    bands = RNG.integers(0, 4096, (6, 5, 4), dtype=np.uint16)
    bits = struct.pack("<4H", 16, 16, 16, 16)
    tags = [(256, 5), (257, 6), (258, None), (259, 1), (262, 2), (273, None), (277, 4), (278, 6), (279, 240), (338, 0)]
    end = 8 + 2 + 12 * len(tags) + 4
    places = {258: end, 273: end + len(bits)}
    entries = [struct.pack("<HHII", tag, 4 if tag == 273 else 3, 4 if tag == 258 else 1, places.get(tag, value))
               for tag, value in tags]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)
    path = put("bands.tif", head + bits + bands.tobytes())
    assert np.array_equal(decode_image(path, 4, bits=12), bands >> 4)
    assert np.array_equal(decode_image(path, 4), bands >> 8)
    assert np.array_equal(decode_image(path, 3, bits=12), (bands >> 4)[..., :3])


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (None, (600, 800)), ((400, 400), (600, 800)), ((300, 400), (300, 400)), ((301, 400), (600, 800)),
        ((300, 401), (600, 800)), ((100, 190), (150, 200)), ((75, 100), (75, 100)), ((8, 8), (75, 100)),
    ],
)  # fmt: skip
def test_a_large_jpeg_is_decoded_small_but_never_below_the_target(put, target, shape):
    path = put("large.jpg", Image.fromarray(SMOOTH), quality=95)
    found = decode_image(path, 3, target)
    assert found.shape == (*shape, 3)
    by_area = cv2.resize(SMOOTH, shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(found - by_area.astype(int)).mean() < 1.5
    assert decode_image(path, 1, target).shape == (*shape, 1)


def test_an_odd_size_is_rounded_up(put):
    path = put("odd.jpg", Image.fromarray(SMOOTH[:-1, :-5]))
    assert decode_image(path, 3, (300, 398)).shape == (300, 398, 3)
    assert decode_image(path, 3, (75, 100)).shape == (75, 100, 3)


@pytest.mark.parametrize(
    ("array", "channels", "expected"),
    [
        (COLOUR, 3, COLOUR),
        (COLOUR[..., 0], 1, COLOUR[..., :1]),
        (COLOUR.transpose(2, 0, 1), 3, COLOUR),
        (COLOUR[:3, :5].repeat(2, axis=1)[:, :3], 3, COLOUR[:3, :5].repeat(2, axis=1)[:, :3]),
        ((COLOUR[..., 0] - 300.0).astype(np.int16), 1, (COLOUR[..., :1] - 300.0).astype(np.float32)),
        (COLOUR[..., :2].astype(">f8") / 7, 2, (COLOUR[..., :2] / 7).astype(np.float32)),
    ],
    ids=["hwc", "hw", "chw", "tie", "int16", "big_endian"],
)
def test_arrays(put, array, channels, expected):
    found = decode_image(put("a.npy", array), channels)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous
    assert found.dtype.isnative


def test_six_channels_of_float16(put):
    array = RNG.normal(size=(6, 40, 30)).astype(np.float16)
    found = decode_image(put("seti.npy", array), 6)
    assert found.shape == (40, 30, 6)
    assert found.dtype == np.float32
    assert found[7, 8, 5] == array[5, 7, 8]


def test_grey_pages_of_a_tiff_are_channels(put):
    pages = [Image.fromarray(COLOUR[..., i]) for i in (0, 1, 2, 1, 0)]
    path = put("pages.tif", pages[0], save_all=True, append_images=pages[1:])
    assert np.array_equal(decode_image(path, 5), COLOUR[..., [0, 1, 2, 1, 0]])


def test_broken_files_are_one_line(put, capfd):
    jpeg = io.BytesIO()
    Image.fromarray(SMOOTH).save(jpeg, "JPEG")
    jpeg = jpeg.getvalue()
    for name, content, ending in [
        ("empty.jpg", b"", "(0 bytes)"),
        ("text.jpg", b"no image", "(8 bytes)"),
        ("half.jpg", jpeg[: len(jpeg) // 2], f"({len(jpeg) // 2} bytes)"),
        ("two_bytes_short.jpg", jpeg[:-2], f"({len(jpeg) - 2} bytes)"),
        ("header.jpg", jpeg[:100], None),
        ("text.dcm", b"no image", None),
        ("text.npy", b"no image", None),
        ("empty.npy", b"", None),
        ("empty.dcm", b"", "(0 bytes)"),
    ]:
        path = put(name, content)
        with pytest.raises(UserError) as caught:
            decode_image(path, 3)
        assert str(caught.value).startswith(f"{path}: cannot be decoded as an image ({len(content)} bytes"), name
        assert str(caught.value).endswith(ending or ")"), str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
def test_half_a_file_is_no_image(put, suffix, capfd):
    data = cv2.imencode(suffix, SMOOTH)[1].tobytes()
    with pytest.raises(UserError, match=r"cannot be decoded"):
        decode_image(put("half" + suffix, data[: len(data) // 2]), 3)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("num_bytes", [1, 2, 100, 1000])
@pytest.mark.parametrize("target_size", [None, (12, 16)])
def test_a_jpeg_that_lacks_its_end_is_no_image(put, num_bytes, target_size):
    """OpenCV below 4.11 fills what is missing with grey."""
    data = cv2.imencode(".jpg", cv2.resize(SMOOTH, (160, 120)))[1].tobytes()
    with pytest.raises(UserError, match="cannot be decoded"):
        decode_image(put("cut.jpg", data[:-num_bytes]), 3, target_size)


def test_decoders_print_nothing(put, capfd):
    path = put("profile.png", Image.fromarray(COLOUR), icc_profile=b"no profile")
    assert np.array_equal(decode_image(path, 3), COLOUR)
    assert capfd.readouterr().err == ""
    assert getattr(cv2.utils, "logging", cv2).getLogLevel() == 0


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"gone.png: cannot be read \(No such file or directory\)$"):
        decode_image(str(tmp_path / "gone.png"), 3)


def test_other_channels_than_asked_for(put):
    path = put("a.png", Image.fromarray(COLOUR))
    with pytest.raises(UserError) as caught:
        decode_image(path, 4)
    assert str(caught.value) == f"{path}: has 3 channels, wanted are 4; set competition.channels=3"
    path = put("a.npy", np.zeros((6, 40, 30), np.float16))
    with pytest.raises(UserError, match=r"has 6 channels, wanted are 3; set competition.channels=6"):
        decode_image(path, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, np.nan], [np.inf, 2]]), "2 of 4 values are nan or infinite"),
        (np.zeros((2, 2, 2, 2)), r"an array \(2, 2, 2, 2\) of float64 is no image"),
        (np.zeros((0, 4)), "is no image"),
        (np.array([["a"]]), "is no image"),
        (np.array([[{}]]), "cannot be decoded"),
    ],
)
def test_arrays_that_are_no_images(put, array, message):
    with pytest.raises(UserError, match=message):
        decode_image(put("a.npy", array), 1)


def test_float_images_are_refused(put):
    with pytest.raises(UserError, match=r"has 32-bit or signed pixels.*save it as .npy"):
        decode_image(put("a.tif", Image.fromarray(np.ones((4, 4), np.float32))), 1)


def test_pixel_bombs_are_refused_by_their_header(put, monkeypatch):
    small = put("small.png", Image.fromarray(COLOUR))
    monkeypatch.setattr(decode, "MAX_PIXELS", 599)
    with pytest.raises(UserError, match=r"small.png: 30x20 is over"):
        decode_image(small, 3)
    monkeypatch.undo()
    header = b"IHDR" + struct.pack(">II5B", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    bomb += struct.pack(">I", 10) + b"IDAT" + bytes(14)
    with pytest.raises(UserError, match=r"bomb.png: 60000x60000 is over 200 megapixels; scale it down beforehand"):
        decode_image(put("bomb.png", bomb), 3)


def test_a_new_format_is_one_entry(put, monkeypatch):
    """As a fork adds it; what it returns is made grey or RGB, and its errors are one line, as of any other."""

    def decode_raw(path, data, channels):
        return np.frombuffer(data, np.uint8).reshape(4, -1)

    monkeypatch.setitem(decode.DECODERS, ".raw", decode_raw)
    path = put("a.RAW", COLOUR[:4, :5, 0].tobytes())
    assert np.array_equal(decode_image(path, 3), np.repeat(COLOUR[:4, :5, :1], 3, axis=2))
    path = put("b.raw", b"12345")
    with pytest.raises(UserError) as caught:
        decode_image(path, 1)
    assert str(caught.value).startswith(f"{path}: cannot be decoded as an image (5 bytes: cannot reshape array")


def test_several_files_are_one_image_at_the_first_ones_size(put):
    small, large = put("1.png", Image.fromarray(COLOUR)), put("2.png", Image.fromarray(SMOOTH))
    found = decode_image("\0".join((small, large, small)), 3)
    assert found.shape == (20, 30, 9)
    assert np.array_equal(found[..., :3], COLOUR)
    assert np.array_equal(found[..., 3:6], decode.resize_image(SMOOTH, (20, 30)))
    assert np.array_equal(found[..., 6:], COLOUR)


def test_several_files_are_refused_by_the_one_that_is_wrong(put, tmp_path):
    good, bad = put("1.png", Image.fromarray(COLOUR)), tmp_path / "2.npy"
    np.save(bad, np.zeros((4, 4, 3)))
    with pytest.raises(UserError) as caught:
        decode_image(f"{good}\0{bad}", 3)
    assert str(caught.value) == f"{bad}: has float32 pixels, {good} of its row has uint8; save them alike"
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=re.escape(f"{bad}: cannot be decoded as an image (0 bytes")):
        decode_image(f"{good}\0{bad}", 3)
