"""Label safety: how much each augmentation lowers the score of a trained run on its held-out images.

A network that was trained with a transform should predict transformed images as well as plain ones. Where it does not,
the transform removes the label or changes it: a mirrored digit, a cut-out tumour.

Reference: Shorten and Khoshgoftaar, A survey on Image Data Augmentation for Deep Learning, 2019, Journal of Big Data 6,
who call an augmentation safe where it preserves the label.
"""

import dataclasses
from functools import partial

import numpy as np

from src.checkpointing.serialization import load_weights
from src.competition.tables import read_table
from src.config.load import load_saved_config
from src.config.settings import Augment
from src.data.augmentations import build_transforms
from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.data.transforms import Augmentation, build_augmentation, build_resize
from src.device import recall_execution, resolve_device, resolve_execution, share_cores
from src.errors import UserError
from src.evaluation.intervals import paired_interval
from src.evaluation.metrics import score
from src.model.losses import probabilities
from src.model.network import build_network
from src.training.engine import predict
from tools.doctor.findings import Fact, Finding

_MIN_DROP = 0.01  # of the score, worth a finding where its interval excludes 0
_MAX_IMAGES = 500  # held-out images of a fold, drawn at random
_FLIPS = ("HorizontalFlip", "VerticalFlip")  # always measured, since competitors try them first


def check_label_safety(data, run_folder):
    """Return (findings, facts): the score on a run's validation images, plain and under each augmentation.

    Args:
        data: CompetitionData of the run's config.
        run_folder: pathlib.Path of a run with finished folds.

    Raises:
        UserError: no fold is finished, the run has other rows, or its weights cannot be loaded.
    """
    folders = sorted(path.parent for path in run_folder.glob("fold*/meta.json"))
    if not folders:
        raise UserError(f"{run_folder}: no fold is finished; train one first")
    kept = read_table(run_folder / "folds.csv")
    table = data.train
    if table is None or table.targets is None or not set(kept["id"]) <= set(table.ids.tolist()):
        raise UserError(f"{run_folder}: was trained on other rows than the table has; leave out run=")
    place = {name: row for row, name in enumerate(table.ids.tolist())}
    rows, folds = np.array([place[name] for name in kept["id"]]), kept["fold"].astype(int).to_numpy()
    scores = {}
    for folder in folders:
        held_out = rows[folds == int(folder.name.removeprefix("fold"))]
        if len(held_out) > _MAX_IMAGES:
            held_out = np.sort(np.random.default_rng(0).choice(held_out, _MAX_IMAGES, replace=False))
        for name, value in score_versions(data.config, table.take(held_out), folder).items():
            scores.setdefault(name, []).append(value)
    was_trained = load_saved_config(run_folder).augment == data.config.augment
    return compare_scores(scores, data.config.num_folds, data.config.competition.metric, was_trained)


def build_versions(config, is_uint8):
    """Return {name: (Augmentation, whether training uses it)}: plain, all transforms, and each transform alone.

    Raises:
        UserError: as `transforms.build_augmentation`.
    """
    size, channels = config.image_size, config.competition.channels
    whole = build_augmentation(config.augment, size, channels, is_uint8)
    versions = {"plain": (build_resize(size), True)}
    if config.augment.transforms is None:
        single = build_transforms(config.augment, size, channels, is_uint8)
        single = {type(one).__name__: Augmentation(size, [one], whole.source_size) for one in single}
    else:
        single = {}
        for entry in config.augment.transforms:
            alone = dataclasses.replace(config.augment, transforms=[entry])
            single[entry if isinstance(entry, str) else next(iter(entry))] = build_augmentation(
                alone, size, channels, is_uint8
            )
    single.pop("AugMix", None)  # whose views are several images
    if single and whole.num_views == 1:
        versions["all of it"] = whole, True
    versions |= {name: (one, True) for name, one in single.items()}
    for name in _FLIPS:
        if name not in single:
            flip = Augment(preset="none", transforms=[{name: {"p": 1.0}}])
            versions[name] = build_augmentation(flip, size, channels, is_uint8), False
    return versions


def score_versions(config, table, folder):
    """Return {(name, whether training uses it): score} of one fold's network on some images.

    Args:
        table: ImageTable of the fold's validation rows.
        folder: pathlib.Path of the fold.
    """
    channels, size, task = config.competition.channels, config.image_size, config.competition.task
    device = resolve_device(config.device)
    num_workers = share_cores(device, config.train.num_workers)
    execution = recall_execution(folder.parent, config, device) or resolve_execution(config, device)
    network = build_network(config.model, len(table.target_names), channels, size, load_pretrained=False)
    load_weights(folder / "best.safetensors", network)
    network.place(device, execution.channels_last).eval()
    is_uint8 = decode_image(str(table.paths[0]), channels).dtype == np.uint8
    scores = {}
    for name, (version, is_used) in build_versions(config, is_uint8).items():
        dataset = ImageDataset(table, channels, version, version.decode_size, config.seed)
        loader = build_loader(dataset, config.eval_batch_size, num_workers)
        to_probs = partial(probabilities, task=task)
        index, probs = predict([network], loader, device, execution.precision, to_probs)
        loader.close()
        scores[name, is_used] = score(table.targets[index], probs[0], config.competition.metric)
    return scores


def compare_scores(scores, num_folds, metric, was_trained=True):
    """Return (findings, facts) from the scores of all versions.

    Args:
        scores: {(name, whether training uses it): [score of each fold]}; ("plain", True) is the reference.
        num_folds: of the split.
        metric: its name.
        was_trained: whether the run was trained with this augmentation; False: the command line changed it.
    """
    plain = np.array(scores["plain", True])
    findings, lines = [], [f"{plain.mean():.4f}  plain, mean of {len(plain)} folds"]
    for (name, is_used), values in scores.items():
        if name == "plain":
            continue
        drop = plain - np.array(values)
        low = paired_interval(drop, num_folds)[1] if len(drop) > 1 else drop[0]
        lines.append(f"{np.mean(values):.4f}  {name}" + ("" if is_used else " of every image (not in training)"))
        if is_used and drop.mean() >= _MIN_DROP and low > 0:
            title = f"{metric} of the run's held-out images falls from {plain.mean():.4f} to {np.mean(values):.4f}"
            if was_trained:
                title += f" under {name}, which it was trained with"
                advice = "it removes the label of some images: make it weaker or leave it out; tools.preview shows it"
            else:
                title += f" under {name}, which may be new to it"
                advice = "check in tools.preview that the label is still visible; if so, train with it and check again"
            findings.append(Finding("warning", title, advice))
    return findings, [Fact(f"label safety: {metric} of held-out images, augmented as in training", tuple(lines))]
