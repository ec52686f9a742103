"""The training and prediction loops over built objects; nothing here knows the files or the competition."""

import time
import traceback
from collections import namedtuple
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from accelerate.utils import gather_object

from src.checkpointing.progress import EpochProgress, write_rng_state
from src.device import autocast, to_device
from src.errors import UserError, explain, first_line
from src.terminal import track

_CHECK_EVERY = 50  # steps between two checks of the losses, each of which waits for the device

EpochStats = namedtuple("EpochStats", "loss lr gradient_norms seconds images_per_second")  # means; norms by stage


@contextmanager
def first_step(config, has_passed=lambda: False):
    """Turn what a network or an optimizer raises in its first step into a UserError that names it.

    has_passed: () -> whether the first step is over; what is raised then passes through, and so does what is known, or
    what the images, their augmentation or the loss raise: a fork's own code.
    """
    try:
        yield
    except Exception as error:
        modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        is_ours = any(name.startswith(("src.data.", "src.model.losses")) for name in modules)
        if has_passed() or is_ours or isinstance(error, (UserError, OSError)) or explain(error):
            raise
        where, advice = f"model.backbone={config.model.backbone}", "choose another backbone or other model.kwargs"
        if any("optim" in name.split(".") for name in modules):  # torch's, timm's or bitsandbytes'
            where, advice = f"optimizer.name={config.optimizer.name}", "check optimizer.kwargs"
        elif config.train.compile:
            advice = "set train.compile=false"
        reason = f"its first training step fails ({first_line(error)})"
        raise UserError(f"{where}: {reason}; {advice}; --debug shows the traceback") from error


def train_one_epoch(learner, epoch, progress=None, after_step=None, title=""):
    """Train one pass over a learner.Learner's training images; a loss that is not finite is a UserError.

    Args:
        epoch: from 0; decides the batches and the augmentation.
        progress: EpochProgress of this epoch, where it resumes; None: from its start.
        after_step: called with the EpochProgress after each optimizer step; None: nothing is.
    """
    accelerator, model, loader, optimizer = learner.accelerator, learner.model, learner.train_loader, learner.optimizer
    accumulate, clip_norm = learner.config.optimizer.accumulate_steps, learner.config.optimizer.clip_norm
    progress, rates, total = progress or EpochProgress(), [], len(loader)
    losses, first = progress.losses, (checked := progress.num_batches)
    began = time.perf_counter() - progress.seconds
    model.train()
    if progress.rng_state:
        write_rng_state(progress.rng_state, accelerator.device, learner.generator)
    batches = with_bar(loader.batches(epoch, first), loader, title, accelerator.is_main_process, first)
    for step, batch in enumerate(batches, first):
        start = time.perf_counter()
        inputs = learner.network.normalize(_join_views(load_inputs(batch, accelerator.device)))
        targets = batch["target"]  # on the CPU until the loss, so that nothing waits for the device to know of gaps
        if learner.mixer:
            inputs, targets = learner.mixer(inputs, targets, learner.generator)
        is_update = (step + 1) % accumulate == 0 or step + 1 == total
        with nullcontext() if is_update else accelerator.no_sync(model):
            with accelerator.autocast():
                logits = model(**inputs)
            loss = learner.loss_function(logits[: len(targets)], targets)
            if learner.consistency:
                loss = loss + learner.consistency(logits.unflatten(0, (-1, len(targets))))
            loss = loss * batch["share"]
            accelerator.backward(loss / min(accumulate, total - (step - step % accumulate)))  # the last may be fewer
        losses.append(loss.detach())
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        progress.lr_sum += optimizer.param_groups[0]["lr"]
        if is_update:
            if step + 1 == total:
                progress.gradient_norms = _compute_gradient_norms(learner)
            if clip_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), clip_norm)
            if _take_step(optimizer, accelerator.scaler):
                learner.schedule.step()
                learner.average.after_step(learner.network)
            optimizer.zero_grad()
            progress.num_batches, progress.seconds = step + 1, time.perf_counter() - began
            if after_step:
                after_step(progress)
        learner.guard.after_step(time.perf_counter() - start)
        if (step + 1) % _CHECK_EVERY == 0 or step + 1 == total:
            _check_finite(losses[checked:], rates, checked, epoch, accelerator, clip_norm)
            checked, rates = step + 1, []
    mean_loss = accelerator.reduce(torch.stack(losses).float().mean(), reduction="mean").item()
    seconds = time.perf_counter() - began
    images_per_second = round(loader.num_images * accelerator.num_processes / seconds, 1)
    return EpochStats(mean_loss, progress.lr_sum / total, progress.gradient_norms, seconds, images_per_second)


@torch.inference_mode()
def predict(networks, loader, to_probs, precision, *, views=(), weights=None, epoch=0, title="", after_batch=None):
    """Run every network over each batch once; the pixels and views that networks share are made once for all.

    Args:
        networks: on one device; each has .normalize and maps inputs to logits (N, K); several have .pixel_stats too,
            equal where they normalise alike.
        loader: data.dataset.Loader without shuffling.
        to_probs: logits -> probs of the same shape.
        precision: fp32, bf16 or fp16.
        views: functions (N, C, H, W) -> (N, C, H', W') whose probs are averaged with those of the plain images.
        weights: in that mean, of the plain images and each view; None: all alike. One of weight 0 is not computed.
        epoch: of the loader's random numbers, where it has any.
        after_batch: called without arguments after each batch; None: nothing is.

    Returns:
        index (N,) int64 rows of the loader's table, probs (len(networks), N, K) float32.
    """
    was_training, device = [network.training for network in networks], next(networks[0].parameters()).device
    for network in networks:
        network.eval()
    groups = group_networks(networks)
    weights = [1] * (1 + len(views)) if weights is None else weights
    views = {number: view for number, view in enumerate((None, *views)) if weights[number]}
    index, probs, done, copies = np.empty(loader.num_images, dtype=np.int64), None, 0, []
    for batch in with_bar(loader.batches(epoch), loader, title, bool(title)):
        raw, totals = load_inputs(batch, device), [0] * len(networks)
        with autocast(device, precision):  # around all views, as it casts a network's weights once in here
            for group in groups:
                for view, number, forward in forward_each(networks, [group], views, raw):
                    totals[number] = totals[number] + weights[view] * to_probs(forward())
        total = sum(one * torch.ones_like(totals[0]) for one in weights)  # rounded as they are, so that ones stay 1
        probs = np.empty((len(networks), loader.num_images, total.shape[1]), "f4") if probs is None else probs
        rows = slice(done, done := done + len(batch["index"]))
        index[rows] = batch["index"].numpy()
        copies.append((rows, _start_copy((torch.stack(totals) / total).float())))
        if len(copies) > 1:  # that of the batch before ends while the device computes this one
            before, end_copy = copies.pop(0)
            probs[:, before] = end_copy()
        if after_batch:
            after_batch()
    for rows, end_copy in copies:
        probs[:, rows] = end_copy()
    for network, training in zip(networks, was_training, strict=True):
        network.train(training)
    assert done == loader.num_images, f"{done} of {loader.num_images} images came"
    return index, probs


def _start_copy(values):
    """Start to copy a tensor to the CPU; return () -> array, which waits for that copy and for nothing later."""
    if values.device.type != "cuda":
        return values.cpu().numpy
    copy, event = values.to("cpu", non_blocking=True), torch.cuda.current_stream(values.device).record_event()
    return lambda: (event.synchronize(), copy.numpy())[1]


def group_networks(networks):
    """Return lists of the numbers of networks that normalise alike; reading that waits for the device."""
    groups = {}
    for number, network in enumerate(networks):
        groups.setdefault(network.pixel_stats if len(networks) > 1 else None, []).append(number)
    return list(groups.values())


def forward_each(networks, groups, views, raw):
    """Yield (number of the view, number of the network, () -> its logits); each group has every view made once.

    views: {number: function, None for the plain image}; raw: a batch's inputs on the device.
    """
    plain = [networks[group[0]].normalize(raw) for group in groups]
    for place, view in views.items():
        for group, inputs in zip(groups, plain, strict=True):
            inputs = apply_view(view, inputs) if view else inputs
            for number in group:
                yield place, number, partial(networks[number], **inputs)


def gather_rows(index, values, num_rows):
    """Return the values (N, K) of all rows of a table, in its order, of which each process has some: those of index."""
    shares, gathered = gather_object([(index, values)]), np.empty((num_rows, values.shape[1]), dtype=values.dtype)
    counts = np.bincount(np.concatenate([rows for rows, _ in shares]), minlength=num_rows)
    assert np.array_equal(counts, np.ones(num_rows)), "each row is predicted once"
    for rows, share in shares:
        gathered[rows] = share
    return gathered


def apply_view(view, inputs):
    """Return the inputs with a view of every image (N, C, H, W), in its memory format: else each network copies it."""
    images = {name: value for name, value in inputs.items() if value.ndim == 4}
    for name, value in images.items():
        is_last = value.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if is_last else torch.contiguous_format
        images[name] = view(value).contiguous(memory_format=memory_format)
    return inputs | images


def load_inputs(batch, device):
    """Return a batch's inputs on the device, augmented there where its images come with draws."""
    inputs, draws = to_device(batch["inputs"], device), to_device(batch.get("draws", {}), device)
    return inputs | {name: batch["on_device"](inputs[name], one) for name, one in draws.items()}


def iterate_inputs(loader, epoch, normalize, device):
    """Yield an epoch's normalised inputs, the first view of several."""
    for batch in loader.batches(epoch):
        inputs = load_inputs(batch, device)
        yield normalize({name: value[:, 0] if value.ndim == 5 else value for name, value in inputs.items()})


def _take_step(optimizer, scaler):
    """Take a step; return whether it was: GradScaler skips one where fp16's gradients hold inf.

    To know it, GradScaler waits for the device in each step. A fused optimizer skips inside its kernel, which
    accelerate does not see, so that the scale tells.
    """
    is_fused = scaler is not None and getattr(optimizer.optimizer, "_step_supports_amp_scaling", False)
    scale = scaler.get_scale() if is_fused else 0
    optimizer.step()
    return scaler.get_scale() >= scale if is_fused else not getattr(optimizer, "step_was_skipped", False)


def _compute_gradient_norms(learner):
    """Return {stage: norm of its gradients}, before clipping, of the stages that learn; waits for the device."""
    scaler, norms = learner.accelerator.scaler, {}
    for stage, parameters in learner.stages.items():
        if gradients := [parameter.grad for parameter in parameters if parameter.grad is not None]:
            norms[stage] = torch.nn.utils.get_total_norm(gradients)
    scale, values = scaler.get_scale() if scaler else 1.0, torch.stack([*norms.values()]).tolist() if norms else ()
    return {stage: norm / scale for stage, norm in zip(norms, values, strict=True)}


def _join_views(inputs):
    """Return images (N, V, H, W, C) as (V * N, H, W, C), first views first, and other inputs repeated."""
    num_views = max((value.shape[1] for value in inputs.values() if value.ndim == 5), default=1)
    if num_views == 1:
        return inputs
    repeated = {name: torch.cat([value] * num_views) for name, value in inputs.items() if value.ndim != 5}
    return repeated | {name: value.transpose(0, 1).flatten(0, 1) for name, value in inputs.items() if value.ndim == 5}


def advise_on_nan(precision, *others):
    """Return in words what may help against nan: fp32, where it is not set already, and others."""
    return " or ".join((*others, *(() if precision == "fp32" else ("set precision=fp32",))))


def _check_finite(losses, rates, first, epoch, accelerator, clip_norm):
    values = torch.stack(losses).float().cpu()
    if not torch.isfinite(values).all():
        step = int((~torch.isfinite(values)).nonzero()[0])
        found = f"epoch {epoch + 1}, step {first + step + 1}: loss is {values[step]:.4g}"
        precision = accelerator.mixed_precision.replace("no", "fp32")
        clipping = () if clip_norm is not None and clip_norm <= 1 else ("set optimizer.clip_norm=1",)
        advice = advise_on_nan(precision, "lower optimizer.lr", *clipping)
        raise UserError(f"{found} (lr {rates[step]:.1e}, precision {precision}); {advice}")


def with_bar(batches, loader, title, is_shown, num_done=0):
    total, count = loader.num_images * loader.world_size, lambda batch: len(batch["index"]) * loader.world_size
    return track(batches, title, total, total * num_done // max(len(loader), 1), is_shown, count)
