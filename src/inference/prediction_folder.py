"""Predictions of several models -> a folder like a run's, which tools.blend and tools.probe write; no torch."""

import os
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path

from src.checkpointing.run_folder import RunFolder
from src.competition.predictions import join_columns
from src.config.load import config_yaml
from src.errors import UserError
from src.files import delete_unfinished, save_json, save_table, save_text


def check_place(path, kind, overwrite):
    """Check that a blend or a probe, `kind`, may be written there: a new folder, or with overwrite one of its kind."""
    folder = RunFolder(path)
    if not folder.path.exists() or (folder.path.is_dir() and not any(folder.path.iterdir())):
        return
    if not (folder.path / f"{kind}.json").is_file():
        what = f"a {folder.made_by.stem}" if folder.made_by.is_file() else "a trained run"
        what = f"{what}, which no {kind} replaces" if folder.config.is_file() else f"no {kind}"
        raise UserError(f"{path}: exists and is {what}; choose name=ANOTHER")
    if not overwrite:
        raise UserError(f"{path}: is a {kind} already; choose name=ANOTHER or overwrite=true")


@contextmanager
def write_folder(config, kind, oof, scores, result):
    """Write all but test predictions beside config.run_folder, yield that RunFolder, then move it to its place.

    A refusal inside the block leaves nothing half. kind: blend or probe; oof: OutOfFold; scores, result: what
    scores.json and <kind>.json hold.
    """
    place, names = Path(config.run_folder), list(oof.target_names)
    folder, aside = (place.parent / f".{place.name}.{one}.{os.getpid()}.tmp" for one in ("new", "replaced"))
    delete_unfinished(place.parent)
    folder.mkdir(parents=True)
    folder = RunFolder(folder)
    try:
        rows, groups = {"id": oof.ids, "fold": oof.folds}, {} if oof.groups is None else {"group": oof.groups}
        known = {f"target_{name}": column for name, column in zip(names, oof.targets.T, strict=True)}
        save_table(folder.folds, join_columns(rows | groups, oof.targets, names))
        save_table(folder.oof, join_columns(rows | known, oof.probs, names))
        save_json(folder.scores, scores)
        save_json(folder.path / f"{kind}.json", result)
        save_text(folder.config, config_yaml(config))
        yield folder
        if place.exists():
            check_place(place, kind, overwrite=True)
            place.rename(aside)
        folder.path.rename(place)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(folder.path, ignore_errors=True)


def write_test(folder, place, test, probs, scores, are_ranks=False):
    """Write test.csv, the submission and, where the test labels are known, its score; return lines about them.

    test: TestSet; probs: (N, K) of its rows; scores: what scores.json holds; are_ranks: `probs` are no probabilities.
    """
    save_table(folder.test, join_columns({"id": test.table.ids}, probs, test.table.target_names))
    if test.takes_labels and are_ranks:
        raise UserError("method: the sample asks for a class, which needs probabilities, not ranks; set method=mean")
    score, line = test.write(folder, probs, scores)
    lines = [f"{place}/submission.csv: {len(test.ids)} rows, checked", *([line] if line else [])]
    if test.sample is not None and score is None:
        lines.append(f"next: python -m tools.kaggle submit {shlex.quote(str(place))}")
    return lines
