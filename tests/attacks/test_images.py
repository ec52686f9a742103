"""Any bytes end as the promised array or as one line: no warning, no crash, no memory that a small file cannot need."""

import io
import os
import re
import resource
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from src.config import REPOSITORY
from src.data.decode import decode_image
from src.errors import UserError
from tests.attacks.fuzzing import SEED, answer, attack, how_many
from tests.data.test_decode import dicom

RNG = np.random.default_rng(0)
COLOUR = np.kron(RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8), np.ones((6, 5, 1), np.uint8))
GREY16 = COLOUR[..., 0].astype(np.uint16) * 200


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def array(content, **options):
    buffer = io.BytesIO()
    np.save(buffer, content, **options)
    return buffer.getvalue()


def seeds():
    """Small sound files, {name: content}, one for each way through the decoders."""
    colour, grey = Image.fromarray(COLOUR), Image.fromarray(COLOUR[..., 0])
    alpha = Image.fromarray(np.dstack([COLOUR, COLOUR[..., :1]]))
    found = {
        "a.jpg": saved(colour, format="JPEG", exif=_turned()),
        "b.jpg": saved(grey, format="JPEG", progressive=True),
        "c.jpg": saved(colour.convert("CMYK"), format="JPEG"),
        "a.png": saved(colour, format="PNG", pnginfo=_text()),
        "b.png": saved(alpha, format="PNG"),
        "c.png": saved(colour.quantize(16), format="PNG"),
        "d.png": saved(Image.fromarray(GREY16), format="PNG"),
        "e.png": saved(Image.fromarray(COLOUR[..., 0] > 99), format="PNG"),
        "a.gif": saved(colour.quantize(16), format="GIF", save_all=True, append_images=[grey.convert("P")]),
        "a.webp": saved(colour, format="WEBP"),
        "b.webp": saved(alpha, format="WEBP", lossless=True),
        "a.bmp": saved(colour, format="BMP"),
        "b.bmp": saved(colour.quantize(16), format="BMP"),
        "a.npy": array(COLOUR),
        "b.npy": array(COLOUR.transpose(2, 0, 1).astype(np.float16)),
        "c.npy": array(np.array([[{}]]), allow_pickle=True),
        "a.dcm": dicom(GREY16, 16),
        "b.dcm": dicom(COLOUR[..., 0], 8, WindowCenter=100, WindowWidth=50),
        "c.dcm": dicom(COLOUR, 8, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB"),
        "d.dcm": dicom(np.stack([COLOUR[..., 0]] * 3), 8, NumberOfFrames=3),
        "a.ppm": saved(colour, format="PPM"),
        "a.tga": saved(colour, format="TGA"),
        "a.ico": saved(colour, format="ICO"),
        "a.j2k": saved(colour, format="JPEG2000"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        found[f"{compression}.tif"] = saved(colour, format="TIFF", compression=compression)
    found["grey16.tif"] = saved(Image.fromarray(GREY16), format="TIFF", compression="tiff_lzw")
    found["alpha.tif"] = saved(alpha, format="TIFF", compression="tiff_deflate")
    found["bits.tif"] = saved(Image.fromarray(COLOUR[..., 0] > 99), format="TIFF", compression="group4")
    found["pages.tif"] = saved(grey, format="TIFF", save_all=True, append_images=[grey, grey])
    return found


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _text():
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Comment", "x" * 100, zip=True)
    return text


SEEDS = seeds()
NUMBERS = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\xff\xff",
    b"\xff\xff",
    b"\0\1",
    b"\x80\0\0\0",
    b"~",
]


def _change(content, changes):
    content = bytearray(content)
    for kind, place, new in changes:
        place %= len(content) + 1
        if kind == "flip" and place < len(content):
            content[place] ^= 1 << len(new) % 8
        elif kind == "write":
            content[place : place + len(new)] = new
        elif kind == "insert":
            content[place:place] = new
        elif kind == "cut":
            del content[place : place + 1 + len(new) ** 2]
        elif kind == "end":
            del content[place + 1 :]
    return bytes(content)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "write", "write", "insert", "cut", "end"]),
        st.integers(0, 150) | st.integers(0, 4000),
        st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=4,
)
FILES = st.builds(
    lambda name, suffix, changes: (suffix or os.path.splitext(name)[1], _change(SEEDS[name], changes)),
    st.sampled_from(sorted(SEEDS)),
    st.sampled_from(["", "", "", "", ".jpg", ".npy", ".dcm"]),
    CHANGES,
) | st.tuples(st.sampled_from([".jpg", ".npy", ".dcm", ".tif"]), st.binary(max_size=200))  # fmt: skip


def check_file(folder, suffix, content, channels, target_size):
    path = folder / f"attacked{suffix}"
    path.write_bytes(content)
    pixels = answer(decode_image, str(path), channels, target_size)
    if pixels is None:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == channels
    assert min(pixels.shape) > 0
    assert pixels.dtype == np.uint8 or (suffix == ".npy" and pixels.dtype == np.float32)
    assert pixels.flags.c_contiguous
    assert np.isfinite(pixels).all()


ASKED = st.sampled_from([(3, None), (3, None), (1, None), (3, (4, 4)), (1, (5, 5)), (4, None), (6, None)])


# what was found to end otherwise
FOUND = []


# libjpeg and libtiff say this on stderr themselves, of files that are read all the same or get our line besides
SAID_BY_LIBRARIES = re.compile(
    "Corrupt JPEG data|Premature end of JPEG|Invalid SOS parameters|Inconsistent progression|Unsupported marker|JPEGLib"
    r"|\w*TIFF\w+: |tempfile.tif: |\w+Decode: |MissingRequired: |Warning: unknown JFIF|Unknown Adobe color"
)


def run_attack(folder, num_inputs):
    attack(lambda one: check_file(folder, *one[0], *one[1]), st.tuples(FILES, ASKED), num_inputs, FOUND)


@how_many(300)
def test_any_bytes_are_an_image_or_one_line(tmp_path, num_inputs):
    """In a process of its own, so that a crash of a decoder, or what it prints or takes, is seen."""
    code = f"""
        import resource, sys, types
        tests = types.ModuleType("tests")  # other packages bring one of this name
        tests.__path__ = [{str(REPOSITORY / "tests")!r}]
        sys.modules["tests"] = tests
        from pathlib import Path
        from tests.attacks.test_images import run_attack
        run_attack(Path({str(tmp_path)!r}), {num_inputs})
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
    done = run_python(code)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    told = [line for line in done.stderr.splitlines() if not SAID_BY_LIBRARIES.match(line)]
    assert told == []
    assert int(done.stdout.split()[-1]) < 1500


def run_python(code):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, cwd=REPOSITORY
    )
