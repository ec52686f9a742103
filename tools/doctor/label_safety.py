"""Label safety, on request: what each augmentation costs a trained run on the images that it did not learn from.

The idea to know: a run that was trained with a transform should read transformed pictures as well as plain ones. Where
it does not, the transform takes the answer away or turns it into another one: a mirrored digit, a cut-out tumour.
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

_MATERIAL = 0.01  # a loss of score that is worth a finding, where its interval leaves out 0
_MOST = 500  # validation images of a fold that are looked at, drawn at random
_FLIPS = ("HorizontalFlip", "VerticalFlip")  # told in any case, since a competitor asks for them first


def check_safety(case, run_folder):
    """Return (findings, facts): the score of a run's validation images, plain and under each augmentation.

    Args:
        case: case.Case of the run's config.
        run_folder: pathlib.Path of a run with finished folds.

    Raises:
        UserError: no fold is finished, the run has other rows, or its weights cannot be loaded.
    """
    folders = sorted(path.parent for path in run_folder.glob("fold*/meta.json"))
    if not folders:
        raise UserError(f"{run_folder}: no fold is finished; train one first")
    kept = read_table(run_folder / "folds.csv")
    table = case.train
    if table is None or table.targets is None or not set(kept["id"]) <= set(table.ids.tolist()):
        raise UserError(f"{run_folder}: was trained on other rows than the table has; leave out run=")
    place = {name: row for row, name in enumerate(table.ids.tolist())}
    rows, folds = np.array([place[name] for name in kept["id"]]), kept["fold"].astype(int).to_numpy()
    scores = {}
    for folder in folders:
        held_out = rows[folds == int(folder.name.removeprefix("fold"))]
        if len(held_out) > _MOST:
            held_out = np.sort(np.random.default_rng(0).choice(held_out, _MOST, replace=False))
        for name, value in score_versions(case.config, table.take(held_out), folder).items():
            scores.setdefault(name, []).append(value)
    was_trained = load_saved_config(run_folder).augment == case.config.augment
    return judge_scores(scores, case.config.num_folds, case.config.competition.metric, was_trained)


def build_versions(config, is_uint8):
    """Return {name: (Augmentation, whether training uses it)}: plain, all of the augmentation, and each part alone.

    Raises:
        UserError: as `augment.build_augmentation`.
    """
    size, channels = config.image_size, config.competition.channels
    whole = build_augmentation(config.augment, size, channels, is_uint8)
    versions = {"plain": (build_resize(size), True)}
    if config.augment.transforms is None:
        parts = build_transforms(config.augment, size, channels, is_uint8)
        parts = {type(one).__name__: Augmentation(size, [one], whole.source_size) for one in parts}
    else:
        parts = {}
        for entry in config.augment.transforms:
            alone = dataclasses.replace(config.augment, transforms=[entry])
            parts[entry if isinstance(entry, str) else next(iter(entry))] = build_augmentation(
                alone, size, channels, is_uint8
            )
    parts.pop("AugMix", None)  # whose views are no single picture
    if parts and whole.num_views == 1:
        versions["all of it"] = whole, True
    versions |= {name: (one, True) for name, one in parts.items()}
    for name in _FLIPS:
        if name not in parts:
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


def judge_scores(scores, num_folds, metric, was_trained=True):
    """Return (findings, facts) about the scores of all versions.

    Args:
        scores: {(name, whether training uses it): [score of each fold]}; ("plain", True) is what others are held to.
        num_folds: parts that the rows were split into.
        metric: what a score is.
        was_trained: whether the run was trained with this very augmentation; False: the command line changed it.
    """
    plain = np.array(scores["plain", True])
    findings, lines = [], [f"{plain.mean():.4f}  plain, mean of {len(plain)} folds"]
    for (name, is_used), values in scores.items():
        if name == "plain":
            continue
        loss = plain - np.array(values)
        low = paired_interval(loss, num_folds)[1] if len(loss) > 1 else loss[0]
        lines.append(f"{np.mean(values):.4f}  {name}" + ("" if is_used else " of every picture (training does not)"))
        if is_used and loss.mean() >= _MATERIAL and low > 0:
            title = f"{metric} of the run's held-out pictures falls from {plain.mean():.4f} to {np.mean(values):.4f}"
            if was_trained:
                title += f" under {name}, which it was trained with"
                advice = "it takes the answer from some pictures: make it weaker or leave it out; tools.preview shows it"
            else:
                title += f" under {name}, which may be new to it"
                advice = "look at tools.preview whether the answer is still there; if it is, train with it and ask again"
            findings.append(Finding("warning", title, advice))
    return findings, [Fact(f"label safety: {metric} of held-out pictures, as training would show them", tuple(lines))]
