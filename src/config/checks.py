"""What a Config must hold; what one loss, curve, head or augmentation asks for is checked where it is built."""

import math
import re
from pathlib import Path

from src.config.registry import check_kwargs, check_range
from src.config.settings import FOLD_METHODS, seconds_of, settings, value_of
from src.errors import UserError, first_line, listing, nearest

_RESERVED_NAMES = ("folds", "cache", "doctor", ".locks", ".deleted", "execution.json", "..")  # in output_dir


def check_config(config):
    """Raise a UserError that names the first setting out of its range or choices, or at odds with another."""
    for key, one in settings().items():
        rule, values = one.metadata, value_of(config, key)
        choices, (pattern, other) = rule["choices"], rule["or_like"]
        for value in () if isinstance(values, dict) else values if isinstance(values, (tuple, list)) else [values]:
            if choices and value not in choices and not re.fullmatch(pattern, str(value), re.DOTALL):
                raise UserError(f"{key}={value}: not one of {listing(choices, 20)}{other}{nearest(value, choices)}")
            if rule["at_least"] is not None:
                check_range(key, value, rule["at_least"], rule["at_most"])
    known, ranges = {"min_delta": 0.0, "on": "score"}, {"min_delta": (0, None), "on": ("score", "loss")}
    check_kwargs("train.early_stopping_kwargs", known, config.train.early_stopping_kwargs, "early stopping", **ranges)
    known, ranges = {"weight": 1.0, "power": 1.0, "limit": 0.0}, {"power": (0.01, 100), "limit": (0, 1)}
    check_kwargs("train.pseudo_kwargs", known, config.train.pseudo_kwargs, "pseudo", weight=(0.01, 100), **ranges)
    ranges = {"momentum": (0, 1), "eps": (1e-12, 1)}
    check_kwargs("model.batchnorm_kwargs", dict.fromkeys(ranges), config.model.batchnorm_kwargs, "BatchNorm", **ranges)
    finders = (_find_run_faults, _find_training_faults, _find_model_faults, _find_input_faults, _find_regression_faults)
    for fault in (fault for find in finders for fault in find(config)):
        raise UserError(fault)


def _find_run_faults(config):
    fold, count, folder = config.fold, config.num_folds, config.run_folder
    if fold not in (None, "all") and not (type(fold) is int and fold >= 0):
        yield f"fold={fold}: no fold's number, which count from 0, and not all; write for example fold=0"
    elif fold not in (None, "all") and fold >= count and config.folds in FOLD_METHODS and config.folds != "column":
        yield f"fold={fold}: there are num_folds={count}, counted from 0; fold={count - 1} is the last"
    if config.folds == "column" and not config.competition.fold:
        yield "folds=column: which column is not said; set competition.fold=COLUMN"
    for key in ("group", "predict_by"):
        if (named := getattr(config.competition, key) or "").startswith("re:"):
            try:
                fault = "" if re.compile(named[3:]).groups else "has no group in parentheses"
            except (re.error, OverflowError, RecursionError) as error:
                fault = f"is no regular expression ({first_line(error)})"
            if fault:
                yield f"competition.{key}={named}: {fault}; write for example re:^(.+)_(left|right)$"
    if config.ray_address and config.launcher != "ray":
        yield f"ray_address={config.ray_address}: is of launcher=ray; set that, or leave ray_address out"
    if config.track_checkpoints and not {"auto", "wandb"} & set(config.tracking):
        yield "track_checkpoints=true: is wandb's, which tracking leaves out; set tracking=wandb"
    for key, budget in (("time_budget", config.time_budget), ("infer.time_budget", config.infer.time_budget)):
        if budget is not None and not seconds_of(budget) > 0:
            yield f"{key}={budget}: no time above 0; write for example 8.5h, 45m or 90s"
    if "://" in config.output_dir:
        yield f"output_dir={config.output_dir}: is no folder; set output_dir=FOLDER, shared by all hosts"
    if folder.name in _RESERVED_NAMES or folder.parent != Path(config.output_dir) or len(folder.name.encode()) > 200:
        yield f"name={config.name}: not a folder of its own in {config.output_dir}; choose another name"
    infer, calibration = config.infer, f"infer.calibration={config.infer.calibration}"
    if infer.calibration != "none" and infer.average == "rank":
        yield f"{calibration}: ranks are no probabilities; set infer.average=mean or infer.calibration=none"
    if infer.part_rows is not None and infer.time_budget is not None:
        found = "infer.time_budget drops folds and views for all rows alike, which finished parts cannot"
        yield f"infer.part_rows={infer.part_rows}: {found}; leave out one of them"
    if infer.calibration == "temperature_per_column" and config.competition.task == "multiclass":
        yield f"{calibration}: the classes of a row have one temperature; set infer.calibration=temperature"


def _find_training_faults(config):
    fold, loss, train, schedule = config.fold, config.loss, config.train, config.schedule
    patience = train.early_stopping_epochs
    if loss.balance and loss.class_weights:
        yield "loss.balance: takes the weights from the counts; leave out loss.class_weights or loss.balance"
    if not all(0 < weight < math.inf for weight in loss.class_weights):
        yield f"loss.class_weights={loss.class_weights}: each must be above 0"
    if loss.balance and train.sampler == "balanced":
        yield "loss.balance: train.sampler=balanced makes rare labels up already; choose one of the two"
    warmup, shortest = schedule.warmup_epochs, 1 if schedule.name == "onecycle" else 0.5
    if warmup >= train.epochs and warmup > shortest:
        yield f"schedule.warmup_epochs={warmup:g}: leaves nothing of train.epochs={train.epochs} for the curve"
    if train.average == "soup" and train.select == "last":
        yield "train.average=soup: picks its epochs by validation; set train.select=best"
    if fold == "all" and train.average == "soup":
        advice = "set train.average=swa name=ANOTHER"
        yield f"train.average=soup: picks its epochs by validation, which fold=all lacks; {advice}"
    if fold == "all" and schedule.name == "plateau":
        advice = "set schedule.name=cosine name=ANOTHER"
        yield f"schedule.name=plateau: follows the validation, which fold=all lacks; {advice}"
    for key, value in (("teacher", train.teacher), ("pseudo", train.pseudo)):
        if value is not None and Path(value).resolve() == config.run_folder.resolve():
            yield f"train.{key}={value}: is the folder of this run itself; set name=ANOTHER"
    if config.competition.task == "regression" and (given := set(train.pseudo_kwargs) - {"weight"}):
        yield f"train.pseudo_kwargs.{min(given)}: of probabilities, and regression has none; leave it out"
    if patience and train.select == "last":
        yield f"train.early_stopping_epochs={patience}: ends some epochs after the best one; set train.select=best"
    if patience and train.average == "swa":
        yield "train.average=swa: averages the last epochs, which train.early_stopping_epochs may leave out; choose one"
    plateau = {"patience_epochs": 1, "on": "loss"} | schedule.kwargs
    is_shared = schedule.name == "plateau" and plateau["on"] == train.early_stopping_kwargs.get("on", "score")
    if patience and is_shared and type(count := plateau["patience_epochs"]) is int and patience <= count + 1:
        ends = f"ends the training before a plateau of schedule.kwargs.patience_epochs={count} lowers the rate"
        yield f"train.early_stopping_epochs={patience}: {ends}; set it to {count + 2} or more"


def _find_model_faults(config):
    model, train, first = config.model, config.train, config.model.head_first_epochs
    freeze, head_first = f"model.freeze={model.freeze}", f"model.head_first_epochs={first}"
    end = f"train.epochs={train.epochs} end before more opens"
    if not model.pretrained and model.freeze != "none":
        yield f"{freeze}: random weights would never learn; set model.pretrained=true"
    if not model.pretrained and first:
        yield f"{head_first}: a head learns nothing on random weights; set model.pretrained=true"
    if not model.pretrained and model.freeze_batchnorm:
        yield "model.freeze_batchnorm=true: random weights have no statistics to keep; set it to null"
    for key, own in (("norm", "backbone"), ("init", "default")):
        if model.pretrained and (value := getattr(model, key)) != own:
            yield f"model.{key}={value}: pretrained weights come with their own; set model.pretrained=false"
    if model.init == "zero":
        yield "model.init=zero: layers of zeros never learn; set model.init=he_normal"
    if (momentum := model.batchnorm_kwargs.get("momentum")) is not None and model.keeps_batchnorm:
        found = f"model.batchnorm_kwargs.momentum={momentum}"
        yield f"{found}: BatchNorm is frozen, its statistics do not move; set model.freeze_batchnorm=false"
    if first >= train.epochs:
        yield f"{head_first}: {end}; lower it"
    if model.freeze == "gradual" and model.gradual_epochs >= train.epochs:
        yield f"model.gradual_epochs={model.gradual_epochs}: {end}; lower it"
    if model.freeze == "gradual" and first:
        yield f"{freeze}: begins with the head alone; set model.gradual_epochs={first} and model.head_first_epochs=0"
    if model.is_head_only and first:
        yield f"{freeze}: no epoch follows model.head_first_epochs; set model.freeze=none"
    for key, off in (("grad_checkpointing", "false"), ("drop_path_rate", 0), ("dropout2d_rate", 0)):
        if model.is_head_only and getattr(model, key):
            yield f"model.{key}: has no effect on a frozen backbone; set it to {off}"
    if model.freeze in ("head_only", "0", "1") and (decay := config.optimizer.layer_decay) is not None:
        yield f"{freeze}: optimizer.layer_decay={decay} needs two stages of the backbone that learn; set it to null"
    if train.views > 1 and not model.is_head_only:
        yield f"train.views={train.views}: counts features of a frozen backbone; set model.freeze=head_only"


def _find_normalize_faults(given, channels):
    """Yield what is wrong with normalize={mean: [...], std: [...]}."""
    if given.keys() != {"mean", "std"}:
        example = f"{{mean: {[0.5] * channels}, std: {[0.25] * channels}}}"
        yield f"normalize={given}: must hold mean and std; for example 'normalize={example}'"
    for name, numbers in given.items():
        known = [one for one in numbers if type(one) in (int, float)] if isinstance(numbers, list) else []
        is_inside = all(0 <= one <= 1 and (one or name == "mean") for one in known)
        if not (len(known) == channels and numbers == known and is_inside):
            numbers = f"normalize.{name}={numbers}: must be a list of {channels} numbers (competition.channels)"
            yield f"{numbers} {'from' if name == 'mean' else 'above'} 0 to 1; divide those of 0 to 255 by 255"


def _find_input_faults(config):
    for key, default in (("num_images", None), ("images_as", "channels")):
        if config.competition.images is None and (value := getattr(config.competition, key)) != default:
            advice = f"set competition.images=PATTERN, or competition.{key}={default or 'null'}"
            yield f"competition.{key}={value}: is of several images a row; {advice}"
    if isinstance(config.normalize, dict):
        yield from _find_normalize_faults(config.normalize, config.competition.channels)
    augment, mix, consistency = config.augment, config.mix, config.augment.augmix_consistency
    for key, off in (("kwargs", "{}"), ("augmix_consistency", "0")):
        if augment.transforms is not None and getattr(augment, key):
            yield f"augment.transforms: takes the place of augment.{key}; give one of the two (augment.{key}={off})"
    if augment.preset == "none" and augment.flips not in ("none", "hflip"):  # hflip is the default
        advice = "set augment.preset=light 'augment.kwargs={rotate: 0, translate: 0, scale: [1, 1]}'"
        yield f"augment.flips={augment.flips}: augment.preset=none leaves flips out; {advice}"
    for key, value in (("transforms", augment.transforms), ("augmix_consistency", consistency)):
        if augment.place == "device" and value:
            yield f"augment.place=device: augment.{key} stays in the loader, in its order; set augment.place=loader"
    if consistency and not augment.kwargs.get("augmix"):
        yield "augment.augmix_consistency: compares AugMix's views; set augment.kwargs.augmix=3"
    if consistency and mix.prob:
        yield "augment.augmix_consistency: its views cannot be mixed with other images; set mix.prob=0"
    for key, value in {"mix.prob": mix.prob, "augment.augmix_consistency": consistency}.items():
        if config.keeps_features and value:
            yield f"{key}: makes new images in every epoch, whose features are not kept; set train.views=0"
    if mix.prob and not mix.mixup_alpha and not mix.cutmix_alpha:
        yield f"mix.prob={mix.prob}: nothing to mix with; set mix.mixup_alpha or mix.cutmix_alpha above 0"
    if mix.prob and mix.off_epochs >= config.train.epochs:
        yield f"mix.off_epochs={mix.off_epochs}: nothing is mixed in train.epochs={config.train.epochs}"


def _find_regression_faults(config):
    """Yield what only classes have, where competition.task=regression."""
    loss, augment, infer = config.loss, config.augment, config.infer
    if config.competition.task != "regression":
        return
    given = (
        ("loss.label_smoothing", loss.label_smoothing, "0", "spreads a target over classes"),
        ("loss.balance", loss.balance, "false", "counts classes"),
        ("loss.class_weights", loss.class_weights, "[]", "weighs classes"),
        ("train.sampler", config.train.sampler == "balanced" and "balanced", "shuffle", "draws classes alike"),
        ("augment.augmix_consistency", augment.augmix_consistency, "0", "compares probabilities"),
        ("infer.average", config.infer.average == "rank" and "rank", "mean", "loses the targets' units"),
        ("infer.calibration", infer.calibration != "none" and infer.calibration, "none", "is of probabilities"),
        ("model.head_kwargs.prior_bias", config.model.head_kwargs.get("prior_bias"), "false", "starts at class shares"),
    )
    for key, value, off, why in given:
        if value:
            yield f"{key}={str(value).lower()}: {why}, and competition.task=regression has values; set {key}={off}"
