"""A backbone and where its pretrained weights come from: a local file or folder first, then timm's hub."""

import contextlib
import logging
import os
import pickle
import socket
from functools import partial
from pathlib import Path
from unittest import mock
from urllib.parse import urlparse

import huggingface_hub.constants
import timm
import torch
from safetensors import SafetensorError
from torch import nn

from src.errors import UserError, nearest

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")

# timm's argument: our setting, and its value that leaves the argument out
_SETTINGS = {
    "drop_path_rate": ("model.drop_path_rate", "model.drop_path_rate=0"),
    "act_layer": ("model.backbone_activation", "model.backbone_activation=default"),
}

_HUB_SECONDS = 5  # to wait for the hub's first answer


def find_weights(backbone, weights=None):
    """Return the path of a backbone's local weights, or None when only the hub can have them.

    Args:
        backbone: timm's name, with or without a tag such as .in1k.
        weights: a file, or a folder of files named by backbone; None: the environment variable WEIGHTS, if set.

    Raises:
        UserError: `weights` does not exist.
    """
    weights = weights or os.environ.get("WEIGHTS")
    if not weights:
        return None
    path = Path(weights)
    if os.path.isfile(path):  # unlike Path's, it takes any text
        return path
    if not os.path.isdir(path):
        raise UserError(
            f"model.weights={weights}: no such file or folder; give a file, or a folder of <backbone>.safetensors"
        )
    names = dict.fromkeys([backbone, backbone.partition(".")[0]])
    candidates = (path / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
    return next((one for one in candidates if os.path.isfile(one)), None)


def create_backbone(settings, channels, image_size, load_pretrained, **extra):
    """Create the timm backbone without classifier, pretrained as the settings say.

    Args:
        settings: config.Model.
        channels: of the input; other than 3, timm sums or repeats the first layer's weights.
        image_size: (height, width), told to the backbones that are built for one size (ViT, Swin).
        load_pretrained: False builds the architecture alone and touches no file.
        extra: further arguments of timm.create_model; model.kwargs come after them.

    Raises:
        UserError: unknown backbone or argument; weights missing, unreachable or of another architecture.
    """
    name = settings.backbone
    if not timm.is_model(name):
        raise UserError(
            f"model.backbone={name}: not a timm model{nearest(name, timm.list_models() + timm.list_pretrained())}"
        )
    base, _, tag = name.partition(".")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise UserError(
            f"model.backbone={name}: {base} has no weights {tag}; choose one of {', '.join(tags) or 'none'}"
        )
    arguments = {"num_classes": 0, "in_chans": channels, **_architecture(settings), **extra, **settings.kwargs}
    if _is_built_for_one_size(name):
        arguments.setdefault("img_size", tuple(image_size))
    if not (settings.pretrained and load_pretrained):
        return _create(name, arguments)
    path = find_weights(name, settings.weights)
    if path is not None:
        return _create_from_file(name, arguments, path)
    return _create_from_hub(name, arguments, settings.weights or os.environ.get("WEIGHTS"))


def _architecture(settings):
    """What the settings change in the backbone itself, as arguments of timm.create_model."""
    arguments = {}
    if settings.drop_path_rate:
        arguments["drop_path_rate"] = settings.drop_path_rate
    if settings.backbone_activation != "default":
        # timm's own classes: they take `inplace`, which some of torch's do not
        layer = timm.layers.get_act_layer(settings.backbone_activation)
        is_leaky = settings.backbone_activation == "leaky_relu"
        arguments["act_layer"] = partial(layer, settings.leaky_slope) if is_leaky else layer
    return arguments


def _is_built_for_one_size(name):
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config and config.fixed_input_size)


def _create(name, arguments, **pretrained):
    try:
        return timm.create_model(name, **arguments, **pretrained)
    except TypeError as error:
        refused = next((one for one in arguments if f"'{one}'" in str(error)), None)
        key, value = _SETTINGS.get(refused, (f"model.kwargs.{refused}", "model.kwargs={}"))
        raise UserError(f"{key}: {name} does not take it; set {value}") from None
    except (AssertionError, ValueError) as error:
        raise UserError(f"model.backbone={name}: cannot be built with {arguments} ({error})") from None


def _create_from_file(name, arguments, path):
    try:
        if path.suffix != ".safetensors":  # timm before 1.0.30 would run what a pickle holds
            torch.load(path, map_location="cpu", weights_only=True)
        source = {"file": str(path), "source": "", "url": "", "hf_hub_id": None, "custom_load": False}
        with _loading_whole(name, path):
            return _create(name, arguments, pretrained=True, pretrained_cfg_overlay=source)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: is no pickle of plain tensors, and another may run code; convert it to safetensors"
        ) from None
    except (OSError, SafetensorError, EOFError, ImportError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as weights ({type(error).__name__}); download it again") from None


@contextlib.contextmanager
def _loading_whole(name, path):
    """Refuse weights that leave a tensor of the backbone unset; without a classifier timm only logs such tensors."""
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    classifiers = config.classifier if config else None
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers or ())
    classifiers = {one.split(".")[0] for one in classifiers}  # whole: LeViT's has a norm, CAFormer's two layers
    load = nn.Module.load_state_dict

    def load_whole(module, state, strict=True, assign=False):
        own = module.state_dict()
        misfits = [one for one in own if one in state and own[one].shape != state[one].shape]
        if misfits:
            given, wanted = tuple(state[misfits[0]].shape), tuple(own[misfits[0]].shape)
            _refuse(f"{misfits[0]} is {given}, not {wanted}")
        result = load(module, state, strict=False, assign=assign)
        if result.missing_keys:
            _refuse(f"{result.missing_keys[0]} {tuple(own[result.missing_keys[0]].shape)} is missing")
        unexpected = [one for one in result.unexpected_keys if one.split(".")[0] not in classifiers]
        if unexpected:
            _refuse(f"the backbone has no {unexpected[0]} {tuple(state[unexpected[0]].shape)}")
        return result

    def _refuse(reason):
        raise UserError(f"{path}: these weights do not fit {name} ({reason}); set model.backbone to theirs")

    with mock.patch.object(nn.Module, "load_state_dict", load_whole):
        yield


def _create_from_hub(name, arguments, folder):
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.has_weights:
        raise UserError(
            f"model.backbone={name}: timm has no pretrained weights for it; give model.weights=FILE or set "
            "model.pretrained=false"
        )
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not _is_hub_reachable():
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # its cache is still looked at, without a minute of retries
    try:
        return _create(name, arguments, pretrained=True)
    except (OSError, RuntimeError) as error:
        looked = f" and are not in {folder}" if folder else ""
        raise UserError(
            f"model.backbone={name}: its pretrained weights could not be downloaded ({type(error).__name__}){looked}; "
            "give a file with model.weights=PATH, or train from scratch with model.pretrained=false"
        ) from None


def _is_hub_reachable():
    host = urlparse(huggingface_hub.constants.ENDPOINT).hostname
    try:
        with socket.create_connection((host, 443), timeout=_HUB_SECONDS):
            return True
    except OSError:
        # behind a proxy the name need not resolve here
        return any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
