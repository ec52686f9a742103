"""DICOM against values computed by hand: modality LUT, window, frames, colours."""

import io

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from src.data import decode
from src.data.decode import decode_image
from src.errors import UserError

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


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
