"""Whether calibrating a run's probabilities pays: python -m tools.calibrate RUN [method=...] [output=FILE.json]

Reads the run's out-of-fold predictions; nothing is trained, no image is read.
"""

import sys
import textwrap
from pathlib import Path

from src.config.registry import list_names
from src.errors import UserError, listing, nearest, one_line_errors

_WIDTH = 80
_METHODS = list_names("evaluation/calibration.py", "CALIBRATIONS")
USAGE = f"""usage: python -m tools.calibrate RUN [method=NAME] [output=FILE.json]

  python -m tools.calibrate outputs/demo_default

How far a run's probabilities can be believed, and whether
infer.calibration=NAME pays; RUN is a folder that train.py or tools.blend has
written. A fold's rows are calibrated by what is fitted on the other folds, so
that the figures are what new rows would see: log loss, the competition's
metric, and the expected calibration error (ECE; Guo et al., 2017) in 15 bins
of equal count, of a row's top class or of each column. It is not debiased:
calibrated predictions show some, too, how much stands beside it as chance.
Intervals are of 95 %; a group counts as one row.

  method=NAME        {listing(_METHODS)}
                     left out: all that fit the task
  output=FILE.json   writes the same numbers
"""


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        runs = [word for word in words if "=" not in word]
        chosen = dict(word.split("=", 1) for word in words if "=" in word)
        if unknown := sorted(set(chosen) - {"method", "output"}):
            found = f"{unknown[0]}={chosen[unknown[0]]} is not known{nearest(unknown[0], ('method', 'output'))}"
            raise UserError(f"command line: {found}; write RUN [method=NAME] [output=FILE.json]")
        if len(runs) != 1:
            raise UserError(f"command line: {len(runs)} runs, wanted is 1; write RUN, the folder of a run")
        if (method := chosen.get("method")) not in (None, *_METHODS):
            raise UserError(f"method={method}: not one of {listing(_METHODS)}{nearest(method, _METHODS)}")
        result = judge(runs[0], method)
        print(describe(result))
        if "output" in chosen:
            from src.files import save_json  # here, as is below: help does not wait for what computes

            save_json(Path(chosen["output"]), result)


def judge(path, method=None):
    """Return what output=FILE.json holds of a run folder; method None: all that fit its task."""
    import numpy as np

    from src.checkpointing.run_folder import RunFolder
    from src.config.load import load_saved_config
    from src.evaluation.calibration import CALIBRATIONS
    from src.evaluation.calibration_error import calibrate_nested, expected_calibration_error
    from src.evaluation.metrics import build_metric
    from src.evaluation.out_of_fold import load_out_of_fold
    from src.evaluation.sampling import sample_scores

    competition, folder = load_saved_config(path).competition, RunFolder(path)
    if competition.task == "regression":
        raise UserError(f"{path}: predicts values (competition.task=regression), and probabilities are calibrated")
    fitting = [one for one in _METHODS if one != "temperature_per_column" or competition.task == "multilabel"]
    if method not in (None, *fitting):
        raise UserError(f"method={method}: is for task=multilabel, {path} has {competition.task}; take temperature")
    run = load_out_of_fold(folder.oof, folder.folds)
    if len(np.unique(run.folds)) < 2:
        raise UserError(f"{folder.oof}: holds 1 fold, and a fold is judged by what others fit; train another one")
    methods = [method] if method else fitting
    every = [
        run.probs,
        *(calibrate_nested(one, run.targets, run.probs, run.folds, competition.task) for one in methods),
    ]
    found = {}
    for name, kwargs in {"log_loss": {}, competition.metric: competition.metric_kwargs}.items():
        sampling = sample_scores(build_metric(name, competition.task, **kwargs), run.targets, every, run.groups)
        for place, one in enumerate(("none", *methods)):
            numbers = {"score": float(sampling.scores[place]), "interval": list(sampling.interval(place))}
            if place:
                difference, low, high, _ = sampling.difference(0, place)
                numbers |= {"difference": difference, "difference_interval": [low, high]}
            found.setdefault(one, {})[name] = numbers
    for one, probs in zip(found, every, strict=True):
        error = expected_calibration_error(run.targets, probs, competition.task, run.groups)
        found[one]["ece"] = {"score": error.ece, "interval": list(error.interval), "chance": error.chance}
        found[one]["distinct"] = len(np.unique(probs))
        found[one]["fit"] = "none"
        if one != "none":
            found[one]["fit"] = CALIBRATIONS[one](run.targets, run.probs, competition.task)[1]
    result = {"run": str(path), "metric": competition.metric, "task": competition.task, "rows": len(run.ids),
              "groups": None if run.groups is None else len(np.unique(run.groups)), "methods": found}  # fmt: skip
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    result |= conclude(found, metric)
    if result["pays"] and folder.finished_folds():
        result["command"] = f"python infer.py run={path} infer.calibration={result['best']}"
    return result


def pays(found, metric):
    """Whether log loss and the competition's metric gain beyond chance by what is found of a method."""
    return _verdict(found["log_loss"], False) > 0 and _verdict(found[metric.name], metric.greater_is_better) > 0


def conclude(found, metric):
    """Return {"best", "pays", "sentences"}; best is of the lowest log loss, among those that pay where any does."""
    methods = [one for one in found if one != "none"]
    best = min(methods, key=lambda one: (not pays(found[one], metric), found[one]["log_loss"]["score"]))
    loss, score = found[best]["log_loss"], found[best][metric.name]
    changes = {1: "falls", 0: "does not change beyond chance", -1: "rises"}[_verdict(loss, False)]
    words = f"by {found[best]['fit']} log loss {changes}: {_difference(loss)}"
    if metric.name != "log_loss":
        changes = {1: "is better", 0: "does not change beyond chance", -1: "is worse"}
        changes = changes[_verdict(score, metric.greater_is_better)]
        words += f"; the competition's {metric.name} {changes}: {_difference(score)}"
    has_gained = pays(found[best], metric)
    sentences = [f"calibrating {'pays' if has_gained else 'does not pay'}: {words}"]
    before = found["none"]["distinct"]
    for name, one in found.items():
        if one["distinct"] < before / 2:
            ties = f"{one['distinct']} distinct values are left of {before}"
            sentences.append(f"{name} makes ties: {ties}, and metrics of rank such as roc_auc pay for them")
    return {"best": best, "pays": has_gained, "sentences": sentences}


def _verdict(numbers, greater_is_better):
    from src.evaluation.intervals import compute_verdict

    return compute_verdict(numbers["difference_interval"], greater_is_better)


def _difference(numbers):
    from src.evaluation.intervals import describe_difference

    return describe_difference(numbers["difference"], numbers["difference_interval"])


def describe(result):
    """Return the result as text of 80 columns."""
    groups = f" in {result['groups']} groups" if result["groups"] else ""
    lines = [f"{result['run']}: {result['rows']} out-of-fold rows{groups}; nested by fold"]
    for name, found in result["methods"].items():
        title = found["fit"] if len(found["fit"]) < _WIDTH else f"{name} in each column"
        lines += ["", f"  {title}"]
        for key in dict.fromkeys(("log_loss", result["metric"], "ece")):
            low, high = found[key]["interval"]
            chance = f"  (chance {found[key]['chance']:.5f})" if key == "ece" else ""
            lines.append(f"    {key:<18}{found[key]['score']:.5f}  95 % {low:.5f} to {high:.5f}{chance}")
    lines.append("")
    for sentence in result["sentences"]:
        lines += textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)
    return "\n".join([*lines, *([result["command"]] if "command" in result else [])])


if __name__ == "__main__":
    main(sys.argv[1:])
