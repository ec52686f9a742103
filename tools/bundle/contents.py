"""What a bundle holds of the runs: their settings without this machine's paths, weights, blends, and the code."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from src.checkpointing.run_folder import RunFolder
from src.competition.paths import list_patterns, locate
from src.config.help import as_word
from src.config.load import config_yaml, load_saved_config
from src.config.settings import REPOSITORY, settings, value_of
from src.errors import UserError, listing
from src.files import load_json, save_text
from src.remote import is_url
from src.report import tools_environment

# of a RunFolder, where they are there; oof: infer.sh may be given infer.calibration
_FILES = ("folds", "scores", "execution", "pixel_stats", "metadata", "soup", "oof")
_ROWS = 256  # of a fold, at most, on which 16-bit weights are compared


class BundledRun:
    """A run as it enters a bundle.

    Args:
        path: its folder.
        words: key=value changes that all inferences of the bundle keep.

    Raises: UserError where it is no run, no fold of it is finished, or weights are not there.
    """

    def __init__(self, path, words):
        self.path, self.folder = path, RunFolder(path)
        self.config, self.name = load_saved_config(path, words), Path(path).resolve().name
        self.folds = self.folder.finished_folds()
        if self.folder.fold("all").is_finished():
            self.folds.append(self.folder.fold("all"))
        if not self.folds:
            raise UserError(f"{path}: no fold is finished; finish one with the command that trained it, then bundle")
        self.weights = [fold.weights(self.config.train.select) for fold in self.folds]
        if missing := [str(one) for one in self.weights if not one.is_file()]:
            raise UserError(f"{listing(missing, 3)}: no such file; train that fold again, or bring the weights back")

    def write(self, place, tables, is_half):
        """Write what infer.py needs into the folder `place`; tables: {setting: name in the bundle} of copied tables."""
        place.mkdir(parents=True)
        save_text(place / "config.yaml", config_yaml(without_paths(self.config, self.name, tables)))
        for source in (getattr(self.folder, name) for name in _FILES):
            if source.is_file():
                shutil.copyfile(source, place / source.name)
        for fold, weights in zip(self.folds, self.weights, strict=True):
            (place / fold.path.name).mkdir()
            shutil.copyfile(fold.meta, place / fold.path.name / fold.meta.name)
            (halve if is_half else shutil.copyfile)(weights, place / fold.path.name / weights.name)


def halve(source, target):
    """Write weights in 16 bits; vectors (norms, biases, pixel statistics) and what fp16 cannot hold stay."""
    import torch

    from src.checkpointing.serialization import read_weights, save_weights

    def half(one):
        is_halved = one.dtype == torch.float32 and one.ndim > 1 and one.half().isfinite().all()
        return one.half() if is_halved else one

    save_weights(target, {name: half(one).contiguous() for name, one in read_weights(source).items()})


def measure_half(run, place):
    """Return (largest difference of two runs' predictions, rows) on validation rows: the run, and the one written."""
    import numpy as np

    from src.checkpointing.serialization import load_network, load_weights
    from src.inference.reopened_run import ReopenedRun
    from src.model.losses import probabilities
    from src.training.engine import predict

    reopened, largest, count = ReopenedRun(run.config, run.path), 0.0, 0
    for fold in reopened.folds:
        networks = [load_network(reopened.config, fold) for _ in range(2)]
        load_weights(place / fold.path.name / fold.weights(run.config.train.select).name, networks[1])
        networks = [one.place(reopened.device, run.config.train.channels_last).eval() for one in networks]
        loader = reopened.build_loader(np.flatnonzero(reopened.table.folds == fold.number)[:_ROWS])
        to_probs = lambda logits: probabilities(logits, run.config.competition.task)  # noqa: E731
        index, probs = predict(networks, loader, to_probs, reopened.config.precision)
        loader.close()
        largest, count = max(largest, float(np.abs(probs[0] - probs[1]).max())), count + len(index)
    return largest, count


def without_paths(config, name, tables):
    """Return the config with the competition's paths relative to its root, and no other path of this machine."""
    competition, root = config.competition, os.path.abspath(os.path.expanduser(config.competition.root))
    found = {"root": list_roots(competition.root, "/")[0], "solution": None}
    for key in ("train_table", "test_table", "sample_submission"):
        if getattr(competition, key):
            found[key] = tables.get(key) or _relative(getattr(competition, key), root) or "train.csv"
    for key in ("train_image", "test_image", "images"):
        if patterns := getattr(competition, key):
            relative = [_relative(one, root) for one in list_patterns(patterns)]
            if None in relative and key != "train_image":
                raise UserError(
                    f"competition.{key}={as_word(patterns)}: lies outside competition.root={competition.root}, and a "
                    "bundle reads one folder; move the images below it"
                )
            found[key] = relative[0] if isinstance(patterns, str) else relative
            if None in relative:
                found[key] = "train/{id}"
    folds = "auto" if config.folds.endswith(".csv") else config.folds
    config = replace(
        config, name=name, output_dir="outputs", cache_dir=None, folds=folds, tracking=[], overwrite=False,
        competition=replace(competition, **found), model=replace(config.model, weights=None),
        train=replace(config.train, teacher=None, pseudo=None), infer=replace(config.infer, output=None),
    )  # fmt: skip
    for key in settings():
        if isinstance(value_of(config, key), str) and os.path.isabs(value_of(config, key)):
            print(f"{key}={value_of(config, key)}: a path of this machine, which the bundle holds")
    return config


def list_roots(root, output):
    """Return competition.root as a bundle in the folder `output` may hold it: relative to where one is, or to itself.

    There is no second one where the way to it would be the whole absolute path.
    """
    root, output = os.path.expanduser(root), os.path.realpath(output)
    found = [os.path.basename(root.rstrip("/")) if os.path.isabs(root) else root]
    root = os.path.realpath(root)
    return found + ([os.path.relpath(root, output)] if os.path.commonpath([root, output]) != "/" else [])


def _relative(path, root):
    """Return a path of a competition file relative to its root, or None where it lies outside."""
    if not os.path.isabs(os.path.expanduser(path)):
        return path if not os.path.normpath(path).startswith("..") else None
    found = os.path.relpath(os.path.expanduser(path), root)
    return None if found.startswith("..") else found


def find_tables(competition):
    """Return {setting: path} of the test table and sample outside competition.root: copies that adopt wrote."""
    root = os.path.abspath(os.path.expanduser(competition.root))
    keys = [key for key in ("test_table", "sample_submission") if getattr(competition, key)]
    return {
        key: locate(competition.root, getattr(competition, key))
        for key in keys
        if _relative(getattr(competition, key), root) is None
    }


def load_runs(paths, words):
    """Return (BundledRuns, blend): blend holds the weights of several runs, by the blend's folder or decided now."""
    for path in paths:
        if not Path(path).is_dir():
            raise UserError(f"{path}: no such folder; write the folder of a run, for example outputs/demo_default")
    blends = [path for path in paths if RunFolder(path).made_by.is_file()]
    if blends and len(paths) > 1:
        raise UserError(f"{blends[0]}: is a blend, which comes alone; bundle it, or its runs and {paths[-1]}")
    if blends:
        blend = read_blend(blends[0])
        return [BundledRun(path, words) for path in blend.pop("paths")], blend
    runs = [BundledRun(path, words) for path in paths]
    check_alike(runs)
    check_is_near(runs[0].config.competition)
    if len(runs) == 1:
        return runs, None
    with tempfile.TemporaryDirectory() as folder:
        roots = [word for word in words if word.startswith("competition.root=")]
        command = [sys.executable, "-m", "tools.blend", *paths, "name=blend", f"output_dir={folder}", *roots]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=tools_environment())
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("error: ")
            raise UserError(f"tools.blend: {reason}")
        blend = read_blend(f"{folder}/blend")
    kept = {os.path.realpath(path) for path in blend.pop("paths")}
    return [one for one in runs if os.path.realpath(one.path) in kept], blend


def check_is_near(competition):
    """Check that no file of the competition is read from elsewhere, as a bundle has no network."""
    for key in ("root", "train_table", "test_table", "sample_submission", "train_image", "test_image", "images"):
        for one in list_patterns(getattr(competition, key) or ""):
            if is_url(one):
                advice = "add competition.root=FOLDER" if key == "root" else "train on patterns below competition.root"
                raise UserError(f"competition.{key}={one}: a bundle infers without a network; {advice}")


def check_alike(runs):
    """Check that runs are of one competition and the same targets."""
    first = runs[0]
    for one in runs[1:]:
        for key in ("name", "task", "metric"):
            mine, its = (getattr(run.config.competition, key) for run in (first, one))
            if mine != its:
                found = f"competition.{key} is {its}, but {mine} in {first.path}"
                raise UserError(f"{one.path}: {found}; bundle runs of one competition")
        if len({run.name for run in runs}) < len(runs):
            raise UserError(f"{one.path}: two runs' folders have one name; rename one of them")


def read_blend(path):
    """Return what blend.json says of weights, with scores.json and the `paths` of the runs that it uses."""
    folder = RunFolder(path)
    saved = load_json(folder.made_by, "inputs", "command")
    if saved["method"] == "stack":
        raise UserError(f"{path}: is a stack, which is no set of weights; bundle its runs, whose blend is then decided")
    if "apply" not in saved:
        raise UserError(f"{path}: is of an earlier version; repeat {saved['command']} overwrite=true, then bundle it")
    paths = []
    for name in saved["apply"]["inputs"]:
        given = saved["inputs"][name]
        places = [Path(given), Path(path).resolve().parent / Path(given).name]
        found = next((one for one in places if RunFolder(one).config.is_file()), None)
        if found is None:
            raise UserError(f"{path}: its input {given} is no run here; blend runs, whose folders are there")
        if RunFolder(found).made_by.is_file():
            raise UserError(f"{path}: its input {given} is a blend; blend that one's runs instead, then bundle")
        paths.append(str(found))
    return saved["apply"] | {"scores": load_json(folder.scores), "paths": paths}


def copy_code(place):
    """Copy the pipeline, as it is here, and the program that infer.sh starts."""
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(REPOSITORY / "src", place / "src", ignore=skipped)
    shutil.copyfile(REPOSITORY / "infer.py", place / "infer.py")
    shutil.copyfile(Path(__file__).with_name("offline.py"), place / "offline.py")
