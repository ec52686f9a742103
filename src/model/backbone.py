"""The backbone, timm's or one's own: images (N, C, H, W) -> features (N, D); and what is set in it once it is built."""

import os
from functools import partial

import timm
import torch
from torch import nn
from torch.nn import functional

from src.config.registry import check_kwargs
from src.errors import UserError, first_line, nearest
from src.model.weights import create_from_file, create_from_hub, find_weights, load_weights

_OWNED = ("num_classes", "in_chans", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path")


class SimpleCNN(nn.Module):
    """Blocks of convolution, BatchNorm, ReLU and max pooling, then the average of each map: an example to copy."""

    def __init__(self, channels, image_size, widths=(32, 64, 128, 256)):
        super().__init__()
        self.blocks = nn.Sequential()
        for width in widths:
            conv = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
            self.blocks.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)))
            channels = width

    def forward(self, images):
        """Map (N, C, H, W) to (N, D); D is the last width."""
        return self.blocks(images).mean(dim=(2, 3))


# name: backbone(channels, image_size, **model.kwargs) -> module that maps (N, C, H, W) to (N, D); others are timm's
BACKBONES = {"simple_cnn": SimpleCNN}


def create_backbone(config, load_pretrained=True):
    """Create the backbone, without classifier, pretrained as the config says; without load_pretrained read no file."""
    settings, name = config.model, config.model.backbone
    arguments = {"drop_path_rate": settings.drop_path_rate} if settings.drop_path_rate else {}
    if is_own := name in BACKBONES:
        check_kwargs("model.kwargs", BACKBONES[name], settings.kwargs, name)
        build = partial(BACKBONES[name], config.competition.channels, tuple(config.image_size))
        create = partial(_create, build, name, arguments | settings.kwargs)
    else:
        create = partial(_create, partial(timm.create_model, name), name, arguments | _resolve_arguments(config))
    if not (settings.pretrained and load_pretrained):
        return create()
    path = find_weights(name, settings.weights)
    if path is not None:
        return load_weights(create(), name, path) if is_own else create_from_file(create, name, path)
    if is_own:
        advice = "give model.weights=FILE or set model.pretrained=false"
        raise UserError(f"model.pretrained=true: {name} comes without weights; {advice}")
    return create_from_hub(create, name, settings.weights or os.environ.get("WEIGHTS"))


def _resolve_arguments(config):
    """Return the arguments of timm.create_model; an `act_layer` given by name becomes timm's class."""
    name, kwargs = config.model.backbone, dict(config.model.kwargs)
    base, _, tag = name.partition(".")
    if not timm.is_model(name):
        hint = nearest(name, [*BACKBONES, *timm.list_models(), *timm.list_pretrained()])
        raise UserError(f"model.backbone={name}: not a timm model{hint}")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        advice = f"choose one of {', '.join(tags) or 'none'}"
        raise UserError(f"model.backbone={name}: {base} has no weights {tag}; {advice}")
    if owned := [key for key in kwargs if key in _OWNED]:
        raise UserError(f"model.kwargs.{owned[0]}: follows from other settings; leave it out")
    arguments = {"num_classes": 0, "in_chans": config.competition.channels}
    default = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if default and default.fixed_input_size:  # ViT, Swin
        arguments["img_size"] = tuple(config.image_size)
    if isinstance(kwargs.get("act_layer"), str):
        try:
            layer = timm.layers.get_act_layer(kwargs["act_layer"])  # these take `inplace`, which some of torch's do not
        except KeyError:
            where = f"model.kwargs.act_layer={kwargs['act_layer']}"
            raise UserError(f"{where}: not an activation of timm; for example relu, gelu or silu") from None
        slope = {"negative_slope": kwargs.pop("leaky_slope")} if "leaky_slope" in kwargs else {}
        kwargs["act_layer"] = partial(layer, **slope) if slope else layer
    return arguments | kwargs


def _create(build, name, arguments, **pretrained):
    """Return build(**arguments, **pretrained); every error becomes a UserError, but for those about the weights."""
    try:
        return build(**arguments, **pretrained)
    except Exception as error:
        if pretrained and not isinstance(error, (TypeError, AssertionError, ValueError)):
            raise
        refused = next((one for one in arguments if isinstance(error, TypeError) and f"'{one}'" in str(error)), None)
        if refused == "drop_path_rate":
            raise UserError(f"model.drop_path_rate: {name} does not take it; set model.drop_path_rate=0") from None
        if refused is not None and refused not in _OWNED:
            raise UserError(f"model.kwargs.{refused}: {name} does not take it; set model.kwargs={{}}") from None
        raise UserError(f"model.backbone={name}: cannot be built with {arguments} ({first_line(error)})") from None


def count_features(backbone, config):
    """Return D by a dry run; a UserError where the backbone does not take the images or returns no (N, D)."""
    name, size = config.model.backbone, list(config.image_size)
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone(torch.zeros(1, config.competition.channels, *size))
    except UserError:
        raise
    except Exception as error:
        advice = "try image_size=224" if size != [224, 224] else "choose another backbone"
        raise UserError(f"image_size={size}: {name} cannot take it ({first_line(error)}); {advice}") from None
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) != 2:
        found = shape or type(features).__name__
        raise UserError(f"model.backbone={name}: returns {found} for one image, not (1, D); look at model.kwargs")
    return shape[1]


def set_batchnorm(backbone, momentum=None, eps=None):
    """Give every BatchNorm (Ioffe and Szegedy, 2015, arXiv:1502.03167) torch's momentum and eps; None: its own."""
    norms = [one for one in backbone.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for key, value in (("momentum", momentum), ("eps", eps)):
        if value is not None and not norms:
            raise UserError(f"model.batchnorm_kwargs.{key}={value}: the backbone has no BatchNorm; leave it out")
        for norm in norms if value is not None else ():
            setattr(norm, key, value)


def add_dropout2d(backbone, rate, name):
    """Drop a share of channels in training (Tompson et al., 2015, arXiv:1411.4280) after all stages but the last."""
    stages = [one for one in getattr(backbone, "feature_info", ()) if "module" in one]
    if not stages:
        raise UserError(f"model.dropout2d_rate={rate}: {name} has no stages; set model.drop_rate or drop_path_rate")
    for stage in stages[:-1]:  # behind the last comes the pooling, where model.drop_rate leaves out channels
        backbone.get_submodule(stage["module"]).register_forward_hook(partial(_drop, rate, stage["num_chs"], name))


def _drop(rate, num_channels, name, module, inputs, output):
    """A forward hook; behind a frozen stage, whose output needs no gradient, nothing drops."""
    if output.ndim != 4 or output.shape[1] != num_channels:
        raise UserError(f"model.dropout2d_rate={rate}: {name} has no feature maps; set model.drop_rate")
    return functional.dropout2d(output, rate, module.training and output.requires_grad)


def checkpoint_gradients(backbone, name):
    """Compute activations, and BatchNorm's updates, twice instead of keeping them (Chen, 2016, arXiv:1604.06174)."""
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, TypeError):
        where = "model.grad_checkpointing=true"
        raise UserError(f"{where}: timm has none for {name}; lower train.batch_size instead") from None
