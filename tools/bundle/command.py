"""Runs -> the bundle's folder, written beside its place and moved there when it is whole."""

import json
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from src.config.settings import REPOSITORY
from src.errors import UserError, first_line, listing
from src.files import save_json, save_text
from tools.bundle.contents import copy_code, find_tables, list_roots, load_runs, measure_half
from tools.bundle.wheels import collect_wheels, list_missing, list_requirements, read_image

_NOTEBOOK = REPOSITORY / "notebooks" / "infer_offline.ipynb"
_PLACEHOLDER = "INSERT_USERNAME_HERE"  # the kaggle program's own


def write_bundle(paths, options, words):
    """Write the bundle of some run folders, and print what it holds and what to do with it."""
    began, output = time.monotonic(), Path(options["output"])
    check_output(output, options["overwrite"])
    runs, blend = load_runs(paths, words)
    is_half = options["weights"] == "fp16"
    size = sum(path.stat().st_size for run in runs for path in run.weights) / (1 + is_half)
    check_size(output, size, options, len(runs))
    competition = runs[0].config.competition
    slug = slugify(options["competition"] or guess_name(competition))
    title = choose_title(options["title"], slug, runs)
    user = options["user"] or find_user()
    for run in runs:
        started = [fold.path.name for fold in run.folder.started_folds() if not fold.is_finished()]
        left_out = f", without {listing(started)}: not finished" if started else ""
        print(f"{run.path}: {listing([fold.path.name for fold in run.folds])}{left_out}")
    if blend:
        print(f"blend: {blend['method']}, {describe_weights(blend)}")
    place = output.resolve().parent / f".{output.resolve().name}.{os.getpid()}.bundle"
    try:
        tables = find_tables(competition)
        names = {key: f"tables/{Path(path).name}" for key, path in tables.items()}
        for key, path in tables.items():
            print(f"competition.{key}: a copy of {path}, of today's test rows; a hidden test set may have others")
            (place / "tables").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / names[key])
        for run in runs:
            run.write(place / "runs" / run.name, names, is_half)
            if is_half:
                print(describe_difference(run, place / "runs" / run.name))
        copy_code(place / "code")
        engines = [run.config.infer.engine for run in runs]
        requirements, (python, image) = list_requirements(engines), read_image()
        save_text(place / "code" / "requirements.txt", "".join(f"{one}\n" for one in requirements))
        missing = list_missing(requirements, image)
        print(collect_wheels(options["wheels"], missing, image, options["python"] or python, place / "wheels"))
        save_json(place / "bundle.json", {
            "name": slugify(title),
            "competition_names": list(dict.fromkeys([slug, competition.name, guess_name(competition)])),
            "mark": names_of_files(competition, tables), "roots": list_roots(competition.root, output),
            "runs": [run.name for run in runs], "blend": blend, "tables": names,
        })  # fmt: skip
        write_for_kaggle(place, user, title, slug, options["gpu"])
        shutil.copyfile(Path(__file__).with_name("infer.sh"), place / "infer.sh")
        check_size(output, count_bytes(place), options, len(runs))
        if output.exists():
            shutil.rmtree(output)
        place.rename(output.resolve())
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"{output}: {count_bytes(output) / 1e6:.1f} MB, {time.monotonic() - began:.0f} s")
    if user == _PLACEHOLDER:
        print(f"who you are on Kaggle is not known: replace {_PLACEHOLDER} in {output}/*.json, or add user=NAME")
    print(f"try it: bash {output}/infer.sh")
    print(f"next: kaggle datasets create -p {output} -r zip; when it is ready: kaggle kernels push -p {output}")


def check_output(output, overwrite):
    """Check that a bundle may be written there: a new or empty folder, or with overwrite an earlier bundle."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "bundle.json").is_file():
        raise UserError(f"{output}: exists and is no bundle; choose output=ANOTHER")
    if not overwrite:
        raise UserError(f"{output}: is a bundle already; choose output=ANOTHER or overwrite=true")


def check_size(output, size, options, num_runs):
    """Check that a dataset can hold so many bytes; the UserError says what would help here."""
    if size <= options["limit"]:
        return
    helps = [] if options["weights"] == "fp16" else ["weights=fp16 halves the weights"]
    helps += ["bundle fewer runs"] if num_runs > 1 else []
    advice = ", or ".join(helps) or "train a smaller backbone, or fewer folds"
    raise UserError(f"{output}: {size / 1e9:.3g} GB, over the limit of {options['limit'] / 1e9:.3g} GB; {advice}")


def count_bytes(folder):
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def describe_weights(blend):
    """Return each input's mean weight as words."""
    means = [sum(one) / len(one) for one in zip(*blend["weights"], strict=True)]
    return listing([f"{one:.3f} {name}" for name, one in zip(blend["inputs"], means, strict=True)], 20)


def describe_difference(run, place):
    """Return a line on how much a run's predictions change by 16-bit weights."""
    try:
        largest, count = measure_half(run, place)
    except UserError as error:
        return f"{run.path}: weights in 16 bits; how predictions differ is not measured ({first_line(error)})"
    return f"{run.path}: weights in 16 bits; predictions of {count} validation rows differ by {largest:.2g} at most"


def guess_name(competition):
    """Return the competition's name on Kaggle: its folder's, as the host's files are unpacked, or the file's."""
    folder = os.path.basename(os.path.abspath(competition.root))
    return folder if slugify(competition.name) in slugify(folder) else competition.name


def names_of_files(competition, tables):
    """Return a file that each of the competition's folders has, relative to it."""
    keys = [key for key in ("sample_submission", "test_table") if getattr(competition, key) and key not in tables]
    root = os.path.abspath(os.path.expanduser(competition.root))
    return os.path.relpath(os.path.join(root, getattr(competition, keys[0])), root) if keys else "sample_submission.csv"


def slugify(text):
    """Return the text as Kaggle writes it in addresses: small letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def choose_title(title, slug, runs):
    """Return the dataset's title, whose slug is 6 to 50 characters; one that is asked for is checked."""
    if title is None:
        names = "-".join(run.name.removeprefix(f"{run.config.competition.name}_") for run in runs)
        title = slugify(f"{slug}-{names}")[:38].strip("-").replace("-", " ")  # room for " infer", of the notebook
        return title if len(title) >= 6 else f"{title} bundle".strip()
    if not (6 <= len(title) <= 50 and len(slugify(title)) >= 6):
        found = f"{len(title)} characters, {len(slugify(title))} letters and digits with dashes"
        raise UserError(f"command line: title={title}: {found}; Kaggle wants 6 to 50")
    return title


def find_user():
    """Return the user's name on Kaggle, as the kaggle program knows it, or its placeholder; no key is read out."""
    if name := os.environ.get("KAGGLE_USERNAME"):
        return name
    homes = [os.environ.get("KAGGLE_CONFIG_DIR"), Path.home() / ".kaggle", Path.home() / ".config" / "kaggle"]
    for home in filter(None, homes):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads((Path(home) / "kaggle.json").read_text(encoding="utf-8"))["username"])
    return _PLACEHOLDER


def write_for_kaggle(place, user, title, competition, gpu):
    """Write dataset-metadata.json, kernel-metadata.json and notebook.ipynb.

    Reference: Kaggle/kaggle-api, docs/datasets_metadata.md and docs/kernels_metadata.md, 2026-01.
    """
    slug, kernel = slugify(title), f"{title[:44].strip()} infer"
    save_json(place / "dataset-metadata.json", {
        "title": title, "id": f"{user}/{slug}", "licenses": [{"name": "other"}],
    })  # fmt: skip
    save_json(place / "kernel-metadata.json", {
        "id": f"{user}/{slugify(kernel)}", "title": kernel, "code_file": "notebook.ipynb", "language": "python",
        "kernel_type": "notebook", "is_private": True, "enable_gpu": gpu, "enable_internet": False,
        "dataset_sources": [f"{user}/{slug}"], "competition_sources": [competition], "kernel_sources": [],
        "model_sources": [],
    })  # fmt: skip
    notebook = json.loads(_NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = [re.sub(r'^BUNDLE = "".*', f'BUNDLE = "{slug}"', line) for line in cell["source"]]
    save_text(place / "notebook.ipynb", json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
