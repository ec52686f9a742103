"""One fold: the engine's epochs in order, scored, printed and kept; a stopped fold goes on where it was saved."""

import copy
import time
from functools import partial

import numpy as np
import torch
from accelerate.utils import gather_object

from src.checkpointing import serialization as checkpoint
from src.checkpointing.checkpointer import Keeper
from src.errors import UserError, listing
from src.evaluation.metrics import log_loss, score
from src.model.freezing import describe_parameters, open_stages
from src.model.losses import probabilities
from src.training.averaging import mean_weights, refresh_batchnorm
from src.training.engine import EpochPart, iterate_images, predict, train_one_epoch
from src.training.learner import build_consistency, build_mixer, build_parts, derive_seed


def train_fold(config, fold, table, folds, accelerator, folder, shared, tracker, watch):
    """Train one fold, or go on from where its newest state stands.

    Args:
        table: competition.tables.ImageTable of all training rows.
        folds: (N,) int; rows of `fold` validate, all others train.
        folder: pathlib.Path of the fold; see `keeping` for what it gets.
        shared: shared.Shared.
        tracker: tracking.Tracker.
        watch: stopping.Watch.

    Raises:
        UserError: see `engine.train_one_epoch` and `model.network.build_network`.
        Stopped: the watch has ended the run; what is there is saved.
    """
    torch.manual_seed(derive_seed(config.seed, fold))
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)  # each fold finds its own scale
    parts = build_parts(config, fold, table, folds, accelerator, shared)
    keeper = Keeper(folder, fold, parts, accelerator, watch, config.keep_checkpoints)
    progress, part = keeper.resume()
    train, is_main, network = config.train, accelerator.is_main_process, parts.network
    if is_main:
        _print_start(fold, progress, part, parts, describe=fold == 0 or config.fold is not None)
    open_stages(network, progress.epoch)
    model, optimizer = accelerator.prepare(network, parts.optimizer)

    patience = (train.early_stopping_epochs, train.early_stopping_min_delta, train.early_stopping_on)
    with watch.training():
        while not progress.is_over(train.epochs, *patience):
            epoch, began = progress.epoch, time.perf_counter() - part.seconds
            if open_stages(network, epoch):
                model = _wrap_again(model, network, accelerator)
                if is_main:
                    learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
                    print(f"fold {fold}: more of the backbone opens, {learning:,} parameters learn")
            stats, after_batch = _train_epoch(
                config, fold, model, optimizer, parts, progress, part, accelerator, keeper
            )
            if _is_in_swa(epoch, train):
                _update_swa(parts, epoch, train, accelerator)
            probs = _predict_all(parts.scored, parts, accelerator, config.competition.task, after_batch)
            if not np.isfinite(probs).all():
                raise UserError(
                    f"fold {fold}, epoch {epoch + 1}: predictions are nan; lower optimizer.lr or set precision=fp32"
                )
            val_score, val_loss = _judge(parts, probs, config)
            seconds = time.perf_counter() - began
            is_best = progress.add(
                val_score, val_loss, seconds,
                lr=parts.optimizer.param_groups[0]["lr"],
                train_loss=stats.loss,
                images_per_second=round(stats.images_per_second, 1),
            )  # fmt: skip
            if is_main:
                _print_epoch(fold, progress.log[-1], config, is_best, seconds)
                numbers = {f"fold{fold}/{name}": value for name, value in progress.log[-1].items() if name != "epoch"}
                tracker.log({"epoch": progress.epoch} | numbers)
            parts.schedule.end_epoch(val_score, val_loss)
            if train.average_best is not None:
                keeper.save_epoch_weights(progress.best_epochs(train.average_best), progress.epoch)
            keeper.save_epoch(progress, (parts.scored.state_dict(), probs) if is_best else None)
            part = EpochPart()
    if train.average_best is not None:
        keeper.before_averaging(progress)
        _average_best_epochs(keeper, fold, parts, progress, accelerator, config)
    if is_main:
        keeper.save_end(progress)
    parts.train_loader.close()
    parts.val_loader.close()
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def _train_epoch(config, fold, model, optimizer, parts, progress, part, accelerator, keeper):
    """Train what is left of an epoch; return (EpochStats, what the validation after it calls after each batch)."""
    network, epoch = parts.network, progress.epoch
    images_after = parts.val_loader.num_images
    if _is_in_swa(epoch, config.train):
        images_after += parts.train_loader.num_images
    seed = derive_seed(config.seed, fold, epoch, accelerator.process_index)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    def after_step(part):
        if parts.ema:
            parts.ema.update_parameters(network)
        seconds_ahead = part.seconds * images_after / parts.train_loader.num_images  # training takes an image longest
        keeper.after_step(progress, part, generator, seconds_ahead)

    stats = train_one_epoch(
        model, parts.train_loader, epoch, parts.loss_function, optimizer, parts.schedule, accelerator,
        normalize=network.normalize,
        mixer=build_mixer(config, epoch),
        generator=generator,
        consistency=build_consistency(config),
        accumulate_steps=config.optimizer.accumulate_steps,
        clip_norm=config.optimizer.clip_norm,
        after_step=after_step,
        part=part,
        title=f"fold {fold} epoch {epoch + 1}/{config.train.epochs}",
    )  # fmt: skip
    return stats, partial(keeper.after_validation_batch, progress, part, generator)


def _is_in_swa(epoch, train):
    return train.swa_epochs is not None and epoch >= train.epochs - train.swa_epochs


def _update_swa(parts, epoch, train, accelerator):
    """Let the average take in this epoch's weights, unless it did before a validation that was stopped."""
    if parts.swa.n_averaged > epoch - (train.epochs - train.swa_epochs):  # epochs of SWA before this one
        return
    parts.swa.update_parameters(parts.network)
    open_stages(parts.swa.module, epoch)  # or BatchNorm of stages that opened since would count as frozen
    _refresh(parts.swa.module, parts, epoch, accelerator)


def _judge(parts, probs, config):
    """Return the validation's (score, log loss)."""
    targets = parts.val_table.targets
    return score(targets, probs, config.competition.metric), log_loss(targets, probs, config.competition.task)


def _refresh(average, parts, epoch, accelerator):
    """Give averaged weights running statistics of their own, by one more look at an epoch's images."""
    with accelerator.autocast():
        refresh_batchnorm(average, iterate_images(parts.train_loader, epoch, average.normalize, accelerator.device))


def _average_best_epochs(keeper, fold, parts, progress, accelerator, config):
    """Average the best epochs' weights; the mean becomes the fold's best where it scores better than each of them."""
    keeper.wait()
    accelerator.wait_for_everyone()
    began, best = time.perf_counter(), progress.best_epochs(config.train.average_best)
    torch.manual_seed(derive_seed(config.seed, fold, progress.epoch, accelerator.process_index))
    average, states = copy.deepcopy(parts.network), []
    open_stages(average, progress.epoch - 1)  # as in the last epoch, also where the fold goes on from its end
    for epoch in best:
        checkpoint.load_weights(keeper.epoch_weights(epoch), average)
        states.append({name: tensor.clone() for name, tensor in average.state_dict().items()})
    average.load_state_dict(mean_weights(states))
    _refresh(average, parts, progress.epoch, accelerator)
    probs = _predict_all(average, parts, accelerator, config.competition.task)
    val_score, val_loss = _judge(parts, probs, config)
    is_better = (val_score, -val_loss) > (progress.best_score, -progress.best_loss)
    if accelerator.is_main_process:
        epochs = listing(sorted(best))
        print(
            f"fold {fold} mean of epochs {epochs}: val {val_loss:.4f}  {config.competition.metric} {val_score:.5f}"
            f"{'*' if is_better else ' '}"
        )
        if is_better:
            keeper.save_best(checkpoint.copy_to_cpu(average.state_dict()), probs)
    progress.seconds += time.perf_counter() - began
    if is_better:
        progress.best_score, progress.best_loss, progress.averaged_epochs = val_score, val_loss, sorted(best)


def _wrap_again(model, network, accelerator):
    """Return the network wrapped anew: several processes share the gradients of what learned when it was wrapped."""
    if accelerator.num_processes == 1:
        return model
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    accelerator._models.clear()  # or the wrappers of all epochs stay in memory
    return accelerator.prepare_model(network)


def _predict_all(network, parts, accelerator, task, after_batch=None):
    """Predict the validation rows on all processes; every process gets (N, C) in the table's order.

    Running statistics that moved apart in the last step are the first process's for all, as in the saved weights.
    """
    if accelerator.num_processes > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    index, probs = predict(
        [network], parts.val_loader, accelerator.device, accelerator.mixed_precision.replace("no", "fp32"),
        partial(probabilities, task=task),
        title="validation" if accelerator.is_main_process else "",
        after_batch=after_batch,
    )  # fmt: skip
    gathered = gather_object([(index, probs[0])])
    index = np.concatenate([one for one, _ in gathered])
    probs = np.concatenate([one for _, one in gathered])
    order = np.argsort(index)
    assert np.array_equal(index[order], np.arange(len(parts.val_table))), "each validation row is predicted once"
    return probs[order]


def _print_start(fold, progress, part, parts, describe):
    if progress.epoch or part.num_batches:
        where = f"{part.num_batches} of {len(parts.train_loader)} batches of epoch {progress.epoch + 1}"
        print(f"\nfold {fold}: goes on after {where if part.num_batches else f'epoch {progress.epoch}'}")
        return
    print(f"\nfold {fold}: {len(parts.train_table)} training and {len(parts.val_table)} validation images")
    if describe:
        print(describe_parameters(parts.network).to_string(index=False))


def _print_epoch(fold, row, config, is_best, seconds):
    print(
        f"fold {fold} epoch {row['epoch']:>2}/{config.train.epochs}  loss {row['train_loss']:.4f}  "
        f"val {row['val_loss']:.4f}  {config.competition.metric} {row['val_score']:.5f}{'*' if is_best else ' '} "
        f"{row['images_per_second']:.0f} images/s {seconds:.0f} s",
        flush=True,
    )
