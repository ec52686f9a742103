"""Averages of weights, over steps and over epochs."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class _WarmDecay:
    """The decay rises with the updates, so that the first, random weights are forgotten early."""

    def __init__(self, decay):
        self.decay = decay

    def __call__(self, average, current, num_averaged):
        decay = min(self.decay, (1 + num_averaged) / (10 + num_averaged))
        return average + (1 - decay) * (current - average)


def build_ema(network, decay):
    """Return the exponential moving average of a network's weights and running statistics; update_parameters(network).

    Args:
        network: copied as it is now.
        decay: share that the average keeps at each step, below 1; update n keeps at most (1 + n) / (10 + n).

    Reference: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; the rising decay is
    that of TensorFlow's ExponentialMovingAverage(num_updates).
    """
    return AveragedModel(network, avg_fn=_WarmDecay(decay), use_buffers=True)


def build_swa(network):
    """Return the plain mean of the weights that each update_parameters(network) sees; statistics: `refresh_batchnorm`.

    Reference: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018,
    arXiv:1803.05407, algorithm 1; here with the schedule that is set, as in the last epochs of a falling one.
    """
    return AveragedModel(network)


def mean_weights(states):
    """Return the mean of several state dicts of one architecture; whole numbers (counters) are the first's.

    Reference: Wortsman et al., Model soups, 2022, arXiv:2203.05482, section 2, uniform soup.
    """
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if tensor.is_floating_point() else tensor
        for name, tensor in states[0].items()
    }


@torch.no_grad()
def refresh_batchnorm(network, batches):
    """Compute the running mean and variance of every BatchNorm that learns them anew, as averaged weights need.

    torch's update_bn would also reset the frozen ones. The network's mode is as it was afterwards.

    Args:
        batches: iterable of normalised images (N, C, H, W); read only where there is something to compute.

    Reference: arXiv:1803.05407, section 3.2.
    """
    was_training = network.training
    network.train()
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    for images in batches if norms else ():
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
