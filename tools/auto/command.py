"""Look, doctor, linear models, networks that learn, blends: in this order, each as long as there is time."""

import math
import os
import shutil
import time
from dataclasses import replace

from src.checkpointing.interrupts import Interrupts
from src.errors import UserError
from src.files import load_json, make_folder
from tools.auto import networks, plan, probes
from tools.auto.blends import finish
from tools.auto.course import Course, say
from tools.auto.plan import Facts, Speed

_MANY = 0.01  # share of the training rows that the doctor finds in two folds
_DOCTOR_FOLDS = 3  # of the folds that it proposes, which leave time for other things than folds
_DOCTOR_SHARE, _DOCTOR_SECONDS = 0.2, 20.0  # of the time, at most; but so many seconds at least


def run_auto(options, words, lanes):
    """Run until the time is used; see tools.auto.__main__ for what is left behind."""
    course = Course(options, words, lanes)
    is_own = (course.folder / "blend.json").is_file() and (course.journal.is_resumed or options["overwrite"])
    if course.folder.exists() and not is_own:
        raise UserError(f"{course.folder}: exists and is none of tools.auto's; choose name=ANOTHER")
    if course.members.exists() and not course.journal.path.is_file():
        raise UserError(f"{course.members}: exists and is none of tools.auto's; choose name=ANOTHER")
    if options["overwrite"] or not course.journal.is_resumed:  # an earlier command may have ended before it decided
        for folder in (course.members, course.folder):
            shutil.rmtree(folder, ignore_errors=True)
        course = Course(options, words, lanes)
    make_folder(course.members, "output_dir")
    given = [*words, *options["candidates"]]
    if course.journal.get("words", given) != given:
        found = "was begun with other words"
        raise UserError(f"{course.folder}: {found}; choose name=ANOTHER, or overwrite=true to begin anew")
    say(
        f"{course.folder}: {options['seconds']:.0f} s, {len(lanes)} programs beside each other, "
        f"{lanes.threads} threads each"
    )
    if course.journal.is_resumed:
        say(f"resumed; {course.journal.seconds:.0f} s were used before")
        if course.left <= 0 and course.inputs:
            say(f"the time is used; a longer time_budget goes on: {course.folder}")
            return
    with Interrupts(math.inf, None, options["overwrite"]).handle_signals():
        try:
            take_steps(course, given)
        finally:
            lanes.stop()
            course.journal.save()


def take_steps(course, given):
    """All of it, in turn; given: the words that a command which resumes must have, too."""
    doctor = look(course)
    course.journal["words"] = given
    side = probes.choose_side(course)
    if side:
        probes.probe(course, side)
    if heed_doctor(course, doctor) and side:
        probes.probe(course, side, tag="_joint_folds")  # its features are there
    networks.train(course)
    probes.probe_again(course)
    networks.train(course, worst=math.inf)  # as nothing better is to do, and the blend leaves out what is no help
    finish(course)


def look(course):
    """Read facts and speeds while the doctor looks for what would fool the scores; return its Program, None if done."""
    path, folder = course.members / "look.json", course.members / "doctor"
    candidates = [f"candidates=[{','.join(course.options['candidates'])}]"] if course.options["candidates"] else []
    program = course.program("look", ["tools.auto.look", *course.common, *candidates, f"output={path}"])
    small = "model.backbone=simple_cnn", "model.kwargs={}", "model.pretrained=false", "image_size=64"  # it is not timed
    small = [f"num_folds={_DOCTOR_FOLDS}", *small]
    small = [word for word in small if not course.is_fixed(word.partition("=")[0])]
    words = [*course.words, *small, f"threads={course.lanes.threads}", f"output={folder}"]
    doctor = None if (folder / "doctor.json").is_file() else course.program("doctor", ["tools.doctor", *words])
    if not path.is_file():
        course.lanes.start(program)
    if doctor and course.lanes.start(doctor):  # where a lane is free, else it comes before the networks
        _limit(course, doctor)
    if not path.is_file():
        course.run([program])
    if not path.is_file():
        raise UserError(program.last_line().removeprefix("error: "))
    found = load_json(path)
    course.facts = Facts(**found["facts"])
    course.speeds = {name: Speed(**one) for name, one in found["backbones"].items()}
    course.common += found["words"]
    say(plan.describe_facts(course.facts))
    for name, one in course.speeds.items():
        say(f"  {name}: {1 / one.train:.0f} images/s training, {1 / one.predict:.0f} predicting, {plan.REFERENCE} px")
    for why in found["refused"].values():
        say(f"  left out: {why}")
    if not course.facts.is_pretrained:
        say(f"  no pretrained weights: {', '.join(course.speeds)} learns from scratch")
    return doctor


def heed_doctor(course, doctor):
    """Say what the doctor has found before a network learns; return whether the folds become others for many rows."""
    path = course.members / "doctor" / "doctor.json"
    if doctor:
        if doctor.process is None:
            _limit(course, doctor)
        course.run([doctor])
    if "taken" in course.journal:  # of an earlier command
        _take(course, course.journal["taken"])
        return False
    taken = []
    if not path.is_file():
        has_failed = doctor and doctor.status is not None and doctor.status > 0
        say(f"doctor: {doctor.last_line()}" if has_failed else "the doctor has not ended in time; ask it: tools.doctor")
    for one in load_json(path)["findings"] if path.is_file() else ():
        if one["severity"] == "note":
            continue
        safe = [word for word in one["words"] if not course.is_fixed(word.partition("=")[0])]
        say(f"doctor, {one['severity']}: {one['title']}")
        files = [word.partition("=")[2] for word in safe if word.startswith("folds=")]
        if files and one["num_names"] <= _MANY * course.facts.num_rows:
            say("  too few to change a score")
            continue
        safe = safe if all(map(os.path.isfile, files)) else []
        say(f"  taken: {' '.join(safe)}" if safe else f"  -> {one['advice']}")
        taken += safe
    course.journal["taken"] = taken
    _take(course, taken)
    return any(word.startswith("folds=") for word in taken)


def _limit(course, doctor):
    """Set when the doctor, which begins now, is stopped."""
    doctor.ends_at = time.monotonic() + max(_DOCTOR_SECONDS, _DOCTOR_SHARE * course.journal.left)


def _take(course, words):
    """Give all further programs the settings that the doctor calls safe."""
    course.common += words
    if any(word.startswith("folds=") for word in words):
        course.facts = replace(course.facts, num_folds=course.facts.num_folds or _DOCTOR_FOLDS)
