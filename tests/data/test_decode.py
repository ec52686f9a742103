"""Files of every kind against Pillow, numpy and values computed by hand; DICOM with its LUTs, window and frames."""

import io
import struct
import zlib

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image, ImageOps, features
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from src.config.settings import Competition
from src.data import decode
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
        assert decode.count_bits(decode.read_file(path)) == 16
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
    assert decode.count_bits(decode.read_file(grey)) == 0


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


def dicom(pixels, stored=16, **tags):
    """Write the smallest valid DICOM of an array (H, W), (frames, H, W) or, with SamplesPerPixel=3, (H, W, 3)."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = SecondaryCaptureImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = "1.2.3"
    is_colour = tags.get("SamplesPerPixel", 1) == 3
    one.Rows, one.Columns = pixels.shape[:2] if is_colour else pixels.shape[-2:]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit = pixels.itemsize * 8, stored, stored - 1
    one.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(one, name, value)
    one.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


EIGHT = np.arange(0, 250, dtype=np.uint8).reshape(10, 25)
TWELVE = (np.arange(250, dtype=np.uint16) * 8 + 100).reshape(10, 25)


@pytest.mark.parametrize("name", ["a.dcm", "a.DICOM", "a"])
def test_dicom_of_eight_bits_is_stretched_to_its_own_range(put, name):
    found = decode_image(put(name, dicom(EIGHT, 8)), 1)
    assert found.dtype == np.uint8
    assert np.array_equal(found[..., 0], np.rint(EIGHT * (255 / 249)).astype(np.uint8))


@pytest.mark.parametrize("stored", [12, 16])
def test_dicom_of_more_bits_and_its_inverse(put, stored):
    expected = np.rint((TWELVE - 100.0) * 255 / (249 * 8)).astype(np.uint8)
    assert np.array_equal(decode_image(put("a.dcm", dicom(TWELVE, stored)), 3)[..., 1], expected)
    inverse = dicom(TWELVE, stored, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode_image(put("i.dcm", inverse), 1)[..., 0], 255 - expected)


def test_dicom_window_after_the_modality_rescale(put):
    hounsfield = TWELVE * 2.0 - 1000
    window = {"WindowCenter": 100, "WindowWidth": 401, "RescaleSlope": 2, "RescaleIntercept": -1000}
    found = decode_image(put("ct.dcm", dicom(TWELVE, 12, **window)), 1)[..., 0]
    # PS3.3 C.11.2.1.2: ((x - (c - 0.5)) / (w - 1) + 0.5) of the range
    expected = np.clip((hounsfield - 99.5) / 400 + 0.5, 0, 1) * 255
    assert np.abs(found - expected).max() <= 0.51
    assert (found == 0).any()
    assert (found == 255).any()
    several = window | {"WindowCenter": [100, 500], "WindowWidth": [401, 20]}
    assert np.array_equal(decode_image(put("two.dcm", dicom(TWELVE, 12, **several)), 1)[..., 0], found)


def test_dicom_window_wider_than_the_image_does_not_stretch_it(put):
    found = decode_image(put("a.dcm", dicom(TWELVE, 12, WindowCenter=2048, WindowWidth=4096)), 1)
    assert np.abs(found[..., 0] - TWELVE / 4095 * 255).max() <= 0.6


def test_dicom_signed_pixels(put):
    signed = np.array([[-1000, 0], [500, 1000]], np.int16)
    assert decode_image(put("a.dcm", dicom(signed)), 1)[..., 0].tolist() == [[0, 128], [191, 255]]
    widest = np.array([[-32768, 0, 32767]], np.int16)
    assert decode_image(put("b.dcm", dicom(widest)), 1)[..., 0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": None}, {"RescaleSlope": None, "RescaleIntercept": None}, {"RescaleSlope": 0},
        {"RescaleIntercept": -5, "RescaleSlope": None}, {"WindowWidth": 0, "WindowCenter": 500},
        {"WindowWidth": -5, "WindowCenter": 500}, {"WindowWidth": None, "WindowCenter": 500}, {"WindowWidth": 500},
        {"WindowWidth": None, "WindowCenter": None}, {"VOILUTFunction": None}, {"PixelPaddingValue": None},
        {"WindowWidth": [0, None], "WindowCenter": [500, 600]},
    ],
    ids=str,
)  # fmt: skip
def test_dicom_tags_that_are_empty_or_cannot_be_used_count_as_absent(put, tags):
    expected = decode_image(put("plain.dcm", dicom(TWELVE, 12)), 1)
    assert np.array_equal(decode_image(put("a.dcm", dicom(TWELVE, 12, **tags)), 1), expected)


def test_dicom_rescale_without_a_half_and_the_first_window_that_can_be_used(put):
    window = {"WindowCenter": 100, "WindowWidth": 401}
    whole = decode_image(put("a.dcm", dicom(TWELVE, 12, **window, RescaleSlope=1, RescaleIntercept=-1000)), 1)
    half = decode_image(put("b.dcm", dicom(TWELVE, 12, **window, RescaleIntercept=-1000)), 1)
    assert np.array_equal(half, whole)
    found = decode_image(put("c.dcm", dicom(TWELVE, 12, WindowCenter=[7, 100], WindowWidth=[0, 401])), 1)
    assert np.array_equal(found, decode_image(put("d.dcm", dicom(TWELVE, 12, **window)), 1))


def test_dicom_of_a_negative_slope_is_not_inverted_twice(put):
    tags = {"WindowCenter": 2000, "WindowWidth": 401, "RescaleSlope": -1, "RescaleIntercept": 3000}
    expected = np.clip((3000.0 - TWELVE - 1999.5) / 400 + 0.5, 0, 1) * 255
    assert np.abs(decode_image(put("a.dcm", dicom(TWELVE, 12, **tags)), 1)[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("padding", [-2000, 32767])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_dicom_padding_is_black_and_leaves_the_range_alone(put, padding, photometric):
    """A fifth is padding: without it the mean of the ramp 0 to 255 is 127.5, with it as black 102."""
    pixels = np.repeat(np.arange(256, dtype=np.int16)[:, None] * 16, 5, axis=1)
    pixels[:, 4] = padding
    values = dicom(pixels, PhotometricInterpretation=photometric)
    found = decode_image(put("a.dcm", values), 1)[..., 0]
    assert abs(found.mean() - 102) > 15  # when the tag is not there
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": padding}
    found = decode_image(put("b.dcm", dicom(pixels, **tags)), 1)[..., 0]
    ramp = np.arange(256) if photometric == "MONOCHROME2" else np.arange(256)[::-1]
    assert np.array_equal(found[:, 0], ramp)
    assert found.mean() == 102
    assert decode_image(put("c.dcm", dicom(np.full((4, 4), padding, np.int16), **tags)), 1).max() == 0


def test_dicom_padding_up_to_a_limit_and_written_unsigned(put):
    pixels = np.array([[-2000, -1500, 0, 100, 255]], np.int16)
    one = put("a.dcm", dicom(pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1024))
    assert decode_image(one, 1)[..., 0].tolist() == [[0, 0, 0, 100, 255]]
    assert decode_image(put("b.dcm", dicom(pixels, PixelPaddingValue=-2000)), 1)[0, 3, 0] == 232  # 1600 / 1755
    unsigned = dicom(pixels, PixelPaddingValue=-2000).replace(b"\x28\0\x20\x01SS", b"\x28\0\x20\x01US")
    assert decode_image(put("c.dcm", unsigned), 1)[0, 3, 0] == 232


@pytest.mark.parametrize("is_implicit", [True, False])
def test_dicom_without_preamble(put, is_implicit):
    content = dicom(TWELVE, 12)
    expected = decode_image(put("a.dcm", content), 1)
    assert np.array_equal(decode_image(put("b.dcm", content[132:]), 1), expected)
    data, bare = pydicom.dcmread(io.BytesIO(content)), Dataset()
    bare.update(dict(data.items()))
    buffer = io.BytesIO()
    bare.save_as(buffer, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)
    assert np.array_equal(decode_image(put("c.dcm", buffer.getvalue()), 1), expected)


def test_dicom_lookup_table(put):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 10, 8], bytes([0, 200, 100, 255])
    table["LUTData"].VR = "US"
    table["LUTData"].value = [0, 200, 100, 255]
    table["LUTDescriptor"].VR = "US"
    pixels = np.array([[5, 10], [11, 12], [13, 99]], np.uint16)
    found = decode_image(put("a.dcm", dicom(pixels, 12, VOILUTSequence=[table])), 1)
    assert found[..., 0].tolist() == [[0, 0], [200, 100], [255, 255]]


def test_dicom_colour_and_frames(put):
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    assert np.array_equal(decode_image(put("rgb.dcm", dicom(COLOUR, 8, **tags)), 3), COLOUR)
    deep = put("deep.dcm", dicom(COLOUR.astype(np.uint16) * 16, 12, **tags))
    assert np.array_equal(decode_image(deep, 3), COLOUR)  # 12 bits, of which the high byte is kept
    frames = np.stack([EIGHT * 0, EIGHT, EIGHT // 2, EIGHT * 0])
    found = decode_image(put("frames.dcm", dicom(frames, 8, NumberOfFrames=4)), 1)
    assert np.array_equal(found[..., 0], np.rint(frames[2] * (255 / 124)).astype(np.uint8))


@pytest.mark.filterwarnings("error")
def test_dicom_of_one_value_is_black(put):
    assert decode_image(put("a.dcm", dicom(EIGHT * 0 + 7, 8)), 1).max() == 0


def test_a_dicom_of_too_many_pixels_is_refused_by_its_header(put, monkeypatch):
    medical = put("a.dcm", dicom(EIGHT, 8))
    monkeypatch.setattr(decode, "MAX_PIXELS", 249)
    with pytest.raises(UserError, match=r"a.dcm: 25x10 is over"):
        decode_image(medical, 3)


@pytest.mark.parametrize("content", [b"", b"no image", dicom(EIGHT, 8)[:-100]])
def test_a_broken_dicom_is_one_line(put, content, capfd):
    path = put("a.dcm", content)
    with pytest.raises(UserError) as caught:
        decode_image(path, 3)
    assert str(caught.value).startswith(f"{path}: cannot be decoded as an image ({len(content)} bytes")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_deflated_dicom_is_refused(put):
    content = dicom(EIGHT, 8).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    with pytest.raises(UserError, match="is deflated DICOM, which is not read; save it with another transfer syntax"):
        decode_image(put("a.dcm", content), 1)
