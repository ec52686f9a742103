"""Label safety: how much each augmentation lowers the score of a trained run on its held-out images.

A network that was trained with a transform should predict transformed images as well as plain ones. Where it does not,
the transform removes the label or changes it: a mirrored digit, a cut-out tumour.

Reference: Shorten and Khoshgoftaar, A survey on Image Data Augmentation for Deep Learning, 2019, Journal of Big Data 6,
who call an augmentation safe where it preserves the label.
"""

import dataclasses
from functools import partial

import numpy as np

from src.checkpointing.run_folder import RunFolder
from src.checkpointing.serialization import load_network
from src.competition.metadata import encode
from src.competition.tables import read_table
from src.config.load import load_saved_config
from src.config.settings import Augment
from src.data.augmentations import build_transforms
from src.data.dataset import ImageDataset, build_loader
from src.data.decode import decode_image
from src.data.transforms import Augmentation, build_augmentation, build_resize
from src.device import resolve_device, share_cores
from src.errors import UserError
from src.evaluation.intervals import paired_interval
from src.model.losses import probabilities
from src.training.engine import predict
from src.training.execution import recall_precision
from tools.doctor.findings import Fact, Finding

_MIN_DROP = 0.01  # of the score, worth a finding where its interval excludes 0
_MAX_IMAGES = 500  # held-out images of a fold, drawn at random
_NUM_SHUFFLES = 20  # of the predictions among the images, to see what chance reaches
_FLIPS = ("HorizontalFlip", "VerticalFlip")  # always measured, since competitors try them first


def check_label_safety(data, run_folder):
    """Return (findings, facts): the score on a run's validation images, plain and under each augmentation.

    Args:
        data: CompetitionData of the run's config.
        run_folder: pathlib.Path of a run with finished folds.

    Raises:
        UserError: no fold is finished, the run has other rows, or its weights cannot be loaded.
    """
    run = RunFolder(run_folder)
    if not run.finished_folds():
        raise UserError(f"{run_folder}: no fold is finished; train one first")
    saved = read_table(run.folds)
    table = data.train
    if table is None or table.targets is None or not set(saved["id"]) <= set(table.ids.tolist()):
        raise UserError(f"{run_folder}: was trained on other rows than the table has; leave out run=")
    metadata, _ = encode(run.load_encoding(data.config.competition), table.columns, run_folder)
    table = dataclasses.replace(table, metadata=metadata)
    row_of = {name: row for row, name in enumerate(table.ids.tolist())}
    rows, folds = np.array([row_of[name] for name in saved["id"]]), saved["fold"].astype(int).to_numpy()
    scores, chances, rises, turned = {}, [], [], {}
    for fold in run.finished_folds():
        held_out = rows[folds == fold.number]
        if len(held_out) > _MAX_IMAGES:
            held_out = np.sort(np.random.default_rng(0).choice(held_out, _MAX_IMAGES, replace=False))
        held_out = table.take(held_out)
        found = predict_versions(data, held_out, fold)
        for name, probs in found.items():
            scores.setdefault(name, []).append(data.metric.score(held_out.targets, probs))
            if data.config.competition.task == "multiclass":
                counts = count_turned(held_out.targets, found["plain", True], probs)
                turned[name[0]] = turned.get(name[0], 0) + counts
        rng, plain = np.random.default_rng(0), found["plain", True]
        shuffled = [data.metric.score(held_out.targets, rng.permutation(plain)) for _ in range(_NUM_SHUFFLES)]
        chances.append(max(shuffled) if data.metric.greater_is_better else min(shuffled))
        if "val_score" not in (log := read_table(fold.log)):
            raise UserError(f"{fold.log}: damaged, it has no column val_score; train that fold again")
        before, last = [np.mean(shuffled), *log["val_score"].astype(float)][-2:]
        rises.append(last - before)
    was_trained = load_saved_config(run_folder).augment == data.config.augment
    findings, facts = compare_scores(scores, data.config.num_folds, data.metric, was_trained, chances, rises)
    lines = describe_turned(turned, table.target_names)
    return findings, [*facts, Fact("label safety: which class is taken for which", lines)] if lines else facts


def build_versions(config, is_uint8):
    """Return {name: (Augmentation, whether training uses it)}: plain, all transforms, and each transform alone.

    Raises:
        UserError: as `transforms.build_augmentation`.
    """
    whole = build_augmentation(config, is_uint8)
    versions = {"plain": (build_resize(config), True)}
    channels = config.competition.network_channels
    if config.augment.transforms is None:
        single = build_transforms(config.augment, config.image_size, channels, is_uint8)
        single = {
            type(one).__name__: Augmentation(config.image_size, [one], whole.source_size, None, config.resize, channels)
            for one in single
        }
    else:
        single = {}
        for entry in config.augment.transforms:
            alone = dataclasses.replace(config.augment, transforms=[entry])
            name = entry if isinstance(entry, str) else next(iter(entry))
            single[name] = build_augmentation(dataclasses.replace(config, augment=alone), is_uint8)
    single.pop("AugMix", None)  # whose views are several images
    if single and whole.num_views == 1:
        versions["all of it"] = whole, True
    versions |= {name: (one, True) for name, one in single.items()}
    for name in _FLIPS:
        if name not in single:
            flip = Augment(preset="none", transforms=[{name: {"p": 1.0}}])
            versions[name] = build_augmentation(dataclasses.replace(config, augment=flip), is_uint8), False
    return versions


def count_turned(targets, plain, probs):
    """Return (K, K) counts: images of class i that are known as they are, and now taken for class j."""
    truth, counts = targets.argmax(axis=1), np.zeros((targets.shape[1],) * 2, int)
    is_known = plain.argmax(axis=1) == truth
    np.add.at(counts, (truth[is_known], probs.argmax(axis=1)[is_known]), 1)
    return counts


def describe_turned(turned, names):
    """Return a line for each version under which a quarter of a class, three images or more, is taken for another.

    turned: {version: counts of `count_turned`}; names: of the classes.
    """
    lines = []
    for version, counts in turned.items():
        totals, found = counts.sum(axis=1), []
        for one, other in np.argwhere(counts >= np.maximum(3, totals[:, None] / 4)):
            if one != other:
                text = f"{names[one]} -> {names[other]} ({counts[one, other]} of {totals[one]})"
                found.append((counts[one, other] / totals[one], text))
        if found:
            lines.append(f"{version}: {', '.join(text for _, text in sorted(found, reverse=True)[:6])}")
    return tuple(lines)


def predict_versions(data, table, fold):
    """Return {(name, whether training uses it): probs (N, K)} of one fold's network on some images.

    Args:
        data: CompetitionData of the run's config.
        table: ImageTable of the fold's validation rows.
        fold: run_folder.FoldFolder.
    """
    config, competition = data.config, data.config.competition
    device = resolve_device(config.device)
    num_workers, _ = share_cores(device, config.train.num_workers, config.threads)
    precision = recall_precision(RunFolder(fold.path.parent), config, device)
    network = load_network(config, fold).place(device, config.train.channels_last)
    is_uint8 = decode_image(str(table.paths[0]), competition).dtype == np.uint8
    to_probs, found = partial(probabilities, task=competition.task), {}
    for name, (version, is_used) in build_versions(config, is_uint8).items():
        dataset = ImageDataset(table, competition, version, config.seed)
        loader = build_loader(dataset, config.eval_batch_size, num_workers)
        index, probs = predict([network], loader, to_probs, precision)
        loader.close()
        found[name, is_used] = probs[0][np.argsort(index)]
    return found


def compare_scores(scores, num_folds, metric, was_trained=True, chances=(), rises=()):
    """Return (findings, facts) from the scores of all versions.

    Before a run has learned, an augmentation has nothing to take away: there is no finding where the score is not above
    chance, nor one of a drop that is smaller than what the run still gained in its last epoch.

    Args:
        scores: {(name, whether training uses it): [score of each fold]}; ("plain", True) is the reference.
        num_folds: of the split.
        metric: evaluation.metrics.Metric of the scores.
        was_trained: whether the run was trained with this augmentation; False: the command line changed it.
        chances: the best score of shuffled predictions, of each fold.
        rises: what the last epoch added to each fold's validation score; of a first epoch, what it added to chance.
    """
    plain, sign = np.array(scores["plain", True]), 1 if metric.greater_is_better else -1
    findings, measured = [], [(plain.mean(), f"plain, mean of {len(plain)} folds")]
    smallest = _MIN_DROP * (abs(plain.mean()) if metric.takes == "values" and not metric.greater_is_better else 1)
    least = max(smallest, sign * np.mean(rises)) if len(rises) else smallest
    if len(chances) and sign * (plain.mean() - np.mean(chances)) <= 0:
        least = np.inf
        measured.append((np.mean(chances), "by chance: the run has not learned, so nothing below says much"))
    elif least > smallest:
        measured.append((least, "was added by the last epoch: train longer before a smaller drop below says much"))
    for (name, is_used), values in scores.items():
        if name == "plain":
            continue
        drop = (plain - np.array(values)) * sign
        low = paired_interval(drop, num_folds)[1] if len(drop) > 1 else drop[0]
        measured.append((np.mean(values), name + ("" if is_used else " of every image (not in training)")))
        if is_used and drop.mean() >= least and low > 0:
            verb = "falls" if metric.greater_is_better else "rises"
            change = f"{verb} from {plain.mean():.4f} to {np.mean(values):.4f}"
            title = f"{metric.name} of the run's held-out images {change}"
            if was_trained:
                title += f" under {name}, which it was trained with"
                advice = "it removes the label of some images: make it weaker or leave it out; tools.preview shows it"
            else:
                title += f" under {name}, which may be new to it"
                advice = "check in tools.preview that the label is still visible; if so, train with it and check again"
            findings.append(Finding("warning", title, advice))
    lines = tuple(f"{score:.4f}  {text}" for score, text in measured)
    table = (("augmentation", metric.name), *((text, f"{score:.4f}") for score, text in measured))
    return findings, [Fact(f"label safety: {metric.name} of held-out images, augmented as in training", lines, table)]
