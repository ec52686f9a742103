"""Averages of weights over steps."""

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
