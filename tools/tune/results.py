"""What a search leaves: trials.csv, the best settings as recipe.yaml, the honest score, tune.json and the report."""

import shlex
import textwrap
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import yaml

from src.checkpointing.run_folder import RunFolder, differing_settings
from src.config.load import load_config
from src.config.settings import REPOSITORY, value_of
from src.errors import UserError, listing
from src.evaluation.intervals import describe_difference
from src.evaluation.judgement import describe_interval, judge
from src.evaluation.out_of_fold import load_out_of_fold
from src.evaluation.sampling import sample_scores
from src.files import save_json, save_table, save_text
from src.training.provenance import read_commit
from tools.tune.study import compute_importances, hide_password


def save_trials(options, search):
    """Write trials.csv: a row for each trial that counts and has ended."""
    rows = []
    for one in search.trials("COMPLETE", "PRUNED", "FAIL"):
        state = {"FAIL": "failed"}.get(one.state.name, one.state.name.lower())
        score = one.value if state == "complete" else None
        row = {"number": one.number, "state": state, "score": score, **describe(options, one)}
        row |= {"seconds": one.user_attrs.get("seconds"), "folds": " ".join(one.user_attrs.get("folds", {}))}
        rows.append(row | {"reason": one.user_attrs.get("reason", "")})
    save_table(options.folder / "trials.csv", pd.DataFrame(rows))
    return rows


def save_results(options, search, metric, folds, has_first):
    """Write the results of what is complete and print them; has_first: trial 0 is the recipe itself.

    Raises:
        UserError: no trial is complete.
    """
    rows, best, folder = save_trials(options, search), search.best(), options.folder
    if best is None:
        reasons = [row["reason"] for row in rows if row["state"] == "failed"]
        found = f"no trial is complete, {len(reasons)} failed" + (f" ({reasons[-1]})" if reasons else "")
        raise UserError(f"{folder}: {found}; widen the space, or set a larger trials=")
    trials, is_pruned = search.trials("COMPLETE"), bool(search.trials("PRUNED"))
    plain = trials[0] if has_first and trials[0].number == 0 else None
    judged = judge_search(metric, trials, folds, is_pruned, lambda one: load_predictions(folder, one, folds), plain)
    found = {
        "study": folder.name, "storage": hide_password(search.url), "metric": metric.name,
        "trials": pd.Series([row["state"] for row in rows]).value_counts().to_dict(),
        "best": {"number": best.number, "score": best.value, "settings": describe(options, best)},
        "recipe_score": plain and plain.value,
        **judged,
        "importances": compute_importances(search.study),
        "seed": options.config.seed, "pruner": options.pruner, "optuna": optuna.__version__,
        "commit": read_commit(REPOSITORY)[0], "folds": folds,
        "seconds": round(sum(row["seconds"] or 0 for row in rows), 1),
    }  # fmt: skip
    found["next"] = save_recipe(options, found)
    from tools.tune.report import save_report  # here, as matplotlib takes half a second

    save_json(folder / "tune.json", found)
    lines = describe_results(metric, found)
    save_report(options, search, metric, found, rows, lines)
    for line in [*lines, str(folder / "recipe.yaml"), str(folder / "report.html")]:
        print(textwrap.fill(line, 80, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))
    if others := search.trials("RUNNING"):
        print(f"trials of other commands are running: {listing([one.number for one in others])}")
    print(f"next: {found['next']}")


def judge_search(metric, trials, folds, is_pruned, load, plain=None):
    """Return {honest, honest_interval, honest_folds, chosen, best_there, gain, gain_interval, note}; None: unknown.

    For each fold the trial is chosen that is best on the other folds, and its predictions of that fold are pooled: the
    fold had no part in choosing. Of a metric of ranks, the probabilities become ranks within each fold where several
    trials are chosen: a user takes one trial, whose probabilities agree. Pruning looks at the first fold, so that where
    trials were pruned, fewer are left that are bad there: it is then left out. What remains is that the sampler has
    seen all folds' scores.

    Args:
        trials: complete FrozenTrials, whose user_attrs hold `folds` and `without` of search.score_trial.
        load: a trial -> its OutOfFold of all folds; None where it lies elsewhere.
        plain: the trial that the gain is over; None: there is none.

    Reference: Cawley and Talbot, On Over-fitting in Model Selection and Subsequent Selection Bias in Performance
    Evaluation, 2010, JMLR 11, section 5; here the choice alone is nested, not the search.
    """
    keys = ("honest", "honest_interval", "best_there", "gain", "gain_interval")
    found = dict.fromkeys(keys) | {"honest_folds": folds[1:] if is_pruned else folds, "chosen": {}, "note": ""}
    sign = 1 if metric.greater_is_better else -1
    if len(folds) < 2:
        found["honest_folds"] = []
        return found | {"note": "one fold shows no honest score; that of the best settings' other folds is one"}
    best = max(trials, key=lambda one: (sign * one.value, -one.number))
    chosen = {}
    for fold in found["honest_folds"]:
        chosen[fold] = max(trials, key=lambda one: (sign * one.user_attrs["without"][str(fold)], -one.number))
    found["chosen"] = {str(fold): one.number for fold, one in chosen.items()}
    predicted = {one.number: load(one) for one in (*chosen.values(), best, *([plain] if plain else []))}
    away = sorted({number for number in found["chosen"].values() if predicted[number] is None})
    if away:
        mean = np.mean([one.user_attrs["folds"][str(fold)] for fold, one in chosen.items()])
        where = listing(sorted({one.user_attrs.get("host", "") for one in chosen.values() if one.number in away}))
        note = f"mean of the folds, as predictions of trials {listing(away)} are on {where}"
        return found | {"honest": float(mean), "note": note}
    ranks = metric.is_ranking and len(set(found["chosen"].values())) > 1  # their probabilities need not agree
    nested = _join(predicted, {fold: one.number for fold, one in chosen.items()}, ranks)
    judged = judge(metric, nested)
    found |= {"honest": judged["pooled"], "honest_interval": judged["interval"]}
    if predicted[best.number] is not None:
        same = _join(predicted, dict.fromkeys(chosen, best.number), ranks)
        found["best_there"] = float(metric.score(same.targets, same.probs))
    if ranks:
        plainly = _join(predicted, {fold: one.number for fold, one in chosen.items()}, as_ranks=False)
        pooled = float(metric.score(plainly.targets, plainly.probs))
        found["note"] = (
            f"it pools ranks within each fold, as trials' probabilities need not agree (as they are: {pooled:.5f})"
        )
    if plain and predicted[plain.number] is not None:
        probs = _join(predicted, dict.fromkeys(chosen, plain.number), ranks).probs
        sampling = sample_scores(metric, nested.targets, [probs, nested.probs], nested.groups)
        found["gain"], low, high, _ = sampling.difference(0, 1)
        found["gain_interval"] = [low, high]
    return found


def load_predictions(folder, trial, folds):
    """Return a trial's OutOfFold of some folds, None where its run is not in this folder."""
    run = RunFolder(folder / "trials" / f"trial_{trial.number:04d}")
    if not run.oof.is_file():
        return None
    oof = load_out_of_fold(run.oof, run.folds)
    return oof.take(np.isin(oof.folds, folds))


def _join(predicted, chosen, as_ranks):
    """Return the OutOfFold of some folds, {fold: number of the trial whose predictions of it count}."""
    oof = next(predicted[number] for number in chosen.values())  # all have the same rows
    probs = np.select(
        [(oof.folds == fold)[:, None] for fold in chosen], [predicted[one].probs for one in chosen.values()]
    )
    if as_ranks:
        probs = pd.DataFrame(probs).groupby(oof.folds).rank(pct=True).to_numpy()
    return replace(oof, probs=probs).take(np.isin(oof.folds, list(chosen)))


def describe(options, trial):
    """Return {key: text} of a trial's settings, "" of one that it has not got."""
    given = ((key, one, trial.params.get(key)) for key, one in options.parameters.items())
    return {key: "" if value is None else one.word(value).partition("=")[2] for key, one, value in given}


def describe_results(metric, found):
    """Return sentences about the scores of a search."""
    best, count = found["best"], sum(found["trials"].values())
    lines = [f"best {metric.name}: {best['score']:.5f}, trial {best['number']}, optimistic as the best of {count}"]
    if found["honest"] is not None:
        line = f"honest {metric.name}: {found['honest']:.5f}, 95 % {describe_interval(found['honest_interval'])}"
        lines.append(f"{line}, folds {listing(found['honest_folds'], 20)}, each by a trial chosen on the others")
        if len(found["honest_folds"]) < len(found["folds"]):
            lines.append(f"without fold {found['folds'][0]}, on which trials were pruned")
    if found["note"]:
        lines.append(found["note"])
    if found["best_there"] is not None:
        lines.append(f"the best trial on the same folds, scored in the same way: {found['best_there']:.5f}")
    if found["recipe_score"] is not None:
        lines.append(f"the recipe itself, trial 0: {found['recipe_score']:.5f}")
    if found["gain"] is not None:
        gain = describe_difference(found["gain"], found["gain_interval"])
        lines.append(f"the search's gain over it, honestly: {gain}")
    return lines


def save_recipe(options, found):
    """Write recipe.yaml, how the best settings differ from the competition's own; return the next command."""
    folder, number = options.folder, found["best"]["number"]
    words = [f"{key}={text}" for key, text in found["best"]["settings"].items()]
    plain, own, content = load_config(options.next_words), load_config([*options.words, *words]), {}
    for key in differing_settings(plain, own):
        room, _, name = key.rpartition(".")
        if key not in ("recipe", "competition.name", "competition.root"):
            value = value_of(own, key)
            value = list(value) if isinstance(value, tuple) else value
            (content.setdefault(room, {}) if room else content)[name] = value
    use = shlex.join(["python", "train.py", *options.next_words, f"recipe={folder / 'recipe.yaml'}"])
    interval = describe_interval(found["honest_interval"])
    honest = "none" if found["honest"] is None else f"{found['honest']:.5f}, 95 % {interval}"
    versions = f"Optuna {found['optuna']}, commit {(found['commit'] or 'unknown')[:12]}"
    head = [
        f"trial {number}, the best of {sum(found['trials'].values())} of {folder}",
        f"{found['metric']} {found['best']['score']:.5f}, optimistic, out of folds {listing(found['folds'], 20)}",
        f"honest score, nested by folds: {honest}",
        f"study {found['study']} in {found['storage']}, seed {found['seed']}, pruner {found['pruner']}, {versions}",
        use,
    ]
    comments = "".join(f"# {line}\n" for line in head)
    save_text(folder / "recipe.yaml", comments + yaml.safe_dump(content, sort_keys=False))
    if options.folds is None:
        return f"python infer.py run={shlex.quote(str(folder / 'trials' / f'trial_{number:04d}'))}"
    return f"{use} name={shlex.quote(f'{folder.name}_best')}"
