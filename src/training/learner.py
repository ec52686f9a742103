"""What one fold trains, built from the config: network, average, loss, optimizer, schedule and loaders."""

import copy
import zlib
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from src.competition.image_files import JOIN
from src.competition.metadata import count_inputs
from src.competition.tables import ImageTable
from src.competition.targets import scale_auxiliary, standardize
from src.config.settings import Config
from src.data.dataset import ImageDataset, Loader, build_loader
from src.data.decode import decode_image
from src.data.mixup_cutmix import mix_batch
from src.data.samplers import SAMPLERS, derive_seed
from src.data.transforms import build_augmentation, build_resize
from src.device import ThreadGuard
from src.errors import UserError
from src.evaluation.metrics import Metric
from src.model.freezing import list_stages, open_stages
from src.model.losses import add_auxiliary_loss, build_loss, consistency_loss, resolve_class_weights
from src.model.network import build_network
from src.training.averaging import Average, build_average, refresh_batchnorm
from src.training.engine import iterate_inputs
from src.training.features import FeatureDataset
from src.training.optimizer import align_memory, build_optimizer
from src.training.schedule import Schedule, build_schedule
from src.training.self_training import build_train_table


@dataclass
class Learner:
    """The objects of one fold, built once and then passed; `start_epoch` sets the last three."""

    config: Config
    accelerator: object
    metric: Metric
    network: torch.nn.Module
    average: Average
    loss_function: object  # (logits, targets) -> scalar
    consistency: object  # logits of V views (V, N, K) -> scalar, what AugMix adds to the loss; None: nothing
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    train_loader: Loader
    val_loader: Loader
    train_table: ImageTable
    val_table: ImageTable
    model: torch.nn.Module | None = None  # the network as accelerate wraps it
    mixer: partial | None = None  # of mix_batch
    generator: torch.Generator = field(default_factory=torch.Generator)  # of the mixer
    guard: ThreadGuard = field(default_factory=ThreadGuard)
    stages: dict = field(default_factory=dict)  # {name: its parameters}, from the input to the head

    @property
    def scored_network(self):
        """The network whose predictions count: the average, once there is one."""
        return self.network if self.average.module is None else self.average.module

    def start_epoch(self, epoch, *seed_words):
        """Seed the epoch (from 0), set its mixer and open the stages that learn in it.

        Several processes share the gradients of what learned when the network was wrapped, so it is wrapped again.
        """
        is_mixed = self.config.mix.prob > 0 and epoch < self.config.train.epochs - self.config.mix.off_epochs
        self.mixer = partial(mix_batch, self.config.mix) if is_mixed else None  # training ends on real images
        has_changed = open_stages(self.network, epoch)
        if self.model is None:
            self.model, self.optimizer = self.accelerator.prepare(self.network, self.optimizer)
        elif has_changed:
            count = sum(one.numel() for one in self.network.parameters() if one.requires_grad)
            self.accelerator.print(f"more of the backbone opens, {count:,} parameters learn")
            if self.accelerator.num_processes > 1:
                self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
                self.accelerator._models.clear()  # or the wrappers of all epochs stay in memory
                self.model = self.accelerator.prepare_model(self.network)
        torch.manual_seed(derive_seed("epoch", *seed_words))
        self.generator.manual_seed(derive_seed("mix", *seed_words))

    def refresh_batchnorm(self, network, epoch):
        """Give averaged weights BatchNorm statistics of their own, by one more look at an epoch's images."""
        inputs = iterate_inputs(self.train_loader, epoch, network.normalize, self.accelerator.device)
        with self.accelerator.autocast():
            refresh_batchnorm(network, inputs)

    def estimate_validation(self, epoch, train_seconds):
        """Return the seconds that follow an epoch's training: an image takes at most as long as in training."""
        passes = self.val_loader.num_images / self.train_loader.num_images + self.average.looks_again(epoch)
        return train_seconds * passes

    def state_dict(self):
        state = {name: one.state_dict() for name, one in self._stateful().items()}
        return state | {"targets": zlib.crc32(self.train_table.targets.tobytes()), "num_steps": self._num_steps}

    @property
    def _num_steps(self):
        """Optimizer steps of an epoch."""
        return -(-len(self.train_loader) // self.config.optimizer.accumulate_steps)

    def load_state_dict(self, state):
        if state.get("targets", own := zlib.crc32(self.train_table.targets.tobytes())) != own:
            found = "train.teacher or train.pseudo predicts otherwise than when this fold was begun"
            raise UserError(f"{self.config.run_folder}: {found}; restore its files, or set overwrite=true")
        rates, before = None, state.get("num_steps", self._num_steps)
        if before != self._num_steps and "by_step" in state["schedule"]:  # it ran on another number of processes
            epochs = state["schedule"]["by_step"]["last_epoch"] // before
            rates = self.schedule.skip_steps(epochs * self._num_steps)
            state = state | {"schedule": state["schedule"] | {"by_step": self.schedule.state_dict()["by_step"]}}
        for name, one in self._stateful().items():
            if name in state or name != "scaler":  # which a run that started in another precision lacks
                one.load_state_dict(state[name])
        for group, rate in zip(self.optimizer.param_groups, rates or (), strict=rates is not None):
            group["lr"] = rate
        align_memory(self.optimizer)

    def close(self):
        """End the loaders' workers and free the device."""
        for loader in (self.train_loader, self.val_loader):
            loader.close()
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()

    def _stateful(self):
        named = {name: getattr(self, name) for name in ("network", "average", "optimizer", "schedule")}
        scaler = self.accelerator.scaler
        return named if scaler is None else named | {"scaler": scaler}


def build_learner(run, fold):
    """Build the objects of one fold of a run.Run; its rows validate, all others train."""
    config, accelerator, task = run.config, run.accelerator, run.config.competition.task
    train_rows, val_rows = choose_rows(config, fold, run.table.folds)
    labels, val_table = run.table.targets[train_rows], run.table.take(val_rows)
    train_table, train_rows = build_train_table(run, fold, train_rows)
    if run.features is not None:
        train_data = FeatureDataset(run.features, train_rows, train_table, is_training=True)
        val_data = FeatureDataset(run.features, val_rows, val_table, is_training=False)
    else:
        both = zip((train_table, val_table), build_transforms(config, run.table), strict=True)
        how = config.seed, run.caches
        train_data, val_data = (ImageDataset(table, config.competition, transform, *how) for table, transform in both)
    processes = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    processes["num_workers"] = run.num_workers if run.features is None else 0
    targets = train_table.targets
    class_weights = resolve_class_weights(config.loss, labels, task)
    chances = SAMPLERS[config.train.sampler](targets, task)
    if len(targets) > len(labels) and (share := config.train.pseudo_kwargs.get("weight", 1)) != 1:
        chances = np.ones(len(targets)) if chances is None else chances
        chances[len(labels) :] *= share
    val_loader = build_loader(val_data, config.eval_batch_size, **processes)

    regression_scale = standardize(targets) if task == "regression" else None
    prior = _compute_prior(targets, chances, class_weights, task)
    num_targets, auxiliary_names = len(run.table.target_names), run.table.auxiliary_names
    scales = {"prior": prior} if regression_scale is None else {"target_scale": regression_scale}
    scales |= {"num_auxiliary": len(auxiliary_names), "num_metadata": count_inputs(run.table.encoding)}
    network = build_network(config, num_targets, run.pixel_stats, **scales)
    network.place(accelerator.device, config.train.channels_last)
    train_loader = _build_train_loader(run, network, train_data, chances=chances, **processes)
    if config.train.compile:
        network.compile(dynamic=False)  # a graph each of training's, validation's and their last batches
    weight = config.augment.augmix_consistency
    loss_function = build_loss(config, class_weights, regression_scale)
    if auxiliary_names:
        auxiliary = config.loss.auxiliary_weight, num_targets, auxiliary_names, *scale_auxiliary(run.table.auxiliary)
        loss_function = add_auxiliary_loss(loss_function, *auxiliary)
    optimizer = build_optimizer(config.optimizer, network, is_scaled=accelerator.scaler is not None)
    steps_per_epoch = -(-len(train_loader) // config.optimizer.accumulate_steps)
    return Learner(
        config, accelerator, run.metric, network, build_average(config.train, network), loss_function,
        consistency=(lambda logits: weight * consistency_loss(logits[..., :num_targets], task)) if weight > 0 else None,
        optimizer=optimizer, guard=run.guard,
        schedule=build_schedule(config.schedule, optimizer, config.train.epochs, steps_per_epoch),
        train_loader=train_loader, val_loader=val_loader, train_table=train_table, val_table=val_table,
        stages={stage: [network.get_parameter(name) for name in names] for stage, names in list_stages(network)},
    )  # fmt: skip


def _compute_prior(targets, chances, class_weights, task):
    """Return (C,): how often each target counts in the loss, among the rows where it is known."""
    prior = np.average(targets, axis=0, weights=chances)
    if np.isnan(prior).any():
        prior = np.ma.filled(np.ma.average(np.ma.masked_invalid(targets), axis=0, weights=chances), 0.5)
    if class_weights is None:
        return prior
    weighted = prior * class_weights
    return weighted / (weighted.sum() if task == "multiclass" else weighted + 1 - prior)


def _build_train_loader(run, network, data, **options):
    """Build the Loader of training; batches of one image only for a network that learns from one.

    BatchNorm cannot where it sees one value a channel, in the head or on a map of 1x1: an image that would be alone
    then comes to the batch before.
    """
    train, options["shuffle_seed"] = run.config.train, run.config.seed
    build = partial(build_loader, data, train.batch_size, num_batches=train.batches_per_epoch, **options)
    loader = build()
    if loader.smallest_batch > 1:
        return loader
    trial = copy.deepcopy(network)  # whose running statistics move
    open_stages(trial, train.epochs - 1)
    try:
        with torch.no_grad():
            alone = build_loader(data, 1, num_workers=0)
            trial(**next(iterate_inputs(alone, 0, network.normalize, run.accelerator.device)))
    except ValueError:
        why = f"the BatchNorm of {run.config.model.backbone} or its head needs two images to learn from"
        if train.batch_size == 1:
            raise UserError(f"train.batch_size=1: {why}; set train.batch_size=2 or more") from None
        if len(data) < 2 * options["world_size"]:
            advice = "add images" if train.max_images is None else "set train.max_images=null"
            raise UserError(f"{len(data)} training image of the fold: {why}; {advice}") from None
        run.accelerator.print(f"batches of up to {train.batch_size + 1} images: {why}")
        return build(at_least=2)
    return loader


def choose_rows(config, fold, folds):
    """Return the rows (int indices, in order) that a fold trains and validates on; of "all" none validates."""
    is_val = np.zeros(len(folds), dtype=bool) if fold == "all" else folds == fold
    train_rows, val_rows = np.flatnonzero(~is_val), np.flatnonzero(is_val)
    if config.train.max_images is not None and len(train_rows) > config.train.max_images:
        rng = np.random.default_rng(derive_seed("max_images", config.seed, fold))
        train_rows = np.sort(rng.choice(train_rows, config.train.max_images, replace=False))
    return train_rows, val_rows


def count_reads(config, folds, left, transforms):
    """Return {(height, width): images read at that size} by the folds `left`; transforms: training, validation."""
    rows = [choose_rows(config, fold, folds) for fold in left]
    num_reads = [config.train.epochs * sum(len(pair[place]) for pair in rows) for place in (0, 1)]
    if config.keeps_features:
        num_reads = [len(folds) * (config.train.views - 1), len(folds)]
    reads_at = {}
    for transform, reads in zip(transforms, num_reads, strict=True):
        if transform.decode_size is not None:  # else images are read at their own size
            reads_at[transform.decode_size] = reads_at.get(transform.decode_size, 0) + reads
    return reads_at


def build_transforms(config, table):
    """Return the augmentation of training, and the plain resize of validation."""
    first = table.paths[0].split(JOIN)[0]
    is_uint8 = decode_image(first, config.competition).dtype == np.uint8
    if not is_uint8 and config.normalize == "backbone":
        raise UserError(f"normalize=backbone: {first} is not an 8-bit image; set normalize=dataset")
    return build_augmentation(config, is_uint8), build_resize(config)
