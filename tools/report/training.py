"""Sections of one run's page about its training: folds, curves, time."""

import numpy as np

from src.analysis import figures
from src.files import load_json
from tools.report.elements import NONE, Drawing, Section, Table, number, plural, seconds_in_words, short, span


def build_folds(run):
    """Each fold's score with its interval, beside all rows'."""
    scores = run.scores
    if not scores:
        return None
    names, intervals = list(scores["folds"]), scores.get("fold_intervals", {})
    values = [scores["folds"][name] for name in names]
    sizes = [int((run.oof.folds == int(name)).sum()) for name in names]
    found = {
        name: {"score": value, "interval": intervals.get(name), "rows": size}
        for name, value, size in zip(names, values, sizes, strict=True)
    }
    section = Section("folds", "Folds", facts={"folds": found, "mean": scores["mean"]})
    if len(names) == 1:
        rest = f" of {run.num_folds}" if run.num_folds and run.num_folds > 1 else ""
        section.sentences.append(f"One fold{rest} is trained, so how much folds differ is not known yet.")
    else:
        ends = f"from {number(min(values))} to {number(max(values))}"
        section.sentences.append(f"{len(names)} folds score {ends}, {number(scores['mean'])} on average.")
        lines = [intervals.get(name) for name in names]
        figure = figures.draw_folds(names, values, lines, scores["mean"], run.metric.name)
        text = "Dots far from the line, beyond their bars, say that a fold holds other images than the rest."
        section.drawings.append(Drawing("folds", figure, text))
    rows = [
        [name, f"{one['rows']:,}", number(one["score"]), span(one["interval"]), *_describe_meta(run, name)]
        for name, one in found.items()
    ]
    header = ["fold", "rows", run.metric.name, "95 %", "epoch", "seconds"]
    section.tables.append(Table(header, rows))
    return section


def _describe_meta(run, name):
    meta = run.metas.get(int(name), {})
    epoch = meta.get("best_epoch" if run.config.train.select == "best" else "epoch")
    seconds = meta.get("seconds")
    return [NONE if epoch is None else epoch, NONE if seconds is None else f"{seconds:.1f}"]


def build_curves(run):
    """Training against validation over epochs, learning rate, gradient norms."""
    log = run.log
    if not len(log):
        return None
    section = Section("curves", "Training", facts={"curves": _tabulate_log(log)})
    has_val = "val_loss" in log and log["val_loss"].notna().any()
    if not has_val:
        section.sentences.append("Trained on every row, so there is no validation: the loss alone is known.")
    elif "all" in set(log["fold"]):
        section.sentences.append("The curves are those of the folds; fold=all has no validation and is left out.")
        log = log[log["fold"] != "all"]
    text = "Both fall: it learns. Training falls and validation rises: it learns the images by heart (overfitting)."
    section.drawings.append(Drawing("losses", figures.draw_losses(log), text))
    if has_val:
        way = "Higher" if run.metric.greater_is_better else "Lower"
        text = f"{way} is better. Still moving at the end: more epochs may help."
        section.drawings.append(Drawing("scores", figures.draw_scores(log, run.metric.name), text))
    if "lr" in log and (log["lr"] > 0).any():
        text = "How far each step goes: it rises in the warm-up, then follows schedule.name."
        section.drawings.append(Drawing("learning_rate", figures.draw_learning_rate(log), text))
    if any(name.startswith("gradient_") and (log[name] > 0).any() for name in log):
        text = "How strongly each stage is pulled. A stage near 0 learns nothing; a sudden peak is a step too large."
        section.drawings.append(Drawing("gradient_norms", figures.draw_gradient_norms(log), text))
    section.tables.append(_table_of_log(log, run.metric.name))
    return section


def _tabulate_log(log):
    names = [name for name in log if name not in ("fold", "epoch")]
    return {fold: one[["epoch", *names]].to_dict("list") for fold, one in log.groupby("fold", sort=False)}


def _table_of_log(log, metric_name):
    columns = {"train_loss": "training loss", "val_loss": "validation loss", "val_score": metric_name, "lr": "rate"}
    columns = {name: title for name, title in columns.items() if name in log and log[name].notna().any()}
    mean = log.groupby("epoch")[list(columns)].mean()
    if len(mean) > 60:
        mean = mean.iloc[np.unique(np.linspace(0, len(mean) - 1, 60).round().astype(int))]
    rows = [[epoch, *(short(value) if name == "lr" else number(value) for name, value in row.items())]
            for epoch, row in mean.iterrows()]  # fmt: skip
    return Table(["epoch", *columns.values()], rows, "The numbers: mean of the folds, by epoch", is_open=False)


def build_time(run):
    """What it took."""
    if not run.metas and not len(run.log):
        return None
    section, facts, rows = Section("time", "Time and machine"), {}, []
    for fold, log in run.log.groupby("fold", sort=False):
        speed = float(log["images_per_second"].mean()) if "images_per_second" in log else None
        meta = run.metas.get(int(fold) if fold.isdecimal() else fold, {})
        seconds = meta.get("seconds", float(log["seconds"].max()) if "seconds" in log else None)
        facts[fold] = {"epochs": int(log["epoch"].max()), "seconds": seconds, "images_per_second": speed}
        state = "finished" if meta else "not finished"
        time = NONE if seconds is None else seconds_in_words(seconds)
        rows.append([fold, facts[fold]["epochs"], time, NONE if speed is None else f"{speed:,.0f}", state])
    total = sum(one["seconds"] or 0 for one in facts.values())
    machine, execution = run.provenance.get("machine") or {}, _read_execution(run)
    device = machine.get("gpu") or machine.get("cpu")
    size = sum(path.stat().st_size for path in run.folder.path.glob("fold*/*.safetensors"))
    section.facts = {"time": {"folds": facts, "seconds": total, "bytes_of_weights": size, "machine": machine}}
    known = [seconds_in_words(total) + " of training" if total else "", f"on {device}" if device else "", execution]
    section.sentences.append(", ".join(one for one in known if one) + ".")
    if size:
        count = plural(len([*run.folder.path.glob("fold*/*.safetensors")]), "file")
        section.sentences.append(f"The weights take {size / 2**20:,.1f} MiB in {count}.")
    if rows:
        section.tables.append(Table(["fold", "epochs", "time", "images/s", ""], rows, is_text=(4,)))
    return section


def _read_execution(run):
    if not run.folder.execution.is_file():
        return ""
    found = load_json(run.folder.execution)
    return "; ".join(f"{one.get('precision')} on {device}" for device, one in found.items() if isinstance(one, dict))
