"""Any bytes end as the promised array or as one line: no warning, no crash, no memory that a small file cannot need."""

import functools
import io
import os
import re
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from src.config.settings import REPOSITORY, Competition
from src.data.decode import decode_image
from src.errors import UserError
from tests.attacks.fuzzing import attack, attempt, how_many
from tests.data.test_dicom import dicom

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


def raw_dicom(tags, num_bytes=200):
    """A DICOM written byte by byte, as pydicom would refuse to write such tags."""
    tags = {"syntax": b"1.2.840.10008.1.2.1\0", **SOUND_TAGS, **tags}
    found = b"\0" * 128 + b"DICM" + _element(2, 0x10, b"UI", tags.pop("syntax"))
    for (number, kind), value in sorted(tags.items()):
        found += _element(0x28, number, kind, value)
    return found + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, num_bytes) + bytes(range(200))[:num_bytes]


def _element(group, number, kind, value):
    value = struct.pack("<H", value) if kind == b"US" else value
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


ROWS, COLUMNS, BITS, SAMPLES = (0x10, b"US"), (0x11, b"US"), (0x100, b"US"), (2, b"US")
FRAMES, CENTER, WIDTH = (8, b"IS"), (0x1050, b"DS"), (0x1051, b"DS")
INTERCEPT, SLOPE, COLOURS = (0x1052, b"DS"), (0x1053, b"DS"), (4, b"CS")
STORED, HIGH, SIGNED, PLANAR = (0x101, b"US"), (0x102, b"US"), (0x103, b"US"), (6, b"US")
SOUND_TAGS = {ROWS: 10, COLUMNS: 10, BITS: 16, STORED: 16, HIGH: 15, SIGNED: 0, SAMPLES: 1, COLOURS: b"MONOCHROME2 "}
NUMBERS_OF_TAGS = st.sampled_from([0, 1, 2, 3, 7, 8, 16, 32, 64, 255, 65535]) | st.integers(0, 65535)
TEXTS_OF_TAGS = st.sampled_from(
    [b"0 ", b"-0", b"1e999 ", b"-1e308", b"nan ", b"1e-320", b"1\\2 ", b"", b"100000000 ", b"-5", b"0.5 ", b"x ", b"1 "]
)
SYNTAXES = ["", ".1", ".2", ".5", ".1.99", ".4.50", ".4.57", ".4.70", ".4.80", ".4.90", ".4.201", ".9"]
TAGS = st.fixed_dictionaries(
    {},
    optional={tag: NUMBERS_OF_TAGS for tag in (ROWS, COLUMNS, BITS, STORED, HIGH, SIGNED, SAMPLES, PLANAR)}
    | {tag: TEXTS_OF_TAGS for tag in (FRAMES, CENTER, WIDTH, INTERCEPT, SLOPE)}
    | {COLOURS: st.sampled_from([b"MONOCHROME1 ", b"RGB ", b"YBR_FULL", b"YBR_ICT ", b"PALETTE COLOR ", b"", b"x "])}
    | {"syntax": st.sampled_from(SYNTAXES).map(lambda end: f"1.2.840.10008.1.2{end}".encode())},
)
DICOMS = st.builds(raw_dicom, TAGS, st.sampled_from([200, 200, 0, 1, 100]))


def raw_array(kind, order, shape, num_bytes):
    """A .npy whose header says what it likes."""
    header = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(range(200))[:num_bytes]


ARRAYS = st.builds(
    raw_array,
    st.sampled_from(
        ["'|u1'", "'<f8'", "'>f2'", "'<i8'", "'|b1'", "'|O'", "'<U9'", "'<c16'", "'|V9'", "'<M8[s]'", "'g'"]
    )
    | st.sampled_from(["[('a', '<f4')]", "('<f4', (2,))", "'<f16'", "'|S0'", "'x'", "3", "['|u1']", "'<u8'", "'<f4'"]),
    st.sampled_from(["True", "False", "False", "1", "None"]),
    st.lists(st.integers(0, 9) | st.sampled_from([-1, 0, 10**5, 10**12, 2**63, 10**30]), max_size=4).map(tuple)
    | st.sampled_from([(10, 5, 4), (3, 5, 5), (7, 7), "3", "(1.0,)", "(True, 9)", "()", "((3,),)"]),
    st.sampled_from([200, 147, 75, 49, 0]),
)


FILES = st.builds(
    lambda name, suffix, changes: (suffix or os.path.splitext(name)[1], _change(SEEDS[name], changes)),
    st.sampled_from(sorted(SEEDS)),
    st.sampled_from(["", "", "", "", ".jpg", ".npy", ".dcm"]),
    CHANGES,
) | st.tuples(st.sampled_from([".jpg", ".npy", ".dcm", ".tif"]), st.binary(max_size=200))
FILES = FILES | FILES | st.tuples(st.just(".dcm"), DICOMS) | st.tuples(st.just(".npy"), ARRAYS)


def check_file(folder, suffix, content, channels, target_size):
    path = folder / f"attacked{suffix}"
    path.write_bytes(content)
    pixels = attempt(decode_image, str(path), Competition(channels=channels), target_size)
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


# libjpeg and libtiff say this on stderr themselves, of files that are read all the same or get our line too
SAID_BY_LIBRARIES = re.compile(
    "Corrupt JPEG data|Premature end of JPEG|Invalid SOS parameters|Inconsistent progression|Unsupported marker"
    r"|Unknown Adobe color|tempfile.tif: |_?[A-Z]\w+: "  # libtiff begins with the name of its function
)


def run_attack(folder, num_inputs):
    attack(lambda one: check_file(folder, *one[0], *one[1]), st.tuples(FILES, ASKED), num_inputs, FOUND)


@how_many(300, 5000)
def test_any_bytes_are_an_image_or_one_line(tmp_path, num_inputs):
    """In a process of its own, so that a crash of a decoder, or what it prints or takes, is seen."""
    code = f"""
        from pathlib import Path
        from tests.attacks.test_images import run_attack
        run_attack(Path({str(tmp_path)!r}), {num_inputs})
    """
    done = run_python(code)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    printed = [line for line in done.stderr.splitlines() if not SAID_BY_LIBRARIES.match(line)]
    assert printed == []


def run_python(code):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, cwd=REPOSITORY
    )


def png(width, height, chunks=(), rows=b""):
    """A PNG of grey pixels that says what it likes of its size."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", rows or zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    found = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        found += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return found


def tiff(width, height, rows=b"", compression=8, next_page=0, **tags):
    """A TIFF of one grey strip; next_page is where it says that another one begins."""
    entries = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: height, 279: len(rows)}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    found = struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows + struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        found += struct.pack("<HHII", tag, 4, 1, value)
    return found + struct.pack("<I", next_page)


@functools.cache
def deflated(num_bytes):
    packer, part = zlib.compressobj(9), bytes(10**6)
    return b"".join(packer.compress(part) for _ in range(num_bytes // 10**6)) + packer.flush()


def many_pages(number):
    """A TIFF of so many pages, of one pixel each."""
    page = tiff(1, 1, b"\0", compression=1)[9:]
    found, size = bytearray(b"II*\0\x0a\0\0\0\0\0"), len(page)
    for one in range(number):
        found += page[:-4] + struct.pack("<I", len(found) + size if one < number - 1 else 0)
    return bytes(found)


BOMBS = {
    "size.png": lambda: png(2**31 - 1, 2**31 - 1),
    "wide.png": lambda: png(2**31 - 1, 1),
    "pixels.png": lambda: png(60_000, 60_000, rows=deflated(300_000_000)),
    "text.png": lambda: png(10, 10, [(b"zTXt", b"Comment\0\0" + deflated(300_000_000))]),
    "texts.png": lambda: png(10, 10, [(b"zTXt", b"Comment\0\0" + deflated(1_000_000))] * 900),
    "profile.png": lambda: png(10, 10, [(b"iCCP", b"a\0\0" + deflated(300_000_000))]),
    "more.png": lambda: png(10, 10, rows=deflated(300_000_000)),
    "size.tif": lambda: tiff(2**31 - 1, 2**31 - 1),
    "more.tif": lambda: tiff(10, 10, deflated(300_000_000)),
    "tile.tif": lambda: tiff(10, 10, deflated(1_000_000), t322=2**24, t323=2**24, t324=8, t325=1000),
    "samples.tif": lambda: tiff(10_000, 10_000, deflated(1_000_000), t277=60_000),
    "strip.tif": lambda: tiff(10, 10, deflated(1_000_000), t279=2**32 - 1),
    "endless.tif": lambda: tiff(1, 1, b"\0" * 8, compression=1, next_page=16),
    "pages.tif": lambda: many_pages(20_000),
    "size.bmp": lambda: (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**31 - 1, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "size.gif": lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\1\0\0;",
    "size.jpg": lambda: SEEDS["a.jpg"].replace(struct.pack(">HH", 18, 20), b"\xff\xff\xff\xff"),
    "size.webp": lambda: b"RIFF\x24\0\0\0WEBPVP8L\x18\0\0\0\x2f\xff\xff\xff\x0f" + bytes(20),
    "size.j2k": lambda: SEEDS["a.j2k"].replace(struct.pack(">II", 20, 18), b"\x7f\xff\xff\xff" * 2),
    "shape.npy": lambda: raw_array("'|u1'", False, (10**12,), 10),
    "shape3.npy": lambda: raw_array("'<f8'", False, (10**5, 10**5, 3), 10),
    "none.npy": lambda: raw_array("'|V0'", False, (10**9, 10**9), 0),
    "header.npy": lambda: raw_array("'|u1'", False, "(" * 5000 + ")" * 5000, 0),
    "long.npy": lambda: raw_array("'|u1'", False, "(" + "1," * 30_000 + ")", 0),
    "size.dcm": lambda: raw_dicom({ROWS: 65535, COLUMNS: 65535}),
    "frames.dcm": lambda: raw_dicom({FRAMES: b"2147483647"}),
    "samples.dcm": lambda: raw_dicom({ROWS: 14_000, COLUMNS: 14_000, BITS: 64, SAMPLES: 65535}),
    "rle.dcm": lambda: raw_dicom({ROWS: 14_000, COLUMNS: 14_000, "syntax": b"1.2.840.10008.1.2.5\0"}),
    "deflated.dcm": lambda: raw_dicom({"syntax": b"1.2.840.10008.1.2.1.99"})[:162] + deflated(300_000_000)[2:],
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
def test_small_files_take_little_memory_and_time(tmp_path):
    """Each promises, or unpacks to, gigabytes; a tenth of that is enough for all of them."""
    for name, build in BOMBS.items():
        (tmp_path / name).write_bytes(build())
        assert (tmp_path / name).stat().st_size < 6_000_000
    code = f"""
        import re, time
        from pathlib import Path
        from src.config.settings import Competition
        from src.data.decode import decode_image
        from src.errors import UserError
        for name in {list(BOMBS)}:
            began = time.process_time()
            for channels in (3, 1, 6):
                try:
                    found = decode_image(str(Path({str(tmp_path)!r}, name)), Competition(channels=channels)).shape
                except UserError as error:
                    found = error
            took, status = time.process_time() - began, Path("/proc/self/status").read_text()
            print(name, int(re.search("VmHWM: *\t *([0-9]+)", status)[1]) // 1024, took, found, sep="\t")
    """
    done = run_python(code)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(BOMBS)
    assert [line for line in lines if float(line[1]) > 350 or float(line[2]) > 10] == []


def refusal(path):
    with pytest.raises(UserError) as caught:
        decode_image(str(path), Competition())
    return str(caught.value).removeprefix(str(path))


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "link.png", "folder.png"):
        assert refusal(tmp_path / name) == ": cannot be read (not a regular file)"


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(10**12)  # a hole: it takes no room
    assert refusal(tmp_path / "a.png") == ": is over 1 GB; scale it down beforehand"


def test_an_image_that_is_a_program_is_not_run(tmp_path):
    """Pillow hands EPS to Ghostscript."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert refusal(path).startswith(": cannot be decoded as an image")
