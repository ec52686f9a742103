"""The backbone, timm's or one's own: images (N, C, H, W) -> features (N, D); and what is set in it once it is built."""

import itertools
import math
from contextlib import suppress
from dataclasses import replace
from functools import partial

import timm
import torch
from torch import nn
from torch.nn import functional

from src.config.registry import check_kwargs
from src.errors import UserError, first_line, nearest
from src.model.weights import WeightsMisfit, create_from_file, create_from_hub, find_weights, load_weights

# what the pipeline decides: the setting to use instead, where there is one
_OWNED = {"num_classes": "", "in_chans": "competition.channels", "global_pool": "model.pool", "img_size": "image_size"}
_OWNED |= {"pretrained": "model.pretrained", "checkpoint_path": "model.weights", "features_only": "", "out_indices": ""}
_OWNED |= {"pretrained_cfg": "model.weights", "pretrained_cfg_overlay": "model.weights", "cache_dir": ""}
_MAP_NORMS = (nn.BatchNorm2d, nn.GroupNorm, timm.layers.LayerNorm2d)


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
    create = partial(_create, config, *_prepare(config))
    if not (settings.pretrained and load_pretrained):
        return create()
    path = find_weights(name, settings.weights)
    if name in BACKBONES:
        if path is None:
            advice = "give model.weights=FILE or set model.pretrained=false"
            raise UserError(f"model.pretrained=true: {name} comes without weights; {advice}")
        return load_weights(create(), name, path)
    load = create_from_file if path else create_from_hub
    try:
        return load(create, name, path or settings.weights)
    except WeightsMisfit:
        default = timm.models.get_pretrained_cfg(name)
        native = default.input_size[1:] if default and default.fixed_input_size else tuple(config.image_size)
        if native != tuple(config.image_size) and _fits(replace(config, image_size=native), load, path):
            found = f"the weights of {name} are for {list(native)} and cannot be resampled"
            raise UserError(f"image_size={list(config.image_size)}: {found}; set {_spell(native)}") from None
        raise


def _fits(config, load, path):
    """Return whether weights can be loaded into the backbone of another config."""
    with suppress(UserError):
        return load(partial(_create, config, *_prepare(config)), config.model.backbone, path) is not None
    return False


def _prepare(config):
    """Return (function, keywords) that create the backbone, both checked as far as they can be without it."""
    name, kwargs, rate = config.model.backbone, dict(config.model.kwargs), config.model.drop_path_rate
    arguments = {"drop_path_rate": rate} if rate else {}
    if name in BACKBONES:
        check_kwargs("model.kwargs", BACKBONES[name], kwargs, name)
        given = config.competition.network_channels, tuple(config.image_size)
        return partial(BACKBONES[name], *given), arguments | kwargs
    base, _, tag = name.partition(".")
    if not timm.is_model(name):
        hint = nearest(name, [*BACKBONES, *timm.list_models(), *timm.list_pretrained()])
        raise UserError(f"model.backbone={name}: not a timm model{hint}")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        advice = f"choose one of {', '.join(tags) or 'none'}"
        raise UserError(f"model.backbone={name}: {base} has no weights {tag}; {advice}")
    if owned := [key for key in kwargs if key in _OWNED]:
        advice = f"set {_OWNED[owned[0]]} instead" if _OWNED[owned[0]] else "leave it out"
        raise UserError(f"model.kwargs.{owned[0]}: follows from other settings; {advice}")
    arguments |= {"num_classes": 0, "in_chans": config.competition.network_channels}
    default = timm.models.get_pretrained_cfg(name)
    if default and default.fixed_input_size:  # ViT, Swin
        arguments["img_size"] = tuple(config.image_size)
    if isinstance(kwargs.get("act_layer"), str):
        try:
            layer = timm.layers.get_act_layer(kwargs["act_layer"])  # these take `inplace`, which some of torch's do not
        except KeyError:
            where = f"model.kwargs.act_layer={kwargs['act_layer']}"
            raise UserError(f"{where}: not an activation of timm; for example relu, gelu or silu") from None
        if "leaky_slope" in kwargs:
            layer = partial(layer, negative_slope=kwargs.pop("leaky_slope"))
        kwargs["act_layer"] = layer
    return partial(timm.create_model, name), arguments | kwargs


def _create(config, build, arguments, **pretrained):
    """Return build(**arguments, **pretrained); every error becomes a UserError, but for those about the weights."""
    name = config.model.backbone
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
        reason = f"cannot be built with {arguments} ({first_line(error)})"
        raise UserError(_find_culprit(config, error) or f"model.backbone={name}: {reason}") from error


def _find_culprit(config, error):
    """Return, in words, the keyword of model.kwargs or the image size without which the backbone works, or None."""
    kwargs, size, name = config.model.kwargs, tuple(config.image_size), config.model.backbone
    reason = f"{name} cannot take it ({first_line(error)})"
    for key in kwargs:
        if _works(config, {one: value for one, value in kwargs.items() if one != key}, size):
            advice = "leave it out, or set model.kwargs={} where a file has it"
            return f"model.kwargs.{key}={kwargs[key]}: {reason}; {advice}"
    if kwargs and _works(config, {}, size):
        return f"model.kwargs={kwargs}: {reason}; set model.kwargs={{}}"
    default = timm.models.get_pretrained_cfg(name)
    near = [tuple(max(1, way(length / step)) * step for length in size)
            for step in (16, 14, 32) for way in (math.floor, math.ceil)]  # fmt: skip
    others = [*near, (224, 224), *((tuple(default.input_size[1:]),) if default else ())]
    works = (one for one in dict.fromkeys(others) if one != size and _works(config, kwargs, one))
    if choices := " or ".join(map(_spell, itertools.islice(works, 2))):
        return f"image_size={list(size)}: {reason}; try {choices}"
    return None


def _works(config, kwargs, size):
    """Return whether the backbone can be built with other keywords or for another size, and maps an image to (1, D)."""
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
        build, arguments = _prepare(replace(config, image_size=size, model=replace(config.model, kwargs=kwargs)))
        return build(**arguments).eval()(torch.zeros(1, config.competition.network_channels, *size)).ndim == 2
    return False


def count_features(backbone, config):
    """Return D by a dry run; a UserError where the backbone does not take the images or returns no (N, D)."""
    name, size = config.model.backbone, list(config.image_size)
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone(torch.zeros(1, config.competition.network_channels, *size))
    except UserError:
        raise
    except Exception as error:
        found = f"image_size={size}: {name} cannot take it ({first_line(error)}); choose another backbone"
        raise UserError(_find_culprit(config, error) or found) from error
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) != 2:
        found = shape or type(features).__name__
        raise UserError(f"model.backbone={name}: returns {found} for one image, not (1, D); look at model.kwargs")
    _check_margins(backbone, config)
    return shape[1]


def _check_margins(backbone, config):
    """Raise a UserError where no feature depends on the last rows or columns: patches that do not fit are left out.

    Only where the size is no multiple of the patches', or of 32, the gradient of an image's pixels is looked at.
    """
    size, channels = config.image_size, config.competition.network_channels
    convs = [one for one in backbone.modules() if isinstance(one, nn.Conv2d) and one.in_channels == channels]
    patch = next((one.stride for one in convs if one.stride == one.kernel_size != (1, 1)), None)
    if not any(length % step for length, step in zip(size, patch or (32, 32), strict=True)):
        return
    image = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features, used = backbone(image), list(size)
    if not features.requires_grad:  # a backbone of one's own may forbid it
        return
    weights = torch.arange(features.shape[1])  # the plain sum behind a LayerNorm is the same for any image
    [gradient] = torch.autograd.grad((features * weights).sum(), image)
    for axis, length in enumerate(size):
        places = gradient.transpose(2, 2 + axis).abs().sum(dim=(0, 1, 3)).nonzero()
        end = int(places.max()) + 1 if len(places) else length
        if patch is not None or length - end > length // 100:  # a valid convolution ends a row or two before the border
            used[axis] = end
    if used == list(size):
        return
    larger = [to if to == length or not patch else to + step
              for to, length, step in zip(used, size, patch or (0, 0), strict=True)]  # fmt: skip
    lost = zip(("rows", "columns"), size, used, strict=True)
    lost = " and ".join(f"{what} ({length - to})" for what, length, to in lost if length > to)
    where = f"image_size={list(size)}: {config.model.backbone} never sees the last {lost}"
    raise UserError(f"{where}; set {' or '.join(dict.fromkeys((_spell(used), _spell(larger))))}")


def _spell(size):
    """Return an image size as a word to paste."""
    return f"image_size={size[0] if size[0] == size[1] else list(size)}".replace(" ", "")


# model.norm: norm(channels), in place of each norm of feature maps. batch: Ioffe and Szegedy, 2015, arXiv:1502.03167;
# group: at most 32 of 4 channels or more, Wu and He, 2018, arXiv:1803.08494; layer: over channels, rows and columns, Ba
# et al., 2016, arXiv:1607.06450
NORMS = {
    "backbone": None,
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(32, channels // 4, channels), channels),
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "none": lambda channels: nn.Identity(),
}


def set_norms(backbone, settings):
    """Put a norm of NORMS in the place of all that normalise feature maps, by model.norm; then BatchNorm's numbers."""
    kind = settings.norm
    places = [(place, one) for place, one in backbone.named_modules() if isinstance(one, _MAP_NORMS)]
    if kind == "backbone":
        places = []
    elif not places:
        raise UserError(f"model.norm={kind}: {settings.backbone} has no norm of feature maps; set model.norm=backbone")
    for place, old in places:
        if kind == "batch" and isinstance(old, nn.BatchNorm2d):
            continue
        new = NORMS[kind](len(old.weight) if old.weight is not None else old.num_features)
        if old.weight is not None:  # its first scale and shift, zero where a branch is to begin as nothing
            new.load_state_dict({"weight": old.weight.data, "bias": old.bias.data}, strict=False)
        inner = [getattr(old, one) for one in ("drop", "act") if isinstance(getattr(old, one, None), nn.Module)]
        backbone.set_submodule(place, nn.Sequential(new, *inner) if inner else new)  # timm's norms with an activation
    norms = [one for one in backbone.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for key, value in ((key, value) for key, value in settings.batchnorm_kwargs.items() if value is not None):
        if not norms:
            raise UserError(f"model.batchnorm_kwargs.{key}={value}: the backbone has no BatchNorm; leave it out")
        for norm in norms:
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
