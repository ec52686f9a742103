"""A backbone's pretrained weights: a local file or folder first, then timm's hub; loaded whole, or refused."""

import logging
import os
import pickle
import re
import socket
from pathlib import Path
from urllib.parse import urlparse

import huggingface_hub.constants
import timm

from src.errors import UserError, first_line

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def find_weights(backbone, weights=None):
    """Return the path of a backbone's weights in a file or folder, None: the variable WEIGHTS; or None, not there."""
    weights = weights or os.environ.get("WEIGHTS")
    if not weights:
        return None
    path = Path(weights)
    if os.path.isfile(path):  # unlike Path's, it takes any text
        return path
    if not os.path.isdir(path):
        advice = "give a file, or a folder of <backbone>.safetensors"
        raise UserError(f"model.weights={weights}: no such file or folder; {advice}")
    candidates = (path / f"{name}{suffix}" for name in (backbone, backbone.partition(".")[0]) for suffix in SUFFIXES)
    return next((one for one in candidates if os.path.isfile(one)), None)


def load_weights(backbone, name, path):
    """Return a backbone of one's own with the state dict in a file, which must fit exactly."""
    try:
        backbone.load_state_dict(_read(path))
    except RuntimeError as error:
        _refuse(path, name, error)
    return backbone


def create_from_file(create, name, path):
    """Return timm's backbone, create(pretrained=True, ...), with the weights in a file, all of them and no others."""
    state, default, records = _read(path), timm.models.get_pretrained_cfg(name, allow_unregistered=True), []
    source = {"file": str(path), "source": "", "url": "", "hf_hub_id": None, "custom_load": False}
    # without a classifier timm only logs which tensors are missing and which are left over
    logger, collect = logging.getLogger(timm.models.load_pretrained.__module__), records.append
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(collect)  # it returns None, so that nothing is printed
    try:
        backbone = create(pretrained=True, pretrained_cfg_overlay=source)
    except (RuntimeError, LookupError, AttributeError) as error:
        _refuse(path, name, error)
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)
    log = " ".join(record.getMessage() for record in records)
    assert "from file" in log, "timm does not log what it loads"
    missing, unexpected = (re.findall(rf"{kind} keys \((.*?)\)", log) for kind in ("Missing", "Unexpected"))
    if missing:
        key = missing[0].split(", ")[0]
        _refuse(path, name, f"{key} {tuple(backbone.state_dict()[key].shape)} is missing")
    heads = (default and default.classifier) or ()
    heads = [one.split(".")[0] for one in ([heads] if isinstance(heads, str) else heads)]
    for key in unexpected[0].split(", ") if unexpected else ():
        if key.split(".")[0] not in heads:  # the whole of it: LeViT's has a norm, CAFormer's two layers
            _refuse(path, name, f"the backbone has no {key} {tuple(state[key].shape) if key in state else ''}".strip())
    return backbone


def create_from_hub(create, name, folder):
    """Return timm's backbone, create(pretrained=True), with the hub's weights; `folder` had none, None: no folder."""
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.has_weights:
        advice = "give model.weights=FILE or set model.pretrained=false"
        raise UserError(f"model.backbone={name}: timm has no pretrained weights for it; {advice}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not _is_hub_reachable():
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # its cache is still looked at, without a minute of retries
    try:
        return create(pretrained=True)
    except (OSError, RuntimeError, LookupError, AttributeError) as error:
        found = f"could not be downloaded ({type(error).__name__}){f' and are not in {folder}' if folder else ''}"
        advice = "give a file with model.weights=PATH, or train from scratch with model.pretrained=false"
        raise UserError(f"model.backbone={name}: its pretrained weights {found}; {advice}") from None


def _read(path):
    try:
        return timm.models.load_state_dict(str(path), weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: not a pickle of plain tensors, and may run code; convert it to safetensors") from None
    except Exception as error:
        raise UserError(f"{path}: cannot be read as weights ({type(error).__name__}); download it again") from None


def _refuse(path, name, reason):
    """Raise that weights do not fit, by a reason in words or by torch's error."""
    sizes = re.search(r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)", str(reason))
    if sizes:
        reason = "{} is ({}), not ({})".format(*sizes.groups())
    elif isinstance(reason, Exception):  # the first line of torch's names the class alone
        reason = first_line("\n".join(str(reason).splitlines()[1:]) or repr(reason))
    raise UserError(f"{path}: these weights do not fit {name} ({reason}); set model.backbone to theirs") from None


def _is_hub_reachable():
    host = urlparse(huggingface_hub.constants.ENDPOINT).hostname
    try:
        with socket.create_connection((host, 443), timeout=5):
            return True
    except OSError:  # behind a proxy the name need not resolve here
        return any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
