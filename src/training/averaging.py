"""Averages of weights, over steps and over epochs; a new one is a subclass of Average and an entry below."""

import copy

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from src.config.registry import check_kwargs
from src.model.freezing import learns_head_alone, open_stages


class Average:
    """No average: the network itself is scored. A subclass overrides what it needs; epochs count from 0."""

    num_best = 0  # best epochs whose weights are kept until the end
    module = None  # the averaged network, once there is one

    def __init__(self, network, total_epochs):
        pass

    def after_step(self, network):
        """Called after each optimizer step."""

    def after_epoch(self, learner, epoch):
        """Called between an epoch's last step and its validation."""

    def looks_again(self, epoch):
        """Return whether `after_epoch` reads the epoch's training images once more."""
        return False

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class EMA(Average):
    """Exponential moving average of weights and running statistics: timm's, whose decay rises to `decay`.

    Where the head learns alone, it alone is averaged: the frozen backbone never moves.

    Reference: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def __init__(self, network, total_epochs, decay=0.999):
        self._is_head_alone, self._num_steps = learns_head_alone(network), 0
        learning = network.head if self._is_head_alone else network
        self._ema = ModelEmaV3(learning, decay=decay, use_warmup=True)
        self.module = self._ema.module
        if self._is_head_alone:
            self.module = copy.deepcopy(network).eval()
            self.module.head = self._ema.module

    def after_step(self, network):
        self._num_steps += 1
        self._ema.update(network.head if self._is_head_alone else network, self._num_steps)

    def state_dict(self):
        return {"weights": self.module.state_dict(), "num_steps": self._num_steps}

    def load_state_dict(self, state):
        self.module.load_state_dict(state["weights"])
        self._num_steps = state["num_steps"]


class SWA(Average):
    """The mean of the last `epochs` epochs' weights; BatchNorm gets statistics of its own.

    Reference: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018,
    arXiv:1803.05407, algorithm 1; here with the schedule that is set, as in the last epochs of a falling one.
    """

    def __init__(self, network, total_epochs, epochs=3):
        self._swa, self._first = AveragedModel(network), max(total_epochs - epochs, 0)

    @property
    def module(self):
        return self._swa.module if self._swa.n_averaged > 0 else None

    def looks_again(self, epoch):
        return epoch >= self._first

    def after_epoch(self, learner, epoch):
        if epoch < self._first or self._swa.n_averaged > epoch - self._first:  # done before a stopped validation
            return
        self._swa.update_parameters(learner.network)
        open_stages(self._swa.module, epoch)  # or BatchNorm of stages that opened since would count as frozen
        learner.refresh_batchnorm(self._swa.module, epoch)

    def state_dict(self):
        return self._swa.state_dict()

    def load_state_dict(self, state):
        self._swa.load_state_dict(state)


class Soup(Average):
    """The mean of the `epochs` best epochs' weights, which counts where it scores better than each of them.

    Reference: Wortsman et al., Model soups, 2022, arXiv:2203.05482, section 2, uniform soup.
    """

    def __init__(self, network, total_epochs, epochs=3):
        self.num_best = epochs


AVERAGES = {"none": Average, "ema": EMA, "swa": SWA, "soup": Soup}


def build_average(train, network):
    """Return the Average that config.settings.Train asks for, of the network as it is now."""
    average = AVERAGES[train.average]
    ranges = {"epochs": (1, train.epochs), "decay": (0, 0.99999)}
    check_kwargs("train.average_kwargs", average, train.average_kwargs, train.average, **ranges)
    return average(network, train.epochs, **train.average_kwargs)


def compute_mean_weights(states):
    """Return the mean of several state dicts of one architecture; integers (counters) are the first's."""
    floats = [name for name, tensor in states[0].items() if tensor.is_floating_point()]
    return states[0] | {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in floats}


@torch.no_grad()
def refresh_batchnorm(network, batches):
    """Recompute the statistics of every BatchNorm that is not frozen, as averages need (arXiv:1803.05407, sec. 3.2).

    torch's update_bn would also reset the frozen ones. `batches` of normalised inputs, {name: tensor}, are read only
    where there is something to compute.
    """
    was_training = network.training
    network.train()
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    for number, inputs in enumerate(batches if norms else (), 1):
        for norm in norms:
            norm.momentum = 1 / number  # the plain mean over batches, for which None would wait for the device
        network(**inputs)
    for norm, value in zip(norms, momenta, strict=True):
        norm.momentum = value
    network.train(was_training)
