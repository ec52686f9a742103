"""The loop: built objects in, numbers out. Nothing here knows the config, the files or the competition."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from src.checkpointing.rng_state import write_random_state
from src.device import autocast
from src.errors import UserError

_CHECK_EVERY = 50  # steps between looks at the losses: each look waits for the device


@dataclass(frozen=True)
class EpochStats:
    """What an epoch of training gave: mean loss, seconds, and images per second on all devices together."""

    loss: float
    seconds: float
    images_per_second: float


@dataclass
class EpochPart:
    """How far an epoch of training is: what a restart in its midst needs besides the built objects."""

    num_batches: int = 0  # done
    seconds: float = 0.0  # that they took
    losses: list = field(default_factory=list)  # scalar tensors, one of each batch
    random_state: dict = field(default_factory=dict)  # of `random_state.read_random_state`; {}: as it is


def train_one_epoch(
    model, loader, epoch, loss_function, optimizer, schedule, accelerator, *,
    normalize, mixer=None, generator=None, consistency=None, accumulate_steps=1, clip_norm=None, after_step=None,
    part=None, title="",
):  # fmt: skip
    """Take one pass over the loader's images and step the optimizer.

    Args:
        model: images (N, C, H, W) -> logits (N, K); may be wrapped for several processes.
        loader: data.loader.Loader over the training images.
        epoch: counted from 0; decides order and augmentation.
        loss_function: (logits, targets) -> scalar.
        optimizer, schedule: stepped together once for every `accumulate_steps` batches.
        accelerator: places tensors and scales and shares gradients.
        normalize: raw pixels (N, H, W, C) -> (N, C, H, W) float.
        mixer: (images, targets, generator) -> mixed images and targets; None: off.
        consistency: logits of V views (V, N, K) -> scalar that is added to the loss of the first view; the loader's
            images are then (N, V, H, W, C). None: one view.
        clip_norm: largest global norm of the gradient; None: no clipping.
        after_step: called with the EpochPart so far after each optimizer step; None: nothing is.
        part: EpochPart that was done before, of the same epoch; None: nothing was.

    Raises:
        UserError: the loss is not finite; names the step, the learning rate and the precision.
    """
    model.train()
    part, rates, total = part or EpochPart(), [], len(loader)
    losses, first = part.losses, part.num_batches
    began = time.perf_counter() - part.seconds
    if part.random_state:
        write_random_state(part.random_state, accelerator.device, generator)
    batches = _with_bar(loader.batches(epoch, first), loader, title, accelerator.is_main_process, first)
    for step, batch in enumerate(batches, first):
        images = normalize(_as_one_batch(batch["image"].to(accelerator.device, non_blocking=True)))
        targets = batch["target"].to(accelerator.device, non_blocking=True)
        if mixer:
            images, targets = mixer(images, targets, generator)
        is_last_of_step = (step + 1) % accumulate_steps == 0 or step + 1 == total
        with nullcontext() if is_last_of_step else accelerator.no_sync(model):
            with accelerator.autocast():
                logits = model(images)
            loss = loss_function(logits[: len(targets)], targets)
            if consistency:
                loss = loss + consistency(logits.unflatten(0, (-1, len(targets))))
            loss = loss * batch["share"]
            accelerator.backward(loss / _batches_in_step(step, total, accumulate_steps))
        losses.append(loss.detach())
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        if is_last_of_step:
            if clip_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            part.num_batches, part.seconds = step + 1, time.perf_counter() - began
            if after_step:
                after_step(part)
        if (step + 1) % _CHECK_EVERY == 0 or step + 1 == total:
            _check_finite(losses[first:], rates, first, epoch, accelerator)
    mean_loss = torch.stack(losses).float().mean()
    mean_loss = accelerator.reduce(mean_loss, reduction="mean").item()
    seconds = time.perf_counter() - began
    return EpochStats(mean_loss, seconds, loader.num_images * accelerator.num_processes / seconds)


@torch.inference_mode()
def predict(networks, loader, device, precision, to_probs, views=(), epoch=0, title="", after_batch=None):
    """Run every network over each batch once; what they share, pixels and views, is made once for all of them.

    Args:
        networks: each has .normalize and maps images (N, C, H, W) -> logits (N, K); several have .pixel_stats too,
            equal where they normalise alike.
        loader: data.loader.Loader in order, without shuffling.
        to_probs: logits -> probabilities of the same shape.
        views: functions (N, C, H, W) -> (N, C, H', W') whose probabilities are averaged with the plain picture's.
        epoch: of the loader's random numbers, where it has any.
        after_batch: called without arguments after each batch; None: nothing is.

    Returns:
        index (N,) int64 rows of the loader's table, probs (len(networks), N, K) float32.
    """
    was_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    alike = _group_by_pixel_stats(networks)
    index, probs, done = np.empty(loader.num_images, dtype=np.int64), None, 0
    for batch in _with_bar(loader.batches(epoch), loader, title, bool(title)):
        raw = batch["image"].to(device, non_blocking=True)
        totals = [0] * len(networks)
        with autocast(device, precision):  # around all views, since it casts a network's weights once in here
            for places in alike:
                plain = networks[places[0]].normalize(raw)
                for view in (None, *views):
                    images = _in_order_of(plain, view(plain)) if view else plain
                    for place in places:
                        totals[place] = totals[place] + to_probs(networks[place](images))
        batch_probs = (torch.stack(totals) / (1 + len(views))).float().cpu().numpy()
        if probs is None:
            probs = np.empty((len(networks), loader.num_images, batch_probs.shape[2]), dtype=np.float32)
        rows = slice(done, done := done + len(batch["index"]))
        index[rows], probs[:, rows] = batch["index"].numpy(), batch_probs
        if after_batch:
            after_batch()
    for network, training in zip(networks, was_training, strict=True):
        network.train(training)
    assert done == loader.num_images, f"{done} of {loader.num_images} images came"
    return index, probs


def _in_order_of(plain, images):
    """Return a view's images in the memory order of the plain ones; else each network's first layer copies them."""
    is_last = plain.is_contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


def _group_by_pixel_stats(networks):
    """Return the places of the networks that normalise alike, list by list."""
    if len(networks) == 1:
        return [[0]]
    groups = {}
    for place, network in enumerate(networks):
        groups.setdefault(network.pixel_stats, []).append(place)
    return list(groups.values())


def iterate_images(loader, epoch, normalize, device):
    """Yield an epoch's images, the first view of several, as the network takes them: (N, C, H, W)."""
    for batch in loader.batches(epoch):
        raw = batch["image"][:, 0] if batch["image"].ndim == 5 else batch["image"]
        yield normalize(raw.to(device, non_blocking=True))


def _as_one_batch(images):
    """Return (N, V, H, W, C) as (V * N, H, W, C), first views first; one view and features stay."""
    return images.transpose(0, 1).flatten(0, 1) if images.ndim == 5 else images


def _batches_in_step(step, total, accumulate_steps):
    """The last step of an epoch may have fewer batches; its gradient is their mean all the same."""
    first = step - step % accumulate_steps
    return min(accumulate_steps, total - first)


def _check_finite(losses, rates, first, epoch, accelerator):
    values = torch.stack(losses).float().cpu()
    if not torch.isfinite(values).all():
        step = int((~torch.isfinite(values)).nonzero()[0])
        raise UserError(
            f"epoch {epoch + 1}, step {first + step + 1}: loss is {values[step]:.4g} (lr {rates[step]:.1e}, precision "
            f"{accelerator.mixed_precision.replace('no', 'fp32')}); lower optimizer.lr, set optimizer.clip_norm=1 or "
            "precision=fp32"
        )


def _with_bar(batches, loader, title, is_shown, num_done=0):
    """Show images per second and the time left while the batches pass, on a terminal only."""
    initial = loader.num_images * num_done // max(len(loader), 1)
    with tqdm(
        total=loader.num_images, initial=initial, desc=title, unit=" images", leave=False, dynamic_ncols=True,
        disable=None if is_shown else True,
    ) as bar:  # fmt: skip
        for batch in batches:
            yield batch
            bar.update(len(batch["index"]))
