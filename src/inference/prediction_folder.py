"""Predictions of several models -> a folder like a run's, which tools.blend and tools.probe write; no torch."""

import os
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path

from src.checkpointing.run_folder import RunFolder
from src.competition.predictions import join_columns, save_test_score
from src.competition.submission import asks_for_labels, load_sample, write_submission
from src.competition.tables import load_solution
from src.config.load import config_yaml
from src.errors import UserError
from src.evaluation.out_of_fold import pool_rows
from src.evaluation.thresholds import read_decision
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


def write_test(folder, place, competition, metric, test, units, probs, scores, are_ranks=False):
    """Write test.csv, the submission and, where the test labels are known, its score; return lines about them.

    test: ImageTable, of which ids, target_names and groups are read; units: (N,) str, see competition.predict_by, or
    None; probs: (N, K); scores: what scores.json holds; are_ranks: `probs` are no probabilities.
    """
    ids, names, sample = test.ids, test.target_names, load_sample(competition)
    save_table(folder.test, join_columns({"id": ids}, probs, names))
    if units is not None:
        ids, probs = pool_rows(units, probs, competition.predict_with)
    takes_labels = asks_for_labels(sample, competition, names, metric, ids)
    if takes_labels and are_ranks:
        raise UserError("method: the sample asks for a class, which needs probabilities, not ranks; set method=mean")
    decision = read_decision(scores, names, competition.task) if takes_labels else None
    write_submission(folder.submission, sample, competition, ids, probs, names, decision)
    lines = [f"{place}/submission.csv: {len(ids)} rows, checked"]
    if (solution := load_solution(competition, test, ids)) is not None:
        groups = test.groups if units is None else None
        lines.append(save_test_score(folder.test_score, metric, solution, probs, groups, decision)[1])
    elif sample is not None:
        lines.append(f"next: python -m tools.kaggle submit {shlex.quote(str(place))}")
    return lines
