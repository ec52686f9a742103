"""Features of a frozen backbone, computed once and kept on disk: every head then trains on them in seconds.

A frozen backbone gives an image the same features in every epoch, so that the network takes features (N, D) in place of
images and the loop is the same. What an image may look like is then fixed: plain, and `train.views` - 1 augmented ones
that the epochs take in turn.
"""

import hashlib
import zlib
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset

from src import data
from src.data.cache import cache_folder, hash_images
from src.data.dataset import ImageDataset, build_loader, is_image_input
from src.errors import UserError
from src.files import atomic_path, delete_unfinished, make_folder, save_text
from src.locks import hold
from src.model.network import build_network
from src.training.engine import advise_on_nan, gather_rows, predict


class FeatureDataset(Dataset):
    """Rows (M,) of features (V, N, D), with their table; what else `ImageDataset.read` returns of a row is passed on.

    In training the epochs take the views in turn, each image starting at another one; else view 0, the plain image.
    """

    def __init__(self, features, rows, table, is_training):
        self.features, self.rows, self.table = features, rows, table
        self.num_views = len(features) if is_training else 1
        self._read = ImageDataset(table, competition=None, transform=None, seed=0).read
        first = self._read(0) if len(rows) else {}  # of fold=all no row validates
        self._others = [name for name, value in first.items() if not is_image_input(value)]

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, keys):
        """Return a batch, as Loader yields it, for all its keys (epoch, row, copy) at once."""
        epoch, index, copy = np.array(keys, dtype=np.int64).T
        views = (epoch + index + copy) % self.num_views
        inputs = {"features": self.features[views, self.rows[index]]}
        if self._others:
            read = [self._read(row) for row in index]
            inputs |= {name: np.stack([np.asarray(one[name]) for one in read]) for name in self._others}
        return {"inputs": inputs, "index": index, "target": self.table.training_targets[index]}


class _Backbone(nn.Module):
    """A network without its head: inputs -> features (N, D) of the images."""

    def __init__(self, network):
        super().__init__()
        self.network, self.normalize = network, network.normalize

    def forward(self, **inputs):
        return self.network.extract_features(**{name: one for name, one in inputs.items() if one.ndim == 4})


def load_features(run, transforms, paths, network=None):
    """Return the features (V, N, D), float32, of every image; computed once and kept, see `locate_features`.

    run: run.Run; transforms: of training and of validation; network: one whose backbone is not the config's.
    """
    config, table, accelerator = run.config, run.table, run.accelerator
    network = network or build_network(config, len(table.target_names), run.pixel_stats)
    network.place(accelerator.device, config.train.channels_last)
    augmentation, resize = transforms
    transforms, path = [resize] + [augmentation] * (config.train.views - 1), locate_features(run, network, paths)
    waiting = f"{path}: another process computes these features; waiting"
    with hold(path.with_suffix(".lock"), waiting) if accelerator.is_main_process else nullcontext():
        is_saver = accelerator.is_local_main_process  # of each host, as it may have a folder of its own
        is_there = all(gather_object([not is_saver or is_kept(path)]))
        views = [] if is_there else [_compute_view(run, network, *one) for one in enumerate(transforms)]
        for is_turn in (accelerator.is_main_process, is_saver) if views else ():  # hosts may also share a folder
            if is_turn and not is_kept(path):
                delete_unfinished(path.parent)
                features = np.stack(views)
                try:
                    with atomic_path(path) as temporary, open(temporary, "wb") as file:
                        np.save(file, features)
                    save_text(path.with_suffix(".crc"), str(zlib.crc32(features)))
                except OSError as error:
                    reason = f"cannot be written ({error.strerror})"
                    raise UserError(f"{path}: {reason}; set cache_dir=FOLDER or train.views=0") from None
                print(f"{path}: features of {len(table)} images, {len(views)} of each, for all folds")
            accelerator.wait_for_everyone()
    return np.load(path, mmap_mode="r")


def locate_features(run, network, paths):
    """Return the file of a network's features of some image files, beside the decoded images.

    Its name is a hash of these files, backbone and weights, size, precision, and of several views what makes them.
    """
    config = run.config
    words = [repr(network.backbone), repr(network.pixel_stats), config.precision, version("timm"), config.model.kwargs]
    if config.train.views > 1:
        code = [path.read_text(encoding="utf-8") for path in sorted(Path(data.__file__).parent.glob("*.py"))]
        words += [config.train.views, config.seed, config.augment]
        words += [*map(version, ("albumentations", "torchvision")), *code]
    folder = make_folder(run.folder.path if config.cache == "off" else cache_folder(config), "cache_dir")
    digest = hashlib.sha256(repr(words).encode())
    for name, tensor in network.backbone.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    digest.update(hash_images(paths, config, config.image_size).encode())
    return folder / f"features_{digest.hexdigest()[:16]}.npy"


def _compute_view(run, network, view, transform):
    """Return the features (N, D) of one version of every image; each process computes its share."""
    config, accelerator = run.config, run.accelerator
    dataset = ImageDataset(run.table, config.competition, transform, config.seed, run.caches)
    processes = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    loader = build_loader(dataset, config.eval_batch_size, run.num_workers, **processes)
    title = "features" if accelerator.is_main_process else ""
    index, features = predict([_Backbone(network)], loader, lambda one: one, config.precision, epoch=view, title=title)
    loader.close()
    gathered = gather_rows(index, features[0], len(run.table))
    if not np.isfinite(gathered).all():
        advice = advise_on_nan(config.precision, "check the weights")
        raise UserError(f"{config.model.backbone}: its features are nan; {advice}")
    return gathered


def is_kept(path):
    """Whether a file of features is there, and undamaged."""
    try:
        return str(zlib.crc32(np.load(path, mmap_mode="r"))) == path.with_suffix(".crc").read_text()
    except (OSError, ValueError):
        return False
