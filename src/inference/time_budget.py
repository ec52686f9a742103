"""infer.time_budget: test images are predicted by the folds and views that fit; what is dropped counts for no row."""

import time
from collections import defaultdict, namedtuple
from statistics import mean

import torch

from src.device import autocast
from src.training.engine import forward_each, group_networks, to_device, with_bar

# index (R,) int64 of the R rows that were reached; probs (M, R, K) float32, of the M networks that count the mean of
# the views that count; their numbers (view 0: the plain image); seconds that all would have taken
BudgetedProbs = namedtuple("BudgetedProbs", "index probs networks views seconds")


class _Seconds:
    """Seconds an image of each step: the mean of its last batches; not of the first, which may hold a warm-up."""

    _WINDOW = 5

    def __init__(self):
        self._known = defaultdict(list)

    def add(self, step, seconds, num_images):
        self._known[step].append(seconds / num_images)

    def estimate(self, step, default=0.0):
        known = self._known[step]
        last = known[max(1, len(known) - self._WINDOW) :] or known or [default]
        return sum(last) / len(last)


@torch.inference_mode()
def predict_in_time(networks, loader, to_probs, precision, ends_at, *, views=(), weights=None, title="", after_batch):
    """Predict as training.engine.predict, leaving out what would end after `ends_at` of time.monotonic.

    A member is a network on a view. Members are computed view by view, plain images first, as long as by the seconds
    measured so far this batch and all others end in time; the first that does not fit is dropped for all rows, with
    those behind it: views (the one of least weight first), and networks where plain images alone are left. The first
    member stays; where even that takes too long, the rows that are left are not reached.

    Returns:
        BudgetedProbs; with all members its probs are those of `predict`, bit for bit.
    """
    device, groups = next(networks[0].parameters()).device, group_networks(networks)
    weights = [1] * (1 + len(views)) if weights is None else weights
    views = {number: view for number, view in enumerate((None, *views)) if weights[number]}
    views = {number: views[number] for number in sorted(views, key=lambda number: (number > 0, -weights[number]))}
    numbers = [number for group in groups for number in group]
    members = every = [(view, number) for view in views for number in numbers]
    seconds, index, probs, left = _Seconds(), [], defaultdict(list), loader.num_images
    start = time.monotonic()
    for batch in with_bar(loader.batches(0), loader, title, bool(title)):
        num_images = len(batch["index"])
        left -= num_images
        if index:  # the first batch may have waited for the start of processes
            seconds.add("loader", time.monotonic() - start, num_images)
        raw, done = to_device(batch["inputs"], device), []
        forwards = forward_each(networks, groups, views, raw)
        with autocast(device, precision):
            for member in members:
                start = time.monotonic()
                if done and not _fits(member, done, seconds, num_images, left, ends_at - start):
                    if index or 4 * num_images * seconds.estimate(done[-1]) > ends_at - start:
                        break
                    view, number = done[-1]  # once more: its first time may have been a warm-up
                    if any(number == group[0] for group in groups):  # whose time holds the view's
                        forward = next(forward_each(networks, [[number]], {view: views[view]}, raw))[2]
                    to_probs(forward()).cpu()
                    seconds.add(done[-1], time.monotonic() - start, num_images)
                    start = time.monotonic()
                    if not _fits(member, done, seconds, num_images, left, ends_at - start):
                        break
                forward = next(forwards)[2]
                probs[member].append(to_probs(forward()).cpu())  # waits for the device
                seconds.add(member, time.monotonic() - start, num_images)
                done.append(member)
        members = done[: len(done) - len(done) % len(numbers)] or done[: len(numbers)]
        index.append(batch["index"])
        after_batch()
        start = time.monotonic()
        if start + min(left, num_images) * _estimate(members[:1], seconds) > ends_at:
            break
    chosen, means = sorted({view for view, _ in members}), []
    counted = sorted({number for _, number in members})
    for number in counted:  # summed in the order of `predict`
        total = sum(weights[view] * torch.cat(probs[view, number]) for view in chosen)
        means.append((total / sum(weights[view] * torch.ones_like(total) for view in chosen)).float())
    known = [seconds.estimate(member) for member in every if probs[member]]
    seconds = loader.num_images * (seconds.estimate("loader") + mean(known) * len(every))
    return BudgetedProbs(torch.cat(index).numpy(), torch.stack(means).numpy(), counted, chosen, seconds)


def _estimate(members, seconds):
    return seconds.estimate("loader") + sum(seconds.estimate(member) for member in members)


def _fits(member, done, seconds, num_images, num_left, time_left):
    """Whether a member of this batch, and all batches that are left with it and those done in this one, end in time."""
    alike = (done[0][0], member[1])  # the same network on the first view, if that is done
    cost = seconds.estimate(member, default=seconds.estimate(alike if alike in done else done[-1]))
    return cost * num_images + (_estimate(done, seconds) + cost) * num_left <= time_left
