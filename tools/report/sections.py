"""Sections of one run's page that its out-of-fold predictions and logs fill, in the order in which a person asks."""

import numpy as np

from src.analysis import figures
from src.config.help import as_word
from src.config.settings import Config, settings, value_of
from src.evaluation.calibration_error import expected_calibration_error
from src.evaluation.judgement import describe_interval
from src.evaluation.metrics import round_to_grades
from tools.report.parts import NONE, Drawing, Section, Table, number, plural, seconds_in_words, share, short, span

_MOST_CLASSES = 30  # that a confusion table is drawn of
_MOST_COLUMNS = 200  # whose quantiles are found
_MOST_ROWS = 40  # of a table on the page; report.json has all
_MOST_CELLS = 300_000  # that the calibration error's bootstrap reads


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
        figure = figures.draw_folds(names, values, lines, scores["pooled"], run.metric.name)
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


def build_ranking(run):
    """ROC and precision-recall of each column, of classes only."""
    if run.oof is None or run.task == "regression":
        return None
    targets, probs, names, groups = run.targets, run.probs, run.column_names, run.oof.groups
    positives, known = (targets >= 0.5).sum(axis=0).tolist(), (~np.isnan(targets)).sum(axis=0).tolist()
    facts = {
        name: {"positives": positives[k], "negatives": known[k] - positives[k], "auc": auc, "average_precision": ap}
        for k, (name, (auc, ap)) in enumerate(zip(names, run.areas.tolist(), strict=True))
    }
    section = Section("ranking", "Ranking: ROC and precision", facts={"columns": facts})
    if len(run.rows_of_areas) < len(targets):
        section.sentences.append(f"These areas are of {len(run.rows_of_areas):,} rows, drawn at random.")
    if left_out := [name for k, name in enumerate(names) if k not in set(run.order)]:
        which = ", ".join(left_out[:5]) + (" ..." if len(left_out) > 5 else "")
        section.sentences.append(f"Without a positive and a negative there is no curve: {which}.")
    if run.order:
        units = "groups" if groups is not None else "rows"
        band = f"The band holds 95 % of bootstrap samples of {units}."
        which = " The columns with the lowest AUC are shown." if len(run.order) > 4 else ""
        figure = figures.draw_roc(targets, probs, names, groups, run.order)
        text = f"The nearer the upper left corner, the better; the dotted line is guessing.{which} {band}"
        section.drawings.append(Drawing("roc", figure, text))
        figure = figures.draw_precision_recall(targets, probs, names, groups, run.order)
        text = f"Of what is called positive, how much is (precision), while more of them are found (recall). {band}"
        section.drawings.append(Drawing("precision_recall", figure, text))
    left_out = [k for k in range(len(names)) if k not in set(run.order)]
    order = [names[k] for k in (*run.order, *left_out)]
    rows = [
        [name, *(f"{facts[name][key]:,}" for key in ("positives", "negatives")),
         *(number(facts[name][key]) for key in ("auc", "average_precision"))] for name in order[:_MOST_ROWS]
    ]  # fmt: skip
    title = (
        "By column" if len(order) <= _MOST_ROWS else f"The {_MOST_ROWS} of {len(order):,} columns with the lowest AUC"
    )
    header = ["column", "positives", "negatives", "AUC", "average precision"]
    section.tables.append(Table(header, rows, title, is_open=len(order) <= 3))
    return section


def build_calibration(run):
    """Whether probabilities come true."""
    if run.oof is None or run.task == "regression":
        return None
    targets, probs, groups = run.targets, run.probs, run.oof.groups
    if not (~np.isnan(targets)).any():
        return None
    values_a_row = 1 if run.task == "multiclass" else targets.shape[1]
    rows = figures.draw_rows(len(targets), max(1000, _MOST_CELLS // values_a_row))
    found = expected_calibration_error(
        targets[rows], probs[rows], run.task, None if groups is None else groups[rows], num_samples=400
    )
    facts = {"ece": found.ece, "chance": found.chance, "interval": found.interval, "rows": len(rows)}
    bins = {"confidence": found.confidences, "share": found.shares, "count": found.sizes}
    section = Section("calibration", "Calibration", facts={"calibration": facts | {"bins": bins}})
    of_what = "the most probable class" if run.task == "multiclass" else "a probability"
    drawn = f" ({len(rows):,} rows, drawn at random)" if len(rows) < len(targets) else ""
    section.sentences.append(
        f"On average {of_what} is off by {share(found.ece)} (calibration error, 95 % {share(found.interval[0])} to "
        f"{share(found.interval[1])}; perfect probabilities would show {share(found.chance)}){drawn}."
    )
    figure = figures.draw_calibration(found.confidences, found.shares, found.sizes)
    text = "On the dotted line a prediction of 80 % comes true 8 times of 10; below it the network is too sure. "
    text += f"Each dot holds about {found.sizes.mean():,.0f} predictions."
    section.drawings.append(Drawing("calibration", figure, text))
    rows = [
        [number(one, 3), number(other, 3), f"{int(size):,}"]
        for one, other, size in zip(found.confidences, found.shares, found.sizes, strict=True)
    ]
    section.tables.append(Table(["mean probability", "came true", "predictions"], rows, "The numbers", is_open=False))
    return section


def build_confusion(run):
    """What is taken for what, at the thresholds that the submission would use."""
    if run.oof is None or (run.task == "regression" and run.metric.takes != "classes"):
        return None
    if run.task == "regression":
        return _confuse_grades(run)
    section = Section("confusion", "Confusion")
    if run.task == "multiclass":
        section.sentences.append(
            "A row's label is its most probable class, by the thresholds that were found out of fold."
            if run.scores.get("are_found") else "A row's label is its most probable class."
        )  # fmt: skip
        return _confuse_classes(run, section)
    return _confuse_columns(run, section)


def _confuse_classes(run, section):
    is_known = ~np.isnan(run.targets).any(axis=1)
    truth, predicted = run.targets[is_known].argmax(axis=1), run.labels[is_known].argmax(axis=1)
    names, size = run.column_names, len(run.column_names)
    pairs, counts = np.unique(truth * size + predicted, return_counts=True)
    correct, total = int(counts[pairs // size == pairs % size].sum()), int(counts.sum())
    of_class = np.bincount(truth, minlength=size)
    wrong = [(int(count), int(pair // size), int(pair % size)) for pair, count in zip(pairs, counts, strict=True)
             if pair // size != pair % size]  # fmt: skip
    wrong.sort(key=lambda one: (-one[0], one[1:]))
    listed = [{"true": names[a], "predicted": names[b], "rows": count, "share": count / of_class[a]}
              for count, a, b in wrong]  # fmt: skip
    section.facts = {"confusion": {"correct": correct, "rows": total, "pairs": listed[:1000]}}
    section.sentences.append(f"{correct:,} of {total:,} rows are right ({share(correct / max(1, total))}).")
    if size <= _MOST_CLASSES:
        table = np.bincount(truth * size + predicted, minlength=size**2).reshape(size, size)
        section.facts["confusion"]["table"] = table
        text = "Rows are true classes. Off the diagonal are mistakes: the darker, the larger their share of the class."
        section.drawings.append(Drawing("confusion", figures.draw_confusion(table, names), text, size > 16))
    if listed:
        rows = [[one["true"], one["predicted"], f"{one['rows']:,}", share(one["share"])] for one in listed[:15]]
        title = "What is taken for what most often"
        section.tables.append(Table(["true", "predicted", "rows", "of the class"], rows, title, is_text=(1,)))
    return section


def _confuse_columns(run, section):
    facts, names, thresholds = {}, run.column_names, np.broadcast_to(run.decision.thresholds, run.probs.shape[1])
    for column, name in enumerate(names):
        known = ~np.isnan(run.targets[:, column])
        truth, label = run.targets[known, column] >= 0.5, run.labels[known, column]
        tp, fp = int((truth & label).sum()), int((~truth & label).sum())
        fn, tn = int((truth & ~label).sum()), int((~truth & ~label).sum())
        facts[name] = {
            "threshold": float(thresholds[column]), "tp": tp, "fp": fp, "fn": fn, "tn": tn,
            "precision": tp / (tp + fp) if tp + fp else None, "recall": tp / (tp + fn) if tp + fn else None,
            "f1": 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else None,
        }  # fmt: skip
    section.facts = {"confusion": facts}
    if "thresholds" not in run.scores:
        section.sentences.append(f"At a threshold of 0.5, as {run.metric.name} asks for none.")
    elif run.scores["are_found"]:
        section.sentences.append("At the thresholds that were found out of fold, which the submission uses.")
    else:
        section.sentences.append("At a threshold of 0.5: thresholds found out of fold are not shown to be better.")
    if len(names) == 1:
        one = facts[names[0]]
        table = np.array([[one["tn"], one["fp"]], [one["fn"], one["tp"]]])
        shown = run.config.competition.classes if len(run.config.competition.classes) == 2 else ["no", "yes"]
        text = "Rows are the truth: upper right are false alarms, lower left what was missed."
        section.drawings.append(Drawing("confusion", figures.draw_confusion(table, shown), text))
    order = sorted(facts, key=lambda name: (facts[name]["f1"] is None, facts[name]["f1"]))
    rows = [
        [name, short(one["threshold"]), *(f"{one[key]:,}" for key in ("tp", "fp", "fn", "tn")),
         *(number(one[key], 3) for key in ("precision", "recall", "f1"))]
        for name, one in ((name, facts[name]) for name in order[:_MOST_ROWS])
    ]  # fmt: skip
    header = ["column", "threshold", "found", "false alarms", "missed", "rightly not", "precision", "recall", "F1"]
    title = "" if len(order) <= _MOST_ROWS else f"The {_MOST_ROWS} of {len(order):,} columns with the lowest F1"
    section.tables.append(Table(header, rows, title))
    return section


def _confuse_grades(run):
    section, column = Section("confusion", "Confusion"), 0
    known = ~np.isnan(run.targets[:, column])
    truth = round_to_grades(run.targets[known, column], run.targets[known, column])
    label = np.clip(run.labels[known, column], truth.min(), truth.max())
    size = int(truth.max() - truth.min()) + 1
    if size > _MOST_CLASSES:
        return None
    table = np.bincount((truth - truth.min()) * size + label - truth.min(), minlength=size**2).reshape(size, size)
    names = [str(grade) for grade in range(truth.min(), truth.max() + 1)]
    section.facts = {"confusion": {"table": table, "grades": names}}
    found = "found out of fold" if run.scores.get("are_found") else "halfway between grades"
    section.sentences.append(f"{run.column_names[0]} in grades, by thresholds {found}.")
    text = "Rows are true grades. Far from the diagonal are the mistakes that cost most."
    section.drawings.append(Drawing("confusion", figures.draw_confusion(table, names), text))
    return section


def build_distributions(run):
    """How probabilities are distributed, by the truth; of regression predicted against true values and residuals."""
    if run.oof is None:
        return None
    if run.task == "regression":
        return _build_residuals(run)
    section = Section("distributions", "Distributions")
    many = "" if len(run.column_names) == 1 else (
        "The dot is the median, the thick line the middle half, the thin one 5 to 95 %"
        + (", of the columns with the lowest AUC. " if len(run.column_names) > 12 else ". ")
    )  # fmt: skip
    text = f"{many}The less the two colours overlap, the better the column is told from the rest."
    if not run.order:
        return None
    figure = figures.draw_distributions(run.targets, run.probs, run.column_names, run.order)
    section.drawings.append(Drawing("distributions", figure, text))
    facts, rows = {}, []
    for column in run.order[:_MOST_COLUMNS]:
        name = run.column_names[column]
        known = ~np.isnan(run.targets[:, column])
        for side, chosen in (("positive", run.targets[:, column] >= 0.5), ("negative", run.targets[:, column] < 0.5)):
            values = run.probs[known & chosen, column]
            if len(values):
                quantiles = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
                facts.setdefault(name, {})[side] = dict(zip(("q05", "median", "q95"), quantiles, strict=True))
                rows.append([name, side, f"{len(values):,}", *(number(one, 4) for one in quantiles)])
    section.facts = {"distributions": facts}
    header = ["column", "truth", "rows", "5 %", "median", "95 %"]
    section.tables.append(Table(header, rows[:_MOST_ROWS], "The numbers", is_open=False, is_text=(1,)))
    return section


def _build_residuals(run):
    section, facts = Section("distributions", "Predicted and true"), {}
    for column, name in enumerate(run.column_names):
        known = ~np.isnan(run.targets[:, column])
        truth, predicted = run.targets[known, column], run.probs[known, column]
        if not len(truth):
            continue
        errors = predicted - truth
        facts[name] = {
            "rows": len(truth), "mean_error": float(errors.mean()), "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())), "deviation_of_targets": float(truth.std()),
        }  # fmt: skip
        if column < 3:
            text = "On the dotted line the prediction is right. A flatter cloud: it keeps to the middle."
            section.drawings.append(
                Drawing(f"predicted_{column}", figures.draw_predicted(truth, predicted, name), text)
            )
            text = "A peak at 0 is good; a mean apart from 0 says that all predictions are too high or too low."
            section.drawings.append(
                Drawing(f"residuals_{column}", figures.draw_residuals(truth, predicted, name), text)
            )
    section.facts = {"residuals": facts}
    keys = ("mean_error", "mae", "rmse", "deviation_of_targets")
    rows = [[name, f"{one['rows']:,}", *(short(one[key]) for key in keys)] for name, one in facts.items()]
    header = ["column", "rows", "mean error", "MAE", "RMSE", "deviation of the targets"]
    section.tables.append(Table(header, rows[:_MOST_ROWS]))
    return section


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
    from src.files import load_json

    if not run.folder.execution.is_file():
        return ""
    found = load_json(run.folder.execution)
    return "; ".join(f"{one.get('precision')} on {device}" for device, one in found.items() if isinstance(one, dict))


def list_changes(config):
    """Return {key: (value, default)} of the settings that differ from their defaults, as words."""
    found = {}
    for key in settings():
        value, default = value_of(config, key), value_of(Config(), key)
        if value != default and not key.startswith(("competition.", "infer.output")):
            found[key] = (as_word(value), as_word(default))
    return found


def build_settings(run):
    """Every setting that differs from its default."""
    changes = list_changes(run.config)
    meanings = {key: settings()[key].metadata["meaning"].partition(";")[0] for key in changes}
    rows = [[f"{key}={value}", default, meanings[key]] for key, (value, default) in changes.items()]
    section = Section("settings", "Settings")
    competition = {
        key: as_word(value_of(run.config, key)) for key in settings()
        if key.startswith("competition.") and value_of(run.config, key) != value_of(Config(), key)
    }  # fmt: skip
    section.facts = {"settings": {key: value for key, (value, _) in changes.items()}, "competition": competition}
    section.sentences.append(f"{plural(len(changes), 'setting')} of {len(settings())} differ from the defaults.")
    header = ["setting", "default", "meaning"]
    section.tables.append(Table(header, rows, "What differs", is_open=len(rows) <= 12, is_text=(1, 2)))
    rows = [[f"{key}={value}"] for key, value in competition.items()]
    section.tables.append(Table(["setting"], rows, "The competition's own settings", is_open=False))
    return section


def build_reproduction(run):
    """The commands, the code and the versions that made the run."""
    section, known = Section("reproduce", "How to reproduce it"), run.provenance
    commands, blend = [], run.folder.blend
    if run.kind == "blend":
        from src.files import load_json

        commands.append(load_json(blend).get("command"))
    elif run.kind == "soup":
        from src.files import load_json

        members = " ".join(map(str, load_json(run.folder.soup).get("members", ())))
        commands.append(f"python -m tools.soup {members} name={run.name}")
    else:
        commands.append(known.get("command"))
    commands = [one for one in commands if one]
    commit, is_dirty = known.get("commit"), known.get("is_dirty")
    lines = [*([f"git checkout {commit}"] if commit else []), *commands]
    if run.kind == "run" and commands:
        lines.append(f"python infer.py run={run.folder.path}")
    section.facts = {"reproduce": {"commands": lines, "commit": commit, "is_dirty": is_dirty,
                                   "versions": known.get("versions"), "tables": known.get("tables")}}  # fmt: skip
    if is_dirty:
        section.sentences.append("The code was changed since that commit, so the commit alone does not bring it back.")
    if not commands:
        section.sentences.append("The command is not known: the folder holds no provenance.json.")
    if lines:
        section.commands.append(("In a copy of this repository:", "\n".join(lines)))
    versions = known.get("versions") or {}
    if versions:
        rows = [[name, version] for name, version in versions.items()]
        section.tables.append(Table(["library", "version"], rows, "Versions", is_open=False))
    tables = {name: one for name, one in (known.get("tables") or {}).items() if one}
    if tables:
        rows = [[name, one[:16]] for name, one in tables.items()]
        section.tables.append(Table(["table", "SHA-256"], rows, "Tables that it read", is_open=False))
    if later := known.get("later"):
        keys = sorted({key for one in later for key in one})
        section.sentences.append(f"Later commands on this run had another {', '.join(keys)} (provenance.json).")
    return section


def describe_score(run):
    """Return (the score in large letters, lines below it) of the card."""
    from src.evaluation.judgement import describe_judgement

    scores, name = run.scores, run.metric.name
    if not scores:
        done = plural(int(run.log["epoch"].max()), "epoch") if len(run.log) else "no epoch"
        if list(run.metas) == ["all"]:
            return "no score", ["One network was trained on every row (fold=all), so no rows are left to score it on."]
        return "no score yet", [f"No fold is finished ({done} done); the same command resumes it."]
    lines = [f"{name}, out-of-fold, 95 % {describe_interval(scores['interval'])}"]
    if "by_unit" in scores:
        unit, how = run.config.competition.predict_by, run.config.competition.predict_with
        interval = describe_interval(scores["by_unit_interval"])
        lines.append(f"{how} of the rows of a {unit}: {number(scores['by_unit'])}, 95 % {interval}")
    if run.config.train.teacher:
        lines.append("This score is optimistic: networks of train.teacher have seen the labels of the rows it is of.")
    sentences = describe_judgement(run.metric, scores, run.oof.groups is not None)
    return number(scores["pooled"]), [*lines, *(f"{one[0].upper()}{one[1:]}." for one in sentences)]
