"""Networks that learn: what fits into the time that is left is trained on all lanes, inferred and blended."""

import time
from dataclasses import asdict

from src.checkpointing.run_folder import RunFolder
from tools.auto import plan
from tools.auto.blends import blend
from tools.auto.course import say
from tools.auto.plan import Member

_SAFETY = 1.15  # by which estimates are too short, until the first networks were trained
_HALF_DONE = "the others get the mean prediction of these"  # as infer.py says of test images it has not reached
_GAIN = 0.98  # of the expected error, at most, or further networks are not worth it
_FIRST_SHARE = 0.4  # of the time, for a first submission by networks alone
_FEW = 400  # training rows, below which batches are smaller, so that there are steps enough


def train(course, worst=plan.WORST):
    """Train Members as long as some fit into the time that is left, and blend after each stage; worst: see plan."""
    done = [Member(**one) for one in course.journal.get("members", [])]
    ready = [name_member(one) for one in done if is_inferred(course, one)]
    if ready := [name for name in ready if name not in course.journal.get("judged", [])]:
        blend(course, ready)
    failed = course.journal.get("failed", [])
    pending = [one for one in done if not is_inferred(course, one) and name_member(one) not in failed]
    while course.left > 0 and (members := pending or choose(course, done, worst)):
        if not pending:
            done += members
            course.journal["members"] = [asdict(one) for one in done]
        expected = plan.estimate_wall(members, course.facts, course.speeds, len(course.lanes))
        for one in members:
            half = ", the upper half of its stages" if one.is_half else ""
            say(f"plan: {one.backbone} learns at {one.size} px{half}, {one.num_folds} folds of {one.epochs} epochs")
        scale = course.journal.get("scale", _SAFETY)
        say(f"  about {expected * scale:.0f} s of the {course.left:.0f} s that are left")
        began = time.monotonic()
        finished = train_members(course, members)
        for one in finished:
            say(f"  {name_member(one)}: {course.facts.metric} {course.read_score(name_member(one)):.5f}")
        if not pending and len(finished) == len(members):
            course.journal["scale"] = 1.05 * max(0.4, (time.monotonic() - began) / expected)
        pending = []
        if finished:
            blend(course, [name_member(one) for one in finished])
        elif not course.journal.get("failed"):
            return


def choose(course, done, worst):
    """Return the Members that promise most within the time that is left; [] where none promises anything."""
    rank, seconds = course.journal.get("rank", {}), course.left / course.journal.get("scale", _SAFETY)
    flips = course.journal.get("has_flip", True)
    how = {"num_lanes": len(course.lanes), "done": done, "flips": flips, "worst": worst}
    members = []
    for share in (1.0,) if course.inputs else (_FIRST_SHARE, 1.0):
        if not members:
            members, error = plan.choose_members(course.facts, course.speeds, rank, share * seconds, **how)
    if done and members and error > _GAIN * plan.estimate_error(done, course.facts, rank):
        return []
    return members


def train_members(course, members):
    """Train the folds of Members, and infer each; return those that are finished."""
    left = {}

    def after(program):
        name, step = program.title.rsplit(" ", 1)
        if program.status != 0:
            if program.status > 0 and time.monotonic() < course.ends_at:
                say(f"  {program.title}: {program.last_line()}")
                course.journal["failed"] = [*course.journal.get("failed", []), name]
            return []
        if step == "infer":
            if _HALF_DONE in program.log.read_text(encoding="utf-8", errors="replace"):
                say(f"  {name}: not all test images were predicted in time, so that it is left out")
                RunFolder(course.members / name).submission.unlink(missing_ok=True)
            return []
        left[name] -= 1
        is_next = left[name] == 0 and course.facts.num_test
        return [build_infer(course, one) for one in members if name_member(one) == name and is_next]

    programs = []
    for one in members:
        finished = {fold.number for fold in RunFolder(course.members / name_member(one)).finished_folds()}
        folds = [fold for fold in range(one.num_folds) if fold not in finished]
        left[name_member(one)] = len(folds)
        programs += [build_fold(course, one, fold) for fold in folds]
        if not folds and course.facts.num_test:
            programs.append(build_infer(course, one))
    course.run(programs, after)
    return [one for one in members if is_inferred(course, one)]


def build_fold(course, member, fold):
    """Return the Program that trains one fold of a Member."""
    name = name_member(member)
    words = [*list_words(course, member), *course.common, f"name={name}", "tracking=none", "report=false"]
    return course.program(f"{name} {fold}", ["train.py", *words, f"fold={fold}"])


def build_infer(course, member):
    """Return the Program that predicts the test images with a Member; fewer folds and views where time is short."""
    words = [f"run={course.members / name_member(member)}", f"threads={course.lanes.threads}", "report=false"]
    words += [f"precision={course.speeds[member.backbone].predict_precision}"]
    decided = [f"infer.tta={'hflip' if member.has_flip else 'none'}", f"infer.time_budget={max(5, course.left):.0f}s"]
    words += course.leave_out_given(decided)
    return course.program(f"{name_member(member)} infer", ["infer.py", *words])


def list_words(course, member):
    """Return the settings of a Member, without those that the command line decides."""
    height, width = plan.image_size(course.facts, member.size)
    words = [
        f"model.backbone={member.backbone}", f"image_size=[{height},{width}]", f"num_folds={member.num_folds}",
        f"train.epochs={member.epochs}", f"seed={member.seed}",
        f"precision={course.speeds[member.backbone].train_precision}",
    ]  # fmt: skip
    if member.is_half:
        words.append(f"model.freeze={course.speeds[member.backbone].num_half}")
    if course.facts.is_pretrained:
        words.insert(0, "recipe=finetune")
        if course.facts.num_rows < _FEW:
            words += ["train.batch_size=16", "optimizer.lr=3e-4"]
    if not course.journal.get("has_flip", True):
        words.append("augment.flips=none")
    return course.leave_out_given(words)


def name_member(member):
    """Return the name of a Member's run."""
    seed = f"_seed{member.seed}" if member.seed != 42 else ""
    half = "_half" if member.is_half else ""
    return f"{member.backbone}_{member.size}px_{member.num_folds}x{member.epochs}{half}{seed}"


def is_inferred(course, member):
    """Whether a Member has its test predictions, or there are no test rows and its folds are trained."""
    folder = RunFolder(course.members / name_member(member))
    is_whole = len(folder.finished_folds()) == member.num_folds
    return is_whole and (folder.submission.is_file() or not course.facts.num_test)
