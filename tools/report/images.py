"""The sections of a page that show images: pictures.py makes them as a program of its own, beside the plots."""

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from src.checkpointing.run_folder import RunFolder
from src.errors import UserError
from src.files import load_json, save_json
from src.report import tools_environment
from tools.report.elements import Section, Shown, Table, plural, share, short

_SECONDS = 20  # after the plots are drawn, that the program may still take


class Pictures:
    """The program that makes a run's images, started first, since it takes longest, and read when all else is done.

    What it made is kept in the run's folder, for infer.py's page after train.py's. folder: for the worst images as PNG
    files, which are made anew; None: no files.
    """

    def __init__(self, run_folder, folder=None):
        self.folder, self._program, self._run = folder, None, RunFolder(run_folder)
        self._made_of = _read_times(self._run)
        self._found = None if folder else _recall(self._run.report_images, self._made_of)
        if self._found is not None:
            return
        self._place = tempfile.TemporaryDirectory()
        self._file = Path(self._place.name) / "pictures.json"
        words = [str(run_folder), str(self._file), *([str(folder)] if folder else [])]
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tools.report.pictures", *words], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=tools_environment(),
        )  # fmt: skip

    def read(self):
        """Return what it has found, {} where it failed; one that takes too long is ended, and what it has is taken."""
        if self._found is not None:
            return self._found
        with suppress(subprocess.TimeoutExpired):
            self._program.wait(_SECONDS)
        self._program.kill()
        self._program.wait()
        try:
            found = load_json(self._file) if self._file.is_file() else {}
        except UserError:
            return {}
        if found.get("is_complete"):
            with suppress(OSError):  # a run's folder may be read-only
                save_json(self._run.report_images, found | {"made_of": self._made_of})
        return found

    def close(self):
        """End the program where it still runs, and delete its file."""
        if self._program is not None:
            self._program.kill()
            self._program.wait()
            self._place.cleanup()


def _read_times(run):
    """Return {name: time of its last change} of all that a run's images are made of."""
    weights = [path for fold in run.started_folds() for path in fold.path.glob("*.safetensors")]
    paths = [run.config, run.folds, run.oof, *sorted(weights), Path(__file__).with_name("pictures.py")]
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in paths if path.is_file()}


def _recall(path, made_of):
    """Return what an earlier page has made of the same files, else None."""
    try:
        found = load_json(path)
    except (OSError, UserError):
        return None
    return found if isinstance(found, dict) and found.get("made_of") == made_of else None


def build_errors(found):
    """Return the Section of the worst images."""
    if not found.get("orders"):
        return None
    section = Section("errors", "Errors", facts={"confidently_wrong": found.get("confidently_wrong", {})})
    if wrong := found.get("confidently_wrong"):
        section.sentences.append(
            f"{plural(wrong['wrong'], 'row')} are wrong, {wrong['rows']:,} of them with more than 95 % confidence."
        )
    if found.get("has_saliency"):
        section.has_switch = True
        section.sentences.append(
            "The colours are Grad-CAM's map of what made the fold's network say so: yellow counts most. The images are "
            "as the network sees them."
        )
    has_images = any(row["source"] for order in found["orders"] for row in order["rows"])
    if not has_images:
        why = f": {found['note']}" if found.get("note") else ""
        section.sentences.append(f"The images are not shown{why}.")
    for order in found["orders"]:
        shown = [
            Shown(row["id"], [*row["lines"], f"fold {row['fold']}"], row["source"], row["overlay"], row["is_small"])
            for row in order["rows"]
        ]
        section.images.append((order["title"], order["sentence"], shown))
    return section


def build_seen(found):
    """Return the Section of what training saw, and of what augmentation does to predictions."""
    seen, effect = found.get("seen"), found.get("augmentation")
    if not seen and not effect:
        return None
    section = Section("augmentation", "What training saw")
    if effect:
        section.facts = {"augmentation": effect}
        changed = f"{effect['flips']} of {plural(effect['images'], 'validation image')} get another label than plain"
        moved = f"predictions move by {short(effect['change'])} on average"
        section.sentences += [
            f"Augmented as in training, {changed} ({share(effect['flips'] / effect['images'])}); {moved}.",
            "Many changes say that augmentation destroys what tells classes apart; none, that it could be stronger.",
        ]
        if effect["pairs"]:
            rows = [[one["plain"], one["augmented"], one["images"]] for one in effect["pairs"]]
            title = "Which class augmentation turns into which"
            section.tables.append(Table(["plain", "augmented", "images"], rows, title, is_text=(1,)))
        if effect["transforms"]:
            rows = [[one["transform"], one["flips"], short(one["change"])] for one in effect["transforms"]]
            title = "Each transform alone: labels that it changes, and how far predictions move"
            section.tables.append(Table(["transform", "changed", "moves by"], rows, title, is_open=False))
    if seen:
        shown = [
            Shown(one["heading"], [one["caption"]], one["source"], None, one["is_small"]) for one in seen["images"]
        ]
        lines = "; ".join(seen["transforms"])
        text = "First as they are, then as three epochs see them."
        section.images.append(
            ("Training images", f"{text} {lines}" if lines else f"{text} Nothing is augmented.", shown)
        )
    return section
