"""One examination: reads a competition, runs every check in order, prints what was found and writes doctor.html."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from src.competition.demo import write_demo
from src.files import save_table
from tools.doctor.augmentation import check_augmentation
from tools.doctor.case import read_case
from tools.doctor.duplicates import check_copies, find_copies, is_torn, make_joint_folds
from tools.doctor.findings import format_facts, format_findings, sort_findings, summarize
from tools.doctor.folds import check_case_folds
from tools.doctor.images import check_images, is_blank
from tools.doctor.labels import check_labels
from tools.doctor.leaks import check_leaks
from tools.doctor.report import save_report
from tools.doctor.resources import check_resources
from tools.doctor.safety import check_safety
from tools.doctor.shift import check_shift


def examine(config, run_folder=None):
    """Examine a competition, print facts and findings, write doctor.html; return the findings, the worst first.

    It writes into <output_dir>/doctor/<competition> alone: the page, and where there are copies, copies.csv and
    folds that keep them together.

    Args:
        config: src.config.settings.Config.
        run_folder: pathlib.Path of a run of that config, on which label safety is measured; None: it is not.

    Raises:
        UserError: as `safety.check_safety`.
    """
    folder = Path(config.output_dir) / "doctor" / config.competition.name
    if config.competition.name == "demo":
        write_demo(config.competition.root)
    case, findings = read_case(config)
    facts, pairs = [], find_copies(case)
    for check in (check_images, check_case_folds, check_leaks, check_shift):
        found, measured = check(case)
        findings, facts = findings + found, facts + measured
    findings += check_labels(case) + check_copies(case, pairs, name_joint_folds(folder, config))
    rows = np.flatnonzero(case.scan.is_read[: case.num_train])
    shown = rows[~is_blank(case.scan)[rows]]  # a blank picture stays the same under most transforms
    if len(shown):
        found, measured = check_augmentation(case, int(shown[0]))
        findings, facts = findings + found, facts + measured
    if len(rows) and case.folds is not None:
        found, measured = check_resources(case, rows)
        findings, facts = findings + found, facts + measured
    if run_folder is not None:
        found, measured = check_safety(case, run_folder)
        findings, facts = findings + found, facts + measured
    findings = sort_findings(findings)
    save_copies(folder, case, pairs)
    save_report(folder / "doctor.html", case, findings, facts)
    print("\n\n".join(part for part in (format_facts(facts), format_findings(findings)) if part))
    print(f"\n{summarize(findings, folder / 'doctor.html')}")
    return findings


def name_joint_folds(folder, config):
    """Return the path for folds that keep copies together: folds.csv, or folds2.csv where folds= gave folds.csv."""
    return folder / ("folds2.csv" if _is_given(folder / "folds.csv", config) else "folds.csv")


def save_copies(folder, case, pairs):
    """Write copies.csv, and folds that keep copies together where the folds part them.

    Without copies old files are removed. The file that folds=FILE gave is left as it is.
    """
    if not len(pairs):
        for path in (folder / "copies.csv", folder / "folds.csv", folder / "folds2.csv"):
            if not _is_given(path, case.config):
                path.unlink(missing_ok=True)
        return
    names, how = case.names, np.where(pairs.is_exact, "same pixels", "nearly the same")
    save_table(
        folder / "copies.csv", pd.DataFrame({"one": names[pairs.first], "other": names[pairs.second], "how": how})
    )
    if case.folds is not None and is_torn(case, pairs):
        folds = make_joint_folds(case, pairs)
        if folds is not None:
            save_table(name_joint_folds(folder, case.config), pd.DataFrame({"id": case.train.ids, "fold": folds}))


def _is_given(path, config):
    """Whether folds= gave this very file, by whatever name."""
    return path.is_file() and os.path.isfile(config.folds) and path.samefile(config.folds)
