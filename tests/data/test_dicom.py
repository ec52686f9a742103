"""DICOM files against values computed by hand: LUTs, window, padding, frames, tags that are missing or broken."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from src.data import decode
from src.errors import UserError
from tests.data.test_decode import COLOUR, SMOOTH, decode_image


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
def test_of_eight_bits_is_stretched_to_its_own_range(put, name):
    found = decode_image(put(name, dicom(EIGHT, 8)), 1)
    assert found.dtype == np.uint8
    assert np.array_equal(found[..., 0], np.rint(EIGHT * (255 / 249)).astype(np.uint8))


@pytest.mark.parametrize("stored", [12, 16])
def test_of_more_bits_and_its_inverse(put, stored):
    expected = np.rint((TWELVE - 100.0) * 255 / (249 * 8)).astype(np.uint8)
    assert np.array_equal(decode_image(put("a.dcm", dicom(TWELVE, stored)), 3)[..., 1], expected)
    inverse = dicom(TWELVE, stored, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode_image(put("i.dcm", inverse), 1)[..., 0], 255 - expected)


def test_window_after_the_modality_rescale(put):
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


def test_window_wider_than_the_image_does_not_stretch_it(put):
    found = decode_image(put("a.dcm", dicom(TWELVE, 12, WindowCenter=2048, WindowWidth=4096)), 1)
    assert np.abs(found[..., 0] - TWELVE / 4095 * 255).max() <= 0.6


def test_signed_pixels(put):
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
def test_tags_that_are_empty_or_cannot_be_used_count_as_absent(put, tags):
    expected = decode_image(put("plain.dcm", dicom(TWELVE, 12)), 1)
    assert np.array_equal(decode_image(put("a.dcm", dicom(TWELVE, 12, **tags)), 1), expected)


def test_rescale_without_a_half_and_the_first_window_that_can_be_used(put):
    window = {"WindowCenter": 100, "WindowWidth": 401}
    whole = decode_image(put("a.dcm", dicom(TWELVE, 12, **window, RescaleSlope=1, RescaleIntercept=-1000)), 1)
    half = decode_image(put("b.dcm", dicom(TWELVE, 12, **window, RescaleIntercept=-1000)), 1)
    assert np.array_equal(half, whole)
    found = decode_image(put("c.dcm", dicom(TWELVE, 12, WindowCenter=[7, 100], WindowWidth=[0, 401])), 1)
    assert np.array_equal(found, decode_image(put("d.dcm", dicom(TWELVE, 12, **window)), 1))


def test_of_a_negative_slope_is_not_inverted_twice(put):
    tags = {"WindowCenter": 2000, "WindowWidth": 401, "RescaleSlope": -1, "RescaleIntercept": 3000}
    expected = np.clip((3000.0 - TWELVE - 1999.5) / 400 + 0.5, 0, 1) * 255
    assert np.abs(decode_image(put("a.dcm", dicom(TWELVE, 12, **tags)), 1)[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("padding", [-2000, 32767])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_is_black_and_leaves_the_range_alone(put, padding, photometric):
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


def test_padding_up_to_a_limit_and_written_unsigned(put):
    pixels = np.array([[-2000, -1500, 0, 100, 255]], np.int16)
    one = put("a.dcm", dicom(pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1024))
    assert decode_image(one, 1)[..., 0].tolist() == [[0, 0, 0, 100, 255]]
    assert decode_image(put("b.dcm", dicom(pixels, PixelPaddingValue=-2000)), 1)[0, 3, 0] == 232  # 1600 / 1755
    unsigned = dicom(pixels, PixelPaddingValue=-2000).replace(b"\x28\0\x20\x01SS", b"\x28\0\x20\x01US")
    assert decode_image(put("c.dcm", unsigned), 1)[0, 3, 0] == 232


@pytest.mark.parametrize("is_implicit", [True, False])
def test_without_preamble(put, is_implicit):
    content = dicom(TWELVE, 12)
    expected = decode_image(put("a.dcm", content), 1)
    assert np.array_equal(decode_image(put("b.dcm", content[132:]), 1), expected)
    data, bare = pydicom.dcmread(io.BytesIO(content)), Dataset()
    bare.update(dict(data.items()))
    buffer = io.BytesIO()
    bare.save_as(buffer, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)
    assert np.array_equal(decode_image(put("c.dcm", buffer.getvalue()), 1), expected)


def test_lookup_table(put):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 10, 8], bytes([0, 200, 100, 255])
    table["LUTData"].VR = "US"
    table["LUTData"].value = [0, 200, 100, 255]
    table["LUTDescriptor"].VR = "US"
    pixels = np.array([[5, 10], [11, 12], [13, 99]], np.uint16)
    found = decode_image(put("a.dcm", dicom(pixels, 12, VOILUTSequence=[table])), 1)
    assert found[..., 0].tolist() == [[0, 0], [200, 100], [255, 255]]


def test_colour_and_frames(put):
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    assert np.array_equal(decode_image(put("rgb.dcm", dicom(COLOUR, 8, **tags)), 3), COLOUR)
    deep = put("deep.dcm", dicom(COLOUR.astype(np.uint16) * 16, 12, **tags))
    assert np.array_equal(decode_image(deep, 3), COLOUR)  # 12 bits, of which the high byte is kept
    frames = np.stack([EIGHT * 0, EIGHT, EIGHT // 2, EIGHT * 0])
    found = decode_image(put("frames.dcm", dicom(frames, 8, NumberOfFrames=4)), 1)
    assert np.array_equal(found[..., 0], np.rint(frames[2] * (255 / 124)).astype(np.uint8))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_of_one_value_is_black(put):
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


def test_colours_of_every_kind(put):
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL"}
    smooth = SMOOTH[:40, :50].copy()
    ycbcr = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    assert np.abs(decode_image(put("ybr.dcm", dicom(ycbcr, 8, **tags)), 3) - smooth.astype(int)).max() <= 3
    tags |= {"PlanarConfiguration": 1, "PhotometricInterpretation": "RGB"}
    planar = dicom(COLOUR, 8, **tags).replace(COLOUR.tobytes(), COLOUR.transpose(2, 0, 1).tobytes())
    assert np.array_equal(decode_image(put("planar.dcm", planar), 3), COLOUR)
    index, shades = EIGHT % 4, np.array([0, 100, 200, 255])
    for depth, table in ((8, bytes([0, 100, 200, 255])), (16, (shades * 257).astype("<u2").tobytes())):
        tags = {"PhotometricInterpretation": "PALETTE COLOR"}
        for colour in ("Red", "Green", "Blue"):
            tags[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, depth]
            tags[f"{colour}PaletteColorLookupTableData"] = table
        assert np.array_equal(decode_image(put("palette.dcm", dicom(index, 8, **tags)), 3)[..., 1], shades[index])


def test_bits_that_are_not_stored_do_not_count(put):
    """12 of 16: a signed number ends at the twelfth bit, and what lies above is an overlay."""
    signed = np.array([[-1, -5, 0, 5, 2047, -2048]], np.int16)
    twelve = (signed.view(np.uint16) & 0x0FFF).astype(np.uint16)
    expected = [[127, 127, 128, 128, 255, 0]]
    assert decode_image(put("a.dcm", dicom(twelve, 12, PixelRepresentation=1)), 1)[..., 0].tolist() == expected
    assert decode_image(put("b.dcm", dicom(TWELVE | 0x8000, 12)), 1).tolist() == (
        decode_image(put("c.dcm", dicom(TWELVE, 12)), 1).tolist()
    )
