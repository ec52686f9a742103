"""Which images of a table cannot be decoded, found out before training."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tqdm import tqdm

from src.data.decode import decode_image
from src.errors import UserError


def find_unreadable(table, channels):
    """Decode every image once; return [(row, why)] of those that cannot be.

    Args:
        table: has .paths, (N,) str.
        channels: as in `decode.decode_image`.
    """
    with ThreadPoolExecutor(4) as pool:  # decoding lets other threads run
        reasons = pool.map(partial(_reason, channels=channels), table.paths.tolist())
        bar = tqdm(reasons, total=len(table), desc="decoding", unit=" images", leave=False, disable=None)
        return [(row, reason) for row, reason in enumerate(bar) if reason]


def _reason(path, channels):
    try:
        decode_image(path, channels)
    except UserError as error:
        return str(error)
    return ""
