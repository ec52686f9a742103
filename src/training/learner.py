"""The objects of one fold, built from the config: network, averages, optimizer, schedule, loaders."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from src.checkpointing.progress import Progress
from src.competition.tables import ImageTable
from src.data.dataset import ImageDataset, Loader, build_loader
from src.data.decode import decode_image
from src.data.mixup_cutmix import Mixer
from src.data.samplers import balanced_weights
from src.data.transforms import build_augmentation, build_resize
from src.errors import UserError
from src.model.class_weights import resolve_class_weights
from src.model.losses import build_loss, consistency_loss
from src.model.network import build_network
from src.training.averaging import build_ema, build_swa
from src.training.features import FeatureDataset
from src.training.optimizer import align_memory, build_optimizer
from src.training.schedule import Schedule, build_schedule


@dataclass
class FoldParts:
    """The objects of one fold, built once and then passed."""

    network: torch.nn.Module
    ema: torch.nn.Module | None
    swa: torch.nn.Module | None
    loss_function: Callable
    scaler: torch.amp.GradScaler | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    train_loader: Loader
    val_loader: Loader
    train_table: ImageTable
    val_table: ImageTable

    @property
    def scored(self):
        """The network whose predictions count: the averaged one, as soon as there is an average."""
        if self.swa is not None and self.swa.n_averaged > 0:
            return self.swa.module
        return self.ema.module if self.ema else self.network

    def state(self, progress):
        """Everything that a restart needs, as plain containers and tensors."""
        return {name: one.state_dict() for name, one in self._stateful().items()} | {"progress": vars(progress)}

    def restore(self, state):
        """Take over what `state` returned; return its Progress."""
        for name, one in self._stateful().items():
            if name in state:  # a run begun in another precision has no scaler
                one.load_state_dict(state[name])
        align_memory(self.optimizer)
        return Progress(**state["progress"])

    def _stateful(self):
        names = ("network", "ema", "swa", "scaler", "optimizer", "schedule")
        return {name: one for name in names if (one := getattr(self, name)) is not None}


def build_parts(config, fold, table, folds, accelerator, shared):
    """Build the objects of one fold; arguments and errors are those of `fold.train_fold`."""
    channels, size = config.competition.channels, config.image_size
    rows = choose_rows(config, fold, folds)
    if shared.features is not None:
        train_data, val_data = (
            FeatureDataset(shared.features, one, table.take(one), is_training)
            for one, is_training in zip(rows, (True, False), strict=True)
        )
    else:
        train_data, val_data = (
            _build_dataset(config, table, one, transform, shared.caches)
            for one, transform in zip(rows, build_augmentations(config, table), strict=True)
        )
    loading = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    loading["num_workers"] = shared.num_workers if shared.features is None else 0
    targets, task = train_data.table.targets, config.competition.task
    class_weights = resolve_class_weights(config.loss, targets, task)
    weights = balanced_weights(targets, task) if config.train.sampler == "balanced" else None
    train_loader = build_loader(
        train_data, config.train.batch_size, shuffle_seed=config.seed, **loading,
        num_batches=config.train.batches_per_epoch, weights=weights,
    )  # fmt: skip
    val_loader = build_loader(val_data, config.eval_batch_size, **loading)

    network = build_network(
        config.model, len(table.target_names), channels, size, config.normalize, shared.pixel_stats,
        prior=_compute_prior(targets, weights, class_weights, task), is_multiclass=task == "multiclass",
    ).place(accelerator.device, config.train.channels_last)  # fmt: skip
    if config.train.compile:
        network.compile()
    optimizer = build_optimizer(config.optimizer, network)
    steps_per_epoch = -(-len(train_loader) // config.optimizer.accumulate_steps)
    schedule = build_schedule(config.schedule, optimizer, config.train.epochs, steps_per_epoch)
    ema = build_ema(network, config.train.ema_decay) if config.train.ema_decay is not None else None
    swa = build_swa(network) if config.train.swa_epochs is not None else None
    return FoldParts(
        network,
        ema,
        swa,
        build_loss(config.loss, task, class_weights),
        accelerator.scaler,
        optimizer,
        schedule,
        train_loader,
        val_loader,
        train_data.table,
        val_data.table,
    )


def _build_dataset(config, table, rows, transform, caches):
    cache = caches.get(transform.decode_size)
    return ImageDataset(
        table.take(rows), config.competition.channels, transform, transform.decode_size, config.seed,
        cache.take(rows) if cache else None,
    )  # fmt: skip


def choose_rows(config, fold, folds):
    """Return the rows (int indices, in order) that a fold trains and validates on."""
    train_rows, val_rows = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    if config.train.max_images is not None and len(train_rows) > config.train.max_images:
        chosen = np.random.default_rng((config.seed, fold)).choice(train_rows, config.train.max_images, replace=False)
        train_rows = np.sort(chosen)
    return train_rows, val_rows


def count_reads(config, folds, left, augmentations):
    """Return {(height, width): images read at that size, in all}; none where each is wanted at its own size.

    Args:
        folds: (N,) int.
        left: numbers of those that are to be trained.
        augmentations: of training and validation.
    """
    num_reads, reads_at = [0, 0], Counter()
    for fold in left:
        for place, rows in enumerate(choose_rows(config, fold, folds)):
            num_reads[place] += config.train.epochs * len(rows)
    if config.keeps_features:
        num_reads = [len(folds) * (config.train.views - 1), len(folds)]
    for transform, reads in zip(augmentations, num_reads, strict=True):
        if transform.decode_size is not None:
            reads_at[transform.decode_size] += reads
    return reads_at


def build_augmentations(config, table):
    """Return the Augmentation of training, and the plain resize of validation.

    Raises:
        UserError: see `augment.build_augmentation`; or the images hold no 8-bit pixels and are normalised as if.
    """
    channels, first = config.competition.channels, str(table.paths[0])
    is_uint8 = decode_image(first, channels).dtype == np.uint8
    if not is_uint8 and config.normalize == "backbone":
        raise UserError(f"normalize=backbone: {first} holds no 8-bit pixels; set normalize=dataset")
    return build_augmentation(config.augment, config.image_size, channels, is_uint8), build_resize(config.image_size)


def _compute_prior(targets, weights, class_weights, task):
    """Return (K,) how often each answer counts in the loss, as rows are drawn and classes are weighed."""
    prior = np.average(targets, axis=0, weights=weights)
    if class_weights is None:
        return prior
    weighed = prior * class_weights
    return weighed / (weighed.sum() if task == "multiclass" else weighed + 1 - prior)


def build_mixer(config, epoch):
    """Mixing is off where it was not asked for and in the last epochs, so that training ends on real pictures."""
    is_on = config.mix.prob > 0 and epoch < config.train.epochs - config.mix.off_epochs
    return Mixer(config.mix) if is_on else None


def build_consistency(config):
    """Return what AugMix adds to the loss, logits of views (V, N, K) -> scalar; None where it was not asked for."""
    weight, task = config.augment.augmix_consistency, config.competition.task
    return (lambda logits: weight * consistency_loss(logits, task)) if weight > 0 else None


def derive_seed(*numbers):
    """Return one seed made of several numbers, so that seed 1, fold 2 and seed 2, fold 1 differ."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
