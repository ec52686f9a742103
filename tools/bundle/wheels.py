"""What Kaggle's image lacks of what infer.py needs, as wheels; the image's packages are in kaggle_image.txt."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from src.config.settings import REPOSITORY
from src.errors import UserError, listing
from src.files import save_text

_IMAGE = Path(__file__).with_name("kaggle_image.txt")
_NOT_NEEDED = ("wandb", "matplotlib", "imagehash", "jinja2")  # of requirements.txt, by infer.py
_ENGINES = dict.fromkeys(("onnxruntime", "auto"), ("onnx", "onnxruntime"))  # what infer.engine imports
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 31, 28, 27, 24, 17, 12)]
_PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64"]


def read_image():
    """Return (Python's version, {name: version, or None where it is not known}) of the image."""
    lines = (line.partition("#")[0].strip() for line in _IMAGE.read_text(encoding="utf-8").splitlines())
    pairs = [line.partition("==")[::2] for line in lines if line]
    found = {canonicalize_name(name): version or None for name, version in pairs}
    return found.pop("python"), found


def list_requirements(engines=()):
    """Return what infer.py needs, [Requirement]; engines: values of infer.engine."""
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.partition("#")[0].strip() for line in lines]
    found = [one for one in map(Requirement, filter(None, lines)) if one.name.lower() not in _NOT_NEEDED]
    known = {canonicalize_name(one.name) for one in found}
    wanted = [name for engine in engines for name in _ENGINES.get(engine, ())]
    return found + [Requirement(name) for name in wanted if name not in known]


def list_missing(requirements, image):
    """Return those that the image, {name: version}, does not hold, or in a version that is not known or too old."""
    versions = {one.name: image.get(canonicalize_name(one.name)) for one in requirements}
    return [one for one in requirements if versions[one.name] is None or versions[one.name] not in one.specifier]


def collect_wheels(source, missing, image, python, place):
    """Fill a new folder with wheels of the missing requirements and of what these need; return a line about it.

    source: auto (pip downloads them), none, or a folder of wheels.
    """
    place.mkdir()
    save_text(place / "README.txt", "What infer.sh installs where it is missing, beside what is there.\n")
    if not missing or source == "none":
        lacks = f"Kaggle's image lacks {listing(missing, 20)}" if missing else "Kaggle's image lacks nothing"
        return f"wheels: none, {lacks}"
    if source == "auto":
        download(missing, image, python, place)
    elif not Path(source).is_dir():
        raise UserError(f"wheels={source}: no such folder; write wheels=auto, wheels=none or a folder of wheels")
    else:
        for path in sorted(Path(source).glob("*.whl")):
            shutil.copyfile(path, place / path.name)
    found = {}
    for path in sorted(place.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(path.name)
        if source == "auto" and image.get(name) is not None and str(version) == image[name]:
            path.unlink()  # which pip needed to find versions that suit each other
        else:
            found[name] = f"{name} {version}"
    if lacking := [str(one) for one in missing if canonicalize_name(one.name) not in found]:
        raise UserError(f"wheels={source}: holds no wheel of {listing(lacking)}; pip download them into it, or auto")
    return f"wheels: {listing(found.values(), 20)}"


def download(missing, image, python, place):
    """Have pip download wheels for the image's Python that suit what the image holds."""
    lacking = {canonicalize_name(one.name) for one in missing}
    pins = [f"{name}=={version}" for name, version in image.items() if version and name not in lacking]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "image.txt").write_text("\n".join(pins), encoding="utf-8")
        how = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--quiet"]
        how += ["--disable-pip-version-check", "--constraint", f"{folder}/image.txt", "--dest", str(place)]
        how += [word for one in _PLATFORMS for word in ("--platform", one)]
        command = [sys.executable, "-m", "pip", "download", *how, *map(str, missing)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        errors = re.findall(r"^ERROR: (.*)", done.stderr, re.MULTILINE) or done.stderr.strip().splitlines()
        reason = errors[0][:200] if errors else "no reason given"
        advice = "connect to PyPI and repeat, write wheels=FOLDER, or wheels=none and add them on Kaggle"
        raise UserError(f"pip download of {listing(missing)}: {reason}; {advice}")
