"""A run's files -> its Page and what report.json holds."""

import datetime

from tools.report import sections
from tools.report.parts import Page, as_json, number, plural, seconds_in_words
from tools.report.run_files import load_run_files

_BUILDERS = (  # as they follow on the page
    sections.build_folds,
    sections.build_curves,
    sections.build_ranking,
    sections.build_distributions,
    sections.build_confusion,
    sections.build_calibration,
    sections.build_time,
    sections.build_settings,
    sections.build_reproduction,
)


def build_page(path, output=None):
    """Return (the Page of a run's folder, what report.json holds); output: as `load_run_files` has it."""
    run = load_run_files(path, output)
    built = [one for one in (build(run) for build in _BUILDERS) if one is not None]
    big, lines = sections.describe_score(run)
    facts = {"run": str(run.folder.path), "kind": run.kind, "metric": run.metric.name, "task": run.task}
    known = run.scores
    facts |= {"score": known.get("pooled"), "interval": known.get("interval"), "mean": known.get("mean")}
    facts |= {"leaderboard": known.get("leaderboard"), "lines": lines}
    for section in built:
        facts |= section.facts
    kicker = f"{run.config.competition.name} · {run.task} · {_describe_kind(run)}"
    page = Page(run.name, kicker, big, lines, _list_facts(run), choose_command(run), built)
    return page.draw(), as_json(facts | {"command": page.command})


def choose_command(run):
    """Return the command that comes next."""
    if not run.scores:
        return run.provenance.get("command")
    if not run.test_folds and not run.has_test:
        return f"python infer.py run={run.folder.path}"
    return None


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
        facts.append(("epochs", plural(run.config.train.epochs, "epoch").split()[0]))
    return facts
