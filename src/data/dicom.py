"""The bytes of a DICOM file -> 8-bit pixels: modality LUT, then the first VOI table or window."""

import io

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, pixel_array

from src.data.decode import check_size
from src.errors import UserError

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax that pydicom unpacks whole, whatever its size


def read_dicom(path, data):
    """Return (H, W) or (H, W, 3) uint8; of several frames the middle one, MONOCHROME1 inverted.

    Without a VOI table or window the image's own minimum to maximum become 0 to 255.
    """
    if _DEFLATED in data[:2000]:
        raise UserError(f"{path}: is deflated DICOM, which is not read; save it with another transfer syntax")
    dicom = pydicom.dcmread(io.BytesIO(data))
    check_size(path, dicom.Rows, dicom.Columns)
    pixels = pixel_array(dicom, index=int(dicom.get("NumberOfFrames") or 1) // 2)
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dicom)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    pixels, low, high = _apply_window(apply_modality_lut(pixels, dicom), dicom)
    scaled = pixels.astype(np.float64)
    scaled -= low
    scaled *= 255 / max(high - low, 1e-9)
    if not np.isfinite(scaled).all():
        raise UserError(f"{path}: {np.sum(~np.isfinite(scaled))} of {scaled.size} values are nan or infinite")
    pixels = np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)
    return 255 - pixels if dicom.PhotometricInterpretation == "MONOCHROME1" else pixels


def _apply_window(pixels, dicom):
    """Return (pixels after the VOI table or window, the values that become black and white)."""
    if dicom.get("VOILUTSequence"):
        high = 2 ** dicom.VOILUTSequence[0].LUTDescriptor[2] - 1
        return apply_voi(np.rint(pixels).astype(np.int64), dicom), 0, high
    if None not in (dicom.get("WindowCenter"), dicom.get("WindowWidth")):
        low, high = apply_windowing(np.array([-1e6, 1e6]), dicom)  # what lies far outside becomes the range's ends
        return apply_windowing(pixels, dicom), low, high
    return pixels, float(pixels.min()), float(pixels.max())
