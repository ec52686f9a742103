"""Linear models on frozen features: which backbone fits, whether mirroring keeps labels, a first submission."""

from src.evaluation.intervals import compute_verdict, describe_difference
from src.evaluation.sampling import sample_scores
from src.inference.prediction_sources import align, load_sources
from tools.auto import plan
from tools.auto.blends import blend
from tools.auto.course import say

_SHARES = ((1000, 0.5), (1e12, 0.2))  # of the time, for features, up to so many training rows
_ALMOST_ALL = 0.75  # of the time
_LARGEST = 224  # px
_START = 4.0  # seconds for the models themselves
_FEW = 1000  # training rows, judged on five folds, more on three
_SMALL = 50_000  # rows times backbones, of which the mirrored images are tried
_FIXED = (
    "join=all",
    "layers=[last,-1,-2]",
    "C=[0.001,0.01,0.1]",
)  # last maps say something that pooled features do not


def choose_side(course):
    """Return the side at which features are computed first, None where no size fits; decides for which backbones."""
    if not course.facts.is_pretrained:
        return None
    if "probe_side" not in course.journal:
        share = next(share for rows, share in _SHARES if course.facts.num_rows <= rows)
        seconds = (1 - share) * course.left
        if not plan.choose_members(course.facts, course.speeds, {}, seconds, len(course.lanes))[0]:
            share = _ALMOST_ALL  # as no network worth it fits into the rest
        names, side = _fit_side(course, share * course.left)
        course.journal["probed"], course.journal["probe_side"] = names, side
        if side:
            say(
                f"plan: linear models on frozen features of {', '.join(names)}, {side} px, as they take "
                f"{share:.0%} of the time at most"
            )
    return course.journal["probe_side"]


def _fit_side(course, seconds):
    """Return (backbones, the largest side whose features take at most some seconds), None where there is none."""
    names = sorted(course.speeds, key=lambda name: course.speeds[name].predict)
    sides = [side for side in plan.list_sizes(course.facts) if side <= _LARGEST or course.facts.side]
    while names:
        for side in reversed(sides):
            each = [plan.estimate_features(course.facts, side, course.speeds[name]) for name in names]
            if max(max(each), sum(each) / len(course.lanes)) <= seconds:
                return names, side
        names = names[:-1]
    return [], None


def probe(course, side, tag="", is_first=True):
    """Judge a linear model on each backbone's features and one on all together, and blend what there is.

    tag: end of the runs' names; is_first: decides `rank` and `has_flip`, and replaces the blend's inputs.
    """
    height, width = plan.image_size(course.facts, side)
    names = {name: f"probe{tag}_{name}" for name in course.journal["probed"]}
    first = next(iter(names))
    flips, joint = course.facts.flips, f"probe{tag}"
    runs = {run: (name, flips) for name, run in names.items()}
    if flips and is_first and course.facts.task != "regression" and len(names) * course.facts.num_rows <= _SMALL:
        runs[f"{names[first]}_plain"] = first, False
    precisions = {course.speeds[name].predict_precision for name in names}
    num_folds = course.facts.num_folds or min(course.facts.most_folds, 5 if course.facts.num_rows < _FEW else 3)
    decided = [
        *_FIXED, f"image_size=[{height},{width}]", f"num_folds={num_folds}",
        f"precision={precisions.pop() if len(precisions) == 1 else 'fp32'}",
    ]  # fmt: skip
    words = [*course.leave_out_given(decided), *course.common]

    def build(run, names, flip):
        how = f"candidates=[{','.join(names)}]", f"hflip={str(flip).lower()}"
        return course.program(run, ["tools.probe", *how, *words, f"name={run}"])

    wanted = [run for run in runs if not is_done(course, run)]
    missing = {run for run in wanted if run in names.values()}

    def build_joint():
        ready = [name for name, run in names.items() if is_done(course, run)]
        return [build(joint, ready, flips)] if len(ready) > 1 and not is_done(course, joint) else []

    def after(program):
        """All backbones' features are there once the last single one is judged."""
        is_last = missing == {program.title}
        missing.discard(program.title)
        return build_joint() if is_last else []

    programs = [build(run, [runs[run][0]], runs[run][1]) for run in wanted]
    course.run(programs if missing else [*programs, *build_joint()], after)
    scores = {name: course.read_score(run) for name, run in names.items() if is_done(course, run)}
    if not scores:
        say(f"  no linear model is ready: {build(names[first], [first], True).last_line()}")
        return
    for name, score in scores.items():
        say(f"  linear model on {name}: {course.facts.metric} {score:.5f}")
    if is_first:
        errors = {name: course.compute_error(score) for name, score in scores.items()}
        if min(errors.values()) > 0:
            course.journal["rank"] = {name: error / min(errors.values()) for name, error in errors.items()}
        course.journal["has_flip"] = keeps_labels(course, f"{names[first]}_plain", names[first])
    if is_done(course, joint):
        say(f"  on all together: {course.facts.metric} {course.read_score(joint):.5f}")
    best = min(scores, key=lambda name: course.compute_error(scores[name]))
    ready = joint if is_done(course, joint) else names[best]
    if ready not in course.journal.get("judged", []):
        blend(course, [ready], replaces=is_first)


def probe_again(course):
    """Where time is left that no network fits into, use it for features at another size."""
    if "probe_side" not in course.journal or not course.inputs:
        return
    if "second_side" not in course.journal:
        first, (names, side) = course.journal["probe_side"] or 0, _fit_side(course, 0.6 * course.left - _START)
        is_worth_it = side and names == course.journal["probed"] and side > 0.7 * first and side != first
        course.journal["second_side"] = side if is_worth_it else None
    if side := course.journal["second_side"]:
        say(f"plan: linear models at {side} px, too, as time is left that no network fits into")
        probe(course, side, f"_{side}px", is_first=False)


def is_done(course, run):
    """Whether a probe is there."""
    return (course.members / run / "probe.json").is_file()


def keeps_labels(course, plain, mirrored):
    """Return whether images may be mirrored: not where features of both ways are worse, beyond noise."""
    if not (is_done(course, plain) and is_done(course, mirrored)):
        return course.facts.flips
    difference, *interval = compare(course, plain, mirrored)
    if compute_verdict(interval, course.metric.greater_is_better) >= 0:
        return True
    say(f"plan: images are not mirrored: {describe_difference(difference, interval)}")
    return False


def compare(course, one, other):
    """Return (the score of `other` minus that of `one`, its 95 % interval) of two members' out-of-fold predictions."""
    oofs, _ = align(load_sources([str(course.members / name) for name in (one, other)]), "compare")
    found = sample_scores(course.metric, oofs[0].targets, [oof.probs for oof in oofs], oofs[0].groups)
    return found.difference(0, 1)[:3]
