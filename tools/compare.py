"""Whether one run is better than another: python -m tools.compare RUN_A RUN_B ... [output=FILE.json]

Reads the runs' out-of-fold predictions; nothing is trained, no image is read.
"""

import sys
import textwrap
from itertools import combinations
from pathlib import Path

from src.errors import UserError, one_line_errors

_WIDTH = 80
_FIRST_PAIR = ("score_a", "score_b", "difference", "interval", "correlation")  # of the file's top level
USAGE = """usage: python -m tools.compare RUN_A RUN_B ... [output=FILE.json]

  python -m tools.compare outputs/demo_default outputs/demo_scratch

Compares what runs (folders in which train.py has finished a fold), blends or
CSVs of out-of-fold predictions (id and a column for each target) predict for
the rows that all of them have: scores with 95 % intervals, each pair's
difference with its interval, how alike the predictions are, the settings that
differ. The intervals are DeLong's for ROC AUC and a bootstrap for other
metrics; rows of one group (patient, scene) count as one. Of more than two runs,
p is Holm's. output=FILE.json writes the same numbers.
"""


def main(words):
    """Run the command line `words`."""
    with one_line_errors():
        if {"--help", "-h"} & set(words):
            print(USAGE)
            return
        runs = [word for word in words if "=" not in word]
        outputs = [word.removeprefix("output=") for word in words if "=" in word]
        if unknown := [word for word in words if "=" in word and not word.startswith("output=")]:
            raise UserError(f"command line: {unknown[0]} is not known; write RUN_A RUN_B ... [output=FILE.json]")
        if len(runs) < 2:
            raise UserError(f"command line: {len(runs)} runs, wanted are 2 or more; write RUN_A RUN_B, folders of runs")
        result = compare_runs(runs)
        print(describe(result))
        if outputs:
            from src.files import save_json  # here, as is below: help does not wait for what computes

            save_json(Path(outputs[-1]), result)


def compare_runs(paths):
    """Return what output=FILE.json holds of two or more run folders."""
    import numpy as np

    from src.checkpointing.run_folder import describe_changes
    from src.evaluation.intervals import holm
    from src.evaluation.metrics import build_metric, spearman
    from src.evaluation.sampling import sample_scores
    from src.inference.prediction_sources import align, check_one_competition, load_sources

    predicted = load_sources(paths)
    competition = check_one_competition(predicted, "compare")
    configs, is_run = [one.config for one in predicted], [one.is_run for one in predicted]
    runs, num_left_out = align(predicted, "compare")
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    first = runs[0]
    found = sample_scores(metric, first.targets, [run.probs for run in runs], first.groups)
    columns = [metric.score_columns(first.targets, run.probs).tolist() for run in runs]
    taught = {str(path) for path, one in zip(paths, predicted, strict=True) if one.is_taught}
    pairs = []
    for a, b in combinations(range(len(runs)), 2):
        difference, low, high, p = found.difference(a, b)
        both = zip(runs[a].probs.T, runs[b].probs.T, strict=True)
        known = [spearman(*one) for one in both if np.ptp(one, axis=1).all()]  # constant predictions have none
        pairs.append({
            "run_a": str(paths[a]), "run_b": str(paths[b]), "score_a": found.scores[a], "score_b": found.scores[b],
            "difference": difference, "interval": [low, high], "p": p,
            "correlation": float(np.mean(known)) if known else None,
            "columns": dict(zip(first.target_names, np.subtract(columns[b], columns[a]).tolist(), strict=True)),
            "settings": describe_changes(configs[a], configs[b]) if is_run[a] and is_run[b] else None,
        })  # fmt: skip
    for pair, p in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = p
        pair["sentence"] = conclude(pair, metric, len(pairs) > 1)
        for name in sorted(taught & {pair["run_a"], pair["run_b"]}):
            pair["sentence"] += f"; the score of {name} is optimistic: its train.teacher has seen these labels"
    scores = {
        str(path): {"score": found.scores[k], "interval": list(found.interval(k))} for k, path in enumerate(paths)
    }
    facts = {"metric": metric.name, "method": found.method, "rows": len(first.ids), "rows_left_out": num_left_out,
             "groups": None if first.groups is None else found.num_units}  # fmt: skip
    return facts | {key: pairs[0][key] for key in _FIRST_PAIR} | {"runs": scores, "pairs": pairs}


def conclude(pair, metric, is_one_of_many):
    """Return one plain sentence on a pair, with the score of the better run minus that of the other."""
    from src.evaluation.intervals import describe_difference

    (low, high), sign = pair["interval"], 1 if metric.greater_is_better else -1
    is_b, is_clear = sign * (low + high) >= 0, low > 0 or high < 0
    better, (low, high) = (pair["run_b"], (low, high)) if is_b else (pair["run_a"], (-high, -low))
    numbers = describe_difference(pair["difference"] if is_b else 0 - pair["difference"], (low, high))
    if is_clear and is_one_of_many and pair["p_holm"] > 0.05:
        return f"too many runs are compared to call {better} better: {numbers}, p {pair['p_holm']:.2f} by Holm"
    return f"{better} is better: {numbers}" if is_clear else f"no evidence that {better} is better: {numbers}"


def describe(result):
    """Return the result as text of 80 columns."""
    units = f", {result['groups']} groups" if result["groups"] else ""
    left_out = f"; {result['rows_left_out']} that not all runs have are left out" if result["rows_left_out"] else ""
    title = f"{result['metric']} of {result['rows']} rows{units}, intervals by {result['method']}{left_out}"
    lines = [*textwrap.wrap(title, _WIDTH), ""]
    for path, run in result["runs"].items():
        low, high = run["interval"]
        lines.append(f"  {run['score']:.5f}  95 % {low:.5f} to {high:.5f}  {path}")
    for pair in result["pairs"]:
        lines += ["", *textwrap.wrap(pair["sentence"], _WIDTH)]
        correlation = "none, as one is constant" if pair["correlation"] is None else f"{pair['correlation']:.3f}"
        lines.append(f"  rank correlation of the predictions: {correlation}")
        if len(pair["columns"]) > 1:
            columns = (f"{name} {value:+.5f}" for name, value in pair["columns"].items() if value == value)
            lines += _wrap(f"by column: {', '.join(columns)}")
        if pair["settings"] is not None:
            lines += _wrap(f"settings: {pair['settings'] or 'none that change training'}")
    return "\n".join(lines)


def _wrap(text):
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


if __name__ == "__main__":
    main(sys.argv[1:])
