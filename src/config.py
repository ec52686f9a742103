"""Every setting: its name, type, default, unit, range and meaning; and what must hold between settings.

How words and files become a Config is `src/configure.py`'s.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from src.errors import UserError, listing, nearest

REPOSITORY = Path(__file__).resolve().parent.parent

FOLD_METHODS = ("auto", "stratified", "group", "stratified_group", "multilabel", "kfold", "holdout", "column")
FREEZE_METHODS = ("none", "head_only", "gradual")
TTA_VIEWS = ("hflip", "vflip", "d4", "scales")


def _setting(default, meaning, at_least=None, at_most=None, choices=None):
    """A documented field: `meaning` holds the unit and what null means; the rest is checked by `check_config`."""
    metadata = {"meaning": meaning, "at_least": at_least, "at_most": at_most, "choices": choices}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Competition:
    """Where a competition's files are and what their columns mean; `python -m src.adopt FOLDER` writes it."""

    name: str = _setting("demo", "competition=NAME reads configs/competition/NAME.yaml (or a path to such a file)")
    root: str = _setting("", "folder that the paths below are relative to")
    train_table: Optional[str] = _setting(None, "CSV of the training rows; null: read them from train_image")
    test_table: Optional[str] = _setting(
        None, "CSV of the test rows; null: take the sample's ids, or test_image's files"
    )
    sample_submission: Optional[str] = _setting(
        None, "CSV whose columns and row order submission.csv takes; null: none"
    )
    solution: Optional[str] = _setting(None, "CSV with the test answers, where they are at hand; null: none")
    id: str = _setting("id", "column that names a row in every table")
    train_image: str = _setting(
        "train/{id}",
        "path pattern: {column}, {id[0]} its first letter, * anything; the middle file of several is read; "
        "without train_table {label} and * read the labels from the paths",
    )
    test_image: str = _setting("test/{id}", "path pattern of a test row's image")
    targets: list[str] = _setting(
        [], "columns of 0/1 answers: one (binary), one-hot (multiclass) or several (multilabel)"
    )
    label: Optional[str] = _setting(None, "column of class names; null: the answers are in targets")
    classes: list[str] = _setting([], "order of the class names (binary: the last is positive); []: sorted")
    task: str = _setting("binary", "what is predicted", choices=("binary", "multiclass", "multilabel"))
    group: Optional[str] = _setting(None, "column whose rows stay in one fold (patient, scene); null: none")
    fold: Optional[str] = _setting(None, "column that gives each row's fold, for folds=column; null: none")
    channels: int = _setting(3, "channels an image is read as: 1 grey, 3 RGB, any number for arrays", at_least=1)
    metric: str = _setting("roc_auc", "what a score is", choices=("roc_auc", "average_precision"))


@dataclass(frozen=True)
class Model:
    """The backbone, its pretrained weights, which part of it learns, and the head on top."""

    backbone: str = _setting(
        "convnext_nano.in12k_ft_in1k", "any timm model: python -c 'import timm; print(timm.list_models())'"
    )
    pretrained: bool = _setting(True, "start from pretrained weights instead of random ones")
    weights: Optional[str] = _setting(
        None, "weights file, or folder of <backbone>.safetensors; null: the variable WEIGHTS, else timm's hub"
    )
    freeze: str = _setting(
        "none", "none, head_only, the number n of last stages that learn, or gradual (one more stage an epoch)"
    )
    freeze_batchnorm: Optional[bool] = _setting(
        None, "BatchNorm keeps its mean and variance while the rest learns; null: when pretrained"
    )
    pool: str = _setting(
        "auto", "features -> vector; auto: the backbone's own", choices=("auto", "avg", "max", "avgmax", "gem")
    )
    head_widths: list[int] = _setting([], "widths of the head's hidden layers; []: one linear layer")
    head_activation: str = _setting(
        "relu", "after each hidden layer", choices=("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu")
    )
    head_init: str = _setting(
        "default",
        "first weights of new layers; default: torch's own",
        choices=(
            "default",
            "zero",
            "normal",
            "xavier_uniform",
            "xavier_normal",
            "he_uniform",
            "he_normal",
            "lecun_normal",
            "orthogonal",
        ),
    )
    drop_rate: float = _setting(0.0, "dropout before each linear layer of the head, a share", at_least=0, at_most=0.99)
    dropout_samples: int = _setting(
        1, "dropout masks averaged at the last layer (multi-sample dropout); 1: plain", at_least=1
    )
    kwargs: dict[str, Any] = _setting({}, "passed to timm.create_model as they are, for example {pad_type: same}")


@dataclass(frozen=True)
class Augment:
    """What happens to a training image before it is seen; all of it is redrawn each epoch."""

    preset: str = _setting("medium", "strength of the ready pipeline", choices=("none", "light", "medium", "heavy"))
    flips: str = _setting(
        "hflip", "mirrored views that keep the label; d4: all eight", choices=("none", "hflip", "vflip", "hvflip", "d4")
    )
    transforms: Optional[list[Any]] = _setting(
        None, "albumentations instead of preset and flips: [{Rotate: {limit: 10, p: 0.5}}, ...]; null: the preset"
    )


@dataclass(frozen=True)
class Mix:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) on training batches."""

    prob: float = _setting(0.0, "share of batches that are mixed; 0: off", at_least=0, at_most=1)
    mixup_alpha: float = _setting(0.2, "Mixup's Beta(alpha, alpha); 0: no Mixup", at_least=0)
    cutmix_alpha: float = _setting(1.0, "CutMix's Beta(alpha, alpha); 0: no CutMix", at_least=0)
    switch_prob: float = _setting(0.5, "share of mixed batches that get CutMix when both are on", at_least=0, at_most=1)
    off_epochs: int = _setting(0, "last epochs without mixing", at_least=0)


@dataclass(frozen=True)
class Loss:
    """What training minimises."""

    name: str = _setting(
        "auto",
        "auto: bce for binary and multilabel, cross_entropy for multiclass",
        choices=("auto", "bce", "cross_entropy", "focal"),
    )
    label_smoothing: float = _setting(
        0.0, "share of each target spread over the alternatives", at_least=0, at_most=0.99
    )
    focal_gamma: float = _setting(2.0, "focal loss's focus; 0: plain cross-entropy", at_least=0)


@dataclass(frozen=True)
class Optimizer:
    """How a step is taken."""

    name: str = _setting("adam", "adam, adamw, sgd, nadam, radam, rmsprop, lion, lamb or any other of timm's")
    lr: float = _setting(3e-4, "learning rate of the backbone at its peak", at_least=0)
    head_lr_factor: float = _setting(10.0, "the head's learning rate is lr times this", at_least=0)
    weight_decay: float = _setting(0.0, "decay of weights, not of biases and norms", at_least=0)
    clip_norm: Optional[float] = _setting(None, "largest norm of the gradient; null: no clipping", at_least=0)
    accumulate_steps: int = _setting(1, "batches whose gradients make one step", at_least=1)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves, step by step."""

    name: str = _setting(
        "cosine", "curve after the warm-up", choices=("cosine", "constant", "linear", "step", "exponential", "onecycle")
    )
    warmup_epochs: float = _setting(0.5, "epochs of linear rise before the curve", at_least=0)


@dataclass(frozen=True)
class Train:
    """How long, on how much at a time."""

    epochs: int = _setting(10, "passes over the training images", at_least=1)
    batch_size: int = _setting(32, "images per forward on one device", at_least=1)
    num_workers: Optional[int] = _setting(
        None, "processes that load images; null: from the number of cores", at_least=0
    )
    max_images: Optional[int] = _setting(None, "training images per fold, drawn at random; null: all", at_least=1)
    ema_decay: Optional[float] = _setting(
        None, "averaged weights are scored and kept; null: off", at_least=0, at_most=0.99999
    )
    early_stopping_epochs: Optional[int] = _setting(
        None, "stop after so many epochs without a better score; null: never", at_least=1
    )
    channels_last: bool = _setting(True, "memory order that is faster for convolutions")
    compile: bool = _setting(False, "torch.compile the network")


@dataclass(frozen=True)
class Infer:
    """How test images become one prediction."""

    tta: list[str] = _setting(
        [],
        "extra views, averaged in: hflip, vflip, d4 (all eight), scales (0.875, 1.125), or [hflip,scales]",
    )
    batch_size: Optional[int] = _setting(
        None, "images per forward, also in validation; null: twice train.batch_size", at_least=1
    )
    average: str = _setting("mean", "how folds are averaged", choices=("mean", "rank"))
    output: Optional[str] = _setting(None, "folder for submission.csv and fold<k>/test.csv; null: the run's folder")
    checkpoint: str = _setting("best", "weights of the best epoch or of the last", choices=("best", "last"))


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    recipe: str = _setting("default", "recipe=NAME reads configs/recipe/NAME.yaml (or a path to such a file)")
    name: Optional[str] = _setting(None, "the run's folder in output_dir; null: <competition>_<recipe>")
    fold: Optional[int] = _setting(None, "train this fold alone, counted from 0; null: all", at_least=0)
    num_folds: int = _setting(5, "parts the training rows are split into", at_least=2)
    folds: str = _setting(
        "auto",
        "split by: auto, stratified, group, stratified_group, multilabel, kfold, holdout, column, or a file my.csv",
    )
    seed: int = _setting(42, "of folds, first weights, order, augmentation", at_least=0)
    image_size: tuple[int, int] = _setting((224, 224), "(height, width) in pixels; one number: square", at_least=8)
    normalize: str = _setting(
        "backbone",
        "pixel mean and std: the backbone's, the data set's (computed) or none",
        choices=("backbone", "dataset", "none"),
    )
    unreadable: str = _setting(
        "error", "an image that cannot be decoded: stop, or skip and list it", choices=("error", "skip")
    )
    device: str = _setting("auto", "auto: cuda, else mps, else cpu; or a name such as cuda:1")
    precision: str = _setting(
        "auto", "auto: bf16 or fp16 on a GPU, fp32 elsewhere", choices=("auto", "fp32", "bf16", "fp16")
    )
    tracking: str = _setting(
        "auto", "auto: wandb if it has a key, else offline; CSV and JSON always", choices=("auto", "wandb", "none")
    )
    overwrite: bool = _setting(False, "delete the run's folder first")
    output_dir: str = _setting("outputs", "folder of all runs")
    competition: Competition = field(default_factory=Competition)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    mix: Mix = field(default_factory=Mix)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    train: Train = field(default_factory=Train)
    infer: Infer = field(default_factory=Infer)

    @property
    def run_folder(self):
        """<output_dir>/<name>."""
        return Path(self.output_dir) / (self.name or f"{self.competition.name}_{self.recipe}")


GROUPS = tuple(f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.default_factory))


def settings(config_class=Config):
    """Return {dotted key: dataclass field} of every setting, in the order of the file."""
    found = {}
    for one in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(one.default_factory):
            found |= {f"{one.name}.{key}": value for key, value in settings(one.default_factory).items()}
        else:
            found[one.name] = one
    return found


def value_of(config, key):
    """Return the value of a dotted key such as "optimizer.lr"."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def span(low, high):
    """Say the range of a setting that has a lower end, and perhaps an upper one."""
    return f"at least {low}" if high is None else f"from {low} to {high}"


def check_config(config):
    """Check every setting's range and choices, and what must hold between settings.

    Raises:
        UserError: names the setting, what it is and what it may be.
    """
    for key, one in settings().items():
        value, rule = value_of(config, key), one.metadata
        if rule["choices"] and value not in rule["choices"]:
            raise UserError(
                f"{key}={value}: not one of {listing(rule['choices'], 20)}{nearest(value, rule['choices'])}"
            )
        for number in value if isinstance(value, tuple) else [value]:
            low, high = rule["at_least"], rule["at_most"]
            if number is None or (low is None and high is None):
                continue
            if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
                raise UserError(f"{key}={number}: must be {span(low, high)}")
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
    if config.model.freeze not in FREEZE_METHODS and not config.model.freeze.isdigit():
        raise UserError(
            f"model.freeze={config.model.freeze}: not one of {listing(FREEZE_METHODS)}, nor a number of stages"
        )
    if unknown := [view for view in config.infer.tta if view not in TTA_VIEWS]:
        raise UserError(f"infer.tta={unknown[0]}: not one of {listing(TTA_VIEWS)}{nearest(unknown[0], TTA_VIEWS)}")
    if config.mix.prob > 0 and config.mix.mixup_alpha == 0 and config.mix.cutmix_alpha == 0:
        raise UserError(
            f"mix.prob={config.mix.prob}: nothing to mix with; set mix.mixup_alpha or mix.cutmix_alpha above 0"
        )
    if config.loss.name == "bce" and config.competition.task == "multiclass":
        raise UserError("loss.name=bce: a multiclass task has one answer a row; set loss.name=cross_entropy")
    if config.loss.name == "cross_entropy" and config.competition.task != "multiclass":
        raise UserError(
            f"loss.name=cross_entropy: a {config.competition.task} task has yes/no answers; set loss.name=bce"
        )
    if not config.model.pretrained and config.model.freeze != "none":
        raise UserError(
            f"model.freeze={config.model.freeze}: random weights would never learn; set model.pretrained=true"
        )
    if config.run_folder.name in ("folds", "..") or config.run_folder.parent != Path(config.output_dir):
        raise UserError(f"name={config.name}: not a folder of its own in {config.output_dir}; choose another name")
