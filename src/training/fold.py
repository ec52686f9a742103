"""One fold: train, predict, score, log and save each epoch; a stopped fold resumes where it was saved."""

import copy
import math
import time
from functools import partial

import numpy as np
import torch
from accelerate.utils import broadcast, broadcast_object_list

from src.checkpointing.checkpointer import Checkpointer
from src.checkpointing.progress import EpochProgress, is_better
from src.checkpointing.serialization import copy_to_cpu, load_weights
from src.data.samplers import derive_seed
from src.errors import UserError, listing
from src.evaluation.metrics import log_loss
from src.model.freezing import describe_parameters, open_stages
from src.model.losses import probabilities
from src.terminal import format_epoch
from src.training.averaging import compute_mean_weights
from src.training.engine import advise_on_nan, first_step, gather_rows, predict, train_one_epoch
from src.training.learner import build_learner
from src.training.tracking import log_epoch


def train_fold(run, fold):
    """Train one fold of a run.Run, or resume it from its newest state; Stopped, saved, by a signal or time_budget.

    The fold "all" trains on every row: without validation, and its last epoch counts.
    """
    config, accelerator, train = run.config, run.accelerator, run.config.train
    torch.manual_seed(derive_seed("weights", config.seed, fold))
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)  # each fold finds its own scale
    learner = build_learner(run, fold)
    checkpointer = Checkpointer(run.folder.fold(fold), learner, run.interrupts, config.keep_checkpoints)
    progress, epoch_progress = checkpointer.resume()
    if accelerator.is_main_process:
        _print_start(run, fold, learner, progress, epoch_progress)

    with run.interrupts.deferred():
        for epoch in range(progress.epoch, train.epochs):
            if progress.stops_early(train.early_stopping_epochs, run.metric, **train.early_stopping_kwargs):
                break
            began = time.perf_counter() - epoch_progress.seconds
            learner.start_epoch(epoch, config.seed, fold, epoch, accelerator.process_index)
            after_step = partial(checkpointer.after_step, progress)
            title = f"fold {fold} epoch {epoch + 1}/{train.epochs}"
            with first_step(config, lambda: epoch > 0 or epoch_progress.num_batches):  # noqa: B023  called in here
                stats = train_one_epoch(learner, epoch, epoch_progress, after_step, title)
            learner.average.after_epoch(learner, epoch)
            probs, scores = None, (None, None)
            if fold != "all":
                after_batch = partial(checkpointer.after_validation_batch, progress, epoch_progress)
                probs = predict_validation(learner, learner.scored_network, after_batch)
                [scores] = broadcast_object_list([evaluate(learner, probs, fold, epoch)])  # CPUs differ in last bits
            numbers = {"lr": stats.lr, "train_loss": stats.loss, "images_per_second": stats.images_per_second}
            is_best = progress.add(scores, time.perf_counter() - began, run.metric, **numbers)
            progress.log[-1] |= {f"gradient_{stage}": norm for stage, norm in stats.gradient_norms.items()}
            log_epoch(run, fold, progress, is_best)
            learner.schedule.end_epoch(*scores, run.metric.greater_is_better)
            checkpointer.save(progress, probs, is_best)
            epoch_progress = EpochProgress()
    if learner.average.num_best:
        checkpointer.before_averaging(progress)
        _average_best_epochs(checkpointer, learner, progress, fold)
    checkpointer.finish(progress)
    learner.close()


def evaluate(learner, probs, fold, epoch):
    """Return the (score, loss) of validation probs (N, K); either one that is nan is a UserError."""
    if not np.isfinite(probs).all():
        advice = advise_on_nan(learner.config.precision, "lower optimizer.lr")
        raise UserError(f"fold {fold}, epoch {epoch + 1}: predictions are nan; {advice}")
    targets, metric = learner.val_table.targets, learner.metric
    score = metric.score(targets, probs)
    if not math.isfinite(score):
        other = "rmse" if learner.config.competition.task == "regression" else "log_loss"
        advice = f"check the targets, or set competition.metric={other}"
        raise UserError(f"fold {fold}, epoch {epoch + 1}: {metric.name} is {score} on the validation rows; {advice}")
    return score, compute_loss(learner.network, targets, probs, learner.config.competition.task)


def compute_loss(network, targets, probs, task):
    """Return the log loss of probs (N, K), or of regression's values the mean squared error where standardised."""
    if task == "regression":
        return float(np.nanmean(((targets - probs) / network.target_std.cpu().numpy()) ** 2))
    return log_loss(targets, probs, task)


def predict_validation(learner, network, after_batch=None):
    """Predict the validation rows on all processes; every process gets (N, K) in the table's order.

    Running statistics that differ between processes after the last step become the first one's, as in its weights.
    """
    accelerator, config = learner.accelerator, learner.config
    if accelerator.num_processes > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    how = {"title": "validation" if accelerator.is_main_process else "", "after_batch": after_batch}
    to_probs = partial(probabilities, task=config.competition.task)
    index, probs = predict([network], learner.val_loader, to_probs, config.precision, **how)
    return gather_rows(index, probs[0], len(learner.val_table))


def _average_best_epochs(checkpointer, learner, progress, fold):
    """Average the best epochs' weights; the mean counts where it scores better than each of them."""
    checkpointer.wait()
    accelerator, config, metric = learner.accelerator, learner.config, learner.metric
    accelerator.wait_for_everyone()
    began, best = time.perf_counter(), progress.best_epochs(learner.average.num_best, metric)
    torch.manual_seed(derive_seed("mean", config.seed, fold, progress.epoch, accelerator.process_index))
    average, states = copy.deepcopy(learner.network), []
    open_stages(average, progress.epoch - 1)  # as in the last epoch, also where the fold resumes after it
    for epoch in best if accelerator.is_main_process else ():
        load_weights(checkpointer.folder.epoch_weights(epoch), average)
        states.append({name: tensor.clone() for name, tensor in average.state_dict().items()})
    if states:
        average.load_state_dict(compute_mean_weights(states))
    broadcast(average.state_dict())  # in place
    learner.refresh_batchnorm(average, progress.epoch)
    probs = predict_validation(learner, average)
    scores = evaluate(learner, probs, fold, progress.epoch - 1)
    counts = is_better(scores, (progress.best_score, progress.best_loss), metric)
    if accelerator.is_main_process:
        line = format_epoch(("mean", None, *reversed(scores), "", ""), config.train.epochs, metric.name, counts)
        print(line, f"of epochs {listing(sorted(best))}")
        if counts:
            checkpointer.save_selected(copy_to_cpu(average.state_dict()), probs)
    progress.seconds += time.perf_counter() - began
    if counts:
        progress.best_score, progress.best_loss, progress.averaged_epochs = *scores, sorted(best)


def _print_start(run, fold, learner, progress, epoch_progress):
    names = ("epoch", "loss", "val loss", None if fold == "all" else run.metric.name, "images/s", "seconds")
    header = format_epoch(names, run.config.train.epochs, run.metric.name)
    if progress.epoch or epoch_progress.num_batches:
        batches = f"{epoch_progress.num_batches} of {len(learner.train_loader)} batches of epoch {progress.epoch + 1}"
        print(f"\nfold {fold}: resumes after {batches if epoch_progress.num_batches else f'epoch {progress.epoch}'}")
    else:
        print(f"\nfold {fold}: {len(learner.train_table)} training and {len(learner.val_table)} validation images")
        if fold in (0, "all") or run.config.fold is not None:
            print(describe_parameters(learner.network).to_string(index=False))
    print(header, flush=True)
