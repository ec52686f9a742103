"""Candidates of a command line -> kept features of their frozen backbones, by layer, for training and test images."""

import os
import time
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from torch import nn

from src.checkpointing.run_folder import RunFolder
from src.checkpointing.serialization import read_weights
from src.config.checks import check_config
from src.config.load import load_saved_config
from src.data.cache import open_cache
from src.data.dataset import ImageDataset
from src.errors import UserError, first_line, listing, nearest
from src.model.network import build_network
from src.training.features import is_kept, load_features, locate_features
from src.training.learner import build_transforms
from src.training.run import settle_precision, start_processes
from src.training.run_data import find_learned


class Layers(nn.Module):
    """A backbone whose features (N, D) are the last, and after them those of some stages or blocks.

    A map's are its mean; a transformer's block has the class token, where there is one, and the mean of its patches,
    both behind the last norm. hflip: the mean of an image's features and of its mirror image's.

    Reference: Oquab et al., DINOv2, 2023, arXiv:2304.07193, appendix B.3, for class token and mean of patches.
    """

    def __init__(self, backbone, indices, hflip):
        super().__init__()
        self.backbone, self.indices, self.hflip = backbone, tuple(indices), hflip
        self.sizes = ()  # of the last features and each layer's, once images were seen

    def forward(self, images):
        features = self._extract(images)
        return (features + self._extract(images.flip(-1))) / 2 if self.hflip else features

    def extra_repr(self):
        return f"layers={self.indices}, hflip={self.hflip}"  # which the name of the kept file depends on

    def _extract(self, images):
        if not self.indices:
            found = [self.backbone(images)]
        else:
            known = signature(self.backbone.forward_intermediates).parameters
            wanted = {key: True for key in ("norm", "return_prefix_tokens") if key in known}
            last, layers = self.backbone.forward_intermediates(images, indices=list(self.indices), **wanted)
            found = [self.backbone.forward_head(last), *map(_pool, layers)]
        self.sizes = tuple(one.shape[1] for one in found)
        return torch.cat([one.float() for one in found], dim=1)


def _pool(layer):
    """Return (N, D) of a map (N, C, H, W), or of one and the prefix tokens (N, P, C) before its patches."""
    if isinstance(layer, (tuple, list)):
        return torch.cat([layer[1][:, 0], layer[0].mean(dim=(2, 3))], dim=1)
    return layer.mean(dim=(2, 3))


@dataclass
class Source:
    """One backbone of the command line, and its features once they are there."""

    word: str
    config: object  # Config, with the backbone and its weights
    pixel_stats: tuple | None  # of the run that it is of; None: as the config says
    layers: object = "last"  # "last", "all" or a list of numbers and names
    hflip: bool = False
    names: tuple = ()  # of its blocks, the last features first
    seconds: float = 0.0
    sizes: tuple = ()

    @cached_property
    def slices(self):
        """{name of a layer: its columns}."""
        ends = np.cumsum(self.sizes)
        return {name: slice(end - size, end) for name, size, end in zip(self.names, self.sizes, ends, strict=True)}

    def load(self, run, num_reads, reads_test=False):
        """Return the features (N, D) of a run.Run's table, all layers beside each other; computed where need be."""
        began = time.perf_counter()
        start_processes(self.config)  # anew, as another backbone may have had another precision
        run = replace(run, config=self.config, pixel_stats=self.pixel_stats)
        settle_precision(run)
        config = run.config
        transforms = build_transforms(config, run.table)
        network = build_network(config, len(run.table.target_names), run.pixel_stats)
        if self.layers != "last" or self.hflip:
            network.backbone = Layers(network.backbone, self._find_layers(network.backbone), self.hflip)
            self.sizes = _measure(network.backbone, config)
        paths, size = ImageDataset(run.table, config.competition, None, config.seed).list_paths(), config.image_size
        network.place(run.accelerator.device, config.train.channels_last)
        if not is_kept(locate_features(run, network, paths)):
            cache = open_cache(paths, config, tuple(size), num_reads * len(paths))
            run.caches = {} if cache is None else {tuple(size): cache}
        features = np.asarray(load_features(run, transforms, paths, network)[0])
        if network.join is not None:  # of several images a row, whose features lie beside each other
            features = features.reshape(len(features), network.join.num_images, -1)
            features = features.max(axis=1) if config.competition.images_as == "max" else features.mean(axis=1)
        self.names, self.sizes = self.names or ("last",), self.sizes or (features.shape[1],)
        self.seconds += time.perf_counter() - began
        return features

    def _find_layers(self, backbone):
        """Return the numbers of the layers that are asked for, and set the names."""
        name, self.names = self.config.model.backbone, ("last",)
        if self.layers == "last":
            return ()
        known = [one["module"] for one in getattr(backbone, "feature_info", ()) if isinstance(one, dict)]
        if not known or not hasattr(backbone, "forward_intermediates"):
            raise UserError(f"layers: {name} has none that timm can return; set layers=last")
        found, count = [], len(known)
        for one in range(count) if self.layers == "all" else [one for one in self.layers if one != "last"]:
            number = known.index(one) if one in known else one
            if not isinstance(number, int) or not -count <= number < count:
                has = f"{name} has 0 to {count - 1}, or {listing(known, 30)}"
                raise UserError(f"layers={one}: no layer of all backbones; {has}{nearest(one, known)}")
            found.append(number % count)
        found = sorted(set(found))
        self.names = ("last", *(known[one] for one in found))
        return found


def _measure(layers, config):
    """Return how many features each layer has, by a dry run."""
    try:
        with torch.no_grad():
            layers.eval()(torch.zeros(1, config.competition.network_channels, *config.image_size))
    except Exception as error:
        reason = f"{config.model.backbone} cannot return them ({first_line(error)})"
        raise UserError(f"layers: {reason}; set layers=last") from None
    return layers.sizes


def build_source(word, config, table, layers, hflip, compute_stats):
    """Return the Source of a word: a backbone, BACKBONE@WEIGHTS, or the folder of a run or of one of its folds.

    compute_stats: () -> (mean, std) of the table's pixels, for normalize=dataset or center.

    Raises:
        UserError: the run has seen labels of the table's rows, or holds no network.
    """
    backbone, _, weights = word.partition("@")
    model = replace(config.model, backbone=backbone, weights=os.path.expanduser(weights) or config.model.weights)
    pixel_stats, place = None, Path(os.path.expanduser(word))
    is_fold = place.name.startswith("fold") and (place.parent / "config.yaml").is_file()
    if is_fold or (place / "config.yaml").is_file():
        run_path = place.parent if is_fold else place
        saved, folder = load_saved_config(run_path), RunFolder(run_path)
        if folder.made_by.is_file():
            raise UserError(f"{run_path}: is a {folder.made_by.stem}, which holds no network; name a trained run")
        folds = [folder.fold("all"), *folder.finished_folds()]
        fold = next((one for one in folds if one.path.name == (place.name if is_fold else one.path.name)
                     and one.is_finished()), None)  # fmt: skip
        if fold is None:
            raise UserError(f"{place}: no fold is finished; resume it with the command that trained it")
        if not is_fold and fold.number != "all" and len(folds) > 2:
            print(f"{word}: {fold.path.name} of {len(folds) - 1} is taken; train it with fold=all for one of all rows")
        kept = saved.model.pool if saved.model.pool in ("auto", "avg", "max", "avgmax") else "auto"
        path = fold.weights(saved.train.select)
        if seen := find_learned(path, config.competition, table.ids).sum():
            found = f"has learned from {seen} of these {len(table)} rows, which its features would be judged on"
            raise UserError(f"{run_path}: {found}; name a run of other rows, or compare it as it is: tools.compare")
        model = replace(model, backbone=saved.model.backbone, kwargs=saved.model.kwargs, pool=kept, weights=str(path))
        state, count = read_weights(path), config.competition.network_channels
        if saved.competition.channels == config.competition.channels and state["pixel_mean"].numel() >= count:
            # it sees pixels as it has learned to
            pixel_stats = tuple(state[name].flatten().numpy()[:count] for name in ("pixel_mean", "pixel_std"))
            config = replace(config, normalize="dataset")
    elif "/" in word.partition("@")[0]:
        raise UserError(f"candidates={word}: neither a run (no config.yaml) nor a backbone; correct it")
    config = replace(config, model=model)
    check_config(config)
    if pixel_stats is None and config.normalize in ("dataset", "center"):
        pixel_stats = compute_stats()
    return Source(word, config, pixel_stats, layers, hflip)
