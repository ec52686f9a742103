"""A run's files -> its Page and what report.json holds."""

import datetime

from tools.report import sections
from tools.report.advice import build_advice
from tools.report.images import Pictures, build_errors, build_seen
from tools.report.metadata import build_groups
from tools.report.parts import Page, as_json, number, seconds_in_words
from tools.report.run_files import load_run_files
from tools.report.shift import build_shift
from tools.report.words import list_words

_BUILDERS = (
    sections.build_folds,
    sections.build_curves,
    sections.build_ranking,
    sections.build_calibration,
    sections.build_confusion,
    sections.build_distributions,
    build_groups,
    build_shift,
    sections.build_time,
    sections.build_settings,
    sections.build_reproduction,
)
_ORDER = ("folds", "curves", "ranking", "calibration", "confusion", "distributions", "errors", "groups", "augmentation",
          "shift", "time", "settings", "reproduce", "advice")  # fmt: skip


def build_page(path, output=None, pictures=None, has_images=True):
    """Return (the Page of a run's folder, what report.json holds).

    output: as `load_run_files` has it; pictures: a folder for the worst images, None: none; has_images: show them.
    """
    run = load_run_files(path, output)
    made = Pictures(path, pictures) if has_images and run.oof is not None else None
    built, found = [build(run) for build in _BUILDERS], {}
    for section in filter(None, built):
        for one in section.drawings:
            _ = one.svg  # drawn while the other program works
    images = made.read() if made else {}
    built = [one for one in (*built, build_errors(images), build_seen(images)) if one is not None]
    for section in built:
        found |= section.facts
    if (advice := build_advice(run, found)) is not None:
        built.append(advice)
        found |= advice.facts
    big, lines = sections.describe_score(run)
    facts = {"run": str(run.folder.path), "kind": run.kind, "metric": run.metric.name, "task": run.task}
    known = run.scores
    facts |= {"score": known.get("pooled"), "interval": known.get("interval"), "mean": known.get("mean")}
    facts |= {"leaderboard": known.get("leaderboard"), "lines": lines, "worst": images.get("worst", [])} | found
    command = choose_command(run, found)
    kicker = f"{run.config.competition.name} · {run.task} · {_describe_kind(run)}"
    built.sort(key=lambda one: _ORDER.index(one.name))
    page = Page(run.name, kicker, big, lines, _list_facts(run), command, built, list_words(run, built))
    return page, as_json(facts | {"command": command})


def choose_command(run, facts):
    """Return the command that comes next: training's end, the test predictions, or the first thing to try."""
    if not run.scores:
        return run.provenance.get("command")
    if not run.test_folds and not run.has_test:
        return f"python infer.py run={run.folder.path}" if run.kind != "blend" else None
    return next((one["command"] for one in facts.get("advice", ())), None)


def _describe_kind(run):
    when = datetime.date.fromtimestamp(run.folder.config.stat().st_mtime).isoformat()
    return {"run": "trained run", "blend": "blend", "soup": "soup of runs"}[run.kind] + f" · {when}"


def _list_facts(run):
    facts = []
    if run.oof is not None:
        facts.append(("images scored", f"{len(run.oof.ids):,}"))
        if run.oof.groups is not None:
            facts.append(("groups", f"{len(set(run.oof.groups)):,}"))
    if run.scores and len(run.scores["folds"]) > 1:
        facts.append(("mean of folds", number(run.scores["mean"])))
    if run.scores and run.kind == "run":
        facts.append(("folds", f"{len(run.scores['folds'])} of {run.num_folds or '?'}"))
    if run.scores.get("seconds"):
        facts.append(("training", seconds_in_words(run.scores["seconds"])))
    if run.kind != "blend":
        facts.append(("backbone", run.config.model.backbone))
        facts.append(("image size", " x ".join(map(str, run.config.image_size))))
    return facts
