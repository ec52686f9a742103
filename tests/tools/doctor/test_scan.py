"""The scan: every number of an image by hand, equal digests for equal pixels, reasons for what cannot be read."""

import io

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from src.competition.image_files import Paths
from src.config.settings import Competition
from src.errors import UserError
from tests.http_server import Server
from tools.doctor.scan import scan_images


def scan_of(tmp_path, files, channels=3, **settings):
    for name, content in files.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".npy"):
            np.save(path, content)
        else:
            Image.fromarray(content).save(path)
    return scan_images(Paths.of(str(tmp_path / name) for name in files), Competition(channels=channels, **settings))


def encode(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


RNG = np.random.default_rng(0)
SMOOTH = cv2.resize(RNG.integers(0, 255, (6, 6, 3), dtype=np.uint8), (90, 60), interpolation=cv2.INTER_CUBIC)


def test_the_numbers_of_an_image(tmp_path):
    stripes = np.zeros((40, 20), np.uint8)
    stripes[:, ::2] = 100
    scan = scan_of(tmp_path, {"a.png": stripes}, channels=1)
    assert len(scan) == 1
    assert scan.is_read.tolist() == [True]
    assert (scan.heights[0], scan.widths[0]) == (40, 20)
    assert (scan.lows[0], scan.highs[0], scan.means[0], scan.stds[0]) == (0, 100, 50, 50)
    assert scan.sharpness[0] == 100
    assert scan.kinds.tolist() == ["PNG L"]
    assert scan.is_uint8.tolist() == [True]
    assert scan.num_bytes[0] == (tmp_path / "a.png").stat().st_size
    assert scan.modified[0] == pytest.approx((tmp_path / "a.png").stat().st_mtime, abs=1e-6)
    assert scan.reasons == {}


def test_the_hash_is_imagehash_of_the_thumbnail(tmp_path):
    scan = scan_of(tmp_path, {"a.png": SMOOTH})
    expected = imagehash.phash(Image.fromarray(scan.thumbnails[0]))
    assert f"{int(scan.hashes[0]):016x}" == str(expected)
    grey = cv2.resize(SMOOTH, (32, 32), interpolation=cv2.INTER_AREA).mean(axis=2)
    assert np.abs(scan.thumbnails[0] - grey).max() <= 1


def test_digests_tell_pixels_not_files(tmp_path):
    other = SMOOTH.copy()
    other[0, 0, 0] ^= 1
    scan = scan_of(
        tmp_path,
        {
            "a.png": SMOOTH,
            "b.png": encode(SMOOTH, "PNG", compress_level=1),
            "c.png": other,
            "d.png": np.ascontiguousarray(SMOOTH.reshape(90, 60, 3)),
        },
    )
    assert scan.num_bytes[0] != scan.num_bytes[1]
    assert scan.digests[0] == scan.digests[1]
    assert len(set(scan.digests.tolist())) == 3


def test_what_cannot_be_read_has_a_reason_and_zeros(tmp_path):
    whole = encode(SMOOTH, "JPEG")
    files = {"empty.jpg": b"", "cut.jpg": whole[: len(whole) // 2], "text.png": b"hello", "whole.jpg": whole}
    scan = scan_of(tmp_path, files)
    assert scan.is_read.tolist() == [False, False, False, True]
    assert sorted(scan.reasons) == [0, 1, 2]
    assert scan.reasons[0] == "cannot be decoded as an image (0 bytes)"
    assert scan.heights[:3].tolist() == [0, 0, 0]
    assert scan.num_bytes[1] == len(whole) // 2


def test_a_missing_file_is_no_crash(tmp_path):
    scan = scan_images(Paths.of([str(tmp_path / "none.png")]), Competition())
    assert scan.reasons == {0: "cannot be read (No such file or directory)"}


def test_arrays_of_any_range_and_channels(tmp_path):
    array = RNG.normal(size=(6, 40, 30)).astype(np.float16) * 1000
    scan = scan_of(tmp_path, {"a.npy": array}, channels=6)
    assert (scan.heights[0], scan.widths[0]) == (40, 30)
    assert scan.kinds.tolist() == ["npy float16, 3 axes"]
    assert scan.is_uint8.tolist() == [False]
    assert scan.lows[0] == array.min()
    assert scan.highs[0] == array.max()
    assert scan.stds[0] == pytest.approx(array.astype(float).std(), rel=0.05)
    assert scan.thumbnails[0].std() > 1


def test_encoding_anew_gives_back_the_size_of_the_same_encoder(tmp_path):
    big = cv2.resize(SMOOTH, (400, 300))
    sizes = {}
    for quality in (60, 95):
        content = cv2.imencode(".jpg", big[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        scan = scan_of(tmp_path, {f"{quality}.jpg": content})
        sizes[quality] = scan.num_bytes[0] / scan.encoded[0]
    assert sizes[95] == pytest.approx(1, abs=0.1)
    assert sizes[60] < 0.8


def test_elsewhere_the_size_is_of_what_was_read_and_a_server_that_is_down_ends_the_scan(quick):
    png = encode(SMOOTH, "PNG")
    with Server({"a.png": png, "b.png": b"odd", "c.png": b""}) as server:
        paths = Paths.of(f"{server.url}/{name}.png" for name in "abcd")
        scan = scan_images(paths, Competition())
        assert scan.num_bytes.tolist() == [len(png), 3, 0, -1]
        assert scan.modified.tolist() == [0, 0, 0, 0]
        assert sorted(scan.reasons) == [1, 2, 3]
        server.faults = {"b.png": [500] * 5}
        with pytest.raises(UserError, match="cannot be read in 5 tries"):
            scan_images(paths, Competition())
