"""Runs every check on a competition, prints facts and findings, and writes doctor.html and doctor.json."""

import os
from dataclasses import asdict

import numpy as np
import pandas as pd

from src.competition.demo import write_demo
from src.errors import printable
from src.files import save_json, save_table
from tools.doctor.advice import advise
from tools.doctor.augmentation import check_augmentation
from tools.doctor.competition_data import load_data
from tools.doctor.duplicates import are_separated, check_copies, find_copies, make_joint_folds
from tools.doctor.findings import format_facts, format_findings, sort_findings, summarize
from tools.doctor.folds import check_split
from tools.doctor.images import check_images, is_blank
from tools.doctor.label_safety import check_label_safety
from tools.doctor.labels import check_labels
from tools.doctor.leaks import check_leaks
from tools.doctor.report import save_page
from tools.doctor.resources import check_resources
from tools.doctor.shift import check_shift


def run_checks(config, folder, run_folder=None, words=()):
    """Check a competition, print facts and findings, write doctor.html; return the findings, the worst first.

    Args:
        config: src.config.settings.Config.
        folder: pathlib.Path, the only place that is written to: doctor.html, doctor.json, and where images are
            duplicates, copies.csv and folds that keep them together.
        run_folder: pathlib.Path of a run of that config, on which label safety is measured; None: it is not measured.
        words: of the command line, key=value, for the next command.

    Raises:
        UserError: as `label_safety.check_label_safety`.
    """
    if config.competition.name == "demo":
        write_demo(config.competition.root)
    data, findings = load_data(config)
    pairs, results = find_copies(data), [(findings, [])]
    results += [check(data) for check in (check_images, check_split, check_leaks, check_shift)]
    results.append((check_labels(data) + check_copies(data, pairs, name_joint_folds(folder, config)), []))
    rows = np.flatnonzero(data.scan.is_read[: data.num_train])
    usable = rows[~is_blank(data.scan)[rows]]  # most transforms leave a blank image as it is
    if len(usable):
        results.append(check_augmentation(data, int(usable[0])))
    if len(rows) and data.folds is not None:
        results.append(check_resources(data, rows))
    if run_folder is not None:
        results.append(check_label_safety(data, run_folder))
    findings = {finding.title: finding for found, _ in reversed(results) for finding in reversed(found)}
    findings = sort_findings(reversed(findings.values()))  # what two checks stumble over counts once
    facts = [fact for _, measured in results for fact in measured]
    save_copies(folder, data, pairs)
    advice = advise(findings, words, run_folder)
    save_page(folder / "doctor.html", data, findings, facts, advice)
    save_json(folder / "doctor.json", {"findings": [*map(asdict, findings)], "facts": [*map(asdict, facts)]})
    print("\n\n".join(text for text in (format_facts(facts), format_findings(findings)) if text))
    print(f"\n{summarize(findings, folder / 'doctor.html')}\nnext: {printable(advice[1])}")
    return findings


def name_joint_folds(folder, config):
    """Return the path for folds that keep copies together: folds.csv, or folds2.csv where folds= names folds.csv."""
    return folder / ("folds2.csv" if _is_in_use(folder / "folds.csv", config) else "folds.csv")


def save_copies(folder, data, pairs):
    """Write copies.csv, and where the folds separate copies, folds that keep them together.

    Without copies, old files are removed. The file that folds=FILE names is not changed.
    """
    if not len(pairs):
        for path in (folder / "copies.csv", folder / "folds.csv", folder / "folds2.csv"):
            if not _is_in_use(path, data.config):
                path.unlink(missing_ok=True)
        return
    names, how = data.names, np.where(pairs.is_exact, "same pixels", "nearly the same")
    save_table(
        folder / "copies.csv", pd.DataFrame({"one": names[pairs.first], "other": names[pairs.second], "how": how})
    )
    if data.folds is not None and are_separated(data, pairs):
        folds = make_joint_folds(data, pairs)
        if folds is not None:
            save_table(name_joint_folds(folder, data.config), pd.DataFrame({"id": data.train.ids, "fold": folds}))


def _is_in_use(path, config):
    """Whether folds= names this file, by whatever path."""
    return path.is_file() and os.path.isfile(config.folds) and path.samefile(config.folds)
