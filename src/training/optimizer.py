"""Parameter groups and the optimizer over them; a new optimizer is a class and an entry below."""

import inspect
from functools import partial

import timm.optim
import torch

from src.config.registry import check_kwargs
from src.errors import UserError, first_line, nearest
from src.model.freezing import list_stages

# The textbook's names, as torch has them (timm's own sgd is Nesterov's); every further name is timm's. References:
# sgd: Robbins and Monro, 1951; adagrad: Duchi et al., 2011; adadelta: Zeiler, 2012, arXiv:1212.5701; rmsprop: Tieleman
# and Hinton, 2012; adam: Kingma and Ba, 2015, arXiv:1412.6980; nadam: Dozat, 2016; adamw: Loshchilov and Hutter, 2019,
# arXiv:1711.05101; radam: Liu et al., 2020, arXiv:1908.03265; lion: Chen et al., 2023, arXiv:2302.06675.
OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),  # Polyak, 1964
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),  # Nesterov, 1983; Sutskever et al., 2013
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
    "lamb": partial(timm.optim.Lamb, always_adapt=True),  # the paper's, also without decay (2020, arXiv:1904.00962)
}
_FUSED = ("sgd", "momentum", "nesterov", "adam", "adamw")
_REFUSED = {"adahessian": "needs second derivatives, which training does not compute"}
for _name in ("kron", "kronc", "kronw"):
    _REFUSED[_name] = "compiles its steps for minutes and needs over 100 GB for a 3x3 convolution"


def build_parameter_groups(network, settings):
    """Return the groups, dicts with name, params, lr, weight_decay, l1_penalty; frozen parameters too: they may open.

    The head's rate is lr * head_lr_factor; stage k of n of the backbone, counted from 1 at the input, has
    lr * layer_decay ** (n - k). Decay reaches weights, but no biases, norms, scalars or what timm names as exempt
    (position and class tokens), unless decay_all is set.

    Reference for layer_decay: Clark et al., ELECTRA, 2020, arXiv:2003.10555; Howard and Ruder, Universal Language Model
    Fine-tuning, 2018, arXiv:1801.06146, section 3.2.
    """
    parameters, groups = dict(network.named_parameters()), []
    exempt = {f"backbone.{name}" for name in getattr(network.backbone, "no_weight_decay", set)()}
    decayed = {name for name, one in parameters.items() if settings.decay_all or (one.ndim > 1 and name not in exempt)}
    *stages, head = list_stages(network)
    if settings.layer_decay is None:
        stages = [("backbone", [name for name in parameters if name not in head[1]])]
    elif len(stages) < 2:
        raise UserError(f"optimizer.layer_decay={settings.layer_decay}: the backbone is one stage; set it to null")
    factor = settings.layer_decay or 0.0
    rates = [settings.lr * factor**distance for distance in reversed(range(len(stages)))]
    rates.append(settings.lr * settings.head_lr_factor)
    for (name, names), lr in zip([*stages, head], rates, strict=True):
        for is_decayed in (True, False):
            if params := [parameters[one] for one in names if is_decayed == (one in decayed)]:
                penalties = {key: getattr(settings, key) * is_decayed for key in ("weight_decay", "l1_penalty")}
                groups.append({"name": name, "params": params, "lr": lr, **penalties})
    return groups


def build_optimizer(settings, network, is_scaled=False):
    """Build the named optimizer over `build_parameter_groups`; a UserError where it or its kwargs do not exist."""
    name, kwargs = settings.name, dict(settings.kwargs)
    known = sorted({*OPTIMIZERS, *timm.optim.list_optimizers()})
    if name not in known:
        hint = nearest(name, known) or "; for example adam"
        raise UserError(f"optimizer.name={name}: not one of torch's or timm's{hint}")
    if name in _REFUSED:
        raise UserError(f"optimizer.name={name}: {_REFUSED[name]}; choose another, for example adamw")
    if taken := {"lr", "weight_decay"} & set(kwargs):
        raise UserError(f"optimizer.kwargs.{min(taken)}: has a setting of its own; set optimizer.{min(taken)}")
    _check_keywords(name, kwargs)
    groups = build_parameter_groups(network, settings)
    kwargs |= {"lr": settings.lr, "weight_decay": settings.weight_decay}
    # a GradScaler knows what it has skipped of optimizers that are not fused
    is_fast = groups[0]["params"][0].device.type in ("cpu", "cuda") and not is_scaled
    if name in _FUSED and is_fast and "foreach" not in kwargs:
        kwargs.setdefault("fused", True)  # one pass over all weights; torch's defaults are a loop and foreach
    try:
        if name in OPTIMIZERS:
            optimizer = OPTIMIZERS[name](groups, **kwargs)
        else:
            optimizer = timm.optim.create_optimizer_v2(groups, opt=name, **kwargs)
    except Exception as error:  # bitsandbytes and apex want a GPU
        if settings.kwargs or isinstance(error, (TypeError, ValueError)):
            raise UserError(f"optimizer.name={name}: {first_line(error)}; check optimizer.kwargs") from None
        raise UserError(f"optimizer.name={name}: cannot be built here ({first_line(error)}); choose another") from None
    if settings.l1_penalty:
        optimizer.register_step_post_hook(_shrink)
    return optimizer


def _check_keywords(name, kwargs):
    """Check that an optimizer takes the keywords, and that they are of their defaults' types, and finite."""
    try:
        build = OPTIMIZERS.get(name) or timm.optim.get_optimizer_class(name, bind_defaults=False)
    except Exception:  # what it lacks here is said where it is built
        return
    known = {
        key: float(one.default) if type(one.default) is int else one.default  # torch writes momentum=0
        for key, one in inspect.signature(build).parameters.items()
        if one.default is not one.empty and key not in ("lr", "weight_decay")
    }
    check_kwargs("optimizer.kwargs", known, kwargs, name)


@torch.no_grad()
def align_memory(optimizer):
    """Give loaded state the memory format of its parameters: fused optimizers read both from front to end."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@torch.no_grad()
def _shrink(optimizer, *_):
    """Move every penalised weight towards zero by lr * l1_penalty, at most to zero: the proximal step of the L1 norm.

    Apart from the gradient, as AdamW's decay. Reference: Tibshirani, Regression Shrinkage and Selection via the Lasso,
    1996; Daubechies et al., An iterative thresholding algorithm, 2004, arXiv:math/0307152.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["l1_penalty"] and parameter.grad is not None:
                size = (parameter.abs() - group["lr"] * group["l1_penalty"]).clamp(min=0)
                parameter.copy_(parameter.sign() * size)
