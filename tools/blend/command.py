"""Inputs -> judged candidates -> the chosen one, printed and written as a run's folder."""

import os
import textwrap
from dataclasses import replace

import numpy as np

from src.competition.paths import locate
from src.competition.predictions import TestSet
from src.competition.submission import load_sample
from src.competition.tables import (
    ImageTable,
    load_test_table,
    load_train_table,
    read_groups,
    read_ids,
    read_table,
)
from src.competition.targets import match_ids
from src.config.load import load_saved_config
from src.errors import UserError
from src.evaluation import blending
from src.evaluation.blending import Inputs, find_copies, find_skill, list_methods
from src.evaluation.intervals import compute_verdict, describe_difference, holm
from src.evaluation.judgement import judge_run
from src.evaluation.metrics import build_metric
from src.evaluation.sampling import sample_scores
from src.inference.prediction_folder import check_place, write_folder, write_test
from src.inference.prediction_sources import NoTestPredictions, align, align_test, check_one_competition, load_sources

_WIDTH = 80


def blend_runs(paths, options):
    """Blend the inputs and write outputs/NAME; return what blend.json holds."""
    words = [f"competition.root={options['competition.root']}"] if options["competition.root"] else []
    predicted = load_sources(list_once(paths), words)
    competition = check_one_competition(predicted, "blend")
    first = next(one for one in predicted if one.config is not None)
    words += [f"name={options['name']}", f"output_dir={options['output_dir'] or first.config.output_dir}"]
    config = load_saved_config(first.path, words)
    taught = [one for one in predicted if one.is_taught]
    config = replace(config, fold=None, train=taught[0].config.train if taught else config.train)
    check_place(config.run_folder, "blend", options["overwrite"])
    if os.path.realpath(config.run_folder) in [os.path.realpath(one.path) for one in predicted]:
        raise UserError(f"{config.run_folder}: is an input, which the blend would replace; choose name=ANOTHER")
    runs, num_left_out = align(predicted, "blend")
    oof = runs[predicted.index(first)]
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    print(f"{metric.name} of {len(oof.ids)} rows, {len(predicted)} inputs")
    if num_left_out:
        print(f"{num_left_out} rows that not all inputs have are left out")
    if len({run.folds.tobytes() for run in runs}) > 1:
        print(f"the runs' folds differ; weights are nested by those of {first.path}")
    test = load_test(predicted)
    inputs, pruned = build_inputs(metric, oof, runs, predicted, options)
    used = [one for one in predicted if one.name not in pruned]
    if len(used) == 1 and not options["stack"]:
        print(f"{used[0].name} is the only input left, so that there is nothing to blend")
    methods = choose_methods(inputs, options)
    candidates = {method: blending.judge(method, inputs) for method in methods}
    if options["stack"]:
        from tools.blend.stack import judge_stack  # here, as it is not always wanted

        kept = [predicted.index(one) for one in used]
        candidates["stack"], lines = judge_stack(inputs, oof, test, kept, options, competition)
        if lines:
            print(*lines, sep="\n")
    result, chosen = choose(candidates, inputs, used, options)
    candidate = candidates[chosen]
    for one in taught:
        result["sentences"].append(f"{one.name} scores too high, and so the blend: its train.teacher saw these labels")
    result |= list_weights(candidate.blend, inputs, oof.target_names, used, predicted, pruned)
    result |= {"inputs": {one.name: one.path for one in predicted}, "command": options["command"]}
    result |= candidate.blend.details
    if isinstance(candidate.blend, blending.Blend):  # a stack is no set of numbers
        result["apply"] = describe_blend(candidate.blend, [one.name for one in used], oof.target_names)
    probs = None
    if test is not None:
        values = test[1][[predicted.index(one) for one in used]]
        probs = candidate.blend.predict(values)
    print(describe(result))
    nested = replace(oof, probs=candidate.nested)
    write(config, competition, metric, nested, test, probs, result, candidate.blend.space)
    return result


def describe_blend(blend, names, target_names):
    """Return what makes the inputs' predictions one, as plain containers and to the last bit, for `tools.bundle`."""
    given = {"inputs": names, "targets": list(target_names), "method": blend.method, "space": blend.space}
    given |= {"exponent": blend.exponent, "is_one_class": blend.is_one_class}
    arrays = {name: getattr(blend, name) for name in ("weights", "scale", "intercept")}
    return given | {name: None if one is None else one.tolist() for name, one in arrays.items()}


def list_weights(blend, inputs, target_names, used, predicted, pruned):
    """Return the weights of all inputs, those of each column where they differ, and why some have none."""
    weights = np.zeros((len(target_names), len(predicted)))
    weights[:, [predicted.index(one) for one in used]] = blend.weights
    skill = (
        find_skill(inputs, np.arange(len(inputs.targets))) if inputs.drops_chance else np.ones(len(used), dtype=bool)
    )
    is_idle = ~blend.weights.any(axis=0)
    for one, idle, is_better in zip(used, is_idle, skill, strict=True):
        if idle:
            pruned = pruned | {one.name: "gets no weight" if is_better else "no better than chance"}
    names = [one.name for one in predicted]
    result = {"weights": dict(zip(names, weights.mean(axis=0).tolist(), strict=True)), "pruned": pruned}
    if np.ptp(weights, axis=0).max() > 0:
        rows = [dict(zip(names, row, strict=True)) for row in weights.tolist()]
        result["columns"] = dict(zip(target_names, rows, strict=True))
    return result


def list_once(paths):
    """Return the paths, each once; a line about those that were named again."""
    found = {}
    for path in paths:
        if (place := os.path.realpath(path)) in found:
            print(f"{path}: is named twice and counts once")
        found.setdefault(place, path)
    return list(found.values())


def load_test(predicted):
    """Return (ids, predictions (M, N, C)) of the test rows; None, and a line, where an input has none."""
    missing = []
    for one in predicted:
        try:
            one.load_test()
        except NoTestPredictions as error:
            missing.append(str(error))
    if missing:
        print(*missing, "so that the blend is scored, and no submission is written", sep="\n")
        return None
    ids, probs, notes = align_test(predicted)
    if notes:
        print(*notes, sep="\n")
    return ids, probs


def build_inputs(metric, oof, runs, predicted, options):
    """Return (Inputs of those that are no copies, {name: why it is pruned})."""
    parts = np.unique(oof.folds, return_inverse=True)[1]
    if parts.max() == 0:
        units = np.unique(np.arange(len(parts)) if oof.groups is None else oof.groups, return_inverse=True)[1]
        parts = np.random.default_rng(options["seed"]).permutation(units.max() + 1)[units] % min(5, units.max() + 1)
        print(f"one fold only: weights are nested over {parts.max() + 1} random parts of its rows instead")
    drops_chance = options["method"] not in ("mean", "rank", "power")
    how = {"per_column": options["per_column"], "exponent": options["power"], "seed": options["seed"]}
    how["ranked_by"] = oof.folds if options["ranks"] == "fold" else None
    values = np.stack([run.probs for run in runs])
    inputs = Inputs(metric, oof.targets, values, parts, oof.groups, drops_chance=drops_chance, **how)
    pruned = {}
    if options["prune"] != "off":
        for one, like in sorted(find_copies(inputs, options["prune"]).items()):
            pruned[predicted[one].name] = f"correlates with {predicted[like].name}"
        kept = [k for k, one in enumerate(predicted) if one.name not in pruned]
        inputs = replace(inputs, values=values[kept])
    return inputs, pruned


def choose_methods(inputs, options):
    """Return the methods to judge; a UserError where the one that is asked for does not fit."""
    metric, method = inputs.metric, options["method"]
    methods = list_methods(inputs)
    if not methods:
        raise UserError(f"inputs: {metric.name} needs probabilities, found values outside 0 to 1; write probabilities")
    if method == "auto" or method in methods:  # of one input all are alike
        return methods if len(inputs.values) > 1 else [one for one in methods if one in (methods[0], method)]
    reason = f"{metric.name} looks at more than the order"
    if not inputs.are_probs:
        reason = "an input has values outside 0 to 1, no probabilities"
    elif method in ("logistic", "linear", "power"):
        reason = f"competition.task is {metric.task}"
    raise UserError(f"method={method}: {reason}; choose one of auto, {', '.join(methods)}")


def choose(candidates, inputs, used, options):
    """Return (what blend.json holds of the scores, the name of the chosen candidate)."""
    metric, names = inputs.metric, list(candidates)
    sign = 1 if metric.greater_is_better else -1
    singles = [metric.score(inputs.targets, one) for one in inputs.values]
    best = max(range(len(singles)), key=lambda k: np.nan_to_num(sign * singles[k], nan=-np.inf))
    nested = [candidates[name].nested for name in names]
    found = sample_scores(metric, inputs.targets, [*nested, inputs.values[best]], inputs.groups)
    single, plain = len(names), names.index("mean" if "mean" in names else "rank")
    against_mean = [found.difference(plain, k) for k in range(len(names))]
    others = [k for k in range(len(names)) if k != plain]
    corrected = dict(zip(others, holm([against_mean[k][3] for k in others]), strict=True))
    chosen = plain
    if options["stack"]:
        chosen = names.index("stack")
    elif options["method"] != "auto":
        chosen = names.index(options["method"])
    elif better := [k for k in others if sign * against_mean[k][0] > 0 and corrected[k] < 0.05]:
        chosen = max(better, key=lambda k: sign * found.scores[k])
    in_sample = sample_scores(metric, inputs.targets, [candidates[names[chosen]].in_sample], inputs.groups)
    scores = {
        name: {
            "nested": float(found.scores[k]),
            "interval": list(found.interval(k)),
            "in_sample": _at_least(metric.score(inputs.targets, candidates[name].in_sample), found.scores[k], sign),
            "against_mean": against_mean[k][0],
            "against_mean_interval": list(against_mean[k][1:3]),
        }
        for k, name in enumerate(names)
    }
    difference, low, high, _ = found.difference(single, chosen)
    result = {
        "method": names[chosen],
        "metric": metric.name,
        "rows": len(inputs.targets),
        "nested": float(found.scores[chosen]),
        "nested_interval": list(found.interval(chosen)),
        "in_sample": scores[names[chosen]]["in_sample"],
        "in_sample_interval": list(in_sample.interval(0)),
        "best_single": float(found.scores[single]),
        "best_single_interval": list(found.interval(single)),
        "best_single_name": used[best].name,
        "against_single": difference,
        "against_single_interval": [low, high],
        "candidates": scores,
        "sentences": conclude(names, chosen, plain, against_mean, sign, (difference, low, high), used[best].name),
    }
    return result, names[chosen]


def conclude(names, chosen, plain, against_mean, sign, against_single, single):
    """Return plain sentences: on the chosen method against the mean, and on the blend against the best input."""
    mean, sentences = names[plain], []
    if chosen != plain:
        difference, *interval, _ = against_mean[chosen]
        texts = {1: f"{names[chosen]} is better than the plain {mean}", 0: f"the plain {mean} is as good"}
        text = texts.get(compute_verdict(interval, sign > 0), f"the plain {mean} is better")
        sentences.append(f"{text} ({describe_difference(difference, interval)})")
    elif len(names) > 1:
        sentences.append(f"no other is shown to be better than the plain {mean}")
    difference, *interval = against_single
    verdict = {1: "is better than", 0: "is not shown to be better than", -1: "is worse than"}
    verdict = verdict[compute_verdict(interval, sign > 0)]
    sentences.append(f"the blend {verdict} {single} alone ({describe_difference(difference, interval)})")
    return sentences


def describe(result):
    """Return the result as text of 80 columns."""
    lines = ["", f"  {'method':<18} {'nested':>8}  {'95 %':<18} {'in-sample':>9}  {'to the mean':>11}"]
    for name, one in result["candidates"].items():
        low, high = one["interval"]
        mark = "*" if name == result["method"] else " "
        lines.append(
            f"{mark} {name:<18} {one['nested']:8.5f}  {low:.5f} to {high:.5f} {one['in_sample']:9.5f}  "
            f"{one['against_mean']:+11.5f}"
        )
    low, high = result["best_single_interval"]
    lines += [f"  {'best single':<18} {result['best_single']:8.5f}  {low:.5f} to {high:.5f}", ""]
    for name, weight in result["weights"].items():
        reason = f"  ({result['pruned'][name]})" if name in result["pruned"] else ""
        lines.append(f"  {weight:.3f}  {name}{reason}")
    for name, share in result.get("metadata", {}).items():
        lines.append(f"  {share:.3f}  {name} (column; its share beside the predictions)")
    for sentence in result["sentences"]:
        lines += textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)
    return "\n".join(lines)


def write(config, competition, metric, oof, test, probs, result, space):
    """Write the blend's folder, with the submission where there are test predictions; oof: OutOfFold, nested."""
    place, lines = config.run_folder, []
    scores = score(metric, oof, competition, result, None if test is None else len(test[0]))
    with write_folder(config, "blend", oof, scores, result) as folder:
        if probs is not None:
            units = load_units(competition, test[0], "test_table", oof.target_names)
            rows = ImageTable(test[0], None, None, oof.target_names, None, None, units=units)
            test_set = TestSet(competition, metric, rows, load_sample(competition))
            lines = write_test(folder, place, test_set, probs, scores, are_ranks=space == "ranks")
    print(f"{place}/oof.csv: nested {metric.name} {result['nested']:.5f}", *lines, sep="\n")


def score(metric, oof, competition, result, num_test):
    """Return what scores.json holds of nested predictions, as training has it; num_test: test rows or None."""
    by_fold = {
        str(fold): metric.score(oof.targets[oof.folds == fold], oof.probs[oof.folds == fold])
        for fold in np.unique(oof.folds)
    }
    mean = float(np.mean(list(by_fold.values())))
    scores = {"metric": metric.name, "select": "blend", "mean": mean, "folds": by_fold, "seconds": 0.0}
    units = load_units(competition, oof.ids, "train_table", oof.target_names)
    judged = judge_run(metric, oof, competition, num_test, units)
    return scores | judged | {"interval": result["nested_interval"]}


def load_units(competition, ids, key, target_names):
    """Return what competition.predict_by makes of the rows of train_table or test_table, `key`, (N,) str, or None."""
    if not competition.predict_by:
        return None
    if not getattr(competition, key):  # the rows are those of the image files
        table = load_train_table(competition) if key == "train_table" else load_test_table(competition, target_names)
        units, known, where = table.units, table.ids, f"competition.{key}"
    else:
        where = locate(competition.root, getattr(competition, key))
        rows = read_table(where)
        rows.columns = rows.columns.str.strip()
        units = read_groups(rows, competition, "predict_by", where, must=key == "test_table")
        known = read_ids(rows, competition.id, where)
    places, missing, _ = match_ids(ids, known)
    if len(missing):
        found = f"{len(missing)} of {len(ids)} predicted ids are not there (first: {missing[0]})"
        raise UserError(f"{where}: {found}; infer the runs again with this table")
    return None if units is None else units[places]


def _at_least(value, bound, sign):
    """The in-sample score; below the nested one it is only by chance."""
    return float(sign * max(sign * value, sign * bound))
