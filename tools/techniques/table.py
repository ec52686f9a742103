"""The scores of a study's runs -> its table: differences with intervals as CSV, JSON and Markdown."""

import json
import math
import os
import platform
import shlex
import subprocess
from datetime import date

import numpy as np
import pandas as pd

from src.config.load import load_saved_config
from src.config.settings import REPOSITORY
from src.errors import listing
from src.evaluation.intervals import paired_interval
from src.files import load_json, save_json, save_table, save_text
from tools.techniques.study import BASE, BASES, QUIET, find

_COLUMNS = "| technique | setting | what it does | source | {metric} | difference [95 % interval] | seconds |"


def save_tables(study, reasons):
    """Write techniques.csv, .json and .md, and the part of study.write between its marks.

    Args:
        study: study.Study.
        reasons: {name of a technique: why it is not trained}.
    """
    rows = compute_rows(study, reasons)
    text = format_table(study, rows, reasons)
    save_table(study.output / "techniques.csv", rows)
    records = json.loads(rows.to_json(orient="records", double_precision=15))
    conditions = {"made_by": describe_conditions(study), "left_out": reasons}
    save_json(study.output / "techniques.json", conditions | {"rows": records})
    save_text(study.output / "techniques.md", text)
    if study.write is not None:
        begin, end = f"<!-- techniques:{study.competition} -->", f"<!-- /techniques:{study.competition} -->"
        old = study.write.read_text(encoding="utf-8") if study.write.is_file() else ""
        if begin not in old or end not in old:
            old = f"{old.rstrip()}\n\n{begin}\n{end}\n".lstrip()
        before, after = old[: old.index(begin)], old[old.index(end) + len(end) :]
        save_text(study.write, f"{before}{begin}\n{text}{end}{after}")


def read_scores(study, technique):
    """Return {(seed, fold): score} and the mean seconds of a run; None where a seed is not finished."""
    scores, seconds = {}, []
    for seed in study.seeds:
        path = study.run_of(technique, seed).scores
        if not path.is_file():
            return None
        saved = load_json(path)
        scores |= {(seed, fold): score for fold, score in saved["folds"].items()}
        seconds.append(saved["seconds"])
    return scores, float(np.mean(seconds))


def compute_rows(study, reasons):
    """Return a pandas table with a row for each technique that is finished on all seeds."""
    rows, num_folds = [], study.base_config.num_folds
    for technique in study.techniques:
        found = None if technique.name in reasons else read_scores(study, technique)
        reference = found and read_scores(study, study.reference_of(technique))
        if not reference:  # another command may be about to finish it
            continue
        scores, seconds = found
        values = np.array(list(scores.values()))
        row = {
            "area": technique.area,
            "technique": technique.name,
            "setting": _setting(study, technique),
            "against": study.reference_of(technique).name,
            "score": values.mean(),
            "seconds": round(seconds, 1),
            "seeds": len(study.seeds),
            "scores": len(values),
        }
        if technique is not BASE:
            differences = [score - reference[0][key] for key, score in scores.items()]
            mean, low, high = float(np.mean(differences)), np.nan, np.nan
            if len(differences) > 1:
                mean, low, high = paired_interval(differences, num_folds)
            row |= {"difference": mean, "low": low, "high": high, "is_beyond_chance": bool(low > 0 or high < 0)}
        rows.append(row)
    return pd.DataFrame(rows)


def _setting(study, technique):
    parent = set(study.words_of(find(technique.against))) if technique.against else set()
    return _quote(word for word in study.words_of(technique) if word not in parent)


def _quote(words):
    """Return the words as typed in a shell, but braces and brackets unquoted in words without a space."""
    return " ".join(shlex.quote(word) if " " in word else word for word in words)


def format_table(study, rows, reasons):
    """Return the Markdown: how it was made, a table for each area, and what is left out."""
    metric = study.base_config.competition.metric
    base, num_compared = rows.iloc[0], len(rows) - 1
    lines = [
        f"{describe_conditions(study)} The base: `{_quote(_public_words(study)[1:])}`.",
        "",
        f"The base has {metric} {format_score(base['score'])} and takes {base['seconds']:.1f} s a run. A difference is "
        "paired: same seed, same fold, same images; in brackets its 95 % interval, corrected for folds that share "
        f"images. **Bold**: the interval leaves out 0; of {num_compared} comparisons about "
        f"{math.ceil(num_compared / 20)} would be bold by chance alone.",
    ]
    by_name = {one.name: one for one in study.techniques}
    for area, part in rows[rows["area"] != ""].groupby("area", sort=False):
        lines += ["", f"**{area}**", "", _COLUMNS.format(metric=metric), "|---" * 7 + "|"]
        lines += [_format_row(row, by_name[row["technique"]], study) for _, row in part.iterrows()]
    return "\n".join([*lines, "", *_notes(study, rows, reasons), ""])


def describe_conditions(study):
    """Return how the numbers were made, so that others can reproduce them."""
    import torch

    own = (*QUIET, *BASES.get(study.competition, ()))
    given = [word for word in _public_words(study) if word not in own]
    command = _quote([*given, f"seeds={','.join(map(str, study.seeds))}"])
    return (
        f"`python -m tools.techniques {command}`, {date.today().isoformat()}, commit {_describe_commit()}, torch "
        f"{torch.__version__}, {_hardware(torch, study.base_config)}. Seeds {listing(study.seeds)}, "
        f"{_count_images(study)}."
    )


def _public_words(study):
    """Return the base's words without paths of this machine."""
    return ["model.weights=WEIGHTS" if one.startswith("model.weights=") else one for one in study.base_words]


def _describe_commit():
    """Return the short hash, with "+ changes" where code or settings differ from it; unknown without git."""
    command = "git rev-parse --short HEAD && (git diff --quiet HEAD -- :/*.py :/*.yaml || echo + changes)"
    done = subprocess.run(command, shell=True, cwd=REPOSITORY, capture_output=True, text=True)
    return " ".join(done.stdout.split()) or "unknown"


def _hardware(torch, config):
    device = f"{os.cpu_count()} cores, {platform.machine()}"
    if config.device != "cpu" and torch.cuda.is_available():
        return f"{device}, {torch.cuda.get_device_name()}"
    return f"{device}, CPU only"


def _count_images(study):
    """Return how many folds and images a run has, read from the base's first run."""
    run = study.run_of(BASE, study.seeds[0])
    config, folds, trained = load_saved_config(run.path), pd.read_csv(run.folds)["fold"], load_json(run.scores)["folds"]
    first = int(next(iter(trained)))
    num_training, num_validation = int((folds != first).sum()), int((folds == first).sum())
    if config.train.max_images is not None:
        num_training = min(num_training, config.train.max_images)
    return (
        f"{len(trained)} of {config.num_folds} folds of {len(folds)} images, in each about {num_training} to train and "
        f"{num_validation} to validate"
    )


def _format_row(row, technique, study):
    mark = " †" if technique.is_tuned and study.competition == "demo" else ""
    setting = f"`{row['setting']}`" + (f", against {row['against']}" if row["against"] != BASE.name else "")
    difference = _format_difference(row["difference"])
    if not np.isnan(row["low"]):
        difference += f" [{_format_difference(row['low'])}, {_format_difference(row['high'])}]"
    if row["is_beyond_chance"]:
        difference = f"**{difference}**"
    name, score, seconds = row["technique"] + mark, format_score(row["score"]), f"{row['seconds']:.1f}"
    return "| " + " | ".join((name, setting, technique.text, technique.source, score, difference, seconds)) + " |"


def format_score(score):
    """Return a score as .96500."""
    return f"{score:.5f}".removeprefix("0")


def _format_difference(difference):
    return f"{difference:+.5f}".replace("+0.", "+.").replace("-0.", "-.").replace("-", "−")  # noqa: RUF001  a minus sign


def _notes(study, rows, reasons):
    """Return the lines that explain the marks, and what is left out of the table and why."""
    done, lines = set(rows["technique"]), []
    if study.competition == "demo" and any(one.is_tuned for one in study.techniques if one.name in done):
        note = "Its learning rate was chosen among three to five values on the folds of seed 41, as the base's was."
        lines += [f"† {note}", ""]
    left_out = {}
    for one in study.techniques:
        if one.name in reasons:
            reason = reasons[one.name].split(";")[0].replace("|", "/")  # without the advice
            left_out.setdefault(reason, []).append(one.name)
    lines += [f"- {', '.join(names)}: {reason}." for reason, names in left_out.items()]
    if waiting := [one.name for one in study.techniques if one.name not in done and one.name not in reasons]:
        lines += ["", f"Not trained yet: {listing(waiting, 200)}."]
    return lines
