"""First weights of new layers, by name."""

import math

import torch
from torch import nn


def _lecun_normal(weight):
    """Normal with variance 1 / fan_in. Reference: LeCun et al., Efficient BackProp, 1998, section 4.6."""
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
    nn.init.normal_(weight, std=math.sqrt(1 / fan_in))


def _normal(weight):
    """Normal with standard deviation 0.01. Reference: Krizhevsky et al., ImageNet Classification, 2012, section 5."""
    nn.init.normal_(weight, std=0.01)


def _he_uniform(weight):
    """Uniform with variance 2 / fan_in.

    Reference: He et al., Delving Deep into Rectifiers, 2015, arXiv:1502.01852, eq. 10.
    """
    nn.init.kaiming_uniform_(weight, nonlinearity="relu")


def _he_normal(weight):
    """Normal with variance 2 / fan_in. Reference: He et al., 2015, arXiv:1502.01852, eq. 10."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


# Xavier: Glorot and Bengio, Understanding the difficulty of training deep feedforward networks, 2010, eq. 16.
# Orthogonal: Saxe et al., Exact solutions to the nonlinear dynamics of learning, 2014, arXiv:1312.6120.
INITIALIZERS = {
    "default": None,
    "zero": nn.init.zeros_,
    "normal": _normal,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": _he_uniform,
    "he_normal": _he_normal,
    "lecun_normal": _lecun_normal,
    "orthogonal": nn.init.orthogonal_,
}


def initialize_layer(module, method):
    """Set a Linear or Conv2d layer's weight by the named method and its bias to zero; other modules stay as they are.

    Args:
        method: a key of INITIALIZERS; default leaves torch's own weights and bias.
    """
    initializer = INITIALIZERS[method]
    if initializer is None or not isinstance(module, (nn.Linear, nn.Conv2d)):
        return
    initializer(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def set_prior_bias(layer, prior, is_multiclass):
    """Set a last layer's bias so that zero weights predict how often each answer occurs.

    Args:
        layer: nn.Linear with K outputs.
        prior: (K,) shares in [0, 1]; an answer that never or always occurs counts as 1 in 10,000.
        is_multiclass: the logits go into a softmax (log p), else into sigmoids (log p / (1 - p)).
    """
    prior = torch.as_tensor(prior, dtype=torch.float32).clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        layer.bias.copy_(prior.log() if is_multiclass else prior.logit())
