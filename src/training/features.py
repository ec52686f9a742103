"""Features of a frozen backbone, computed once: every fold's head, and any other head, then learns on them in seconds.

The idea to know: a frozen backbone gives an image the same features in every epoch, so that `Network` takes features
(N, D) in the place of images and the loop is the same. What an image may look like is then fixed beforehand: its plain
picture, and `train.views` - 1 augmented ones that the epochs take in turn.
"""

import hashlib
import zlib
from contextlib import nullcontext
from importlib.metadata import version

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.utils.data import Dataset

from src.data.cache import hash_images, list_folders, open_folder
from src.data.dataset import ImageDataset, build_loader
from src.errors import UserError
from src.files import atomic_path, save_text
from src.locks import hold
from src.model.network import build_network
from src.training.engine import predict


class FeatureDataset(Dataset):
    """Rows of a table by their features; takes all keys (epoch, row, copy) of a batch at once.

    Args:
        features: (V, N, D) float32, of all the rows of a competition; view 0 is the plain picture.
        rows: (M,) int, those of `table`.
        table: has .targets (M, C) float32.
        is_training: epochs take the views in turn, each image beginning with another one; else the plain picture.
    """

    def __init__(self, features, rows, table, is_training):
        self.features, self.rows, self.table = features, rows, table
        self.num_views = len(features) if is_training else 1

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, keys):
        """Return {"image": (B, D) float32, "index": (B,) int64, "target": (B, C) float32}."""
        epoch, index, copy = np.array(keys, dtype=np.int64).T
        views = (epoch + index + copy) % self.num_views
        features = self.features[views, self.rows[index]]
        return {"image": features, "index": index, "target": self.table.targets[index]}


class _Backbone(nn.Module):
    """A network without its head: images (N, C, H, W) -> features (N, D)."""

    def __init__(self, network):
        super().__init__()
        self.network, self.normalize = network, network.normalize

    def forward(self, images):
        return self.network.backbone(images)


def load_features(config, table, augmentations, accelerator, shared):
    """Return the features (V, N, D), float32, of every image; computed once and kept beside the decoded images.

    They are found again by all that decides them: the files, the backbone and its weights, size, precision, and where
    there are several views, augmentation and seed.

    Args:
        table: competition.tables.ImageTable.
        augmentations: data.augment.Augmentation of training and of validation.
        shared: shared.Shared, but for its features.

    Raises:
        UserError: an image cannot be decoded, the weights cannot be loaded, or the features cannot be written.
    """
    competition, size = config.competition, config.image_size
    network = build_network(
        config.model, len(table.target_names), competition.channels, size, config.normalize, shared.pixel_stats
    ).place(accelerator.device, config.train.channels_last)
    augmentation, resize = augmentations
    transforms = [resize] + [augmentation] * (config.train.views - 1)
    precision = accelerator.mixed_precision.replace("no", "fp32")
    words = [repr(network.backbone), repr(network.pixel_stats), precision, version("timm"), config.model.kwargs]
    if len(transforms) > 1:
        words += [len(transforms), config.seed, *augmentation.describe()]
    name = f"features_{_hash(network.backbone, words, table, competition, size)}.npy"
    path = open_folder([config.run_folder] if config.cache == "off" else list_folders(config)) / name
    waiting = f"{path}: another process computes these features; waiting for it"
    with hold(path.with_suffix(".lock"), waiting) if accelerator.is_main_process else nullcontext():
        [is_there] = broadcast_object_list([accelerator.is_main_process and _is_whole(path)])  # one decides for all
        if not is_there:
            views = [
                _compute_view(network, view, transform, config, table, accelerator, shared, precision)
                for view, transform in enumerate(transforms)
            ]
            if accelerator.is_main_process:
                for left in path.parent.glob(f".{path.stem}.*.tmp"):
                    left.unlink()  # of a killed process
                _save(path, np.stack(views))
                print(f"{path}: features of {len(table)} images, {len(views)} of each, for all folds")
            accelerator.wait_for_everyone()
    return np.load(path, mmap_mode="r")


def _compute_view(network, view, transform, config, table, accelerator, shared, precision):
    """Return the features (N, D) of one version of every image; each process computes its part."""
    cache = shared.caches.get(transform.decode_size)
    data = ImageDataset(table, config.competition.channels, transform, transform.decode_size, config.seed, cache)
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    loader = build_loader(data, config.eval_batch_size, shared.num_workers, **place)
    index, features = predict(
        [_Backbone(network)], loader, accelerator.device, precision, lambda one: one, epoch=view,
        title="features" if accelerator.is_main_process else "",
    )  # fmt: skip
    loader.close()
    parts = gather_object([(index, features[0])])
    if not all(np.isfinite(part).all() for _, part in parts):
        raise UserError(
            f"{config.model.backbone}: its features are nan or infinite; set precision=fp32 or check the weights"
        )
    every = np.empty((len(table), features.shape[2]), dtype=np.float32)
    for index, part in parts:
        every[index] = part
    return every


def _is_whole(path):
    """Whether features are kept in a file, and are what was written there."""
    try:
        return str(zlib.crc32(np.load(path, mmap_mode="r"))) == path.with_suffix(".crc").read_text()
    except (OSError, ValueError):
        return False


def _save(path, features):
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, features)
        save_text(path.with_suffix(".crc"), str(zlib.crc32(features)))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); set cache_dir=FOLDER or train.views=0"
        ) from None


def _hash(backbone, words, table, competition, size):
    """Return a hash of the backbone's weights, of words, and of the image files."""
    digest = hashlib.sha256(repr(words).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    digest.update(hash_images(table.paths, competition.root, competition.channels, size).encode())
    return digest.hexdigest()[:16]
