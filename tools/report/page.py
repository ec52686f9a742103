"""A run's files -> its Page and what report.json holds."""

import datetime

from src.evaluation.judgement import describe_interval, describe_judgement
from tools.report import predictions, reproduction, training
from tools.report.advice import build_advice
from tools.report.elements import Page, as_json, number, plural, seconds_in_words
from tools.report.images import build_errors, build_seen
from tools.report.metadata import build_groups
from tools.report.run_files import load_run_files
from tools.report.shift import build_shift
from tools.report.words import list_words

_BUILDERS = (
    training.build_folds,
    training.build_curves,
    predictions.build_ranking,
    predictions.build_calibration,
    predictions.build_confusion,
    predictions.build_distributions,
    build_groups,
    build_shift,
    training.build_time,
    reproduction.build_settings,
    reproduction.build_reproduction,
)
_ORDER = ("folds", "curves", "ranking", "calibration", "confusion", "distributions", "errors", "groups", "augmentation",
          "shift", "time", "settings", "reproduce", "advice")  # fmt: skip


def build_page(path, output=None, images=None):
    """Return (the Page of a run's folder, what report.json holds).

    output: as `load_run_files` has it; images: the Pictures of the run, None: the page shows none.
    """
    run = load_run_files(path, output)
    built, found = [build(run) for build in _BUILDERS], {}
    for section in filter(None, built if images else ()):
        for one in section.drawings:
            _ = one.svg, one.save_png(images.folder) if images.folder else None  # while the other program works
    images = images.read() if images else {}
    built = [one for one in (*built, build_errors(images), build_seen(images)) if one is not None]
    for section in built:
        found |= section.facts
    if (advice := build_advice(run, found)) is not None:
        built.append(advice)
        found |= advice.facts
    big, lines = describe_score(run)
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
    return {"run": "trained run", "blend": run.folder.made_by.stem, "soup": "soup of runs"}[run.kind] + f" · {when}"


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


def describe_score(run):
    """Return (the score in large letters, lines below it) of the card."""
    scores, name = run.scores, run.metric.name
    if not scores:
        done = plural(int(run.log["epoch"].max()), "epoch") if len(run.log) else "no epoch"
        if list(run.metas) == ["all"]:
            return "no score", ["One network was trained on every row (fold=all), so no rows are left to score it on."]
        return "no score yet", [f"No fold is finished ({done} done); the same command resumes it."]
    lines = [f"{name}, out-of-fold, 95 % {describe_interval(scores['interval'])}"]
    if "by_unit" in scores:
        unit, how = run.config.competition.predict_by, run.config.competition.predict_with
        interval = describe_interval(scores["by_unit_interval"])
        lines.append(f"{how} of the rows of a {unit}: {number(scores['by_unit'])}, 95 % {interval}")
    if run.config.train.teacher:
        lines.append("This score is optimistic: networks of train.teacher have seen the labels of the rows it is of.")
    sentences = describe_judgement(run.metric, scores, run.oof.groups is not None)
    return number(scores["pooled"]), [*lines, *(f"{one[0].upper()}{one[1:]}." for one in sentences)]
