"""The network: raw pixels -> normalised images -> backbone with pooling -> head -> logits, or values of regression."""

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from src.model.backbone import add_dropout2d, checkpoint_gradients, count_features, create_backbone, set_norms
from src.model.freezing import freeze, keep_frozen_in_eval
from src.model.head import JoinedFeatures, build_head, initialize_layer, set_pooling

# of the two layers beside the image: Ha et al., Winning Solution to the SIIM-ISIC Melanoma Challenge, 2020,
# arXiv:2010.05351; theirs has BatchNorm, too, which a batch of one row has nothing to learn from
_METADATA_WIDTHS = (512, 128)


class Network(nn.Module):
    """A backbone that returns features (N, D), a head that returns logits (N, K), and the pixels' mean and std.

    join: of V images a row, which come as (N, H, W, V * C), the module that makes one of their features; None: of one.
    target_mean and target_std, (K,) of regression: training is on standardised values, evaluation returns those of the
    targets' units; buffers, so that they go wherever the weights go. auxiliary: a second head, for training alone;
    metadata: what maps a row's (N, M) to features, which the head is given after the image's; None: no such columns.
    """

    def __init__(self, backbone, head, pixel_mean, pixel_std, freeze_batchnorm=False, target_scale=None, join=None):
        super().__init__()
        self.auxiliary = self.metadata = None
        mean, std = target_scale or (None, None)
        self.register_buffer("target_mean", None if mean is None else torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("target_std", None if std is None else torch.as_tensor(std, dtype=torch.float32))
        self.backbone = backbone
        self.join = join
        self.head = head
        self.freeze_batchnorm, self.is_channels_last = freeze_batchnorm, True
        self.register_buffer("pixel_mean", torch.as_tensor(pixel_mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("pixel_std", torch.as_tensor(pixel_std, dtype=torch.float32).view(1, -1, 1, 1))

    def normalize(self, inputs):
        """Return the inputs, of which raw images (N, H, W, C) become float32 (N, C, H, W) of mean 0 and std 1."""
        inputs, num_channels = dict(inputs), self.pixel_mean.shape[1]
        for name, images in inputs.items():
            if images.ndim == 4:
                assert images.shape[3] == num_channels, f"{tuple(images.shape)} would be broadcast in silence"
                images = images.permute(0, 3, 1, 2)  # without a copy, which is channels_last
                if not self.is_channels_last:  # a clone: of one channel .contiguous() keeps the strides
                    images = images.clone(memory_format=torch.contiguous_format)
                inputs[name] = (images.float() - self.pixel_mean) / self.pixel_std
        return inputs

    def extract_features(self, image):
        """Map normalised images (N, C, H, W) to features (N, D); further inputs come to parameters of their names.

        V images a row, (N, V * C, H, W), are V * N images of the backbone, and their features (N, V * D).
        """
        if self.join is None:
            return self.backbone(image)
        images = image.unflatten(1, (self.join.num_images, -1)).flatten(0, 1)
        images = images.contiguous(memory_format=torch.channels_last) if self.is_channels_last else images.contiguous()
        return self.backbone(images).unflatten(0, (-1, self.join.num_images)).flatten(1)

    def forward(self, features=None, metadata=None, **inputs):
        """Map normalised inputs, or features (N, D) that were extracted before, to logits (N, K).

        Of regression these are values: standardised in training, in the targets' units in evaluation. In training the
        auxiliary columns' logits stand behind them.
        """
        features = self.extract_features(**inputs) if features is None else features
        features = features if self.join is None else self.join(features)
        joined = features if self.metadata is None else torch.cat([features, self.metadata(metadata)], dim=1)
        logits = self.head(joined)
        if self.training:
            return logits if self.auxiliary is None else torch.cat([logits, self.auxiliary(features)], dim=1)
        return logits if self.target_mean is None else logits.float() * self.target_std + self.target_mean

    @property
    def pixel_stats(self):
        """The pixels' (mean, std), a tuple of numbers each; reading them waits for the device."""
        return tuple(self.pixel_mean.flatten().tolist()), tuple(self.pixel_std.flatten().tolist())

    def place(self, device, channels_last):
        """Move to a device, weights and images in channels_last format unless that is False; return self."""
        self.is_channels_last = channels_last is not False
        return self.to(device, memory_format=torch.channels_last if self.is_channels_last else torch.preserve_format)

    def train(self, mode=True):
        """Switch between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        keep_frozen_in_eval(self)
        return self


def build_network(
    config, num_targets, pixel_stats=None, prior=None, load_pretrained=True, target_scale=None, num_auxiliary=0,
    num_metadata=0,
):  # fmt: skip
    """Build the network of a config, frozen as it says; without load_pretrained a checkpoint is to be loaded next.

    pixel_stats: the data set's (mean, std), each (C,), for normalize=dataset or center; prior: (K,) share of positives,
    or of each class, in training, for heads that ask for it; target_scale: (mean, std), each (K,), of regression's
    training targets; num_auxiliary: columns that are learned beside the targets; num_metadata: a row's numbers beside
    its image.
    """
    settings = config.model
    backbone = create_backbone(config, load_pretrained)
    set_pooling(backbone, config)
    set_norms(backbone, settings)
    for module in backbone.modules() if load_pretrained else ():
        initialize_layer(module, settings.init, settings.init_std)
    if settings.dropout2d_rate:
        add_dropout2d(backbone, settings.dropout2d_rate, settings.backbone)
    if settings.grad_checkpointing:
        checkpoint_gradients(backbone, settings.backbone)
    num_features = count_features(backbone, config)
    join = config.competition.images_as
    num_images = config.competition.row_channels // config.competition.network_channels
    join = None if join == "channels" else JoinedFeatures(join, num_images, num_features)
    head = build_head(config, num_features + _METADATA_WIDTHS[1] * (num_metadata > 0), num_targets, prior)
    stats = _resolve_pixel_stats(config, getattr(backbone, "pretrained_cfg", {}), pixel_stats)
    stats = [np.tile(one, config.competition.row_channels // len(one)) for one in stats]  # of each image of a row
    if config.competition.task == "regression" and target_scale is None:
        target_scale = torch.zeros(num_targets), torch.ones(num_targets)
    network = Network(backbone, head, *stats, settings.keeps_batchnorm, target_scale, join)
    if num_auxiliary:
        network.auxiliary = nn.Linear(num_features, num_auxiliary)
    if num_metadata:
        first, last = nn.Linear(num_metadata, _METADATA_WIDTHS[0]), nn.Linear(*_METADATA_WIDTHS)
        network.metadata = nn.Sequential(first, nn.SiLU(), nn.Dropout(settings.drop_rate), last, nn.SiLU())
    freeze(network, settings.freeze, settings.gradual_epochs, settings.head_first_epochs)
    return network.train()


def _resolve_pixel_stats(config, pretrained, data_stats):
    """Return mean and std (C,) in raw pixel units; `pretrained` is timm's configuration, without one ImageNet's."""
    channels = config.competition.channels
    if config.normalize in ("dataset", "center"):
        mean, std = data_stats if data_stats is not None else ([0.0] * channels, [1.0] * channels)
        return mean, std if config.normalize == "dataset" else [255.0] * len(mean)
    if isinstance(config.normalize, dict):
        return [255 * one for one in config.normalize["mean"]], [255 * one for one in config.normalize["std"]]
    if config.normalize == "none":
        return [0.0] * channels, [255.0] * channels
    stats = pretrained.get("mean", IMAGENET_DEFAULT_MEAN), pretrained.get("std", IMAGENET_DEFAULT_STD)
    if channels == 1:
        return tuple([255 * sum(one) / 3] for one in stats)
    return tuple([255 * one[channel % 3] for channel in range(channels)] for one in stats)
