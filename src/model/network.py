"""The network: raw pixels -> normalised images -> timm backbone with pooling -> head -> logits."""

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from src.errors import UserError
from src.model.freezing import freeze, keep_frozen_in_eval
from src.model.head import GeM, Head
from src.model.regularization import add_dropout2d, set_batchnorm
from src.model.weights import create_backbone


class Network(nn.Module):
    """A backbone that returns features (N, D), a head that returns logits (N, K), and the pixels' mean and std."""

    def __init__(self, backbone, head, pixel_mean, pixel_std, freeze_batchnorm=False):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.freeze_batchnorm = freeze_batchnorm
        self.register_buffer("pixel_mean", torch.as_tensor(pixel_mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("pixel_std", torch.as_tensor(pixel_std, dtype=torch.float32).view(1, -1, 1, 1))

    def normalize(self, images):
        """Turn raw pixels (N, H, W, C), uint8 or float, into float32 (N, C, H, W) with mean 0 and std 1.

        A permuted NHWC tensor is channels_last already, so nothing is copied for it. Features (N, D) stay as they are.
        """
        if images.ndim == 2:
            return images
        assert images.shape[3] == self.pixel_mean.shape[1], f"{tuple(images.shape)} would be broadcast in silence"
        return (images.permute(0, 3, 1, 2).float() - self.pixel_mean) / self.pixel_std

    @property
    def pixel_stats(self):
        """The pixels' (mean, std), a tuple of numbers each; reading them waits for the device."""
        return tuple(self.pixel_mean.flatten().tolist()), tuple(self.pixel_std.flatten().tolist())

    def forward(self, images):
        """Map normalised images (N, C, H, W), or the backbone's features of them (N, D), to logits (N, K)."""
        return self.head(images if images.ndim == 2 else self.backbone(images))

    def place(self, device, channels_last):
        """Move to a device, the weights with channels innermost unless `channels_last` is False; return self."""
        # None, where nothing was timed, goes by the rule
        order = torch.preserve_format if channels_last is False else torch.channels_last
        return self.to(device, memory_format=order)

    def train(self, mode=True):
        """Switch between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        keep_frozen_in_eval(self)
        return self


def build_network(
    settings, num_targets, channels, image_size, normalize="backbone", pixel_stats=None, load_pretrained=True,
    prior=None, is_multiclass=False,
):  # fmt: skip
    """Build the network that the settings ask for, frozen as they say.

    Args:
        settings: config.Model.
        num_targets: K, columns of the logits.
        channels: C of the images.
        image_size: (height, width).
        normalize: backbone (timm's mean and std times 255), dataset (`pixel_stats`), center (its mean alone, and a
            division by 255) or none (a division by 255).
        pixel_stats: (mean, std), each (C,), in raw pixel units.
        load_pretrained: False leaves random weights, for a checkpoint that is loaded next.
        prior, is_multiclass: as `head.Head`.

    Raises:
        UserError: see `weights.create_backbone`; also a pool, BatchNorm, feature map or checkpointing that the
            backbone does not have, a size it cannot take.
    """
    backbone = _create_pooled(settings, channels, image_size, load_pretrained)
    set_batchnorm(backbone, settings.batchnorm_momentum, settings.batchnorm_eps)
    if settings.dropout2d_rate:
        add_dropout2d(backbone, settings.dropout2d_rate, settings.backbone)
    if settings.grad_checkpointing:
        _checkpoint_gradients(backbone, settings.backbone)
    num_features = _count_features(backbone, settings.backbone, channels, image_size)
    head = Head(num_features, num_targets, settings, prior, is_multiclass)
    mean, std = _pixel_stats(backbone, channels, normalize, pixel_stats)
    network = Network(backbone, head, mean, std, settings.keeps_batchnorm)
    freeze(network, settings.freeze, settings.gradual_epochs, settings.head_first_epochs)
    return network.train()


def _create_pooled(settings, channels, image_size, load_pretrained):
    """Create the backbone with the named pooling: changed by timm once the weights are loaded, or GeM in its place.

    Asked for at creation, another pooling gives a ViT a new norm instead of its pretrained one.
    """
    backbone = create_backbone(settings, channels, image_size, load_pretrained)
    if settings.pool in ("avg", "max", "avgmax"):
        try:
            backbone.reset_classifier(0, settings.pool)
        except AssertionError as error:
            raise UserError(
                f"model.pool={settings.pool}: {settings.backbone} does not take it ({error}); set model.pool=auto"
            ) from None
    if settings.pool == "gem":
        pools = [(name, one) for name, one in backbone.named_modules() if isinstance(one, SelectAdaptivePool2d)]
        if not pools:
            raise UserError(f"model.pool=gem: {settings.backbone} has no feature map to pool; set model.pool=avg")
        for name, pool in pools:
            gem = GeM(channels_last=_is_nhwc(pool), flatten=_flattens(pool))
            backbone.set_submodule(name, gem)
    return backbone


def _checkpoint_gradients(backbone, name):
    """Keep only the stages' ends for the backward pass, which computes again what lies between.

    BatchNorm that learns its statistics then sees each batch twice.

    Raises:
        UserError: timm cannot do it with this backbone.

    Reference: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv:1604.06174.
    """
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, TypeError):
        raise UserError(
            f"model.grad_checkpointing=true: timm has none for {name}; lower train.batch_size instead"
        ) from None


def _is_nhwc(pool):
    """Whether a timm pool expects (N, H, W, C): it then reduces axes 1 and 2."""
    return getattr(pool.pool, "dim", None) == (1, 2)


def _flattens(pool):
    """Whether a timm pool returns (N, C) rather than (N, C, 1, 1)."""
    return not isinstance(pool.flatten, nn.Identity) or bool(getattr(pool.pool, "flatten", False))


def _count_features(backbone, name, channels, image_size):
    """Return D by a dry run, which also shows that the backbone takes pictures of this size."""
    backbone.eval()
    try:
        with torch.no_grad():
            return backbone(torch.zeros(1, channels, *image_size)).shape[1]
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"image_size={list(image_size)}: {name} cannot take it ({reason}); try image_size=224"
        ) from None


def _pixel_stats(backbone, channels, normalize, pixel_stats):
    """Return mean and std (C,) in raw pixel units."""
    if normalize in ("dataset", "center"):
        mean, std = pixel_stats if pixel_stats is not None else ([0.0] * channels, [1.0] * channels)
        return mean, std if normalize == "dataset" else [255.0] * channels
    if normalize == "none":
        return [0.0] * channels, [255.0] * channels
    config = backbone.pretrained_cfg
    if channels == 1:
        return [255 * sum(config["mean"]) / 3], [255 * sum(config["std"]) / 3]
    return tuple([255 * config[key][channel % 3] for channel in range(channels)] for key in ("mean", "std"))
