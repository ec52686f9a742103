"""One DICOM file -> grey or RGB pixels of 8 bits: its LUTs, window, padding and frames."""

import io

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian


def decode_dicom(data, check_size):
    """Return (H, W) or (H, W, 3) uint8: modality LUT, then the first VOI table or window, else the image's own range.

    Of several frames the middle one is taken; MONOCHROME1 is inverted. Padding is no image: black, and left out of the
    range. Tags that are empty or cannot be used count as absent; files need no preamble. check_size(height, width) may
    refuse an image before its pixels are decoded.
    """
    if b"1.2.840.10008.1.2.1.99" in data[:2000]:  # which pydicom unpacks whole, whatever its size
        raise ValueError("is deflated DICOM, which is not read; save it with another transfer syntax")
    dicom = pydicom.dcmread(io.BytesIO(data), force=True)
    if "Rows" not in dicom:
        raise ValueError("no DICOM image")
    check_size(dicom.Rows, dicom.Columns)
    if "TransferSyntaxUID" not in dicom.file_meta:
        is_implicit, _ = dicom.original_encoding
        dicom.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    stored = pixel_array(dicom, index=int(dicom.get("NumberOfFrames") or 1) // 2)
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        stored, dicom.BitsStored = apply_color_lut(stored, dicom), 16
    if stored.ndim == 3:
        return stored if stored.dtype == np.uint8 else (stored >> (dicom.BitsStored - 8)).astype(np.uint8)
    has_window, is_padding = _complete_tags(dicom), _find_padding(dicom, stored)
    pixels = apply_modality_lut(stored, dicom)
    if dicom.get("VOILUTSequence"):
        low, high = 0, 2 ** dicom.VOILUTSequence[0].LUTDescriptor[2] - 1
        pixels = apply_voi(np.rint(pixels).astype(np.int64), dicom)
    elif has_window:
        low, high = apply_windowing(np.array([-1e6, 1e6]), dicom)  # what lies far outside becomes the range's ends
        pixels = apply_windowing(pixels, dicom)
    else:
        shown = pixels if is_padding.all() else pixels[~is_padding]
        low, high = float(shown.min()), float(shown.max())
    scaled = (pixels.astype(np.float64) - low) * (255 / (high - low or 1e-9))  # below 0 by a negative rescale slope
    if not np.isfinite(scaled).all():
        raise ValueError("values are nan or infinite")
    pixels = np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)
    pixels = 255 - pixels if dicom.PhotometricInterpretation == "MONOCHROME1" else pixels
    return np.where(is_padding, np.uint8(0), pixels)


def _complete_tags(dicom):
    """Complete the rescale or remove it, keep the first window that can be used; return whether there is one."""
    slope = [one for one in _read_numbers(dicom, "RescaleSlope")[:1] if np.isfinite(one) and one]
    intercept = [one for one in _read_numbers(dicom, "RescaleIntercept")[:1] if np.isfinite(one)]
    for name, value, default in (("RescaleSlope", slope, 1), ("RescaleIntercept", intercept, 0)):
        if slope or intercept:
            setattr(dicom, name, *(value or [default]))
        elif name in dicom:
            del dicom[name]
    if dicom.get("VOILUTFunction") not in ("LINEAR_EXACT", "SIGMOID"):
        dicom.VOILUTFunction = "LINEAR"
    narrowest = 1 if dicom.VOILUTFunction == "LINEAR" else 1e-9
    centers, widths = _read_numbers(dicom, "WindowCenter"), _read_numbers(dicom, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        if width >= narrowest and np.isfinite(center):
            dicom.WindowCenter, dicom.WindowWidth = center, width
            return True
    return False


def _read_numbers(dicom, name):
    """Return a tag's numbers, nan where one is none; of an empty or unreadable tag []."""
    try:
        return np.atleast_1d(np.array(dicom.get(name), dtype=np.float64)).tolist()
    except (TypeError, ValueError):
        return []


def _find_padding(dicom, stored):
    """Return (H, W) bool: the pixels whose value stands for no image, as said by PixelPaddingValue."""
    first = _read_numbers(dicom, "PixelPaddingValue")
    ends = first + _read_numbers(dicom, "PixelPaddingRangeLimit")
    if not np.isfinite(first).any() or stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, dtype=bool)
    ends = np.array([one for one in ends if np.isfinite(one)], np.int64).astype(stored.dtype)  # 63536 may mean -2000
    return (stored >= ends.min()) & (stored <= ends.max())
