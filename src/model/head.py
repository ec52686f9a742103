"""From features to logits: hidden layers, dropout, one linear layer; and GeM pooling before it."""

import torch
from torch import nn
from torch.nn import functional

from src.errors import UserError
from src.model.initialize import initialize_layer

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

    Reference for several dropout masks: Inoue, Multi-Sample Dropout, 2019, arXiv:1905.09788; here the logits are
    averaged rather than the losses, as winners of competitions do.
    """

    def __init__(self, num_features, num_targets, widths=(), activation="relu", drop_rate=0.0, dropout_samples=1,
                 method="default"):  # fmt: skip
        super().__init__()
        if method == "zero" and widths:
            raise UserError(
                f"model.head_init=zero: hidden layers of zeros never learn (model.head_widths={list(widths)}); "
                "set model.head_init=he_normal or model.head_widths=[]"
            )
        layers = []
        for width in widths:
            layers += [nn.Dropout(drop_rate), nn.Linear(num_features, width), ACTIVATIONS[activation]()]
            num_features = width
        self.hidden = nn.Sequential(*layers)
        self.dropout = nn.Dropout(drop_rate)
        self.last = nn.Linear(num_features, num_targets)
        self.dropout_samples = dropout_samples
        for module in self.modules():
            initialize_layer(module, method)

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
