"""Parameter groups and the optimizer over them; the one place outside model/ that calls a timm factory."""

import timm.optim
import torch

from src.errors import UserError, nearest
from src.model.freezing import list_stages

# The textbook's names, as torch has them; timm's own `sgd` is Nesterov's.
_SGD = ("sgd", "momentum", "nesterov")
_TORCH = {
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
}
_FUSED_ON_CPU = (*_SGD, "adam", "adamw")


def parameter_groups(network, settings):
    """Split the parameters by rate and by decay.

    The head's rate is lr * head_lr_factor; stage k of n of the backbone, counted from 1 at the input, has
    lr * layer_decay ** (n - k). Decay reaches weights, but no biases, norms, scalars or what
    timm names beside them (position and class tokens), unless decay_all is set.

    Args:
        network: model.network.Network.
        settings: config.Optimizer.

    Returns:
        list of dicts with name, params, lr, weight_decay and l1_penalty; frozen parameters are included, since they may
        open later.

    Reference for layer_decay: Clark et al., ELECTRA, 2020, arXiv:2003.10555; for a rate of each layer before it:
    Howard and Ruder, Universal Language Model Fine-tuning, 2018, arXiv:1801.06146, section 3.2.
    """
    parameters, groups = dict(network.named_parameters()), []
    spared = {f"backbone.{name}" for name in getattr(network.backbone, "no_weight_decay", set)()}

    def _is_decayed(name):
        return settings.decay_all or (parameters[name].ndim > 1 and name not in spared)

    for name, names, lr in _rates(network, settings):
        for is_decayed in (True, False):
            params = [parameters[one] for one in names if _is_decayed(one) == is_decayed]
            if params:
                penalties = {key: getattr(settings, key) * is_decayed for key in ("weight_decay", "l1_penalty")}
                groups.append({"name": name, "params": params, "lr": lr, **penalties})
    return groups


def _rates(network, settings):
    """Return [(name, parameter names, rate)] of the backbone, or of each of its stages, and of the head."""
    *stages, head = list_stages(network)
    if settings.layer_decay is None:
        stages = [("backbone", [name for name, _ in network.named_parameters() if name not in head[1]])]
    factor = settings.layer_decay or 0.0
    rates = [settings.lr * factor**distance for distance in reversed(range(len(stages)))]
    return [
        (*stage, lr) for stage, lr in zip([*stages, head], [*rates, settings.lr * settings.head_lr_factor], strict=True)
    ]


def build_optimizer(settings, network):
    """Build the named optimizer of torch or timm over `parameter_groups`.

    Raises:
        UserError: no such optimizer, which names the nearest; or it does not take optimizer.kwargs.

    Reference: sgd: Robbins and Monro, 1951; momentum: Polyak, 1964; nesterov: Nesterov, 1983, as in Sutskever et al.,
    2013; adagrad: Duchi et al., 2011; adadelta: Zeiler, 2012, arXiv:1212.5701; rmsprop: Tieleman and Hinton, 2012;
    adam: Kingma and Ba, 2015, arXiv:1412.6980; nadam: Dozat, 2016; adamw: Loshchilov and Hutter, 2019,
    arXiv:1711.05101; radam: Liu et al., 2020, arXiv:1908.03265; lion: Chen et al., 2023, arXiv:2302.06675; lamb: You
    et al., 2020, arXiv:1904.00962.
    """
    name, shared = settings.name, {"lr": settings.lr, "weight_decay": settings.weight_decay}
    known = sorted({*_SGD, *_TORCH, *timm.optim.list_optimizers()})
    if name not in known:
        raise UserError(
            f"optimizer.name={name}: not an optimizer of torch or timm{nearest(name, known)}; "
            "for example adam, adamw, sgd, lion"
        )
    if name == "adahessian":
        raise UserError(
            "optimizer.name=adahessian: needs second derivatives, which training does not take; take another"
        )
    groups = parameter_groups(network, settings)
    if name in _FUSED_ON_CPU and groups[0]["params"][0].device.type == "cpu" and "foreach" not in settings.kwargs:
        shared["fused"] = True  # one pass over all weights; torch's default there is a loop over them
    try:
        if name in _SGD:
            momentum = {"momentum": 0.0 if name == "sgd" else settings.momentum, "nesterov": name == "nesterov"}
            optimizer = torch.optim.SGD(groups, **shared | momentum | settings.kwargs)
        elif name in _TORCH:
            optimizer = _TORCH[name](groups, **shared | settings.kwargs)
        else:
            shared["momentum"] = settings.momentum
            if name == "lamb":  # timm's leaves the trust ratio out where there is no decay, and is then Adam
                shared["always_adapt"] = True
            optimizer = timm.optim.create_optimizer_v2(groups, opt=name, **shared | settings.kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer.name={name}: {str(error).splitlines()[0]}; look at optimizer.kwargs") from None
    except (AssertionError, ImportError, RuntimeError) as error:  # bitsandbytes, apex
        raise UserError(f"optimizer.name={name}: cannot be built here ({error}); take another") from None
    if settings.l1_penalty:
        optimizer.register_step_post_hook(_shrink)
    return optimizer


@torch.no_grad()
def align_memory(optimizer):
    """Give loaded state the memory order of its parameters: fused optimizers read both from front to end."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@torch.no_grad()
def _shrink(optimizer, *_):
    """Move every penalised weight towards zero by lr * l1_penalty, and not beyond: the proximal step of the L1 norm.

    Reference: Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996; Daubechies et al., An iterative
    thresholding algorithm, 2004, arXiv:math/0307152. Apart from the gradient, as AdamW's decay is.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["l1_penalty"] and parameter.grad is not None:
                size = (parameter.abs() - group["lr"] * group["l1_penalty"]).clamp(min=0)
                parameter.copy_(parameter.sign() * size)
