"""The blend of what is ready, as outputs/NAME, with plan.json, recipe.yaml and the report."""

import math
import shlex
import time

import yaml

from src.checkpointing.run_folder import differing_settings
from src.config.load import load_config, load_saved_config
from src.config.settings import value_of
from src.errors import UserError
from src.files import load_json, save_json, save_text
from tools.auto.course import say

_LATE = 0.1  # share of the budget by which the end may come later


def blend(course, new, replaces=False):
    """Blend course.inputs and `new` runs into the run's folder, which checks the submission.

    What is new stays where the best nested score is better with it. replaces: it takes the place of what is there.
    """
    before = [] if replaces else course.inputs
    course.journal["judged"] = [*course.journal.get("judged", []), *new]
    result = write(course, [*before, *new])
    if result is None:
        return
    scores = {name: one["nested"] for name, one in result["candidates"].items() if one["nested"] is not None}
    best = min(scores, key=lambda name: course.compute_error(scores[name]), default=result["method"])
    error = course.compute_error(scores.get(best, math.nan))
    if before and error > course.journal["error"]:
        say(f"  {', '.join(new)}: left out, as the blend scores {scores[best]:.5f} with it")
        write(course, before, course.journal["method"])
        return
    if best != result["method"] and error < course.compute_error(result["nested"]):
        result = write(course, [*before, *new], best) or result
    course.journal["error"], course.journal["method"] = error, result["method"]
    submission = course.folder / "submission.csv"
    what = f"{submission}, checked" if submission.is_file() else f"{course.folder}/oof.csv"
    say(f"{course.journal.seconds:.0f} s: {course.facts.metric} {result['nested']:.5f} out of fold; {what}")


def write(course, inputs, method="auto"):
    """Write the blend of some runs; return what blend.json holds, None where it failed."""
    began, runs = time.monotonic(), [str(course.members / one) for one in inputs]
    words = [f"name={course.folder.name}", f"output_dir={course.folder.parent}", "overwrite=true"]
    words += ["ranks=fold"] if course.facts.is_ranking and course.facts.task != "regression" else []
    command = ["tools.blend", *runs, *words, f"method={method}"]
    program = course.program(f"blend of {len(runs)}", command)
    course.lanes.run([program], course.journal.ends_at + _LATE * course.options["seconds"])
    if program.status != 0:
        say(f"  blend: {'not begun in time' if program.status is None else program.last_line()}")
        return None
    course.journal["inputs"], course.journal["blend"] = inputs, command
    course.journal["end_seconds"] = 2.5 * (time.monotonic() - began) + 3.0
    save_plan(course)
    return load_json(course.folder / "blend.json")


def finish(course):
    """Write recipe.yaml and the report, and plan.json once more."""
    if not course.inputs:
        found = f"nothing was ready after {course.journal.seconds:.0f} s"
        raise UserError(
            f"{course.folder}: {found}; run it again with a longer time_budget, or smaller images: image_size=96"
        )
    save_recipe(course)
    report = course.program("report", ["tools.report", str(course.folder)])
    course.lanes.run([report], course.journal.ends_at + _LATE * course.options["seconds"])
    save_plan(course)
    say(f"{course.journal.seconds:.0f} s: {course.folder}/report.html, plan.json, recipe.yaml")


def save_plan(course):
    """Write plan.json: facts, decisions, members with scores and weights, the commands that make the submission."""
    result, members, commands = load_json(course.folder / "blend.json"), [], []
    for name in course.inputs:
        made = list_commands(course.members / "logs", name)
        members.append(
            {"name": name, "score": course.read_score(name), "weight": result["weights"].get(name), "commands": made}
        )
        commands += made
    if any("/doctor/folds" in word for word in course.journal.get("taken", [])):
        commands = [*list_commands(course.members / "logs", "doctor"), *commands]
    names = ("probed", "probe_side", "second_side", "rank", "has_flip", "members", "scale")
    save_json(course.folder / "plan.json", {
        "command": course.options["command"],
        "time_budget": course.options["seconds"],
        "seconds": round(course.journal.seconds, 1),
        "metric": result["metric"], "method": result["method"],
        "nested": result["nested"], "nested_interval": result["nested_interval"],
        "facts": vars(course.facts),
        "speeds": {name: vars(one) for name, one in course.speeds.items()},
        "decisions": {name: course.journal.get(name) for name in names},
        "members": members,
        "commands": [*commands, write_command(course.journal["blend"])],
    })  # fmt: skip


def list_commands(logs, name):
    """Return the commands, as text to paste, that made a member, each once; its programs' logs begin with them."""
    found = []
    for path in sorted(logs.glob(f"{name}*.log")):
        end = path.stem.removeprefix(name)
        if not end or end == "_infer" or end[1:].isdigit():
            first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
            words = shlex.split(first.removeprefix("$ "))
            found.append(write_command([word for word in words if not word.startswith("infer.time_budget=")]))
    return list(dict.fromkeys(found))


def write_command(words):
    """Return ["train.py", ...] or ["tools.x", ...] as a shell takes it."""
    program, *others = words
    return shlex.join(["python", *([program] if program.endswith(".py") else ["-m", program]), *others])


def save_recipe(course):
    """Write recipe.yaml: how the settings of the best single member differ from the competition's own."""
    trained = [name for name in course.inputs if (course.members / name / "fold0").is_dir()] or course.inputs
    best = min(trained, key=lambda name: course.compute_error(course.read_score(name)))
    words = [word for word in course.words if word.startswith("competition=")]
    plain, own, found = load_config(words), load_saved_config(course.members / best), {}
    for key in differing_settings(plain, own):
        (room, _, name), value = key.rpartition("."), value_of(own, key)
        if room != "competition" and key not in ("recipe", "precision"):
            (found.setdefault(room, {}) if room else found)[name] = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(found, sort_keys=False)
    head = f"# The best single run of {course.folder.name}: {best}\n"
    head += f"# out-of-fold {course.facts.metric} {course.read_score(best):.5f}\n"
    use = f"# python train.py {' '.join(words)} recipe={course.folder}/recipe.yaml\n"
    save_text(course.folder / "recipe.yaml", head + use + text)
