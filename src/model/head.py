"""From features to logits: hidden layers, dropout, one linear layer; and GeM pooling before it."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from src.errors import UserError
from src.model.initialization import initialize_layer, set_prior_bias

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class Head(nn.Module):
    """Hidden layers with activation and dropout, then the last linear layer.

    Args:
        num_features: D of the features.
        num_targets: K of the logits.
        settings: config.Model.
        prior: (K,) share of positives, or of each class, in training; used with `settings.prior_bias`.
        is_multiclass: the logits go into a softmax rather than into sigmoids.

    Raises:
        UserError: hidden layers that start with zeros.

    Reference for relu: Nair and Hinton, 2010; leaky_relu: Maas et al., 2013; gelu: Hendrycks and Gimpel, 2016,
    arXiv:1606.08415; silu: Elfwing et al., 2017, arXiv:1702.03118; dropout: Srivastava et al., 2014; several masks:
    Inoue, Multi-Sample Dropout, 2019, arXiv:1905.09788, of which the logits are averaged rather than the losses, as
    winners of competitions do; the prior: Lin et al., Focal Loss, 2017, arXiv:1708.02002, section 3.3.
    """

    def __init__(self, num_features, num_targets, settings, prior=None, is_multiclass=False):
        super().__init__()
        widths, method = settings.head_widths, settings.head_init
        if method == "zero" and widths:
            raise UserError(
                f"model.head_init=zero: hidden layers of zeros never learn (model.head_widths={list(widths)}); "
                "set model.head_init=he_normal or model.head_widths=[]"
            )
        is_leaky = settings.head_activation == "leaky_relu"
        activation = partial(nn.LeakyReLU, settings.leaky_slope) if is_leaky else ACTIVATIONS[settings.head_activation]
        layers = []
        for width in widths:
            layers += [nn.Dropout(settings.drop_rate), nn.Linear(num_features, width), activation()]
            num_features = width
        self.hidden = nn.Sequential(*layers)
        self.dropout = nn.Dropout(settings.drop_rate)
        self.last = nn.Linear(num_features, num_targets)
        self.dropout_samples = settings.dropout_samples
        for module in self.modules():
            initialize_layer(module, method)
        if settings.prior_bias and prior is not None:
            set_prior_bias(self.last, prior, is_multiclass)

    def forward(self, features):
        """Map features (N, D) to logits (N, K)."""
        features = self.hidden(features)
        samples = self.dropout_samples if self.training else 1
        return torch.stack([self.last(self.dropout(features)) for _ in range(samples)]).mean(dim=0)


class GeM(nn.Module):
    """Generalised mean of each feature map: p = 1 is the average, large p comes near the maximum; p is learned.

    Reference: Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, 2018, arXiv:1711.02512,
        eq. 3.
    """

    def __init__(self, p=3.0, eps=1e-6, channels_last=False, flatten=True):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps, self.channels_last, self.flatten = eps, channels_last, flatten

    def forward(self, features):
        """Map (N, C, H, W), or (N, H, W, C) when channels_last, to (N, C), or (N, C, 1, 1) unless flatten."""
        if self.channels_last:
            features = features.permute(0, 3, 1, 2)
        powers = features.float().clamp(min=self.eps).pow(self.p)
        pooled = functional.adaptive_avg_pool2d(powers, 1).pow(1 / self.p)
        return pooled.flatten(1) if self.flatten else pooled
