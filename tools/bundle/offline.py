"""Runs a bundle: python code/offline.py [COMPETITION_FOLDER] [key=value ...]; infer.sh and the notebook start it.

`tools.bundle` copies this file into a bundle's code/. What lies in the bundle is only read.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from src.errors import UserError, listing, one_line_errors

CODE = Path(__file__).resolve().parent
BUNDLE = CODE.parent
INPUTS = Path(os.environ.get("KAGGLE_INPUT", "/kaggle/input"))
USAGE = """usage: bash infer.sh [COMPETITION_FOLDER] [key=value ...]

Predicts the test images of COMPETITION_FOLDER with the bundle's runs and writes
./submission.csv. Left out, the folder is the competition's in /kaggle/input (or
in the variable KAGGLE_INPUT), else the one that the run was trained on. Words
are infer.py's: infer.tta=hflip infer.time_budget=8.5h device=cpu ...
"""


def main(words):
    """Run the command line `words`."""
    began = time.monotonic()
    with one_line_errors(words):
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        folders = [word for word in words if "=" not in word]
        words = [word for word in words if "=" in word]
        folders += [word.partition("=")[2] for word in words if word.startswith("competition.root=")]
        words = [word for word in words if not word.startswith("competition.root=")]
        if len(folders) > 1:
            raise UserError(f"command line: {listing(folders)}: several folders; write infer.sh COMPETITION_FOLDER")
        if wrong := next((word for word in words if word.startswith(("run=", "infer.output="))), None):
            raise UserError(f"command line: {wrong}: a bundle infers its runs into ./submission.csv; leave it out")
        if not os.access(".", os.W_OK):  # before the hours that predictions may take
            raise UserError(f"{Path.cwd()}: cannot be written; run infer.sh where submission.csv is to be")
        bundle = json.loads((BUNDLE / "bundle.json").read_text(encoding="utf-8"))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that infer.py ends, too, and no file is left
        with tempfile.TemporaryDirectory(prefix="bundle-") as work:
            install(Path(work) / "packages")
            root = find_competition(bundle, *folders)
            predict(bundle, root, words, Path(work), began)


def install(target):
    """Install into a new folder what is missing here and lies in wheels/; later processes find it, too."""
    wheels, missing = find_wheels()
    if missing:
        found = listing([f"{one} (here: {version or 'none'})" for one, version in missing.items()])
        if None in missing.values():
            raise UserError(f"{BUNDLE / 'wheels'}: no wheel of {found}; bundle again without wheels=none")
        print(f"no wheel of {found}; tried with what is here")
    if wheels:
        how = ["--no-index", "--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(target)]
        command = [sys.executable, "-m", "pip", "install", *how, *map(str, wheels)]
        done = subprocess.run(command, capture_output=True, errors="replace")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
            advice = f"bundle again with python={sys.version_info.major}.{sys.version_info.minor}"
            raise UserError(f"{BUNDLE / 'wheels'}: pip cannot install them ({reason}); {advice}")
        print(f"installed {listing([one.name.split('-')[0] + ' ' + one.name.split('-')[1] for one in wheels], 20)}")
        sys.path.insert(0, str(target))
        importlib.invalidate_caches()
    paths = [str(target), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def find_wheels():
    """Return (wheels to install, {requirement: the version here, None: none} of those that have no wheel)."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    known = {canonicalize_name(path.name.split("-")[0]): path for path in sorted((BUNDLE / "wheels").glob("*.whl"))}
    lines = (CODE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    left, found, missing = [Requirement(line) for line in lines if line], {}, {}
    while left:
        one = left.pop()
        name, version = canonicalize_name(one.name), None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(one.name)
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        if version is not None and one.specifier.contains(version.partition("+")[0], prereleases=True):
            continue
        if name not in known:
            missing[str(one)] = version
            continue
        found[name] = known[name]
        [wheel] = importlib.metadata.distributions(path=[str(known[name])])
        left += map(Requirement, wheel.requires or ())
    return list(found.values()), missing


def find_competition(bundle, folder=None):
    """Return the folder of the competition's files, as an absolute Path."""
    if folder is not None:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; write the one of the competition's files")
        return Path(folder).resolve()
    names = bundle["competition_names"]
    places = [place / name for name in names for place in (INPUTS / "competitions", INPUTS)]
    others = [one.parent for place in ("*", "competitions/*") for one in INPUTS.glob(f"{place}/{bundle['mark']}")]
    places += others if len(others) == 1 else []  # by the file that all of its folders have
    places += [Path(bundle["roots"][0]), *(BUNDLE / one for one in bundle["roots"][1:])]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        where = f"{INPUTS / names[0]}: no such folder, nor is {bundle['roots'][0]} one"
        raise UserError(f"{where}; add the competition to the notebook's inputs, or write infer.sh COMPETITION_FOLDER")
    print(f"competition: {found}")
    return found.resolve()


def predict(bundle, root, words, work, began):
    """Write ./submission.csv: of a run, of a blend of runs, or the sample where there are no test images yet."""
    from src.config.load import load_saved_config
    from src.inference.prediction_sources import PredictionSource

    where = [f"competition.root={root}"]
    where += [f"competition.{key}={BUNDLE / path}" for key, path in bundle["tables"].items()]
    budget = next((word.partition("=")[2] for word in words if word.startswith("infer.time_budget=")), None)
    rest = [word for word in words if not word.startswith("infer.time_budget=")]
    output, sources = Path("submission.csv"), []
    for number, name in enumerate(bundle["runs"]):
        config = load_saved_config(BUNDLE / "runs" / name, [*where, *rest])
        if number == 0 and is_hidden(config, BUNDLE / "runs" / name):
            copy_sample(config, output)
            return
        of_budget = _divide(budget or config.infer.time_budget, began, len(bundle["runs"]) - number)
        infer(name, [*where, *rest, *of_budget], work / name)
        for meta in (BUNDLE / "runs" / name).glob("fold*/meta.json"):
            (work / name / meta.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(meta, work / name / meta.parent.name / meta.name)
        names = SimpleNamespace(target_names=tuple(bundle["blend"]["targets"] if bundle["blend"] else ()))
        sources.append(PredictionSource(str(work / name), name, names, config))
    if bundle["blend"]:
        blend(bundle["blend"], sources, work)
    else:
        shutil.copyfile(work / bundle["runs"][0] / "submission.csv", work / "submission.csv")
    _move(work / "submission.csv", output)
    print(f"{output}: {_count_rows(output)} rows, {time.monotonic() - began:.0f} s")


def _divide(budget, began, num_left):
    """Return the word of the time that one of `num_left` runs may still take, or none."""
    from src.config.settings import seconds_of

    seconds = seconds_of(budget)
    if seconds is None or seconds != seconds:
        return [] if budget is None else [f"infer.time_budget={budget}"]
    return [f"infer.time_budget={max(1.0, (seconds - (time.monotonic() - began)) / num_left):.1f}s"]


def is_hidden(config, run):
    """Whether the folder has no test image yet, or a sample of none of them, as before a hidden test set is scored."""
    from src.checkpointing.run_folder import RunFolder
    from src.competition.paths import NoImagesError, list_images
    from src.competition.submission import check_sample, load_sample
    from src.competition.tables import load_test_table

    competition, sample, table = config.competition, None, None
    names = next(iter([*RunFolder(run).finished_folds(), RunFolder(run).fold("all")])).load_target_names()
    try:
        table, sample = load_test_table(competition, names), load_sample(competition)
        if sample is not None:
            check_sample(sample, competition, table, names)
    except NoImagesError:
        return True
    except UserError:
        if sample is not None:
            return not any(sample[name].str.strip().isin(table.ids).any() for name in sample)
        with contextlib.suppress(UserError):
            try:
                list_images(competition, "test_image")
            except NoImagesError:
                return True
    return False


def copy_sample(config, output):
    """Write the sample submission as it is."""
    from src.competition.paths import locate

    competition = config.competition
    if not competition.sample_submission:
        raise UserError(f"{competition.root}: holds no test images, and the competition names no sample submission")
    sample = Path(locate(competition.root, competition.sample_submission))
    if not sample.is_file():
        raise UserError(f"{sample}: no such file, and {competition.root} holds no test images; check the folder")
    _move(sample, output)
    print(f"{competition.root}: no test images, as before a hidden test set is scored")
    print(f"{output}: the sample as it is, {_count_rows(output)} rows")


def infer(name, words, output):
    """Run infer.py on one of the bundle's runs."""
    run = BUNDLE / "runs" / name
    command = [sys.executable, str(CODE / "infer.py"), f"run={run}", f"infer.output={output}", "report=false", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace") as process:
        try:
            for line in process.stdout:  # but for what names the folder that is deleted at the end, or is for elsewhere
                if str(output) not in line and not line.startswith("next: "):
                    print(line, end="", flush=True)
        except SystemExit:
            process.terminate()
            raise
    if process.returncode:
        sys.exit(process.returncode)


def blend(given, sources, folder):
    """Write the submission of runs' predictions by the weights that were decided when the bundle was made."""
    import numpy as np

    from src.checkpointing.run_folder import RunFolder
    from src.competition.predictions import TestSet
    from src.competition.submission import load_sample
    from src.competition.tables import ImageTable, load_test_table
    from src.competition.targets import match_ids
    from src.evaluation.blending import Blend
    from src.evaluation.metrics import build_metric
    from src.inference.prediction_folder import write_test
    from src.inference.prediction_sources import align_test

    ids, values, _ = align_test(sources)  # infer.py has said which folds are left out
    arrays = {key: None if given[key] is None else np.array(given[key]) for key in ("weights", "scale", "intercept")}
    how = {key: given[key] for key in ("method", "space", "exponent", "is_one_class")}
    probs, names = Blend(**how, **arrays).predict(values), sources[0].oof.target_names
    competition = sources[0].config.competition
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    table = load_test_table(competition, names) if competition.predict_by else None
    units = None if table is None else table.units[match_ids(ids, table.ids)[0]]
    rows = ImageTable(ids, None, None, names, None, None, units=units)
    test = TestSet(competition, metric, rows, load_sample(competition))
    write_test(RunFolder(folder), folder, test, probs, given["scores"], are_ranks=given["space"] == "ranks")
    print(f"blend of {listing([one.name for one in sources], 20)}: {given['method']}")


def _move(path, output):
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    shutil.copyfile(path, temporary)
    os.replace(temporary, output)


def _count_rows(path):
    with open(path, "rb") as file:
        return sum(1 for line in file if line.strip()) - 1


if __name__ == "__main__":
    main(sys.argv[1:])
