"""Which images of a table cannot be decoded, found out before training."""

from functools import partial

from src.data.decode import decode_image
from src.data.parallel import map_images
from src.errors import UserError


def find_unreadable(table, channels):
    """Decode every image once; return [(row, why)] of those that cannot be.

    Args:
        table: has .paths, (N,) str.
        channels: as in `decode.decode_image`.
    """
    reasons = map_images(partial(_reason, channels=channels), table.paths, "decoding")
    return [(row, reason) for row, reason in enumerate(reasons) if reason]


def _reason(path, channels):
    try:
        decode_image(path, channels)
    except UserError as error:
        return str(error)
    return ""
