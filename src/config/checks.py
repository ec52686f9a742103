"""What a Config must hold: every setting its range and choices, and no two settings against each other."""

import math
from pathlib import Path

from src.config.settings import FOLD_METHODS, FREEZE_METHODS, TTA_VIEWS, Augment, seconds_of, settings, span, value_of
from src.errors import UserError, listing, nearest

_LARGEST = 10**15  # a whole number that is more was not meant, and torch's and numpy's numbers end soon after
_HARD_LOSSES = ("hinge", "auc")  # they compare yes with no, and cannot read a target in between


def check_config(config):
    """Check every setting's range and choices, and what must hold between settings.

    Raises:
        UserError: names the setting, what it is and what it may be.
    """
    _check_ranges(config)
    checks = (_check_folds, _check_model, _check_features, _check_augment, _check_loss, _check_schedule, _check_train)
    for check in checks:
        check(config)
    if unknown := [view for view in config.infer.tta if view not in TTA_VIEWS]:
        raise UserError(f"infer.tta={unknown[0]}: not one of {listing(TTA_VIEWS)}{nearest(unknown[0], TTA_VIEWS)}")
    if (seconds := seconds_of(config.time_budget)) is not None and not seconds > 0:
        raise UserError(f"time_budget={config.time_budget}: no time above 0; write for example 8.5h, 45m or 90s")
    name, taken = config.run_folder.name, ("folds", "cache", "doctor", ".locks", ".deleted", "execution.json", "..")
    if name in taken or config.run_folder.parent != Path(config.output_dir) or len(name.encode()) > 200:
        raise UserError(f"name={config.name}: not a folder of its own in {config.output_dir}; choose another name")


def _check_ranges(config):
    for key, one in settings().items():
        value, rule = value_of(config, key), one.metadata
        if rule["choices"] and value not in rule["choices"]:
            raise UserError(
                f"{key}={value}: not one of {listing(rule['choices'], 20)}{nearest(value, rule['choices'])}"
            )
        for number in value if isinstance(value, (tuple, list)) else [value]:
            low, high = rule["at_least"], rule["at_most"]
            if number is None or (low is None and high is None):
                continue
            if isinstance(number, int) and high is None:
                high = _LARGEST
            is_finite = isinstance(number, int) or math.isfinite(number)
            if not is_finite or (low is not None and number < low) or (high is not None and number > high):
                raise UserError(f"{key}={number}: must be {span(low, high)}")


def _check_folds(config):
    if config.fold is not None and config.fold >= config.num_folds and config.folds in FOLD_METHODS[:-1]:
        raise UserError(
            f"fold={config.fold}: there are num_folds={config.num_folds}, counted from 0; "
            f"fold={config.num_folds - 1} is the last"
        )
    if config.folds not in FOLD_METHODS and not config.folds.endswith(".csv"):
        raise UserError(
            f"folds={config.folds}: not one of {listing(FOLD_METHODS, 20)}, nor a .csv"
            f"{nearest(config.folds, FOLD_METHODS)}"
        )
    if config.folds == "column" and not config.competition.fold:
        raise UserError("folds=column: which column is not said; set competition.fold=COLUMN")


def _check_model(config):
    model, layer_decay = config.model, config.optimizer.layer_decay
    if model.freeze not in FREEZE_METHODS and not model.freeze.isdigit():
        raise UserError(f"model.freeze={model.freeze}: not one of {listing(FREEZE_METHODS)}, nor a number of stages")
    if not model.pretrained and model.freeze != "none":
        raise UserError(f"model.freeze={model.freeze}: random weights would never learn; set model.pretrained=true")
    if not model.pretrained and model.head_first_epochs:
        raise UserError(
            f"model.head_first_epochs={model.head_first_epochs}: a head learns nothing on random weights; "
            "set model.pretrained=true"
        )
    if model.freeze_batchnorm and not model.pretrained:
        raise UserError("model.freeze_batchnorm=true: random weights have no statistics to keep; set it to null")
    if model.batchnorm_momentum is not None and model.keeps_batchnorm:
        raise UserError(
            f"model.batchnorm_momentum={model.batchnorm_momentum}: BatchNorm is frozen, its statistics do not move; "
            "set model.freeze_batchnorm=false"
        )
    for key in ("head_first_epochs", "gradual_epochs"):
        if getattr(model, key) >= config.train.epochs and (key != "gradual_epochs" or model.freeze == "gradual"):
            raise UserError(
                f"model.{key}={getattr(model, key)}: train.epochs={config.train.epochs} end before more opens; lower it"
            )
    if model.is_head_only and model.grad_checkpointing:
        raise UserError("model.grad_checkpointing=true: a frozen backbone keeps no activations; leave it out")
    for key in ("drop_path_rate", "dropout2d_rate"):
        if model.is_head_only and getattr(model, key):
            raise UserError(f"model.{key}: nothing drops in a frozen backbone; set it to 0")
    if model.is_head_only and model.head_first_epochs:
        raise UserError(f"model.freeze={model.freeze}: no epoch follows model.head_first_epochs; set model.freeze=none")
    if model.freeze == "gradual" and model.head_first_epochs:
        raise UserError(
            f"model.freeze=gradual: begins with the head alone; set model.gradual_epochs={model.head_first_epochs} and "
            "model.head_first_epochs=0"
        )
    if (model.is_head_only or model.freeze == "1") and layer_decay is not None:
        raise UserError(
            f"model.freeze={model.freeze}: optimizer.layer_decay={layer_decay} needs two stages of the backbone that "
            "learn; set it to null"
        )
    if taken := {"lr", "weight_decay"} & set(config.optimizer.kwargs):
        key = sorted(taken)[0]
        raise UserError(f"optimizer.kwargs.{key}: has a setting of its own; set optimizer.{key}")
    if model.dropout_samples > 1 and model.drop_rate == 0:
        raise UserError(
            f"model.dropout_samples={model.dropout_samples}: all masks are alike without dropout; set model.drop_rate"
        )


def _check_features(config):
    if config.train.views > 1 and not config.model.is_head_only:
        raise UserError(
            f"train.views={config.train.views}: counts features of a frozen backbone; set model.freeze=head_only"
        )
    if not config.keeps_features:
        return
    moving = {"mix.prob": config.mix.prob, "augment.augmix_consistency": config.augment.augmix_consistency}
    if key := next((key for key, value in moving.items() if value), None):
        raise UserError(f"{key}: makes new pictures in every epoch, whose features are not kept; set train.views=0")
    if config.model.pool == "gem":
        raise UserError("model.pool=gem: learns inside the backbone, whose features are kept; set train.views=0")


def _check_augment(config):
    augment = config.augment
    if augment.transforms is not None:
        alone = ("preset", "flips", "transforms")
        changed = [key for key in vars(augment) if key not in alone and getattr(augment, key) != getattr(Augment, key)]
        if changed:
            raise UserError(f"augment.transforms: takes the place of augment.{changed[0]}; give one of the two")
    if augment.preset == "none" and augment.flips not in ("none", "hflip"):  # hflip is the default
        raise UserError(
            f"augment.flips={augment.flips}: augment.preset=none leaves flips out; set augment.preset=light and what "
            "else it does to 0 (augment.rotate=0 augment.translate=0 augment.scale=[1,1])"
        )
    if augment.scale is not None and (len(augment.scale) != 2 or not 0 < augment.scale[0] <= augment.scale[1] <= 10):
        raise UserError(
            f"augment.scale={augment.scale}: must be [smallest, largest] above 0; for example augment.scale=[0.8,1.25]"
        )
    if augment.augmix_consistency and not augment.augmix:
        raise UserError("augment.augmix_consistency: compares AugMix's views; set augment.augmix=3")
    if augment.augmix_consistency and config.mix.prob:
        raise UserError("augment.augmix_consistency: its views cannot be mixed with other images; set mix.prob=0")


def _check_loss(config):
    loss, mix, task = config.loss, config.mix, config.competition.task
    if mix.prob > 0 and mix.mixup_alpha == 0 and mix.cutmix_alpha == 0:
        raise UserError(f"mix.prob={mix.prob}: nothing to mix with; set mix.mixup_alpha or mix.cutmix_alpha above 0")
    if mix.prob > 0 and mix.off_epochs >= config.train.epochs:
        raise UserError(f"mix.off_epochs={mix.off_epochs}: nothing is mixed in train.epochs={config.train.epochs}")
    if loss.name in ("bce", "asymmetric") and task == "multiclass":
        raise UserError(f"loss.name={loss.name}: a multiclass task has one answer a row; set loss.name=cross_entropy")
    if loss.name == "cross_entropy" and task != "multiclass":
        raise UserError(f"loss.name=cross_entropy: a {task} task has yes/no answers; set loss.name=bce")
    if loss.name in _HARD_LOSSES and mix.prob > 0:
        raise UserError(f"loss.name={loss.name}: cannot read the soft targets of mix.prob={mix.prob}; set mix.prob=0")
    if loss.name in _HARD_LOSSES and loss.label_smoothing > 0:
        raise UserError(
            f"loss.name={loss.name}: cannot read the soft targets of loss.label_smoothing={loss.label_smoothing}; "
            "set loss.label_smoothing=0"
        )
    if loss.balance and loss.class_weights:
        raise UserError("loss.balance: takes the weights from the counts; leave out loss.class_weights or loss.balance")
    if (loss.balance or loss.class_weights) and loss.name == "auc":
        raise UserError(
            "loss.name=auc: compares pairs, which weights do not change; leave out loss.balance and weights"
        )
    is_plateau_on_loss = config.schedule.name == "plateau" and config.schedule.plateau_on == "loss"
    is_stopped_on_loss = config.train.early_stopping_epochs is not None and config.train.early_stopping_on == "loss"
    for is_on, key in ((is_plateau_on_loss, "schedule.plateau_on"), (is_stopped_on_loss, "train.early_stopping_on")):
        if loss.name == "auc" and is_on:
            raise UserError(f"{key}=loss: is the log loss, which loss.name=auc does not lower; set {key}=score")
    if any(not math.isfinite(weight) or weight <= 0 for weight in loss.class_weights):
        raise UserError(f"loss.class_weights={loss.class_weights}: each must be above 0")
    if loss.balance and config.train.sampler == "balanced":
        raise UserError("loss.balance: train.sampler=balanced makes rare answers up already; choose one of the two")


def _check_schedule(config):
    schedule, epochs = config.schedule, config.train.epochs
    if schedule.name == "plateau" and schedule.per == "step":
        raise UserError(
            "schedule.per=step: schedule.name=plateau looks at each epoch's validation; set schedule.per=auto"
        )
    if schedule.name == "plateau" and schedule.gamma == 1:
        raise UserError("schedule.gamma=1: plateau would never lower the rate; set it below 1")
    if schedule.name == "onecycle" and schedule.per == "epoch" and epochs == 1:
        raise UserError("schedule.per=epoch: one epoch is no cycle; set schedule.per=step")
    for name, key in (("step", "step_epochs"), ("cosine_restarts", "restart_epochs")):
        if schedule.name == name and (getattr(schedule, key) or 0) >= epochs > 1:
            raise UserError(f"schedule.{key}={getattr(schedule, key):g}: never comes; train.epochs is {epochs}")
    late = [one for one in schedule.milestone_epochs if not 0 < one < epochs]
    if schedule.name == "multistep" and late:
        raise UserError(f"schedule.milestone_epochs: {late[0]:g} is outside the training; train.epochs is {epochs}")
    if schedule.warmup_epochs >= epochs and schedule.warmup_epochs > (1 if schedule.name == "onecycle" else 0.5):
        raise UserError(
            f"schedule.warmup_epochs={schedule.warmup_epochs:g}: leaves nothing of train.epochs={epochs} for the curve"
        )


def _check_train(config):
    train = config.train
    schedule, patience = config.schedule, train.early_stopping_epochs
    is_shared = schedule.name == "plateau" and schedule.plateau_on == train.early_stopping_on
    if is_shared and patience is not None and patience <= schedule.patience_epochs + 1:
        raise UserError(
            f"train.early_stopping_epochs={patience}: ends the training before a plateau of schedule.patience_epochs="
            f"{schedule.patience_epochs} lowers the rate; set it to {schedule.patience_epochs + 2} or more"
        )
    averages = [key for key in ("ema_decay", "swa_epochs", "average_best") if getattr(train, key) is not None]
    if len(averages) > 1:
        raise UserError(f"train.{averages[0]}: is one average of weights, train.{averages[1]} another; choose one")
    if train.swa_epochs is not None and train.early_stopping_epochs is not None:
        raise UserError(
            "train.swa_epochs: averages the last of all train.epochs, which train.early_stopping_epochs may leave out; "
            "choose one"
        )
    for key in averages[:1]:
        if key != "ema_decay" and getattr(train, key) > train.epochs:
            raise UserError(f"train.{key}={getattr(train, key)}: there are only train.epochs={train.epochs}")
