"""One fold: the engine's epochs in order, scored, printed and kept; a stopped fold goes on from its last epoch."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather_object, recursively_apply

from src.competition.predictions import save_predictions
from src.errors import UserError, listing
from src.evaluation.metrics import log_loss, score
from src.files import save_json, save_table
from src.model.freezing import describe_parameters, open_stages
from src.model.losses import probabilities
from src.training import checkpoint
from src.training.averaging import mean_weights, refresh_batchnorm
from src.training.engine import iterate_images, predict, train_one_epoch
from src.training.parts import build_consistency, build_mixer, build_parts, derive_seed
from src.training.progress import Progress


def train_fold(config, fold, table, folds, accelerator, folder, shared, tracker):
    """Train one fold, or go on from its last finished epoch.

    Args:
        table: competition.tables.ImageTable of all training rows.
        folds: (N,) int; rows of `fold` validate, all others train.
        folder: pathlib.Path of the fold; gets log.csv, val.csv, best.safetensors, last.safetensors, meta.json.
        shared: parts.Shared.
        tracker: tracking.Tracker.

    Raises:
        UserError: see `engine.train_one_epoch` and `model.network.build_network`.
    """
    torch.manual_seed(derive_seed(config.seed, fold))
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)  # each fold finds its own scale
    parts = build_parts(config, fold, table, folds, accelerator, shared)
    task, train = config.competition.task, config.train
    is_main, network = accelerator.is_main_process, parts.network
    progress = Progress()
    if (folder / "last.pt").is_file():
        try:
            progress = parts.restore(checkpoint.load_state(folder / "last.pt"))
        except (KeyError, ValueError, RuntimeError, TypeError):  # what each object says of another's state
            raise UserError(
                f"{folder / 'last.pt'}: written by another version; delete it to train the fold from its start"
            ) from None
    if is_main:
        _print_start(fold, progress, parts, describe=fold == 0 or config.fold is not None)
    open_stages(network, progress.epoch)
    model, optimizer = accelerator.prepare(network, parts.optimizer)

    writer, saving = ThreadPoolExecutor(1), None  # an epoch's files are written while the next one trains
    patience = (train.early_stopping_epochs, train.early_stopping_min_delta, train.early_stopping_on)
    while not progress.is_over(train.epochs, *patience):
        epoch, began = progress.epoch, time.perf_counter()
        if open_stages(network, epoch):
            model = _wrap_again(model, network, accelerator)
            if is_main:
                learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
                print(f"fold {fold}: more of the backbone opens, {learning:,} parameters learn")
        seed = derive_seed(config.seed, fold, epoch, accelerator.process_index)
        torch.manual_seed(seed)
        stats = train_one_epoch(
            model, parts.train_loader, epoch, parts.loss_function, optimizer, parts.schedule, accelerator,
            normalize=network.normalize,
            mixer=build_mixer(config, epoch),
            generator=torch.Generator().manual_seed(seed),
            consistency=build_consistency(config),
            accumulate_steps=config.optimizer.accumulate_steps,
            clip_norm=config.optimizer.clip_norm,
            after_step=(lambda: parts.ema.update_parameters(network)) if parts.ema else None,
            title=f"fold {fold} epoch {epoch + 1}/{train.epochs}",
        )  # fmt: skip
        if train.swa_epochs is not None and epoch >= train.epochs - train.swa_epochs:
            parts.swa.update_parameters(network)
            open_stages(parts.swa.module, epoch)  # or BatchNorm of stages that opened since would count as frozen
            _refresh(parts.swa.module, parts, epoch, accelerator)
        probs = _predict_all(parts.scored, parts, accelerator, task)
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
        if is_main:
            if train.average_best is not None:
                _keep_best_epochs(folder, parts, progress.best_epochs(train.average_best), progress.epoch)
            state, best = _copy((parts.state(progress), (parts.scored.state_dict(), probs) if is_best else None))
            if saving:
                saving.result()
            saving = writer.submit(_save_epoch, folder, state, best, parts.val_table)
    if saving:
        saving.result()
    if train.average_best is not None:
        accelerator.wait_for_everyone()
        _average_best_epochs(folder, fold, parts, progress, accelerator, config)
    if is_main:
        _save_end(folder, fold, parts, progress)
    parts.train_loader.close()
    parts.val_loader.close()
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def _judge(parts, probs, config):
    """Return the validation's (score, log loss)."""
    targets = parts.val_table.targets
    return score(targets, probs, config.competition.metric), log_loss(targets, probs, config.competition.task)


def _refresh(average, parts, epoch, accelerator):
    """Give averaged weights running statistics of their own, by one more look at an epoch's images."""
    with accelerator.autocast():
        refresh_batchnorm(average, iterate_images(parts.train_loader, epoch, average.normalize, accelerator.device))


def _keep_best_epochs(folder, parts, best, epoch):
    """Keep the weights of the best epochs so far, among them perhaps this one, and of no others."""
    if epoch in best:
        checkpoint.save_weights(folder / f"epoch{epoch}.safetensors", _copy(parts.network.state_dict()))
    for path in folder.glob("epoch*.safetensors"):
        if int(path.stem.removeprefix("epoch")) not in best:
            path.unlink()


def _average_best_epochs(folder, fold, parts, progress, accelerator, config):
    """Average the best epochs' weights; the mean becomes the fold's best where it scores better than each of them."""
    began, best = time.perf_counter(), progress.best_epochs(config.train.average_best)
    average, states = copy.deepcopy(parts.network), []
    for epoch in best:
        checkpoint.load_weights(folder / f"epoch{epoch}.safetensors", average)
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
            checkpoint.save_weights(folder / "best.safetensors", _copy(average.state_dict()))
            save_predictions(folder / "val.csv", parts.val_table, probs)
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


def _save_epoch(folder, state, best, val_table):
    """Keep an epoch; last.pt comes last, so that a kill before it repeats the epoch.

    Args:
        state: of `FoldParts.state`, copied: the next epoch goes on while this is written.
        best: (weights, validation probs) of an epoch that is the best so far, copied; None: it is not.
    """
    if best is not None:
        weights, probs = best
        checkpoint.save_weights(folder / "best.safetensors", weights)
        save_predictions(folder / "val.csv", val_table, probs)
    save_table(folder / "log.csv", pd.DataFrame(state["progress"]["log"]))
    checkpoint.save_state(folder / "last.pt", state)


def _copy(state):
    """Copy the tensors and containers of a state to the CPU, so that writing them needs no more work by torch.

    A torch operation in the thread that writes would start OpenMP's threads once more, and as more of them than cores
    no longer wait awake, every step after it would take a third longer (2 cores, mobilenetv2_100 at 128 px).
    """
    contiguous = torch.contiguous_format
    return recursively_apply(lambda one: one.detach().to("cpu", copy=True, memory_format=contiguous), state)


def _save_end(folder, fold, parts, progress):
    """Keep what is needed of a finished fold; meta.json says that it is finished, last.pt has served."""
    checkpoint.save_weights(folder / "last.safetensors", _copy(parts.scored.state_dict()))
    numbers = {name: value for name, value in vars(progress).items() if name != "log"}
    names = list(parts.train_table.target_names)
    save_json(folder / "meta.json", {"fold": fold, **numbers, "target_names": names})
    for path in (folder / "last.pt", *folder.glob("epoch*.safetensors")):
        path.unlink(missing_ok=True)


def is_done(folder):
    """Whether a fold's folder holds a finished fold."""
    return (folder / "meta.json").is_file()


def _predict_all(network, parts, accelerator, task):
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
    )  # fmt: skip
    gathered = gather_object([(index, probs[0])])
    index = np.concatenate([one for one, _ in gathered])
    probs = np.concatenate([one for _, one in gathered])
    order = np.argsort(index)
    assert np.array_equal(index[order], np.arange(len(parts.val_table))), "each validation row is predicted once"
    return probs[order]


def _print_start(fold, progress, parts, describe):
    if progress.epoch:
        print(f"\nfold {fold}: goes on after epoch {progress.epoch}")
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
