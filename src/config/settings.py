"""Every setting: its name, type, default, unit, range and meaning.

What must hold between settings is in `src/config/checks.py`; how words and files become a Config, in `src/config/load.py`.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

REPOSITORY = Path(__file__).resolve().parent.parent

FOLD_METHODS = ("auto", "stratified", "group", "stratified_group", "multilabel", "kfold", "holdout", "column")
FREEZE_METHODS = ("none", "head_only", "gradual")
_ACTIVATIONS = ("default", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu")
TTA_VIEWS = ("hflip", "vflip", "d4", "scales")


def _setting(default, meaning, at_least=None, at_most=None, choices=None):
    """A documented field: `meaning` holds the unit and what null means; the rest is checked by `check_config`."""
    metadata = {"meaning": meaning, "at_least": at_least, "at_most": at_most, "choices": choices}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Competition:
    """Where a competition's files are and what their columns mean; `python -m tools.adopt FOLDER` writes it."""

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
        "none", "none, head_only, the number n of last stages that learn, or gradual (stages open one by one)"
    )
    gradual_epochs: int = _setting(1, "epochs before freeze=gradual opens one more stage", at_least=1)
    head_first_epochs: int = _setting(0, "epochs in which only the head learns, before what freeze says", at_least=0)
    freeze_batchnorm: Optional[bool] = _setting(
        None, "BatchNorm keeps its mean and variance while the rest learns; null: when pretrained"
    )
    batchnorm_momentum: Optional[float] = _setting(
        None, "share of a batch in BatchNorm's running mean and variance; null: the backbone's", at_least=0, at_most=1
    )
    batchnorm_eps: Optional[float] = _setting(
        None, "what BatchNorm adds to the variance; null: the backbone's", at_least=0
    )
    backbone_activation: str = _setting(
        "default", "the backbone's activation, where timm has a choice; default: its own", choices=_ACTIVATIONS
    )
    drop_path_rate: float = _setting(
        0.0, "stochastic depth: share of residual branches left out, rising to the last", at_least=0, at_most=0.99
    )
    dropout2d_rate: float = _setting(
        0.0, "share of whole channels left out between the backbone's stages", at_least=0, at_most=0.99
    )
    grad_checkpointing: bool = _setting(
        False, "compute the backbone's activations twice instead of keeping them: large pictures in less memory, slower"
    )
    pool: str = _setting(
        "auto", "features -> vector; auto: the backbone's own", choices=("auto", "avg", "max", "avgmax", "gem")
    )
    head_widths: list[int] = _setting([], "widths of the head's hidden layers; []: one linear layer", at_least=1)
    head_activation: str = _setting("relu", "after each hidden layer", choices=_ACTIVATIONS[1:])
    leaky_slope: float = _setting(0.01, "slope of leaky_relu below zero", at_least=0, at_most=1)
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
    prior_bias: bool = _setting(False, "the last layer's bias starts at the answers' frequencies (for rare positives)")
    drop_rate: float = _setting(0.0, "dropout before each linear layer of the head, a share", at_least=0, at_most=0.99)
    dropout_samples: int = _setting(
        1, "dropout masks averaged at the last layer (multi-sample dropout); 1: plain", at_least=1
    )
    kwargs: dict[str, Any] = _setting({}, "passed to timm.create_model as they are, for example {pad_type: same}")

    @property
    def is_head_only(self):
        """Whether nothing but the head ever learns."""
        return self.freeze in ("head_only", "0")

    @property
    def keeps_batchnorm(self):
        """Whether BatchNorm keeps its mean and variance: freeze_batchnorm, with what null means."""
        return self.pretrained if self.freeze_batchnorm is None else self.freeze_batchnorm


@dataclass(frozen=True)
class Augment:
    """What happens to a training image before it is seen; all of it is redrawn each epoch. See it: tools.preview."""

    preset: str = _setting("medium", "values for what is null below", choices=("none", "light", "medium", "heavy"))
    flips: str = _setting(
        "hflip", "mirrored views that keep the label; d4: all eight", choices=("none", "hflip", "vflip", "hvflip", "d4")
    )
    crop: Optional[float] = _setting(
        None,
        "random resized crop of at least this share of the area; 1: none; null: the preset's",
        at_least=0.01,
        at_most=1,
    )
    rotate: Optional[float] = _setting(
        None, "largest rotation, degrees to either side; null: the preset's", at_least=0, at_most=180
    )
    translate: Optional[float] = _setting(
        None, "largest shift, a share of the side; null: the preset's", at_least=0, at_most=1
    )
    scale: Optional[list[float]] = _setting(None, "zoom, [smallest, largest] factor; [1,1]: none; null: the preset's")
    brightness: Optional[float] = _setting(
        None, "largest change of brightness and contrast, a share; null: the preset's", at_least=0, at_most=1
    )
    colour: Optional[float] = _setting(
        None, "largest change of hue, saturation and value, a share; null: the preset's", at_least=0, at_most=1
    )
    blur: Optional[float] = _setting(
        None, "largest sigma of a Gaussian blur, pixels; null: the preset's", at_least=0, at_most=20
    )
    noise: Optional[float] = _setting(
        None, "largest deviation of Gaussian noise, a share of the range; null: the preset's", at_least=0, at_most=1
    )
    cutout: Optional[float] = _setting(
        None, "largest side of one black square, a share of the image's; null: the preset's", at_least=0, at_most=1
    )
    erasing: float = _setting(
        0.0, "Random Erasing: share of images that get a rectangle of noise", at_least=0, at_most=1
    )
    randaugment: float = _setting(
        0.0, "RandAugment's magnitude of two random operations; 0: off", at_least=0, at_most=10
    )
    augmix: float = _setting(
        0.0, "AugMix's severity of chains that are blended into the image; 0: off", at_least=0, at_most=10
    )
    augmix_consistency: float = _setting(
        0.0, "weight of AugMix's consistency between an image and two mixed views; 0: off (paper: 12)", at_least=0
    )
    transforms: Optional[list[Any]] = _setting(
        None, "albumentations instead of all the above: [{Rotate: {limit: 10, p: 0.5}}, ...]; null: the above"
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
        choices=("auto", "bce", "cross_entropy", "mse", "huber", "hinge", "focal", "asymmetric", "auc"),
    )
    label_smoothing: float = _setting(
        0.0, "share of each target spread over the alternatives", at_least=0, at_most=0.99
    )
    balance: bool = _setting(
        False, "weights from the counts: classes weigh the same, or a column's positives as much as its negatives"
    )
    class_weights: list[float] = _setting(
        [], "weight of each class, or of each column's positives (pos_weight); []: 1, or what balance says"
    )
    focal_gamma: float = _setting(2.0, "focal loss's focus; 0: plain cross-entropy", at_least=0)
    positive_gamma: float = _setting(0.0, "asymmetric loss's focus on positives", at_least=0)
    negative_gamma: float = _setting(4.0, "asymmetric loss's focus on negatives", at_least=0)
    negative_margin: float = _setting(
        0.05, "asymmetric loss forgets negatives below this probability", at_least=0, at_most=0.99
    )
    huber_delta: float = _setting(
        0.5, "error of a probability above which huber is linear instead of squared", at_least=0.001
    )
    margin: float = _setting(1.0, "distance of logits that hinge and auc ask for", at_least=0)

    def name_for(self, task):
        """The loss's name, with what auto means for the task."""
        return self.name if self.name != "auto" else "cross_entropy" if task == "multiclass" else "bce"


@dataclass(frozen=True)
class Optimizer:
    """How a step is taken."""

    name: str = _setting(
        "adam",
        "sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, nadam, adamw, radam, lion, lamb or any of timm's",
    )
    lr: float = _setting(3e-4, "learning rate of the backbone at its peak", at_least=0)
    head_lr_factor: float = _setting(10.0, "the head's learning rate is lr times this", at_least=0)
    layer_decay: Optional[float] = _setting(
        None,
        "each stage's rate is the next one's times this, down to the input; null: all alike",
        at_least=0,
        at_most=1,
    )
    momentum: float = _setting(
        0.9, "share of the last step that momentum and nesterov keep", at_least=0, at_most=0.9999
    )
    weight_decay: float = _setting(0.0, "decay of weights (L2; of adamw, lion, lamb: decoupled)", at_least=0)
    decay_all: bool = _setting(False, "weight_decay and l1_penalty also reach biases and norms")
    l1_penalty: float = _setting(0.0, "L1 penalty of weights, by a proximal step that reaches zero", at_least=0)
    clip_norm: Optional[float] = _setting(None, "largest norm of the gradient; null: no clipping", at_least=1e-6)
    accumulate_steps: int = _setting(1, "batches whose gradients make one step", at_least=1)
    kwargs: dict[str, Any] = _setting({}, "passed to the optimizer as they are, for example {betas: [0.9, 0.99]}")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves."""

    name: str = _setting(
        "cosine",
        "curve after the warm-up",
        choices=(
            "constant",
            "linear",
            "polynomial",
            "exponential",
            "step",
            "multistep",
            "cosine",
            "cosine_restarts",
            "onecycle",
            "plateau",
        ),
    )
    warmup_epochs: float = _setting(0.5, "epochs of linear rise before the curve", at_least=0)
    per: str = _setting(
        "auto",
        "the rate moves after each step or epoch (then with whole epochs of warm-up); auto: step, but plateau by epoch",
        choices=("auto", "step", "epoch"),
    )
    gamma: float = _setting(0.1, "factor of step, multistep and plateau", at_least=0, at_most=1)
    step_epochs: Optional[float] = _setting(None, "epochs between step's falls; null: a third of all", at_least=0.01)
    milestone_epochs: list[float] = _setting([], "epochs at which multistep falls; []: at 1/2 and 3/4 of all")
    restart_epochs: Optional[float] = _setting(
        None, "epochs of cosine_restarts' first period; null: a third of all", at_least=0.01
    )
    restart_factor: int = _setting(1, "each of cosine_restarts' periods is the last one times this", at_least=1)
    power: float = _setting(0.9, "exponent of polynomial", at_least=0.01)
    final_factor: float = _setting(
        0.01, "where linear and exponential end, a share of the peak", at_least=1e-6, at_most=1
    )
    patience_epochs: int = _setting(
        1, "epochs without a better value that plateau bears; it falls after the next", at_least=0
    )
    plateau_on: str = _setting(
        "loss", "what plateau looks at in validation: the log loss or the score", choices=("loss", "score")
    )


@dataclass(frozen=True)
class Train:
    """How long, on how much at a time."""

    epochs: int = _setting(10, "passes over the training images", at_least=1)
    batch_size: int = _setting(32, "images per forward on one device", at_least=1)
    batches_per_epoch: Optional[int] = _setting(
        None, "batches that count as an epoch (iterations per epoch); null: as many as the images fill", at_least=1
    )
    sampler: str = _setting(
        "shuffle",
        "shuffle: each image once an epoch; balanced: drawn, rare answers as often as common ones",
        choices=("shuffle", "balanced"),
    )
    num_workers: Optional[int] = _setting(
        None, "processes that load images; null: from the number of cores", at_least=0
    )
    views: int = _setting(
        1,
        "for model.freeze=head_only: versions of an image whose features are computed once, the plain one and "
        "augmented ones; 0: augmented anew, and through the backbone, in every epoch",
        at_least=0,
    )
    max_images: Optional[int] = _setting(None, "training images per fold, drawn at random; null: all", at_least=1)
    ema_decay: Optional[float] = _setting(
        None, "averaged weights (EMA) are scored and kept; null: off", at_least=0, at_most=0.99999
    )
    swa_epochs: Optional[int] = _setting(
        None, "the mean of the last n epochs' weights (SWA) is scored and kept; null: off", at_least=1
    )
    average_best: Optional[int] = _setting(
        None, "the mean of the n best epochs' weights becomes the best, if it scores better; null: off", at_least=2
    )
    early_stopping_epochs: Optional[int] = _setting(
        None, "patience: stop after so many epochs without a better value; null: never", at_least=1
    )
    early_stopping_min_delta: float = _setting(0.0, "what counts as better: by more than this", at_least=0)
    early_stopping_on: str = _setting(
        "score", "what early stopping looks at in validation: the score or the log loss", choices=("score", "loss")
    )
    channels_last: Optional[bool] = _setting(
        None, "memory order with the channels innermost; null: what a few timed steps show to be faster"
    )
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
    seed: int = _setting(42, "of folds, first weights, order, augmentation", at_least=0, at_most=4_000_000_000)
    image_size: tuple[int, int] = _setting(
        (224, 224), "(height, width) in pixels; one number: square", at_least=8, at_most=32_768
    )
    normalize: str = _setting(
        "backbone",
        "pixel mean and std: the backbone's, the data set's (computed), its mean alone (center) or none",
        choices=("backbone", "dataset", "center", "none"),
    )
    unreadable: str = _setting(
        "error", "an image that cannot be decoded: stop, or skip and list it", choices=("error", "skip")
    )
    cache: str = _setting(
        "auto",
        "decoded images in one file; auto: where each is read more than once and the disk has room",
        choices=("auto", "on", "off"),
    )
    cache_dir: Optional[str] = _setting(
        None, "folder of that file; null: .cache in competition.root, else cache in output_dir"
    )
    device: str = _setting("auto", "auto: cuda, else mps, else cpu; or a name such as cuda:1")
    precision: str = _setting(
        "auto", "auto: what a few timed steps show to be fastest", choices=("auto", "fp32", "bf16", "fp16")
    )
    tracking: str = _setting(
        "auto", "auto: wandb if it has a key, else offline; CSV and JSON always", choices=("auto", "wandb", "none")
    )
    overwrite: bool = _setting(False, "delete the run's folder first")
    checkpoint_minutes: float = _setting(
        10.0, "minutes between two states saved in an epoch's midst; each epoch's end is saved anyway", at_least=0
    )
    keep_checkpoints: int = _setting(
        2, "states of an unfinished fold that stay, in case the newest is damaged or the disk is full", at_least=1
    )
    time_budget: Optional[str] = _setting(
        None, "end by then, saved, to go on later: 8.5h, 45m or 90s after the start; null: no limit"
    )
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

    @property
    def eval_batch_size(self):
        """Images per forward where nothing learns: infer.batch_size, with what null means."""
        return self.infer.batch_size or 2 * self.train.batch_size

    @property
    def keeps_features(self):
        """Whether the heads learn on features that were computed once."""
        return self.model.is_head_only and self.train.views > 0


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


def seconds_of(text):
    """Return the seconds that "8.5h", "45m" or "90s" are; None of None, nan of another text."""
    if text is None:
        return None
    unit = {"h": 3600, "m": 60, "s": 1}.get(text[-1:])
    return float(text[:-1]) * unit if unit and re.fullmatch(r"\d+(\.\d+)?", text[:-1]) else math.nan
