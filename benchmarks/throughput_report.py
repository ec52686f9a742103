"""Measurements of the systems -> ratios and tables; ratios are computed within a repetition, then summarized."""

import numpy as np
import pandas as pd

from benchmarks.report import spread, summarize, table_text

MEASURES = {  # of a run, and whether less of it is better
    "seconds": ("whole program, s", True),
    "first_epoch": ("until the first epoch's end, s", True),
    "later_epoch": ("a later epoch, s", True),
    "images_per_second": ("training batches, images/s", False),
    "later_images_per_second": ("of later epochs, images/s", False),
    "auc": ("ROC AUC", False),
}


def compute_measures(run):
    """Return {measure: value} of a run; measures that it does not have are left out."""
    ends, rates = run["epoch_ends"], [run["num_images"] / seconds for seconds in run["train_seconds"]]
    found = {"seconds": run["seconds"], "first_epoch": ends[0]}
    found["images_per_second"] = len(rates) * run["num_images"] / sum(run["train_seconds"])
    if len(ends) > 1:
        found["later_epoch"] = float(np.median(np.diff(ends)))
        found["later_images_per_second"] = float(np.median(rates[1:]))
    return found | ({"auc": round(run["auc"], 6)} if "auc" in run else {})  # some peers count in float32


def compute_ratios(runs, case):
    """Return a dict for each target of a case: how many times better ours was, in each repetition.

    Args:
        runs: of one case, from `throughput.run_case`; those with an error are left out.
        case: throughput_cases.Case.

    Returns:
        [{"system", "measure", "at_least", "values", "median", "min", "max", "is_reached"}]; is_reached is None
        without a target.
    """
    table, ratios = _tabulate(runs), []
    for target in case.targets:
        wide = table.reindex(columns=[target.measure])[target.measure].unstack("system")
        ours = next((label for label in wide if _name(label) == case.systems[0]), None)
        for label in [label for label in wide if ours and _name(label) == target.system]:
            ratio = wide[label] / wide[ours] if MEASURES[target.measure][1] else wide[ours] / wide[label]
            values = ratio.dropna().tolist()
            if values:
                row = {"system": label, "measure": target.measure, "at_least": target.at_least, "values": values}
                row |= spread(values)
                reached = None if target.at_least is None else row["median"] >= target.at_least
                ratios.append(row | {"is_reached": reached})
    return ratios


def _tabulate(runs):
    """Return the measures of the runs without an error, a row for each repetition and system; without trials."""
    done = [run for run in runs if "error" not in run and run["repetition"] >= 0]
    rows = [run["measures"] | {key: run[key] for key in ("repetition", "system")} for run in done]
    return pd.DataFrame(rows, columns=["repetition", "system", *MEASURES]).set_index(["repetition", "system"])


def _name(label):
    """lightning:num_workers=2 -> lightning."""
    return label.partition(":")[0]


def report_text(name, runs, case):
    """Return a case's two tables, the measures of each system and the ratios, and its failures."""
    failed = [f"{run['system']}, {_turn(run)}: {run['error']}" for run in runs if "error" in run]
    table = _tabulate(runs)
    lines = [f"{name}: median (smallest..largest)", _systems_text(table, case), "", _ratios_text(runs, case)]
    return "\n".join([*lines, *failed, *_find_bottleneck(table)])


def _turn(run):
    return f"repetition {run['repetition'] + 1}" if run["repetition"] >= 0 else "a trial"


def _systems_text(table, case):
    wanted = {"seconds", "auc", *(target.measure for target in case.targets)}
    table = table[[key for key in MEASURES if key in wanted]].dropna(axis="columns", how="all")
    rows = [["system", *(MEASURES[key][0] for key in table)]]
    for label, part in table.groupby("system", sort=False):
        cells = [summarize(part[key].dropna(), _digits(key)) if part[key].notna().any() else "" for key in table]
        rows.append([label, *cells])
    return table_text(rows)


def _ratios_text(runs, case):
    rows = [[f"{case.systems[0]} against", "in", "times better", "wanted", "reached"]]
    for ratio in compute_ratios(runs, case):
        wanted = "" if ratio["at_least"] is None else f"at least {ratio['at_least']:g}"
        reached = {None: "", True: "yes", False: "no"}[ratio["is_reached"]]
        times = summarize(ratio["values"], max(2, _digits(ratio["measure"])))
        rows.append([ratio["system"], MEASURES[ratio["measure"]][0], times, wanted, reached])
    return table_text(rows)


def _digits(measure):
    return 4 if measure == "auc" else 1


def _find_bottleneck(table):
    """Return a line that names the lower one of two limits, where the case has measured both."""
    rates = table["later_images_per_second"].groupby("system").median()
    if not {"our_loader", "pure_compute"} <= set(rates.index):
        return []
    data, compute = rates["our_loader"], rates["pure_compute"]
    slower = "the data" if data < compute else "the compute"
    return [f"the bottleneck is {slower}: data alone {data:.0f}, compute alone {compute:.0f} images/s"]
