"""What all folds of a run share and is made once: pixel statistics, decoded images, features."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from src.checkpointing.run_folder import has_work
from src.data.cache import ImageCache, list_folders, open_cache
from src.data.pixel_stats import compute_pixel_stats
from src.files import load_json, save_json
from src.training.features import load_features
from src.training.learner import build_augmentations, count_reads


@dataclass(frozen=True)
class Shared:
    """What all folds of a run share."""

    num_workers: int  # loader processes
    pixel_stats: tuple[np.ndarray, np.ndarray] | None = None  # (mean, std) in raw pixel units; None: the backbone's
    caches: dict[tuple[int, int], ImageCache] = field(default_factory=dict)  # of the table's images, by size
    features: np.ndarray | None = None  # (V, N, D) of the table's images, in the place of these; see training.features


def prepare_shared(config, table, folds, left, accelerator, num_workers):
    """Return the Shared of the folds that are left, with what is to be computed once, computed."""
    pixel_stats, augmentations = _load_pixel_stats(config, table, accelerator), build_augmentations(config, table)
    caches = _open_caches(config, table, count_reads(config, folds, left, augmentations), accelerator)
    shared = Shared(num_workers, pixel_stats, caches)
    if not config.keeps_features:
        return shared
    features = load_features(config, table, augmentations, accelerator, shared)
    return dataclasses.replace(shared, features=features)


def _load_pixel_stats(config, table, accelerator):
    """Return the images' (mean, std), once a run and kept in pixel_stats.json; None where they are not used."""
    if config.normalize not in ("dataset", "center"):
        return None
    path = config.run_folder / "pixel_stats.json"
    with accelerator.main_process_first():
        if accelerator.is_main_process and not (path.is_file() and has_work(config.run_folder)):
            mean, std = compute_pixel_stats(table, config.competition.channels, config.image_size, seed=config.seed)
            save_json(path, {"mean": mean.tolist(), "std": std.tolist()})
    stats = load_json(path)
    return np.array(stats["mean"]), np.array(stats["std"])


def _open_caches(config, table, reads_at, accelerator):
    """Return {(height, width): ImageCache} of the sizes at which training and validation read their images."""
    root, folders = config.competition.root, list_folders(config)
    with accelerator.main_process_first():
        opened = {
            size: open_cache(table, config.competition.channels, size, root, folders, config.cache, reads)
            for size, reads in reads_at.items()
        }
    return {size: cache for size, cache in opened.items() if cache is not None}
