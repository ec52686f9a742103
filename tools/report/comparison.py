"""Several runs -> one page: scores and differences by tools.compare, curves together, settings, where they disagree."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from src.analysis import figures
from src.checkpointing.run_folder import differing_settings
from src.competition.targets import match_ids
from src.config.help import as_word
from src.config.settings import value_of
from src.errors import UserError
from src.files import load_json
from src.report import tools_environment
from tools.report.elements import Drawing, Page, Section, Shown, Table, as_json, number, plural, short, span
from tools.report.run_files import load_run_files

_COUNT = 12  # rows on which they disagree most


def build_comparison(paths):
    """Return (the Page that compares run folders, what report.json holds)."""
    found = _compare(paths)
    runs = [load_run_files(path) for path in paths]
    names = _name(paths)
    built = [_build_scores(runs, names, paths, found), _build_curves(runs, names), _build_settings(runs, names),
             _build_disagreement(runs, names)]  # fmt: skip
    built = [one for one in built if one is not None]
    metric = runs[0].metric
    scores = [found["runs"][str(path)]["score"] for path in paths]
    best = max(range(len(paths)), key=lambda k: scores[k] if metric.greater_is_better else -scores[k])
    lines = [f"{names[best]} has the best {metric.name} of {plural(len(paths), 'run')}: {number(scores[best])}."]
    lines += [_shorten(pair["sentence"], paths, names) + "." for pair in found["pairs"][:3]]
    kicker = f"{runs[0].config.competition.name} · comparison of {len(paths)} runs"
    left_out = [("rows left out", f"{found['rows_left_out']:,}")] if found["rows_left_out"] else []
    facts = [("rows", f"{found['rows']:,}"), ("intervals", found["method"]), *left_out]
    title = " and ".join(names) if len(names) == 2 else ", ".join(names)
    page = Page(title, kicker, number(scores[best]), lines, facts, None, built)
    result = {"comparison": found, "runs": [str(path) for path in paths], "lines": lines, "worst": []}
    for section in built:
        result |= section.facts
    return page, as_json(result)


def _compare(paths):
    """Run tools.compare as a program and return what it writes; its refusal is a UserError."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "compared.json"
        command = [sys.executable, "-m", "tools.compare", *map(str, paths), f"output={output}"]
        done = subprocess.run(command, capture_output=True, text=True, env=tools_environment())
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["tools.compare failed"])[-1]
            raise UserError(reason.removeprefix("error: "))
        return load_json(output, "runs", "pairs")


def _name(paths):
    """Return short names, the folders' own, or the paths where two are alike."""
    names = [Path(path).resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def _shorten(sentence, paths, names):
    for path, name in zip(paths, names, strict=True):
        sentence = sentence.replace(f"{path} is", f"{name} is").replace(f"{path} better", f"{name} better")
    return sentence


def _build_scores(runs, names, paths, found):
    section = Section("scores", "Scores", facts={})
    values = [found["runs"][str(path)] for path in paths]
    scores, intervals = [one["score"] for one in values], [one["interval"] for one in values]
    figure = figures.draw_intervals(names, scores, intervals, None, f"{runs[0].metric.name}, 95 %")
    text = "Bars that overlap may still differ: the runs are scored on the same rows, which the differences below use."
    section.drawings.append(Drawing("scores", figure, text))
    rows = [[name, number(one["score"]), span(one["interval"])] for name, one in zip(names, values, strict=True)]
    section.tables.append(Table(["run", runs[0].metric.name, "95 %"], rows))
    rows = []
    for pair in found["pairs"]:
        a, b = (names[[str(path) for path in paths].index(pair[key])] for key in ("run_a", "run_b"))
        correlation = "-" if pair["correlation"] is None else f"{pair['correlation']:.3f}"
        rows.append([f"{b} minus {a}", f"{pair['difference']:+.5f}", span(pair["interval"]), short(pair["p_holm"]),
                     correlation, _shorten(pair["sentence"], paths, names)])  # fmt: skip
    header = ["pair", "difference", "95 %", "p (Holm)", "rank correlation", "in words"]
    section.tables.append(Table(header, rows, is_text=(5,)))
    return section


def _build_curves(runs, names):
    logs = {name: run.log[run.log["fold"] != "all"] for name, run in zip(names, runs, strict=True) if len(run.log)}
    logs = {name: log for name, log in logs.items() if len(log) and log["val_loss"].notna().any()}
    if not logs:
        return None
    section = Section("curves", "Training", facts={})
    drawn = (
        ("val_score", runs[0].metric.name, "The mean of each run's folds."),
        ("val_loss", "validation loss", "Lower is better."),
        ("train_loss", "training loss", "How well the training images are learned, as each run's loss counts."),
    )
    for column, label, text in drawn:
        section.drawings.append(Drawing(column, figures.draw_runs(logs, column, label), text))
    return section


def _build_settings(runs, names):
    keys = [key for run in runs[1:] for key in differing_settings(runs[0].config, run.config)]
    keys = [key for key in dict.fromkeys(keys) if not key.startswith("competition.")]
    values = {key: [str(as_word(value_of(run.config, key))) for run in runs] for key in keys}
    section = Section("settings", "Settings that differ", facts={"settings": values})
    if not keys:
        section.sentences.append("None of those that change training.")
        return section
    rows = [[key, *values[key]] for key in keys]
    section.tables.append(Table(["setting", *names], rows, is_text=tuple(range(1, len(names) + 1))))
    return section


def _build_disagreement(runs, names):
    """The rows on which the first two runs' predictions are farthest apart, with their images."""
    first, second = runs[0].oof, runs[1].oof
    rows, _, _ = match_ids(first.ids, second.ids)
    known = rows >= 0
    order = [second.target_names.index(name) for name in first.target_names]
    a, b = first.probs[known], second.probs[rows[known]][:, order]
    scale = np.nanstd(first.targets, axis=0) if runs[0].task == "regression" else 1.0
    apart = np.abs(a - b) / np.where(scale > 0, scale, 1.0)
    column, distance = apart.argmax(axis=1), apart.max(axis=1)
    worst = np.argsort(-distance, kind="stable")[:_COUNT]
    section, facts, shown = Section("disagreement", "Where they disagree most"), [], []
    ids, targets = first.ids[known], first.targets[known]
    images = _load_images(runs[0].config, ids[worst])
    for row in worst:
        name = first.target_names[column[row]]
        one = {"id": str(ids[row]), "column": name, "target": float(targets[row, column[row]]),
               names[0]: float(a[row, column[row]]), names[1]: float(b[row, column[row]])}  # fmt: skip
        facts.append(one)
        lines = [f"{name}: truth {short(one['target'])}", f"{names[0]}: {one[names[0]]:.3f}",
                 f"{names[1]}: {one[names[1]]:.3f}"]  # fmt: skip
        source, is_small = images.get(one["id"], (None, False))
        shown.append(Shown(one["id"], lines, source, None, is_small))
    section.facts = {"disagreement": facts}
    labels = (_labels(run, values) for run, values in ((runs[0], a), (runs[1], b)))
    if runs[0].task != "regression":
        differ = int((next(labels) != next(labels)).any(axis=1).sum())
        section.sentences.append(f"{names[0]} and {names[1]} give {differ:,} of {len(ids):,} rows other labels.")
    text = "Of each image the target on which they are farthest apart. Where both are right elsewhere, a blend gains."
    section.images.append((f"{names[0]} and {names[1]}", text, shown))
    return section


def _labels(run, probs):
    return run.decision.labels(probs)


def _load_images(config, ids):
    """Return {id: (data URL, whether it is small)} of training images that can be read."""
    from src.competition.tables import load_train_table
    from src.data.decode import decode_image
    from src.data.inspection import tile_images
    from tools.page import image_url
    from tools.report.pictures import as_uint8

    found = {}
    try:
        table = load_train_table(config.competition)
        places, _, _ = match_ids(list(ids), table.ids)
        for name, place in zip(ids, places, strict=True):
            if place >= 0:
                image = decode_image(str(table.paths[place]), config.competition)
                image = as_uint8(tile_images(image, config.competition.channels))
                found[str(name)] = image_url(image, 160), max(image.shape[:2]) < 64
    except (UserError, OSError, ValueError):  # the images may be elsewhere by now
        pass
    return found
